"""Scans of many slices in one file: NumPy arrays, and NIfTI volumes through the optional package nibabel."""

import gzip
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from constants import CHANNELS
from scans.scan import Scan, check_side, check_total

try:
    import nibabel
except ImportError:
    nibabel = None

MOST_HEADER = 2**20  # bytes before the voxels of a NIfTI file, which nibabel reads whole
DEFLATED = 1032  # bytes that one byte of a .gz file holds at most
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # per unit of space of a NIfTI header; any other counts as mm
SHOWN = np.array([[0, -1], [1, -1], [2, 1]])  # columns run to the patient's left, rows to the back, slices upwards


def read_array(path: Path) -> np.ndarray:
    """Return the slices of a .npy file: [S, H, W], or [S, H, W, C] with 1 or 3 channels.

    Raises: ValueError for any other shape or a larger one; any error of NumPy for a damaged file.
    """
    array = np.lib.format.open_memmap(path, mode="r")  # not read yet, and never unpickled
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == CHANNELS):
        array = array[None]
    _check(array.shape, array.dtype, "[S, H, W] or [S, H, W, 3] (slices, rows, columns, sequences), or one such slice")
    return np.array(array)


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, ...] | None, Any]:
    """Return the axial slices of a NIfTI volume, as `read_array` does; mm between rows, columns, slices; the image.

    The distances are None where the header does not hold them.
    """
    if nibabel is None:
        raise ValueError("NIfTI needs the package nibabel: pip install nibabel.")
    image = _open_nifti(path)
    stored, scaled = image.dataobj, (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    if len(image.shape) < 3:
        raise ValueError(f"has the shape {image.shape}. Expected [X, Y, Z], or [X, Y, Z, 3] with three sequences.")
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), SHOWN)
    x, y, z = turn[:, 0].argsort()  # the axes of the file that become columns, rows and slices
    shape = [image.shape[axis] for axis in (z, y, x)] + list(image.shape[3:])
    _check(shape, stored.dtype, "[X, Y, Z], or [X, Y, Z, 3] with three sequences", scaled)
    held = path.stat().st_size * (DEFLATED if path.name.lower().endswith(".gz") else 1)
    if math.prod(shape) * stored.dtype.itemsize > held:
        raise ValueError("is cut off: its header says that it holds more voxels. Restore it.")
    voxels = nibabel.apply_orientation(stored.get_unscaled(), turn).swapaxes(0, 2)
    if scaled:
        voxels = voxels.astype(np.float32)
        voxels *= stored.slope
        voxels += stored.inter
    sizes = nibabel.affines.voxel_sizes(image.affine) * MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    spacing = tuple(float(sizes[axis]) for axis in (y, x, z))
    return voxels, spacing if all(0 < size < math.inf for size in spacing) else None, image


def _open_nifti(path: Path) -> Any:
    """Return the nibabel image, voxels not read. Raises an error if its header ends after MOST_HEADER bytes."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        head = file.read(MOST_HEADER)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            kind.header_class.from_fileobj(io.BytesIO(head))  # with its extensions, which may say that they are huge
            return kind.from_filename(path, mmap=False)  # the file may change
    raise ValueError("neither a NIfTI-1 nor a NIfTI-2 header")


def _check(shape: Sequence[int], dtype: np.dtype, expected: str, scaled: bool = False) -> None:
    """Raise ValueError if an array is no stack [S, H, W, ...] of one or three channels, or too large.

    scaled: whether its values become float32.
    """
    if len(shape) < 3 or list(shape[3:]) not in ([], [1], [CHANNELS]) or 0 in shape:
        raise ValueError(f"has the shape {tuple(shape)}. Expected {expected}.")
    if dtype.kind not in "buif":
        raise ValueError(f"holds values of the type {dtype}. Save it with whole or floating point numbers.")
    slices, height, width = shape[:3]
    check_side(height, width)
    check_total(slices, slices * max(height, width) ** 2, math.prod(shape) * max(dtype.itemsize, 4 * scaled))


def mask_files(scan: Scan, masks: list[np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Return one file with all masks (uint8 [H, W], 0 or 1): [S, H, W], or on the grid of the scan's NIfTI volume.

    The key is its name, the value returns its content.
    """
    if scan.nifti is None:
        return {f"{scan.name}_mask.npy": partial(_encode_array, masks)}
    return {f"{scan.name}_mask.nii.gz": partial(_encode_nifti, masks, scan.nifti)}


def _encode_array(masks: list[np.ndarray]) -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.stack(masks))
        return file.getvalue()


def _encode_nifti(masks: list[np.ndarray], image: Any) -> bytes:
    turn = nibabel.orientations.ornt_transform(SHOWN, nibabel.io_orientation(image.affine))
    voxels = np.ascontiguousarray(nibabel.apply_orientation(np.stack(masks).swapaxes(0, 2), turn))
    mask = type(image)(voxels, image.affine, image.header, dtype=np.uint8)
    mask.header["cal_min"], mask.header["cal_max"] = 0, 1
    return gzip.compress(mask.to_bytes(), mtime=0)
