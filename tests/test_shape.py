"""Shape features on shapes whose answer is known, and what may happen to a tumour without changing them."""

import math

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from evaluation import shape
from evaluation.shape import ellipsoid_volume

BOX = 2 / (math.pi * math.sqrt(3))  # BEVR of any box: its ellipsoid is that of a cube, stretched


def ball(radii: tuple[float, float, float], size: int = 90) -> np.ndarray:
    """An ellipsoid of voxels in the middle of a stack of this size."""
    axes = np.ogrid[:size, :size, :size]
    middle = (size - 1) / 2
    return np.uint8(sum(((axis - middle) / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) <= 1)


def star(amplitude: float, waves: int, radius: float = 80) -> np.ndarray:
    """A slice with an outline of radius * (1 + amplitude * cos(waves * angle)): uint8 [1, 256, 256]."""
    y, x = np.mgrid[-128:128, -128:128]
    return np.uint8(np.hypot(x, y) <= radius * (1 + amplitude * np.cos(waves * np.arctan2(y, x))))[None]


@pytest.mark.parametrize("radii", [(40, 40, 40), (10, 25, 40)], ids=["ball", "ellipsoid"])
def test_a_ball_or_an_ellipsoid_fills_its_ellipsoid(radii):
    found = shape.measure(ball(radii))
    assert 0.87 < found["bevr"] < 1 and 0.9 < found["solidity"] < 1  # voxel corners stand out of it
    assert found["volume"] == pytest.approx(4 / 3 * math.pi * math.prod(radii), rel=0.01)


@pytest.mark.parametrize("sides", [(1, 1, 30), (7, 20, 30)], ids=["row", "box"])
def test_a_box_and_tumours_too_thin_for_voxel_centres(sides):
    stack = np.zeros((9, 40, 40), np.uint8)
    stack[tuple(slice(2, 2 + side) for side in sides)] = 1
    found = shape.measure(stack)
    assert found["bevr"] == pytest.approx(BOX, rel=1e-5) and found["solidity"] == pytest.approx(1)
    assert (found["volume"], found["components"]) == (math.prod(sides), 1)


def test_of_an_automatic_mask_the_largest_component_alone_is_measured():
    stack = np.zeros((9, 40, 40), np.uint8)
    stack[2:5, 2:12, 2:12] = stack[7, 30:33, 30:33] = 1
    found, alone = shape.measure(stack), shape.measure(stack, largest_only=True)
    assert found["bevr"] < alone["bevr"] == pytest.approx(BOX, rel=1e-5)
    assert (found["volume"], alone["volume"], alone["components"]) == (309, 300, 2)


def test_no_affine_map_changes_bevr():
    """Stretching, shearing, turning: the ellipsoid of mapped points is the mapped ellipsoid, and so is the volume."""
    rng = np.random.default_rng(1)
    hull = ConvexHull(rng.normal(size=(200, 3)))
    before = hull.volume / ellipsoid_volume(hull.points[hull.vertices])
    for _ in range(10):
        affine = rng.normal(size=(3, 3)) @ np.diag([0.1, 1, 10])
        mapped = ConvexHull(hull.points @ affine + rng.normal(size=3) * 100)
        assert mapped.volume / ellipsoid_volume(mapped.points) == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("amplitude", [0, 0.1])
def test_a_disc_and_a_star_with_ten_rays(amplitude):
    """One wave in each sector and in each window: smoothing leaves nothing of it, and both see its whole height."""
    found = shape.measure(star(amplitude, 10))
    expected = pytest.approx(amplitude / math.sqrt(2), rel=0.08, abs=0.005)
    assert found["margin_fluctuation"] == expected and found["angular_sd"] == expected


def test_a_slow_wave_is_no_fluctuation():
    """A moving average over a tenth of two waves keeps sin(x) / x of them, x = 2 pi / 10."""
    kept = math.sin(0.2 * math.pi) / (0.2 * math.pi)
    found = shape.measure(star(0.2, 2))["margin_fluctuation"]
    assert found == pytest.approx(0.2 / math.sqrt(2) * (1 - kept), rel=0.25)
    assert found < shape.measure(star(0.05, 19))["margin_fluctuation"]


def test_an_empty_mask_and_one_voxel_have_a_reason():
    stack = np.zeros((3, 8, 8), np.uint8)
    found = shape.measure(stack)
    assert found["reason"] == "the mask is empty"
    assert found["volume"] == found["components"] == found["largest_area"] == 0
    assert all(math.isnan(found[name]) for name in ("solidity", *shape.PUBLISHED))
    stack[1, 4, 4] = 1
    found = shape.measure(stack)
    assert found["reason"] == "the outline of the largest slice has 1 points, fewer than 30"
    assert found["bevr"] == pytest.approx(BOX, rel=1e-5)
    assert math.isnan(found["margin_fluctuation"]) and math.isnan(found["angular_sd"])
