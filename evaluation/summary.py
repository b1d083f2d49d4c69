"""The result of a test: the content of metrics.json, and the same on one screen.

Computed from tables alone, so that it is the same for one run and for a whole cross-validation.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from evaluation import failures, intervals, lesions, subgroups
from evaluation.names import METRICS
from evaluation.tables import PATIENT_METRICS, SURFACE_DICE, Tables
from utils import show_number

SHOWN_PATIENTS = 12  # worst, that are printed
CONVENTIONS = (  # what the meanings in names.py leave open
    "Empty against empty counts as 1 in IoU and Dice. Sensitivity without tumour, precision without prediction, and "
    "HD95 unless both masks exist, are undefined and left out of means; surface Dice is 0 if only one mask exists.",
    f"Lesions are connected components of at least {lesions.SPECK_3D} pixels in a patient's stack, or {lesions.SPECK} "
    f"in a slice (slice_lesion_*). One is found when at least {lesions.COVERED:.0%} of its pixels are predicted; a "
    f"predicted component is false when less than {lesions.COVERED:.0%} of its pixels are tumour.",
    "95% confidence intervals are over patients: Student t of a mean, with the jackknife's standard error, on the "
    "logit scale for shares and the log scale for amounts; order statistics of a median. n is the number of patients "
    f"with a value: below {intervals.FEWEST}, their values stand instead. There is no interval if all are equal.",
)


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
        "subgroups": subgroups.summarise(tables),
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
