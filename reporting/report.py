"""Every file that a test, or the scoring of masks, writes; report.html is its result on one page without other files.

Python prepares plain values here; report.html.jinja lays them out and escapes each of them.
"""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from constants import BAD_DICE, CRITERIA, RESEARCH_USE, SYNTHETIC_NOTICE
from dataset.slices import Slices
from evaluation.intervals import FEWEST
from evaluation.selection import Postprocessing
from evaluation.shape import PUBLISHED
from evaluation.summary import HEADLINES, METRICS, metric_rows
from evaluation.tables import Tables
from reporting import panels, plots
from reporting.genomics import sentences, text_tables
from reporting.templates import render
from reporting.viewer import viewer_data
from scans.show import BRIGHTEST
from storage.run_folder import RunFolder

PLOTS = {  # of each section of the report, by the name of their files
    "volumes": ("bland_altman", "dice_area"),
    "calibration": ("reliability", "expected_dice"),
    "genomics": tuple(f"boxes_{name}" for name in PUBLISHED),
    "training": ("loss", "iou"),
}
SECTIONS = {
    "summary": "Summary", "viewer": "Slice viewer", "patients": "Patients", "failures": "Failures",
    "subgroups": "Subgroups", "volumes": "Volumes", "lesions": "Lesions", "calibration": "Calibration",
    "genomics": "Genomics", "training": "Training", "terms": "Terms and files",
}  # fmt: skip
PATIENT_COLUMNS = [
    "patient", "dice", "sensitivity", "precision", "tumour_slices", "missed_slices", "false_positive_slices", "hd95",
    "surface_dice_2", "lesions", "lesions_found", "false_lesions",
]  # fmt: skip


def write_result(
    run: RunFolder, slices: Slices, predicted: np.ndarray, tables: Tables, metrics: dict[str, Any],
    epochs: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """Write test_*.csv, metrics.json, test_predictions.npz, plots and report.html.

    Args:
        predicted: uint8 0 or 1, [N, H, H].
        tables, metrics: see evaluate_masks.
        epochs: the metrics of all epochs of the run; None for a cross-validation, and for masks of unknown origin.
    """
    notice = SYNTHETIC_NOTICE if metrics["synthetic"] else ""
    for name in (*panels.PANELS, *PLOTS["volumes"], *PLOTS["calibration"]):  # of an earlier result
        (run.path / "plots" / f"{name}.png").unlink(missing_ok=True)
    run.write_test(tables, metrics, predicted)
    panels.write_panels(run, slices, predicted, tables["slices"], notice)
    drawn = plots.result_plots(tables["patients"], tables["slices"], metrics)
    if epochs is not None:  # with the epoch that was tested marked, which need not have the best IoU
        drawn |= plots.training_plots(epochs, metrics["epoch"], metrics["selected_by"])
    plots.write_plots(run, drawn, notice)
    write_report(run, slices, predicted)


def write_report(
    run: RunFolder, slices: Slices, predicted: np.ndarray, study: dict[str, pd.DataFrame] | None = None
) -> None:
    """Write report.html into the folder of a run, a cross-validation or scored masks, after its tables and plots.

    Args:
        slices: in the order of test_results.csv.
        predicted: uint8 [N, H, H], 0 or 1.
        study: of radiogenomics.py, on these masks.
    """
    tables, metrics = run.read_test_tables(), run.read_metrics()
    patients = tables["patients"].sort_values(["dice", "patient"], ascending=[False, True])
    known = {  # sections that not every report has
        "calibration": "calibration" in metrics,  # masks alone have no probabilities
        "genomics": study is not None,
        "training": not metrics.get("folds") and (run.path / "plots" / "loss.png").is_file(),
    }
    page = {
        "sections": {id: title for id, title in SECTIONS.items() if known.get(id, True)},
        "charts": {section: find_plots(run, names) for section, names in PLOTS.items()},
        "size": slices.images.shape[1],
        "title": f"Report: {run.path.resolve().name} ({metrics['split']})",
        "synthetic_notice": SYNTHETIC_NOTICE if metrics["synthetic"] else "",
        "research_use": RESEARCH_USE,
        "facts": facts(run, metrics, tables["slices"]),
        "metrics": metrics,
        "summary": metric_rows(metrics, HEADLINES),
        "further": metric_rows(metrics, [name for name in METRICS if name not in HEADLINES]),
        "patient_table": as_table(patients[PATIENT_COLUMNS]),
        "lesion_table": as_table(tables["lesions"].sort_values("volume", ascending=False)),
        "calibration": metric_rows(metrics, ("brier", "ece")),
        "genomics": study and {
            "sentences": sentences(study),
            "tables": {title: table.to_html(index=False, border=0) for title, table in text_tables(study).items()},
        },
        "fewest": FEWEST,
        "brightest": BRIGHTEST,
        "bad_dice": BAD_DICE,
        "has_images": bool(slices.images.any()),  # masks can be scored without
        "viewer": viewer_data(slices, predicted, tables["slices"], patients, metrics.get("spacing")),
    }  # fmt: skip
    run.write("report.html", render(page).encode())


def find_plots(run: RunFolder, names: Iterable[str]) -> dict[str, str]:
    """Return those plots of a run that there are, PNG in base64, by name."""
    paths = {name: run.path / "plots" / f"{name}.png" for name in names}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in paths.items() if path.is_file()}


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
        rules = [Postprocessing.of(fold).describe() for fold in metrics.get("folds") or [metrics]]
        rows |= {
            "Epoch": f"{epoch or 'per fold'}, {CRITERIA[metrics['selected_by']]}",
            "Masks": " / ".join(dict.fromkeys(rules)),
            "Training patients": epoch and config["patients"]["train"],
            "Network": f"U-Net, width {config['settings']['width']}",
            "Trained with": f"PyTorch {config['versions']['torch']} on {config['hardware']}",
            "Recipe": config.get("recipe"),
            "Command": epoch and config.get("command"),
            "Commit": config.get("commit"),
        }
    return {name: value for name, value in rows.items() if value} | {"Written": f"{datetime.now(UTC):%Y-%m-%d}"}


def as_table(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table for the page: its columns, the numeric ones among them, and its rows."""
    numeric = [name for name in table if pd.api.types.is_numeric_dtype(table[name])]
    return {"columns": list(table), "numeric": numeric, "rows": table.to_dict("records")}
