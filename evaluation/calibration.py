"""Calibration: whether a probability of 0.7 means tumour in 70% of the pixels. Reliability curve, Brier score, ECE.

Computed on the pixels of the head alone: the background, about 63% of a slice, is correct without any effort and would
make every network look calibrated. The images still show skull and skin, so the head is taken as the largest region
that is brighter than BACKGROUND in any sequence, after a 5x5 mean against noise, with its holes filled.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from dataset.slices import Slices
from utils import parallel_map

BINS = 10  # of equal width, over 0..1
BACKGROUND = 20  # of 255; air with its noise and ghosts stays below


def head_mask(image: np.ndarray) -> np.ndarray:
    """Return the head in a slice (uint8 [H, W, 3]): bool [H, W]; all False in a slice of air."""
    brightest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    bright = (cv2.blur(brightest, (5, 5)) > BACKGROUND).astype(np.uint8)
    outlines = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    head = np.zeros(bright.shape, np.uint8)
    if outlines:
        cv2.drawContours(head, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return head > 0


def count(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """Return sums over the head pixels of each slice, by bin of their probability: float64 [N, 4, BINS].

    The four: pixels, sum of probabilities, tumour pixels, sum of squared errors. probabilities: float32 [N, H, W].
    """

    def count_slice(row: int) -> np.ndarray:
        head = head_mask(images[row])
        p, tumour = probabilities[row][head].astype(float), masks[row][head].astype(float)
        bins = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        return np.stack([np.bincount(bins, w, BINS) for w in (None, p, tumour, (p - tumour) ** 2)])

    images, masks = slices.images.numpy(), slices.masks.numpy()
    return np.stack(parallel_map(count_slice, range(len(slices))))


def uncounted(slices: int) -> np.ndarray:
    """Return the counts of masks without probabilities, in which no pixel is counted: all that follows is NaN."""
    return np.zeros((slices, 4, BINS))


def summarise(counts: np.ndarray) -> dict:
    """Return brier, ece and bins (the reliability curve) of the counts [N, 4, BINS] of any slices.

    brier: mean squared error of the probability. ece, expected calibration error: mean over pixels of
    |mean probability - share of tumour| in their bin. NaN without pixels, as mean and share of a bin without any.
    """
    pixels, probability, tumour, squared = counts.sum(0)
    mean, share = (np.where(pixels > 0, sums / np.maximum(pixels, 1), np.nan) for sums in (probability, tumour))
    total = pixels.sum()
    edges = np.linspace(0, 1, BINS + 1)
    return {
        "brier": squared.sum() / total if total else np.nan,
        "ece": np.abs(probability - tumour).sum() / total if total else np.nan,
        "bins": [
            {"low": low, "high": high, "pixels": int(n), "mean_probability": p, "tumour_share": t}
            for low, high, n, p, t in zip(edges[:-1], edges[1:], pixels, mean, share, strict=True)
        ],
    }


def merge(calibrations: Sequence[dict]) -> dict:
    """Return the calibration of all slices of several runs, from that of each run (as of `summarise`)."""
    pixels, mean, share = (  # NaN, which is null in a file, stands for no pixels
        np.nan_to_num(np.array([[b[name] for b in each["bins"]] for each in calibrations], float))
        for name in ("pixels", "mean_probability", "tumour_share")
    )
    brier = np.nan_to_num(np.array([[each["brier"]] for each in calibrations], float))
    squared = brier * pixels.sum(1, keepdims=True) / BINS  # only its sum over all bins counts
    counts = [pixels, mean * pixels, share * pixels, np.repeat(squared, BINS, 1)]
    return summarise(np.stack(counts, axis=1))


def per_patient(counts: np.ndarray, patients: Sequence[str]) -> pd.DataFrame:
    """Return one row per patient: patient, head_pixels, brier (NaN without head pixels). counts: as of `count`."""
    sums = pd.DataFrame({"head_pixels": counts[:, 0].sum(1), "squared": counts[:, 3].sum(1)})
    table = sums.groupby(np.asarray(patients)).sum()
    table["brier"] = (table["squared"] / table["head_pixels"]).where(table["head_pixels"] > 0)
    return table.astype({"head_pixels": int})[["head_pixels", "brier"]].rename_axis("patient").reset_index()
