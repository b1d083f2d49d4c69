"""Whether a probability of 0.7 means tumour in 70% of the pixels: reliability, Brier score, ECE.

Counted on the pixels of the head alone: the background, about 63% of a slice, is right without any effort and would
make every network look calibrated. The images still show skull and skin, so that pixels are those of the
head: the largest region that is brighter than BACKGROUND in any sequence, after a 5x5 mean against noise, with its
holes filled.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from dataset.slices import Slices
from utils import parallel_map

BINS = 10  # of equal width, over 0..1
BACKGROUND = 20  # of 255; air with its noise and ghosts stays below


def head_pixels(image: np.ndarray) -> np.ndarray:
    """The head in a slice (uint8 [H, W, 3]): bool [H, W]. A slice of air alone has none."""
    brightest = cv2.max(cv2.max(image[..., 0], image[..., 1]), image[..., 2])
    bright = (cv2.blur(brightest, (5, 5)) > BACKGROUND).astype(np.uint8)
    outlines = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    head = np.zeros(bright.shape, np.uint8)
    if outlines:
        cv2.drawContours(head, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return head > 0


def count(slices: Slices, probabilities: np.ndarray) -> np.ndarray:
    """What calibration needs of each slice: float64 [N, 4, BINS], of the head pixels in each bin of probability

    their number, the sum of their probabilities, how many are tumour, and the sum of squared errors.
    `probabilities` is float32 [N, H, W].
    """

    def of_slice(row: int) -> np.ndarray:
        head = head_pixels(images[row])
        p, tumour = probabilities[row][head].astype(float), masks[row][head].astype(float)
        place = np.minimum((p * BINS).astype(np.intp), BINS - 1)
        return np.stack([np.bincount(place, w, BINS) for w in (None, p, tumour, (p - tumour) ** 2)])

    images, masks = slices.images.numpy(), slices.masks.numpy()
    return np.stack(parallel_map(of_slice, range(len(slices))))


def summarise(counts: np.ndarray) -> dict:
    """Brier score, expected calibration error and the reliability curve of counts [N, 4, BINS] of any slices.

    brier: mean squared error of the probability. ece: mean over the pixels of |mean probability - tumour share| of
    their bin. A bin without pixels has NaN.
    """
    pixels, probability, tumour, squared = counts.sum(0)
    inside = np.maximum(pixels, 1)
    mean, share = (np.where(pixels > 0, part / inside, np.nan) for part in (probability, tumour))
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


def merge(parts: Sequence[dict]) -> dict:
    """The calibration of several runs over different patients as one (each as of `summarise`)."""
    pixels, mean, share = (  # NaN, or null once it was in a file, stands for "no pixels"
        np.nan_to_num(np.array([[b[name] for b in part["bins"]] for part in parts], float))
        for name in ("pixels", "mean_probability", "tumour_share")
    )
    squared = np.nan_to_num(np.array([[part["brier"]] for part in parts], float)) * pixels.sum(1, keepdims=True)
    counts = [pixels, mean * pixels, share * pixels, np.repeat(squared / BINS, BINS, 1)]
    return summarise(np.stack(counts, axis=1))


def per_patient(counts: np.ndarray, patients: Sequence[str]) -> pd.DataFrame:
    """A row a patient: head_pixels, and brier, the mean squared error over them (NaN without any)."""
    of_slice = pd.DataFrame({"head_pixels": counts[:, 0].sum(1), "squared": counts[:, 3].sum(1)})
    table = of_slice.groupby(np.asarray(patients)).sum()
    table["brier"] = (table["squared"] / table["head_pixels"]).where(table["head_pixels"] > 0)
    return table.astype({"head_pixels": int})[["head_pixels", "brier"]].rename_axis("patient").reset_index()
