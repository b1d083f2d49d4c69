"""What predicted masks are worth: a row a slice, a row a patient, a row a lesion, and the figures of the whole.

Figures are computed from the tables, so that those of several runs (cross-validation) are computed alike.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

import data
import lesions
import metrics
import surfaces
from resampling import Mean, estimate, median_interval

AREAS = {"<200": 200, "200-500": 500, "500-1k": 1000, "1k-2k": 2000, ">2k": np.inf}  # pixels below which it ends
SURFACE_DICE = [f"surface_dice_{tolerance}" for tolerance in surfaces.TOLERANCES]
PATIENT_MEANS = ("dice", "iou", "sensitivity", "precision")  # shown as mean and median over patients

CONVENTIONS = (
    "iou: mean over slices, empty against empty is 1; all_empty is what predicting nothing scores on the same slices.",
    "patient_*: all pixels of a patient counted together, then the mean (or median) over patients; sensitivity without "
    "tumour and precision without prediction are undefined and left out.",
    "hd95: of the slices in which tumour and prediction both exist, in pixels, averaged per patient; missed slices "
    "do not show in it. surface_dice_*: share of both outlines within 1, 2, 3 pixels of the other, over all slices of "
    "a patient; a slice in which only one of the masks exists counts with 0.",
    f"lesions: connected parts of at least {lesions.SPECK_3D} pixels in a patient's stack, or {lesions.SPECK} in a "
    f"slice (slice_lesion_*); found when at least {lesions.COVERED:.0%} of their pixels are predicted; a predicted "
    f"part is false when less than {lesions.COVERED:.0%} of its pixels are tumour.",
    "intervals: 95% percentile bootstrap, 10,000 resamples of patients; n is the number of patients behind a figure.",
)


@dataclass(frozen=True)
class Tables:
    """test_results.csv, test_patients.csv and test_lesions.csv."""

    slices: pd.DataFrame
    patients: pd.DataFrame
    lesions: pd.DataFrame


def spread(work: Callable[[int], Any], rows: Iterable[int]) -> list:
    """The result of each call, in order, on all cores: OpenCV, SciPy and NumPy let other threads run meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, rows))


def make_tables(slices: data.Slices, predicted: np.ndarray) -> Tables:
    """Compare the predicted masks (uint8 0 or 1, [N, H, W]) with the true ones."""
    per_slice = slice_table(slices, predicted)
    per_lesion, found = lesion_tables(slices, predicted)
    return Tables(per_slice, patient_table(slices, per_slice, found), per_lesion)


# --- Tables ----------------------------------------------------------------------------------------------------


def slice_table(slices: data.Slices, predicted: np.ndarray) -> pd.DataFrame:
    """A row a slice: what was there, what was predicted, and how they overlap."""
    masks = slices.masks.numpy()
    counts = metrics.count_pixels(torch.from_numpy(predicted) > 0, slices.masks > 0)
    counts = metrics.Counts(*(part.numpy() for part in counts))
    table = pd.DataFrame(
        {
            "patient": slices.patients,
            "slice": [data.slice_number(path) for path in slices.table["image_path"]],
            "image_path": slices.table["image_path"],
            "tumour_pixels": counts.target,
            "predicted_pixels": counts.predicted,
            "true_positive": counts.true_positive,
            "false_positive": counts.false_positive,
            "false_negative": counts.false_negative,
            "iou": metrics.iou(counts),
            "dice": metrics.dice(counts),
            "area_stratum": [area_stratum(pixels) for pixels in counts.target],
        }
    )
    shapes = spread(lambda row: describe_slice(masks[row], predicted[row]), range(len(masks)))
    return pd.concat([table, pd.DataFrame(shapes)], axis=1)


def describe_slice(mask: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """What the pixel counts of a slice do not say (masks uint8 0 or 1, [H, W])."""
    matched = lesions.match(mask, predicted, lesions.SPECK)
    outline = surfaces.compare(mask, predicted)
    missed = matched.pixels[~matched.found]
    return {
        "kind": lesions.kind_of_slice(mask),
        "parts": len(matched.found),
        "boundary_complexity": lesions.boundary_complexity(mask),
        "predicted_complexity": lesions.boundary_complexity(predicted),
        "hd95": outline.hd95,
        "surface_pixels": outline.pixels,
        **dict(zip(SURFACE_DICE, outline.dice, strict=True)),
        "lesions": len(matched.found),
        "lesions_found": int(matched.found.sum()),
        "largest_missed": int(missed.max()) if len(missed) else 0,
        "lesion_dice": float(matched.dice.mean()) if len(matched.dice) else np.nan,
        "predicted_lesions": matched.predicted,
        "false_lesions": matched.false,
        **dict(zip(("offset_x", "offset_y"), centre(predicted) - centre(mask), strict=True)),
    }


def centre(mask: np.ndarray) -> np.ndarray:
    """Centre of mass of a mask, (x, y) in pixels; NaN for an empty one."""
    moments = cv2.moments(mask, binaryImage=True)
    if not moments["m00"]:
        return np.full(2, np.nan)
    return np.array([moments["m10"], moments["m01"]]) / moments["m00"]


def area_stratum(pixels: int) -> str:
    """One of AREAS, by the tumour pixels of a slice; "no tumour" for none."""
    return next(name for name, end in AREAS.items() if pixels < end) if pixels else "no tumour"


def lesion_tables(slices: data.Slices, predicted: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row a true lesion of a patient's stack, a row a patient: its lesions, found, predicted, false)."""
    numbers = slices.table["image_path"].map(data.slice_number)
    of_patient = {patient: rows.sort_values() for patient, rows in numbers.groupby(slices.table["patient"])}
    masks = slices.masks.numpy()

    def matched(patient: str) -> lesions.Matching:
        rows, number = of_patient[patient].index, of_patient[patient].to_numpy()
        planes = planes_of(number)
        stacks = np.zeros((2, planes[-1] + 1, *masks.shape[1:]), np.uint8)
        stacks[0, planes], stacks[1, planes] = masks[rows], predicted[rows]
        found = lesions.match(*stacks, lesions.SPECK_3D)
        number_of = np.zeros(len(stacks[0]), int)
        number_of[planes] = number
        return found._replace(first=number_of[found.first], last=number_of[found.last])

    rows, sums = [], []
    for patient, of in zip(of_patient, spread(matched, of_patient), strict=True):
        sums.append((patient, len(of.found), int(of.found.sum()), of.predicted, of.false))
        columns = zip(of.first, of.last, of.pixels, of.overlap, of.found.astype(int), of.dice, strict=True)
        rows += [(patient, number, *column) for number, column in enumerate(columns, start=1)]
    names = ["patient", "lesion", "first_slice", "last_slice", "volume", "overlap", "found", "dice"]
    counted = ["patient", "lesions", "lesions_found", "predicted_lesions", "false_lesions"]
    return pd.DataFrame(rows, columns=names), pd.DataFrame(sums, columns=counted)


def planes_of(numbers: np.ndarray) -> np.ndarray:
    """Where sorted slice numbers go in a stack; a gap leaves one empty plane, across which nothing is connected."""
    return np.concatenate([[0], np.cumsum(np.clip(np.diff(numbers), 1, 2))]).astype(int)


def patient_table(slices: data.Slices, per_slice: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """A row a patient: overlap of the whole volume, slices, outlines, lesions in 3D."""
    counts = metrics.Counts(*(per_slice[name].to_numpy() for name in metrics.Counts._fields))
    volumes = metrics.per_patient(counts, slices.patients)
    images = slices.images.numpy()
    rows = []
    for patient, volume in volumes.items():
        of = per_slice[per_slice["patient"] == patient]
        tumour, predicted = of["tumour_pixels"] > 0, of["predicted_pixels"] > 0
        rows.append(
            {
                "patient": patient,
                "institution": data.institution(patient),
                "sequences": data.sequences(images[of.index]),
                "slices": len(of),
                "tumour_slices": int(tumour.sum()),
                "tumour_pixels": int(volume.target[0]),
                "predicted_pixels": int(volume.predicted[0]),
                "dice": metrics.dice(volume)[0],
                "iou": metrics.iou(volume)[0],
                "sensitivity": metrics.sensitivity(volume)[0],
                "precision": metrics.precision(volume)[0],
                "missed_slices": int((tumour & (of["true_positive"] == 0)).sum()),
                "false_positive_slices": int((~tumour & predicted).sum()),
                "hd95": of["hd95"].mean(),
                "surface_pixels": int(of["surface_pixels"].sum()),
                **{name: _weighted(of[name], of["surface_pixels"]) for name in SURFACE_DICE},
            }
        )
    return pd.DataFrame(rows).merge(found, on="patient", validate="one_to_one")


def _weighted(values: pd.Series, weights: pd.Series) -> float:
    """Weighted mean; NaN where all weights are 0."""
    return float((values * weights).sum() / weights.sum()) if weights.sum() else float("nan")


# --- Figures ---------------------------------------------------------------------------------------------------


def figures(tables: Tables) -> dict[str, dict[str, float]]:
    """Every figure of the whole: value, low and high (95% interval over patients), n (patients behind it)."""
    s, p = tables.slices, tables.patients
    tumour, predicted = s["tumour_pixels"] > 0, s["predicted_pixels"] > 0
    found = (s["true_positive"] > 0).astype(float)

    def mean(table: pd.DataFrame, values: pd.Series, numbers: pd.Series | None = None) -> Mean:
        return Mean(table["patient"], values, numbers)

    means = {
        "iou": mean(s, s["iou"]),
        "all_empty": mean(s, (~tumour).astype(float)),
        "tumour_iou": mean(s, s["iou"].where(tumour)),
        "tumour_dice": mean(s, s["dice"].where(tumour)),
        "tumour_found": mean(s, found.where(tumour)),
        "tumour_missed": mean(s, (1 - found).where(tumour)),
        "false_positive_share": mean(s, predicted.astype(float).where(~tumour)),
        "false_positive_area": mean(s, s["predicted_pixels"].astype(float).where(~tumour & predicted)),
        **{f"patient_{name}": mean(p, p[name]) for name in PATIENT_MEANS},
        **{name: mean(p, p[name]) for name in ("hd95", *SURFACE_DICE)},
        "lesion_recall": mean(p, p["lesions_found"], p["lesions"]),
        "lesion_precision": mean(p, p["predicted_lesions"] - p["false_lesions"], p["predicted_lesions"]),
        "lesion_dice": mean(tables.lesions, tables.lesions["dice"]),
        "slice_lesion_recall": mean(s, s["lesions_found"], s["lesions"]),
        "slice_lesion_precision": mean(s, s["predicted_lesions"] - s["false_lesions"], s["predicted_lesions"]),
        "slice_lesion_dice": mean(s, s["lesion_dice"] * s["lesions"], s["lesions"]),
    }
    if "brier" in p:
        means["brier"] = mean(p, p["brier"] * p["brain_pixels"], p["brain_pixels"])
    medians = {}
    for name in PATIENT_MEANS:
        values = p[name].dropna().to_numpy()
        low, high = median_interval(values)
        value = float(np.median(values)) if len(values) else float("nan")
        medians[f"patient_{name}_median"] = {"value": value, "low": low, "high": high, "n": len(values)}
    return estimate(means) | medians
