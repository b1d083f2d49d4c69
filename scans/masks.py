"""Masks that other programs or people made: folders of them to score, and references beside a scan."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scans import medical
from scans.cohort import Cohort, Patient
from scans.items import PROBLEMS, Item, walk
from scans.names import MASK, OTHER, SHOWN, Kind, base_of, kind_of
from scans.read import open_picture, read_picture, read_stack
from scans.scan import PICTURES, Scan, file_ending, stem

MOST_LABELS = 9  # a mask of labels has whole numbers up to this; grey levels of resizing go on to 255
NEARLY = 1e-3  # by which values of a mask may differ from whole numbers
SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)")  # name of a picture of a mask, without _mask


class NoMaskError(ValueError):
    """Raised for an image, where a mask is expected."""


class MaskStack(NamedTuple):
    """The masks of one patient."""

    masks: np.ndarray  # uint8 [S, H, W], 0 or 1
    numbers: list[int] | None = None  # of the slices, increasing; None where they are all slices in their order
    grid: medical.Grid | None = None  # where they lie; None for pictures and arrays


def pair_masks(folders: dict[Kind, Path]) -> Cohort:
    """Return the predicted and the reference masks of each patient by the names of their files, none of them read."""
    cohort = Cohort([], [], [])
    items: dict[str, dict[Kind, Item]] = defaultdict(dict)
    for kind, folder in folders.items():
        files, problems, unused = find_masks(folder)
        cohort.problems.extend(problems)
        cohort.unused.extend(unused)
        for name, paths in files.items():
            alone = len(paths) == 1 and file_ending(paths[0]) not in PICTURES
            place = paths[0] if alone else paths[0].parent
            items[name][kind] = Item(place, paths, folder, name, kind, whole=False)
    for name, own in sorted(items.items()):
        missing = [f"no {SHOWN[MASK]}"] if MASK in folders and MASK not in own else []
        cohort.patients.append(Patient(name, own, notes=missing))
    return cohort


def find_masks(folder: Path) -> tuple[dict[str, list[Path]], list[str], list[Item]]:
    """Return the files of each patient in a folder and its subfolders, sorted by patient; problems; what is not used.

    One volume, such as PATIENT.nii.gz or PATIENT.npy, or pictures, PATIENT_SLICE.png or .tif; any may end in _mask.
    Where some pictures do, the others are taken for images; so are volumes.
    """
    masks: dict[str, list[Path]] = defaultdict(list)
    entries = list(walk(folder, levels=1, ours=True))
    problems = [f"{path}: {why}. Restore it, or leave it out." for path, why in entries if why.startswith(PROBLEMS)]
    left = {path: reason for path, reason in entries if reason}
    files = [path for path, reason in entries if file_ending(path) and not reason]
    for pictured in (False, True):
        own = [path for path in files if (file_ending(path) in PICTURES) == pictured]
        named = [path for path in own if kind_of(stem(path))[1] == MASK] or own
        left |= dict.fromkeys(set(own) - set(named), "not called a mask, beside others that are")
        for path in named:
            match = SLICE.fullmatch(whose(path)) if pictured else None
            if pictured and not match:
                problems.append(f"{path}: not named like a mask. Rename it to PATIENT_NUMBER_mask{path.suffix}.")
            else:
                masks[match["patient"] if match else whose(path)].append(path)
    if not masks and not problems:
        problems.append(f"{folder}: holds no masks (PATIENT_NUMBER_mask.png or .tif, PATIENT.nii.gz, PATIENT.npy).")
    unused = [Item(path, [path], folder, "", OTHER, reason=reason) for path, reason in sorted(left.items())]
    return dict(sorted(masks.items())), problems, unused


def whose(path: Path) -> str:
    """Return the name of a file of masks without what says that it is one."""
    name, kind = kind_of(stem(path))
    return name if kind == MASK else stem(path)


def read_masks(paths: list[Path]) -> MaskStack:
    """Return the masks of one patient, as of `find_masks`. Raises: ValueError that names the file."""
    masks: dict[int, np.ndarray] = {}
    for path in paths:
        pictured = file_ending(path) in PICTURES
        match = SLICE.fullmatch(whose(path)) if pictured else None
        if pictured and not match:
            raise ValueError(f"{path}: not named like a mask. Rename it to PATIENT_NUMBER_mask{path.suffix}.")
        number = int(match["number"]) if match else None
        if number in masks or (len(paths) > 1 and not pictured):
            raise ValueError(f"{path}: another file holds these masks of the patient, too. Remove one.")
        try:
            if not pictured:
                return read_mask_stack(path)
            masks[number] = read_mask(path)
        except Exception as error:  # libraries raise many kinds for a damaged file
            kind = NoMaskError if isinstance(error, NoMaskError) else ValueError
            raise kind(f"{path}: cannot be read: {error}") from None
    if len({mask.shape for mask in masks.values()}) > 1:
        raise ValueError(f"{paths[0].parent}: the masks of {paths[0].name} and others differ in size. Save them alike.")
    return MaskStack(np.stack([masks[number] for number in sorted(masks)]), sorted(masks))


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
        raise NoMaskError("a mask in colours. Save it as grey, with 0 and one positive value.")
    return foreground(pixels[..., 0])


def read_mask_stack(path: Path) -> MaskStack:
    """Return the masks in an array or a file of medical images, slices as they are shown. Raises: as `read_mask`.

    Several layers, as 3D Slicer writes them, count as one.
    """
    stack, _, grid = read_stack([path], layers=True)
    return MaskStack(foreground(stack.reshape(*stack.shape[:3], -1)).max(3), grid=grid)


def foreground(values: np.ndarray) -> np.ndarray:
    """Return where a mask marks something, as uint8 0 or 1; several labels count as one.

    Raises: ValueError for other values than 0 and one positive value, or whole numbers up to MOST_LABELS with 0.
    """
    levels = np.unique(values)
    finite = np.isfinite(levels).all()
    if finite and np.abs(levels - levels.round()).max() < NEARLY:  # 0.99999994 of resampling
        values, levels = np.round(values), np.unique(levels.round())
    labels = levels.max() <= MOST_LABELS and (levels == levels.round()).all()
    shown = ", ".join(f"{value:g}" for value in levels[:5]) + (", ..." if len(levels) > 5 else "")
    if not finite or levels.min() < 0 or not (labels or len(levels[levels > 0]) == 1):
        raise NoMaskError(f"a mask with the values {shown}. Save it with 0 and one positive value only.")
    if levels.min() > 0 and len(levels) > 1:
        raise ValueError(f"a mask with the values {shown} and no 0: which is background? Save that as 0.")
    return (values > 0).astype(np.uint8)


def by_slice(paths: list[Path], scan: Scan) -> list[Path]:
    """Return the picture of the mask of each slice. Raises: ValueError if one has none."""
    names = {stem(path) for path in scan.paths}
    masks = {base_of(stem(path), names) or whose(path): path for path in paths}
    if lacking := [path.name for path in scan.paths if stem(path) not in masks]:
        raise ValueError(f"{len(lacking)} slices have none, such as {lacking[0]}.")
    return [masks[stem(path)] for path in scan.paths]


def read_reference(patient: Patient, scan: Scan) -> list[np.ndarray] | None:
    """Return the reference mask of each slice of a scan, uint8 [H, W], 0 or 1; None, and a note, where none fits."""
    if MASK not in patient.items:
        return None
    paths, sizes = patient.items[MASK].paths, [plane.shape[:2] for plane in scan.slices]
    try:
        if file_ending(paths[0]) in PICTURES:
            masks = [read_mask(path) for path in by_slice(paths, scan)]
        else:
            stack, _, grid = read_mask_stack(paths[0])
            masks = list(stack)
            if scan.grid and not scan.grid.matches(grid):
                raise ValueError("it lies elsewhere in space than the images.")
        if [mask.shape for mask in masks] != sizes:
            raise ValueError("it is not of the size of the images.")
        return masks
    except Exception as error:  # libraries raise many kinds for a damaged file
        scan.notes.append(f"not scored against the reference mask {paths[0].name}: {error}")
        return None
