"""Outlines: by hand, against an exhaustive computation, and against MONAI's metrics."""

import warnings

import numpy as np
import pytest
from conftest import box

from evaluation import lesions


def blobs(seed: int, size: int = 48) -> np.ndarray:
    """Irregular masks with several components and holes, some of which reach the border."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size, size))
    for axis in (0, 1):
        for _ in range(3):
            noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return (noise > np.quantile(noise, 0.8)).astype(np.uint8)


def test_single_pixels_by_hand():
    found = lesions.compare_outlines(box((10, 10, 1, 1)), box((13, 14, 1, 1)))  # 3 down, 4 to the right
    assert found == (5.0, 2, (0.0, 0.0, 0.0))
    found = lesions.compare_outlines(box((10, 10, 1, 1)), box((10, 12, 1, 1)))
    assert found == (2.0, 2, (0.0, 1.0, 1.0))  # a tolerance includes its end


def test_distances_are_roots_of_whole_numbers_to_the_last_bit(monkeypatch):
    one, other = box((10, 10, 1, 1)), box((13, 12, 1, 1))
    root = np.float32(np.sqrt(13))
    for wrong in (root, np.nextafter(root, np.float32(4)), np.nextafter(root, np.float32(3))):
        monkeypatch.setattr("cv2.distanceTransform", lambda mask, *_, wrong=wrong: np.full(mask.shape, wrong))
        assert lesions.distances(one, other).tolist() == [np.sqrt(13.0)]


def test_a_shifted_square_by_hand():
    """5x5 against the same 2 px to the right: 16 surface pixels each, of which 10 are within 1 px of the other."""
    found = lesions.compare_outlines(box((10, 10, 5, 5)), box((10, 12, 5, 5)))
    # top and bottom row: 2, 1, 0, 0, 0 px off, so 4 each; left column between them: 2 px off, so none;
    # right column between them: 1, 2, 1 px off, so 2
    assert found.pixels == 32
    assert found.dice == (10 / 16, 1.0, 1.0)
    assert found.hd95 == 2.0


def test_identical_masks_are_perfect():
    for mask in (box((3, 4, 1, 1)), np.ones((64, 64), np.uint8), blobs(1)):
        hd95, pixels, dice = lesions.compare_outlines(mask, mask)
        assert (hd95, dice) == (0.0, (1.0, 1.0, 1.0)) and pixels == 2 * lesions.surface(mask).sum()


def test_empty_masks():
    empty, full = box(), box((0, 0, 256, 256))
    hd95, pixels, dice = lesions.compare_outlines(empty, empty)
    assert np.isnan(hd95) and np.isnan(dice).all() and pixels == 0
    for pair in ((empty, full), (full, empty)):
        hd95, pixels, dice = lesions.compare_outlines(*pair)
        assert np.isnan(hd95) and dice == (0.0, 0.0, 0.0) and pixels == 4 * 255


def test_the_border_of_the_image_is_a_surface():
    assert lesions.surface(box((0, 0, 3, 3), size=8)).sum() == 8  # all but its centre
    assert lesions.compare_outlines(box((0, 0, 1, 1)), box((255, 255, 1, 1))).hd95 == pytest.approx(255 * 2**0.5)


def test_agrees_with_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed (requirements-dev.txt)")
    import torch

    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(6)]
    pairs += [
        (box((10, 10, 20, 30), size=48), box((14, 12, 20, 25), size=48)),
        (box((0, 0, 9, 9), (30, 30, 10, 18), size=48), box((30, 28, 10, 18), size=48)),
        (box((5, 5, 1, 1), size=48), box((0, 0, 48, 48), size=48)),
    ]
    masks, predicted = (torch.from_numpy(np.stack(part)[:, None]).float() for part in zip(*pairs, strict=True))
    ours = [lesions.compare_outlines(*pair) for pair in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = monai.compute_hausdorff_distance(predicted, masks, include_background=True, percentile=95)
        np.testing.assert_allclose([found.hd95 for found in ours], hd95[:, 0].numpy(), atol=1e-4)
        for k, tolerance in enumerate(lesions.TOLERANCES):
            dice = monai.compute_surface_dice(predicted, masks, [tolerance], include_background=True)
            np.testing.assert_allclose([found.dice[k] for found in ours], dice[:, 0].numpy(), atol=1e-6)
