"""Figures as PNG files: curves from CSV tables, panels from slices and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; works without a screen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from constants import FLAIR
from utils import whole_file

# Okabe and Ito's colours, which people without full colour vision tell apart
BLUE, ORANGE, GREEN, VERMILLION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
OVERLAY = {"true positive": GREEN, "false positive": VERMILLION, "false negative": SKY}
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
    figure, axes = _curves("Loss", note)
    axes.plot(epochs["epoch"], epochs["training_loss"], color=BLUE, label="training")
    axes.plot(epochs["epoch"], epochs["validation_loss"], color=ORANGE, label="validation")
    axes.set_yscale("log")
    _mark(axes, epochs, best, "validation_loss")
    _save(figure, axes, path)


def plot_iou(epochs: pd.DataFrame, best: int, path: Path, note: str = "") -> None:
    """Training and validation IoU against the epoch, beside what predicting nothing scores."""
    figure, axes = _curves("IoU", note)
    axes.plot(epochs["epoch"], epochs["training_iou"], color=BLUE, label="training, all slices")
    axes.plot(epochs["epoch"], epochs["validation_iou"], color=ORANGE, label="validation, all slices")
    axes.plot(
        epochs["epoch"], epochs["validation_tumour_iou"], color=ORANGE, ls=":", label="validation, tumour slices only"
    )
    axes.axhline(
        epochs["validation_all_empty"].iloc[-1], color="0.4", ls="--", lw=1, label="validation, predicting nothing"
    )
    axes.set_ylim(0, 1)
    _mark(axes, epochs, best, "validation_iou")
    _save(figure, axes, path)


def plot_panel(cases: Sequence[Case], title: str, path: Path) -> None:
    """A row a case: FLAIR | mask | prediction | overlay of both on FLAIR."""
    columns = ("image (FLAIR)", "mask", "prediction", "overlay")
    figure, grid = plt.subplots(
        len(cases), 4, figsize=(10, 2.75 * len(cases) + 0.8), squeeze=False, layout="constrained"
    )
    for row, case in zip(grid, cases, strict=True):
        flair = case.image[..., FLAIR] / 255
        for axes, picture in zip(row, (flair, case.mask, case.predicted, overlay(flair, case)), strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        row[0].set_title(case.caption, loc="left", fontsize=8, pad=14)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.text(0.5, 1.01, name, transform=axes.transAxes, ha="center", va="bottom", fontsize=9, color="0.35")
    figure.suptitle(title, fontsize=12)
    figure.legend(
        handles=[Patch(color=color, label=name) for name, color in OVERLAY.items()],
        loc="outside lower center", ncols=3, fontsize=9, frameon=False,
    )  # fmt: skip
    _write(figure, path)


def overlay(flair: np.ndarray, case: Case) -> np.ndarray:
    """FLAIR (float [H, W] in 0..1) with hits, false alarms and misses tinted: float [H, W, 3] in 0..1."""
    mask, predicted = case.mask > 0, case.predicted > 0
    regions = (mask & predicted, ~mask & predicted, mask & ~predicted)
    picture = np.repeat(flair[..., None], 3, axis=2)
    for region, color in zip(regions, OVERLAY.values(), strict=True):
        picture[region] = 0.45 * picture[region] + 0.55 * np.array(matplotlib.colors.to_rgb(color))
    return picture


def _curves(name: str, note: str) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.set(xlabel="epoch", ylabel=name)
    axes.set_title("\n".join(filter(None, (f"{name} against epoch", note))), fontsize=11)
    axes.grid(alpha=0.3)
    return figure, axes


def _mark(axes: plt.Axes, epochs: pd.DataFrame, best: int, column: str) -> None:
    """Mark the chosen epoch with a line, and a point on its curve."""
    value = epochs.loc[epochs["epoch"] == best, column].iloc[0]
    axes.axvline(best, color=GREEN, lw=1, alpha=0.6)
    axes.plot(best, value, "o", color=GREEN, label=f"epoch {best}, best validation IoU ({value:.3g} here)")


def _save(figure: Figure, axes: plt.Axes, path: Path) -> None:
    axes.legend(fontsize=8, frameon=False, loc="best")
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    plt.close(figure)
