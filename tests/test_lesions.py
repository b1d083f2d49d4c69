"""Lesions and outlines: components, kinds of slices, matching, distances; by hand and by all pairs of pixels."""

import numpy as np
import pytest
from conftest import box, disc

from evaluation import lesions
from evaluation.lesions import SPECK, SPECK_3D, boundary_complexity, kind_of_slice, match

COMB = box((50, 50, 10, 100), *((60, left, 60, 1) for left in range(50, 150, 10)))


def test_boundary_complexity():
    for radius in (3, 100):
        assert 1.1 < boundary_complexity(np.uint8(disc(radius))) < 1.35
    length, area = 2 * (10 + 200) + np.pi, 10 * 200 + (10 + 200) + np.pi / 4  # a rectangle by hand
    assert boundary_complexity(box((100, 20, 11, 201))) == pytest.approx(length**2 / (4 * np.pi * area))
    assert boundary_complexity(box()) == 0


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (box(), "no tumour"),
        (np.uint8(disc(12)), "small"),
        (np.uint8(disc(40)), "smooth"),
        (box((10, 10, 40, 40), (100, 100, 3, 3)), "smooth"),  # the second component has 9 px
        (box((10, 10, 30, 30), (100, 100, 10, 10)), "several components"),
        (box((10, 10, 30, 30), (40, 40, 10, 10)), "smooth"),  # components touch at corners, too
        (COMB, "complex boundary"),
    ],
)
def test_kinds(mask, kind):
    components = len(match(mask, mask, SPECK).found)
    assert kind_of_slice(int(mask.sum()), components, boundary_complexity(mask)) == kind


def test_matching_in_a_slice():
    mask = box((10, 10, 10, 10), (50, 50, 4, 5), (100, 100, 3, 3))  # 100 and 20 px; 9 px are too few to count
    predicted = box((10, 10, 10, 5), (53, 50, 1, 1), (200, 200, 3, 4), (220, 220, 3, 3))  # 50 px, 1 px, 12 px, 9 px
    found = match(mask, predicted, SPECK)
    assert found.pixels.tolist() == [100, 20] and found.overlap.tolist() == [50, 1]
    assert found.found.tolist() == [True, False]  # half of it; a twentieth
    assert found.dice.tolist() == [2 * 50 / (100 + 50), 2 * 1 / (20 + 1)]
    assert (found.predicted, found.false) == (2, 1)  # the components of 1 and 9 px do not count
    mask = box((0, 0, 10, 10))
    assert match(mask, box((0, 0, 1, 10)), SPECK).found.tolist() == [True]  # a tenth is enough
    assert match(mask, box((0, 0, 1, 9)), SPECK).found.tolist() == [False]
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


def test_outlines_by_hand():
    """5x5 against the same 2 px to the right: 16 surface pixels each, of which 10 are within 1 px of the other."""
    # top and bottom row: 2, 1, 0, 0, 0 px off, so 4 each; left column between them: 2 px off, so none;
    # right column between them: 1, 2, 1 px off, so 2
    assert [*lesions.compare_outlines(box((10, 10, 5, 5)), box((10, 12, 5, 5))).values()] == [2, 32, 10 / 16, 1, 1]
    pixels = box((10, 10, 1, 1)), box((13, 14, 1, 1))  # 3 down, 4 to the right
    assert [*lesions.compare_outlines(*pixels).values()] == [5, 2, 0, 0, 0]
    empty, full = box(), box((0, 0, 256, 256))
    for pair in ((empty, full), (full, empty)):
        assert [*lesions.compare_outlines(*pair).values()][1:] == [4 * 255, 0, 0, 0]
    nothing = lesions.compare_outlines(empty, empty)
    assert nothing.pop("surface_pixels") == 0 and np.isnan([*nothing.values()]).all()


def test_surfaces_in_mm_by_hand():
    mask = np.zeros((5, 9, 9), np.uint8)
    mask[2, 4, 4] = 1
    moved = np.roll(mask, (1, 2), (0, 1))  # one slice and two rows away
    distance, nan = np.hypot(4, 2 * 0.5), np.nan
    cube = np.ones((5, 9, 9), np.uint8)
    for one, other, expected in (
        (mask, moved, (distance, distance, 0)),
        (mask, np.roll(mask, 1, 2), (1, 1, 1)),
        (cube, cube, (0, 0, 1)),
        (mask, mask * 0, (nan, nan, 0)),
        (mask * 0, mask * 0, (nan, nan, nan)),
    ):
        found = lesions.compare_surfaces(one, other, (0.5, 1, 4))  # mm of rows, columns and slices
        assert [*found.values()] == pytest.approx(expected, nan_ok=True)
