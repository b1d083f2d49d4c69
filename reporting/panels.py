"""Panels of example slices: FLAIR, reference mask, prediction, and FLAIR tinted by hits and errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from constants import FLAIR
from dataset.slices import Slices
from evaluation import lesions
from reporting.plots import to_png
from reporting.viewer import head_view
from scans.show import GREEN, MASK_COLOR, PREDICTION_COLOR, stretch
from storage.run_folder import RunFolder
from utils import counted

OVERLAY = {"true positive": GREEN, "false positive": PREDICTION_COLOR, "false negative": MASK_COLOR}
EXAMPLES = 3  # best or worst slices
DPI = 150


def write_panels(run: RunFolder, slices: Slices, predicted: np.ndarray, results: pd.DataFrame, note: str) -> None:
    """Write plots/panel_<kind>.png for each kind of slice that occurs, and of the best and the worst tumour slices.

    predicted: uint8 [N, H, W], 0 or 1; results: N rows, as in test_results.csv.
    """
    by_iou = results.sort_values(["iou", "false_positive", "image_path"], ascending=[False, True, True])
    tumour = by_iou[by_iou["tumour_pixels"] > 0]
    panels = {  # name: title, row numbers
        name: (f"The {name} of {len(tumour)} tumour slices, one per patient",
               ordered.drop_duplicates("patient").index[:EXAMPLES])
        for name, ordered in (("best", tumour), ("worst", tumour[::-1]))
    }  # fmt: skip
    for kind in lesions.SLICE_KINDS[1:]:  # the first is without tumour, and black
        rows = by_iou.index[by_iou["kind"] == kind]
        title = f"{kind.capitalize()}: best, median and worst of {counted(len(rows), 'slice')}"
        shown = dict.fromkeys(rows[[0, len(rows) // 2, -1]]) if len(rows) else {}  # without repetition
        panels[kind.replace(" ", "_")] = (title, list(shown))
    for name, (title, rows) in panels.items():
        if len(rows):
            figure = draw_panel(slices, predicted, results, rows)
            figure.suptitle("\n".join(filter(None, (title, note))), fontsize=12)
            run.write(f"plots/panel_{name}.png", to_png(figure, DPI))


def draw_panel(slices: Slices, predicted: np.ndarray, results: pd.DataFrame, numbers: Sequence[int]) -> Figure:
    """Draw the slices with these row numbers below each other, cropped to the head."""
    figure = Figure(figsize=(10, 2.85 * len(numbers) + 0.9), layout="constrained")
    for row, line in zip(numbers, figure.subfigures(len(numbers), 1, squeeze=False)[:, 0], strict=True):
        result = results.loc[row]
        pixels = f"tumour {result.tumour_pixels} px, predicted {result.predicted_pixels} px"
        title = f"{Path(result.image_path).stem}   IoU {result.iou:.3f}   {pixels}"
        line.suptitle(title, x=0.01, ha="left", fontsize=9, parse_math=False)  # a patient may be called $x$
        image, mask = slices.images[row].numpy(), slices.masks[row].numpy()
        left, top, side = head_view(image[None], (mask | predicted[row])[None] > 0)
        flair = stretch(image[..., FLAIR]) / 255
        both = overlay(flair, mask, predicted[row])
        pictures = {"FLAIR, scaled": flair, "reference mask": mask, "prediction": predicted[row], "overlay": both}
        for axes, (name, picture) in zip(line.subplots(1, 4), pictures.items(), strict=True):
            axes.imshow(picture[top : top + side, left : left + side], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.35")  # a frame: a mask may be white to its edges
            axes.set_title(name, fontsize=8, color="0.35", pad=3)
    handles = [Patch(color=color, label=name) for name, color in OVERLAY.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def overlay(flair: np.ndarray, mask: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return FLAIR (float [H, W] in 0..1) with true positives and both kinds of error tinted: float [H, W, 3].

    mask, predicted: uint8 [H, W], 0 or 1.
    """
    picture = np.repeat(flair[..., None], 3, axis=2)
    regions = (mask & predicted, ~mask & predicted, mask & ~predicted)  # 0 or 1
    for region, color in zip(regions, OVERLAY.values(), strict=True):
        picture[region > 0] = 0.6 * picture[region > 0] + 0.4 * np.array(to_rgb(color))
    return picture
