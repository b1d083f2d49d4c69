"""Masks that other programs or people made: folders of them, and those of a scan, on its slices."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from constants import FLAIR
from dataset.preprocess import find_head
from scans import medical
from scans.check import NETWORK
from scans.cohort import find_patients
from scans.geometry import masks_to_network, to_network
from scans.items import Cohort, Item, Patient, problems_of, walk
from scans.names import MASK, base_of, kind_of, maker_of
from scans.read import MOST_LABELS, open_picture, read_patient, read_picture, read_stack
from scans.scan import PICTURES, Scan, file_ending, natural_order, pad, stem
from scans.write import origin_of, read_record, record_path
from utils import UserError, counted, describe_problems, list_few

SOFT = 0.5  # value from which a voxel of a soft mask counts
OUTSIDE = 0.01  # of the voxels of a mask on another grid, which may lie outside of the images
NEARLY = 1e-3  # by which values of a mask may differ from whole numbers
MOST_OF_HEAD = 0.5  # of a tumour; the reference masks of 99 patients cover at most 0.31 of the head in a slice
BRIGHTER = 1.05  # mean of FLAIR in a mask over that in the rest of the head: 1.14 and more in 32 of 33 patients,
# and less than 1.05 in 21 of 28 whose masks were exchanged
SLICE = re.compile(r"(?P<patient>.+)_(?P<number>\d+)")  # name of a picture of a mask, without _mask


class MaskStack(NamedTuple):
    """The masks of one patient."""

    masks: np.ndarray  # uint8 [S, H, W], 0 or 1
    numbers: list[int] | None = None  # of the slices, increasing; None where they are all slices in their order
    grid: medical.Grid | None = None  # where they lie; None for pictures and arrays


def find_masks(folder: Path, patients: Collection[str] = ()) -> tuple[dict[str, list[Path]], list[Path], list[str]]:
    """Return the masks in a folder and its subfolders by patient, sorted; images beside masks; and problems.

    One volume, such as PATIENT.nii.gz, PATIENT/mask.nii.gz or PATIENT.npy, or pictures, PATIENT_SLICE.png or .tif; any
    may end in _mask. Where some pictures do, the others are taken for images; so are volumes.

    patients: names that are known, in whose folders masks may be called anything; then no file is taken for an image.
    """
    entries = list(walk(folder, ours=True))
    paths = [path for path, why in entries if not why and file_ending(path)]
    problems, masks = problems_of(entries), defaultdict(list)
    forms = set() if patients else {is_picture(path) for path in paths if is_named(path)}  # which are called masks
    for path in sorted(paths, key=is_picture):
        if is_picture(path) in forms and not is_named(path):
            continue
        if name := owner(path, patients):
            masks[name].append(path)
        else:
            problems.append(f"{path}: not named like a mask. Rename it to PATIENT_NUMBER_mask{path.suffix}.")
    if not masks and not problems:
        problems.append(f"{folder}: holds no masks (PATIENT_NUMBER_mask.png or .tif, PATIENT.nii.gz, PATIENT.npy).")
    taken = {name: [*filter(is_named, own)] or own for name, own in sorted(masks.items())}
    return taken, sorted({*paths}.difference(*taken.values())), problems


def owner(path: Path, patients: Collection[str]) -> str:
    """Return whose a mask is by the names of its file and its folder; empty if those of a picture say nothing."""
    above, match = path.parent.name, SLICE.fullmatch(whose(path)) if is_picture(path) else None
    if record_path(path.parent.parent, above).is_file():  # predict_model.py wrote it
        return above
    name = match["patient"] if match else "" if is_picture(path) else whose(path) or above
    return next((known for known in (above, name, kind_of(name)[0]) if known in patients), name)


def is_picture(path: Path) -> bool:
    return file_ending(path) in PICTURES


def is_named(path: Path) -> bool:
    """Return whether a file is called a mask."""
    return kind_of(stem(path))[1] == MASK


def whose(path: Path) -> str:
    """Return the name of a file of masks without what says that it is one."""
    base = stem(path).removesuffix(".seg")  # of .seg.nrrd, as 3D Slicer writes it
    name, kind = kind_of(base)
    return name if kind == MASK else base


def slice_numbers(patient: str, names: Iterable[str]) -> list[int] | None:
    """Return the numbers of slices called PATIENT_NUMBER; None if one is called otherwise."""
    matches = [SLICE.fullmatch(name) for name in names]
    named = all(match and match["patient"] == patient for match in matches)
    return [int(match["number"]) for match in matches] if named else None


def read_masks(patient: str, paths: list[Path]) -> MaskStack:
    """Return the masks of a patient, as of `find_masks`: pictures by number, or in their order where names lack it.

    Raises: ValueError that names the file.
    """
    pictured = is_picture(paths[0])
    if len(paths) > 1 and not pictured:
        raise ValueError(f"{paths[1]}: {paths[0].name} holds masks of the patient, too. Remove one.")
    paths, planes = sorted(paths, key=lambda path: natural_order(Path(whose(path)))), []
    numbers = slice_numbers(patient, map(whose, paths)) if pictured else None
    if numbers and len(set(numbers)) < len(numbers):
        raise ValueError(f"{paths[0].parent}: holds two masks of one slice of {patient}. Remove one.")
    for path in paths:
        try:
            if not pictured:
                stack, _, grid = read_stack(paths, layers=True)
                return MaskStack(join_layers(foreground(stack)), grid=grid)
            planes.append(read_mask(path))
        except Exception as error:  # libraries raise many kinds for a damaged file
            raise ValueError(f"{path}: cannot be read: {error}") from None
    if len({plane.shape for plane in planes}) > 1:
        raise ValueError(f"{paths[0].parent}: the masks of {paths[0].name} and others differ in size. Save them alike.")
    return MaskStack(np.stack(planes), numbers)


def read_mask(path: Path, labels: Collection[int] = ()) -> np.ndarray:
    """Return the mask in a picture, uint8 [H, W], 0 or 1: its transparency where that varies.

    labels: which count; all if empty. Raises: as of `read_picture` and `select`.
    """
    picture = open_picture(path)
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return foreground(alpha)
    pixels = np.atleast_3d(read_picture(path))
    if not (pixels == pixels[..., :1]).all():
        raise ValueError("a mask in colours. Save it as grey, with 0 and one positive value.")
    return select(pixels[..., 0], labels)[0]


def join_layers(masks: np.ndarray) -> np.ndarray:
    """Return masks [S, H, W] of [S, H, W] or [S, H, W, L]: several layers, as 3D Slicer writes them, count as one."""
    return masks.reshape(*masks.shape[:3], -1).max(3)


def foreground(values: np.ndarray) -> np.ndarray:
    """Return where a mask marks something, as uint8 0 or 1; several labels count as one.

    Raises: ValueError for other values than 0 and one positive value, or whole numbers up to MOST_LABELS with 0.
    """
    values = to_whole(values)
    levels = np.unique(values)
    finite = np.isfinite(levels).all()
    labels = levels.max() <= MOST_LABELS and (levels == levels.round()).all()
    shown = list_few([f"{value:g}" for value in levels], 5)
    if not finite or levels.min() < 0 or not (labels or len(levels[levels > 0]) == 1):
        raise ValueError(f"a mask with the values {shown}. Save it with 0 and one positive value only.")
    if levels.min() > 0 and len(levels) > 1:
        raise ValueError(f"a mask with the values {shown} and no 0: which is background? Save that as 0.")
    return (values > 0).astype(np.uint8)


def to_whole(values: np.ndarray) -> np.ndarray:
    """Return values rounded if all are whole but for the rounding of resampling, as 0.99999994 is."""
    with np.errstate(invalid="ignore"):  # of infinity
        fractions = values.dtype.kind == "f" and np.abs(values - np.round(values)).max() < NEARLY
    return np.round(values) if fractions else values


def read_scan_masks(paths: list[Path], scan: Scan, labels: Collection[int] = ()) -> tuple[np.ndarray, list[str]]:
    """Return the masks of a scan, uint8 [S, H, W], 0 or 1; and notes on what was done to them.

    paths: a volume, or pictures. labels: which count; all if empty.
    Raises: ValueError for masks that do not fit; any error of a library for a damaged file.
    """
    if is_picture(paths[0]):
        planes, notes = [], []
        for path in by_slice(paths, scan):
            try:
                planes.append(read_mask(path, labels))
            except Exception as error:  # libraries raise many kinds for a damaged file
                raise ValueError(f"{path.name}: {error}") from None
        fits = [plane.shape for plane in planes] == (scan.sizes or [scan.slices.shape[1:3]] * len(planes))
        masks = pad(planes)
    elif len(paths) > 1:
        raise ValueError(f"{' and '.join(path.name for path in paths)} are both its masks. Remove one.")
    else:
        values, _, grid = read_stack(paths, layers=True)
        marked, note = select(values, labels)
        masks, moved = onto_grid(join_layers(marked), grid, scan.slices.shape[:3], scan.grid)
        notes, fits = [*filter(None, (note, moved))], masks.shape == scan.slices.shape[:3]
    if not fits:
        raise ValueError("it is not of the size of the images.")
    return masks, notes


def by_slice(paths: list[Path], scan: Scan) -> list[Path]:
    """Return the picture of the mask of each slice by their names. Raises: ValueError if a slice has none."""
    if not is_picture(scan.paths[0]):
        raise ValueError("it is in pictures, but the images are not. Save it on the grid of the images, as NIfTI.")
    names = {*scan.names, *map(stem, scan.paths)}
    masks = {base_of(stem(path), names) or whose(path): path for path in paths}
    ordered = [masks.get(name, masks.get(stem(path))) for name, path in zip(scan.names, scan.paths, strict=True)]
    if None in ordered:
        first = scan.paths[ordered.index(None)].name
        raise ValueError(f"{counted(ordered.count(None), 'slice')} without one, such as {first}.")
    return ordered


def select(values: np.ndarray, labels: Collection[int] = ()) -> tuple[np.ndarray, str]:
    """Return where values are of these labels, or of any, as uint8 0 or 1; and a note on what was done.

    Without labels, values between 0 and 1 count from SOFT on. Raises: ValueError as `foreground`, and with labels for
    fractions and for one value that is no label.
    """
    if labels:
        values = to_whole(values)
        positive = np.unique(values[values != 0])
        if not (positive == np.round(positive)).all():
            raise ValueError("its values are no whole numbers, so that --labels cannot choose. Save it with labels.")
        others = [f"{value:g}" for value in positive if value not in labels]
        if len(positive) == 1 and others:
            raise ValueError(f"it holds 0 and {others[0]}, not a label of --labels.")
        return np.isin(values, [*labels]).astype(np.uint8), f"labels left out: {', '.join(others)}" if others else ""
    try:
        return foreground(values), ""
    except ValueError:
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise
        return (values >= SOFT).astype(np.uint8), f"soft mask: counts from {SOFT} on"


def onto_grid(
    mask: np.ndarray, grid: medical.Grid | None, size: tuple[int, ...], images: medical.Grid | None
) -> tuple[np.ndarray, str]:
    """Return a mask, uint8 [S, H, W], on the grid of images, by nearest neighbour if it has another; and a note if so.

    size: slices, height and width of the images. Raises: ValueError if both cannot lie at the same place.
    """
    if mask.shape == size:
        if images and not images.matches(grid):
            raise ValueError("it has the size of the images but lies elsewhere. Save it with the header of the images.")
        return mask, ""
    own, other = (f"{slices} slices of {width}x{height}" for slices, height, width in (mask.shape, size))
    if not all(one is not None and one.affine is not None for one in (grid, images)):
        raise ValueError(f"it has {own}, the images have {other}. Save it on the grid of the images.")
    covered = medical.resample(np.ones(size, np.uint8), images, grid)
    if mask.any() and (outside := 1 - covered[mask > 0].mean()) > OUTSIDE:
        raise ValueError(f"{outside:.0%} of it lies outside of the images. Save it on the grid of the images.")
    return medical.resample(mask, grid, images), f"mask of {own} resampled by nearest neighbour to {other}"


def read_reference(patient: Patient, scan: Scan) -> np.ndarray | None:
    """Return the reference masks of a scan, uint8 [S, H, W], 0 or 1; None where none fits. Adds notes."""
    if MASK not in patient.items:
        return None
    paths = patient.items[MASK].paths
    try:
        masks, notes = read_scan_masks(paths, scan)
    except Exception as error:  # libraries raise many kinds for a damaged file
        scan.notes.append(f"not scored against the reference mask {paths[0].name}: {error}")
        return None
    scan.notes += [f"reference mask: {note}" for note in notes]
    return masks


def load_scans(folder: Path, wanted: Collection[str], with_mask: bool) -> tuple[dict[str, Scan], dict[str, MaskStack]]:
    """Return the wanted patients of a folder of scans by name, and the reference masks of those who have one.

    with_mask: also all patients who have one. Raises: UserError that lists whose scan is missing or cannot be read.
    """
    cohort = find_patients([folder])
    more = (patient.name for patient in cohort.with_flair if with_mask and MASK in patient.items)
    wanted = {*wanted, *more}
    cohort.refuse_doubles(wanted)
    patients = {patient.name: patient for patient in cohort.with_flair if patient.name in wanted}
    lacking = sorted(wanted - patients.keys())
    problems = [f"{folder}: no scan of {name}. Name its files like its mask." for name in lacking]
    scans, references = {}, {}
    for name, patient in sorted(patients.items()):
        scan, wrong = read_patient(patient)
        problems += wrong
        if scan is not None:
            scans[name] = scan
            if (masks := read_reference(patient, scan)) is not None:
                references[name] = MaskStack(masks, grid=scan.grid)
    if problems:
        raise UserError(describe_problems(folder, problems))
    return scans, references


# --- To train on ---------------------------------------------------------------------------------------------------


def take_masks(cohort: Cohort, folder: Path) -> None:
    """Give patients their masks of `find_masks`, in place of those beside the images; adds to the problems."""
    patients = {patient.name: patient for patient in cohort.patients}
    masks, _, problems = find_masks(folder, patients)
    cohort.refuse_doubles(masks)
    cohort.problems.extend(problems)
    for name, (first, *more) in masks.items():
        if name not in patients:
            cohort.problems.append(f"{first}: the mask of no patient by its name. Rename it to PATIENT_mask.nii.gz.")
            continue
        items, record = patients[name].items, read_record(folder, name)
        maker = maker_of(f"{folder.name}/{stem(first)}")
        if first.name in record.get("masks", ()):  # predict_model.py wrote it
            maker = origin_of(folder / name, record)["origin"]
        if maker == NETWORK and MASK in items and items[MASK].maker != NETWORK:
            beside = items[MASK].paths[0].name
            note = f"the network's mask, which nobody corrected, goes before the one beside it, {beside}"
            patients[name].notes.append(note)
        place = first.parent if more or is_picture(first) else first
        items[MASK] = Item(place, [first, *more], folder, name, MASK, whole=False, mask_of=maker)


def read_training_masks(item: Item, scan: Scan, labels: set[int]) -> tuple[np.ndarray, list[str]]:
    """Return the masks of a scan, and notes, as `read_scan_masks`.

    Raises: ValueError for masks that are damaged, do not fit the images, or cover most of the head.
    """
    try:
        masks, notes = read_scan_masks(item.paths, scan, labels)
        doubt = check_place(to_network(scan), masks_to_network(masks, scan))
    except Exception as error:  # libraries raise many kinds for a damaged file
        raise ValueError(f"{item.place}: {' '.join(str(error).split())}") from None
    return masks, [*notes, *filter(None, [doubt])]


def check_place(images: np.ndarray, masks: np.ndarray) -> str:
    """Return a warning if a mask is empty or not bright in FLAIR; "" if it is neither.

    images: uint8 [S, 256, 256, 3]; masks: uint8 [S, 256, 256], 0 or 1.
    Raises: ValueError if it covers most of the head.
    """
    if not masks.any():
        return "its mask is empty: it is taken as healthy"
    head, marked, flair = find_head(images, filled=True), masks > 0, images[..., FLAIR]
    covered = marked[head].mean()
    if covered > MOST_OF_HEAD:
        raise ValueError(f"it covers {covered:.0%} of the head: a mask of the brain, or inverted.")
    if flair[marked].mean() < BRIGHTER * flair[head & ~marked].mean():
        return "what its mask marks is not brighter in FLAIR than the rest of the head: is it of this patient?"
    return ""
