"""Scans as the images of masks to score: slices of one size, and the reference masks beside them."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from dataset.slices import Slices, table_of
from scans.cohort import find_patients
from scans.masks import MaskStack, read_reference, slice_numbers
from scans.read import read_patient
from scans.scan import Scan
from scans.show import align
from utils import UserError, describe_problems


def load_scans(folder: Path, wanted: Collection[str]) -> tuple[dict[str, Scan], dict[str, MaskStack]]:
    """Return the wanted patients of a folder of scans by name, and the reference masks of those who have one.

    Raises: UserError that lists whose scan is missing, may be of two patients, cannot be read, or has slices of several
    sizes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Name a folder of scans.")
    cohort = find_patients([folder])
    patients = {patient.name: patient for patient in cohort.with_flair if patient.name in wanted}
    lacking = [name for name in wanted if name not in patients]
    problems = [f"{folder}: no scan of {name}. Name its files like its mask." for name in lacking]
    asked = cohort.ambiguous(wanted).values()
    problems += [f"{folder}: {question} Name both, or the folders apart." for question in asked]
    scans, references = {}, {}
    for name, patient in sorted(patients.items()):
        scan, wrong = read_patient(patient)
        problems += wrong
        if scan is None:
            continue
        if len({plane.shape for plane in scan.slices}) > 1:
            problems.append(f"{scan.paths[0].parent}: has slices of several sizes. List others in --patients.")
            continue
        scans[name] = scan
        if (masks := read_reference(patient, scan)) is not None:
            references[name] = MaskStack(np.stack(masks), grid=scan.grid)
    if problems:
        raise UserError(describe_problems(folder, problems))
    return scans, references


def frames_of(scans: dict[str, Scan]) -> dict[str, MaskStack]:
    """Return empty masks of the size and the place of each scan."""
    shapes = {name: (len(scan.slices), *scan.slices[0].shape[:2]) for name, scan in scans.items()}
    return {name: MaskStack(np.broadcast_to(np.uint8(0), shapes[name]), grid=scan.grid) for name, scan in scans.items()}


def to_slices(scans: dict[str, Scan]) -> Slices:
    """Return all slices in one size, the largest, with empty rows and columns at the ends of others. Masks: empty.

    Slices called PATIENT_NUMBER keep their numbers, as their masks do; others are numbered from 1.
    """
    images = torch.from_numpy(align([plane for scan in scans.values() for plane in scan.slices], square=True))
    numbers = {n: slice_numbers(n, scan.names) or range(1, len(scan.slices) + 1) for n, scan in scans.items()}
    return Slices(images, torch.zeros(images.shape[:3], dtype=torch.uint8), table_of(numbers))
