"""The result of a test: what each metric is called and means, the content of metrics.json, and the same on one screen.

Computed from tables alone, so that it is the same for one run and for a whole cross-validation.
"""

import textwrap
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dataset.slices import Slices
from evaluation import calibration, failures, intervals, lesions
from evaluation.tables import PATIENT_METRICS, SURFACE_DICE, Tables, make_tables
from utils import show_number

SHOWN_PATIENTS = 12  # worst, that are printed
CONVENTIONS = (  # what the meanings in METRICS leave open
    "Empty against empty counts as 1 in IoU and Dice. Sensitivity without tumour, precision without prediction, and "
    "HD95 unless both masks exist, are undefined and left out of means; surface Dice is 0 if only one mask exists.",
    f"Lesions are connected components of at least {lesions.SPECK_3D} pixels in a patient's stack, or {lesions.SPECK} "
    f"in a slice (slice_lesion_*). One is found when at least {lesions.COVERED:.0%} of its pixels are predicted; a "
    f"predicted component is false when less than {lesions.COVERED:.0%} of its pixels are tumour.",
    "95% confidence intervals are over patients: Student t of a mean, with the jackknife's standard error, on the "
    "logit scale for shares and the log scale for amounts; order statistics of a median. n is the number of patients "
    f"with a value: below {intervals.FEWEST}, their values stand instead. There is no interval if all are equal.",
)


class Metric(NamedTuple):
    """How a metric is shown."""

    label: str  # its name, which stands alone
    meaning: str  # its definition, one sentence
    form: str = ".3f"  # format of its value
    is_share: bool = True  # whether it lies between 0 and 1 by definition, and 1 is best or worst


METRICS = {  # every metric of metrics.json; in epochs.csv, training_ or validation_ precedes the name
    "patient_dice": Metric(
        "Volumetric Dice, mean over patients",
        "All pixels of a patient's stack counted together, 2 TP / (2 TP + FP + FN), then the mean over patients.",
    ),
    "patient_iou": Metric(
        "Volumetric IoU, mean over patients", "TP / (TP + FP + FN) of a patient's stack, then the mean over patients."
    ),
    "patient_sensitivity": Metric(
        "Sensitivity, mean over patients", "Share of a patient's tumour pixels that are predicted, TP / (TP + FN)."
    ),
    "patient_precision": Metric(
        "Precision, mean over patients", "Share of a patient's predicted pixels that are tumour, TP / (TP + FP)."
    ),
    "tumour_iou": Metric("IoU, mean over tumour slices", "TP / (TP + FP + FN), without the slices without tumour."),
    "tumour_dice": Metric("Dice, mean over tumour slices", "2 TP / (2 TP + FP + FN) of each slice with tumour."),
    "tumour_found": Metric(
        "Tumour slices found", "Share of the slices with tumour in which both masks share at least one pixel.", ".1%"
    ),
    "tumour_missed": Metric("Tumour slices missed", "Share of the slices with tumour that are not found.", ".1%"),
    "false_positive_share": Metric(
        "Empty slices with a false positive", "Share of the slices without tumour with any predicted pixel.", ".1%"
    ),
    "false_positive_area": Metric(
        "False positive area, pixels", "Mean predicted pixels of the empty slices with a false positive.", ".0f", False
    ),
    "lesion_recall": Metric(
        "Lesions found, in 3D", "Share of the connected components of the reference masks in 3D that are found.", ".1%"
    ),
    "lesion_precision": Metric(
        "Predicted lesions that match, in 3D", "Share of the predicted components in 3D that match tumour.", ".1%"
    ),
    "lesion_dice": Metric("Dice, mean over lesions in 3D", "Of a lesion and all predicted components that touch it."),
    "slice_lesion_recall": Metric(
        "Lesions found, in slices", "Share of the connected components of each slice that are found.", ".1%"
    ),
    "slice_lesion_precision": Metric(
        "Predicted lesions that match, in slices", "Share of the predicted components that match tumour.", ".1%"
    ),
    "slice_lesion_dice": Metric("Dice, mean over lesions in slices", "As in 3D, of the components of each slice."),
    "hd95": Metric(
        "HD95, pixels",
        "95th percentile of the distances between both outlines, in slices where both masks exist: missed slices do "
        "not show in it.",
        ".1f",
        is_share=False,
    ),
    "surface_dice_1": Metric("Surface Dice at 1 px", "Share of both outlines within 1 pixel of the other."),
    "surface_dice_2": Metric("Surface Dice at 2 px", "Share of both outlines within 2 pixels of the other."),
    "surface_dice_3": Metric("Surface Dice at 3 px", "Share of both outlines within 3 pixels of the other."),
    "iou": Metric(
        "IoU, mean over all slices",
        "The published metric: empty against empty counts as 1. Read it beside the IoU of an empty prediction.",
    ),
    "empty_prediction": Metric(
        "IoU of an empty prediction",
        "What the IoU over all slices is if nothing is predicted anywhere: the share of slices without tumour.",
    ),
    "brier": Metric(
        "Brier score on head pixels", "Mean squared difference of probability and reference mask.", ".4f", False
    ),
    "ece": Metric(
        "Expected calibration error",
        "Mean over head pixels of |mean probability - share of tumour| in their bin of probability.",
        ".4f",
        is_share=False,
    ),
    "loss": Metric(
        "Loss, mean over batches",
        "What training minimised. A Dice loss is that of a whole batch: compare it between equal batch sizes only.",
        ".4f",
        is_share=False,
    ),
}
METRICS |= {
    f"{name}_median": METRICS[name]._replace(
        label=METRICS[name].label.replace("mean", "median"), meaning="Half of the patients have more, half less."
    )
    for name in ("patient_dice", "patient_iou", "patient_sensitivity", "patient_precision")
}


def evaluate_masks(
    slices: Slices, predicted: np.ndarray, counts: np.ndarray, about: dict, notes: list[str]
) -> tuple[Tables, dict]:
    """Compare predicted masks with the reference masks of the slices; return the tables and the metrics.

    Args:
        predicted: uint8 0 or 1, [N, H, W].
        counts: of probabilities, as of calibration.count, or calibration.uncounted.
        about, notes: as of summarise.
    """
    tables = make_tables(slices, predicted)
    tables = replace(tables, patients=tables.patients.merge(calibration.per_patient(counts, slices.patients)))
    return tables, summarise(tables, calibration.summarise(counts), about, notes)


def summarise(tables: Tables, calibration: dict, about: dict, notes: list[str]) -> dict[str, Any]:
    """Return the content of metrics.json.

    Args:
        calibration: as of calibration.summarise.
        about: split, epoch, selected_by, synthetic, threshold, min_component, loss and what else describes the run.
        notes: sentences that precede those found here.
    """
    estimates = estimate_metrics(tables)
    dice = estimates["patient_dice"]
    caveat = intervals.caveat(dice["n"], dice["low"], dice["high"])
    return {
        **about,
        "slices": len(tables.slices),
        "patients": len(tables.patients),
        **{name: estimate["value"] for name, estimate in estimates.items()},
        **{name: int(tables.patients[name].sum()) for name in ("lesions", "lesions_found", "false_lesions")},
        "ece": calibration["ece"],
        "intervals": estimates,
        "subgroups": failures.subgroup_metrics(tables),
        "failures": failures.find(tables),
        "calibration": calibration,
        "notes": [*notes, *failures.diagnose(tables), *filter(None, [caveat])],
        "conventions": list(CONVENTIONS),
    }


def estimate_metrics(tables: Tables) -> dict[str, dict[str, float]]:
    """Return each metric as of intervals.estimate: value, low and high, n, and values."""
    s, p = tables.slices, tables.patients
    tumour, predicted = s["tumour_pixels"] > 0, s["predicted_pixels"] > 0
    found = (s["true_positive"] > 0).astype(float)
    means = {  # name: a table, sums (of one column of it), and numbers unless they are 1 (see intervals.estimate)
        "iou": (s, s["iou"]),
        "empty_prediction": (s, (~tumour).astype(float)),
        "tumour_iou": (s, s["iou"].where(tumour)),
        "tumour_dice": (s, s["dice"].where(tumour)),
        "tumour_found": (s, found.where(tumour)),
        "tumour_missed": (s, (1 - found).where(tumour)),
        "false_positive_share": (s, predicted.astype(float).where(~tumour)),
        "false_positive_area": (s, s["predicted_pixels"].astype(float).where(~tumour & predicted)),
        **{f"patient_{name}": (p, p[name]) for name in PATIENT_METRICS},
        **{name: (p, p[name]) for name in ("hd95", *SURFACE_DICE)},
        "lesion_recall": (p, p["lesions_found"], p["lesions"]),
        "lesion_precision": (p, p["predicted_lesions"] - p["false_lesions"], p["predicted_lesions"]),
        "lesion_dice": (tables.lesions, tables.lesions["dice"]),
        "slice_lesion_recall": (s, s["lesions_found"], s["lesions"]),
        "slice_lesion_precision": (s, s["predicted_lesions"] - s["false_lesions"], s["predicted_lesions"]),
        "slice_lesion_dice": (s, s["lesion_dice"] * s["lesions"], s["lesions"]),
        "brier": (p, p["brier"] * p["head_pixels"], p["head_pixels"]),
    }
    estimates = {
        name: intervals.estimate(
            table["patient"], *columns, scale=intervals.SHARE if METRICS[name].is_share else intervals.AMOUNT
        )
        for name, (table, *columns) in means.items()
    }
    medians = {name: intervals.estimate_median(p[name].dropna().to_numpy()) for name in PATIENT_METRICS}
    return estimates | {f"patient_{name}_median": median for name, median in medians.items()}


def describe_epoch(metrics: dict[str, float]) -> str:
    """Return an IoU and the metrics without which it misleads, one per line (see metrics.summarise)."""
    names = ("iou", "empty_prediction", "tumour_iou", "tumour_found", "patient_dice")
    return "\n".join(f"  {METRICS[n].label:<46}{show_number(metrics[n], METRICS[n].form):>7}" for n in names)


def describe(metrics: dict[str, Any], patients: pd.DataFrame) -> str:
    """Return the result of a test on one screen (metrics as of `summarise`, patients as in test_patients.csv)."""
    area = metrics["false_positive_area"]  # NaN without any
    remarks = {
        "patient_dice": f"median {show_number(metrics['patient_dice_median'])}",
        "false_positive_share": f"{area:.0f} px each" if area > 0 else "",
        "lesion_recall": f"{metrics['lesions_found']} of {metrics['lesions']}, and {metrics['false_lesions']} false",
        "hd95": "slices with both masks only",
        "brier": f"{METRICS['ece'].label.lower()} {show_number(metrics['ece'], METRICS['ece'].form)}",
    }
    shown = (
        "patient_dice", "patient_sensitivity", "patient_precision", "tumour_iou", "tumour_missed",
        "false_positive_share", "lesion_recall", "hd95", *SURFACE_DICE, "iou", "empty_prediction", "brier",
    )  # fmt: skip
    lines = [f"{'':47} value   95% confidence interval over patients; below {intervals.FEWEST}, their values"]
    for name in shown:
        if name == "brier" and np.isnan(metrics["brier"]):  # masks without probabilities
            continue
        label, _, form, _ = METRICS[name]
        interval = intervals.show_interval(metrics["intervals"][name], form)
        value = show_number(metrics[name], form)
        lines.append(f"  {label:<46}{value:>7}   {interval:<16}  {remarks.get(name, '')}".rstrip())
    if not np.isnan(metrics["loss"]):
        loss = METRICS["loss"]
        lines.append(f"  {loss.label:<46}{show_number(metrics['loss'], loss.form):>7}")
    worst = patients.sort_values(["dice", "patient"]).head(SHOWN_PATIENTS)
    lines.append(f"  Volumetric Dice per patient, lowest first ({len(worst)} of {len(patients)}):")
    lines += [
        f"    {row.patient:<28} {row.dice:.3f}  (sensitivity {show_number(row.sensitivity)}, "
        f"precision {show_number(row.precision)}, {row.missed_slices} of {row.tumour_slices} tumour slices missed)"
        for row in worst.itertuples()
    ]
    lines.append("  Failures, in slices that could have them:")
    lines += [f"    {row['kind']:<34} {row['count']:4d} of {row['of']}" for row in metrics["failures"]]
    lines += [textwrap.fill(note, 118, initial_indent="  ! ", subsequent_indent="    ") for note in metrics["notes"]]
    return "\n".join(lines)
