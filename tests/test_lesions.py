import numpy as np
import pytest
from conftest import box

from evaluation.lesions import (
    SPECK,
    SPECK_3D,
    boundary_complexity,
    kind_of_slice,
    match,
    part_areas,
    remove_small_parts,
)


def canvas() -> np.ndarray:
    return np.zeros((256, 256), np.uint8)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:256, :256]
    return ((y - 128) ** 2 + (x - 128) ** 2 <= radius**2).astype(np.uint8)


def comb() -> np.ndarray:
    mask = canvas()
    mask[50:60, 50:150] = 1
    mask[60:120, 50:150:10] = 1
    return mask


def test_parts_touch_at_corners_too():
    mask = canvas()
    mask[10:12, 10:12] = 1
    mask[12:15, 12:15] = 1  # touches the first at a corner
    mask[40, 40] = 1
    assert part_areas(mask) == [13, 1]
    assert part_areas(canvas()) == []


@pytest.mark.parametrize("radius", [3, 10, 40, 100])
def test_a_disc_is_simple(radius):
    assert 1.1 < boundary_complexity(disc(radius)) < 1.35


def test_complexity_of_a_long_rectangle_by_hand():
    mask = canvas()
    mask[100:111, 20:221] = 1  # 11 x 201 pixels
    length, area = 2 * (10 + 200) + np.pi, 10 * 200 + (10 + 200) + np.pi / 4
    assert boundary_complexity(mask) == pytest.approx(length**2 / (4 * np.pi * area))
    assert boundary_complexity(canvas()) == 0


def test_kinds():
    two = canvas()
    two[10:40, 10:40] = two[100:110, 100:110] = 1
    with_speck = canvas()
    with_speck[10:50, 10:50] = with_speck[100:103, 100:103] = 1  # the second part has 9 px
    cases = {"no tumour": canvas(), "small": disc(12), "smooth": disc(40), "two-part": two, "complex boundary": comb()}
    assert {kind: kind_of_slice(mask) for kind, mask in cases.items()} == {kind: kind for kind in cases}
    assert kind_of_slice(with_speck) == "smooth"


def test_matching_in_a_slice_by_hand():
    truth = box((10, 10, 10, 10), (50, 50, 4, 5), (100, 100, 3, 3))  # 100 and 20 px; 9 px are too few to count
    predicted = box((10, 10, 10, 5), (53, 50, 1, 1), (200, 200, 3, 4), (220, 220, 3, 3))  # 50 px, 1 px, 12 px, 9 px
    found = match(truth, predicted, SPECK)
    assert found.pixels.tolist() == [100, 20] and found.overlap.tolist() == [50, 1]
    assert found.found.tolist() == [True, False]  # half of it; a twentieth
    assert found.dice.tolist() == [2 * 50 / (100 + 50), 2 * 1 / (20 + 1)]
    assert (found.predicted, found.false) == (2, 1)  # the parts of 1 and 9 px do not count


def test_a_tenth_is_enough():
    truth = box((0, 0, 10, 10))
    assert match(truth, box((0, 0, 1, 10)), SPECK).found.tolist() == [True]
    assert match(truth, box((0, 0, 1, 9)), SPECK).found.tolist() == [False]
    # 9 of 100 predicted pixels hit: a false part, although the tumour of 9 px would be covered wholly
    assert match(box((0, 0, 1, 9)), truth, 1)[4:] == (True, pytest.approx(2 * 9 / 109), 1, 1)


def test_one_prediction_over_two_lesions_finds_both_but_fits_neither():
    found = match(box((0, 0, 10, 10), (0, 20, 10, 10)), box((0, 0, 10, 30)), SPECK)
    assert found.found.tolist() == [True, True] and found.dice.tolist() == [2 * 100 / (100 + 300)] * 2
    assert (found.predicted, found.false) == (1, 0)


def test_matching_in_a_stack():
    truth = np.zeros((6, 32, 32), np.uint8)
    predicted = truth.copy()
    truth[0:3, :5, :5] = 1  # 75 px over planes 0 to 2
    truth[3, 5:15, 5:15] = 1  # touches it at a corner only: the same lesion, 175 px
    truth[5, 20:30, 20:25] = 1  # 50 px, apart
    truth[5, 0, 0] = 1
    predicted[1, :5, :5] = 1
    found = match(truth, predicted, SPECK_3D)
    assert found.first.tolist() == [0, 5] and found.last.tolist() == [3, 5]
    assert found.pixels.tolist() == [175, 50] and found.overlap.tolist() == [25, 0]
    assert found.found.tolist() == [True, False] and (found.predicted, found.false) == (0, 0)  # 25 px are too few


@pytest.mark.parametrize("shape", [(16, 16), (3, 16, 16)])
def test_matching_empty_and_full(shape):
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    assert [len(part) for part in match(empty, empty, SPECK)[:6]] == [0] * 6
    assert match(empty, empty, SPECK)[6:] == (0, 0)
    assert match(empty, full, SPECK)[6:] == (1, 1)
    nothing = match(full, empty, SPECK)
    assert nothing.found.tolist() == [False] and nothing[6:] == (0, 0)
    assert match(full, full, SPECK).dice.tolist() == [1.0]


def test_small_parts_are_removed_in_each_slice():
    masks = np.stack([box((0, 0, 3, 3), (10, 10, 2, 5)), box((0, 0, 1, 1)), box()])
    assert remove_small_parts(masks, 10).sum((1, 2)).tolist() == [10, 0, 0]
    assert remove_small_parts(masks, 9).sum((1, 2)).tolist() == [19, 0, 0]
    assert remove_small_parts(masks, 0) is masks
