"""Published runs by name: cut off and gone on with, kept without patients or paths; and the table of the README."""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import make_patients

import reproduce
from dataset.published import published_patients
from dataset.split import read_patient_list
from storage import checkpoints
from utils import to_json

ROOT = Path(__file__).parents[1]
KEPT = {"results.csv", "epochs.csv", "config.json", "log.txt", "run.json", "loss.png", "iou.png"}
QUICK = ("--width", 2, "--epochs", 2, "--device", "cpu")


@pytest.fixture
def here(monkeypatch):
    """Scripts are run within this process, which is quicker; what they print goes to the log all the same."""

    def call(script: str, *arguments, log: Path | None = None) -> None:
        with monkeypatch.context() as patch, open(log or os.devnull, "a") as file, contextlib.redirect_stdout(file):
            patch.setattr(sys, "argv", [script, *map(str, arguments)])
            importlib.import_module(script.removesuffix(".py")).main()

    monkeypatch.setattr(reproduce, "call", call)


@pytest.fixture
def again(call, tmp_path):
    """Run reproduce.py with places of its own -> (exit code, stdout, stderr)."""
    places = ("--runs", tmp_path / "my runs", "--results", tmp_path / "results")
    return lambda name, *options: call("reproduce", name, *options, *places)


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_was_cut_off_goes_on_and_is_kept_without_patients_and_paths(again, here, tmp_path, monkeypatch):
    folder = make_patients(tmp_path / "of a person" / "kaggle_3m")
    save = checkpoints.Writer.save_epoch

    def cut_off(writer, epoch, figures):
        if epoch == 2:
            raise KeyboardInterrupt
        save(writer, epoch, figures)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Writer, "save_epoch", cut_off)
        assert again("twelve_seed_2", "--data", folder, *QUICK)[0] == 130
    assert not (tmp_path / "results").exists()
    code, out, err = again("twelve_seed_2", "--data", folder, *QUICK)
    assert (code, err) == (0, "") and "a proof and not the published run" in out

    target = tmp_path / "results" / "twelve_seed_2"
    files = kept(target)
    assert set(files) == KEPT | {"metrics.json", "bland_altman.png", "dice_area.png"}
    for name, content in files.items():
        assert str(tmp_path).encode() not in content and b"of a person" not in content, name
    assert json.loads(files["config.json"])["data"] == "kaggle_3m"
    assert b"resumed after epoch 1" in files["log.txt"] and files["log.txt"].count(b"Next: python process") == 1

    record = json.loads(files["run.json"])
    assert record["interrupted"] and record["sessions"] == 2 and record["epochs"] == 2
    assert record["proof"] == ["--epochs 2", "--width 2", "synthetic patients", "9 + 3 + 3 slices"]
    assert record["settings"]["seed"] == 2 and record["settings"]["mode"] == "exact"
    epochs = pd.read_csv(target / "epochs.csv").set_index("epoch")
    best = epochs.loc[record["best_epoch"]]
    assert best["validation_iou"] == epochs["validation_iou"].max()
    assert record["validation"]["patient_dice"] == pytest.approx(best["validation_patient_dice"])
    assert record["seconds_an_epoch"] == pytest.approx(epochs["seconds"].mean())  # of two, the median is the mean
    assert record["peak_memory_gib"] == pytest.approx(epochs["peak_memory_gib"].max()) and best["peak_memory_gib"] > 0
    metrics = json.loads(files["metrics.json"])
    assert record["test"]["all_empty"] == pytest.approx(1 / 3) and record["test"]["iou"] == metrics["iou"]

    code, out, _ = again("twelve_seed_2", "--data", folder, *QUICK)
    assert code == 0 and "trained already" in out and kept(target)["run.json"] == files["run.json"]

    for found in (target, tmp_path / "my runs" / "twelve_seed_2"):  # first what was kept, then, without that, the run
        code, _, err = again("twelve_seed_2", "--data", folder, *QUICK, "--width", 4)
        assert code == 2 and f"{found}: holds a run with --seed 2 --epochs 2 --width 2, not with" in err
        (target / "run.json").unlink(missing_ok=True)


def test_without_test_patients_the_validation_is_reported(again, here, folder, tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("patient,split\n" + "".join(f"SYNTH_T_{n},{'train' if n else 'validation'}\n" for n in range(5)))
    code, _, err = again("full_bilinear", "--data", folder, "--split", split, *QUICK[:2], "--epochs", 1)
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "results" / "full_bilinear" / "run.json").read_text())
    assert set(kept(tmp_path / "results" / "full_bilinear")) == KEPT
    assert record["test"] is None and record["slices"] == {"train": 12, "validation": 3, "test": 0}
    assert record["validation"]["all_empty"] == pytest.approx(1 / 3) and not record["interrupted"]
    assert record["settings"]["bilinear"] and record["settings"]["mode"] == "fast"


def test_the_plain_loop(again, folder, tmp_path):
    code, out, err = again("naive_full", "--data", folder, *QUICK[:2], "--epochs", 1, "--device", "cpu")
    assert (code, err) == (0, "") and "epoch 1/1" in out
    record = json.loads((tmp_path / "results" / "naive_full" / "run.json").read_text())
    assert record["epochs"] == 1 and record["wall_seconds"] > record["seconds_an_epoch"] > 0
    assert record["peak_memory_gib"] > 0 and record["slices"] == {"train": 9, "validation": 3, "test": 3}


def test_a_session_ends_with_its_last_checkpoint(tmp_path):
    path = tmp_path / reproduce.STATE
    resume = tmp_path / "models" / checkpoints.RESUME
    resume.parent.mkdir()
    resume.touch()
    for began, saved, ended in ((1000, 1060, 1060), (2000, 1060, 2000)):  # the second one was killed before it saved
        path.write_text(json.dumps({"options": [], "sessions": [{"began": began, "ended": None}]}))
        os.utime(resume, (saved, saved))
        assert reproduce.close(tmp_path)["sessions"] == [{"began": began, "ended": ended}]
    os.utime(resume, (9000, 9000))
    assert reproduce.close(tmp_path)["sessions"][0]["ended"] == 2000


def test_paths_are_cut_down_and_nothing_else():
    text = '"/home/a b/sets/kaggle_3m" /usr/lib/x.py:3: /data 1/94 GFLOP/s https://a.org/b runs/x and/or a / b ../c/d'
    found = reproduce.anonymous(text, [Path("/home/a b/sets/kaggle_3m")])
    assert found == '"kaggle_3m" x.py:3: data 1/94 GFLOP/s https://a.org/b runs/x and/or a / b d'


def test_only_the_published_slices_are_no_proof():
    published = reproduce.RUNS["full_bilinear"]
    slices = {"train": 2769, "validation": 756, "test": 404}
    for changed, right in (({}, True), ({"test": 0}, True), ({"test": 403}, False), ({"train": 2770}, False)):
        assert (reproduce.differences(published, {"synthetic": False, "slices": slices | changed}) == []) is right
    assert reproduce.differences(published, {"synthetic": True, "slices": slices}) == ["synthetic patients"]


def test_the_12_patients_are_taken_from_the_full_set(tmp_path):
    twelve = sorted(published_patients(subset=True))
    for patient in twelve:
        (tmp_path / "set" / patient).mkdir(parents=True)
    assert reproduce.only_subset("twelve_seed_1", tmp_path / "set", tmp_path) == []
    (tmp_path / "set" / "TCGA_XX").mkdir()
    assert reproduce.only_subset("full_bilinear", tmp_path / "set", tmp_path) == []
    assert reproduce.only_subset("twelve_seed_1", tmp_path / "set", tmp_path)[0] == "--patients"
    assert read_patient_list(tmp_path / "patients.txt") == twelve


# --- The table -------------------------------------------------------------------------------------------------

FIGURES = {"iou": 0.8765, "all_empty": 0.619, "tumour_iou": None, "patient_dice": 0.5, "tumour_found": 0.1, "loss": 1}
RECORD = {
    "title": "a title",
    "proof": [],
    "options": [],
    "patients": {"train": 8, "validation": 2, "test": 2},
    "slices": {"train": 178, "validation": 45, "test": 113},
    "hardware": "cuda:0 (card), bf16 autocast",
    "versions": {"torch": "2.11"},
    "sessions": 2,
    "interrupted": True,
    "wall_seconds": 123.4,
    "seconds_an_epoch": 1.234,
    "peak_memory_gib": 6.25,
    "best_epoch": 7,
    "validation": FIGURES | {"iou": 0.9},
    "test": FIGURES,
}


def keep(results: Path, name: str, **changes) -> None:
    (results / name).mkdir(parents=True)
    (results / name / "run.json").write_text(to_json(RECORD | changes))


def test_the_table_holds_published_runs_and_no_proofs(tmp_path):
    assert reproduce.table(tmp_path) == "No run has been reproduced on the published data with this version yet."
    keep(tmp_path, "twelve_seed_1")
    keep(tmp_path, "full_bilinear", test=None, title="first", interrupted=False)
    keep(tmp_path, "twelve_seed_2", proof=["--epochs 2"])
    keep(tmp_path, "naive_full", title="plain", **dict.fromkeys(("best_epoch", "validation", "test")))
    head, line, *rows = reproduce.table(tmp_path).splitlines()
    assert head.startswith("| run | judged on") and line.count("---") == head.count("|") - 1
    cost = "1.23 s | 6.2 GiB | cuda:0 (card), bf16 autocast, torch 2.11 |"
    assert rows == [
        f"| first | validation, 2 / 45, epoch 7 | 0.900 | 0.619 | undefined | 0.500 | 123 s | {cost}",
        f"| plain | not judged |  |  |  |  | 123 s in 2 parts | {cost}",
        f"| a title | test, 2 / 113, epoch 7 | 0.876 | 0.619 | undefined | 0.500 | 123 s in 2 parts | {cost}",
    ]

    text = f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nbehind\n"
    filled = reproduce.fill(text, "new | table")
    assert filled == f"before\n{reproduce.BEGIN}\n\nnew | table\n\n{reproduce.END}\nbehind\n"
    assert reproduce.fill(filled, "new | table") == filled
    with pytest.raises(reproduce.UserError, match="lacks the lines"):
        reproduce.fill("nothing here", "table")


def test_the_readme_is_that_of_the_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert reproduce.fill(readme, reproduce.table(ROOT / "results")) == readme, "run: python reproduce.py table"


def test_what_is_kept_in_the_repository_shows_no_patient_and_no_path():
    for path in (ROOT / "results").rglob("*"):
        assert path.is_dir() or path.name in reproduce.TEXTS + reproduce.PLOTS + ("run.json",), path
        if path.suffix in (".json", ".csv", ".txt"):
            assert not reproduce.OUTSIDE.search(path.read_text(encoding="utf-8")), path


def test_mistakes(again, here, folder, tmp_path):
    code, _, err = again("full", "--data", folder)
    assert code == 2 and "invalid choice: 'full'" in err and "twelve_seed_3" in err
    code, _, err = again("twelve_seed_1", "--data", tmp_path / "nowhere")
    assert code == 2 and "nowhere: no such folder" in err
    run = tmp_path / "my runs" / "twelve_seed_1"
    (run / "models").mkdir(parents=True)
    (run / "models" / checkpoints.RESUME).touch()
    code, _, err = again("twelve_seed_1", "--data", folder)
    assert code == 2 and "was not begun here" in err
    (run / reproduce.STATE).write_text("{")
    code, _, err = again("twelve_seed_1", "--data", folder)
    assert code == 2 and "cannot be read" in err


def test_a_script_that_stops_ends_it_with_its_message(again, folder, tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("patient,split\nSYNTH_T_0,train\n")
    code, out, err = again("full_bilinear", "--data", folder, "--split", split, *QUICK)
    assert code == 2 and "is not named in" in out and "train_model.py stopped (exit code 2" in err
