"""Shape features on shapes whose answer is known, and what may happen to a tumour without changing them."""

import math

import numpy as np
import pytest
from conftest import box
from scipy.spatial import ConvexHull

from evaluation import shape
from evaluation.shape import Ellipsoid, enclosing_ellipsoid

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


def blob(seed: int = 3) -> np.ndarray:
    """A tumour of overlapping boxes, without any symmetry: uint8 [9, 64, 64]."""
    rng = np.random.default_rng(seed)
    stack = np.zeros((9, 64, 64), np.uint8)
    for _ in range(12):
        z, y, x = rng.integers((1, 20, 20), (5, 32, 32))
        depth, height, width = rng.integers((1, 4, 4), (4, 16, 16))
        stack[z : z + depth, y : y + height, x : x + width] = 1
    return stack


def features(stack: np.ndarray) -> dict[str, float]:
    return shape.measure(np.ascontiguousarray(stack)).features


# --- Bounding ellipsoid ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("radii", [(40, 40, 40), (10, 25, 40)], ids=["ball", "ellipsoid"])
def test_a_ball_or_an_ellipsoid_fills_its_ellipsoid(radii):
    found = features(ball(radii))
    assert 0.87 < found["bevr"] < 1 and 0.9 < found["solidity"] < 1  # voxel corners stand out of it
    assert found["volume"] == pytest.approx(4 / 3 * math.pi * math.prod(radii), rel=0.01)


@pytest.mark.parametrize(
    "sides", [(1, 1, 1), (1, 1, 30), (1, 20, 30), (7, 20, 30)], ids=["voxel", "row", "plane", "box"]
)
def test_a_box_and_tumours_too_thin_for_voxel_centres(sides):
    stack = np.zeros((9, 40, 40), np.uint8)
    stack[tuple(slice(2, 2 + side) for side in sides)] = 1
    found = features(stack)
    assert found["bevr"] == pytest.approx(BOX, rel=1e-5) and found["solidity"] == pytest.approx(1)
    assert (found["volume"], found["components"]) == (math.prod(sides), 1)


def test_half_a_ball():
    """Its ellipsoid is the one of the ellipsoid method: 3/4 and twice 3/sqrt(8) of the radius."""
    half = ball((40, 40, 40))
    half[:45] = 0
    assert features(half)["bevr"] == pytest.approx(0.5 / (3 / 4 * 9 / 8), rel=0.06)


def test_two_balls():
    """Of all ellipsoids of revolution around both, the smallest; its volume by a search."""
    radius, apart = 30, 40
    stack = np.concatenate([ball((radius,) * 3, 2 * apart)] * 2)
    angle, thick = np.linspace(0, np.pi, 500), np.linspace(radius * 1.001, 3 * radius, 500)[:, None]
    room = 1 - (radius * np.sin(angle) / thick) ** 2
    long = np.sqrt(((apart + radius * np.cos(angle)) ** 2 / room).max(1))
    smallest = (4 / 3 * np.pi * long * thick[:, 0] ** 2).min()
    found = features(stack)
    assert found["components"] == 2
    assert found["bevr"] == pytest.approx(2 * 4 / 3 * np.pi * radius**3 / smallest, rel=0.08)
    alone = shape.measure(stack, largest_only=True).features
    assert alone["bevr"] > 0.85 and alone["volume"] == found["volume"] / 2 and alone["components"] == 2


def test_no_affine_map_changes_bevr():
    """Stretching, shearing, turning: the ellipsoid of mapped points is the mapped ellipsoid, and so is the volume."""
    rng = np.random.default_rng(1)
    hull = ConvexHull(shape.corners(blob()))
    before = hull.volume / enclosing_ellipsoid(hull.points[hull.vertices]).volume
    for _ in range(10):
        affine = rng.normal(size=(3, 3)) @ np.diag([0.1, 1, 10])
        mapped = ConvexHull(hull.points @ affine + rng.normal(size=3) * 100)
        assert mapped.volume / enclosing_ellipsoid(mapped.points).volume == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("times", [(5, 1, 1), (1, 2, 1), (2, 3, 4)])
def test_the_voxel_spacing_changes_neither_bevr_nor_solidity(times):
    stretched = blob()
    for axis, number in enumerate(times):
        stretched = stretched.repeat(number, axis)
    before, after = features(blob()), features(stretched)
    assert all(after[name] == pytest.approx(before[name], rel=1e-5) for name in ("bevr", "solidity"))


def test_the_ellipsoid_holds_all_points_and_touches_some():
    points = np.random.default_rng(2).normal(size=(500, 3)) @ np.diag([1, 5, 0.2]) + [100, -3, 7]
    found = enclosing_ellipsoid(points)
    away = points - found.centre
    distances = np.einsum("nd,de,ne->n", away, found.matrix, away)
    assert distances.max() == pytest.approx(1) and 4 <= (distances > 1 - 1e-4).sum() <= 9


def test_sections_of_an_ellipsoid():
    unit = Ellipsoid(np.array([5.0, 1.0, 2.0]), np.eye(3))
    assert unit.volume == pytest.approx(4 / 3 * math.pi) and unit.section(6.1) is None
    cut = unit.section(5.6)
    assert cut.centre.tolist() == [1, 2] and cut.radii == pytest.approx([0.8, 0.8])
    shear = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0, 1]])  # a row further for every two slices
    back = np.linalg.inv(shear)
    leaning = Ellipsoid(np.zeros(3), back.T @ np.diag([1, 1 / 4, 1]) @ back)
    cut = leaning.section(0.6)
    assert cut.centre == pytest.approx([0.3, 0]) and cut.radii == pytest.approx([1.6, 0.8])
    assert cut.angle % 180 == pytest.approx(90)  # it is longest along the rows


# --- Outlines --------------------------------------------------------------------------------------------------


def test_a_disc_has_neither_fluctuation_nor_deviation():
    found = features(star(0, 0))
    assert found["margin_fluctuation"] < 0.005 and found["angular_sd"] < 0.005
    assert found["largest_area"] == pytest.approx(math.pi * 80**2, rel=0.01)


@pytest.mark.parametrize("amplitude", [0.05, 0.1])
def test_a_star_with_ten_rays(amplitude):
    """One wave in each sector and in each window: smoothing leaves nothing of it, and both see its whole height."""
    found = features(star(amplitude, 10))
    assert found["margin_fluctuation"] == pytest.approx(amplitude / math.sqrt(2), rel=0.08)
    assert found["angular_sd"] == pytest.approx(amplitude / math.sqrt(2), rel=0.08)


def test_a_slow_wave_is_no_fluctuation():
    """A moving average over a tenth of two waves keeps sin(x) / x of them, x = 2 pi / 10."""
    kept = math.sin(0.2 * math.pi) / (0.2 * math.pi)
    found = features(star(0.2, 2))["margin_fluctuation"]
    assert found == pytest.approx(0.2 / math.sqrt(2) * (1 - kept), rel=0.25)
    assert found < features(star(0.05, 19))["margin_fluctuation"]


def test_holes_and_smaller_components_do_not_change_the_outline():
    stack = np.stack([box((10, 10, 100, 80)), box((10, 10, 60, 80))])
    other = stack.copy()
    other[0, 40:60, 40:60] = 0
    other[0, 200:220, 200:230] = 1
    before, after = features(stack), features(other)
    assert after["largest_area"] == 100 * 80 - 400 + 600 and after["components"] == 2
    assert after["angular_sd"] == pytest.approx(before["angular_sd"], abs=0.01)  # the hole moves the centre a little
    assert shape.measure(other).largest_slice == 0


def test_shift_and_right_angles_change_nothing():
    stack = np.pad(blob(), ((2, 2), (20, 20), (20, 20)))
    before = shape.measure(stack)
    for moved in (
        np.roll(stack, (1, -7, 11), (0, 1, 2)),
        np.rot90(stack, 1, (1, 2)),
        np.rot90(stack, 2, (1, 2)),
        np.rot90(stack, 3, (1, 2)),
    ):
        assert features(moved) == pytest.approx(before.features, rel=1e-5)


def test_the_ellipsoid_lies_where_the_tumour_is():
    stack = np.zeros((12, 64, 64), np.uint8)
    stack[3:6, 10:20, 40:50] = 1
    found = shape.measure(stack)
    assert found.ellipsoid.centre == pytest.approx([4.5, 15, 45], abs=1e-3) and found.largest_slice == 3


def test_scale_hardly_changes_the_outline():
    small, large = features(star(0.1, 10, radius=40)), features(star(0.1, 10, radius=100))
    for name in ("margin_fluctuation", "angular_sd"):
        assert small[name] == pytest.approx(large[name], rel=0.08)


# --- Nothing to measure ----------------------------------------------------------------------------------------


def test_an_empty_mask_has_a_reason():
    found = shape.measure(np.zeros((3, 8, 8), np.uint8))
    assert found.reason == "the mask is empty" and found.ellipsoid is None and found.largest_slice == -1
    assert found.features["volume"] == found.features["components"] == found.features["largest_area"] == 0
    assert all(math.isnan(found.features[name]) for name in ("solidity", *shape.PUBLISHED))
    assert shape.variants(np.zeros((3, 8, 8), np.uint8), found.features) == {}


def test_a_tumour_of_one_voxel_has_no_outline_to_smooth():
    stack = np.zeros((3, 8, 8), np.uint8)
    stack[1, 4, 4] = 1
    found = shape.measure(stack)
    assert found.reason == "the outline of the largest slice has 1 points, fewer than 30"
    assert found.features["bevr"] == pytest.approx(BOX, rel=1e-5)
    assert math.isnan(found.features["margin_fluctuation"]) and math.isnan(found.features["angular_sd"])
    assert all(math.isnan(v) for (_, name), v in shape.variants(stack, found.features).items() if name != "bevr")


def test_other_choices_change_what_they_say():
    two = np.zeros((5, 128, 128), np.uint8)
    two[1:4, 20:60, 20:70] = 1
    two[2, 100:110, 100:120] = 1
    taken = features(two)
    found = shape.variants(two, taken)
    assert found[shape.LARGEST_ONLY, "bevr"] == pytest.approx(BOX, rel=1e-5) and taken["bevr"] < BOX
    assert found["window of a fifth", "margin_fluctuation"] > taken["margin_fluctuation"]
    assert found["window of a twentieth", "margin_fluctuation"] < taken["margin_fluctuation"]
    assert len({name for name, _ in found}) == 1 + len(shape.VARIANTS)
