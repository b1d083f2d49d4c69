"""Threshold and smallest part, chosen where the best is known."""

import numpy as np
import pytest
from conftest import box, make_slices

from evaluation import postprocess
from evaluation import tables as evaluation_tables
from evaluation.postprocess import Choice


@pytest.fixture
def case():
    """Tumour at 0.3 among healthy pixels at 0.2, and a false part of 16 px at 0.9: best is from 0.25, without it."""
    masks = {"a": [box((20, 20, 30, 30), size=64), box(size=64)], "b": [box((5, 5, 20, 20), size=64)]}
    slices = make_slices(masks)
    truth = slices.masks.numpy()
    probabilities = np.where(truth, 0.3, 0.2).astype(np.float32)
    probabilities[1, 40:44, 40:44] = 0.9
    return slices, probabilities


def test_the_choice_is_the_best_one(case):
    slices, probabilities = case
    choice, record = postprocess.tune(slices, probabilities)
    assert choice == Choice(0.3, 20)  # of 0.25 and 0.3 the nearer to 0.5; of 20 to 200 the one that removes least
    assert record["tuned"] == 1 and record["untuned"] == 0 and record["split"] == "validation"
    assert (postprocess.predict(probabilities, choice) == slices.masks.numpy()).all()


def test_every_choice_scores_as_its_masks_do(case):
    slices, _ = case
    smooth = np.random.default_rng(2).random((3, 16, 16)).repeat(4, 1).repeat(4, 2).astype(np.float32)
    probabilities = np.clip(slices.masks.numpy() * 0.3 + smooth * 0.7, 0, 1).astype(np.float32)
    dice = postprocess.mean_dice(slices, probabilities)
    for t, s in ((0, 0), (5, 2), (9, 3), (12, 4), (18, 5)):
        choice = Choice(postprocess.THRESHOLDS[t], postprocess.SMALLEST[s])
        tables = evaluation_tables.make_tables(slices, postprocess.predict(probabilities, choice))
        assert dice[t, s] == pytest.approx(tables.patients["dice"].mean()), choice


def test_nothing_to_choose_between_keeps_the_default():
    slices = make_slices({"a": [box((2, 2, 9, 9), size=16)]})
    perfect = slices.masks.numpy().astype(np.float32)
    assert postprocess.tune(slices, perfect)[0] == Choice(0.5, 0)


def test_the_threshold_belongs_to_the_lesion():
    probabilities = np.array([[[0.49999, 0.5, 0.50001]]], np.float32)
    assert postprocess.predict(probabilities, Choice()).tolist() == [[[0, 1, 1]]]
