"""Read genomic subtypes and grades of patients from tables of labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from dataset.published import LABEL_FILE, MUTATION_FILE, is_published
from utils import UserError, list_few, read_csv

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
    **(GENES := {name: f"{name} status" for name in ("ATRX", "TP53", "CIC", "FUBP1")}),  # not of the family of tests
}
MISSING = re.compile(  # words for a missing label, in small letters and without signs: "na" is N/A, "" is --
    r"|na|nan|nd|none|null|missing|unk|un(known|available)|"
    r"not(available|reported|applicable|known|evaluated|determined|done|tested|assessed)"
)
LOOKS_MISSING = re.compile(  # other words of this kind: the user is asked
    r"^[^a-z0-9]+$|^\[|known|available|report|missing|evalua|determin|pending|unclear|inconclusive|equivocal|discrepan"
)
SAME = {"wt": "wildtype", "mut": "mutant", "mutated": "mutant"}
DATED = re.compile(r"((?:TCGA|SYNTH)_\w\w_\w{4})_\d{8}")  # a folder of the set, whose published labels lack the date
HOW_TO_LABEL = f"A table of labels has a column Patient and one or more of {', '.join(LABELS)}."


def default_label_files(folder: Path, patients: Iterable[str]) -> list[Path]:
    """Return the table beside the patient folders and, for patients of the published set, the one of mutations."""
    table = folder / LABEL_FILE
    if not table.is_file():
        raise UserError(
            f"{table}: no such file. download_data.py and python -m dataset.synthetic write it; or name a table with "
            f"--labels. {HOW_TO_LABEL}"
        )
    return [table, MUTATION_FILE] if is_published(pd.DataFrame({"patient": list(patients)})) else [table]


def read_labels(files: Iterable[Path], patients: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read tables of labels; one may fill in what is missing in another.

    Returns: the labels (index: `patients`; columns: those of LABELS that a file has; text or NaN), and sentences on
        words taken for missing, spellings taken for one label, ids whose zeros were restored, and ids that did not fit.
    Raises: UserError if a file cannot be used, two labels of a patient differ, a label looks like a word for missing,
        or no patient has any.
    """
    patients, tables = list(patients), []
    ids = {normalise_id(patient) for patient in patients}
    for path in files:
        table = read_csv(path, []).rename(columns=lambda name: "Patient" if name.lower() == "patient" else name)
        columns = [column for column in LABELS if column in table]
        if "Patient" not in table or not columns:
            raise UserError(f"{path}: has no column {'of labels' if 'Patient' in table else 'Patient'}. {HOW_TO_LABEL}")
        table = table.loc[table["Patient"] != "", ["Patient", *columns]]
        tables.append(table.assign(path=path, id=table["Patient"].map(normalise_id)))
    table = pd.concat(tables, ignore_index=True)
    table["id"], notes = restore_zeros(table["id"], ids)
    fits = table["id"].isin(ids)
    if not fits.any():
        shown = " and ".join(map(str, files))
        raise UserError(f"{shown}: names none of the {len(patients)} patients, such as {patients[0]}. {HOW_TO_LABEL}")
    notes, labels = [*notes, *describe_ids(table, fits, patients)], {}
    for column in (column for column in LABELS if column in table):
        known, column_notes = read_column(table[fits], column)
        labels[column] = [known.get(normalise_id(patient)) for patient in patients]
        notes += column_notes
    return pd.DataFrame(labels, index=patients, dtype=object), notes


def read_column(rows: pd.DataFrame, column: str) -> tuple[dict[str, str], list[str]]:
    """Return {id: label} and sentences on a column of labels; rows: path, Patient, id and the column."""
    missing, spellings = Counter(), defaultdict(Counter)
    keys: dict[str, str] = {}  # {id: what spellings of its label share}
    for path, patient, patient_id, word in rows[["path", "Patient", "id", column]].fillna("").itertuples(index=False):
        word = re.sub(r"^(\d+)[.,]0+$", r"\1", word.strip())  # pandas makes 2.0 of a 2 in a column with blanks
        if MISSING.fullmatch(re.sub(r"[^a-z0-9+]", "", word.lower())):
            missing[word] += bool(word)
            continue
        if LOOKS_MISSING.search(word.lower()):
            about = f"{path}: the {column} {word!r} of {patient} looks like a word for missing"
            raise UserError(f"{about}. Leave such cells empty, or rename the group.")
        key = label_key(word)
        spellings[key][word] += 1
        if keys.setdefault(patient_id, key) != key:
            other = spellings[keys[patient_id]].most_common(1)[0][0]
            raise UserError(f"{path}: {patient} has the {column} {word!r}, and {other!r} elsewhere. Correct one.")
    notes = [f"{column}: taken for missing: {list_counts(missing)}"] if any(missing) else []
    labels = {key: key if key in SAME.values() else words.most_common(1)[0][0] for key, words in spellings.items()}
    for key, words in spellings.items():
        if words.keys() != {labels[key]}:
            notes.append(f"{column}: taken for {labels[key]}: {list_counts(words)}")
    return {patient_id: labels[key] for patient_id, key in keys.items()}, notes


def restore_zeros(named: pd.Series, ids: set[str]) -> tuple[pd.Series, list[str]]:
    """Return the ids of a table with the leading zeros that a spreadsheet took (12 for 0012), and a sentence on it.

    An id is completed only where it fits no patient as it is, and exactly one without the zeros.
    """
    by_number, full = defaultdict(list), {}
    for patient in sorted(ids):
        by_number[patient.lstrip("0")].append(patient)
    for text in dict.fromkeys(named):
        fitting = by_number[text.lstrip("0")]
        if text.isdecimal() and text not in ids and len(fitting) == 1:
            full[text] = fitting[0]
    examples = list_few([f"{text} for {patient}" for text, patient in full.items()])
    return named.replace(full), [f"leading zeros restored in {len(full)} ids: {examples}"] if full else []


def describe_ids(table: pd.DataFrame, fits: pd.Series, patients: list[str]) -> list[str]:
    """Return sentences on patients without a row and, if there are any, on the rows that fit nobody."""
    named, unmatched = set(table["id"]), table.loc[~fits, "Patient"].tolist()
    if not (lacking := [patient for patient in patients if normalise_id(patient) not in named]):
        return []
    notes = [f"no row for {len(lacking)} of {len(patients)} patients: {list_few(lacking)}"]
    return notes + ([f"{len(unmatched)} rows fit none of the patients: {list_few(unmatched)}"] if unmatched else [])


def list_counts(words: Mapping[str, int]) -> str:
    return ", ".join(f"{word} ({n})" for word, n in words.items() if n)


def label_key(word: str) -> str:
    """Return what spellings of one label share: Wild-type, wildtype and WT are "wildtype"."""
    key = re.sub(r"[\s_-]", "", word.casefold())
    return SAME.get(key, key)


def normalise_id(patient: str) -> str:
    """Return an id with underscores, TCGA's without its date: TCGA-CS-4941, TCGA_CS_4941_19960909 -> TCGA_CS_4941."""
    name = patient.strip().replace("-", "_")
    return match[1] if (match := DATED.fullmatch(name)) else name
