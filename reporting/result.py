"""Everything that a test, or the scoring of masks, leaves in its folder."""

from typing import Any

import numpy as np
import pandas as pd

from constants import SYNTHETIC_NOTICE
from dataset.slices import Slices
from evaluation.tables import Tables
from reporting import panels, plots
from reporting.report import write_report
from storage.run_folder import RunFolder


def write_result(
    run: RunFolder,
    slices: Slices,
    predicted: np.ndarray,
    tables: Tables,
    metrics: dict[str, Any],
    epochs: pd.DataFrame | None = None,
) -> None:
    """Write test_*.csv, metrics.json, test_predictions.npz, plots and report.html.

    Args:
        predicted: uint8 0 or 1, [N, H, H].
        tables, metrics: as of judge.
        epochs: the metrics of all epochs of the run; None for masks of unknown origin.
    """
    notice = SYNTHETIC_NOTICE if metrics["synthetic"] else ""
    run.write_test(tables.as_dict(), metrics, predicted)
    panels.write_panels(run, slices, predicted, tables.slices, notice)
    plots.write_plots(run, plots.volume_plots(tables.patients, tables.slices), notice)
    if epochs is not None:  # the epoch that was tested is marked, which need not have the best IoU
        plots.write_plots(run, plots.training_plots(epochs, metrics["epoch"]), notice)
    write_report(run, slices.images.numpy(), slices.masks.numpy(), predicted, epochs)
