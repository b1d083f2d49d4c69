"""Synthetic patients on disk in the layout of the Kaggle LGG set, so that every script runs without real data."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from constants import SYNTHETIC_PATIENTS, SYNTHETIC_SEED
from dataset.labels import SYNTHETIC_LABEL, key
from dataset.new_folder import FolderInUse, new_folder
from dataset.phantom import choose_kind, make_patient
from dataset.published import LABEL_FILE
from utils import UserError

PREFIX = "SYNTH"  # the real ids begin with TCGA
FORMAT = 2  # raise it when a seed begins to give other images: older folders are then refused
STAMP = "phantom.json"  # what a folder of synthetic patients was made from; written last
PAUSE = 0.2  # seconds, before a folder that another process is making is looked at again
README = """SYNTHETIC DATA - NOT PATIENTS

This project drew these images from random numbers: {patients} made-up patients, seed {seed}, format {format}.
No pixel comes from a real scan. They exist so that the pipeline can be run and tested; a score reached
on them says nothing about real gliomas. The layout is that of the Kaggle LGG segmentation set.
{labels} gives each of them a made-up subtype: the outline of an irregular tumour was drawn more irregular.
"""


def is_synthetic(patient: str) -> bool:
    """Return whether a patient id was made by this module; no TCGA id can be."""
    return patient.startswith(f"{PREFIX}_")


def any_synthetic(table: pd.DataFrame) -> bool:
    """Return whether any patient of a table is synthetic."""
    return any(map(is_synthetic, table["patient"].unique()))


def patient_name(number: int) -> str:
    """Return the id of synthetic patient 1, 2, ..."""
    return f"{PREFIX}_XX_{number:04d}_20000101"


def write_patient(folder: Path, seed: int, number: int) -> int:
    """Write one patient's folder of TIFFs into `folder`. Returns the number of slices."""
    patient = patient_name(number)
    (folder / patient).mkdir()
    images, masks = make_patient(seed, number)
    for n, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        (folder / patient / f"{patient}_{n}.tif").write_bytes(to_tiff(image))
        (folder / patient / f"{patient}_{n}_mask.tif").write_bytes(to_tiff(mask * 255))
    return len(images)


def to_tiff(pixels: np.ndarray) -> bytes:
    """Return pixels as an uncompressed TIFF. In memory, since Pillow does not say why a file cannot be written."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "TIFF")
        return file.getvalue()


def label_table(patients: int, seed: int) -> str:
    """Return the subtype of each patient, laid out as the real table of labels."""
    rows = [f"{key(patient_name(n))};{choose_kind(seed, n).subtype}" for n in range(1, patients + 1)]
    return "\n".join([f"Patient;{SYNTHETIC_LABEL}", *rows, ""])


def write_patients(folder: str | Path, patients: int = SYNTHETIC_PATIENTS, seed: int = SYNTHETIC_SEED) -> bool:
    """Write a set of patients as FOLDER/<patient>/<patient>_<n>.tif and _<n>_mask.tif, unless it is there already.

    The set is built beside `folder` and renamed when complete; where another process is making it, it is waited for.
    Returns whether anything was written.
    Raises: UserError if `folder` holds anything but this very set, or no set can have this size; OSError as of
        `new_folder`.
    """
    if patients < 1 or seed < 0:
        raise UserError(f"{patients} patients from seed {seed}: need at least 1 patient and a seed from 0 up.")
    folder = Path(folder).resolve()
    made_from = {"format": FORMAT, "patients": patients, "seed": seed}
    while not _holds(folder, made_from):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"{folder}: holds something other than the {patients} synthetic patients of seed {seed}. "
                "Remove it or name another folder."
            )
        try:
            with new_folder(folder) as built:
                if folder.exists() and any(folder.iterdir()):  # finished by another process since it was looked at
                    raise FolderInUse(str(folder))
                slices = sum(write_patient(built, seed, number) for number in range(1, patients + 1))
                (built / LABEL_FILE).write_text(label_table(patients, seed), encoding="utf-8")
                (built / "README.txt").write_text(README.format(**made_from, labels=LABEL_FILE), encoding="utf-8")
                (built / STAMP).write_text(json.dumps(made_from | {"slices": slices}) + "\n", encoding="utf-8")
            return True
        except FolderInUse:
            time.sleep(PAUSE)
    return False


def _holds(folder: Path, made_from: dict) -> bool:
    """Return whether `folder` is a complete set made from these values, with nothing else but hidden files in it."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = {patient_name(number) for number in range(1, made_from["patients"] + 1)}
    names |= {STAMP, LABEL_FILE, "README.txt"}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    files = sum(1 for _ in folder.glob("*/*.tif"))
    return stamp == made_from | {"slices": files // 2} and found == names and files % 2 == 0
