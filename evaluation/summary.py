"""The result of a test in one piece, metrics.json: metrics with intervals, subgroups, failures, calibration, notes.

Made from tables alone, so that one run and a whole cross-validation give the same.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from evaluation import bootstrap, failures, lesions, subgroups
from evaluation.bootstrap import Mean
from evaluation.names import METRICS
from evaluation.tables import SURFACE_DICE, Tables
from utils import show_number

PATIENT_METRICS = ("dice", "iou", "sensitivity", "precision")  # shown as mean and median over patients
SHOWN_PATIENTS = 12  # worst, that are printed
CONVENTIONS = (
    "iou: mean over slices, empty against empty is 1; empty_prediction is the same if nothing is predicted.",
    "patient_*: all pixels of a patient counted together, then the mean (or median) over patients; sensitivity without "
    "tumour and precision without prediction are undefined and left out.",
    "hd95: of the slices in which tumour and prediction both exist, in pixels, averaged per patient; missed slices "
    "do not show in it. surface_dice_*: share of both outlines within 1, 2, 3 pixels of the other, over all slices of "
    "a patient; a slice in which only one of the masks exists counts as 0.",
    f"lesions: connected components of at least {lesions.SPECK_3D} pixels in a patient's stack, or {lesions.SPECK} in "
    f"a slice (slice_lesion_*); found when at least {lesions.COVERED:.0%} of their pixels are predicted; a predicted "
    f"component is false when less than {lesions.COVERED:.0%} of its pixels are tumour.",
    "intervals: 95% percentile bootstrap, 10,000 resamples of patients; n is the number of patients behind a metric.",
)


def summarise(tables: Tables, calibration: dict, about: dict, notes: list[str]) -> dict[str, Any]:
    """Return the content of metrics.json.

    Args:
        calibration: as of calibration.summarise.
        about: split, epoch, selected_by, synthetic, threshold, min_component, loss and what else is known of the run.
        notes: sentences that go before those found here.
    """
    intervals = estimate_metrics(tables)
    dice = intervals["patient_dice"]
    caveat = bootstrap.caveat(dice["n"], dice["low"], dice["high"])
    return {
        **about,
        "slices": len(tables.slices),
        "patients": len(tables.patients),
        **{name: estimate["value"] for name, estimate in intervals.items()},
        **{name: int(tables.patients[name].sum()) for name in ("lesions", "lesions_found", "false_lesions")},
        "ece": calibration["ece"],
        "intervals": intervals,
        "subgroups": subgroups.stratify(tables),
        "failures": failures.find(tables),
        "calibration": calibration,
        "notes": [*notes, *failures.diagnose(tables), *filter(None, [caveat])],
        "conventions": list(CONVENTIONS),
    }


def estimate_metrics(tables: Tables) -> dict[str, dict[str, float]]:
    """Return each metric as value, low and high (95% confidence interval over patients) and n (patients behind it)."""
    s, p = tables.slices, tables.patients
    tumour, predicted = s["tumour_pixels"] > 0, s["predicted_pixels"] > 0
    found = (s["true_positive"] > 0).astype(float)

    def mean(table: pd.DataFrame, values: pd.Series, numbers: pd.Series | None = None) -> Mean:
        return Mean(table["patient"], values, numbers)

    means = {
        "iou": mean(s, s["iou"]),
        "empty_prediction": mean(s, (~tumour).astype(float)),
        "tumour_iou": mean(s, s["iou"].where(tumour)),
        "tumour_dice": mean(s, s["dice"].where(tumour)),
        "tumour_found": mean(s, found.where(tumour)),
        "tumour_missed": mean(s, (1 - found).where(tumour)),
        "false_positive_share": mean(s, predicted.astype(float).where(~tumour)),
        "false_positive_area": mean(s, s["predicted_pixels"].astype(float).where(~tumour & predicted)),
        **{f"patient_{name}": mean(p, p[name]) for name in PATIENT_METRICS},
        **{name: mean(p, p[name]) for name in ("hd95", *SURFACE_DICE)},
        "lesion_recall": mean(p, p["lesions_found"], p["lesions"]),
        "lesion_precision": mean(p, p["predicted_lesions"] - p["false_lesions"], p["predicted_lesions"]),
        "lesion_dice": mean(tables.lesions, tables.lesions["dice"]),
        "slice_lesion_recall": mean(s, s["lesions_found"], s["lesions"]),
        "slice_lesion_precision": mean(s, s["predicted_lesions"] - s["false_lesions"], s["predicted_lesions"]),
        "slice_lesion_dice": mean(s, s["lesion_dice"] * s["lesions"], s["lesions"]),
        "brier": mean(p, p["brier"] * p["head_pixels"], p["head_pixels"]),
    }
    medians = {}
    for name in PATIENT_METRICS:
        values = p[name].dropna().to_numpy()
        low, high = bootstrap.median_interval(values)
        value = float(np.median(values)) if len(values) else float("nan")
        medians[f"patient_{name}_median"] = {"value": value, "low": low, "high": high, "n": len(values)}
    return bootstrap.estimate(means) | medians


# --- For people ------------------------------------------------------------------------------------------------


def describe_epoch(metrics: dict[str, float]) -> str:
    """Return an IoU and the metrics without which it misleads, one per line (see metrics.summarise)."""
    names = ("iou", "empty_prediction", "tumour_iou", "tumour_found", "patient_dice")
    return "\n".join(f"  {METRICS[n].label:<46}{show_number(metrics[n], METRICS[n].form):>7}" for n in names)


def describe(metrics: dict[str, Any], patients: pd.DataFrame) -> str:
    """Return the result of a test on one screen (metrics as of `summarise`, patients as in test_patients.csv)."""
    remarks = {
        "patient_dice": f"median {show_number(metrics['patient_dice_median'])}",
        "false_positive_share": _area(metrics["false_positive_area"]),
        "lesion_recall": f"{metrics['lesions_found']} of {metrics['lesions']}, and {metrics['false_lesions']} false",
        "hd95": "slices with both masks only",
        "brier": f"{METRICS['ece'].label.lower()} {show_number(metrics['ece'], METRICS['ece'].form)}",
    }
    shown = (
        "patient_dice", "patient_sensitivity", "patient_precision", "tumour_iou", "tumour_missed",
        "false_positive_share", "lesion_recall", "hd95", *SURFACE_DICE, "iou", "empty_prediction", "brier",
    )  # fmt: skip
    lines = [f"{'':47} value   95% interval over patients"]
    for name in shown:
        label, _, form, _ = METRICS[name]
        value, low, high = (show_number(metrics["intervals"][name][part], form) for part in ("value", "low", "high"))
        lines.append(f"  {label:<46}{value:>7}   {f'{low} to {high}':<16} {remarks.get(name, '')}".rstrip())
    lines += [
        f"  {METRICS['loss'].label:<46}{show_number(metrics['loss'], METRICS['loss'].form):>7}",
        *_describe_patients(patients),
        "  failures, slices:",
        *(f"    {row['kind']:<34} {row['count']:4d} of {row['of']}" for row in metrics["failures"]),
        *(textwrap.fill(note, 118, initial_indent="  ! ", subsequent_indent="    ") for note in metrics["notes"]),
    ]
    return "\n".join(lines)


def _describe_patients(patients: pd.DataFrame) -> list[str]:
    worst = patients.sort_values(["dice", "patient"]).head(SHOWN_PATIENTS)
    many = f", the worst {len(worst)} of {len(patients)}" if len(worst) < len(patients) else ""
    return [f"  volumetric Dice of each patient{many}:"] + [
        f"    {row.patient:<28} {row.dice:.3f}  (sensitivity {show_number(row.sensitivity)}, "
        f"precision {show_number(row.precision)}, {row.missed_slices} of {row.tumour_slices} tumour slices missed)"
        for row in worst.itertuples()
    ]


def _area(pixels: float) -> str:
    return "" if np.isnan(pixels) else f"{pixels:.0f} px each"
