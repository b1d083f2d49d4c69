"""Calibration on the pixels of the head, by hand."""

import numpy as np
import pytest
from conftest import box, disc, make_slices

from dataset.slices import Slices
from evaluation import calibration


def head_image() -> np.ndarray:
    """A ring of skull around dark tissue, and a bright speck outside of it."""
    image = np.zeros((256, 256, 3), np.uint8)
    image[disc(60) & ~disc(52), 1] = 150
    image[5:9, 5:9] = 255
    return image


def bright_slices(masks: dict) -> Slices:
    slices = make_slices(masks)
    slices.images.fill_(90)  # the head fills the image
    return slices


def test_curve_and_metrics_by_hand():
    slices = bright_slices({"a": [box((0, 0, 1, 3), size=16)]})  # 3 of 256 pixels are tumour
    probabilities = np.full((1, 16, 16), 0.05, np.float32)
    probabilities[0, 0, :2] = 0.95  # two of them; the third is among the 254 at 0.05
    curve, patients = calibration.calibrate(slices, probabilities)
    squared = 2 * 0.05**2 + 253 * 0.05**2 + 0.95**2
    expected = {"patient": "a", "head_pixels": 256, "brier": pytest.approx(squared / 256, rel=1e-6)}
    assert patients.to_dict("records") == [expected]
    expected = {"low": 0, "high": 0.1, "pixels": 254, "probability": 12.7, "tumour_pixels": 1}
    assert curve[0] == pytest.approx(expected, rel=1e-6) and len(curve) == 10
    assert [part["pixels"] for part in curve[1:]] == [0] * 8 + [2] and curve[-1]["tumour_pixels"] == 2
    error = (abs(12.7 - 1) + abs(2 * 0.95 - 2)) / 256
    assert calibration.expected_calibration_error(curve) == pytest.approx(error, rel=1e-6)


def test_only_the_head_counts_with_the_dark_tissue_in_it():
    nothing = np.zeros((1, 256, 256), np.float32)
    _, patients = calibration.calibrate(make_slices({"a": [box()]}, head_image()[None]), nothing)
    assert patients["head_pixels"].tolist() == [pytest.approx(np.pi * 60**2, rel=0.02)]
    curve, patients = calibration.calibrate(make_slices({"a": [box()]}), nothing)  # air alone
    assert patients["brier"].isna().all() and np.isnan(calibration.expected_calibration_error(curve))


def test_pooling_runs_is_the_same_as_counting_all_at_once():
    both = {"a": [box((9, 9, 99, 99))], "b": [box(), box((0, 0, 7, 7))]}
    probabilities = (np.random.default_rng(1).random((3, 256, 256)) ** 4).astype(np.float32)
    first, second = (
        calibration.calibrate(bright_slices({name: both[name]}), probabilities[rows])[0]
        for name, rows in (("a", slice(0, 1)), ("b", slice(1, 3)))
    )
    whole, _ = calibration.calibrate(bright_slices(both), probabilities)
    for one, other in zip(calibration.pool([first, second]), whole, strict=True):
        assert one == pytest.approx(other)
