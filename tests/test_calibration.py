"""Calibration on the pixels of the head, and warnings about images and masks, by hand."""

import numpy as np
import pytest
from conftest import box, make_slices

from dataset.folder import find_slices
from dataset.preprocess import find_head
from dataset.published import published_patients
from dataset.slices import Slices, load_slices
from evaluation import calibration
from scans.check import CORTEX, cortex_ratio, input_warnings, is_misplaced


def head_image(radius: int = 60) -> np.ndarray:
    """A ring of skull around dark tissue, and a bright speck outside of it."""
    y, x = np.mgrid[:256, :256]
    distance = np.hypot(y - 128, x - 128)
    image = np.zeros((256, 256, 3), np.uint8)
    image[(distance <= radius) & (distance >= radius - 8), 1] = 150
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
    for probabilities in (nothing, None):  # air alone; masks without probabilities
        curve, patients = calibration.calibrate(make_slices({"a": [box()]}), probabilities)
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


def test_a_photograph_a_page_and_a_mask_over_half_of_the_head_are_doubted():
    images, masks = np.stack([head_image()] * 2), np.zeros((2, 256, 256), np.uint8)
    images[:, :9, :9] = 0
    assert input_warnings(images, np.stack([box((100, 100, 20, 20))] * 2)) == []
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    assert "the corners, where MR shows air, vary like the rest" in input_warnings(noise, masks)[0]
    assert "are as bright as the rest" in input_warnings(np.full_like(images, 250), masks)[0]
    masks[1] = find_head(images, filled=True)[1]
    assert "more than a third of the head in 1 of 2 slices" in input_warnings(images, masks)[0]
    images[1] = box((100, 100, 30, 30))[..., None] * 90
    assert input_warnings(images, np.stack([box(), box((100, 100, 20, 20))])) == []  # 400 px, where the head ends


def test_a_head_that_lies_unlike_those_of_the_data_set():
    y, x = np.mgrid[:100, :100]
    egg = (np.abs(x - 50) < 25 + y / 9) & (y >= 5) & (y < 95)  # 90 rows; 50 columns in front, 70 behind
    stack = np.stack([egg & (np.hypot(y - 50, x - 50) < radius) for radius in (20, 70, 70, 70, 20)])
    assert not is_misplaced(stack) and not is_misplaced(stack & False)
    assert is_misplaced(stack, tall=0.5)
    for wrong in (stack[:, ::-1], np.rot90(stack, 1, (1, 2)), stack[:, :70], stack[1:4]):
        assert is_misplaced(wrong)


@pytest.mark.parametrize("cortex", [80, 120])
def test_a_cortex_darker_than_white_matter_is_like_t1(cortex):
    y, x = np.mgrid[:256, :256]
    first, last = np.minimum(y % 48, x % 48), np.maximum(y % 48, x % 48)  # in gyri of 40 pixels, 8 apart
    plane = np.select([last >= 40, (first < 6) | (last >= 34)], [20, cortex], 100)
    plane[(np.abs(x - 128) >= 60 + y / 9) | (y < 30) | (y >= 226)] = 0
    stack = np.repeat(plane[None, ..., None].astype(np.uint8), 7, 0).repeat(3, -1)
    stack[[0, -1], :150] = 0  # smaller at the ends
    assert cortex_ratio(stack[..., 1], find_head(stack, filled=True)) == pytest.approx(cortex / 100, abs=0.08)
    warnings = input_warnings(stack, np.zeros(stack.shape[:3], np.uint8))
    assert ["looks like T1" in text for text in warnings] == [True] * (cortex < 100)


@pytest.mark.real
def test_t1_is_told_from_flair_in_the_12_real_patients(real):
    slices = load_slices(real, {"all": find_slices(real, published_patients(subset=True))})["all"]
    doubted = []
    for rows in slices.stacks().values():
        stacks = [slices.images.numpy()[rows][..., [channel] * 3] for channel in range(3)]
        doubted.append([cortex_ratio(stack[..., 0], find_head(stack, filled=True)) < CORTEX for stack in stacks])
    assert np.sum(doubted, 0).tolist() == [12, 0, 9]


def test_a_mask_at_the_end_of_a_stack_is_doubted():
    images, masks = np.stack([head_image()] * 5), np.stack([box((100, 100, 20, 20))] * 5)
    images[:, :9, :9] = 0
    assert "the mask reaches the first or last slice" in input_warnings(images, masks)[-1]
