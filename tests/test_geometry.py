"""Scans in the network's geometry: slabs, square pixels, other planes, other grids. A "network" sees FLAIR itself."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import make_volume
from PIL import Image

from constants import FLAIR, POST, PRE
from evaluation.selection import Postprocessing
from inference.segment import to_masks
from scans import geometry, medical
from scans.read import align, combine, read_scan
from scans.scan import Scan

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # axes of space in the order of the file


def head(spacing: tuple[float, float, float], shift: float = 0.0) -> np.ndarray:
    """Return an ellipsoid of 140 x 180 x 130 mm with a bright box of 40 x 30 x 30 mm in it: uint16, axes as in space.

    shift: mm by which the grid lies to the left.
    """
    sides = np.array([160, 200, 150])
    x, y, z = np.ogrid[tuple(slice(0, round(side / step)) for side, step in zip(sides, spacing, strict=True))]
    x, y, z = ((n + 0.5) * step - side / 2 for n, step, side in zip((x, y, z), spacing, sides, strict=True))
    x = x + shift
    brain = (x / 70) ** 2 + (y / 90) ** 2 + (z / 65) ** 2 < 1
    box = (np.abs(x - 30) < 20) & (np.abs(y) < 15) & (np.abs(z - 10) < 15)
    return (brain * 400 + box * 500).astype(np.uint16)


def write(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float], plane: str, shift: float = 0.0) -> Scan:
    """Write voxels in the order of a plane, and return them as they are read."""
    axes = PLANES[plane]
    origin = [step / 2 + (shift if axis == 0 else 0) for axis, step in enumerate(spacing)]
    stored = np.ascontiguousarray(voxels.transpose(axes).T)
    image = make_volume(stored, [spacing[axis] for axis in axes], origin)
    image.SetDirection(np.eye(3)[:, axes].ravel().tolist())
    sitk.WriteImage(image, str(path))
    scan, problems = read_scan("scan", [path])
    assert problems == []
    return scan


def segment(scan: Scan) -> np.ndarray:
    """Return the mask on the grid of the file, axes as in the file from the last to the first."""
    logits = geometry.to_network(scan)[..., FLAIR].astype(np.float32) - 180
    masks = np.stack([plane > 0 for plane in geometry.from_network(logits, scan)]).astype(np.uint8)
    scan.paths[0].with_name("mask.nii.gz").write_bytes(medical.encode(masks, scan.grid))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(scan.paths[0].with_name("mask.nii.gz"))))


def test_an_isotropic_volume_has_the_same_mask_in_every_plane(tmp_path):
    masks = {}
    for plane, axes in PLANES.items():
        scan = write(tmp_path / f"{plane}.nii.gz", head((2, 2, 2)), (2, 2, 2), plane)
        masks[plane] = segment(scan).T.transpose(np.argsort(axes))
        assert "averaged in 30 slabs" in geometry.describe(scan)[0]
    assert masks["axial"].sum() * 8 == pytest.approx(40 * 30 * 30, rel=0.15)
    assert all(np.array_equal(mask, masks["axial"]) for mask in masks.values())


@pytest.mark.parametrize(("plane", "spacing"), [("axial", (1, 1, 5)), ("coronal", (1, 5, 1)), ("sagittal", (5, 1, 1))])
def test_thick_slices_of_every_plane_are_axial_and_square_to_the_network(tmp_path, plane, spacing):
    scan = write(tmp_path / "x.nii.gz", head(spacing), spacing, plane)
    shown = geometry.to_network(scan)
    assert shown.shape == (30, 256, 256, 3)
    for axis, mm in ((1, 180), (0, 140)):
        places = np.flatnonzero((shown[15, ..., 0] > 60).any(axis))
        assert np.ptp(places) * 200 / 256 == pytest.approx(mm, abs=8)
    mask = segment(scan).T.transpose(np.argsort(PLANES[plane]))
    assert mask.shape == head(spacing).shape
    places = np.argwhere(mask) * spacing + np.array(spacing) / 2 - (80, 100, 75)
    assert len(places) * np.prod(spacing) == pytest.approx(40 * 30 * 30, rel=0.15)
    assert places.mean(0) == pytest.approx((30, 0, 10), abs=2)
    affine, marked = geometry.network_affine(scan), np.argwhere(shown[..., FLAIR] > 180)[:, ::-1]
    assert affine @ [*marked.mean(0), 1] == pytest.approx((110, 100, 85, 1), abs=1)  # the centre of the box in the file
    rows, columns, slices = geometry.network_spacing(scan)
    assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx((columns, rows, slices))


def test_slabs_and_what_lies_between_them_by_hand():
    thin = Scan("x", np.stack([np.full((4, 4, 3), 10 * n, np.uint8) for n in range(10)]), [], [], (1, 1, 1))
    assert geometry.to_network(thin)[:, 0, 0, 0].tolist() == [20, 70]
    logits = np.stack([np.zeros((256, 256)), np.full((256, 256), 10)]).astype(np.float32)
    assert [plane[0, 0] for plane in geometry.from_network(logits, thin)] == [0, 0, 0, 2, 4, 6, 8, 10, 10, 10]
    for slices, between, slabs in ((3, 3, 3), (3, 1, 1), (12, 2.9, 7), (155, 1, 31), (1, 0.5, 1)):
        thin = Scan("x", np.zeros((slices, 4, 4, 3), np.uint8), [], [], (1, 1, between))
        assert len(geometry.to_network(thin)) == slabs
        assert len(geometry.from_network(np.zeros((slabs, 256, 256), np.float32), thin)) == slices


def test_how_many_pixels_one_of_the_network_covers():
    for shape, spacing, pixels in (((256, 200), None, 1), ((512, 512), (0.5, 0.5, 5), 4), ((256, 50), (1, 5, 1), 0.2)):
        assert geometry.network_pixel(shape, spacing) == pytest.approx(pixels)


def test_a_sequence_on_another_grid_is_resampled_by_the_headers_or_left_out(tmp_path):
    flair = write(tmp_path / "flair.nii.gz", head((2, 2, 6)), (2, 2, 6), "axial")
    same = write(tmp_path / "t1.nii.gz", head((2, 2, 2)), (2, 2, 2), "sagittal")
    moved = write(tmp_path / "t1c.nii.gz", head((2, 2, 6), shift=7), (2, 2, 6), "axial", shift=7)
    assert align(flair, same) == align(flair, moved) == []
    assert "resampled onto the grid of FLAIR by the headers" in same.notes and len(same.slices) == len(flair.slices)
    combine(flair, {PRE: same, POST: moved})
    assert "holds more than one sequence already" in align(flair, same)[0]
    apart = np.abs(np.diff(np.array(flair.slices).astype(int), axis=3))
    assert np.median(apart) == 0 and (apart > 20).mean() < 0.03  # edges alone
    flair = write(tmp_path / "flair.nii.gz", head((2, 2, 6)), (2, 2, 6), "axial")
    (problem,) = align(flair, write(tmp_path / "t1.nii.gz", head((2, 2, 2)), (2, 2, 2), "axial", shift=90))
    assert problem.startswith(f"{tmp_path / 't1.nii.gz'}: its head and that of FLAIR overlap by")


def test_pictures_of_two_sizes_are_seen_one_by_one(tmp_path):
    plane = head((1, 1, 5))[..., 15].T >> 2
    Image.fromarray(plane.astype(np.uint8)).save(tmp_path / "x_1.png")
    Image.fromarray(plane.astype(np.uint8)).resize((320, 400), Image.Resampling.NEAREST).save(tmp_path / "x_2.png")
    scan, problems = read_scan("x", [tmp_path / "x_1.png", tmp_path / "x_2.png"])
    assert problems == [] and scan.sizes == [(200, 160), (400, 320)]
    small, large = geometry.to_network(scan)[..., FLAIR].astype(np.float32) - 180
    assert small.shape == (256, 256) and ((small > 0) == (large > 0)).mean() > 0.99
    own = geometry.from_network(np.stack([small, large]), scan)
    assert np.isneginf(own[0, 200:]).all() and np.isneginf(own[0, :, 160:]).all()
    masks = to_masks((own > 0).astype(np.float32), Postprocessing(0.5, 300), scan)
    assert masks.any((1, 2)).all() and (masks[0, :200, :160] == masks[1, ::2, ::2]).mean() > 0.99
    assert (geometry.masks_to_network(masks, scan) == (np.stack([small, large]) > 0)).mean() > 0.99
