"""Calibration: whether a probability of 0.7 means tumour in 70% of the pixels. Reliability curve, Brier score, ECE.

Only pixels of the head count: the air around it, two thirds of a slice, is easy and would make every network look
calibrated.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dataset.preprocess import find_head
from dataset.slices import Slices
from utils import parallel_map

BINS = 10  # of equal width, over 0..1
Curve = list[dict[str, float]]  # of each bin: low, high; sums over pixels: pixels, probability, tumour_pixels


def calibrate(slices: Slices, probabilities: np.ndarray) -> tuple[Curve, pd.DataFrame]:
    """Return the reliability curve, and one row per patient, sorted: patient, head_pixels, brier.

    The Brier score is the mean squared error of the probabilities (float32 [N, H, W]); NaN without head pixels.
    """
    images, masks, stacks = slices.images.numpy(), slices.masks.numpy(), slices.stacks()

    def count(rows: np.ndarray) -> np.ndarray:
        head = find_head(images[rows], filled=True)
        p, tumour = probabilities[rows][head].astype(float), masks[rows][head].astype(float)
        bins = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        return np.stack([np.bincount(bins, w, BINS) for w in (None, p, tumour, (p - tumour) ** 2)])

    counts = np.stack(parallel_map(count, stacks.values()))  # sums over the head pixels of each patient, by bin
    head_pixels, squared = counts[:, 0].sum(1), counts[:, 3].sum(1)
    brier = np.where(head_pixels > 0, squared / np.maximum(head_pixels, 1), np.nan)
    per_patient = pd.DataFrame({"patient": list(stacks), "head_pixels": head_pixels.astype(int), "brier": brier})
    pixels, probability, tumour, _ = counts.sum(0)
    edges = np.linspace(0, 1, BINS + 1).round(1)
    bins = {"low": edges[:-1], "high": edges[1:], "pixels": pixels.astype(int), "probability": probability}
    return pd.DataFrame(bins | {"tumour_pixels": tumour.astype(int)}).to_dict("records"), per_patient


def pool(curves: Iterable[Curve]) -> Curve:
    """Return the reliability curve of the slices of several runs together."""
    bins = pd.concat(map(pd.DataFrame, curves))
    return bins.groupby(["low", "high"], as_index=False).sum().to_dict("records")


def expected_calibration_error(curve: Curve) -> float:
    """Return the mean over pixels of |mean probability - share of tumour| in their bin; NaN without pixels."""
    total = sum(b["pixels"] for b in curve)
    return sum(abs(b["probability"] - b["tumour_pixels"]) for b in curve) / total if total else float("nan")
