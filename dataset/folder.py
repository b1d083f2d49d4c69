"""Find the slices of a data folder and check that images and masks belong together."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import constants
from dataset.published import NESTED_COPIES
from dataset.slices import COLUMNS
from dataset.synthetic import write_patients
from utils import UserError, describe_problems

TIFF = (".tif", ".tiff")
GRID = "grid.json"  # beside the slices of a patient, by import_data.py: their spacing, affine and source
HOW_TO_GET = (
    "Run download_data.py to get the data set, name the folder kaggle_3m of a copy with --data, or leave --data out to "
    "run on synthetic patients."
)


def find_folder(path: str | None, trained_on: str | None = None) -> Path:
    """Return the folder that holds the patient folders: `path`, or the kaggle_3m in it.

    Without a path: the folder that a run was trained on; or the real data set if it is in its default place, else
    synthetic patients, made when first needed.
    """
    if path is None and trained_on is not None:
        if not Path(trained_on).is_dir():
            raise UserError(f"{trained_on}: the data of the run are gone from there. Name their folder with --data.")
        path = trained_on
    if path is None:
        if constants.DATA_DIR.is_dir():
            return constants.DATA_DIR
        if constants.DATA_DIR.is_symlink():
            raise UserError(f"{constants.DATA_DIR}: a link to a folder that is gone. Restore it, or remove the link.")
        write_patients(constants.SYNTHETIC_DIR)
        return constants.SYNTHETIC_DIR
    folder = Path(path)
    inner = folder / "kaggle_3m"
    return inner if inner.is_dir() else folder


def find_slices(folder: Path, only: Iterable[str] | None = None) -> pd.DataFrame:
    """Return every slice with its mask: patient, image_path, mask_path (relative to `folder`, POSIX).

    Patients are sorted by name, slices by number. Only the patient folders themselves are searched, nothing deeper.
    The name of a folder is the patient's id, as text and unchanged: "001", "NA".

    only: the patients to use; all if None.
    Raises: UserError that lists every problem of the folder; load_slices finds damaged files.
    """
    entries = (entry for entry in folder.iterdir() if entry.is_dir() or not entry.exists())  # or a link to nothing
    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    present = [name for name in names if name not in NESTED_COPIES | constants.JUNK_FOLDERS]
    patients = present if only is None else sorted(set(only))
    pairs = {patient: _pair_files(folder, patient) for patient in patients}
    if not any(paired or problems for paired, problems in pairs.values()):
        raise UserError(explain_empty(folder))
    rows, problems = [], []
    for patient, (paired, unpaired) in pairs.items():
        rows += paired
        problems += unpaired
        if not (paired or unpaired):
            problems.append(
                f"{folder / patient}: holds no slices named {patient}_NUMBER.tif. Restore them, or move the folder "
                "elsewhere."
            )
    if problems:
        raise UserError(describe_problems(folder, problems))
    return pd.DataFrame(rows, columns=COLUMNS)


def read_spacings(folder: Path, patients: Iterable[str]) -> dict[str, tuple[float, float, float]] | None:
    """Return the spacing of each patient's slices; None unless it is known of all. Raises: UserError."""
    spacing = {patient: read_spacing(folder / patient) for patient in dict.fromkeys(patients)}
    return spacing if all(spacing.values()) else None


def read_spacing(folder: Path) -> tuple[float, float, float] | None:
    """Return mm between rows, columns and slices of a patient's slices, where GRID says it. Raises: UserError."""
    try:
        rows, columns, slices = json.loads((folder / GRID).read_text(encoding="utf-8"))["spacing"]
        return float(rows), float(columns), float(slices)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{folder / GRID}: is damaged. Restore it, or remove it: areas are then in pixels.") from None


def explain_empty(folder: Path) -> str:
    """Return what a folder looks like in which no patient folder holds slices, and the remedy."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    if slices := [path for path in files if path.name.lower().endswith(TIFF)]:
        return (
            f"{folder}: holds no patient folders; they are in {slices[0].absolute().parents[1]}. Name it with --data."
        )
    if scans := [path for path in files if path.parent != folder]:
        return (
            f"{folder}: holds scans such as {scans[0].relative_to(folder)}, not the slices that training reads "
            "(PATIENT/PATIENT_NUMBER.tif). import_data.py makes these of scans and masks, predict_model.py segments "
            "scans, score_masks.py scores masks."
        )
    return f"{folder}: holds no patient folders. {HOW_TO_GET}"


def _pair_files(folder: Path, patient: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Return (rows of the table, problems) of one patient, sorted by slice number."""
    pattern = re.compile(re.escape(patient) + r"_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)
    images, masks, problems = {}, {}, []  # images and masks: {number: name}
    try:
        names = sorted(entry.name for entry in (folder / patient).iterdir())
    except OSError as error:
        remedy = "Restore it, change its permissions, or leave the patient out."
        return [], [f"{folder / patient}: cannot be read ({error.strerror}). {remedy}"]
    for name in names:
        if name.startswith(".") or not name.lower().endswith(TIFF):
            continue
        path = folder / patient / name
        if not (match := pattern.fullmatch(name)):
            expected = f"{patient}_NUMBER.tif or {patient}_NUMBER_mask.tif"
            problems.append(f"{path}: not named like a slice of this patient. Rename it to {expected}, or remove it.")
        elif (first := (masks if match["mask"] else images).setdefault(int(match["number"]), name)) != name:
            problems.append(f"{path}: the same slice as {first}, number {match['number']}. Remove one.")
    for ending, these, others in (("mask", images, masks), ("image", masks, images)):
        for number in sorted(these.keys() - others.keys()):
            problems.append(f"{folder / patient / these[number]}: has no {ending}. Restore the one of slice {number}.")
    paired = sorted(images.keys() & masks.keys())
    return [(patient, f"{patient}/{images[n]}", f"{patient}/{masks[n]}") for n in paired], problems
