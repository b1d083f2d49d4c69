"""What is unusual in the images of a patient: mixed pictures, removed skulls."""

from pathlib import Path

import numpy as np
import pytest

from scans.check import file_warnings, is_stripped
from scans.scan import Scan

GREY = np.full((8, 8, 3), 90, np.uint8)
TINTED = GREY + np.array([0, 0, 2], np.uint8)


@pytest.mark.parametrize(
    ("names", "planes", "expected"),
    [
        (("a_1", "a_2", "a_3"), [TINTED, GREY * 0, GREY * 0], ""),
        (("z_-12.5", "z_0.0", "z_2.5"), [TINTED] * 3, ""),
        (("x", "y1", "7"), [GREY] * 3, ""),
        (("a_1", "a_2", "b_1", "b_2"), [GREY] * 4, "pictures of 2 series by their names (a_1.png, b_1.png)"),
        (("1", "2", "3"), [GREY, GREY[:6], GREY], "pictures of 2 sizes (8x6, 8x8) are taken for one stack"),
        (("1", "2", "3"), [GREY, TINTED, GREY], "1 of 3 pictures are in colour, such as 2, and are read as three"),
    ],
)
def test_pictures_that_are_no_stack_of_one_patient(names, planes, expected):
    paths = [Path(f"{name}.png") for name in names]
    warnings = file_warnings(Scan("p", planes, list(names), paths), paths)
    assert (len(warnings) == 1 and expected in warnings[0]) if expected else warnings == []


def test_a_head_without_scalp_and_skull():
    y, x = np.mgrid[:256, :256]
    radius = np.hypot(y - 128, x - 128)
    brain = np.where(radius < 70, 90 + x % 40, 0)
    head = np.where((radius > 84) & (radius < 100), 250, brain)
    for plane, slices, stripped in ((brain, 5, True), (head, 5, False), (brain, 4, False), (brain * 0, 5, False)):
        planes = [np.repeat(plane[..., None], 3, 2).astype(np.uint8)] * slices
        assert is_stripped(Scan("p", planes, [], [])) is stripped
