"""Figures as PNG files: curves from CSV tables, panels from slices and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; works without a screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from constants import FLAIR
from utils import whole_file

# Okabe and Ito's colours, which people without full colour vision tell apart
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
POINTS = {"marker": ".", "markersize": 3}  # so that a single epoch is seen too
MASK_COLOR, PREDICTION_COLOR = ORANGE, SKY  # as in the report; what only one of both has is tinted in its colour
OVERLAY = {"true positive": GREEN, "false positive": PREDICTION_COLOR, "false negative": MASK_COLOR}
BRIGHTEST = 99.5  # percentile of FLAIR that is shown white
DPI = 150


@dataclass(frozen=True)
class Case:
    """A slice to be shown: image uint8 [H, W, 3], masks uint8 or bool [H, W], and a line that says what it is."""

    image: np.ndarray
    mask: np.ndarray
    predicted: np.ndarray
    caption: str


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
    """Training and validation IoU against the epoch, beside what predicting nothing scores."""
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
        epochs["validation_all_empty"].iloc[-1], color="0.4", ls="--", lw=1, label="validation, predicting nothing"
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


def stretch(flair: np.ndarray) -> np.ndarray:
    """FLAIR of a slice or a stack (uint8 [..., H, W]), scaled so that its BRIGHTEST percentile becomes white.

    Patients differ a lot: one stack of the data set reaches 170 where another ends at 40. For looking only.
    """
    bright = flair[flair > 0]
    white = max(float(np.percentile(bright, BRIGHTEST)), 1) if bright.size else 255
    table = np.clip(np.arange(256) * (255 / white), 0, 255).round().astype(np.uint8)
    return table[flair]


def plot_panel(cases: Sequence[Case], title: str, path: Path) -> None:
    """A row a case: FLAIR | mask | prediction | overlay of both on FLAIR."""
    figure = plt.figure(figsize=(10, 2.85 * len(cases) + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=12)
    for row, case in zip(figure.subfigures(len(cases), 1, squeeze=False)[:, 0], cases, strict=True):
        row.suptitle(case.caption, x=0.01, ha="left", fontsize=9)
        _draw_case(row.subplots(1, 4), case)
    figure.legend(
        handles=[
            *(Patch(color=color, label=name) for name, color in OVERLAY.items()),
            Line2D([], [], color=MASK_COLOR, label="mask"),
            Line2D([], [], color=PREDICTION_COLOR, ls="--", label="prediction"),
        ],
        loc="outside lower center", ncols=5, fontsize=9, frameon=False,
    )  # fmt: skip
    _write(figure, path)


def _draw_case(row: Sequence[plt.Axes], case: Case) -> None:
    flair = stretch(case.image[..., FLAIR]) / 255
    pictures = {
        "FLAIR, scaled": flair,
        "mask": case.mask,
        "prediction": case.predicted,
        "overlay": overlay(flair, case),
    }
    for axes, (name, picture) in zip(row, pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.35")  # a frame: a mask may be white to its edges
        axes.set_title(name, fontsize=8, color="0.35", pad=3)
    for mask, color, dashes in ((case.mask, MASK_COLOR, "-"), (case.predicted, PREDICTION_COLOR, "--")):
        if 0 < np.count_nonzero(mask) < mask.size:  # otherwise there is no outline
            row[-1].contour(mask > 0, levels=[0.5], colors=color, linewidths=0.9, linestyles=dashes)


def overlay(flair: np.ndarray, case: Case) -> np.ndarray:
    """FLAIR (float [H, W] in 0..1) with hits, false alarms and misses tinted: float [H, W, 3] in 0..1."""
    mask, predicted = case.mask > 0, case.predicted > 0
    regions = (mask & predicted, ~mask & predicted, mask & ~predicted)
    picture = np.repeat(flair[..., None], 3, axis=2)
    for region, color in zip(regions, OVERLAY.values(), strict=True):
        picture[region] = 0.6 * picture[region] + 0.4 * np.array(matplotlib.colors.to_rgb(color))
    return picture


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
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    plt.close(figure)
