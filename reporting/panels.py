"""Panels of example slices: FLAIR, reference mask, prediction, and both on FLAIR."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from constants import FLAIR
from dataset.slices import Slices
from evaluation import lesions
from reporting.plots import write_figure
from scans.display import GREEN, MASK_COLOR, PREDICTION_COLOR, stretch

OVERLAY = {"true positive": GREEN, "false positive": PREDICTION_COLOR, "false negative": MASK_COLOR}


@dataclass(frozen=True)
class Case:
    """A slice to be shown: image uint8 [H, W, 3], masks uint8 or bool [H, W], and a line that says what it is."""

    image: np.ndarray
    mask: np.ndarray
    predicted: np.ndarray
    caption: str


def draw_panels(slices: Slices, predicted: np.ndarray, results: pd.DataFrame, folder: Path, note: str) -> None:
    """A panel for each kind of slice, and one for the best and the worst tumour slices."""
    tumour = results[results["kind"] != "no tumour"].sort_values(["iou", "image_path"], kind="stable")
    chosen = {kind: best_median_worst(results[results["kind"] == kind]) for kind in lesions.KINDS}
    chosen["best"], chosen["worst"] = tumour.index[::-1][:3].tolist(), tumour.index[:3].tolist()
    for kind, rows in chosen.items():
        if not rows:
            continue
        cases = [
            Case(slices.images[row].numpy(), slices.masks[row].numpy(), predicted[row], caption(results.loc[row]))
            for row in rows
        ]
        of_kind = sum(results["kind"] == kind)
        title = (
            f"{kind.capitalize()}: best, median and worst of {of_kind} slices"
            if of_kind
            else f"The {kind} of {len(tumour)} tumour slices"
        )
        plot_panel(cases, "\n".join(filter(None, (title, note))), folder / f"panel_{kind.replace(' ', '_')}.png")


def best_median_worst(results: pd.DataFrame) -> list[int]:
    """Row labels of the best, the median and the worst slice, by IoU and then by false positive pixels."""
    order = results.sort_values(["iou", "false_positive", "image_path"], ascending=[False, True, True]).index
    return list(dict.fromkeys(order[[0, len(order) // 2, -1]])) if len(order) else []


def caption(row: pd.Series) -> str:
    pixels = f"tumour {row.tumour_pixels} px, predicted {row.predicted_pixels} px"
    return f"{Path(row.image_path).stem}   IoU {row.iou:.3f}   {pixels}"


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
    write_figure(figure, path)


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
