"""Masks: those that other programs or people made, read; and those of a scan, written in the form of its files."""

import io
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from scans import medical
from scans.items import PROBLEMS, Patient, walk
from scans.names import MASK, base_of, kind_of
from scans.read import open_array, open_picture, read_picture
from scans.scan import PICTURES, Scan, file_ending, stem

MOST_LABELS = 9  # a mask of labels has whole numbers up to this; grey levels of resizing go on to 255
NEARLY = 1e-3  # by which values of a mask may differ from whole numbers
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
    grid: medical.Grid | None = None


# --- Reading ---------------------------------------------------------------------------------------------------


def find_masks(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each patient in a folder and its subfolders, sorted by patient; and problems as text.

    One volume, such as PATIENT.nii.gz or PATIENT.npy, or pictures, PATIENT_SLICE.png or .tif; any may end in _mask.
    Where some pictures do, the others are taken for images; so are volumes.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    entries = list(walk(folder, levels=1, ours=True))
    problems = [
        f"{path}: {reason}. Restore it, or leave it out." for path, reason in entries if reason.startswith(PROBLEMS)
    ]
    files = [path for path, reason in entries if file_ending(path) and not reason]
    for pictured in (False, True):
        own = [path for path in files if (file_ending(path) in PICTURES) == pictured]
        for path in [path for path in own if kind_of(stem(path))[1] == MASK] or own:
            match = SLICE.fullmatch(whose(path)) if pictured else None
            if pictured and not match:
                problems.append(f"{path}: not named like a mask. Rename it to PATIENT_NUMBER_mask{path.suffix}.")
            else:
                found[match["patient"] if match else whose(path)].append(path)
    if not found and not problems:
        problems.append(f"{folder}: holds no masks (PATIENT_NUMBER_mask.png or .tif, PATIENT.nii.gz, PATIENT.npy).")
    return dict(sorted(found.items())), problems


def whose(path: Path) -> str:
    """Return the name of a file of masks without what says that it is one."""
    name, kind = kind_of(stem(path))
    return name if kind == MASK else stem(path)


def read_masks(paths: list[Path]) -> MaskStack:
    """Return the masks of one patient, as of `find_masks`. Raises: ValueError that names the file."""
    volumes = [path for path in paths if file_ending(path) not in PICTURES]
    if volumes and len(paths) > 1:
        raise ValueError(f"{paths[0]} and {paths[1].name} hold masks of one patient. Remove one of them.")
    masks: dict[int, np.ndarray] = {}
    for path in paths:
        try:
            if volumes:
                return read_mask_stack(path)
            mask = read_mask(path)
        except Exception as error:  # libraries raise many kinds for a damaged file
            raise ValueError(f"{path}: cannot be read: {error}") from None
        number = int(SLICE.fullmatch(whose(path))["number"])
        if number in masks:
            raise ValueError(f"{path}: another file holds slice {number} too. Remove one.")
        masks[number] = mask
    numbers = sorted(masks)
    if len({mask.shape for mask in masks.values()}) > 1:
        raise ValueError(f"{paths[0].parent}: the masks of {paths[0].name} and others differ in size. Save them alike.")
    return MaskStack(np.stack([masks[number] for number in numbers]), numbers)


def read_mask(path: Path) -> np.ndarray:
    """Return the mask in a picture, uint8 [H, W], 0 or 1: its transparency where that varies.

    Raises: as of `read_picture` and `foreground`.
    """
    picture = open_picture(path)
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return foreground(alpha)
    pixels = np.atleast_3d(read_picture(path))
    if not (pixels == pixels[..., :1]).all():
        raise ValueError("a mask in colours. Save it as grey, with 0 and one positive value.")
    return foreground(pixels[..., 0])


def read_mask_stack(path: Path) -> MaskStack:
    """Return the masks in an array or a file of medical images, slices as they are shown. Raises: as `read_mask`.

    Several layers, as 3D Slicer writes them, count as one.
    """
    array = file_ending(path) == ".npy"
    stack, _, grid = (open_array(path), None, None) if array else medical.read_volume(path, layers=True)
    return MaskStack(foreground(stack.reshape(*stack.shape[:3], -1)).max(3), grid=grid)


def foreground(values: np.ndarray) -> np.ndarray:
    """Return where a mask marks something, as uint8 0 or 1; several labels count as one.

    Raises: ValueError for other values than 0 and one positive value, or whole numbers up to MOST_LABELS with 0.
    """
    found = np.unique(values)
    if np.isfinite(found).all() and np.abs(found - found.round()).max() < NEARLY:  # 0.99999994 of resampling
        values, found = np.round(values), np.unique(found.round())
    labels = found.max() <= MOST_LABELS and (found == found.round()).all()
    if not np.isfinite(found).all() or found.min() < 0 or not (labels or len(found[found > 0]) == 1):
        shown = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"a mask with the values {shown}. Save it with 0 and one positive value only.")
    if found.min() > 0 and len(found) > 1:
        shown = " and ".join(f"{value:g}" for value in found)
        raise ValueError(f"a mask with the values {shown} and no 0: which is background? Save that as 0.")
    return (values > 0).astype(np.uint8)


def read_reference(patient: Patient, scan: Scan) -> list[np.ndarray] | None:
    """Return the reference mask of each slice of a scan, uint8 [H, W], 0 or 1; None, and a note, where none fits."""
    if MASK not in patient.items:
        return None
    paths = patient.items[MASK].paths
    try:
        if file_ending(paths[0]) in PICTURES:
            names = {stem(path) for path in scan.paths}
            by_slice = {base_of(stem(path), names) or whose(path): path for path in paths}
            if lacking := [path.name for path in scan.paths if stem(path) not in by_slice]:
                raise ValueError(f"{len(lacking)} slices have none, such as {lacking[0]}.")
            masks = [read_mask(by_slice[stem(path)]) for path in scan.paths]
        else:
            stack, _, grid = read_mask_stack(paths[0])
            masks = list(stack)
            if scan.grid and grid and not scan.grid.matches(grid, (len(scan.slices), *scan.slices[0].shape[:2])):
                raise ValueError("it lies elsewhere in space than the images.")
        if [mask.shape for mask in masks] != [plane.shape[:2] for plane in scan.slices]:
            raise ValueError("it is not of the size of the images.")
        return masks
    except Exception as error:  # libraries raise many kinds for a damaged file
        scan.notes.append(f"not scored against the reference mask {paths[0].name}: {error}")
        return None


# --- Writing: each file by its name, with a function that returns its content ----------------------------------

Files = dict[str, Callable[[], bytes]]


def mask_files(scan: Scan, masks: list[np.ndarray]) -> Files:
    """Return the masks of a scan (uint8 [H, W], 0 or 1) in the form of its files.

    Pictures with 0 and 255, TIFF if the slice is TIFF, else PNG; an array [S, H, W]; or NIfTI on the grid of the scan.
    """
    if file_ending(scan.paths[0]) not in PICTURES:
        return _stack_file(scan, masks, "mask")
    endings = [".tif" if PICTURES[file_ending(path)] == "TIFF" else ".png" for path in scan.paths]  # JPEG would blur
    named = zip(scan.names, endings, masks, strict=True)
    return {f"{name}_mask{ending}": partial(encode_picture, mask * 255, ending) for name, ending, mask in named}


def probability_files(scan: Scan, probabilities: list[np.ndarray]) -> Files:
    """Return the probabilities of a scan (float32 [H, W]) in the form of its files; as pictures, grey PNG: 255 is 1."""
    if file_ending(scan.paths[0]) not in PICTURES:
        return _stack_file(scan, probabilities, "probability")
    grey = [(plane * 255).round().astype(np.uint8) for plane in probabilities]
    named = zip(scan.names, grey, strict=True)
    return {f"{name}_probability.png": partial(encode_picture, plane) for name, plane in named}


def _stack_file(scan: Scan, planes: list[np.ndarray], what: str) -> Files:
    def array() -> bytes:
        np.save(file := io.BytesIO(), np.stack(planes))
        return file.getvalue()

    if scan.grid is None:
        return {f"{scan.name}_{what}.npy": array}
    return {f"{scan.name}_{what}.nii.gz": lambda: medical.encode(np.stack(planes), scan.grid)}


def encode_picture(pixels: np.ndarray, ending: str = ".png") -> bytes:
    """Return uint8 [H, W] or [H, W, 3] as the content of a picture file."""
    return cv2.imencode(ending, pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
