"""Choice of the epoch, warnings about it, postprocessing and its tuning where the best rules are known."""

import numpy as np
import pandas as pd
import pytest
from conftest import box, make_slices

from constants import CRITERIA
from evaluation import selection
from evaluation.tables import make_tables
from storage.run_folder import RunFolder
from utils import UserError

NAN = float("nan")
USUAL = selection.Postprocessing(0.5, 0)


def epochs(**metrics: list[float]) -> pd.DataFrame:
    """Epochs 1, 2, 3 with validation metrics; their row labels are not their numbers."""
    columns = {f"validation_{name}": values for name, values in metrics.items()}
    return pd.DataFrame({"epoch": [1, 2, 3], **columns}, index=[7, 8, 9])


def test_the_best_epoch_and_of_equals_the_first():
    table = epochs(iou=[0.5, 0.7, 0.7], loss=[0.3, 0.2, 0.1], tumour_iou=[0.9, 0.8, NAN], patient_dice=[NAN] * 3)
    assert [selection.best_epoch(table, by) for by in ("iou", "loss", "tumour_iou")] == [2, 3, 1]
    assert selection.best_epoch(table, "last") == 3 and selection.usual_criterion(table) == "iou"
    assert selection.best_epoch(table.assign(saved=[True, True, False]), "last") == 2
    with pytest.raises(UserError, match="--select-by patient_dice: undefined for every epoch"):
        selection.best_epoch(table, "patient_dice")


def test_a_warning_names_the_better_epoch():
    table = epochs(iou=[0.5, 0.6, 0.7], tumour_found=[0.2, 0.9, 0.8], tumour_iou=[0.1, 0.5, 0.56])
    said = selection.selection_warning(table, 1)
    assert said.startswith("warning: epoch 1 finds 20% of the validation tumour slices, with an IoU of 0.100; the best")
    assert "epoch 3 with 80% and 0.560" in said
    assert "epoch 3 with 80%" in selection.selection_warning(table, 2)
    assert selection.selection_warning(table, 3) == ""
    said = selection.selection_warning(epochs(iou=[0.5], tumour_found=[0.2], tumour_iou=[0.1]), 1)
    assert said.startswith("warning: epoch 1 finds 20% of") and "the best on them" not in said
    said = selection.selection_warning(epochs(iou=[0.5] * 3, tumour_found=[NAN] * 3, tumour_iou=[NAN] * 3), 1)
    assert said == selection.NO_TUMOUR


def test_select_by_and_tune(call, finished, unreported):
    run = RunFolder(finished)
    table = pd.read_csv(run.path / "epochs.csv")
    _, checkpoint, said = selection.load_chosen(run)
    assert checkpoint["epoch"] == selection.best_epoch(table)
    assert f"of {run} (not tested), {CRITERIA['iou']}; threshold 0.5" in said
    code, _, err = call("test_model", "--run", run, "--select-by", "loss", "--device", "cpu")
    result = run.read_metrics()
    assert (code, err, result["selected_by"]) == (0, "", "loss")
    assert result["epoch"] == selection.best_epoch(table, "loss")
    assert (result["threshold"], result["min_component"], result["tuned"]) == (0.5, 0, None)

    code, _, err = call("test_model", "--run", run, "--select-by", "patient_dice", "--tune", "--device", "cpu")
    result = run.read_metrics()
    assert (code, err, result["tuned"]["patients"]) == (0, "", 1)
    assert result["tuned"]["tuned"] >= result["tuned"]["untuned"]
    assert result["tuned"]["untuned"] == pytest.approx(table["validation_patient_dice"].max(), abs=1e-6)
    run.write("metrics.json", result | {"threshold": 0.35, "min_component": 20})
    _, checkpoint, _ = selection.load_chosen(run)
    assert (checkpoint["epoch"], selection.Postprocessing.of(checkpoint["input"])) == (result["epoch"], (0.35, 20))


@pytest.fixture
def case():
    """Tumour at 0.3, the rest at 0.2, and a false component of 16 px at 0.9: best is from 0.25, without it."""
    masks = {"a": [box((20, 20, 30, 30), size=64)] * 2 + [box(size=64)], "b": [box((5, 5, 20, 20), size=64)]}
    slices = make_slices(masks)
    probabilities = np.where(slices.masks.numpy(), 0.3, 0.2).astype(np.float32)
    probabilities[2, 0:4, 0:4] = 0.9
    return slices, probabilities


def test_the_choice_is_the_best_one(case):
    slices, probabilities = case
    rules, record = selection.tune(slices, probabilities, USUAL)
    # of 0.25 and 0.3 the nearer to 0.5; of 10 to 100 px the one that removes least
    assert rules == selection.Postprocessing(0.3, 10)
    assert record["tuned"] == 1 and record["untuned"] == 0 and record["patients"] == 2
    assert (selection.postprocess(probabilities, rules, slices.stacks()) == slices.masks.numpy()).all()


def test_every_choice_scores_as_its_masks_do(case):
    slices, _ = case
    smooth = np.random.default_rng(2).random((4, 16, 16)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    probabilities = np.clip(slices.masks.numpy() * 0.3 + smooth * 0.7, 0, 1).astype(np.float32)
    dice = selection.mean_dice(slices, probabilities)
    for t, s in ((0, 0), (9, 3), (18, 5)):
        choice = selection.Postprocessing(selection.THRESHOLDS[t], selection.SMALLEST[s])
        tables = make_tables(slices, selection.postprocess(probabilities, choice, slices.stacks()))
        assert dice[t, s] == pytest.approx(tables["patients"]["dice"].mean()), choice


def test_nothing_to_choose_between_keeps_the_default():
    slices = make_slices({"a": [box((2, 2, 9, 9), size=16)]})
    at_any_threshold = slices.masks.numpy().astype(np.float32)
    assert selection.tune(slices, at_any_threshold, USUAL)[0] == USUAL
    slices.masks.zero_()  # without tumour an empty prediction would be the best
    assert selection.tune(slices, np.full((1, 16, 16), 0.6, np.float32), USUAL) == (USUAL, None)


def test_the_thin_ends_of_a_large_component_stay_and_what_one_slice_alone_shows_goes():
    large = [box((5, 5, 1, 1)), box((5, 5, 10, 10)), box((15, 15, 3, 3)), box()]  # the third touches by a corner
    alone = [box(), box((40, 40, 8, 8)), box(), box()]
    small = [box(), box(), box((30, 2, 3, 3)), box((30, 2, 2, 2))]
    masks, rules = np.stack(large) | np.stack(alone) | np.stack(small), selection.Postprocessing
    assert (selection.postprocess_stack(masks, rules(0.5, 9)) == np.stack(large) | np.stack(small)).all()
    assert (selection.postprocess_stack(masks, rules(0.5, 10)) == np.stack(large)).all()
    assert selection.postprocess_stack(masks, rules(0.5, 101)).sum() == 0
    alone = box((0, 0, 3, 3), (10, 10, 2, 5))[None]  # a stack of one slice
    assert [selection.postprocess_stack(alone, rules(0.5, px)).sum() for px in (0, 9, 10, 11)] == [19, 19, 10, 0]


def test_components_do_not_go_on_from_patient_to_patient():
    probabilities = np.stack([box((5, 5, 8, 8))] * 4).astype(np.float32)
    choice = selection.Postprocessing(0.5, 10)
    assert selection.postprocess(probabilities, choice, {"a": [0, 3], "b": [1, 2]}).any((1, 2)).all()
    probabilities[3] = 0
    assert selection.postprocess(probabilities, choice, {"a": [0, 3], "b": [1, 2]}).any((1, 2)).tolist() == [0, 1, 1, 0]
