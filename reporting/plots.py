"""Plots of a run, each drawn once: as PNG beside the tables, and as SVG in the report."""

import io
import re
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from constants import BAD_DICE, CRITERIA
from evaluation.intervals import limits_of_agreement
from evaluation.selection import has_validation
from scans.show import BLUE, GREEN, ORANGE
from storage.run_folder import RunFolder
from utils import show_number

GREY = "#737373"
SIZE = (5.2, 4.0)  # inches; narrow, for text that stays legible on a phone
DPI = 200
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten
FEWEST_AGREE = 5  # patients for limits of agreement
CURVE = {"marker": ".", "markersize": 3}  # shows a single epoch, too
SVG_COLORS = {  # the report has light and dark colours for each of these
    "#000000": "currentColor", GREY: "var(--soft)", BLUE: "var(--model)", ORANGE: "var(--reference)",
    GREEN: "var(--good)",
}  # fmt: skip


class Plot(NamedTuple):
    """A drawing, its title, and its content in words, for people who cannot see it."""

    figure: Figure
    title: str
    words: str


def training_plots(epochs: pd.DataFrame, chosen: int, by: str) -> dict[str, Plot]:
    """Return the learning curves by file name (columns of epochs.csv), with the epoch marked that was chosen.

    by: the one of CRITERIA that chose it.
    """
    return {"loss": draw_loss(epochs, chosen, by), "iou": draw_iou(epochs, chosen, by)}


def volume_plots(patients: pd.DataFrame, slices: pd.DataFrame) -> dict[str, Plot]:
    """Return the plots of volumes and areas by file name (columns of test_patients.csv and test_results.csv)."""
    tumour = slices[slices["tumour_pixels"] > 0]
    plots = {"dice_area": draw_dice_against_area(tumour)} if len(tumour) else {}
    return plots | ({"bland_altman": draw_bland_altman(patients)} if len(patients) >= FEWEST_AGREE else {})


def calibration_plots(curve: list[dict[str, float]]) -> dict[str, Plot]:
    """Return the plots of predicted probabilities by name; curve: see calibration.reliability."""
    bins = pd.DataFrame(curve)
    bins = bins[bins["pixels"] > 0]
    return {"reliability": draw_reliability(bins)} if len(bins) else {}


def quality_plots(quality: dict[str, Any] | None) -> dict[str, Plot]:
    """Return the plot of expected Dice by name; quality: of metrics.json, see quality.study. Empty without a model."""
    return {"expected_dice": draw_expected(quality)} if quality and quality["nested"] else {}


# --- Drawings --------------------------------------------------------------------------------------------------


def draw_loss(epochs: pd.DataFrame, chosen: int, by: str) -> Plot:
    """Draw training and validation loss against the epoch."""
    figure, axes = new_axes("epoch", "loss (log scale)")
    for split, color in (("training", GREY), ("validation", BLUE))[: 2 if has_validation(epochs) else 1]:
        axes.plot(epochs["epoch"], epochs[f"{split}_loss"], color=color, **CURVE, label=split)
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    _mark(axes, epochs, chosen, by, "loss")
    last = epochs.iloc[-1]
    training, validation = (show_number(last[f"{split}_loss"], ".3g") for split in ("training", "validation"))
    words = f"Epochs: {len(epochs)}. In the last one, training loss {training}, validation loss {validation}."
    return finished(figure, "Loss against epoch", words)


def draw_iou(epochs: pd.DataFrame, chosen: int, by: str) -> Plot:
    """Draw training and validation IoU against the epoch, beside that of an empty prediction."""
    figure, axes = new_axes("epoch", "IoU")
    for column, label, color, dashes in (
        ("training_iou", "training", GREY, "-"),
        ("validation_iou", "validation", BLUE, "-"),
        ("validation_tumour_iou", "validation, tumour slices", BLUE, ":"),
    ):
        if epochs[column].notna().any():
            axes.plot(epochs["epoch"], epochs[column], color=color, ls=dashes, **CURVE, label=label)
    split = "validation" if has_validation(epochs) else "training"
    empty = epochs[f"{split}_empty_prediction"].iloc[-1]
    axes.axhline(empty, color="black", ls="--", lw=1, label=f"{split}, empty prediction")
    axes.set_ylim(0, 1)
    _mark(axes, epochs, chosen, by, "iou")
    words = f"The highest {split} IoU is {epochs[f'{split}_iou'].max():.3f}; an empty prediction has {empty:.3f}."
    return finished(figure, "IoU against epoch", words)


def draw_bland_altman(patients: pd.DataFrame) -> Plot:
    """Draw the difference of predicted and reference volume against the mean of both, one dot per patient."""
    reference, predicted = patients["tumour_pixels"] / 1000, patients["predicted_pixels"] / 1000
    bias, *limits = limits_of_agreement(predicted - reference)
    figure, axes = new_axes("mean of both volumes (1,000 pixels)", "difference (1,000 pixels)")
    axes.axhline(0, color=GREY, lw=1)
    axes.axhline(bias, color=BLUE, lw=1.5, label=f"mean difference, {bias:,.1f}")
    for n, limit in enumerate(limits):
        axes.axhline(limit, color=BLUE, ls="--", lw=1, label="" if n else "limits of agreement, ± 1.96 SD")
    label = f"patient ({len(patients)})"
    axes.plot((reference + predicted) / 2, predicted - reference, "o", color=BLUE, alpha=0.75, label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
        axis.set_major_formatter("{x:,g}")
    words = (
        f"Patients: {len(patients)}. Mean difference {bias:,.1f} thousand pixels; limits of agreement "
        f"{limits[0]:,.1f} to {limits[1]:,.1f}."
    )
    return finished(figure, "Volume, predicted − reference (Bland–Altman)", words)


def draw_dice_against_area(tumour: pd.DataFrame) -> Plot:
    """Draw the Dice of each tumour slice, at least one, against its tumour area."""
    figure, axes = new_axes("tumour in the slice (pixels, log scale)", "Dice")
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    missed = tumour["true_positive"] == 0
    for rows, style, color, name in ((~missed, "o", BLUE, "tumour slice"), (missed, "x", "black", "missed slice")):
        dots, label = tumour[rows], f"{name} ({rows.sum()})"
        axes.plot(dots["tumour_pixels"], dots["dice"], style, color=color, ms=5, alpha=0.75, label=label)
    _plain_ticks(axes.xaxis)
    words = f"Tumour slices: {len(tumour)}, missed: {missed.sum()}. Median Dice: {tumour['dice'].median():.2f}."
    return finished(figure, "Dice against tumour area", words)


def draw_reliability(bins: pd.DataFrame) -> Plot:
    """Draw the share of tumour among the pixels of each bin of predicted probability."""
    figure, axes = new_axes("predicted probability", "share of tumour pixels")
    pixels = bins["pixels"]
    mean, share = bins["probability"] / pixels, bins["tumour_pixels"] / pixels
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="perfectly calibrated")
    axes.plot(
        mean, share, "o--", color=BLUE, label=f"prediction ({pixels.max() / pixels.sum():.1%} of pixels in one bin)"
    )
    points = ", ".join(f"{tumour:.2f} at {p:.2f}" for p, tumour in zip(mean, share, strict=True))
    return finished(figure, "Reliability", f"Share of tumour pixels per predicted probability: {points}.")


def draw_expected(quality: dict[str, Any]) -> Plot:
    """Draw the Dice of each patient against what the others led one to expect, with the 90% interval."""
    figure, axes = new_axes("expected Dice, from the other patients", "Dice")
    known = pd.DataFrame([row for row in quality["patients"] if row["expected_dice"] is not None])
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="as expected")
    axes.axhline(BAD_DICE, color=GREY, ls=":", lw=1, label=f"Dice {BAD_DICE:g}, below which to check")
    if len(known):
        half = quality["model"]["half_width"]
        axes.fill_between(
            (0, 1), (-half, 1 - half), (half, 1 + half), color=BLUE, alpha=0.12, lw=0, label="90% interval"
        )
        axes.plot(
            known["expected_dice"], known["dice"], "o", color=BLUE, ms=4, alpha=0.75, label=f"patient ({len(known)})"
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return finished(figure, "Expected against true Dice", describe_expected(quality["nested"]))


def describe_expected(nested: dict[str, Any]) -> str:
    """Return in words what the expected Dice is worth; nested: see quality.judge."""
    coverage, n = nested["coverage"], nested["patients"]
    return (
        f"Patients: {n}, {nested['unknown']} of them unlike the others, so that nothing is expected. Mean error "
        f"{show_number(nested['mean_error'])}, correlation {show_number(nested['r'], '.2f')}; the 90% interval holds "
        f"{'-' if coverage is None else format(coverage, '.0%')}. Of {nested['bad']} patients with a Dice below "
        f"{BAD_DICE:g}, {nested['bad_in_worst_10']} are among the 10 to check first, {nested['bad_in_worst_20']} among "
        f"the first 20 (AUC {show_number(nested['auc'], '.2f')})."
    )


def new_axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, with labels and a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def finished(figure: Figure, title: str, words: str, columns: int = 2) -> Plot:
    """Return a drawing with its legend below."""
    for text in figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=columns).get_texts():
        text.set_parse_math(False)  # a group may be called $x$
    return Plot(figure, title, words)


def _plain_ticks(axis: Axis) -> None:
    """Set ticks of a logarithmic axis at 1, 2, 5, 10, ... times a power of ten, written as 0.2 and not as 2 × 10⁻¹.

    At even steps where the values span fewer than three of them.
    """
    low, high = axis.get_view_interval()
    locator = LogLocator(subs=(1, 2, 5))
    few = sum(low <= tick <= high for tick in locator.tick_values(low, high)) < 3
    axis.set_major_locator(MaxNLocator(6, steps=STEPS) if few else locator)
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def _mark(axes: Axes, epochs: pd.DataFrame, chosen: int, by: str, metric: str) -> None:
    """Mark the chosen epoch with a line, and with a point on its curve; say for what it was chosen."""
    axes.set_xlabel(f"epoch\nmarked: {CRITERIA[by]}")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=True, min_n_ticks=1))
    split = "validation" if has_validation(epochs) else "training"
    value = epochs.loc[epochs["epoch"] == chosen, f"{split}_{metric}"].iloc[0]
    axes.axvline(chosen, color=GREEN, lw=1, alpha=0.6)
    axes.plot(chosen, value, "o", color=GREEN, label=f"chosen epoch {chosen} ({value:.3f})")


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
