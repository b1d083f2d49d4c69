"""Facts about the published data set: its patients, its files, and what their ids and pixels tell."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from constants import FLAIR, POST, PRE

PATIENTS_FILE = Path(__file__).parents[1] / "lgg-mri-segmentation" / "patients.csv"  # id, slices, in_subset
MUTATION_FILE = PATIENTS_FILE.with_name("mutations.csv")  # genes of 106 patients, which the set itself does not hold
LABEL_FILE = "data.csv"  # genomic clusters and clinical codes, beside the patient folders
NESTED_COPIES = {"kaggle_3m", "lgg-mri-segmentation"}  # the Kaggle archive holds the whole set twice


def published_patients(subset: bool = False) -> dict[str, int]:
    """Return {patient: number of slices}: all 110 patients, or the 12 of the 100 MB run."""
    table = pd.read_csv(PATIENTS_FILE)
    if subset:
        table = table[table["in_subset"] == 1]
    return dict(zip(table["patient"], table["slices"].tolist(), strict=True))


def is_published(patients: Iterable[str]) -> bool:
    """Return whether every patient has an id of the published data set."""
    return set(patients) <= published_patients().keys()


def institution(patient: str) -> str:
    """Return the code of the hospital in an id such as TCGA_CS_4942_19970222; "unknown" for ids of another kind."""
    match = re.match(r"TCGA[_-]([A-Z0-9]{2})[_-]", patient)
    return match[1] if match else "unknown"


def sequences(images: np.ndarray) -> str:
    """Return which sequences were acquired of a patient: in place of a missing one the data set repeats FLAIR.

    images: uint8 [S, H, W, 3]; "unknown" if all are black.
    """
    if not images.any():
        return "unknown"
    lacks_pre, lacks_post = (np.array_equal(images[..., c], images[..., FLAIR]) for c in (PRE, POST))
    if lacks_pre and lacks_post:
        return "FLAIR only"
    return "no pre-contrast" if lacks_pre else "no post-contrast" if lacks_post else "all three"
