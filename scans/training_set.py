"""A reader's masks beside scans of any format, and both as the slices that training takes."""

from pathlib import Path
from typing import Any

import numpy as np

from constants import FLAIR, POST, PRE
from dataset.folder import GRID
from dataset.preprocess import find_head
from dataset.synthetic import write_slice
from scans.check import NETWORK
from scans.geometry import masks_to_network, network_spacing, to_network
from scans.items import Cohort, Item
from scans.masks import find_masks, is_picture, read_scan_masks
from scans.names import MASK, maker_of
from scans.scan import Scan, stem
from scans.write import origin_of, read_record
from utils import to_json, write_text

SEQUENCES = {PRE: "pre", FLAIR: "flair", POST: "post"}
MOST_OF_HEAD = 0.5  # of a tumour; the reference masks of 99 patients cover at most 0.31 of the head in a slice
BRIGHTER = 1.05  # mean of FLAIR in a mask over that in the rest of the head: 1.14 and more in 32 of 33 patients,
# and less than 1.05 in 21 of 28 whose masks were exchanged


def take_masks(cohort: Cohort, folder: Path) -> None:
    """Give patients their masks in a folder, in place of those beside the images; adds to the problems.

    A mask is PATIENT.nii.gz, PATIENT_mask.nii.gz, PATIENT_SLICE_mask.png, or anything in a folder PATIENT.
    Raises: UserError if the name of one may mean several patients.
    """
    patients = {patient.name: patient for patient in cohort.patients}
    masks, _, problems = find_masks(folder, patients)
    cohort.problems.extend(problems)
    cohort.refuse_doubles(masks)
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


def write_patient(folder: Path, scan: Scan, masks: np.ndarray) -> dict[str, Any]:
    """Write the slices of a patient, their masks (uint8 [S, H, W], 0 or 1) and GRID; return what was measured."""
    images, small = to_network(scan), masks_to_network(masks, scan)
    for number, (image, mask) in enumerate(zip(images, small, strict=True), start=1):
        write_slice(folder, scan.name, number, image, mask)
    own = (images != images[..., [FLAIR]]).any((0, 1, 2))  # by channel
    used = [name for channel, name in SEQUENCES.items() if channel == FLAIR or own[channel]]
    row = {"slices": len(images), "tumour_slices": int(small.any((1, 2)).sum()), "sequences": "+".join(used)}
    if scan.spacing:
        write_text(folder / scan.name / GRID, to_json({"spacing": network_spacing(scan)}))
        row["ml"] = round(int(masks.sum()) * float(np.prod(scan.spacing)) / 1000, 3)
        row["spacing"] = " x ".join(f"{size:.4g}" for size in scan.spacing)
    return row
