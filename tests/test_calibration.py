"""Head pixels and calibration, by hand."""

import numpy as np
import pytest
from conftest import box, make_slices

from dataset.slices import Slices
from evaluation import calibration


def head_image(radius: int = 60) -> np.ndarray:
    """A ring of skull around dark tissue, and a bright speck outside of it."""
    y, x = np.mgrid[:256, :256]
    distance = np.hypot(y - 128, x - 128)
    image = np.zeros((256, 256, 3), np.uint8)
    image[(distance <= radius) & (distance >= radius - 8), 1] = 150
    image[5:9, 5:9] = 255
    return image


def test_the_head_is_the_largest_bright_region_with_its_holes():
    head = calibration.head_mask(head_image())
    y, x = np.mgrid[:256, :256]
    distance = np.hypot(y - 128, x - 128)
    assert head[distance < 60].all() and not head[distance > 64].any()


def test_air_has_no_head():
    noise = np.random.default_rng(0).integers(0, 15, (256, 256, 3), np.uint8)
    assert not calibration.head_mask(noise).any()
    assert calibration.head_mask(np.full((256, 256, 3), 90, np.uint8)).all()


def bright_slices(masks: dict) -> Slices:
    slices = make_slices(masks)
    slices.images.fill_(90)  # the head fills the image
    return slices


def test_counts_and_metrics_by_hand():
    slices = bright_slices({"a": [box((0, 0, 1, 3), size=4)]})  # 3 of 16 pixels are tumour
    probabilities = np.full((1, 4, 4), 0.05, np.float32)
    probabilities[0, 0, :2] = 0.95  # two of them; the third is among the 14 at 0.05
    counts = calibration.count(slices, probabilities)
    assert counts.shape == (1, 4, 10)
    assert counts[0, 0].tolist() == [14, *[0] * 8, 2] and counts[0, 2].tolist() == [1, *[0] * 8, 2]
    found = calibration.summarise(counts)
    squared = 2 * 0.05**2 + 13 * 0.05**2 + 0.95**2
    assert found["brier"] == pytest.approx(squared / 16, rel=1e-6)
    assert found["ece"] == pytest.approx((abs(14 * 0.05 - 1) + abs(2 * 0.95 - 2)) / 16, rel=1e-6)
    first, second, *_, last = found["bins"]
    assert first == pytest.approx(
        {"low": 0, "high": 0.1, "pixels": 14, "mean_probability": 0.05, "tumour_share": 1 / 14}, rel=1e-6
    )
    assert second["pixels"] == 0 and np.isnan(second["tumour_share"])
    assert last["pixels"] == 2 and last["tumour_share"] == 1


def test_certain_and_right_certain_and_wrong():
    mask = box((0, 0, 2, 4), size=4)
    slices = bright_slices({"a": [mask]})
    for probabilities, worst in ((mask, 0), (1 - mask, 1)):
        found = calibration.summarise(calibration.count(slices, probabilities[None].astype(np.float32)))
        assert found["brier"] == found["ece"] == worst


def test_the_background_does_not_count():
    nothing = np.zeros((1, 256, 256), np.float32)
    counts = calibration.count(make_slices({"a": [box()]}, head_image()[None]), nothing)
    assert counts[0, 0].sum() == calibration.head_mask(head_image()).sum() < 256 * 256 / 4
    found = calibration.summarise(calibration.count(make_slices({"a": [box()]}), nothing))  # air alone
    assert np.isnan(found["brier"]) and np.isnan(found["ece"])


def test_merging_runs_is_the_same_as_counting_all_at_once():
    rng = np.random.default_rng(1)
    slices = bright_slices({"a": [box((9, 9, 99, 99))], "b": [box(), box((0, 0, 7, 7))]})
    counts = calibration.count(slices, (rng.random((3, 256, 256)) ** 4).astype(np.float32))
    merged = calibration.merge([calibration.summarise(counts[:1]), calibration.summarise(counts[1:])])
    whole = calibration.summarise(counts)
    assert merged["brier"] == pytest.approx(whole["brier"]) and merged["ece"] == pytest.approx(whole["ece"])
    for a, b in zip(merged["bins"], whole["bins"], strict=True):
        assert a == pytest.approx(b)

    airless = calibration.summarise(counts[:1] * 0) | {"brier": None}  # as from metrics.json
    assert calibration.merge([calibration.summarise(counts), airless])["brier"] == pytest.approx(whole["brier"])

    table = calibration.per_patient(counts, slices.patients)
    assert table["patient"].tolist() == ["a", "b"] and table["head_pixels"].tolist() == [65536, 131072]
    assert (table["brier"] * table["head_pixels"]).sum() / 196608 == pytest.approx(whole["brier"])
