"""Read genomic subtypes and grades of patients from tables of labels."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dataset.published import IDH_FILE, LABEL_FILE, is_published
from utils import UserError, describe_problems, parse_csv

SYNTHETIC_LABEL = "SyntheticSubtype"  # of patients that this project draws
LABELS = {  # columns that are tested, in this order, with their titles
    "RNASeqCluster": "RNASeq cluster",
    "MethylationCluster": "Methylation cluster",
    "miRNACluster": "miRNA cluster",
    "CNCluster": "Copy number cluster",
    "RPPACluster": "RPPA cluster",
    "OncosignCluster": "OncoSign cluster",
    "COCCluster": "Cluster of clusters",
    "IDH": "IDH status",
    "neoplasm_histologic_grade": "Grade (code)",
    SYNTHETIC_LABEL: "Synthetic subtype",
}
BLANK = {"", "na", "nan"}
DATE = re.compile(r"_\d{8}$")  # at the end of a patient's folder, but not of the published labels
HOW_TO_LABEL = f"A table of labels has a column Patient and one or more of {', '.join(LABELS)}."


def default_label_files(folder: Path, patients: Iterable[str]) -> list[Path]:
    """Return the table beside the patient folders and, for patients of the published set, the one of IDH status.

    Raises: UserError if there is no table beside them.
    """
    beside = folder / LABEL_FILE
    if not beside.is_file():
        raise UserError(
            f"{beside}: no such file. download_data.py and python -m dataset.synthetic write it; or name a table with "
            f"--labels. {HOW_TO_LABEL}"
        )
    return [beside, IDH_FILE] if is_published(pd.DataFrame({"patient": list(patients)})) else [beside]


def read_labels(files: Iterable[Path], patients: Iterable[str]) -> pd.DataFrame:
    """Return the labels of the patients: index their ids, those of LABELS that a file has as columns, text or NaN.

    A patient without labels has NaN. Several files are joined; one may fill in what is blank in another.

    Raises: UserError if a file cannot be used, two labels of a patient differ, or no patient has any.
    """
    patients = list(patients)
    labels: dict[str, dict[str, str]] = {}  # column: {normalised id: label}
    ids, problems = set(), []
    for path in files:
        table, id_column = read_table(path)
        columns = [column for column in LABELS if column in table]
        if not columns:
            raise UserError(f"{path}: has no column of labels. {HOW_TO_LABEL}")
        ids |= set(table[id_column].map(normalise_id))
        for column in columns:
            known = labels.setdefault(column, {})
            for patient, label in zip(table[id_column], table[column].map(clean_label), strict=True):
                if label and (first := known.setdefault(normalise_id(patient), label)) != label:
                    problems.append(
                        f"{path}: {patient} has the {column} {label!r}, and {first!r} elsewhere. Correct one."
                    )
    shown = " and ".join(map(str, files))
    if problems:
        raise UserError(describe_problems(shown, problems))
    if ids.isdisjoint(map(normalise_id, patients)):
        raise UserError(f"{shown}: names none of the {len(patients)} patients, such as {patients[0]}. {HOW_TO_LABEL}")
    columns = {
        column: [labels[column].get(normalise_id(patient)) for patient in patients]
        for column in LABELS
        if column in labels
    }
    return pd.DataFrame(columns, index=patients, dtype=object)


def read_table(path: Path) -> tuple[pd.DataFrame, str]:
    """Return a CSV file with commas or semicolons as text, and the name of its column of patients."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {HOW_TO_LABEL}") from None
    header = re.findall(r"\w+", content.split(b"\n", 1)[0].decode(errors="replace"))
    id_column = next((name for name in header if name.lower() == "patient"), "Patient")
    return parse_csv(content, path, [id_column]), id_column


def normalise_id(patient: str) -> str:
    """Return an id with underscores and without its date: TCGA-CS-4941, TCGA_CS_4941_19960909 -> TCGA_CS_4941."""
    return DATE.sub("", patient.strip().replace("-", "_"))


def clean_label(text: str) -> str:
    """Return a label, "" if it is blank; 2.0, to which pandas turns a 2 in a column with blanks, is 2."""
    text = text.strip()
    return "" if text.lower() in BLANK else re.sub(r"^(\d+)\.0$", r"\1", text)
