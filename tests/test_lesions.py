import numpy as np
import pytest

from lesions import boundary_complexity, kind_of_slice, part_areas


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
