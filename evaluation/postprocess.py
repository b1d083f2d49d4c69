"""From probabilities to masks: the threshold and the smallest part to keep, as they are or chosen on validation.

Never chosen on test patients: a figure on patients that decided anything about the model is not a test any more.
"""

from typing import NamedTuple

import cv2
import numpy as np

from constants import THRESHOLD
from dataset.slices import Slices
from evaluation import metrics
from evaluation.lesions import remove_small_parts
from evaluation.surfaces import bounding_box
from utils import parallel_map

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))  # 0.05 to 0.95
SMALLEST = (0, 10, 20, 50, 100, 200)  # pixels in a slice


class Choice(NamedTuple):
    """A pixel is lesion from `threshold` on; parts of fewer than `min_component` pixels in a slice are removed."""

    threshold: float = THRESHOLD
    min_component: int = 0


def postprocess(probabilities: np.ndarray, choice: Choice) -> np.ndarray:
    """Probabilities (float32 [N, H, W]) -> masks, uint8 0 or 1, [N, H, W]."""
    return remove_small_parts((probabilities >= choice.threshold).view(np.uint8), choice.min_component)


def tune(slices: Slices, probabilities: np.ndarray) -> tuple[Choice, dict]:
    """The choice with the highest mean volumetric Dice over the patients of `slices`, the validation patients.

    Of equals, the nearest to threshold 0.5, then the one that removes least.

    Returns: the choice, and what metrics.json records about it.
    """
    dice = mean_dice(slices, probabilities)
    best = dice.max()
    choices = [Choice(t, size) for t in THRESHOLDS for size in SMALLEST]
    equals = [choice for choice, value in zip(choices, dice.ravel(), strict=True) if value >= best - 1e-9]
    chosen = min(equals, key=lambda choice: (abs(choice.threshold - THRESHOLD), choice.min_component))
    untuned = dice[THRESHOLDS.index(THRESHOLD), SMALLEST.index(0)]
    return chosen, {
        "split": "validation",
        "patients": len(set(slices.patients)),
        "criterion": "mean over patients of the volumetric Dice",
        "untuned": float(untuned),
        "tuned": float(best),
    }


def mean_dice(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """Mean over patients of the volumetric Dice for each threshold and smallest part: float64 [T, S]."""
    masks = slices.masks.numpy()
    rows = parallel_map(lambda row: _count(masks[row], probabilities[row]), range(len(slices)))
    patients, of_row = np.unique(slices.patients, return_inverse=True)
    volumes = np.zeros((len(patients), 2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    np.add.at(volumes, of_row, np.stack(rows))
    target = np.bincount(of_row, masks.sum((1, 2))).astype(np.int64)[:, None, None]
    hits, predicted = volumes[:, 0], volumes[:, 1]
    return metrics.dice(metrics.Counts(hits, predicted - hits, target - hits)).mean(0)


def _count(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """True positive and predicted pixels of a slice for each choice: int64 [2, T, S]. One labelling a threshold."""
    counts = np.zeros((2, len(THRESHOLDS), len(SMALLEST)), np.int64)
    box = bounding_box(probabilities >= THRESHOLDS[0])
    if box is None:
        return counts
    inside, probabilities = mask[box] > 0, probabilities[box]
    for t, threshold in enumerate(THRESHOLDS):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            (probabilities >= threshold).view(np.uint8), connectivity=8
        )
        pixels = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
        if not len(pixels):
            break  # nor above
        hits = np.bincount(labels[inside], minlength=len(stats))[1:]
        kept = pixels >= np.array(SMALLEST)[:, None]  # [S, parts]
        counts[:, t] = kept @ hits, kept @ pixels
    return counts
