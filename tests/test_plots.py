"""Plots and panels come out for ordinary and for extreme input."""

import numpy as np
import pandas as pd
from conftest import make_slices
from PIL import Image

from constants import SYNTHETIC_NOTICE
from evaluation import quality
from reporting import panels, plots
from storage.run_folder import RunFolder

PATIENTS = pd.DataFrame({"tumour_pixels": [100_000, 200, 300, 0, 5000, 9]})
PATIENTS["predicted_pixels"] = [90, 220_000, 320, 10, 5000, 9]
SLICES = pd.DataFrame({"tumour_pixels": [20, 300, 4000, 0], "true_positive": [5, 0, 9, 0], "dice": [0.5, 0, 0.9, 1]})
SLICES = SLICES.assign(patient="TCGA_AA_1234_20000101", slice=[1, 2, 3, 4])
BINS = pd.DataFrame({"low": [0, 0.5, 0.9], "high": [0.5, 0.9, 1], "pixels": [900_000, 10, 0]})
BINS["probability"] = BINS["tumour_pixels"] = [90_000, 8, 0]
EXPECTED = [{"dice": dice, "expected_dice": dice / 2, "low": 0.0, "high": 1.0} for dice in (0.6, 0.9)]
EXPECTED.append({"dice": 0.5, "expected_dice": None, "low": None, "high": None})
QUALITY = {"patients": EXPECTED, "model": {"half_width": 0.2}, "nested": quality.judge(pd.DataFrame(EXPECTED))}
METRICS = {"calibration": BINS.to_dict("records"), "quality": QUALITY}
IOUS = ("training_iou", "validation_iou", "validation_tumour_iou", "validation_empty_prediction")
LOSSES = dict.fromkeys(("training_loss", "validation_loss"), (0.7, 0.1, 0.05))
EPOCHS = pd.DataFrame({"epoch": [1, 2, 3], **LOSSES, **dict.fromkeys(IOUS, 0.5)})


def test_each_plot_is_a_png_and_its_note_is_whole(tmp_path):
    drawn = plots.training_plots(EPOCHS, 1, "patient_dice")
    drawn |= plots.result_plots(PATIENTS, SLICES, METRICS)
    plots.write_plots(RunFolder(tmp_path), drawn, SYNTHETIC_NOTICE)
    assert list(plots.result_plots(PATIENTS, SLICES[3:], {})) == ["bland_altman"]  # without tumour
    metrics = METRICS | {"quality": QUALITY | {"nested": None}}
    assert list(plots.result_plots(PATIENTS[:5], SLICES, metrics)) == ["dice_area", "reliability"]  # too few patients
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        note, axis = figure.texts[0].get_window_extent(), figure.axes[0].xaxis.label
        assert axis.get_window_extent().x1 < figure.bbox.x1
        assert ("marked: the best volumetric Dice" in axis.get_text()) == (name in ("loss", "iou"))
        assert figure.axes[0].get_title() and figure.get_suptitle() == SYNTHETIC_NOTICE
        assert note.x0 > 0 and note.x1 < figure.bbox.x1
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert picture.size == (1040, 800) and len(picture.convert("L").getcolors()) > 20


def test_panels_take_empty_and_full_masks_and_any_name(tmp_path):
    empty, full = np.zeros((64, 64), np.uint8), np.ones((64, 64), np.uint8)
    slices, predicted = make_slices({"$A_{$": [empty, full, empty]}), np.stack([empty, empty, full])
    table = {"tumour_pixels": [0, 4096, 0], "predicted_pixels": [0, 0, 4096], "false_positive": [0, 0, 4096]}
    results = slices.table.assign(**table, iou=[1.0, 0, 0])
    panels.write_panels(RunFolder(tmp_path), slices, predicted, results, "a note")
    assert {p.stem[6:] for p in tmp_path.glob("plots/panel_*.png")} == {"best", "worst"}
