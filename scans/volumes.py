"""Scans of many slices in one file: NumPy arrays, and NIfTI volumes through the optional package nibabel."""

import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from constants import CHANNELS
from scans.scan import Scan, check_size
from utils import atomic_write

try:
    import nibabel
except ImportError:
    nibabel = None

MOST_HEADER = 2**20  # bytes before the voxels of a NIfTI file, which nibabel reads whole
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


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, float, float], Any]:
    """Return the axial slices of a NIfTI volume, as `read_array` does; mm between rows, columns, slices; the image."""
    if nibabel is None:
        raise ValueError("NIfTI needs the package nibabel: pip install nibabel.")
    image = _open_nifti(path)
    _check(image.shape, image.get_data_dtype(), "[X, Y, Z], or [X, Y, Z, 3] with three sequences")
    stored = nibabel.io_orientation(image.affine)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(stored, SHOWN))  # reads the voxels
    unit = MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    columns, rows, slices = (float(size) * unit for size in nibabel.affines.voxel_sizes(turned.affine))
    return np.asanyarray(turned.dataobj).swapaxes(0, 2), (rows, columns, slices), image


def _open_nifti(path: Path) -> Any:
    """Return the nibabel image, voxels not read. Raises an error if its header ends after MOST_HEADER bytes."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        head = file.read(MOST_HEADER)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            kind.header_class.from_fileobj(io.BytesIO(head))  # with its extensions, which may say that they are huge
            return kind.from_filename(path, mmap=False)  # the file may change
    raise ValueError("neither a NIfTI-1 nor a NIfTI-2 header")


def _check(shape: Sequence[int], dtype: np.dtype, expected: str) -> None:
    """Raise ValueError if an array is no stack of slices of one or three channels, or too large."""
    if len(shape) < 3 or shape[3:] not in ((), (1,), (CHANNELS,)) or 0 in shape:
        raise ValueError(f"has the shape {shape}. Expected {expected}.")
    if dtype.kind not in "buif":
        raise ValueError(f"holds values of the type {dtype}. Save it with whole or floating point numbers.")
    check_size(shape)


def write_masks(scan: Scan, masks: list[np.ndarray], folder: Path) -> None:
    """Write all masks (uint8 [H, W], 0 or 1) as one array [S, H, W], or on the grid of the scan's NIfTI volume."""
    stack, image = np.stack(masks), scan.nifti
    if image is None:
        with atomic_write(folder / f"{scan.name}_mask.npy") as file:
            np.save(file, stack)
        return
    turn = nibabel.orientations.ornt_transform(SHOWN, nibabel.io_orientation(image.affine))
    voxels = np.ascontiguousarray(nibabel.apply_orientation(stack.swapaxes(0, 2), turn))
    mask = type(image)(voxels, image.affine, image.header, dtype=np.uint8)
    mask.header["cal_min"], mask.header["cal_max"] = 0, 1
    with atomic_write(folder / f"{scan.name}_mask.nii.gz") as file:
        file.write(gzip.compress(mask.to_bytes(), mtime=0))
