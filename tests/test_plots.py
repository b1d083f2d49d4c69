"""Plots and panels: the numbers behind them, and that they come out for ordinary and for extreme input."""

import re

import numpy as np
import pandas as pd
from conftest import make_slices
from PIL import Image

from constants import SYNTHETIC_NOTICE
from evaluation import quality
from reporting import panels, plots
from storage.run_folder import RunFolder

PATIENTS = pd.DataFrame(
    {"tumour_pixels": [100_000, 200, 300, 0, 5000, 9], "predicted_pixels": [90, 220_000, 320, 10, 5000, 9]}
)
SLICES = pd.DataFrame({"tumour_pixels": [20, 300, 4000, 0], "true_positive": [5, 0, 9, 0], "dice": [0.5, 0, 0.9, 1]})
SLICES = SLICES.assign(patient="TCGA_AA_1234_20000101", slice=[1, 2, 3, 4])
BINS = pd.DataFrame({"low": [0, 0.5, 0.9], "high": [0.5, 0.9, 1], "pixels": [900_000, 10, 0]})
BINS["probability"] = BINS["tumour_pixels"] = [90_000, 8, 0]


EXPECTED = [{"dice": dice, "expected_dice": dice / 2, "low": 0.0, "high": 1.0} for dice in (0.6, 0.9)]
EXPECTED.append({"dice": 0.5, "expected_dice": None, "low": None, "high": None})
QUALITY = {"patients": EXPECTED, "model": {"half_width": 0.2}, "nested": quality.judge(pd.DataFrame(EXPECTED))}
METRICS = {"calibration": BINS.to_dict("records"), "quality": QUALITY}


def epochs_with(losses: tuple[float, ...]) -> pd.DataFrame:
    ious = ("training_iou", "validation_iou", "validation_tumour_iou", "validation_empty_prediction")
    table = pd.DataFrame({"training_loss": losses, "validation_loss": losses}).assign(**dict.fromkeys(ious, 0.5))
    return table.assign(epoch=table.index + 1)


def all_plots() -> dict[str, plots.Plot]:
    curves = plots.training_plots(epochs_with((0.7, 0.1, 0.05)), 1, "patient_dice")
    return curves | plots.volume_plots(PATIENTS, SLICES) | plots.probability_plots(METRICS)


def test_each_plot_is_a_png_and_its_note_is_whole(tmp_path):
    drawn = all_plots()
    plots.write_plots(RunFolder(tmp_path), drawn, SYNTHETIC_NOTICE)
    assert list(plots.volume_plots(PATIENTS, SLICES[3:])) == ["bland_altman"]  # without tumour
    assert list(plots.volume_plots(PATIENTS[:5], SLICES)) == ["dice_area"]  # too few patients to agree
    assert list(plots.probability_plots(METRICS | {"quality": QUALITY | {"nested": None}})) == ["reliability"]
    for name, plot in drawn.items():
        plot.figure.draw_without_rendering()
        note = plot.figure.texts[0].get_window_extent()
        axis = plot.figure.axes[0].xaxis.label
        assert axis.get_window_extent().x1 < plot.figure.bbox.x1
        assert ("marked: the best volumetric Dice" in axis.get_text()) == (name in ("loss", "iou"))
        assert plot.figure.get_suptitle() == SYNTHETIC_NOTICE and note.x0 > 0 and note.x1 < plot.figure.bbox.x1
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert picture.size == (1040, 800) and len(picture.convert("L").getcolors()) > 20


def test_svg_is_repeatable_and_fits_into_a_page():
    drawn = {name: plots.to_svg(plot.figure, name) for name, plot in all_plots().items()}
    assert plots.to_svg(plots.draw_dice_against_area(SLICES[:3]).figure, "dice_area") == drawn["dice_area"]
    ids = re.findall(r' id="([^"]+)"', "".join(drawn.values()))
    assert len(set(ids)) == len(ids)
    for text in drawn.values():
        assert text.startswith("<svg") and "<style" not in text and "currentColor" in text and "var(--" in text
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)


def test_panels_take_empty_and_full_masks_and_any_name(tmp_path):
    empty, full = np.zeros((64, 64), np.uint8), np.ones((64, 64), np.uint8)
    slices, predicted = make_slices({"$A_{$": [empty, full, empty]}), np.stack([empty, empty, full])
    table = {"tumour_pixels": [0, 4096, 0], "predicted_pixels": [0, 0, 4096], "false_positive": [0, 0, 4096]}
    results = slices.table.assign(**table, iou=[1.0, 0, 0])
    panels.write_panels(RunFolder(tmp_path), slices, predicted, results, "a note")
    assert {p.stem[6:] for p in tmp_path.glob("plots/panel_*.png")} == {"best", "worst"}
