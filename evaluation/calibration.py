"""Calibration: whether a probability of 0.7 means tumour in 70% of the pixels. Reliability curve, Brier score, ECE.

Only pixels of the head count: the air around it, two thirds of a slice, is easy and would make every network look
calibrated.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from dataset.preprocess import find_head
from dataset.slices import Slices
from utils import parallel_map

BINS = 10  # of equal width, over 0..1


def count(slices: Slices, probabilities: np.ndarray | None) -> np.ndarray:
    """Return sums over the head pixels of each patient, by bin of their probability: float64 [P, 4, BINS].

    Patients are sorted by id. The four sums: pixels, probabilities, tumour pixels, squared errors.
    probabilities: float32 [N, H, W]; None, for masks without probabilities, makes all sums 0.
    """
    images, masks = slices.images.numpy(), slices.masks.numpy()
    stacks = slices.stacks().values()
    if probabilities is None:
        return np.zeros((len(stacks), 4, BINS))

    def count_patient(rows: np.ndarray) -> np.ndarray:
        head = find_head(images[rows], filled=True)
        p, tumour = probabilities[rows][head].astype(float), masks[rows][head].astype(float)
        bins = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        return np.stack([np.bincount(bins, w, BINS) for w in (None, p, tumour, (p - tumour) ** 2)])

    return np.stack(parallel_map(count_patient, stacks))


def per_patient(counts: np.ndarray, patients: Sequence[str]) -> pd.DataFrame:
    """Return one row per patient: patient, head_pixels, brier (mean squared error; NaN without head pixels).

    counts: as `count` returns them; patients: of each slice.
    """
    pixels, squared = counts[:, 0].sum(1), counts[:, 3].sum(1)
    brier = np.where(pixels > 0, squared / np.maximum(pixels, 1), np.nan)
    return pd.DataFrame({"patient": sorted(set(patients)), "head_pixels": pixels.astype(int), "brier": brier})


def reliability(counts: np.ndarray) -> list[dict[str, float]]:
    """Return the reliability curve of the counts [P, 4, BINS] of all patients: low, high and three sums of each bin."""
    pixels, probability, tumour, _ = counts.sum(0)
    edges = np.linspace(0, 1, BINS + 1).round(1)
    bins = {"low": edges[:-1], "high": edges[1:], "pixels": pixels.astype(int), "probability": probability}
    return pd.DataFrame(bins | {"tumour_pixels": tumour.astype(int)}).to_dict("records")


def pool(curves: Iterable[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the reliability curve of the slices of several runs together."""
    bins = pd.concat(map(pd.DataFrame, curves))
    return bins.groupby(["low", "high"], as_index=False).sum().to_dict("records")


def expected_calibration_error(bins: list[dict[str, float]]) -> float:
    """Return the mean over pixels of |mean probability - share of tumour| in their bin; NaN without pixels."""
    total = sum(b["pixels"] for b in bins)
    return sum(abs(b["probability"] - b["tumour_pixels"]) for b in bins) / total if total else float("nan")
