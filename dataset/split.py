"""Split by patient into training, validation and test; slices of one patient never part."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from constants import SPLIT_SEED, TEST_SHARE, VALIDATION_SHARE
from utils import UserError, describe_problems, read_csv

SPLITS = ("train", "validation", "test")
Assignment = dict[str, str]  # {patient: one of SPLITS}


def assign_patients(patients: Iterable[str]) -> Assignment:
    """Return the published split; it depends on the set of ids alone. Needs at least three patients."""
    from sklearn.model_selection import train_test_split  # its import takes a second, which predictions do without

    rest, test = train_test_split(sorted(set(patients)), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    return _assignment(rest, test)


def assign_fold(patients: Iterable[str], number: int, folds: int) -> Assignment:
    """Return a split whose test patients are fold 1, 2, ... of `folds`; each patient is in exactly one fold.

    The other patients are divided into training and validation as in the published split.
    Raises: UserError when there are too few patients for so many folds.
    """
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(sorted(set(patients))).tolist()
    test = shuffled[number - 1 :: folds]
    largest_fold = -(-len(shuffled) // folds)
    if folds > len(shuffled) or len(shuffled) - largest_fold < 2:  # training and validation need one each
        raise UserError(f"{len(shuffled)} patients are too few for {folds} folds. Use fewer folds or more patients.")
    return _assignment(sorted(set(shuffled) - set(test)), test)


def _assignment(rest: list[str], test: list[str]) -> Assignment:
    from sklearn.model_selection import train_test_split

    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=SPLIT_SEED)
    groups = zip(SPLITS, (train, validation, test), strict=True)
    return {patient: split for split, group in groups for patient in group}


def read_assignment(path: Path, patients: Iterable[str], folder: Path) -> tuple[Assignment, list[str]]:
    """Read a saved split (CSV with the columns patient and split) for the patients that are in `folder`.

    Returns: the assignment, and the patients that the file names but that have no folder.
    Raises: UserError for an unreadable file, an unknown split, a patient named twice, folders the file does not name,
        or no patient left for training or validation.
    """
    rows = read_csv(path, ["patient", "split"])
    problems = []
    named: Assignment = {}
    for line, patient, split in zip(rows.index + 2, rows["patient"], rows["split"], strict=True):
        if split not in SPLITS:
            problems.append(f"{path}, line {line}: {split!r} is no split. Use one of {', '.join(SPLITS)}.")
        elif patient in named:
            problems.append(f"{path}, line {line}: {patient} is named twice. Remove one of the lines.")
        else:
            named[patient] = split
    present = sorted(set(patients))
    problems += [
        f"{folder / patient}: is not named in {path}. Add it there, or remove the folder."
        for patient in present
        if patient not in named
    ]
    assignment = {patient: named[patient] for patient in present if patient in named}
    if not problems:
        problems += [
            f"{path}: leaves no patient with a folder for {split}. Assign at least one."
            for split in ("train", "validation")
            if split not in assignment.values()
        ]
    if problems:
        raise UserError(describe_problems(path, problems))
    return assignment, sorted(named.keys() - set(present))


def split_tables(table: pd.DataFrame, assignment: Assignment) -> dict[str, pd.DataFrame]:
    """Return the rows of each split, in the order of `table`."""
    split_of_row = table["patient"].map(assignment)
    return {split: table[split_of_row == split].reset_index(drop=True) for split in SPLITS}


def read_patient_list(path: Path) -> list[str]:
    """Read patient ids, one per line; blank lines, lines that begin with #, and the ; of spreadsheets are ignored."""
    try:
        lines = [line.strip().rstrip(";") for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Name a text file with one patient per line.") from None
    patients = [line for line in lines if line and not line.startswith("#")]
    if not patients:
        raise UserError(f"{path}: names no patient. Write one patient folder per line.")
    return sorted(set(patients))
