"""Lesions and outlines: components, kinds of slices, matching, distances; by hand and against MONAI."""

import warnings

import numpy as np
import pytest
from conftest import box

from evaluation import lesions
from evaluation.lesions import SPECK, SPECK_3D, boundary_complexity, kind_of_slice, match


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:256, :256]
    return ((y - 128) ** 2 + (x - 128) ** 2 <= radius**2).astype(np.uint8)


COMB = box((50, 50, 10, 100), *((60, left, 60, 1) for left in range(50, 150, 10)))


def test_boundary_complexity():
    for radius in (3, 100):
        assert 1.1 < boundary_complexity(disc(radius)) < 1.35
    length, area = 2 * (10 + 200) + np.pi, 10 * 200 + (10 + 200) + np.pi / 4  # a rectangle by hand
    assert boundary_complexity(box((100, 20, 11, 201))) == pytest.approx(length**2 / (4 * np.pi * area))
    assert boundary_complexity(box()) == 0


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (box(), "no tumour"),
        (disc(12), "small"),
        (disc(40), "smooth"),
        (box((10, 10, 40, 40), (100, 100, 3, 3)), "smooth"),  # the second component has 9 px
        (box((10, 10, 30, 30), (100, 100, 10, 10)), "several components"),
        (box((10, 10, 30, 30), (40, 40, 10, 10)), "smooth"),  # components touch at corners, too
        (COMB, "complex boundary"),
    ],
)
def test_kinds(mask, kind):
    assert kind_of_slice(mask) == kind


def test_matching_in_a_slice_by_hand():
    mask = box((10, 10, 10, 10), (50, 50, 4, 5), (100, 100, 3, 3))  # 100 and 20 px; 9 px are too few to count
    predicted = box((10, 10, 10, 5), (53, 50, 1, 1), (200, 200, 3, 4), (220, 220, 3, 3))  # 50 px, 1 px, 12 px, 9 px
    found = match(mask, predicted, SPECK)
    assert found.pixels.tolist() == [100, 20] and found.overlap.tolist() == [50, 1]
    assert found.found.tolist() == [True, False]  # half of it; a twentieth
    assert found.dice.tolist() == [2 * 50 / (100 + 50), 2 * 1 / (20 + 1)]
    assert (found.predicted, found.false) == (2, 1)  # the components of 1 and 9 px do not count


def test_a_tenth_is_enough():
    mask = box((0, 0, 10, 10))
    assert match(mask, box((0, 0, 1, 10)), SPECK).found.tolist() == [True]
    assert match(mask, box((0, 0, 1, 9)), SPECK).found.tolist() == [False]
    # 9 of 100 predicted pixels hit: a false component, although the tumour of 9 px would be covered wholly
    assert match(box((0, 0, 1, 9)), mask, 1)[4:] == (True, pytest.approx(2 * 9 / 109), 1, 1)


def test_one_prediction_over_two_lesions_finds_both_but_fits_neither():
    found = match(box((0, 0, 10, 10), (0, 20, 10, 10)), box((0, 0, 10, 30)), SPECK)
    assert found.found.tolist() == [True, True] and found.dice.tolist() == [2 * 100 / (100 + 300)] * 2
    assert (found.predicted, found.false) == (1, 0)


def test_matching_in_a_stack():
    mask = np.zeros((6, 32, 32), np.uint8)
    predicted = mask.copy()
    mask[0:3, :5, :5] = 1  # 75 px over planes 0 to 2
    mask[3, 5:15, 5:15] = 1  # touches it at a corner only: the same lesion, 175 px
    mask[5, 20:30, 20:25] = 1  # 50 px, apart
    mask[5, 0, 0] = 1
    predicted[1, :5, :5] = 1
    found = match(mask, predicted, SPECK_3D)
    assert found.first.tolist() == [0, 5] and found.last.tolist() == [3, 5]
    assert found.pixels.tolist() == [175, 50] and found.overlap.tolist() == [25, 0]
    assert found.found.tolist() == [True, False] and (found.predicted, found.false) == (0, 0)  # 25 px are too few


def test_matching_empty_and_full():
    empty, full = np.zeros((16, 16), np.uint8), np.ones((16, 16), np.uint8)
    for pair, expected in (((empty, empty), (0, 0)), ((empty, full), (1, 1)), ((full, empty), (0, 0))):
        assert match(*pair, SPECK)[6:] == expected
    assert match(full, empty, SPECK).found.tolist() == [False] and match(full, full, SPECK).dice.tolist() == [1.0]


# --- Outlines --------------------------------------------------------------------------------------------------


def blobs(seed: int, size: int = 48) -> np.ndarray:
    """Irregular masks with several components and holes, some of which reach the border."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size, size))
    for axis in (0, 1):
        for _ in range(3):
            noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return (noise > np.quantile(noise, 0.8)).astype(np.uint8)


def test_a_shifted_square_by_hand():
    """5x5 against the same 2 px to the right: 16 surface pixels each, of which 10 are within 1 px of the other."""
    found = lesions.compare_outlines(box((10, 10, 5, 5)), box((10, 12, 5, 5)))
    # top and bottom row: 2, 1, 0, 0, 0 px off, so 4 each; left column between them: 2 px off, so none;
    # right column between them: 1, 2, 1 px off, so 2
    assert found.pixels == 32
    assert found.dice == (10 / 16, 1.0, 1.0)
    assert found.hd95 == 2.0
    pixels = box((10, 10, 1, 1)), box((13, 14, 1, 1))  # 3 down, 4 to the right
    assert lesions.compare_outlines(*pixels) == (5.0, 2, (0.0, 0.0, 0.0))


def test_empty_masks():
    empty, full = box(), box((0, 0, 256, 256))
    hd95, pixels, dice = lesions.compare_outlines(empty, empty)
    assert np.isnan(hd95) and np.isnan(dice).all() and pixels == 0
    for pair in ((empty, full), (full, empty)):
        hd95, pixels, dice = lesions.compare_outlines(*pair)
        assert np.isnan(hd95) and dice == (0.0, 0.0, 0.0) and pixels == 4 * 255


def test_agrees_with_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed (requirements-dev.txt)")
    import torch

    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(6)]
    pairs.append((box((5, 5, 1, 1), size=48), box((0, 0, 48, 48), size=48)))
    masks, predicted = (torch.from_numpy(np.stack(part)[:, None]).float() for part in zip(*pairs, strict=True))
    ours = [lesions.compare_outlines(*pair) for pair in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = monai.compute_hausdorff_distance(predicted, masks, include_background=True, percentile=95)
        np.testing.assert_allclose([found.hd95 for found in ours], hd95[:, 0].numpy(), atol=1e-4)
        for k, tolerance in enumerate(lesions.TOLERANCES):
            dice = monai.compute_surface_dice(predicted, masks, [tolerance], include_background=True)
            np.testing.assert_allclose([found.dice[k] for found in ours], dice[:, 0].numpy(), atol=1e-6)
