"""Lesions and outlines, by hand."""

import numpy as np
import pytest
from conftest import box

from evaluation import lesions
from evaluation.lesions import match


def test_matching_of_components_in_a_plane():
    mask = box((10, 10, 10, 10), (50, 50, 8, 10), (100, 100, 7, 7))  # 100 and 80 px; 49 px are too few to count
    predicted = box((10, 10, 10, 5), (57, 50, 1, 7), (200, 200, 5, 12), (220, 220, 7, 7))  # 50 px, 7 px, 60 px, 49 px
    found, components, false = match(mask[None], predicted[None])
    assert found["volume"].tolist() == [100, 80] and found["overlap"].tolist() == [50, 7]
    assert found["found"].tolist() == [1, 0]  # half of it; less than a tenth
    assert found["dice"].tolist() == [2 * 50 / (100 + 50), 2 * 7 / (80 + 7)]
    assert (components, false) == (2, 1)  # the components of 7 and 49 px do not count
    mask = box((0, 0, 10, 10))[None]
    assert match(mask, box((0, 0, 1, 10))[None])[0]["found"].tolist() == [1]  # a tenth is enough
    assert match(mask, box((0, 0, 1, 9))[None])[0]["found"].tolist() == [0]
    found, *counts = match(box((0, 0, 10, 10), (0, 20, 10, 10))[None], box((0, 0, 10, 30))[None])
    assert found["found"].tolist() == [1, 1] and found["dice"].tolist() == [2 * 100 / (100 + 300)] * 2
    assert counts == [1, 0]


def test_matching_in_a_stack():
    mask = np.zeros((6, 32, 32), np.uint8)
    predicted = mask.copy()
    mask[0:3, :5, :5] = 1  # 75 px over planes 0 to 2
    mask[3, 5:15, 5:15] = 1  # touches it at a corner only: the same lesion, 175 px
    mask[5, 20:30, 20:25] = 1  # 50 px, apart
    mask[5, 0, 0] = 1
    predicted[1, :5, :5] = 1
    found, *counts = match(mask, predicted)
    assert found["first_slice"].tolist() == [0, 5] and found["last_slice"].tolist() == [3, 5]
    assert found["volume"].tolist() == [175, 50] and found["overlap"].tolist() == [25, 0]
    assert found["found"].tolist() == [1, 0] and counts == [0, 0]  # 25 px are too few


def test_outlines_by_hand():
    """5x5 against the same 3 px to the right: 16 surface pixels each, of which 11 are within 2 px of the other."""
    # top and bottom row: 3, 2, 1, 0, 0 px off, so 4 each; left column between them: 3 px off, so none;
    # right column between them: 1 px off, so 3
    assert [*lesions.compare_outlines(box((10, 10, 5, 5)), box((10, 13, 5, 5))).values()] == [3, 32, 11 / 16]
    pixels = box((10, 10, 1, 1)), box((13, 14, 1, 1))  # 3 down, 4 to the right
    assert [*lesions.compare_outlines(*pixels).values()] == [5, 2, 0]
    empty, full = box(), box((0, 0, 256, 256))
    for pair in ((empty, full), (full, empty)):
        assert [*lesions.compare_outlines(*pair).values()][1:] == [4 * 255, 0]
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
