"""Masks that other programs or people made: pictures, NumPy arrays and NIfTI volumes."""

from pathlib import Path

import numpy as np

from scans import pictures, volumes
from scans.names import kind_of
from scans.scan import PICTURES, Scan, Source, file_ending, stem

MOST_LABELS = 9  # a mask of labels has whole numbers up to this; grey levels of resizing go on to 255


def read_mask(path: Path) -> np.ndarray:
    """Return the mask in a picture, uint8 [H, W], 0 or 1. Raises: as of `read_picture` and `foreground`."""
    pixels = pictures.read_picture(path)
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            raise ValueError("a mask in colours. Save it as grey, with 0 and one positive value.")
        pixels = pixels[..., 0]
    return foreground(pixels)


def read_mask_stack(path: Path) -> tuple[np.ndarray, volumes.Grid | None]:
    """Return the masks in an array or a NIfTI volume, uint8 [S, H, W], 0 or 1, as slices are shown; and its grid."""
    if file_ending(path) == ".npy":
        stack, grid = volumes.read_array(path), None
    else:
        stack, _, grid = volumes.read_nifti(path)
    if stack.ndim == 4 and stack.shape[3] > 1:
        raise ValueError("a mask of several sequences. Save it as one volume.")
    return foreground(stack.reshape(stack.shape[:3])), grid


def foreground(values: np.ndarray) -> np.ndarray:
    """Return where a mask marks something, as uint8 0 or 1; several labels count as one.

    Raises: ValueError for other values than 0 and one positive value, or whole numbers up to MOST_LABELS.
    """
    found = np.unique(values)
    labels = found.max() <= MOST_LABELS and (found == found.round()).all()
    if not np.isfinite(found).all() or found.min() < 0 or not (labels or len(found[found > 0]) == 1):
        shown = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"a mask with the values {shown}. Save it with 0 and one positive value only.")
    return (values > 0).astype(np.uint8)


def read_reference(source: Source, scan: Scan) -> list[np.ndarray]:
    """Return the reference mask of each slice of a scan, uint8 [H, W], 0 or 1.

    Raises: ValueError if they do not fit; what libraries raise for a damaged file.
    """
    first = source.masks[0]
    if file_ending(first) in PICTURES:
        by_slice = {kind_of(stem(path))[0]: path for path in source.masks}
        lacking = [path.name for path in scan.paths if stem(path) not in by_slice]
        if lacking:
            raise ValueError(f"{first.parent}: {len(lacking)} slices have no reference mask, such as {lacking[0]}.")
        masks = [read_mask(by_slice[stem(path)]) for path in scan.paths]
    else:
        stack, grid = read_mask_stack(first)
        masks = list(stack)
        shape = (*scan.slices[0].shape[1::-1], len(scan.slices))
        if scan.grid and grid and not scan.grid.matches(grid, shape):
            raise ValueError(f"{first}: lies elsewhere in space than the images.")
    if [mask.shape for mask in masks] != [plane.shape[:2] for plane in scan.slices]:
        raise ValueError(f"{first}: is not of the size of the images.")
    return masks
