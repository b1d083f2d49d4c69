"""Plots of a run, each drawn once: as PNG beside the tables, and as SVG in the report."""

import io
import re
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from constants import BAD_DICE, CRITERIA
from evaluation.intervals import FEWEST, limits_of_agreement
from evaluation.selection import has_validation
from scans.show import BLUE, GREEN, ORANGE
from storage.run_folder import RunFolder
from utils import show_number

GREY = "#737373"
SIZE = (5.2, 4.0)  # inches; narrow, for text that stays legible on a phone
DPI = 200
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten
SVG_COLORS = {  # the report has light and dark colours for each of these
    "#000000": "currentColor", GREY: "var(--soft)", BLUE: "var(--model)", ORANGE: "var(--reference)",
    GREEN: "var(--good)",
}  # fmt: skip


class Plot(NamedTuple):
    """A drawing and its title."""

    figure: Figure
    title: str


def training_plots(epochs: pd.DataFrame, chosen: int, by: str) -> dict[str, Plot]:
    """Return the learning curves by file name (columns of epochs.csv), with the epoch marked that was chosen.

    by: the one of CRITERIA that chose it.
    """
    return {metric: draw_curves(epochs, chosen, by, metric) for metric in ("loss", "iou")}


def volume_plots(patients: pd.DataFrame, slices: pd.DataFrame) -> dict[str, Plot]:
    """Return the plots of volumes and areas by file name (columns of test_patients.csv and test_results.csv)."""
    tumour = slices[slices["tumour_pixels"] > 0]
    plots = {"dice_area": draw_dice_against_area(tumour)} if len(tumour) else {}
    return plots | ({"bland_altman": draw_bland_altman(patients)} if len(patients) >= FEWEST else {})


def probability_plots(metrics: dict[str, Any]) -> dict[str, Plot]:
    """Return the plots of predicted probabilities by name; metrics: of metrics.json."""
    bins, quality = pd.DataFrame(metrics["calibration"]), metrics["quality"]
    bins = bins[bins["pixels"] > 0]
    plots = {"reliability": draw_reliability(bins)} if len(bins) else {}
    return plots | ({"expected_dice": draw_expected(quality)} if quality["nested"] else {})


# --- Drawings --------------------------------------------------------------------------------------------------


def draw_curves(epochs: pd.DataFrame, chosen: int, by: str, metric: str) -> Plot:
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


def draw_bland_altman(patients: pd.DataFrame) -> Plot:
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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
        axis.set_major_formatter("{x:,g}")
    return finished(figure, "Volume, predicted − reference (Bland–Altman)")


def draw_dice_against_area(tumour: pd.DataFrame) -> Plot:
    """Draw the Dice of each tumour slice, at least one, against its tumour area."""
    figure, axes = new_axes("tumour in the slice (pixels, log scale)", "Dice")
    axes.set_ylim(-0.03, 1.03)
    missed = tumour["true_positive"] == 0
    for rows, style, color, name in ((~missed, "o", BLUE, "tumour slice"), (missed, "x", "black", "missed slice")):
        dots, label = tumour[rows], f"{name} ({rows.sum()})"
        axes.plot(dots["tumour_pixels"], dots["dice"], style, color=color, ms=5, alpha=0.75, label=label)
    set_log_scale(axes, "x")
    return finished(figure, "Dice against tumour area")


def draw_reliability(bins: pd.DataFrame) -> Plot:
    """Draw the share of tumour among the pixels of each bin of predicted probability."""
    figure, axes = new_axes("predicted probability", "share of tumour pixels")
    pixels = bins["pixels"]
    mean, share = bins["probability"] / pixels, bins["tumour_pixels"] / pixels
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="perfectly calibrated")
    label = f"prediction ({pixels.max() / pixels.sum():.1%} of pixels in one bin)"
    axes.plot(mean, share, "o--", color=BLUE, label=label)
    return finished(figure, "Reliability")


def draw_expected(quality: dict[str, Any]) -> Plot:
    """Draw the Dice of each patient against what the others led one to expect, with the 90% interval."""
    figure, axes = new_axes("expected Dice, from the other patients", "Dice")
    known = pd.DataFrame([row for row in quality["patients"] if row["expected_dice"] is not None])
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="as expected")
    axes.axhline(BAD_DICE, color=GREY, ls=":", lw=1, label=f"Dice {BAD_DICE:g}, below which to check")
    if len(known):
        half, x = quality["model"]["half_width"], np.array([0, 1])
        axes.fill_between(x, x - half, x + half, color=BLUE, alpha=0.12, lw=0, label="90% interval")
        label = f"patient ({len(known)})"
        axes.plot(known["expected_dice"], known["dice"], "o", color=BLUE, ms=4, alpha=0.75, label=label)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return finished(figure, "Expected against true Dice")


def describe_expected(nested: dict[str, Any]) -> str:
    """Return in words what the expected Dice is worth; nested: see quality.judge."""
    n = nested
    return (
        f"Patients: {n['patients']}, {n['unknown']} of them unlike the others, so that nothing is expected. Mean error "
        f"{show_number(n['mean_error'])}, correlation {show_number(n['r'], '.2f')}; the 90% interval holds "
        f"{show_number(n['coverage'], '.0%')}. Of {n['bad']} patients with a Dice below {BAD_DICE:g}, "
        f"{n['bad_in_worst_10']} are among the 10 to check first, {n['bad_in_worst_20']} among the first 20 (AUC "
        f"{show_number(n['auc'], '.2f')})."
    )


def new_axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, with labels and a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def finished(figure: Figure, title: str, columns: int = 2) -> Plot:
    """Return a drawing with its legend below."""
    for text in figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=columns).get_texts():
        text.set_parse_math(False)  # a group may be called $x$
    return Plot(figure, title)


def set_log_scale(axes: Axes, name: str) -> None:
    """Make the x or y axis logarithmic, with ticks at 1, 2, 5, 10, ..., written as 0.2 and not as 2 × 10⁻¹."""
    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


# --- Files -----------------------------------------------------------------------------------------------------


def write_plots(run: RunFolder, plots: dict[str, Plot], note: str = "") -> None:
    """Write each plot as plots/<name>.png of the run, under its title and the note."""
    for name, plot in plots.items():
        plot.figure.axes[0].set_title(plot.title, fontsize=11)
        if note:
            plot.figure.suptitle(note, fontsize=7)  # small, and centred on the figure: it is nearly as wide
        run.write(f"plots/{name}.png", to_png(plot.figure, DPI))


def to_png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as the content of a PNG file."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi)
        return file.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an <svg> element for a page: the same text for the same figure.

    Its ids begin with `name`: those of several figures on a page differ. Its colours are the page's own, see
    SVG_COLORS; it has no background.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    _, start, rest = file.getvalue().partition("<svg")  # after the declaration of a file
    text = re.sub(r"<style.*?</style>", "", start + rest)  # it would hold for the whole page
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in SVG_COLORS.items():
        text = text.replace(color.lower(), variable)
    return text
