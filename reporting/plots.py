"""Figures as PNG files: curves from CSV tables, panels from slices and masks."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; works without a screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from scans.display import BLUE, GREEN, MASK_COLOR, ORANGE
from utils import atomic_write

POINTS = {"marker": ".", "markersize": 3}  # so that a single epoch is seen too
DPI = 150


def plot_loss(epochs: pd.DataFrame, best: int, path: Path, note: str = "") -> None:
    """Training and validation loss against the epoch, the best epoch marked."""
    figure, axes = _axes("Loss against epoch", "epoch", "loss (log scale)", note)
    axes.plot(epochs["epoch"], epochs["training_loss"], color=BLUE, **POINTS, label="training")
    axes.plot(epochs["epoch"], epochs["validation_loss"], color=ORANGE, **POINTS, label="validation")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    _mark(axes, epochs, best, "validation_loss")
    _save(figure, axes, path)


def plot_iou(epochs: pd.DataFrame, best: int, path: Path, note: str = "") -> None:
    """Training and validation IoU against the epoch, beside that of an empty prediction."""
    figure, axes = _axes("IoU against epoch", "epoch", "IoU", note)
    axes.plot(epochs["epoch"], epochs["training_iou"], color=BLUE, **POINTS, label="training, all slices")
    axes.plot(epochs["epoch"], epochs["validation_iou"], color=ORANGE, **POINTS, label="validation, all slices")
    axes.plot(
        epochs["epoch"],
        epochs["validation_tumour_iou"],
        color=ORANGE,
        ls=":",
        **POINTS,
        label="validation, tumour slices only",
    )
    axes.axhline(
        epochs["validation_empty_prediction"].iloc[-1], color="0.4", ls="--", lw=1, label="validation, empty prediction"
    )
    axes.set_ylim(0, 1)
    _mark(axes, epochs, best, "validation_iou")
    _save(figure, axes, path)


def plot_test(patients: pd.DataFrame, slices: pd.DataFrame, folder: Path, note: str = "") -> None:
    """bland_altman.png, and dice_area.png if there are tumour slices."""
    plot_bland_altman(patients, folder / "bland_altman.png", note)
    if (slices["tumour_pixels"] > 0).any():
        plot_dice_against_area(slices, folder / "dice_area.png", note)


def plot_bland_altman(patients: pd.DataFrame, path: Path, note: str = "") -> None:
    """Predicted minus true volume against the mean of both, a dot a patient (columns of test_patients.csv)."""
    mean, difference, bias, limits = bland_altman(patients)
    figure, axes = _axes(
        "Volume, predicted − mask (Bland–Altman)", "mean of both volumes (pixels)", "difference (pixels)", note
    )
    axes.axhline(0, color="0.6", lw=1)
    axes.axhline(bias, color=BLUE, lw=1.5, label=f"mean difference, {bias:,.0f} px")
    for n, limit in enumerate(limits or ()):
        axes.axhline(limit, color=BLUE, ls="--", lw=1, label=None if n else "limits of agreement, ± 1.96 SD")
    axes.plot(mean, difference, "o", color=BLUE, alpha=0.75, label=f"patient ({len(patients)})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    _save(figure, axes, path)


def plot_dice_against_area(slices: pd.DataFrame, path: Path, note: str = "") -> None:
    """Dice of each tumour slice against its tumour area; needs at least one (columns of test_results.csv)."""
    tumour = slices[slices["tumour_pixels"] > 0]
    missed = tumour["true_positive"] == 0
    figure, axes = _axes("Dice against tumour area", "tumour in the slice (pixels)", "Dice", note)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    for rows, style, name in ((~missed, "o", "tumour slice"), (missed, "x", "missed slice")):
        color = MASK_COLOR if style == "x" else BLUE
        axes.plot(
            tumour.loc[rows, "tumour_pixels"], tumour.loc[rows, "dice"], style, color=color, ms=5, alpha=0.75,
            label=f"{name} ({int(rows.sum())})",
        )  # fmt: skip
    _plain_ticks(axes.xaxis)
    _save(figure, axes, path)


def bland_altman(patients: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, float, tuple[float, float] | None]:
    """Means and differences (predicted - true) of the volumes, the mean difference, and the limits of agreement.

    The limits are the mean ± 1.96 standard deviations of the differences; None for fewer than three patients.
    """
    true, predicted = (patients[name].to_numpy(float) for name in ("tumour_pixels", "predicted_pixels"))
    difference = predicted - true
    bias = float(difference.mean())
    if len(patients) < 3:
        return (true + predicted) / 2, difference, bias, None
    spread = 1.96 * float(difference.std(ddof=1))
    return (true + predicted) / 2, difference, bias, (bias - spread, bias + spread)


def _axes(title: str, x: str, y: str, note: str) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=11)
    if note:
        figure.suptitle(note, fontsize=8)  # small, and centred on the figure: it is nearly as wide
    axes.grid(alpha=0.3)
    return figure, axes


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5, 10, ... times a power of ten, written as 0.2 and not as 2 × 10⁻¹.

    Where what is drawn spans fewer than three of them: at even steps.
    """
    low, high = axis.get_view_interval()
    locator = LogLocator(subs=(1, 2, 5))
    few = sum(low <= tick <= high for tick in locator.tick_values(low, high)) < 3
    axis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)) if few else locator)
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def _mark(axes: plt.Axes, epochs: pd.DataFrame, best: int, column: str) -> None:
    """Mark the chosen epoch with a line, and a point on its curve."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    value = epochs.loc[epochs["epoch"] == best, column].iloc[0]
    axes.axvline(best, color=GREEN, lw=1, alpha=0.6)
    axes.plot(best, value, "o", color=GREEN, label=f"epoch {best}, best validation IoU ({value:.3f} here)")


def _save(figure: Figure, axes: plt.Axes, path: Path) -> None:
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    plt.close(figure)
