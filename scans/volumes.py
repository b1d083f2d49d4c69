"""Scans of many slices in one file: NumPy arrays, and NIfTI volumes through the optional package nibabel."""

import contextlib
import gzip
import io
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
SAME_PLACE = 0.1  # of a voxel; scanners round what they write
UNSAID = np.diag([-1.0, 1, 1, 1])  # how a volume is taken to lie if its header does not say, as nibabel does
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


class Grid(NamedTuple):
    """How the slices of a scan lie in its file and in space: where its mask belongs, and whether two scans match.

    Attributes:
        kind: the nibabel class of the file.
        header: its header, which also says how it lies in space.
        turns: the orientation of its axes, as of nibabel.io_orientation.
        affine: from (column, row, slice) as shown to mm; None where the file does not say.
    """

    kind: Any
    header: Any
    turns: np.ndarray
    affine: np.ndarray | None

    def matches(self, other: "Grid", shape: Sequence[int]) -> bool:
        """Return whether each voxel lies within SAME_PLACE voxels of its like in the other, as far as both say where.

        shape: columns, rows, slices.
        """
        if self.affine is None or other.affine is None:
            return True
        corners = np.array(list(itertools.product(*((0, size - 1) for size in shape))))
        apart = nibabel.affines.apply_affine(self.affine - other.affine, corners)
        return bool(np.abs(apart).max() <= SAME_PLACE * nibabel.affines.voxel_sizes(self.affine).min())


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, ...] | None, Grid]:
    """Return the axial slices of a NIfTI volume, as `read_array` does; mm between rows, columns, slices; its grid.

    Without the spacing, which is None, where the header does not say how the volume lies in space.
    """
    need_nibabel()
    with _unpacked(path) as (file, most_bytes), nibabel.imageglobals.LoggingOutputSuppressor():
        nibabel.imageglobals.logger.addHandler(logging.NullHandler())  # without any handler Python prints
        image, written = _open_nifti(file)
        stored, scaled = image.dataobj, (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        shape = _with_sequences_last(image.shape)
        affine, header = image.affine, image.header
        if not np.isfinite(affine).all():
            raise ValueError("its header does not say how it lies in space. Save it with an affine matrix.")
        said = header["sform_code"] or (header["qform_code"] and written["pixdim"][1:4].all())
        said = bool(said and np.linalg.det(affine))
        turn = turn_of(affine if said else UNSAID)
        x, y, z = turn[:, 0].argsort()  # the axes of the file that become columns, rows and slices
        expected = "[X, Y, Z], or [X, Y, Z, 3] with three sequences"
        _check([shape[axis] for axis in (z, y, x)] + list(shape[3:]), stored.dtype, expected, scaled)
        if math.prod(shape) * stored.dtype.itemsize > most_bytes:
            raise ValueError("is cut off: its header says that it holds more voxels. Restore it.")
        voxels = stored.get_unscaled().reshape(shape)
    if scaled:
        voxels = voxels.astype(np.float32)
        voxels *= stored.slope
        voxels += stored.inter
    millimetres = MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    return as_shown(voxels, type(image), header, affine if said else None, millimetres)


def as_shown(
    voxels: np.ndarray, kind: Any, header: Any, affine: np.ndarray | None, millimetres: float = 1
) -> tuple[np.ndarray, tuple[float, ...] | None, Grid]:
    """Return voxels [X, Y, Z] or [X, Y, Z, 3] as axial slices [S, H, W] or [S, H, W, 3], their spacing and their grid.

    affine: from voxel to space, in a unit of so many `millimetres`; None where it is unknown, as then is the spacing.
    """
    stored = UNSAID if affine is None else affine
    turn = turn_of(stored)
    slices = nibabel.apply_orientation(voxels, turn).swapaxes(0, 2)
    if affine is None:
        return slices, None, Grid(kind, header, nibabel.io_orientation(stored), None)
    shown = affine @ nibabel.orientations.inv_ornt_aff(turn, voxels.shape[:3])
    shown[:3] *= millimetres
    columns, rows, between = (float(size) for size in nibabel.affines.voxel_sizes(shown))
    return slices, (rows, columns, between), Grid(kind, header, nibabel.io_orientation(stored), shown)


def turn_of(affine: np.ndarray) -> np.ndarray:
    """Return how the axes of a file are turned to be SHOWN, as of nibabel.apply_orientation."""
    return nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), SHOWN)


def need_nibabel() -> None:
    """Raise ValueError if the package is not installed."""
    if nibabel is None:
        raise ValueError("NIfTI needs the package nibabel: pip install nibabel.")


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, whether it is packed by gzip or not, whatever it is named; with the most bytes that it can hold."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        most = path.stat().st_size * (DEFLATED if packed else 1)
        yield (stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file), most


def _open_nifti(file: BinaryIO) -> tuple[Any, Any]:
    """Return the nibabel image, voxels not read, and its header as written, in which nibabel replaces a spacing of 0.

    Raises an error if the header ends after MOST_HEADER bytes.
    """
    head = file.read(MOST_HEADER)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        if kind.header_class.may_contain_header(head):
            # With its extensions, which may say that they are huge
            written = kind.header_class.from_fileobj(io.BytesIO(head), check=False)
            return kind.from_file_map(kind.make_file_map({"image": file}), mmap=False), written  # the file may change
    raise ValueError("neither a NIfTI-1 nor a NIfTI-2 header")


def _with_sequences_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a volume without the axis of time that ITK leaves before the sequences, [X, Y, Z, 1, 3].

    Raises: ValueError that says what to do with a volume of any other shape than [X, Y, Z] or [X, Y, Z, 1 or 3].
    """
    if len(shape) == 5 and shape[3] == 1:
        shape = shape[:3] + shape[4:]
    if len(shape) < 3:
        raise ValueError(f"has the shape {shape}: one slice. Save it as a picture or .npy, or as a volume [X, Y, 1].")
    if len(shape) > 3 and shape[3:] not in ((1,), (CHANNELS,)):
        raise ValueError(
            f"has the shape {shape}: {math.prod(shape[3:])} volumes. Save FLAIR as a file of its own, and name "
            "the other sequences with --pre and --post; or save pre-contrast, FLAIR and post-contrast as [X, Y, Z, 3]."
        )
    return shape


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
    if scan.grid is None:
        return {f"{scan.name}_mask.npy": partial(_encode_array, masks)}
    return {f"{scan.name}_mask.nii.gz": partial(encode_nifti, np.stack(masks), scan.grid)}


def probability_files(scan: Scan, probabilities: list[np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Return one file with the probabilities of all slices (float32 [H, W]), as of `mask_files`."""
    if scan.grid is None:
        return {f"{scan.name}_probability.npy": partial(_encode_array, probabilities)}
    return {f"{scan.name}_probability.nii.gz": partial(encode_nifti, np.stack(probabilities), scan.grid)}


def _encode_array(planes: list[np.ndarray]) -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.stack(planes))
        return file.getvalue()


def encode_nifti(slices: np.ndarray, grid: Grid, brightest: int = 1) -> bytes:
    """Return slices ([S, H, W], uint8 or float32) as the content of a .nii.gz file on a grid with its header as it is.

    brightest: the value that viewers show white; more than 1 for images.
    """
    turn = nibabel.orientations.ornt_transform(SHOWN, grid.turns)
    voxels = np.ascontiguousarray(nibabel.apply_orientation(slices.swapaxes(0, 2), turn))
    image = grid.kind(voxels, None, grid.header, dtype=slices.dtype)
    image.header.set_intent("none")  # ITK marks several sequences as a vector
    image.header["cal_min"], image.header["cal_max"] = 0, brightest
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def new_header(shape: Sequence[int], affine: np.ndarray) -> Any:
    """Return a NIfTI header for voxels [X, Y, Z] that lie in space as the affine says, in mm."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, "scanner")
    header.set_qform(affine, "scanner")
    header.set_xyzt_units("mm")
    return header


def new_grid(shape: Sequence[int]) -> Grid:
    """Return a grid for slices [S, H, W] of nothing but pixels: SHOWN, 1 mm between them."""
    affine = np.diag([-1.0, -1, 1, 1])
    return Grid(nibabel.Nifti1Image, new_header(shape[::-1], affine), nibabel.io_orientation(affine), affine)
