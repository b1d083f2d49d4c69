"""Every file that a test, or the scoring of masks, writes; report.html is its result on one page without other files.

Python prepares plain values here; report.html.jinja lays them out and escapes each of them.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from constants import CRITERIA, RESEARCH_USE, SYNTHETIC_NOTICE
from dataset.slices import Slices
from evaluation.genomics import Study
from evaluation.intervals import FEWEST, show_interval
from evaluation.summary import HEADLINES, METRICS
from evaluation.tables import Tables
from reporting import panels, plots
from reporting.genomics import sentences, study_plots, text_tables
from reporting.templates import render
from reporting.viewer import viewer_data
from scans.show import BRIGHTEST
from storage.run_folder import RunFolder


def write_result(
    run: RunFolder, slices: Slices, predicted: np.ndarray, tables: Tables, metrics: dict[str, Any],
    epochs: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """Write test_*.csv, metrics.json, test_predictions.npz, plots and report.html.

    Args:
        predicted: uint8 0 or 1, [N, H, H].
        tables, metrics: see evaluate_masks.
        epochs: the metrics of all epochs of the run; None for masks of unknown origin.
    """
    notice = SYNTHETIC_NOTICE if metrics["synthetic"] else ""
    run.write_test(tables._asdict(), metrics, predicted)
    panels.write_panels(run, slices, predicted, tables.slices, notice)
    plots.write_plots(run, plots.volume_plots(tables.patients, tables.slices), notice)
    if epochs is not None:  # with the epoch that was tested marked, which need not have the best IoU
        plots.write_plots(run, plots.training_plots(epochs, metrics["epoch"], metrics["selected_by"]), notice)
    write_report(run, slices, predicted, epochs)


def write_report(run: RunFolder, slices: Slices, predicted: np.ndarray, epochs: pd.DataFrame | None = None) -> None:
    """Write report.html into the folder of a run, a cross-validation or scored masks, after its `write_test`.

    Args:
        slices: in the order of test_results.csv.
        predicted: uint8 [N, H, H], 0 or 1.
        epochs: the metrics of all epochs; None for a cross-validation, which has several networks, and for masks.
    """
    tables, metrics = Tables(**run.read_test_tables()), run.read_metrics()
    patients = tables.patients.sort_values(["dice", "patient"], ascending=[False, True])
    genomics = None
    if stored := run.read_genomics(predicted):
        study = Study(*stored)
        texts = [{"title": title, **as_table(table)} for title, table in text_tables(study).items()]
        genomics = {"sentences": sentences(study), "tables": texts, "charts": charts(study_plots(study))}
    curves = {} if epochs is None else plots.training_plots(epochs, metrics["epoch"], metrics["selected_by"])
    measured = [name for name in METRICS if metrics.get(name) is not None]
    calibrated = "calibration" in metrics  # masks alone have no probabilities
    page = {
        "sections": {
            "summary": "Summary",
            "viewer": "Slice viewer",
            "patients": "Patients",
            "failures": "Failures",
            "subgroups": "Subgroups",
            "volumes": "Volumes",
            "lesions": "Lesions",
            **({"calibration": "Calibration"} if calibrated else {}),
            **({"genomics": "Genomics"} if genomics else {}),
            **({"training": "Training"} if curves else {}),
            "terms": "Terms and files",
        },
        "size": slices.images.shape[1],
        "title": f"Report: {run.path.resolve().name} ({metrics['split']})",
        "synthetic_notice": SYNTHETIC_NOTICE if metrics["synthetic"] else "",
        "research_use": RESEARCH_USE,
        "facts": facts(run, metrics, tables.slices),
        "verdict": verdict(metrics, tables),
        "metrics": metrics,
        "summary": [metric_row(name, metrics) for name in HEADLINES if name in measured],
        "further": [metric_row(name, metrics) for name in measured if name not in HEADLINES],
        "patient_table": as_table(patients.drop(columns=["surface_pixels", "head_pixels"], errors="ignore")),
        "volumes": charts(plots.volume_plots(patients, tables.slices)),
        "lesion_table": as_table(tables.lesions.sort_values("volume", ascending=False)),
        "calibration": [metric_row(name, metrics) for name in ("brier", "ece") if name in measured],
        "calibration_charts": charts(plots.probability_plots(metrics)) if calibrated else [],
        "expected": plots.describe_expected(nested) if (nested := metrics.get("quality", {}).get("nested")) else "",
        "genomics": genomics,
        "training": charts(curves),
        "fewest": FEWEST,
        "brightest": BRIGHTEST,
        "has_images": bool(slices.images.any()),  # masks can be scored without
        "viewer": viewer_data(slices, predicted, tables.slices, patients, metrics.get("spacing")),
    }
    run.write("report.html", render(page).encode())


def facts(run: RunFolder, metrics: dict[str, Any], slices: pd.DataFrame) -> dict[str, str]:
    """Return the facts about the test and the network, of a cross-validation those of the first fold."""
    tumour = (slices["tumour_pixels"] > 0).sum()
    rows = {
        "Patients": f"{slices['patient'].nunique():,}",
        "Slices": f"{len(slices):,}, {tumour:,} of them with tumour",
    }
    if "masks" in metrics:
        rows |= {name.capitalize(): metrics.get(name) for name in ("masks", "reference", "command", "commit")}
    else:
        config, epoch = run.tested_runs()[0].read_config(), metrics["epoch"]
        folds = pd.DataFrame(metrics.get("folds") or [metrics])
        rows |= {
            "Epoch": f"{epoch or 'per fold'}, {CRITERIA[metrics['selected_by']]}",
            "Threshold": _range(folds["threshold"]),
            "Smallest component": folds["min_component"].any() and _range(folds["min_component"], " px in a slice"),
            "Training patients": epoch and config["patients"]["train"],
            "Network": f"U-Net, width {config['settings']['width']}",
            "Trained with": f"PyTorch {config['versions']['torch']} on {config['hardware']}",
            "Recipe": config.get("recipe"),
            "Command": epoch and config.get("command"),
            "Commit": config.get("commit"),
        }
    return {name: value for name, value in rows.items() if value} | {"Written": f"{datetime.now(UTC):%Y-%m-%d}"}


def _range(values: pd.Series, unit: str = "") -> str:
    """Return one value, or those of all folds: 0.5, or 0.45 to 0.6, tuned per fold."""
    ends = [f"{value:g}" for value in sorted({values.min(), values.max()})]
    return " to ".join(ends) + unit + (", tuned per fold" if len(ends) > 1 else "")


def verdict(metrics: dict[str, Any], tables: Tables) -> list[str]:
    """Return a few sentences that follow from the counts alone."""
    slices, dice = tables.slices, tables.patients["dice"]
    tumour, predicted = slices["tumour_pixels"] > 0, slices["predicted_pixels"] > 0
    missed = (tables.patients["tumour_pixels"] > 0) & (dice == 0)
    iou, iou_empty = metrics["iou"], metrics["empty_prediction"]
    gain = f"{iou - iou_empty:.3f} above" if iou > iou_empty else "not above"
    return [
        *([] if predicted.any() else ["The prediction is empty in every slice."]),
        f"Tumour is found in {(slices['true_positive'] > 0).sum():,} of {tumour.sum():,} tumour slices.",
        f"There are false positives in {(~tumour & predicted).sum():,} of {(~tumour).sum():,} slices without tumour.",
        f"Lesions in 3D: {metrics['lesions_found']:,} of {metrics['lesions']:,} found, and "
        f"{metrics['false_lesions']:,} predicted ones are false.",
        f"Volumetric Dice per patient: {dice.min():.3f} to {dice.max():.3f}. Patients whose tumour is missed "
        f"completely: {missed.sum()}.",
        f"Patients without tumour: {metrics['patients_without_tumour']} of {metrics['patients']}, with a Dice of 1 "
        "where nothing is predicted.",
        f"IoU over all slices: {iou:.3f}, {gain} the {iou_empty:.3f} of an empty prediction.",
    ]


def metric_row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a metric's name, meaning, value and 95% confidence interval, as numbers (None without) and as text.

    The text has the patients' values where they are too few for an interval.
    """
    estimate = metrics["intervals"].get(name, {"low": None, "high": None, "values": []})
    empty = metrics["empty_prediction"] if name in ("iou", "empty_prediction") else None
    row = {"name": name, "empty": empty, **METRICS[name]._asdict(), **estimate, "value": metrics[name]}
    return row | {"interval": show_interval(estimate, row["form"])}


def charts(drawn: dict[str, plots.Plot]) -> list[dict[str, str]]:
    """Return plots for the page: title and SVG."""
    return [{"title": plot.title, "svg": plots.to_svg(plot.figure, name)} for name, plot in drawn.items()]


def as_table(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table for the page: its columns, the numeric ones among them, and its rows."""
    numeric = [name for name in table if pd.api.types.is_numeric_dtype(table[name])]
    return {"columns": list(table), "numeric": numeric, "rows": table.to_dict("records")}
