"""Figures: the numbers behind them, and that pictures come out for ordinary and for extreme input."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from constants import SYNTHETIC_NOTICE
from reporting import plots


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are drawn, instead of files."""
    drawn = []
    monkeypatch.setattr(plots, "_write", lambda figure, path: drawn.append(figure))
    yield drawn
    plots.plt.close("all")


def epochs_with(losses: list[float]) -> pd.DataFrame:
    """The epochs of a run with these losses."""
    ious = ("training_iou", "validation_iou", "validation_tumour_iou", "validation_all_empty")
    table = {"epoch": range(1, len(losses) + 1), "training_loss": losses, "validation_loss": losses}
    return pd.DataFrame(table | dict.fromkeys(ious, 0.5))


def test_bland_altman_by_hand():
    patients = pd.DataFrame({"tumour_pixels": [100, 200, 300], "predicted_pixels": [90, 220, 320]})
    mean, difference, bias, limits = plots.bland_altman(patients)
    assert mean.tolist() == [95, 210, 310] and difference.tolist() == [-10, 20, 20]
    spread = 1.96 * np.sqrt((20**2 + 10**2 + 10**2) / 2)  # of -10, 20, 20 around 10
    assert bias == 10 and limits == pytest.approx((10 - spread, 10 + spread))
    assert plots.bland_altman(patients[:2])[3] is None


def test_stretch_makes_dark_slices_bright_and_keeps_the_order():
    flair = np.zeros((1, 256, 256), np.uint8)
    flair[0, :100, :100] = np.arange(100) % 41  # 0 to 40, as in the darkest stacks
    shown = plots.stretch(flair)
    assert shown.max() == 255 and shown[0, 0, 0] == 0 and shown.shape == flair.shape
    assert (np.diff(shown[0, 0, :41].astype(int)) > 0).all()
    assert not plots.stretch(np.zeros((4, 4), np.uint8)).any()


@pytest.mark.parametrize("missed", [(), (0,), (0, 1, 2)])
def test_the_figures_of_a_test_are_drawn(tmp_path, missed):
    dice = np.array([0.9, 0.5, 0.2])
    dice[list(missed)] = 0
    slices = pd.DataFrame({"tumour_pixels": [20, 300, 4000], "true_positive": (dice > 0).astype(int), "dice": dice})
    patients = pd.DataFrame({"tumour_pixels": [100, 200, 300], "predicted_pixels": [90, 220, 320]})
    plots.plot_test(patients, slices, tmp_path, "a note")
    for name in ("bland_altman", "dice_area"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1050, 630) and len(picture.convert("L").getcolors()) > 20
    plots.plot_test(patients[:1], slices.assign(tumour_pixels=0), tmp_path / "none")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["bland_altman.png"]


def test_the_note_is_whole_on_every_figure(figures, tmp_path):
    epochs = epochs_with([0.7, 0.1, 0.05])
    patients = pd.DataFrame({"tumour_pixels": [100_000, 200, 300], "predicted_pixels": [90, 220_000, 320]})
    slices = pd.DataFrame({"tumour_pixels": [20, 300], "true_positive": 1, "dice": 0.5})
    plots.plot_loss(epochs, 2, tmp_path, SYNTHETIC_NOTICE)
    plots.plot_iou(epochs, 2, tmp_path, SYNTHETIC_NOTICE)
    plots.plot_test(patients, slices, tmp_path, SYNTHETIC_NOTICE)
    assert len(figures) == 4
    for figure in figures:
        figure.draw_without_rendering()
        note = next(text for text in figure.texts if text.get_text() == SYNTHETIC_NOTICE).get_window_extent()
        assert note.x0 > 0 and note.x1 < figure.bbox.x1


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [
        ([0.7, 0.1, 0.025], [0.05, 0.1, 0.2, 0.5]),
        ([1.53, 1.2, 0.85], [1, 1.2, 1.4]),
        ([0.82, 0.81], [0.81, 0.812, 0.814, 0.816, 0.818, 0.82]),
        ([0.4], [0.1, 0.2, 0.5, 1]),
    ],
)
def test_the_loss_axis_has_ticks_to_read_it_by(figures, tmp_path, losses, ticks):
    plots.plot_loss(epochs_with(losses), 1, tmp_path)
    axis = figures[0].axes[0].yaxis
    low, high = axis.get_view_interval()
    assert [tick for tick in axis.get_majorticklocs() if low <= tick <= high] == pytest.approx(ticks)


def test_a_panel_takes_empty_and_full_masks(tmp_path):
    image, empty, full = (np.full(s, v, np.uint8) for s, v in (((64, 64, 3), 9), ((64, 64), 0), ((64, 64), 1)))
    cases = [plots.Case(image, a, b, "caption") for a, b in ((empty, empty), (full, empty), (empty, full))]
    plots.plot_panel(cases, "title\nnote", tmp_path / "panel.png")
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.width == 1500 and picture.height > 1200


def test_the_overlay_tints_hits_and_both_kinds_of_error():
    mask, predicted = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    case = plots.Case(np.zeros((1, 4, 3), np.uint8), mask, predicted, "")
    tinted = plots.overlay(np.zeros((1, 4)), case)[0]
    assert len({tuple(pixel) for pixel in tinted.round(3)}) == 4 and not tinted[3].any()
    assert tinted[1] == pytest.approx([0.4 * 230 / 255, 0.4 * 159 / 255, 0], abs=1e-6)  # missed: the mask's #E69F00
