"""Panels of example slices: FLAIR, and FLAIR with the outlines of the reference mask and the prediction."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from constants import FLAIR
from dataset.preprocess import find_head
from dataset.slices import Slices
from reporting.plots import to_png
from reporting.viewer import head_view
from scans.show import MASK_COLOR, PREDICTION_COLOR, stretch, tile
from storage.run_folder import RunFolder

PANELS = {"panel_best": "best", "panel_worst": "worst"}
EXAMPLES = 3  # best or worst slices
SIDE = 480  # pixels of a picture


def write_panels(run: RunFolder, slices: Slices, predicted: np.ndarray, results: pd.DataFrame, note: str) -> None:
    """Write plots/panel_best.png and plots/panel_worst.png of the tumour slices, if there are any.

    predicted: uint8 [N, H, W], 0 or 1; results: N rows, as in test_results.csv.
    """
    tumour = results[results["tumour_pixels"] > 0]
    tumour = tumour.sort_values(["iou", "false_positive", "image_path"], ascending=[False, True, True])
    for (name, which), ordered in zip(PANELS.items(), (tumour, tumour[::-1]), strict=True):
        if rows := ordered.drop_duplicates("patient").index[:EXAMPLES].tolist():
            figure = draw_panel(slices, predicted, results, rows)
            title = f"The {which} of {len(tumour)} tumour slices,\none per patient"
            figure.suptitle("\n".join(filter(None, (title, note))), fontsize=9)
            run.write(f"plots/{name}.png", to_png(figure))


def draw_panel(slices: Slices, predicted: np.ndarray, results: pd.DataFrame, numbers: Sequence[int]) -> Figure:
    """Draw the slices with these row numbers beside each other, cropped to the head."""
    figure = Figure(figsize=(3.4 * len(numbers), 7.8), layout="constrained")
    for row, (plain, outlined) in zip(numbers, figure.subplots(2, len(numbers), squeeze=False).T, strict=True):
        result = results.loc[row]
        image, mask = slices.images[row].numpy(), slices.masks[row].numpy()
        left, top, side = head_view(find_head(image[None]) | ((mask | predicted[row])[None] > 0))
        window = np.s_[top : top + side, left : left + side]
        flair = stretch(image[..., FLAIR])[window]
        outlines = [(mask[window], MASK_COLOR), (predicted[row][window], PREDICTION_COLOR)]
        for axes, drawn in ((plain, []), (outlined, outlines)):
            axes.imshow(tile(flair, drawn, SIDE))
            axes.set_axis_off()
        pixels = f"tumour {result.tumour_pixels} px, predicted {result.predicted_pixels} px"
        title = f"{Path(result.image_path).stem}\nIoU {result.iou:.3f}, {pixels}"
        plain.set_title(title, fontsize=8, parse_math=False)  # a patient may be called $x$
    colors = {"reference mask": MASK_COLOR, "prediction": PREDICTION_COLOR}
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
