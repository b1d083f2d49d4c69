"""What predicted masks are worth: a row a slice, a row a patient, a row a lesion, and the figures of the whole.

Figures are computed from the tables, so that those of several runs (cross-validation) are computed alike.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from dataset.published import institution, sequences
from dataset.slices import Slices, slice_number
from evaluation import lesions, metrics, surfaces
from utils import parallel_map

AREAS = {"<200": 200, "200-500": 500, "500-1k": 1000, "1k-2k": 2000, ">2k": np.inf}  # pixels below which it ends
SURFACE_DICE = [f"surface_dice_{tolerance}" for tolerance in surfaces.TOLERANCES]


@dataclass(frozen=True)
class Tables:
    """test_results.csv, test_patients.csv and test_lesions.csv."""

    slices: pd.DataFrame
    patients: pd.DataFrame
    lesions: pd.DataFrame

    def as_dict(self) -> dict[str, pd.DataFrame]:
        return {"slices": self.slices, "patients": self.patients, "lesions": self.lesions}


def make_tables(slices: Slices, predicted: np.ndarray) -> Tables:
    """Compare the predicted masks (uint8 0 or 1, [N, H, W]) with the true ones."""
    per_slice = slice_table(slices, predicted)
    per_lesion, found = lesion_tables(slices, predicted)
    return Tables(per_slice, patient_table(slices, per_slice, found), per_lesion)


# --- Tables ----------------------------------------------------------------------------------------------------


def slice_table(slices: Slices, predicted: np.ndarray) -> pd.DataFrame:
    """A row a slice: what was there, what was predicted, and how they overlap."""
    masks = slices.masks.numpy()
    counts = metrics.count_pixels(torch.from_numpy(predicted) > 0, slices.masks > 0)
    counts = metrics.Counts(*(part.numpy() for part in counts))
    table = pd.DataFrame(
        {
            "patient": slices.patients,
            "slice": [slice_number(path) for path in slices.table["image_path"]],
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
    shapes = parallel_map(lambda row: describe_slice(masks[row], predicted[row]), range(len(masks)))
    return pd.concat([table, pd.DataFrame(shapes)], axis=1)


def describe_slice(mask: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """What the pixel counts of a slice do not say (masks uint8 0 or 1, [H, W])."""
    matched = lesions.match(mask, predicted, lesions.SPECK)
    outline = surfaces.compare(mask, predicted)
    missed = matched.pixels[~matched.found]
    return {
        "kind": lesions.kind_of_slice(mask),
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


def lesion_tables(slices: Slices, predicted: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row a true lesion of a patient's stack, a row a patient: its lesions, found, predicted, false)."""
    numbers = slices.table["image_path"].map(slice_number)
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
    for patient, of in zip(of_patient, parallel_map(matched, of_patient), strict=True):
        sums.append((patient, len(of.found), int(of.found.sum()), of.predicted, of.false))
        columns = zip(of.first, of.last, of.pixels, of.overlap, of.found.astype(int), of.dice, strict=True)
        rows += [(patient, number, *column) for number, column in enumerate(columns, start=1)]
    names = ["patient", "lesion", "first_slice", "last_slice", "volume", "overlap", "found", "dice"]
    counted = ["patient", "lesions", "lesions_found", "predicted_lesions", "false_lesions"]
    return pd.DataFrame(rows, columns=names), pd.DataFrame(sums, columns=counted)


def planes_of(numbers: np.ndarray) -> np.ndarray:
    """Where sorted slice numbers go in a stack; a gap leaves one empty plane, across which nothing is connected."""
    return np.concatenate([[0], np.cumsum(np.clip(np.diff(numbers), 1, 2))]).astype(int)


def patient_table(slices: Slices, per_slice: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
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
                "institution": institution(patient),
                "sequences": sequences(images[of.index]),
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
