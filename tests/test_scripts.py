"""The three scripts in sequence, and what they say to mistakes, as from the command line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, ROOT, contents, done, make_patients, refused, write_split
from PIL import Image

from constants import SEED
from dataset.split import SPLITS
from evaluation.selection import load_chosen
from storage.run_folder import RunFolder


def same_weights(one: Path, other: Path) -> bool:
    a, b = (torch.load(path, weights_only=True)["weights"] for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_train_process_test(call, finished):
    run = finished  # trained on synthetic patients
    assert {p.name for p in (run / "models").glob("[!.]*")} == {"epoch_1.pt", "epoch_2.pt", "resume.pt"}
    assert [len(RunFolder(run).read_split_table(split)) for split in SPLITS] == [9, 3, 3]

    assert re.search(r"empty prediction +0.333", done(call("process_models", "--run", run)))
    results = pd.read_csv(run / "results.csv")
    assert list(results) == ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
    assert results["epoch"].tolist() == [1, 2] and results.notna().all().all()
    assert {"loss.png", "iou.png"} <= {path.name for path in (run / "plots").iterdir()}

    out = done(call("test_model", "--run", run, "--device", "cpu"))
    slices = pd.read_csv(run / "test_results.csv")
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(slices) == 3 == metrics["slices"]
    assert metrics["iou"] == pytest.approx(slices["iou"].mean(), abs=1e-6)
    assert metrics["empty_prediction"] == pytest.approx((slices["tumour_pixels"] == 0).mean())
    patients = pd.read_csv(run / "test_patients.csv")
    hits = 2 * slices["true_positive"].sum() / (slices["tumour_pixels"] + slices["predicted_pixels"]).sum()
    assert patients["dice"].tolist() == pytest.approx([hits], abs=1e-6)
    assert (run / "plots" / "dice_area.png").is_file()

    best = results.loc[results["validation_iou"].idxmax(), "epoch"]
    assert "SYNTHETIC" in out and f"epoch {best} of 2" in out and metrics["epoch"] == best
    RunFolder(run).write("metrics.json", metrics | {"epoch": 3 - best, "selected_by": "loss"})
    out = call("process_models", "--run", run)[1]
    assert f"chosen: epoch {3 - best}, the lowest validation loss" in out  # by the test, as its plots say


def test_a_saved_split_of_listed_patients_without_a_test_is_tested_on_validation(call, undrawn, folder, tmp_path):
    split = write_split(tmp_path, "validation", "train", "train", "test", "validation", "test")
    listed, run = tmp_path / "patients.txt", RunFolder(tmp_path / "run")
    listed.write_text("# three of five\nSYNTH_T_0\n\nSYNTH_T_2\nSYNTH_T_4\n")
    options = ("--data", folder, "--run", run, "--split", split, "--patients", listed, "--epochs", 1, *QUICK)
    code, out, _ = call("train_model", *options)
    assert code == 0 and "warning" in out and "SYNTH_T_5" in out  # of the split, but not there
    tables = [run.read_split_table(split)["patient"].unique().tolist() for split in SPLITS]
    assert tables == [["SYNTH_T_2"], ["SYNTH_T_0", "SYNTH_T_4"], []]
    assert "Expect less on others." in " ".join(done(call("test_model", "--run", run, "--tune")).split())
    metrics = run.read_metrics()
    assert metrics["split"] == "validation" and metrics["patients"] == 2
    assert metrics["tuned"]["tuned"] == metrics["patient_dice"]  # tuned on the very patients that are shown
    assert "(validation)" in (run.path / "report.html").read_text()


def test_a_test_of_an_unfinished_run_says_so_and_its_choice_grows_stale(call, finished, unreported):
    run = RunFolder(finished)
    newest = run.checkpoint(2).read_bytes()
    run.checkpoint(2).unlink()
    table = run.read_epochs_table()
    run.write("epochs.csv", table[table["epoch"] < 2])
    assert "training has done 1 of 2 epochs: test again" in " ".join(call("test_model", "--run", run)[1].split())
    run.checkpoint(2).write_bytes(newest)
    warned = "it was chosen when epoch 1 was the last; now it is 2. Test again."
    assert warned in load_chosen(run)[2]
    assert call("test_model", "--run", run)[0] == 0 and warned not in load_chosen(run)[2]


def test_a_used_folder_is_refused_unless_overwritten(call, folder, trained, finished):
    (finished / "models" / "mine.txt").write_text("not of the pipeline")
    before = contents(finished)
    again = ("train_model", "--data", folder, "--run", finished, "--epochs", 1, *QUICK)
    refused(call(*again), "holds config.json already", "--resume", "--overwrite")
    assert contents(finished) == before
    assert call("train_model", "--data", folder / "no", "--run", finished, "--overwrite", *QUICK)[0] == 2
    assert contents(finished) == before  # found before anything is removed

    assert call(*again, "--seed", SEED + 1, "--overwrite")[0] == 0
    assert not same_weights(finished / "models" / "epoch_1.pt", trained / "models" / "epoch_1.pt")
    after = contents(finished)
    assert all(after[name] == before[name] for name in ("train.csv", "models/mine.txt"))  # the same split


@pytest.mark.parametrize("stop", ["Ctrl-C", "broken weights"])
def test_a_run_that_stops_in_its_second_epoch_goes_on(call, folder, trained, tmp_path, monkeypatch, stop):
    """The first epoch is saved, the second is not; then as if nothing had happened."""
    step, steps = torch.optim.Adam.step, []

    def stopping(optimiser, *args, **kwargs):
        steps.append(step(optimiser, *args, **kwargs))
        if len(steps) == 5 and stop == "Ctrl-C":  # 9 slices in batches of 4: the second step of the second epoch
            raise KeyboardInterrupt
        if len(steps) == 6:  # the last one: only the validation notices
            with torch.no_grad():
                optimiser.param_groups[0]["params"][0].fill_(float("nan"))

    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stopping)
        code, _, err = call("train_model", "--data", folder, "--run", run, "--epochs", 2, "--keep", 1, *QUICK)
    if stop == "Ctrl-C":
        assert code == 130 and f"Go on with: python train_model.py --run {run} --resume --keep 1" in err
    else:
        assert code == 2 and "the validation loss is not finite after epoch 2, which is not saved" in err
    assert list(run.checkpoints()) == [1]
    assert call("train_model", "--run", run, "--resume")[0] == 0
    assert same_weights(run.checkpoint(2), RunFolder(trained).checkpoint(2))


def test_a_resumed_run_has_the_settings_that_it_was_started_with(call, folder, finished):
    run, resumed = RunFolder(finished), ("--run", finished, "--resume")
    assert call("train_model", *resumed, "--epochs", 3)[0] == 0
    settings = run.read_config()["settings"]
    assert (settings["width"], settings["batch_size"], settings["epochs"]) == (2, 4, 3)
    assert settings["precision"] in ("fp32", "bf16")
    assert "data" not in torch.load(run.checkpoint(3), weights_only=True)["config"]  # a path of this machine
    before = contents(finished)
    for options in ((), ("--data", folder, *QUICK, "--epochs", 3, "--precision", "auto")):
        code, out, _ = call("train_model", *resumed, *options)
        assert code == 0 and "3 epochs done" in out
    for options, message in (
        (("--data", folder, "--fold", "1/5"), "holds a run with other"),
        (("--lr", 0.5, "--width", 4, "--epochs", 4), "lr 0.001, not 0.5; width 2, not 4"),
    ):
        refused(call("train_model", *resumed, *options), message)
        assert contents(finished) == before
    run.write("config.json", run.read_config() | {"settings": settings | {"warm_up": 0.1}})
    refused(call("train_model", *resumed, "--epochs", 4), "epochs 3, not 4")  # a schedule cannot be made longer


@pytest.mark.parametrize(("script", "arguments", "message"), [
    ("train_model", ["--data", "nowhere"], "nowhere: no such file or folder"),
    ("predict_model", ["nowhere", "--out", "masks"], "nowhere: no such file or folder"),
    ("train_model", ["--lr", "nan"], "nan is not greater than 0"),
    ("train_model", ["--device", "abacus"], "--device abacus: cannot be used here"),
    ("test_model", [], "models: holds no checkpoints"),
])  # fmt: skip
def test_mistakes_on_the_command_line(call, tmp_path, tmp_path_factory, monkeypatch, script, arguments, message):
    monkeypatch.setattr("constants.DATA_DIR", make_patients(tmp_path_factory.mktemp("kaggle_3m")))
    monkeypatch.chdir(tmp_path)
    refused(call(script, *arguments), message)
    assert list(tmp_path.iterdir()) == []


def test_data_that_are_gone_and_a_damaged_run_are_one_error(call, folder, finished):
    moved = folder.rename(folder.with_name("moved"))
    gone = f"{folder}: the data of the run are gone from there. Name their folder with --data."
    refused(call("test_model", "--run", finished), gone)
    refused(call("train_model", "--run", finished, "--resume", "--epochs", 3), gone)
    (patient,) = RunFolder(finished).read_split_table("test")["patient"].unique()
    shutil.rmtree(moved / patient)
    missing = f"{patient}_1.tif: cannot be read as a TIFF (no such file, or a link"
    refused(call("test_model", "--run", finished, "--data", moved), missing)
    (finished / "config.json").write_bytes(b'{"settings":')
    refused(call("process_models", "--run", finished), "config.json: is no JSON")


def test_a_mask_changed_after_training_is_said(call, folder, finished, unreported):
    tables = {split: RunFolder(finished).read_split_table(split) for split in SPLITS}
    assert "changed since" not in call("test_model", "--run", finished)[1]
    for split in ("train", "test"):
        path = folder / tables[split]["mask_path"].iat[0]
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 9, 0)).save(path)
    code, out, _ = call("test_model", "--run", finished)
    said = "warning: image or mask of 1 slice changed since training began: {}"
    test = said.format(tables["test"]["mask_path"].iat[0])
    assert code == 0 and test in " ".join(out.split()) and test in RunFolder(finished).read_metrics()["notes"]
    code, out, _ = call("train_model", "--run", finished, "--resume", "--epochs", 3)
    assert code == 0 and said.format(tables["train"]["mask_path"].iat[0]) in out and test in out


def test_a_real_process_ends_with_exit_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, ROOT / "download_data.py", "--from", tmp_path, "--out", tmp_path / "set"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
