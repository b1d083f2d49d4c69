"""Split by patient into training, validation and test; slices of a patient and scans of a person never part."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from constants import SPLIT_SEED, TEST_SHARE, VALIDATION_SHARE
from utils import UserError, counted, describe_problems, list_few, read_csv

SPLITS = ("train", "validation", "test")
Assignment = dict[str, str]  # {patient: one of SPLITS}
# The end of an id that tells scans of one person apart: a date, a session, a time point as in public sets
SCAN = re.compile(
    r"[_-](19|20)\d\d[_-]?(0[1-9]|1[0-2])[_-]?(0[1-9]|[12]\d|3[01])$|[_-]ses(sion)?[_-]?\w[\w-]*$|"
    r"[_-](visit|time(point)?|tp|week|fu)[_-]?\d[\w-]*$|[_-](t\d|(pre|post)(op)?|baseline|follow-?up[_-]?\d*)$|"
    r"(?<=^BraTS-[A-Z]{3}-\d{5})-\d{3}$|(?<=^RHUH-\d{4})_\d$|(?<=GBM-\d{5})_\d\d$",
    re.IGNORECASE,
)


@functools.cache
def person_of(patient: str) -> str:
    """Return an id without a date or session at its end: PAT_02_20190101 and PAT_02_20200101 are PAT_02."""
    return SCAN.sub("", patient)


def group_scans(patients: Iterable[str]) -> dict[str, list[str]]:
    """Return the scans of each person as {first scan: all scans}, sorted."""
    scans = pd.Series(sorted(set(patients)), dtype=object)
    return {own.iloc[0]: own.tolist() for _, own in scans.groupby(scans.map(person_of), sort=False)}


def describe_persons(patients: Iterable[str]) -> str:
    """Return a sentence on persons with several scans, by their ids; an empty text if there are none."""
    persons = list(group_scans(patients).values())
    if not (several := [scans for scans in persons if len(scans) > 1]):
        return ""
    example = f"{person_of(several[0][0])} ({', '.join(several[0][:3])})"
    return f"{len(several)} of {len(persons)} persons have several scans by their ids, such as {example}"


def assign_patients(patients: Iterable[str]) -> Assignment:
    """Return the published split; it depends on the set of ids alone.

    Raises: UserError if there are less than three persons.
    """
    from sklearn.model_selection import train_test_split  # its import takes a second, which predictions do without

    persons = group_scans(patients)
    if len(persons) < len(SPLITS):
        raise UserError(
            f"{counted(len(persons), 'person')}, too few for {', '.join(SPLITS)} ({', '.join(sorted(set(patients)))}). "
            "If these are more people, name a table with the columns patient, person and split with --split."
        )
    rest, test = train_test_split(list(persons), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    return _assignment(persons, rest, test)


def assign_fold(patients: Iterable[str], number: int, folds: int) -> Assignment:
    """Return a split whose test patients are fold 1, 2, ... of `folds`; each person is in exactly one fold.

    The other patients are divided into training and validation as in the published split.
    Raises: UserError when there are too few patients for so many folds.
    """
    persons = group_scans(patients)
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(list(persons)).tolist()
    test = shuffled[number - 1 :: folds]
    largest_fold = -(-len(shuffled) // folds)
    if folds > len(shuffled) or len(shuffled) - largest_fold < 2:  # training and validation need one each
        raise UserError(f"{len(shuffled)} patients are too few for {folds} folds. Use fewer folds or more patients.")
    return _assignment(persons, sorted(set(shuffled) - set(test)), test)


def _assignment(persons: dict[str, list[str]], rest: list[str], test: list[str]) -> Assignment:
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=SPLIT_SEED)
    groups = zip(SPLITS, (train, validation, test), strict=True)
    return {patient: split for split, group in groups for first in group for patient in persons[first]}


def read_assignment(path: Path, patients: Iterable[str], folder: Path) -> tuple[Assignment, list[str]]:
    """Read a saved split (CSV: patient, split, and person where ids do not say it) for the patients in `folder`.

    Returns: the assignment; and warnings about patients without a folder, and persons that only the file knows.
    Raises: UserError for an unreadable file, an unknown split, a patient named twice, a person in two splits, folders
        the file does not name.
    """
    rows = read_csv(path, ["patient", "split"])
    named, present = dict(zip(rows["patient"], rows["split"], strict=True)), sorted(set(patients))
    problems = []
    for row in rows.itertuples():
        if row.split not in SPLITS:
            problems.append(f"{path}, line {row.Index + 2}: {row.split!r} is no split. Use one of {', '.join(SPLITS)}.")
    for row in rows[rows["patient"].duplicated()].itertuples():
        problems.append(f"{path}, line {row.Index + 2}: {row.patient} is named twice. Remove one of the lines.")
    for patient in present:
        if patient not in named:
            problems.append(f"{folder / patient}: is not named in {path}. Add it there, or remove the folder.")
    persons, unknown, warnings = rows["patient"].map(person_of), [], []
    if "person" in rows:
        persons = rows["person"].where(rows["person"] != "", persons)
    for person, own in rows[rows["patient"].isin(present)].groupby(persons):
        if own["split"].nunique() > 1:
            several = ", ".join(own["patient"] + " in " + own["split"])
            remedy = "Assign a person to one split; if these are different people, say so in a column person."
            problems.append(f"{path}: scans of {person} are in several splits ({several}). {remedy}")
        if own["patient"].map(person_of).nunique() > 1:
            unknown.append(person)
    if problems:
        raise UserError(describe_problems(path, problems))
    if missing := sorted(named.keys() - set(present)):
        warnings.append(f"{path} names patients without a folder in {folder}, left out: {', '.join(missing)}")
    if unknown:
        warnings.append(
            f"the ids of {list_few(unknown)} do not say that their scans are of one person. The split keeps them "
            "together; intervals and radiogenomics.py count each scan. Name folders PERSON_ses-1, ..."
        )
    return {patient: named[patient] for patient in present}, warnings


def split_tables(table: pd.DataFrame, assignment: Assignment) -> dict[str, pd.DataFrame]:
    """Return the rows of each split, in the order of `table`."""
    split_of_row = table["patient"].map(assignment)
    return {split: table[split_of_row == split].reset_index(drop=True) for split in SPLITS}


def read_patient_list(path: Path) -> list[str]:
    """Read patient ids, one per line; blank lines, lines that begin with #, and the ; of spreadsheets are ignored."""
    try:
        lines = [line.strip().rstrip(";") for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Name a text file with one patient per line.") from None
    patients = [line for line in lines if line and not line.startswith("#")]
    if not patients:
        raise UserError(f"{path}: names no patient. Write one patient folder per line.")
    return sorted(set(patients))
