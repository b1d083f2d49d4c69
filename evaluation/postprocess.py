"""From probabilities to masks: the threshold and the smallest component to keep, by default or tuned.

They are tuned on validation patients, never on test patients.
"""

from typing import NamedTuple

import cv2
import numpy as np

from constants import THRESHOLD
from dataset.slices import Slices
from evaluation import metrics
from utils import parallel_map

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # 0.05 to 0.95
SMALLEST = (0, 10, 20, 50, 100, 200)  # pixels in a slice


class Choice(NamedTuple):
    """Pixels from probability `threshold` on are tumour; components below `min_component` pixels are removed."""

    threshold: float = THRESHOLD
    min_component: int = 0

    def describe(self, tuned: dict | None = None) -> str:
        """Return the rules in words; tuned: as of `tune`."""
        small = f", components below {self.min_component} px removed" if self.min_component else ""
        how = f" (tuned on {tuned['patients']} validation patients)" if tuned else ""
        return f"threshold {self.threshold:g}{small}{how}"


def postprocess(probabilities: np.ndarray, choice: Choice) -> np.ndarray:
    """Return the masks of probabilities (float32 [N, H, W]): uint8 0 or 1, [N, H, W]."""
    return remove_small_components((probabilities >= choice.threshold).view(np.uint8), choice.min_component)


def remove_small_components(masks: np.ndarray, smallest: int) -> np.ndarray:
    """Return masks (uint8 0 or 1, [N, H, W]) without the components of fewer than `smallest` pixels in their slice."""
    if smallest <= 1:
        return masks
    kept = np.zeros_like(masks)
    for row in np.flatnonzero(masks.any((1, 2))):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(masks[row], connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= smallest
        large[0] = False  # the background
        kept[row] = large[labels]
    return kept


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
    counts = parallel_map(lambda row: _count(masks[row], probabilities[row]), range(len(slices)))
    patients, patient_of = np.unique(slices.patients, return_inverse=True)
    volumes = np.zeros((len(patients), 2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    np.add.at(volumes, patient_of, np.stack(counts))
    target = np.bincount(patient_of, masks.sum((1, 2))).astype(np.int64)[:, None, None]
    hits, predicted = volumes[:, 0], volumes[:, 1]
    return metrics.dice(metrics.Counts(hits, predicted - hits, target - hits)).mean(0)


def _count(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the true positive and the predicted pixels of a slice for each choice: int64 [2, T, S]."""
    counts = np.zeros((2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    for t, threshold in enumerate(THRESHOLDS):
        foreground = (probabilities >= threshold).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
        pixels = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
        if not len(pixels):
            break  # nor is anything above a higher threshold
        hits = np.bincount(labels[mask > 0], minlength=len(stats))[1:]
        kept = pixels >= np.array(SMALLEST)[:, None]  # [S, components]
        counts[:, t] = kept @ hits, kept @ pixels
    return counts
