"""Masks that other programs or people made: pictures, NumPy arrays and NIfTI volumes."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scans import pictures, volumes
from scans.cohort import files_below
from scans.names import MASK, kind_of
from scans.scan import PICTURES, Scan, Source, file_ending, stem

MOST_LABELS = 9  # a mask of labels has whole numbers up to this; grey levels of resizing go on to 255
SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)")  # name of a picture of a mask, without _mask


class MaskStack(NamedTuple):
    """The masks of one patient.

    Attributes:
        masks: uint8 [S, H, W], 0 or 1.
        numbers: of the slices, increasing; None where the masks are those of all slices in their order.
        grid: where they lie; None for pictures and arrays.
    """

    masks: np.ndarray
    numbers: list[int] | None = None
    grid: volumes.Grid | None = None


def find_masks(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each patient in a folder and its subfolders, sorted by patient; and problems as text.

    One volume, PATIENT.nii.gz or PATIENT.npy, or pictures, PATIENT_SLICE.png or .tif; any may end in _mask. Where some
    pictures do, the others are taken for images; so are volumes.
    """
    files = [path for path in files_below(folder, levels=1) if file_ending(path)]
    pictured = [path for path in files if file_ending(path) in PICTURES]
    found: dict[str, list[Path]] = defaultdict(list)
    problems = []
    for path in named_masks([path for path in files if path not in pictured]):
        found[whose(path)].append(path)
    for path in named_masks(pictured):
        if match := SLICE.fullmatch(whose(path)):
            found[match["patient"]].append(path)
        else:
            problems.append(f"{path}: not named like a mask. Rename it to PATIENT_NUMBER_mask{path.suffix}.")
    if not found and not problems:
        problems.append(f"{folder}: holds no masks (PATIENT_NUMBER_mask.png or .tif, PATIENT.nii.gz, PATIENT.npy).")
    return dict(sorted(found.items())), problems


def named_masks(paths: list[Path]) -> list[Path]:
    """Return the files that are masks by their names; all where none is."""
    return [path for path in paths if kind_of(stem(path))[1] == MASK] or paths


def whose(path: Path) -> str:
    """Return the name of a file of masks without what says that it is one."""
    name, kind = kind_of(stem(path))
    return name if kind == MASK else stem(path)


def read_masks(paths: list[Path]) -> MaskStack:
    """Return the masks of one patient, as of `find_masks`. Raises: ValueError that names the file."""
    volume = [path for path in paths if file_ending(path) not in PICTURES]
    if volume and len(paths) > 1:
        raise ValueError(f"{paths[0]} and {paths[1].name} hold masks of one patient. Remove one of them.")
    read = {}
    for path in paths:
        try:
            read[path] = read_mask_stack(path) if volume else read_mask(path)
        except Exception as error:  # libraries raise many kinds for a damaged file
            raise ValueError(f"{path}: cannot be read: {error}") from None
    if volume:
        return read[volume[0]]
    by_number: dict[int, Path] = {}
    for path in paths:
        number = int(SLICE.fullmatch(whose(path))["number"])
        if number in by_number:
            raise ValueError(f"{path}: the same slice as {by_number[number].name}, number {number}. Remove one.")
        by_number[number] = path
    numbers = sorted(by_number)
    masks = [read[by_number[number]] for number in numbers]
    if len({mask.shape for mask in masks}) > 1:
        raise ValueError(f"{paths[0].parent}: the masks of {paths[0].name} and others differ in size. Save them alike.")
    return MaskStack(np.stack(masks), numbers)


def read_mask(path: Path) -> np.ndarray:
    """Return the mask in a picture, uint8 [H, W], 0 or 1. Raises: as of `read_picture` and `foreground`."""
    pixels = pictures.read_picture(path)
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            raise ValueError("a mask in colours. Save it as grey, with 0 and one positive value.")
        pixels = pixels[..., 0]
    return foreground(pixels)


def read_mask_stack(path: Path) -> MaskStack:
    """Return the masks in an array or a NIfTI volume, slices as they are shown. Raises: as `read_mask`."""
    if file_ending(path) == ".npy":
        stack, grid = volumes.read_array(path), None
    else:
        stack, _, grid = volumes.read_nifti(path)
    if stack.ndim == 4 and stack.shape[3] > 1:
        raise ValueError("a mask of several sequences. Save it as one volume.")
    return MaskStack(foreground(stack.reshape(stack.shape[:3])), grid=grid)


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
        stack, _, grid = read_mask_stack(first)
        masks = list(stack)
        shape = (*scan.slices[0].shape[1::-1], len(scan.slices))
        if scan.grid and grid and not scan.grid.matches(grid, shape):
            raise ValueError(f"{first}: lies elsewhere in space than the images.")
    if [mask.shape for mask in masks] != [plane.shape[:2] for plane in scan.slices]:
        raise ValueError(f"{first}: is not of the size of the images.")
    return masks
