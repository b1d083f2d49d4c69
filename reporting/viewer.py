"""Data of the report's viewer: each patient's slices as pictures, and both masks as run-length labels."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from constants import FLAIR, POST, PRE
from dataset.preprocess import find_head, head_box
from dataset.slices import Slices
from scans.show import stretch
from utils import parallel_map, show_number

PICTURE_BYTES = 9_000_000  # of all pictures together, before base64 adds a third; FLAIR of 404 real slices needs 2.1 MB
SEQUENCES = {"FLAIR": FLAIR, "pre-contrast": PRE, "post-contrast": POST}
# Sequences and quality of WebP: the first that stay within PICTURE_BYTES; rather FLAIR alone than all below 40
QUALITIES = ((3, 80), (3, 60), (3, 40), (1, 80), (1, 60), (1, 40), (1, 20), (1, 5))
SAMPLE = 16  # slices from which the bytes of a quality are estimated
REFERENCE, PREDICTION = 1, 2  # bits of a pixel's label in the page
MARGIN = 12  # pixels around the head, from whose outline thin skin may be missing


def viewer_data(
    slices: Slices, predicted: np.ndarray, results: pd.DataFrame, patients: pd.DataFrame,
    spacing: dict[str, Sequence[float]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the script of the page reads, as plain values: patients sorted by id, their slices by number.

    Args:
        slices: of any size.
        predicted: uint8 [N, H, H], 0 or 1.
        results: N rows, as in test_results.csv.
        patients: as in test_patients.csv.
        spacing: mm between rows, columns and slices of each patient, where known.
    """
    images, masks, rows_of = slices.images.numpy(), slices.masks.numpy(), slices.stacks()
    shown = np.empty((len(SEQUENCES), *images.shape[:3]), np.uint8)
    for number, sequence in enumerate(SEQUENCES.values()):
        for rows in rows_of.values():
            shown[number, rows] = stretch(images[rows, ..., sequence])
    pictures, records = encode_pictures(shown), results.to_dict("records")
    dice, stacks = patients.set_index("patient")["dice"], []
    for patient, rows in rows_of.items():
        region = find_head(images[rows]) | (masks[rows] > 0) | (predicted[rows] > 0)
        frame = show_frame(region, (spacing or {}).get(patient))
        runs = [encode_labels(masks[n], predicted[n]) for n in rows]
        own = [show_slice(records[n]) | {"runs": run, "images": pictures[n]} for n, run in zip(rows, runs, strict=True)]
        about = {"id": patient, "title": f"{patient}, Dice {dice[patient]:.3f}", "hasReference": True, "slices": own}
        stacks.append(about | frame | {"layers": list(SEQUENCES)[: len(pictures[0])]})
    return {"patients": stacks}


def show_frame(region: np.ndarray, spacing: Sequence[float] | None) -> dict[str, Any]:
    """Return the size of a patient's slices, and which part is shown, as viewer.js reads them.

    region: bool [N, H, W], head and masks; spacing: mm between rows, columns and slices.
    """
    tall, (height, width) = spacing[0] / spacing[1] if spacing else 1.0, region.shape[1:]
    size = {"height": height, "width": width, "tall": tall, "millimetres": spacing[1] if spacing else None}
    return size | {"view": head_view(region, tall)}


def show_slice(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of test_results.csv as the viewer shows it: see viewer.js."""
    missed, false = row["false_negative"], row["false_positive"]
    if not row["tumour_pixels"]:
        words = "No tumour here: every predicted pixel is a false positive." if false else "No tumour, none predicted."
    elif not row["true_positive"]:
        words = "Missed: the prediction does not touch the tumour." if false else "Missed: nothing predicted."
    else:
        words = f"Dice {row['dice']:.3f}: {missed:,} px missed, {false:,} px false positive."
    pixels = {"reference, px": row["tumour_pixels"], "missed, px": missed, "false positive, px": false}
    values = {name: show_number(row[name.lower()]) for name in ("Dice", "IoU")}
    return {
        "number": row["slice"],
        "reference": row["tumour_pixels"],
        "predicted": row["predicted_pixels"],
        "wrong": missed + false,
        "words": words,
        "values": values | {name: f"{value:,}" for name, value in pixels.items()},
    }


def head_view(region: np.ndarray, tall: float = 1.0) -> list[int]:
    """Return [left, top, side] of the smallest square with the head and all marks; the frame if there is neither.

    region: bool [N, H, W], both in a patient's stack; tall: height of a pixel, in its widths, in which the square is
    counted.
    """
    height, width = region.shape[1] * tall, region.shape[2]
    top, bottom, left, right = head_box(region)
    top, bottom = top * tall, bottom * tall
    side = min(max(height, width), max(bottom - top, right - left) + 2 * MARGIN)
    ends = (((left + right - side) / 2, width - side), ((top + bottom - side) / 2, height - side))
    return [math.floor(np.clip(start, min(0, last), max(0, last))) for start, last in ends] + [math.ceil(side)]


def encode_pictures(shown: np.ndarray, most: int = PICTURE_BYTES) -> list[list[str]]:
    """Return the pictures of each slice as WebP in base64: of all sequences, or of the first if those need too much.

    shown: uint8 [sequences, N, H, W]. In the best of QUALITIES that stays within so many bytes, by a sample of slices.
    """
    step = max(shown.shape[1] // SAMPLE, 1)
    for count, quality in QUALITIES:
        sample = to_webp(shown[:count, ::step], quality)
        if sum(map(len, sample)) * step <= most:
            break
    pictures = to_webp(shown[:count], quality) if step > 1 else sample
    texts, count = [base64.b64encode(picture).decode() for picture in pictures], len(shown[:count])
    return [texts[first : first + count] for first in range(0, len(texts), count)]


def to_webp(slices: np.ndarray, quality: int) -> list[bytes]:
    """Return pictures (uint8 [sequences, N, H, W]) as WebP, all sequences of a slice one after the other."""

    def encode(picture: np.ndarray) -> bytes:
        Image.fromarray(picture).save(file := io.BytesIO(), "WEBP", quality=quality, method=2)
        return file.getvalue()

    return parallel_map(encode, slices.swapaxes(0, 1).reshape(-1, *slices.shape[2:]))


def encode_labels(mask: np.ndarray, predicted: np.ndarray) -> list[int]:
    """Return the runs of marked pixels, rows first: [pixels skipped since the last run, length, label, ...].

    The label is the sum of REFERENCE and PREDICTION, as far as they apply; unmarked pixels are skipped.
    """
    labels = ((mask > 0) * REFERENCE + (predicted > 0) * PREDICTION).ravel()
    borders = [*np.flatnonzero(np.diff(labels, prepend=0)).tolist(), labels.size]
    runs, done = [], 0
    for start, end in itertools.pairwise(borders):
        if labels[start]:
            runs += [start - done, end - start, int(labels[start])]
            done = end
    return runs
