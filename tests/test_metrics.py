import math

import numpy as np
import pytest
import torch

from evaluation import metrics
from evaluation.metrics import Counts

# Four slices of two patients, counted by hand:
#   a: 6 px hit, 2 px false positive, 4 px missed;  a: empty, stays empty
#   b: empty, but 3 px false positive;              b: 5 px tumour, missed altogether
COUNTS = Counts(np.array([6, 0, 0, 0]), np.array([2, 0, 3, 0]), np.array([4, 0, 0, 5]))


def test_count_pixels():
    target = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    predicted = target.clone()
    target[0, 0, :2, :3] = True  # 6 pixels
    predicted[0, 0, 1:3, :2] = True  # 4 pixels, 2 of them inside
    counts = metrics.count_pixels(predicted, target)
    assert [part.tolist() for part in counts] == [[2, 0], [2, 0], [4, 0]]
    for other in (target[:, 0], target[:1], target.byte()):  # the first two would be broadcast silently
        with pytest.raises(ValueError, match="must be bool tensors of one shape"):
            metrics.count_pixels(other, target)


def test_each_slice_by_hand():
    assert metrics.iou(COUNTS).tolist() == [6 / 12, 1, 0, 0]
    assert metrics.dice(COUNTS).tolist() == [12 / 18, 1, 0, 0]
    np.testing.assert_array_equal(metrics.sensitivity(COUNTS), [0.6, np.nan, np.nan, 0])
    np.testing.assert_array_equal(metrics.precision(COUNTS), [0.75, np.nan, 0, np.nan])


def test_volumetric_dice_by_hand():
    """The other reductions are computed by hand in test_summary.py."""
    assert metrics.volumetric_dice(COUNTS, [*"aabb"]).tolist() == [12 / 18, 0]
    assert metrics.volumetric_dice(COUNTS, [*"baba"]).tolist() == [0, 12 / 21]  # sorted by patient


def test_without_tumour_slices_their_metrics_are_nan_rather_than_perfect():
    found = metrics.summarise(Counts(np.array([0]), np.array([0]), np.array([0])), ["a"])
    assert math.isnan(found["tumour_iou"]) and math.isnan(found["tumour_found"]) and found["iou"] == 1
