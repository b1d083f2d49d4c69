"""Panels of example slices: FLAIR, reference mask, prediction, and both on FLAIR."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from constants import FLAIR
from dataset.slices import Slices
from evaluation import lesions
from reporting.plots import to_png
from reporting.viewer import head_view
from scans.display import GREEN, MASK_COLOR, PREDICTION_COLOR, stretch
from storage.run_folder import RunFolder

OVERLAY = {"true positive": GREEN, "false positive": PREDICTION_COLOR, "false negative": MASK_COLOR}
EXAMPLES = 3  # best or worst slices
DPI = 150


def write_panels(run: RunFolder, slices: Slices, predicted: np.ndarray, results: pd.DataFrame, note: str) -> None:
    """Write plots/panel_<kind>.png for each kind of slice that occurs, and of the best and the worst tumour slices.

    predicted: uint8 [N, H, W], 0 or 1; results: N rows, as in test_results.csv.
    """
    by_iou = results.sort_values(["iou", "false_positive", "image_path"], ascending=[False, True, True])
    tumour = by_iou.index[by_iou["tumour_pixels"] > 0].tolist()
    panels = {
        "best": (f"The best of {len(tumour)} tumour slices, one per patient", one_per_patient(results, tumour)),
        "worst": (f"The worst of {len(tumour)} tumour slices, one per patient", one_per_patient(results, tumour[::-1])),
    }
    for kind in lesions.SLICE_KINDS:
        rows = by_iou.index[by_iou["kind"] == kind].tolist()
        title = f"{kind.capitalize()}: best, median and worst of {len(rows)} slices"
        shown = dict.fromkeys([*rows[:1], *rows[len(rows) // 2 :][:1], *rows[-1:]])  # without repetition
        panels[kind.replace(" ", "_")] = (title, list(shown))
    for name, (title, rows) in panels.items():
        if rows:
            figure = draw_panel(slices, predicted, results, rows)
            figure.suptitle("\n".join(filter(None, (title, note))), fontsize=12)
            run.write(f"plots/panel_{name}.png", to_png(figure, DPI))


def one_per_patient(results: pd.DataFrame, rows: Sequence[int]) -> list[int]:
    """Return the first rows of EXAMPLES patients."""
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(results.loc[row, "patient"], row)
    return list(first.values())[:EXAMPLES]


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
        view = slice(top, top + side), slice(left, left + side)
        flair = stretch(image[..., FLAIR]) / 255
        _draw_slice(line.subplots(1, 4), flair[view], mask[view], predicted[row][view])
    handles = [Patch(color=color, label=name) for name, color in OVERLAY.items()]
    handles.append(Line2D([], [], color=MASK_COLOR, label="reference mask"))
    handles.append(Line2D([], [], color=PREDICTION_COLOR, ls="--", label="prediction"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    return figure


def _draw_slice(line: Sequence[Axes], flair: np.ndarray, mask: np.ndarray, predicted: np.ndarray) -> None:
    both = overlay(flair, mask, predicted)
    pictures = {"FLAIR, scaled": flair, "reference mask": mask, "prediction": predicted, "overlay": both}
    for axes, (name, picture) in zip(line, pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.35")  # a frame: a mask may be white to its edges
        axes.set_title(name, fontsize=8, color="0.35", pad=3)
    for outlined, color, dashes in ((mask, MASK_COLOR, "-"), (predicted, PREDICTION_COLOR, "--")):
        if 0 < np.count_nonzero(outlined) < outlined.size:  # otherwise there is no outline
            line[-1].contour(outlined, levels=[0.5], colors=color, linewidths=0.9, linestyles=dashes)


def overlay(flair: np.ndarray, mask: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return FLAIR (float [H, W] in 0..1) with true positives and both kinds of error tinted: float [H, W, 3].

    mask, predicted: uint8 [H, W], 0 or 1.
    """
    picture = np.repeat(flair[..., None], 3, axis=2)
    regions = (mask & predicted, ~mask & predicted, mask & ~predicted)  # 0 or 1
    for region, color in zip(regions, OVERLAY.values(), strict=True):
        picture[region > 0] = 0.6 * picture[region > 0] + 0.4 * np.array(to_rgb(color))
    return picture
