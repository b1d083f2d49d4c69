"""Per-slice, per-patient and per-lesion table of a test, from which all metrics are computed."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dataset.published import institution, sequences
from dataset.slices import Slices, slice_number
from evaluation import lesions, metrics
from utils import parallel_map

AREAS = {"<200": 200, "200-500": 500, "500-1k": 1000, "1k-2k": 2000, ">2k": np.inf}  # upper end in pixels, excluded
PATIENT_METRICS = ("dice", "iou", "sensitivity", "precision")  # of a patient's whole volume
SURFACE_DICE = [f"surface_dice_{tolerance}" for tolerance in lesions.TOLERANCES]


class Tables(NamedTuple):
    """test_results.csv (per slice), test_patients.csv and test_lesions.csv."""

    slices: pd.DataFrame
    patients: pd.DataFrame
    lesions: pd.DataFrame


def make_tables(slices: Slices, predicted: np.ndarray) -> Tables:
    """Compare predicted masks (uint8 0 or 1, [N, H, W]) with the reference masks of the slices."""
    per_slice = slice_table(slices, predicted)
    per_lesion, lesion_counts = lesion_tables(slices, predicted)
    return Tables(per_slice, patient_table(slices, per_slice, lesion_counts), per_lesion)


def slice_table(slices: Slices, predicted: np.ndarray) -> pd.DataFrame:
    """Return one row per slice: pixels of both masks, overlap, outlines, lesions."""
    masks = slices.masks.numpy()
    counts = metrics.count_pixels(torch.from_numpy(predicted) > 0, slices.masks > 0)
    counts = metrics.Counts(*(pixels.numpy() for pixels in counts))
    table = pd.DataFrame(
        {
            "patient": slices.patients,
            "slice": [slice_number(path) for path in slices.table["image_path"]],
            "image_path": slices.table["image_path"],
            "tumour_pixels": counts.target,
            "predicted_pixels": counts.predicted,
            **counts._asdict(),
            "iou": metrics.iou(counts),
            "dice": metrics.dice(counts),
            "area_stratum": np.array(["no tumour", *AREAS])[np.digitize(counts.target, [1, *AREAS.values()])],
        }
    )
    shapes = parallel_map(lambda row: describe_slice(masks[row], predicted[row]), range(len(masks)))
    return pd.concat([table, pd.DataFrame(shapes)], axis=1)


def describe_slice(mask: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Return the columns of a slice beside its pixel counts: kind, outlines, lesions (masks uint8 0 or 1, [H, W])."""
    matched = lesions.match(mask, predicted, lesions.SPECK)
    outline = lesions.compare_outlines(mask, predicted)
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
        "predicted_lesions": matched.predicted,
        "false_lesions": matched.false,
    }


def lesion_tables(slices: Slices, predicted: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per lesion of the reference masks in 3D, and one row per patient with the numbers of lesions."""
    numbers = slices.table["image_path"].map(slice_number).to_numpy()
    masks, stacks = slices.masks.numpy(), slices.stacks()

    def match(rows: np.ndarray) -> lesions.Matching:
        number = numbers[rows]
        gaps = np.clip(np.diff(number), 1, 2)  # one empty plane for any missing slices, which separates lesions
        planes = np.concatenate([[0], gaps.cumsum()]).astype(int)
        both = np.zeros((2, planes[-1] + 1, *masks.shape[1:]), np.uint8)
        both[:, planes] = masks[rows], predicted[rows]
        matched = lesions.match(*both, lesions.SPECK_3D)
        first, last = (number[np.searchsorted(planes, ends)] for ends in (matched.first, matched.last))
        return matched._replace(first=first, last=last)

    rows, counts = [], []
    for patient, m in zip(stacks, parallel_map(match, stacks.values()), strict=True):
        counts.append((patient, len(m.found), int(m.found.sum()), m.predicted, m.false))
        columns = zip(m.first, m.last, m.pixels, m.overlap, m.found.astype(int), m.dice, strict=True)
        rows += [(patient, number, *column) for number, column in enumerate(columns, start=1)]
    names = ["patient", "lesion", "first_slice", "last_slice", "volume", "overlap", "found", "dice"]
    counted = ["patient", "lesions", "lesions_found", "predicted_lesions", "false_lesions"]
    return pd.DataFrame(rows, columns=names), pd.DataFrame(counts, columns=counted)


def patient_table(slices: Slices, per_slice: pd.DataFrame, lesion_counts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per patient: overlap of the whole volume, slices, outlines, lesions in 3D."""
    images = slices.images.numpy()
    weights = per_slice["surface_pixels"]
    surface = per_slice[SURFACE_DICE].mul(weights, axis=0).assign(weights=weights).groupby(per_slice["patient"]).sum()
    weighted = surface[SURFACE_DICE].div(surface["weights"], axis=0)  # NaN without an outline
    rows = []
    for patient, own in per_slice.groupby("patient"):
        volume = metrics.Counts(*(own[name].sum() for name in metrics.Counts._fields))
        tumour, predicted = own["tumour_pixels"] > 0, own["predicted_pixels"] > 0
        rows.append(
            {
                "patient": patient,
                "institution": institution(patient),
                "sequences": sequences(images[own.index]),
                "slices": len(own),
                "tumour_slices": int(tumour.sum()),
                "tumour_pixels": int(volume.target),
                "predicted_pixels": int(volume.predicted),
                **{name: float(getattr(metrics, name)(volume)) for name in PATIENT_METRICS},
                "missed_slices": int((tumour & (own["true_positive"] == 0)).sum()),
                "false_positive_slices": int((~tumour & predicted).sum()),
                "hd95": own["hd95"].mean(),
                "surface_pixels": int(own["surface_pixels"].sum()),
                **weighted.loc[patient].to_dict(),
            }
        )
    return pd.DataFrame(rows).merge(lesion_counts, on="patient", validate="one_to_one")
