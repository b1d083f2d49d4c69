"""Scans as the images of masks to score: slices of one size, and the reference masks beside them."""

from collections.abc import Collection
from pathlib import Path

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

    Raises: UserError that lists whose scan is missing, may be of two patients, or cannot be read.
    """
    cohort = find_patients([folder])
    cohort.refuse_doubles(wanted)
    patients = {patient.name: patient for patient in cohort.with_flair if patient.name in wanted}
    lacking = [name for name in wanted if name not in patients]
    problems = [f"{folder}: no scan of {name}. Name its files like its mask." for name in lacking]
    scans, references = {}, {}
    for name, patient in sorted(patients.items()):
        scan, wrong = read_patient(patient)
        problems += wrong
        if scan is None:
            continue
        scans[name] = scan
        if (masks := read_reference(patient, scan)) is not None:
            references[name] = MaskStack(align(masks), grid=scan.grid)
    if problems:
        raise UserError(describe_problems(folder, problems))
    return scans, references


def to_slices(scans: dict[str, Scan]) -> tuple[Slices, dict[str, MaskStack]]:
    """Return all slices in one size, the largest, with empty rows and columns at the ends of others; and empty masks of
    the size and the place of each scan.

    Slices called PATIENT_NUMBER keep their numbers, as their masks do; others are numbered from 1.
    """
    images = torch.from_numpy(align([plane for scan in scans.values() for plane in scan.slices], square=True))
    numbers = {n: slice_numbers(n, scan.names) or range(1, len(scan.slices) + 1) for n, scan in scans.items()}
    frames = {n: MaskStack(align(scan.slices)[..., 0] * 0, grid=scan.grid) for n, scan in scans.items()}
    return Slices(images, torch.zeros(images.shape[:3], dtype=torch.uint8), table_of(numbers)), frames
