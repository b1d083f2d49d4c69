"""A reader's masks beside scans of any format, and both as the slices that training takes.

A patient becomes a folder: PATIENT_1.tif, PATIENT_1_mask.tif, ... and GRID, which says where the slices come from.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dataset.preprocess import find_head
from dataset.synthetic import write_slice
from scans.cohort import Cohort, Patient, cell
from scans.geometry import masks_to_network, to_network
from scans.items import OURS, Item, walk
from scans.masks import SLICE, by_slice, foreground, read_mask, whose
from scans.medical import Grid
from scans.names import COLUMNS, MASK, kind_of, maker_of
from scans.read import read_picture, read_stack
from scans.scan import PICTURES, Scan, file_ending, stem
from utils import to_json, write_text

GRID = "grid.json"
OUTSIDE = 0.01  # of the voxels of a mask on another grid, which may lie outside of the images
MOST_OF_HEAD = 0.5  # of a tumour; the reference masks of 99 patients cover at most 0.31 of the head in a slice
SOFT = 0.5  # value from which a voxel of a soft mask counts

Row = dict[str, Any]  # of the table of the import, by column


# --- Whose masks --------------------------------------------------------------------------------------------------


def take_masks(cohort: Cohort, folder: Path) -> None:
    """Give patients their masks in a folder, in place of those beside the images; adds to the problems.

    A mask is PATIENT.nii.gz, PATIENT_mask.nii.gz, PATIENT_SLICE_mask.png, or any of this in a folder PATIENT, as
    predict_model.py writes it.
    """
    patients = {patient.name: patient for patient in cohort.patients}
    masks: dict[str, list[Path]] = {}
    for path, reason in walk(folder, levels=1, ours=True):
        if reason or not file_ending(path):
            continue
        picture = SLICE.fullmatch(whose(path)) if file_ending(path) in PICTURES else None
        names = [path.parent.name if path.parent != folder else "", picture["patient"] if picture else "", whose(path),
                 kind_of(whose(path))[0], whose(path).removesuffix("_mask")]  # fmt: skip
        masks.setdefault(next((name for name in names if name in patients), str(path)), []).append(path)
    for name, paths in masks.items():
        named = [path for path in paths if kind_of(stem(path))[1] == MASK] or paths
        pictures = file_ending(named[0]) in PICTURES
        if name not in patients:
            cohort.problems.append(f"{name}: the mask of no patient by its name. Rename it to PATIENT_mask.nii.gz.")
        elif len(named) > 1 and not pictures:
            shown = " and ".join(path.name for path in named)
            cohort.problems.append(f"{named[0].parent}: {shown} are both masks of {name}. Remove one.")
        else:
            place = named[0].parent if pictures else named[0]
            patients[name].items[MASK] = Item(place, named, folder, name, MASK, whole=not pictures)
    if not masks:
        cohort.problems.append(f"{folder}: holds no masks (PATIENT_mask.nii.gz, PATIENT/PATIENT_1_mask.png).")


def maker(item: Item, folder: Path | None) -> str:
    """Return whose a mask is by its name, and by that of the folder --masks: reader, corrected, or network."""
    name = stem(item.paths[0])
    if item.root != folder:
        return maker_of(name)
    named = maker_of(f"{folder.name}/{name}")
    return "network" if named == "reader" and (folder / OURS).is_file() else named


# --- Read a mask --------------------------------------------------------------------------------------------------


def read_training_masks(item: Item, scan: Scan, labels: set[int]) -> tuple[list[np.ndarray], list[str]]:
    """Return the mask of each slice of a scan, uint8 [H, W], 0 or 1; and notes on what was done to them.

    labels: which count; empty for all.
    Raises: ValueError for masks that do not fit the images or the head; any error of a library for a damaged file.
    """
    sizes = [plane.shape[:2] for plane in scan.slices]
    if file_ending(item.paths[0]) in PICTURES:
        masks, notes = [_of_picture(path, labels) for path in by_slice(item.paths, scan)], []
    else:
        values, _, grid = read_stack(item.paths[:1], layers=True)
        selected, note = select(values, labels)
        masks, moved = _onto(selected.reshape(*selected.shape[:3], -1).max(3), grid, scan)
        notes = [note, moved]
    if [mask.shape for mask in masks] != sizes:
        raise ValueError("it is not of the size of the images.")
    notes.append(check_place(to_network(scan), masks_to_network(masks, scan)))
    return masks, [*filter(None, notes)]


def _of_picture(path: Path, labels: set[int]) -> np.ndarray:
    return select(np.atleast_3d(read_picture(path))[..., 0], labels)[0] if labels else read_mask(path)


def select(values: np.ndarray, labels: set[int]) -> tuple[np.ndarray, str]:
    """Return where values are of these labels, or of any, as uint8 0 or 1; and a note on what was done.

    Values between 0 and 1 count from SOFT on. Raises: ValueError as `foreground`, and for one value that is no label.
    """
    if labels:
        positive = np.unique(values[values != 0])
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


def _onto(mask: np.ndarray, grid: Grid | None, scan: Scan) -> tuple[list[np.ndarray], str]:
    """Return a mask, uint8 [S, H, W], on the slices of a scan, by nearest neighbour if it has others; and a note if so.

    Raises: ValueError if both cannot lie at the same place.
    """
    size = (len(scan.slices), *scan.slices[0].shape[:2])
    if mask.shape == size:
        if scan.grid and not scan.grid.matches(grid):
            raise ValueError(
                "it has the size of the images but lies elsewhere by its header. Save it with the header of the images."
            )
        return list(mask), ""
    shown = [f"{s} slices of {w}x{h}" for s, h, w in (mask.shape, size)]
    known = [one is not None and one.affine is not None for one in (grid, scan.grid)]
    if not all(known):
        raise ValueError(
            f"it has {shown[0]}, the images have {shown[1]}, and headers do not say how they lie. Save it on the grid "
            "of the images."
        )
    marked = np.argwhere(mask)[:, ::-1]  # column, row, slice
    inside = _nearest(np.linalg.inv(scan.grid.affine) @ grid.affine, marked, size)[1]
    if len(marked) and inside.mean() < 1 - OUTSIDE:
        raise ValueError(
            f"{1 - inside.mean():.0%} of it lies outside of the images by the headers. Save it on the grid of the "
            "images."
        )
    to_mask, planes = np.linalg.inv(grid.affine) @ scan.grid.affine, []
    for number, plane in enumerate(scan.slices):
        places = np.argwhere(np.ones(plane.shape[:2], bool))[:, ::-1]
        index, inside = _nearest(to_mask, np.column_stack([places, np.full(len(places), number)]), mask.shape)
        values = np.zeros(len(places), np.uint8)
        values[inside] = mask[tuple(index[inside].T)]
        planes.append(values.reshape(plane.shape[:2]))
    return planes, f"mask of {shown[0]} resampled by nearest neighbour to {shown[1]}"


def _nearest(matrix: np.ndarray, places: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (slice, row, column) nearest to mapped places (column, row, slice), and which of them exist.

    places: int [N, 3]; size: slices, rows, columns. Returns: int [N, 3] and bool [N].
    """
    index = np.floor(places @ matrix[:3, :3].T + matrix[:3, 3] + 0.5).astype(int)[:, ::-1]
    return index, ((index >= 0) & (index < size)).all(1)


def check_place(images: np.ndarray, masks: np.ndarray) -> str:
    """Return a warning if most of a mask lies outside of the head; "" if it does not.

    images: uint8 [S, 256, 256, 3]; masks: uint8 [S, 256, 256], 0 or 1.
    Raises: ValueError if it covers most of the head.
    """
    head = find_head(images, filled=True)
    inside = int(masks[head].sum())
    if inside > MOST_OF_HEAD * head.sum():
        raise ValueError(f"it covers {inside / head.sum():.0%} of the head: a mask of the brain, or inverted.")
    if not masks.any():
        return "its mask is empty: it is taken as healthy"
    outside = 1 - inside / masks.sum()
    return f"{outside:.0%} of its mask lies outside of the head: is it of this patient?" if outside > 0.5 else ""


# --- Write --------------------------------------------------------------------------------------------------------


def write_patient(folder: Path, scan: Scan, masks: list[np.ndarray], row: Row) -> None:
    """Write the slices of a patient, their masks and GRID into its folder, and what was measured into its row.

    masks: uint8 [H, W], 0 or 1, of each slice at its own size.
    """
    images, small = to_network(scan), masks_to_network(masks, scan)
    for number, (image, mask) in enumerate(zip(images, small, strict=True), start=1):
        write_slice(folder, scan.name, number, image, mask)
    row |= {"slices": len(images), "tumour_slices": int(small.any((1, 2)).sum())}
    if scan.spacing:
        row["ml"] = round(sum(int(mask.sum()) for mask in masks) * float(np.prod(scan.spacing)) / 1000, 3)
        row["spacing"] = " x ".join(f"{size:.4g}" for size in scan.spacing)
    row["notes"] = "; ".join(scan.notes)
    sizes = sorted({plane.shape[:2] for plane in scan.slices})
    about = {
        "source": {name: row[name] for name in COLUMNS if row.get(name)},
        "mask_of": row["mask_of"],
        "height_width": sizes[0] if len(sizes) == 1 else sizes,
        "spacing": scan.spacing,
        "affine": scan.grid.affine.tolist() if scan.grid and scan.grid.affine is not None else None,
    }
    write_text(folder / scan.name / GRID, to_json(about))


def begin_row(patient: Patient, folder: Path, masks: Path | None) -> Row:
    """Return the row of a patient before it is read: which file is which sequence.

    folder: to which paths are relative; masks: the folder of `take_masks`.
    """
    row = {column: cell(patient.items[kind], folder) for column, kind in COLUMNS.items() if kind in patient.items}
    unused = "; ".join(f"{cell(item, folder)} ({item.reason})" for item in patient.unused)
    mask_of = maker(patient.items[MASK], masks) if MASK in patient.items else ""
    return {"patient": patient.name, **row, "mask_of": mask_of, "unused": unused}
