"""Published runs by name: continued, kept without patients or paths, never replaced; and the table of the README."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_patients

import cross_validate
import reproduce
from dataset import published
from storage import checkpoints
from storage.owned_folder import OwnedFolder
from storage.run_folder import RunFolder
from utils import to_json

ROOT = Path(__file__).parents[1]
KEPT = {
    "manifest.json", "results.csv", "epochs.csv", "config.json", "run.json", "metrics.json", "test_patients.csv",
    "test_lesions.csv", "loss.png", "iou.png", "dice_area.png",
}  # fmt: skip
QUICK = ("--width", 2, "--epochs", 2, "--device", "cpu")


@pytest.fixture
def again(call, monkeypatch, tmp_path):
    """Run reproduce.py with places of its own, its scripts within this process -> (exit code, stdout, stderr)."""

    def run_here(script: str, *arguments: object) -> None:
        importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])

    for script in (reproduce, cross_validate):
        monkeypatch.setattr(script, "call_script", run_here)
    places = ("--runs", tmp_path / "my runs", "--results", tmp_path / "results")
    return lambda name, *options: call("reproduce", name, *places, *options)


def test_a_run_is_continued_kept_and_never_replaced(again, tmp_path, monkeypatch):
    folder = make_patients(tmp_path / "of a person" / "kaggle_3m")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # drawing takes most of the time
    save = checkpoints.Writer.save_epoch
    kept, run = tmp_path / "results" / "twelve_seed_2", RunFolder(tmp_path / "my runs" / "twelve_seed_2")
    for stopped in (1, 2):

        def cut_off(writer, record, stopped=stopped):
            if record["epoch"] == stopped:
                raise KeyboardInterrupt
            save(writer, record)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Writer, "save_epoch", cut_off)
            assert again("twelve_seed_2", "--data", folder, *QUICK)[0] == 130
        assert not kept.exists() and run.newest_epoch() == stopped - 1
    (run.path / "notes.txt").write_text("of the user")
    code, out, err = again("twelve_seed_2", "--data", folder, *QUICK)
    assert (code, err) == (0, "") and "resumed after epoch 1" in out and "a trial and not the published run" in out
    (run.path / "epochs.csv").unlink()  # as if it had been killed at the end of its last epoch
    code, out, err = again("twelve_seed_2", "--data", folder, *QUICK)
    assert (code, err) == (0, "") and "nothing was left to do" in out and (run.path / "epochs.csv").exists()
    run.resume.unlink()  # all epochs are there: it is not trained again
    code, out, err = again("twelve_seed_2", "--data", folder, *QUICK)
    assert (code, err) == (0, "") and "epoch 1/" not in out and "resumed" not in out
    assert (run.path / "notes.txt").exists() and run.newest_epoch() == 2

    files = {path.name: path.read_bytes() for path in kept.glob("[!.]*")}
    assert set(files) == KEPT  # too few patients for a plot of volumes
    for name, content in files.items():
        assert str(tmp_path).encode() not in content and b"of a person" not in content, name
    config, record = json.loads(files["config.json"]), json.loads(files["run.json"])
    assert config["settings"]["seed"] == 2 and "platform" not in config["versions"]
    assert record["trial"] == ["--epochs 2", "--width 2", "synthetic patients", "9 + 3 + 3 slices"]
    epochs = checkpoints.read_epochs(run).set_index("epoch")
    assert epochs.loc[record["epoch"], "validation_iou"] == epochs["validation_iou"].max()
    assert record["epochs"] == 2 and record["seconds"] == pytest.approx(epochs["seconds"].sum())
    assert record["seconds_per_epoch"] == pytest.approx(epochs["seconds"].mean())  # of two, the median is the mean
    assert record["peak_memory_gib"] == epochs["peak_memory_gib"].max() > 0
    assert record["metrics"]["iou"]["value"] == json.loads(files["metrics.json"])["iou"]

    other = make_patients(tmp_path / "other", slices=2)
    for options, message in ((("--data", folder, "--width", 4), "width 2, not 4"), (("--data", other), "slices {'tr")):
        code, _, err = again("twelve_seed_2", *QUICK, *options)
        assert code == 2 and f"my runs/twelve_seed_2: holds a run with {message}" in err
    (kept / "metrics.json").write_text("of the user")
    code, _, err = again("twelve_seed_2", *QUICK, "--data", folder)
    assert code == 2 and f"{kept / 'metrics.json'}: is there already" in err
    changed = files | {"metrics.json": b"of the user"}
    assert {name: (kept / name).read_bytes() for name in files} == changed


def test_results_of_real_patients_are_not_replaced_by_those_of_synthetic_ones(again, folder, tmp_path):
    kept = tmp_path / "results" / "twelve_seed_1"
    wanted = reproduce.describe_wanted(["--width", "2", "--epochs", "2", "--seed", "1"], folder, [], None)
    content = to_json({"settings": {}, **wanted, "synthetic": False, "published": True}).encode()
    OwnedFolder(kept).write("config.json", content)
    code, _, err = again("twelve_seed_1", "--data", folder, *QUICK)
    assert code == 2 and "holds a run with synthetic False, not True; published True, not False. Remove" in err
    assert not (tmp_path / "my runs").exists() and (kept / "config.json").read_bytes() == content


def test_the_validation_is_reported_where_no_test_patients_are_left(again, folder, tmp_path):
    split = tmp_path / "split.csv"
    split.write_text("patient,split\n" + "".join(f"SYNTH_T_{n},{'train' if n else 'validation'}\n" for n in range(5)))
    code, _, err = again("full_bilinear", "--data", folder, "--split", split, *QUICK, "--epochs", 1)
    assert (code, err) == (0, "")
    kept = tmp_path / "results" / "full_bilinear"
    record, config = (json.loads((kept / name).read_text()) for name in ("run.json", "config.json"))
    assert {path.name for path in kept.glob("[!.]*")} == KEPT and record["judged_on"] == "validation"
    assert record["metrics"]["empty_prediction"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert config["slices"] == {"train": 12, "validation": 3, "test": 0} and config["settings"]["mode"] == "fast"


def test_of_a_cross_validation_the_masks_are_kept(again, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    assert again("cv_tuned", "--data", folder, "--split", tmp_path / "split.csv")[0] == 2
    for _ in range(2):  # the second time nothing is trained
        code, _, err = again("cv_tuned", "--data", folder, *QUICK, "--epochs", 1)
        assert (code, err) == (0, "")
    kept = tmp_path / "results" / "cv_tuned"
    record, config = (json.loads((kept / name).read_text()) for name in ("run.json", "config.json"))
    split = "cross-validation, 5 folds"
    assert (record["judged_on"], record["epochs"], record["epoch"]) == (split, 1, None)
    assert (config["patients"], config["slices"]) == ({split: 5}, {split: 15})
    with np.load(kept / "masks.npz") as archive:
        masks, paths = archive["masks"], archive["image_path"].tolist()
    table, predicted = RunFolder(tmp_path / "my runs" / "cv_tuned").read_tested()
    assert np.array_equal(np.unpackbits(masks, axis=2), predicted) and masks.shape == (15, 256, 32)
    assert paths == table["image_path"].tolist() and len(set(paths)) == 15


def test_the_subset_is_taken_from_a_folder_that_holds_more(again, folder, tmp_path, monkeypatch):
    rows = [f"SYNTH_T_{n},3,{int(n < 3)}\n" for n in range(5)]
    (tmp_path / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    monkeypatch.setattr(published, "PATIENTS_FILE", tmp_path / "patients.csv")
    for name, only in (("twelve_seed_1", True), ("full_bilinear", False)):
        monkeypatch.setattr(reproduce, "call_script", lambda *arguments: sys.exit(repr(arguments)))
        assert ("--patients" in again(name, "--data", folder)[0]) is only
    listed = tmp_path / "my runs" / "twelve_seed_1" / "patients.txt"
    assert listed.read_text().split() == ["SYNTH_T_0", "SYNTH_T_1", "SYNTH_T_2"]


CONFIG = {
    "patients": {"train": 8, "validation": 2, "test": 2},
    "slices": {"train": 178, "validation": 45, "test": 113},
    "hardware": "cuda:0 (card), bf16 autocast",
    "versions": {"torch": "2.11"},
}
RECORD = {
    "title": "a title", "trial": [], "judged_on": "test", "epoch": 7, "epochs": 94, "seconds": 1234.5,
    "parameters": 31_040_000, "gflop": 110.04,
    "metrics": {
        "patient_dice": {"value": 0.8765, "low": 0.8, "high": 0.91, "values": []},
        "patient_dice_median": {"value": 0.9, "low": None, "high": None, "values": []},
        "tumour_iou": {"value": None, "low": None, "high": None, "values": []},
        "iou": {"value": 0.5, "low": None, "high": None, "values": [0.4, 0.6]},
        "empty_prediction": {"value": 0.619, "low": None, "high": None, "values": []},
    },
}  # fmt: skip


def keep(results: Path, name: str, **changes) -> None:
    OwnedFolder(results / name).write("config.json", to_json(CONFIG).encode())
    OwnedFolder(results / name).write("run.json", to_json(RECORD | changes).encode())


def test_the_table_holds_repeated_runs_and_no_trials(tmp_path):
    assert reproduce.make_table(tmp_path) == "No run has been repeated on the published data with this version yet."
    keep(tmp_path, "twelve_seed_1")
    keep(tmp_path, "full_bilinear", judged_on="validation", title="first")
    keep(tmp_path, "twelve_seed_2", trial=["--epochs 2"])
    head, line, *rows = reproduce.make_table(tmp_path).splitlines()
    assert head.startswith("| run | judged on") and line.count("---") == head.count("|") - 1
    rest = (
        "epoch 7 of 94 | 0.876 (0.800 to 0.910) | 0.900 | - | 0.500 (0.400, 0.600) | 0.619 | 31.04 M | 110.0 | 21 | "
        "cuda:0 (card), bf16 autocast, torch 2.11 |"
    )
    assert rows == [f"| first | validation, 2 / 45, {rest}", f"| a title | test, 2 / 113, {rest}"]
    (tmp_path / "twelve_seed_1" / "run.json").write_text('{"trial": []}')
    with pytest.raises(reproduce.UserError, match=r"run.json: is damaged, or has been changed"):
        reproduce.make_table(tmp_path)
    text = f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nbehind\n"
    filled = reproduce.fill(text, "new | table")
    assert filled == f"before\n{reproduce.BEGIN}\n\nnew | table\n\n{reproduce.END}\nbehind\n"
    assert reproduce.fill(filled, "new | table") == filled
    with pytest.raises(reproduce.UserError, match="lacks the lines"):
        reproduce.fill("nothing here", "table")


def test_the_page_is_that_of_the_results():
    page = reproduce.PAGE.read_text(encoding="utf-8")
    assert reproduce.fill(page, reproduce.make_table(ROOT / "results")) == page, "run: python reproduce.py table"
