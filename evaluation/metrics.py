"""Overlap of predicted and reference masks: pixel counts first, then a named reduction of them.

Published results for this data set are the mean IoU over slices with "empty against empty is 1". Two thirds of the
slices have no tumour, so an empty prediction scores 0.65. That metric is therefore never shown here without
the IoU of an empty prediction, the IoU over tumour slices, and the volumetric Dice per patient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Counts(NamedTuple):
    """Pixels of each slice (or patient): integer [N] each, torch tensors on the device or NumPy arrays."""

    true_positive: torch.Tensor | np.ndarray
    false_positive: torch.Tensor | np.ndarray
    false_negative: torch.Tensor | np.ndarray

    @property
    def target(self):
        """Pixels of the reference mask, [N]."""
        return self.true_positive + self.false_negative

    @property
    def predicted(self):
        """Pixels of the predicted mask, [N]."""
        return self.true_positive + self.false_positive


def count_pixels(predicted: torch.Tensor, target: torch.Tensor) -> Counts:
    """Return the counts of each slice, int64 [N], on the device of the masks.

    predicted, target: bool [N, ...]. Raises: ValueError if they have different shapes or another dtype.
    """
    if predicted.shape != target.shape or not predicted.dtype == target.dtype == torch.bool:
        raise ValueError(
            f"masks must be bool tensors of one shape, not {predicted.dtype} {tuple(predicted.shape)} and "
            f"{target.dtype} {tuple(target.shape)}"
        )
    predicted, target = predicted.flatten(1), target.flatten(1)
    true_positive = (predicted & target).sum(1)
    return Counts(true_positive, predicted.sum(1) - true_positive, target.sum(1) - true_positive)


def iou(counts: Counts) -> np.ndarray:
    """Return the intersection over union of each row, float64 [N] in 0..1. Empty against empty is 1."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return np.where(union == 0, 1.0, counts.true_positive / np.maximum(union, 1))


def dice(counts: Counts) -> np.ndarray:
    """Return the Dice coefficient of each row, float64 [N] in 0..1. Empty against empty is 1."""
    total = counts.predicted + counts.target
    return np.where(total == 0, 1.0, 2 * counts.true_positive / np.maximum(total, 1))


def sensitivity(counts: Counts) -> np.ndarray:
    """Return the share of the reference pixels that are predicted, float64 [N] in 0..1. NaN where there are none."""
    return np.where(counts.target == 0, np.nan, counts.true_positive / np.maximum(counts.target, 1))


def precision(counts: Counts) -> np.ndarray:
    """Return the share of the predicted pixels that are tumour, float64 [N] in 0..1. NaN where there are none."""
    return np.where(counts.predicted == 0, np.nan, counts.true_positive / np.maximum(counts.predicted, 1))


def summarise(counts: Counts, patients: Sequence[str]) -> dict[str, float]:
    """Return the metrics without which no IoU is shown; NaN where they are undefined.

    counts: of slices, NumPy arrays. patients: the patient of each slice.
    """
    tumour = counts.target > 0
    patient_of_row = np.unique(np.asarray(patients), return_inverse=True)[1]
    volumes = Counts(*(np.bincount(patient_of_row, pixels) for pixels in counts))
    return {
        "iou": _mean(iou(counts)),  # the published metric
        "empty_prediction": _mean(~tumour),
        "tumour_iou": _mean(iou(counts)[tumour]),
        "tumour_found": _mean(counts.true_positive[tumour] > 0),
        "patient_dice": _mean(dice(volumes)),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
