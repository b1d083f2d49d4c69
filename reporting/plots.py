"""Plots of a run, each drawn once, as PNG; the report shows these files."""

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from constants import BAD_DICE, CRITERIA
from evaluation.intervals import FEWEST, limits_of_agreement
from evaluation.selection import has_validation
from scans.show import BLUE, GREEN
from storage.run_folder import RunFolder

GREY = "#737373"
SIZE = (5.2, 4.0)  # inches; narrow, for text that stays legible on a phone
DPI = 200
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten


def training_plots(epochs: pd.DataFrame, chosen: int, by: str) -> dict[str, Figure]:
    """Return the learning curves by file name (columns of epochs.csv), with the epoch marked that was chosen.

    by: the one of CRITERIA that chose it.
    """
    return {metric: draw_curves(epochs, chosen, by, metric) for metric in ("loss", "iou")}


def result_plots(patients: pd.DataFrame, slices: pd.DataFrame, metrics: dict[str, Any]) -> dict[str, Figure]:
    """Return the plots of a test by file name (columns of test_patients.csv and test_results.csv; metrics.json)."""
    tumour = slices[slices["tumour_pixels"] > 0]
    bins = pd.DataFrame(metrics.get("calibration", []), columns=["pixels", "probability", "tumour_pixels"])
    bins = bins[bins["pixels"] > 0]
    plots = {"dice_area": draw_dice_against_area(tumour)} if len(tumour) else {}
    if len(patients) >= FEWEST:
        plots["bland_altman"] = draw_bland_altman(patients)
    if len(bins):
        plots["reliability"] = draw_reliability(bins)
    if metrics.get("quality", {}).get("nested"):
        plots["expected_dice"] = draw_expected(metrics["quality"])
    return plots


# --- Drawings --------------------------------------------------------------------------------------------------


def draw_curves(epochs: pd.DataFrame, chosen: int, by: str, metric: str) -> Figure:
    """Draw the training and validation loss or IoU against the epoch; the IoU beside that of an empty prediction."""
    label = {"loss": "Loss", "iou": "IoU"}[metric]
    figure, axes = new_axes(f"epoch\nmarked: {CRITERIA[by]}", label)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=True, min_n_ticks=1))
    for column, name, color, dashes in (
        (f"training_{metric}", "training", GREY, "-"),
        (f"validation_{metric}", "validation", BLUE, "-"),
        (f"validation_tumour_{metric}", "validation, tumour slices", BLUE, ":"),
    ):
        if column in epochs and epochs[column].notna().any():
            axes.plot(epochs["epoch"], epochs[column], dashes, color=color, marker=".", markersize=3, label=name)
    split = "validation" if has_validation(epochs) else "training"
    values = epochs.set_index("epoch")[f"{split}_{metric}"]
    axes.axvline(chosen, color=GREEN, lw=1, alpha=0.6)
    axes.plot(chosen, values[chosen], "o", color=GREEN, label=f"chosen epoch {chosen} ({values[chosen]:.3f})")
    if metric == "iou":
        empty = epochs[f"{split}_empty_prediction"].iloc[-1]
        axes.axhline(empty, color="black", ls="--", lw=1, label=f"{split}, empty prediction")
        axes.set_ylim(0, 1)
    else:
        set_log_scale(axes, "y")
        axes.set_ylabel("loss (log scale)")
    return finished(figure, f"{label} against epoch")


def draw_bland_altman(patients: pd.DataFrame) -> Figure:
    """Draw the difference of predicted and reference volume against the mean of both, one dot per patient."""
    reference, predicted = patients["tumour_pixels"] / 1000, patients["predicted_pixels"] / 1000
    bias, *limits = limits_of_agreement((predicted - reference).to_numpy())
    figure, axes = new_axes("mean of both volumes (1,000 pixels)", "difference (1,000 pixels)")
    axes.axhline(0, color=GREY, lw=1)
    axes.axhline(bias, color=BLUE, lw=1.5, label=f"mean difference, {bias:,.1f}")
    for limit, label in zip(limits, ("limits of agreement, ± 1.96 SD", ""), strict=True):
        axes.axhline(limit, color=BLUE, ls="--", lw=1, label=label)
    mean, label = (reference + predicted) / 2, f"patient ({len(patients)})"
    axes.plot(mean, predicted - reference, "o", color=BLUE, alpha=0.75, label=label)
    return finished(figure, "Volume, predicted − reference (Bland–Altman)")


def draw_dice_against_area(tumour: pd.DataFrame) -> Figure:
    """Draw the Dice of each tumour slice, at least one, against its tumour area."""
    figure, axes = new_axes("tumour in the slice (pixels, log scale)", "Dice")
    axes.set_ylim(-0.03, 1.03)
    missed = tumour["true_positive"] == 0
    for rows, style, color, name in ((~missed, "o", BLUE, "tumour slice"), (missed, "x", "black", "missed slice")):
        dots, label = tumour[rows], f"{name} ({rows.sum()})"
        axes.plot(dots["tumour_pixels"], dots["dice"], style, color=color, ms=5, alpha=0.75, label=label)
    set_log_scale(axes, "x")
    return finished(figure, "Dice against tumour area")


def draw_reliability(bins: pd.DataFrame) -> Figure:
    """Draw the share of tumour among the pixels of each bin of predicted probability."""
    figure, axes = new_axes("predicted probability", "share of tumour pixels")
    pixels = bins["pixels"]
    mean, share = bins["probability"] / pixels, bins["tumour_pixels"] / pixels
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="perfectly calibrated")
    label = f"prediction ({pixels.max() / pixels.sum():.1%} of pixels in one bin)"
    axes.plot(mean, share, "o--", color=BLUE, label=label)
    return finished(figure, "Reliability")


def draw_expected(quality: dict[str, Any]) -> Figure:
    """Draw the Dice of each patient against what the others led one to expect, with the 90% interval."""
    figure, axes = new_axes("expected Dice, from the other patients", "Dice")
    known = pd.DataFrame(quality["patients"]).dropna(subset="expected_dice")
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="as expected")
    axes.axhline(BAD_DICE, color=GREY, ls=":", lw=1, label=f"Dice {BAD_DICE:g}, below which to check")
    half, x = quality["model"]["half_width"], np.array([0, 1])
    axes.fill_between(x, x - half, x + half, color=BLUE, alpha=0.12, lw=0, label="90% interval")
    label = f"patient ({len(known)})"
    axes.plot(known["expected_dice"], known["dice"], "o", color=BLUE, ms=4, alpha=0.75, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return finished(figure, "Expected against true Dice")


def new_axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, with labels and a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def finished(figure: Figure, title: str) -> Figure:
    """Return a drawing with its title, and its legend below."""
    figure.axes[0].set_title(title, fontsize=11)
    for text in figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=2).get_texts():
        text.set_parse_math(False)  # a group may be called $x$
    return figure


def set_log_scale(axes: Axes, name: str) -> None:
    """Make the x or y axis logarithmic, with ticks at 1, 2, 5, 10, ..., written as 0.2 and not as 2 × 10⁻¹."""
    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def write_plots(run: RunFolder, plots: dict[str, Figure], note: str = "") -> None:
    """Write each plot as plots/<name>.png of the run, with the note above it."""
    for name, figure in plots.items():
        if note:
            figure.suptitle(note, fontsize=7)  # small, and centred on the figure: it is nearly as wide
        run.write(f"plots/{name}.png", to_png(figure))


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        return file.getvalue()
