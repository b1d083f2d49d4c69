"""The result of a test: name and meaning of each metric, the content of metrics.json, and its text on one screen.

Computed from tables alone: a cross-validation is summarised exactly as one run.
"""

import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dataset.slices import Slices
from evaluation import calibration, failures, intervals, lesions, quality
from evaluation.tables import PATIENT_METRICS, Spacing, Tables, make_tables
from utils import parallel_map, show_number

SHOWN_PATIENTS = 12  # worst, that are printed, and their columns
WORST = ["patient", "dice", "sensitivity", "precision", "tumour_slices", "missed_slices"]
HEADLINES = (  # that are printed, and stand in the report's summary
    "patient_dice", "patient_dice_tumour", "patient_dice_median", "patient_sensitivity", "patient_precision",
    "tumour_iou", "tumour_found", "false_positive_share", "lesion_recall", "surface_dice_2", "hd95", "hd95_mm", "iou",
    "empty_prediction", "brier", "loss",
)  # fmt: skip


class Metric(NamedTuple):
    """How a metric is shown."""

    label: str  # its name, which stands alone
    meaning: str  # its definition, one sentence
    form: str = ".3f"  # format of its value
    is_share: bool = True  # whether it lies between 0 and 1 by definition, and 1 is best or worst


METRICS = {  # every metric of metrics.json; in epochs.csv, training_ or validation_ precedes the name
    "patient_dice": Metric(
        "Volumetric Dice, mean over patients",
        "2 TP / (2 TP + FP + FN) over all pixels of a patient's stack, then the mean over patients. A patient without "
        "tumour has 1 if nothing is predicted, otherwise 0.",
    ),
    "patient_dice_tumour": Metric(
        "Volumetric Dice, mean, patients with tumour", "The mean over the patients with tumour alone."
    ),
    "patient_dice_median": Metric("Volumetric Dice, median over patients", "Half of the patients have more."),
    "patient_iou": Metric("Volumetric IoU, mean over patients", "TP / (TP + FP + FN) of a stack, then the mean."),
    "patient_sensitivity": Metric("Sensitivity, mean over patients", "Predicted share of a patient's tumour pixels."),
    "patient_precision": Metric("Precision, mean over patients", "Tumour's share of a patient's predicted pixels."),
    "tumour_iou": Metric("IoU, mean over tumour slices", "TP / (TP + FP + FN) of each slice with tumour."),
    "tumour_found": Metric("Tumour slices found", "Share of the slices with tumour with a true positive pixel.", ".1%"),
    "false_positive_share": Metric(
        "Empty slices with a false positive", "Share of the slices without tumour with any predicted pixel.", ".1%"
    ),
    "false_positive_area": Metric(
        "False positive area, pixels", "Mean predicted pixels of the empty slices with a false positive.", ".0f", False
    ),
    "lesion_recall": Metric("Lesions found, in 3D", "Share of the reference lesions in 3D that are found.", ".1%"),
    "lesion_precision": Metric(
        "Predicted lesions that match, in 3D", "Share of the predicted components in 3D that match tumour.", ".1%"
    ),
    "hd95": Metric(
        "HD95, pixels",
        "95th percentile of the distances between both outlines, in slices where both masks exist: missed slices do "
        "not show in it.", ".1f", False,
    ),
    "surface_dice_2": Metric("Surface Dice at 2 px", "Share of both outlines within 2 px of the other."),
    "hd95_mm": Metric(
        "HD95, mm", "95th percentile of the distances between both surfaces in 3D, where both exist.", ".1f", False
    ),
    "surface_distance_mm": Metric(
        "Surface distance, mm", "Mean of these distances, from each surface to the other and back.", ".2f", False
    ),
    "surface_dice_2mm": Metric("Surface Dice at 2 mm", "Share of both surfaces in 3D within 2 mm of the other."),
    "iou": Metric(
        "IoU, mean over all slices",
        "The published metric: empty against empty counts as 1. Read it beside the IoU of an empty prediction.",
    ),
    "empty_prediction": Metric(
        "IoU of an empty prediction",
        "The IoU over all slices if nothing is predicted anywhere: the share of slices without tumour.",
    ),
    "brier": Metric(
        "Brier score on head pixels", "Mean squared difference of probability and reference mask.", ".4f", False
    ),
    "ece": Metric(
        "Expected calibration error",
        "Mean over head pixels of |mean probability - share of tumour| in their bin of probability.", ".4f", False,
    ),
    "loss": Metric(
        "Loss, mean over batches",
        "What training minimised. A Dice loss is that of a whole batch: compare it between equal batch sizes only.",
        ".4f", False,
    ),
}  # fmt: skip


def evaluate_masks(
    slices: Slices, predicted: np.ndarray, probabilities: np.ndarray | None, details: dict, notes: list[str],
    spacing: Spacing | None = None,
) -> tuple[Tables, dict]:  # fmt: skip
    """Compare predicted masks with the reference masks of the slices; return the tables and metrics.json's content.

    Args:
        predicted: uint8 0 or 1, [N, H, W].
        probabilities: float32 [N, H, W]; None for masks without probabilities.
        details, notes: see summarise.
        spacing: where known: distances are in mm, too.
    """
    tables, curve = make_tables(slices, predicted, spacing), None
    if spacing:
        details = details | {"spacing": spacing}
    if probabilities is not None:
        curve, brier = calibration.calibrate(slices, probabilities)
        tables["patients"] = tables["patients"].merge(brier, on="patient", validate="one_to_one")
        stacks, dice = slices.stacks(), tables["patients"].set_index("patient")["dice"]

        def describe(patient: str) -> dict[str, Any]:
            features = quality.features(probabilities[stacks[patient]], predicted[stacks[patient]])
            return {"patient": patient, "dice": float(dice[patient])} | features

        details = details | {"quality": quality.study(parallel_map(describe, stacks), tables["patients"])}
    return tables, summarise(tables, curve, details, notes)


def summarise(
    tables: Tables, curve: calibration.Curve | None, details: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Return the content of metrics.json.

    Args:
        curve: the reliability curve; None for masks without probabilities.
        details: split, epoch, selected_by, synthetic, threshold, min_component, loss and other facts about the run.
        notes: sentences that must be read with the metrics.
    """
    estimates = estimate_metrics(tables)
    return {
        **details,
        "slices": len(tables["slices"]),
        "patients": len(tables["patients"]),
        "patients_without_tumour": int((tables["patients"]["tumour_pixels"] == 0).sum()),
        **{name: estimate["value"] for name, estimate in estimates.items()},
        **{name: int(tables["patients"][name].sum()) for name in ("lesions", "lesions_found", "false_lesions")},
        **({"ece": calibration.expected_calibration_error(curve), "calibration": curve} if curve else {}),
        "intervals": estimates,
        "subgroups": failures.subgroup_metrics(tables),
        "failures": failures.list_failures(tables["slices"]),
        "notes": notes,
    }


def estimate_metrics(tables: Tables) -> dict[str, dict[str, float]]:
    """Return value, low, high, n and values of each metric, see intervals.estimate."""
    s, p = tables["slices"], tables["patients"]
    tumour, predicted = s["tumour_pixels"] > 0, s["predicted_pixels"] > 0
    hit = (s["true_positive"] > 0).astype(float)
    means = {  # name: a table, sums, and numbers unless they are 1 (see intervals.estimate)
        "iou": (s, s["iou"]),
        "empty_prediction": (s, (~tumour).astype(float)),
        "tumour_iou": (s, s["iou"].where(tumour)),
        "tumour_found": (s, hit.where(tumour)),
        "false_positive_share": (s, predicted.astype(float).where(~tumour)),
        "false_positive_area": (s, s["predicted_pixels"].astype(float).where(~tumour & predicted)),
        **{f"patient_{name}": (p, p[name]) for name in PATIENT_METRICS},
        "patient_dice_tumour": (p, p["dice"].where(p["tumour_pixels"] > 0)),
        **{name: (p, p[name]) for name in ("hd95", "surface_dice_2", *lesions.IN_MM) if name in p},
        "lesion_recall": (p, p["lesions_found"], p["lesions"]),
        "lesion_precision": (p, p["predicted_lesions"] - p["false_lesions"], p["predicted_lesions"]),
        **({"brier": (p, p["brier"] * p["head_pixels"], p["head_pixels"])} if "brier" in p else {}),
    }
    estimates = {
        name: intervals.estimate(
            table["patient"], *columns, scale=intervals.SHARE if METRICS[name].is_share else intervals.AMOUNT
        )
        for name, (table, *columns) in means.items()
    }
    return estimates | {"patient_dice_median": intervals.estimate_median(p["patient"], p["dice"])}


def metric_rows(metrics: dict[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """Return how each metric that has a value is shown; metrics: see `summarise`, or of an epoch.

    Each row has name, label, meaning, is_share; value, low and high of its 95% confidence interval, as numbers (None
    without) and as `text` and `interval`, or instead of the interval the values of few patients; and a remark.
    """
    area = metrics.get("false_positive_area")  # none without any
    remarks = {
        "patient_dice": "{patients_without_tumour} of {patients} patients without tumour",
        "false_positive_share": f"{area:.0f} px each" if area and area > 0 else "",
        "lesion_recall": "{lesions_found} of {lesions}, and {false_lesions} false",
        "hd95": "slices with both masks only",
        "brier": f"{METRICS['ece'].label.lower()} {show_number(metrics.get('ece'), METRICS['ece'].form)}",
    }
    rows = []
    for name in (name for name in names if pd.notna(metrics.get(name))):
        label, meaning, form, is_share = METRICS[name]
        estimate = metrics.get("intervals", {}).get(name, {"low": None, "high": None, "values": []})
        shown = {"text": show_number(metrics[name], form), "interval": intervals.show_interval(estimate, form)}
        about = {"name": name, "label": label, "meaning": meaning, "is_share": is_share}
        remark = remarks.get(name, "").format_map(metrics) if "patients_without_tumour" in metrics else ""
        rows.append(about | estimate | shown | {"value": metrics[name], "remark": remark})
    return rows


def describe(metrics: dict[str, Any], patients: pd.DataFrame) -> str:
    """Return the result of a test on one screen (metrics: see `summarise`; patients: as in test_patients.csv)."""
    lines = [f"{'':47} value   95% confidence interval over patients; below {intervals.FEWEST}, their values"]
    for row in metric_rows(metrics, HEADLINES):
        lines.append("  {label:<46}{text:>7}   {interval:<16}  {remark}".format_map(row).rstrip())
    worst = patients.sort_values(["dice", "patient"]).head(SHOWN_PATIENTS)
    lines.append(f"  Volumetric Dice per patient, lowest first ({len(worst)} of {len(patients)}):")
    lines.append(textwrap.indent(worst[WORST].to_string(index=False, float_format="%.3f", na_rep="-"), "    "))
    lines.append("  Failures, in slices that could have them:")
    lines += [f"    {row['kind']:<34} {row['count']:4d} of {row['of']}" for row in metrics["failures"]]
    lines += [textwrap.fill(note, 118, initial_indent="  ! ", subsequent_indent="    ") for note in metrics["notes"]]
    return "\n".join(lines)
