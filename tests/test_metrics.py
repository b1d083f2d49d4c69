"""Pixel counts; their reductions are computed by hand in test_summary.py."""

import math

import numpy as np
import pytest
import torch

from evaluation import metrics
from evaluation.metrics import Counts


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


def test_without_tumour_slices_their_metrics_are_nan_rather_than_perfect():
    found = metrics.summarise(Counts(np.array([0]), np.array([0]), np.array([0])), ["a"])
    assert math.isnan(found["tumour_iou"]) and math.isnan(found["tumour_found"]) and found["iou"] == 1
