"""Threshold and smallest component, tuned where the best choice is known."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import selection
from evaluation.selection import Postprocessing
from evaluation.tables import make_tables


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
    choice, record = selection.tune(slices, probabilities)
    assert choice == Postprocessing(
        0.3, 10
    )  # of 0.25 and 0.3 the nearer to 0.5; of 10 to 100 the one that removes least
    assert record["tuned"] == 1 and record["untuned"] == 0 and record["split"] == "validation"
    assert (selection.postprocess(probabilities, choice, slices.patients) == slices.masks.numpy()).all()


def test_every_choice_scores_as_its_masks_do(case):
    slices, _ = case
    smooth = np.random.default_rng(2).random((4, 16, 16)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    probabilities = np.clip(slices.masks.numpy() * 0.3 + smooth * 0.7, 0, 1).astype(np.float32)
    dice = selection.mean_dice(slices, probabilities)
    for t, s in ((0, 0), (5, 2), (9, 3), (12, 4), (18, 5)):
        choice = Postprocessing(selection.THRESHOLDS[t], selection.SMALLEST[s])
        tables = make_tables(slices, selection.postprocess(probabilities, choice, slices.patients))
        assert dice[t, s] == pytest.approx(tables.patients["dice"].mean()), choice


def test_nothing_to_choose_between_keeps_the_default():
    slices = make_slices({"a": [box((2, 2, 9, 9), size=16)]})
    perfect = slices.masks.numpy().astype(np.float32)
    assert selection.tune(slices, perfect)[0] == Postprocessing(0.5, 0)


def test_patients_without_tumour_tune_nothing():
    slices = make_slices({"a": [box(size=16)] * 2})
    false = np.full((2, 16, 16), 0.6, np.float32)  # which any threshold above would remove
    assert selection.tune(slices, false) == (Postprocessing(0.5, 0), None)


def test_small_components_of_a_single_slice_are_removed():
    masks = box((0, 0, 3, 3), (10, 10, 2, 5))[None]
    assert selection.remove_small_components(masks, 9).sum() == 19
    assert selection.remove_small_components(masks, 10).sum() == 10
    assert selection.remove_small_components(masks, 11).sum() == 0
    assert selection.remove_small_components(masks, 0) is masks


def test_the_thin_ends_of_a_large_component_stay_and_what_one_slice_alone_shows_goes():
    large = [box((5, 5, 1, 1)), box((5, 5, 10, 10)), box((15, 15, 3, 3)), box()]  # the third touches by a corner
    alone = [box(), box((40, 40, 8, 8)), box(), box()]
    small = [box(), box(), box((30, 2, 3, 3)), box((30, 2, 2, 2))]
    masks = np.stack(large) | np.stack(alone) | np.stack(small)
    assert (selection.remove_small_components(masks, 9) == np.stack(large) | np.stack(small)).all()
    assert (selection.remove_small_components(masks, 10) == np.stack(large)).all()
    assert selection.remove_small_components(masks, 101).sum() == 0


def test_components_do_not_go_on_from_patient_to_patient():
    probabilities = np.stack([box((5, 5, 8, 8))] * 4).astype(np.float32)
    choice = Postprocessing(0.5, 10)
    assert selection.postprocess(probabilities, choice, ["a", "b", "b", "a"]).any((1, 2)).all()
    assert selection.postprocess(probabilities, choice, ["a", "b", "c", "d"]).any((1, 2)).all()  # single slices
    probabilities[3] = 0
    assert selection.postprocess(probabilities, choice, ["a", "b", "b", "a"]).any((1, 2)).tolist() == [0, 1, 1, 0]


def test_the_threshold_itself_is_tumour():
    probabilities = np.array([[[0.49999, 0.5, 0.50001]]], np.float32)
    assert selection.postprocess(probabilities, Postprocessing(), ["a"]).tolist() == [[[0, 1, 1]]]
