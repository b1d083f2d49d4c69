"""From probabilities to masks: the threshold and the smallest component to keep, by default or tuned.

Components are connected through the slices of a patient, corners included. One is small if its largest section has too
few pixels, or, where there are several slices, if it is seen in one alone: a tumour goes on in the next slice. The thin
ends of a large component stay. They are tuned on validation patients, never on test patients.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from constants import THRESHOLD
from dataset.slices import Slices
from evaluation import metrics
from evaluation.lesions import CONNECTED
from evaluation.surfaces import bounding_box
from utils import parallel_map

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # 0.05 to 0.95
SMALLEST = (0, 10, 50, 100, 200, 300)  # pixels of the largest section; 0 keeps everything
FEWEST_SLICES = 2  # that a component is seen in


class Choice(NamedTuple):
    """Pixels from probability `threshold` on are tumour; small components are removed if `min_component` is not 0."""

    threshold: float = THRESHOLD
    min_component: int = 0

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Choice":
        """Return the rules that a checkpoint's input, or metrics.json, records."""
        return cls(about["threshold"], about["min_component"])

    def describe(self, tuned: dict | None = None) -> str:
        """Return the rules in words; tuned: as of `tune`."""
        small = f", {describe_small(self.min_component)}" if self.min_component else ""
        how = f" (tuned on {tuned['patients']} validation patients)" if tuned else ""
        return f"threshold {self.threshold:g}{small}{how}"


def describe_small(min_component: int) -> str:
    """Return in words which components are removed."""
    return f"components below {min_component} px, or in one slice alone, removed"


def postprocess(probabilities: np.ndarray, choice: Choice, patients: Sequence[str]) -> np.ndarray:
    """Return the masks of probabilities (float32 [N, H, W]): uint8 0 or 1, [N, H, W].

    patients: of each slice; those of a patient stand in their order.
    """
    masks = np.empty(probabilities.shape, np.uint8)
    for rows in stacks(patients):
        masks[rows] = postprocess_stack(probabilities[rows], choice)
    return masks


def postprocess_stack(probabilities: np.ndarray, choice: Choice) -> np.ndarray:
    """Return the masks of one patient's slices, in their order, as `postprocess` does."""
    return remove_small_components((probabilities >= choice.threshold).view(np.uint8), choice.min_component)


def stacks(patients: Sequence[str]) -> list[np.ndarray]:
    """Return the rows of each patient."""
    return list(pd.DataFrame({"patient": patients}).groupby("patient").indices.values())


def remove_small_components(masks: np.ndarray, smallest: int) -> np.ndarray:
    """Return the masks of a stack (uint8 0 or 1, [S, H, W]) without components below `smallest` pixels; 0 keeps all."""
    box = bounding_box(masks)
    if smallest == 0 or box is None:
        return masks
    labels, sections = label_components(masks[box])
    kept = np.zeros_like(masks)
    kept[box] = _large(sections, smallest, len(masks))[labels]
    return kept


def label_components(stack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of each pixel of a stack [S, H, W], 0 for the background, and each component's pixels per slice.

    Returns: int32 [S, H, W], and int64 [S, 1 + components], whose first column, the background's, is 0.
    """
    labels, components = ndimage.label(stack, CONNECTED)
    sections = np.stack([np.bincount(plane.ravel(), minlength=components + 1) for plane in labels])
    sections[:, 0] = 0
    return labels, sections


def _large(sections: np.ndarray, smallest: int, slices: int) -> np.ndarray:
    """Return which components are not small, by their pixels per slice [S, C], in a stack of so many slices: bool."""
    if smallest == 0:
        return np.ones(sections.shape[1], bool)
    return (sections.max(0) >= smallest) & ((sections > 0).sum(0) >= min(FEWEST_SLICES, slices))


def tune(slices: Slices, probabilities: np.ndarray) -> tuple[Choice, dict | None]:
    """Choose what gives the highest mean volumetric Dice over the patients of `slices`, the validation patients.

    Of equals, the nearest to threshold 0.5, then the one that removes least. Where none of them has tumour, the highest
    Dice would be that of a network which predicts nothing: the default is kept.

    Returns: the choice, and what metrics.json records about it; None where nothing could be chosen.
    """
    if not slices.masks.any():
        return Choice(), None
    dice = mean_dice(slices, probabilities)
    best = dice.max()
    choices = [Choice(t, size) for t in THRESHOLDS for size in SMALLEST]
    equals = [choice for choice, value in zip(choices, dice.ravel(), strict=True) if value >= best - 1e-9]
    chosen = min(equals, key=lambda choice: (abs(choice.threshold - THRESHOLD), choice.min_component))
    return chosen, {
        "split": "validation",
        "patients": len(set(slices.patients)),
        "criterion": "mean over patients of the volumetric Dice",
        "untuned": float(dice[THRESHOLDS.index(THRESHOLD), SMALLEST.index(0)]),
        "tuned": float(best),
    }


def mean_dice(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """Return the mean volumetric Dice over patients for each of THRESHOLDS and SMALLEST: float64 [T, S]."""
    masks = slices.masks.numpy()
    rows = stacks(slices.patients)
    counts = np.stack(parallel_map(lambda stack: _count(masks[stack], probabilities[stack]), rows))
    target = np.array([masks[stack].sum(dtype=np.int64) for stack in rows])[:, None, None]
    hits, predicted = counts[:, 0], counts[:, 1]
    return metrics.dice(metrics.Counts(hits, predicted - hits, target - hits)).mean(0)


def _count(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the true positive and the predicted pixels of a stack for each choice: int64 [2, T, S]."""
    counts = np.zeros((2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    for t, threshold in enumerate(THRESHOLDS):
        foreground = (probabilities >= threshold).view(np.uint8)
        box = bounding_box(foreground)
        if box is None:
            break  # nor is anything above a higher threshold
        labels, sections = label_components(foreground[box])
        pixels = sections.sum(0)
        hits = np.bincount(labels[mask[box] > 0], minlength=len(pixels))
        hits[0] = 0
        kept = np.stack([_large(sections, smallest, len(mask)) for smallest in SMALLEST]).astype(np.int64)
        counts[:, t] = kept @ hits, kept @ pixels
    return counts
