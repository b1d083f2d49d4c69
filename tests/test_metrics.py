import math

import numpy as np
import pytest
import torch

from evaluation import metrics
from evaluation.metrics import Counts

# Four slices of two patients, counted by hand:
#   a: 6 px hit, 2 px false alarm, 4 px missed;  a: empty, stays empty
#   b: empty, but 3 px false alarm;              b: 5 px tumour, missed altogether
COUNTS = Counts(np.array([6, 0, 0, 0]), np.array([2, 0, 3, 0]), np.array([4, 0, 0, 5]))
PATIENTS = ["a", "a", "b", "b"]


def test_count_pixels():
    target = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    predicted = target.clone()
    target[0, 0, :2, :3] = True  # 6 pixels
    predicted[0, 0, 1:3, :2] = True  # 4 pixels, 2 of them inside
    counts = metrics.count_pixels(predicted, target)
    assert [part.tolist() for part in counts] == [[2, 0], [2, 0], [4, 0]]


def test_each_slice_by_hand():
    assert metrics.iou(COUNTS).tolist() == [6 / 12, 1, 0, 0]
    assert metrics.dice(COUNTS).tolist() == [12 / 18, 1, 0, 0]
    np.testing.assert_array_equal(metrics.sensitivity(COUNTS), [0.6, np.nan, np.nan, 0])
    np.testing.assert_array_equal(metrics.precision(COUNTS), [0.75, np.nan, 0, np.nan])


def test_reductions_by_hand():
    assert metrics.slice_mean_iou(COUNTS) == (0.5 + 1 + 0 + 0) / 4
    assert metrics.all_empty_score(COUNTS) == 2 / 4
    assert metrics.tumour_slice_iou(COUNTS) == (0.5 + 0) / 2
    assert metrics.found_share(COUNTS) == 1 / 2
    assert metrics.volumetric_dice(COUNTS, PATIENTS) == {"a": 12 / 18, "b": 0}
    assert metrics.summary(COUNTS, PATIENTS) == {
        "iou": 0.375, "all_empty": 0.5, "tumour_iou": 0.25, "tumour_found": 0.5, "patient_dice": 6 / 18
    }  # fmt: skip


def test_predicting_nothing_scores_the_all_empty_score():
    nothing = Counts(np.zeros(4, int), np.zeros(4, int), COUNTS.target)
    assert metrics.slice_mean_iou(nothing) == metrics.all_empty_score(COUNTS) == 0.5
    assert metrics.tumour_slice_iou(nothing) == 0


def test_volumes_are_not_means_of_slices():
    counts = Counts(np.array([90, 0]), np.array([0, 0]), np.array([10, 10]))
    assert metrics.volumetric_dice(counts, ["a", "a"])["a"] == 180 / 200
    assert metrics.dice(counts).mean() == pytest.approx((180 / 190 + 0) / 2)


def test_no_tumour_slices_is_not_a_number_rather_than_perfect():
    empty = Counts(np.array([0]), np.array([0]), np.array([0]))
    assert math.isnan(metrics.tumour_slice_iou(empty)) and math.isnan(metrics.found_share(empty))
    assert metrics.slice_mean_iou(empty) == 1


def test_properties_on_random_masks():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(50, 1, 8, 8, generator=generator) > 0.7 for _ in range(2))
    ab, ba, aa = (Counts(*(part.numpy() for part in metrics.count_pixels(*pair))) for pair in ((a, b), (b, a), (a, a)))
    np.testing.assert_array_equal(metrics.iou(ab), metrics.iou(ba))
    np.testing.assert_allclose(metrics.dice(ab), 2 * metrics.iou(ab) / (1 + metrics.iou(ab)))
    np.testing.assert_array_equal(metrics.sensitivity(ab), metrics.precision(ba))
    assert metrics.iou(aa).min() == 1
