"""Per-slice, per-patient and per-lesion table of a test, from which all metrics are computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from dataset.published import institution, sequences
from dataset.slices import Slices, slice_number
from evaluation import lesions, metrics
from utils import parallel_map

PATIENT_METRICS = ("dice", "iou", "sensitivity", "precision")  # of a patient's whole volume
Spacing = dict[str, Sequence[float]]  # mm between rows, columns and slices of each patient
Tables = dict[str, pd.DataFrame]  # slices, patients, lesions: test_results.csv, test_patients.csv, test_lesions.csv


def make_tables(slices: Slices, predicted: np.ndarray, spacing: Spacing | None = None) -> Tables:
    """Compare predicted masks (uint8 0 or 1, [N, H, W]) with the reference masks of the slices.

    Where the spacing of the patients is known, distances between surfaces are in mm and in 3D, too.
    """
    per_slice = slice_table(slices, predicted)
    per_lesion, of_stacks = stack_tables(slices, predicted, spacing)
    patients = patient_table(slices, per_slice, of_stacks)
    return {"slices": per_slice, "patients": patients, "lesions": per_lesion}


def slice_table(slices: Slices, predicted: np.ndarray) -> pd.DataFrame:
    """Return one row per slice: pixels of both masks, overlap, outlines."""
    masks = slices.masks.numpy()
    counts = metrics.count_pixels(torch.from_numpy(predicted) > 0, slices.masks > 0)
    counts = metrics.Counts(*(pixels.numpy() for pixels in counts))
    outlines = parallel_map(lambda row: lesions.compare_outlines(masks[row], predicted[row]), range(len(masks)))
    return pd.DataFrame(
        {
            "patient": slices.patients,
            "slice": [slice_number(path) for path in slices.table["image_path"]],
            "image_path": slices.table["image_path"],
            "tumour_pixels": counts.target,
            "predicted_pixels": counts.predicted,
            **counts._asdict(),
            "iou": metrics.iou(counts),
            "dice": metrics.dice(counts),
            **pd.DataFrame(outlines),
        }
    )


def stack_tables(
    slices: Slices, predicted: np.ndarray, spacing: Spacing | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per lesion of the reference masks in 3D, and one row per patient with what is measured in 3D."""
    all_numbers = slices.table["image_path"].map(slice_number).to_numpy()
    masks, stacks = slices.masks.numpy(), slices.stacks()

    def measure(patient: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        rows = stacks[patient]
        numbers = all_numbers[rows]
        gaps = np.clip(np.diff(numbers), 1, 2)  # one empty plane for any missing slices, which separates lesions
        planes = np.concatenate([[0], gaps.cumsum()]).astype(int)
        both = np.zeros((2, planes[-1] + 1, *masks.shape[1:]), np.uint8)
        both[:, planes] = masks[rows], predicted[rows]
        own, components, false = lesions.match(*both)
        for end in ("first_slice", "last_slice"):
            own[end] = numbers[np.searchsorted(planes, own[end])]
        own.insert(0, "lesion", own.index + 1)
        own.insert(0, "patient", patient)
        in_3d = {"patient": patient, "lesions": len(own), "lesions_found": int(own["found"].sum())}
        in_3d |= {"predicted_lesions": components, "false_lesions": false}
        if spacing:
            in_3d |= lesions.compare_surfaces(masks[rows], predicted[rows], spacing[patient])
        return own, in_3d

    per_lesion, per_patient = zip(*parallel_map(measure, stacks), strict=True)
    return pd.concat(per_lesion, ignore_index=True), pd.DataFrame(per_patient)


def patient_table(slices: Slices, per_slice: pd.DataFrame, of_stacks: pd.DataFrame) -> pd.DataFrame:
    """Return one row per patient: overlap of the whole volume, slices, outlines, lesions in 3D."""
    images = slices.images.numpy()
    tumour, predicted = per_slice["tumour_pixels"] > 0, per_slice["predicted_pixels"] > 0
    own = per_slice.assign(
        tumour_slices=tumour,
        missed_slices=tumour & (per_slice["true_positive"] == 0),
        false_positive_slices=~tumour & predicted,
        surface_near=per_slice["surface_dice_2"] * per_slice["surface_pixels"],
    ).groupby("patient")
    sums = own.sum(numeric_only=True)
    volume = metrics.Counts(*(sums[name] for name in metrics.Counts._fields))
    table = pd.DataFrame(
        {
            "institution": sums.index.map(institution),
            "sequences": own["patient"].apply(lambda rows: sequences(images[rows.index])),
            "slices": own.size(),
            **sums[["tumour_slices", "tumour_pixels", "predicted_pixels"]],
            **{name: getattr(metrics, name)(volume) for name in PATIENT_METRICS},
            **sums[["missed_slices", "false_positive_slices"]],
            "hd95": own["hd95"].apply(pd.Series.mean),
            "surface_pixels": sums["surface_pixels"],
            "surface_dice_2": sums["surface_near"] / sums["surface_pixels"],  # NaN without an outline
        }
    )
    return table.reset_index().merge(of_stacks, on="patient", validate="one_to_one")
