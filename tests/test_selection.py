"""Which epoch is used: by each criterion, and the warnings about it."""

import json

import pandas as pd
import pytest

from constants import CRITERIA
from evaluation.selection import Postprocessing, best_epoch, load_chosen, selection_warning
from reporting import plots
from storage.run_folder import RunFolder
from utils import UserError

NAN = float("nan")


def epochs(**metrics: list[float]) -> pd.DataFrame:
    """Epochs 1, 2, 3 with validation metrics; their row labels are not their numbers."""
    columns = {f"validation_{name}": values for name, values in metrics.items()}
    return pd.DataFrame({"epoch": [1, 2, 3], **columns}, index=[7, 8, 9])


def rules(checkpoint: dict) -> tuple[float, int]:
    return checkpoint["input"]["threshold"], checkpoint["input"]["min_component"]


def test_the_best_epoch_and_of_equals_the_first():
    table = epochs(iou=[0.5, 0.7, 0.7], loss=[0.3, 0.2, 0.1], tumour_iou=[0.9, 0.8, NAN], patient_dice=[NAN] * 3)
    assert [best_epoch(table, by) for by in ("iou", "loss", "tumour_iou")] == [2, 3, 1] and best_epoch(table) == 2
    with pytest.raises(UserError, match="--select-by patient_dice: undefined for every epoch"):
        best_epoch(table, "patient_dice")


def test_warnings_name_the_better_epoch():
    table = epochs(tumour_found=[0.2, 0.9, 0.8], tumour_iou=[0.1, 0.5, 0.56])
    said = selection_warning(table, 1)
    assert said.startswith("warning: epoch 1 finds only 20% of the validation tumour slices")
    assert "epoch 3 is better on the validation tumour slices: IoU 0.560, epoch 1 has 0.100" in said
    said = selection_warning(table, 2)
    assert said.startswith("warning: epoch 3 is better on the validation tumour slices: IoU 0.560, epoch 2 has 0.500")
    assert selection_warning(table, 3) == ""
    assert (
        selection_warning(epochs(tumour_found=[0.9] * 3, tumour_iou=[0.5, 0.55, 0.54]), 1) == ""
    )  # not clearly better
    said = selection_warning(epochs(tumour_found=[NAN] * 3, tumour_iou=[NAN] * 3), 1)
    assert said.startswith("warning: no validation slice has tumour, so that nothing can be chosen there")
    assert "--select-by loss" in said and "--tune changes nothing" in said


def test_select_by_and_tune(call, monkeypatch, folder, tmp_path):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # drawing takes most of the time
    run, marked, draw = RunFolder(tmp_path / "run"), [], plots.training_plots
    options = ("--width", 2, "--batch-size", 8, "--device", "cpu", "--epochs", 2)
    assert call("train_model", "--data", folder, "--run", run, *options)[0] == 0
    monkeypatch.setattr(plots, "training_plots", lambda epochs, chosen: marked.append(chosen) or draw(epochs, chosen))
    assert call("process_models", "--run", run)[0] == 0
    table = pd.read_csv(run.path / "epochs.csv")
    _, checkpoint, said = load_chosen(run)
    assert (
        checkpoint["epoch"] == best_epoch(table) and f"of {run} (not tested), {CRITERIA['iou']}; threshold 0.5" in said
    )
    expected = best_epoch(table, "loss")
    code, out, err = call("test_model", "--run", run, "--select-by", "loss", "--device", "cpu")
    found = run.read_metrics()
    assert (code, err, found["selected_by"], found["epoch"]) == (0, "", "loss", expected)
    assert f"epoch {expected} of 2, {CRITERIA['loss']}" in out
    assert call("process_models", "--run", run)[0] == 0
    assert marked == [best_epoch(table), expected, expected, expected]  # process; test, its report; process
    assert (found["threshold"], found["min_component"], found["tuned"]) == (0.5, 0, None)

    code, out, err = call("test_model", "--run", run, "--select-by", "patient_dice", "--tune", "--device", "cpu")
    found = run.read_metrics()
    assert (code, err) == (0, "")
    assert "tuned on 1 validation patients" in out and f"threshold {found['threshold']:g}" in out
    assert found["tuned"]["split"] == "validation" and found["tuned"]["tuned"] >= found["tuned"]["untuned"]
    assert found["tuned"]["untuned"] == pytest.approx(table["validation_patient_dice"].max(), abs=1e-6)
    assert found["iou"] == pytest.approx(run.read_test_tables()["slices"]["iou"].mean(), abs=1e-6)

    run.write("metrics.json", json.dumps(found | {"threshold": 0.35, "min_component": 20}).encode())
    _, checkpoint, said = load_chosen(run)
    assert (checkpoint["epoch"], *Postprocessing(0.35, 20)) == (found["epoch"], *rules(checkpoint))
    assert said.startswith(f"epoch {found['epoch']} of {run} (as tested), {CRITERIA['patient_dice']}; threshold 0.35")
    assert "components below 20 px, or in one slice alone, removed (tuned on 1 validation patients)" in said
