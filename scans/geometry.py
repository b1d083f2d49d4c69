"""A scan in the geometry that the network knows, by the mm of its header: axial slices 5 mm apart, square pixels.

Where the spacing is not known, or is like that, nothing changes but the size.
"""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from constants import IMAGE_SIZE
from scans.scan import Scan

APART = 5.0  # mm between slices of the data set
THIN = 3.0  # mm; slices nearer than this are averaged in slabs of about APART
UNEQUAL = 1.05  # pixels whose sides differ by more than this factor become square, as those of sagittal slices
LARGEST = 1024  # pixels of a side of a slice with square pixels


def to_network(scan: Scan) -> np.ndarray:
    """Return the slices, or slabs of thin ones, at the network's size with square pixels: uint8 [N, 256, 256, 3]."""
    slabs = []
    for first, last in pairwise(_slab_edges(scan)):
        planes = scan.slices[first:last]
        plane = planes[0] if len(planes) == 1 else np.mean(planes, axis=0, dtype=np.float32).round().astype(np.uint8)
        height, width = _own_size(scan, first)
        plane = plane[:height, :width]
        if (size := _square_size(plane.shape, scan.spacing)) != plane.shape[:2]:
            plane = cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        slabs.append(to_network_size(plane))
    return np.stack(slabs)


def masks_to_network(masks: np.ndarray, scan: Scan) -> np.ndarray:
    """Return masks of the slices (uint8 [S, H, W], 0 or 1) by nearest neighbour as `to_network` the slices.

    A slab is marked where half of its slices are: uint8 [N, 256, 256].
    """
    slabs = []
    for first, last in pairwise(_slab_edges(scan)):
        mask = (2 * np.sum(masks[first:last], axis=0) >= last - first).astype(np.uint8)
        height, width = size = _own_size(scan, first)
        square = _pad(_nearest(mask[:height, :width], _square_size(size, scan.spacing)))
        slabs.append(_nearest(square, (IMAGE_SIZE, IMAGE_SIZE)))
    return np.stack(slabs)


def from_network(logits: np.ndarray, scan: Scan) -> np.ndarray:
    """Return logits of `to_network` (float32 [N, 256, 256]) for each slice of the scan: float32 [S, H, W]."""
    edges = _slab_edges(scan)
    own = np.full(scan.slices.shape[:3], -np.inf, np.float32)  # no tumour beside a smaller slice
    for n, at in enumerate(np.interp(np.arange(len(own)), (edges[:-1] + edges[1:] - 1) / 2, np.arange(len(logits)))):
        below, share = int(at), np.float32(at % 1)
        logit = logits[below] if share == 0 else logits[below] * (1 - share) + logits[below + 1] * share
        height, width = _own_size(scan, n)
        size = _square_size((height, width), scan.spacing)
        logit = to_original_size(logit, *size)
        own[n, :height, :width] = logit if size == (height, width) else cv2.resize(logit, (width, height))
    return own


def network_pixel(shape: Sequence[int], spacing: Sequence[float] | None) -> float:
    """Return the pixels of a slice (its height and width) that one pixel of the network covers."""
    size = _square_size(shape, spacing)
    return (max(size) / IMAGE_SIZE) ** 2 * ((shape[0] * shape[1]) / (size[0] * size[1]))


def network_spacing(scan: Scan) -> tuple[float, ...] | None:
    """Return mm between rows, columns and slices of `to_network`, where those of the scan are known."""
    return scan.spacing and tuple(float(n * mm) for n, mm in zip(_network_voxel(scan)[0], scan.spacing, strict=True))


def network_affine(scan: Scan) -> np.ndarray | None:
    """Return (column, row, slice, 1) of `to_network` -> mm (left, back, up), float64 [4, 4], where a header says it.

    In slabs of uneven thickness a slice may be off by half of one of the scan.
    """
    if scan.grid is None or scan.grid.affine is None:
        return None
    (rows, columns, slices), (top, left) = _network_voxel(scan)
    into = np.diag((columns, rows, slices, 1.0))  # voxels of the scan
    into[:3, 3] = columns / 2 - 0.5 - left, rows / 2 - 0.5 - top, slices / 2 - 0.5
    return scan.grid.affine @ into


def _network_voxel(scan: Scan) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """Return rows, columns and slices of the scan that one of `to_network` covers; and the padding, above and left."""
    (height, width), size = scan.slices.shape[1:3], _square_size(scan.slices.shape[1:3], scan.spacing)
    row, column, pixel = height / size[0], width / size[1], max(size) / IMAGE_SIZE
    covered = row * pixel, column * pixel, len(scan.slices) / (len(_slab_edges(scan)) - 1)
    return covered, ((max(size) - size[0]) // 2 * row, (max(size) - size[1]) // 2 * column)


def describe(scan: Scan) -> list[str]:
    """Return what `to_network` does to the slices, as notes for the user."""
    notes = []
    slabs, spacing = len(_slab_edges(scan)) - 1, scan.spacing or ()
    if slabs < len(scan.slices):
        notes.append(f"slices of {spacing[2]:.3g} mm are averaged in {slabs} slabs, as thick as those of the data set")
    if _square_size(scan.slices.shape[1:3], scan.spacing) != scan.slices.shape[1:3]:
        notes.append(
            "pixels of {:.3g} x {:.3g} mm, as of slices taken in another plane, are made square for the network; "
            "the mask is on the grid of the input".format(*spacing)
        )
    return notes


def to_network_size(plane: np.ndarray) -> np.ndarray:
    """Return a slice, padded with black to a square and resized: uint8 [H, W, 3] -> [256, 256, 3]."""
    square = _pad(plane)
    smooth = cv2.INTER_AREA if len(square) > IMAGE_SIZE else cv2.INTER_LINEAR
    return cv2.resize(square, (IMAGE_SIZE, IMAGE_SIZE), interpolation=smooth)


def to_original_size(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return logits at the size of the slice, without the padding: float32 [256, 256] -> [height, width]."""
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    logits = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR)
    return logits[top : top + height, left : left + width]


def _pad(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return cv2.copyMakeBorder(plane, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT)


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask at another height and width, by nearest neighbour."""
    places = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(mask.shape, size, strict=True)]
    return mask[np.ix_(*places)]


def _own_size(scan: Scan, number: int) -> tuple[int, ...]:
    """Return height and width of a slice, without the rows and columns that fill up a smaller picture."""
    return scan.sizes[number] if scan.sizes else scan.slices.shape[1:3]


def _slab_edges(scan: Scan) -> np.ndarray:
    """Return the first slice of each of N slabs, and the number of slices: int64 [N + 1]; a slab may be one slice."""
    slices = slabs = len(scan.slices)
    if scan.spacing and scan.spacing[2] < THIN and not scan.sizes:
        slabs = max(1, round(slices * scan.spacing[2] / APART))
    return np.linspace(0, slices, slabs + 1).round().astype(int)


def _square_size(shape: Sequence[int], spacing: Sequence[float] | None) -> tuple[int, int]:
    """Return height and width of a slice with square pixels, which are as large as the shorter side of its own."""
    (height, width), (rows, columns) = shape[:2], spacing[:2] if spacing else (1, 1)
    if max(rows, columns) <= UNEQUAL * min(rows, columns):
        return height, width
    side = max(min(rows, columns), max(height * rows, width * columns) / LARGEST)
    return max(1, round(height * rows / side)), max(1, round(width * columns / side))
