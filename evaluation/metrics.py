"""Overlap of predicted and reference masks: pixel counts first, then a named reduction of them.

Published results for this data set are the mean IoU over slices with "empty against empty is 1". Two thirds of the
slices have no tumour, so that an empty prediction scores 0.65. That metric is therefore never shown here without
`empty_prediction_iou`, the IoU over tumour slices, and the volumetric Dice per patient.
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
        """Pixels of the true mask, [N]."""
        return self.true_positive + self.false_negative

    @property
    def predicted(self):
        """Pixels of the predicted mask, [N]."""
        return self.true_positive + self.false_positive


def count_pixels(predicted: torch.Tensor, target: torch.Tensor) -> Counts:
    """Counts of each slice, int64 [N], on the device of the masks (bool, [N, ...])."""
    predicted, target = predicted.flatten(1), target.flatten(1)
    true_positive = (predicted & target).sum(1)
    return Counts(true_positive, predicted.sum(1) - true_positive, target.sum(1) - true_positive)


def iou(counts: Counts) -> np.ndarray:
    """Intersection over union of each row, float64 [N] in 0..1. Empty against empty is 1."""
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return np.where(union == 0, 1.0, counts.true_positive / np.maximum(union, 1))


def dice(counts: Counts) -> np.ndarray:
    """Dice coefficient of each row, float64 [N] in 0..1. Empty against empty is 1."""
    total = counts.predicted + counts.target
    return np.where(total == 0, 1.0, 2 * counts.true_positive / np.maximum(total, 1))


def sensitivity(counts: Counts) -> np.ndarray:
    """Share of the true pixels that were predicted, float64 [N] in 0..1. NaN where there are none."""
    return np.where(counts.target == 0, np.nan, counts.true_positive / np.maximum(counts.target, 1))


def precision(counts: Counts) -> np.ndarray:
    """Share of the predicted pixels that are true, float64 [N] in 0..1. NaN where nothing was predicted."""
    return np.where(counts.predicted == 0, np.nan, counts.true_positive / np.maximum(counts.predicted, 1))


def slice_mean_iou(counts: Counts) -> float:
    """The published metric: mean over slices, empty against empty is 1. NaN without slices."""
    return _mean(iou(counts))


def empty_prediction_iou(counts: Counts) -> float:
    """Return the `slice_mean_iou` of an empty prediction: the share of slices without tumour."""
    return _mean(np.asarray(counts.target == 0, dtype=float))


def tumour_slice_iou(counts: Counts) -> float:
    """Mean IoU over the slices that have tumour. NaN where none has."""
    return _mean(iou(counts)[counts.target > 0])


def found_share(counts: Counts) -> float:
    """Share of the tumour slices in which prediction and truth overlap at all. NaN where none has tumour."""
    return _mean(np.asarray(counts.true_positive > 0, dtype=float)[counts.target > 0])


def per_patient(counts: Counts, patients: Sequence[str]) -> dict[str, Counts]:
    """The counts of each patient's whole volume, as arrays of one row, by sorted patient id."""
    patients = np.asarray(patients)
    return {str(p): Counts(*(part[patients == p].sum(keepdims=True) for part in counts)) for p in np.unique(patients)}


def volumetric_dice(counts: Counts, patients: Sequence[str]) -> dict[str, float]:
    """Dice of each patient's whole volume: its slices' pixels counted together, by sorted patient id."""
    return {patient: float(dice(volume)[0]) for patient, volume in per_patient(counts, patients).items()}


def summarise(counts: Counts, patients: Sequence[str]) -> dict[str, float]:
    """Return the metrics that belong together wherever an IoU is shown; `patients` names the patient of each row."""
    return {
        "iou": slice_mean_iou(counts),
        "empty_prediction": empty_prediction_iou(counts),
        "tumour_iou": tumour_slice_iou(counts),
        "tumour_found": found_share(counts),
        "patient_dice": _mean(np.array(list(volumetric_dice(counts, patients).values()))),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
