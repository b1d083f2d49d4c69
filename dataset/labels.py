"""Read genomic subtypes and grades of patients from tables of labels."""

import re
from collections import Counter
from collections.abc import Iterable
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
LOOKS_MISSING = (  # other words of this kind: the user is asked
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
    return [table, MUTATION_FILE] if is_published(patients) else [table]


def read_labels(files: Iterable[Path], patients: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read tables of labels; one may fill in what is missing in another.

    Returns: the labels (index: `patients`; columns: those of LABELS that a file has; text or NaN), and sentences on
        words taken for missing, spellings taken for one label, ids whose zeros were restored, and ids that did not fit.
    Raises: UserError if a file cannot be used, two labels of a patient differ, a label looks like a word for missing,
        or no patient has any.
    """
    ids = {patient: normalise_id(patient) for patient in patients}
    tables = []
    for path in files:
        table = read_csv(path, []).rename(columns=lambda name: "Patient" if name.lower() == "patient" else name)
        columns = [column for column in LABELS if column in table]
        if "Patient" not in table or not columns:
            raise UserError(f"{path}: has no column {'of labels' if 'Patient' in table else 'Patient'}. {HOW_TO_LABEL}")
        table = table.loc[table["Patient"] != "", ["Patient", *columns]]
        tables.append(table.assign(path=path, id=table["Patient"].map(normalise_id)))
    table = pd.concat(tables, ignore_index=True)
    short = Counter(own.lstrip("0") for own in ids.values())
    full = {own.lstrip("0"): own for own in ids.values() if own.isdecimal() and short[own.lstrip("0")] == 1}
    lost = table["id"].isin(full.keys() - set(ids.values()))  # leading zeros, which a spreadsheet took
    table.loc[lost, "id"] = table.loc[lost, "id"].map(full)
    fits = table["id"].isin(ids.values())
    if not fits.any():
        shown = " and ".join(map(str, files))
        raise UserError(f"{shown}: names none of the {len(ids)} patients, such as {next(iter(ids))}. {HOW_TO_LABEL}")
    labels, notes = {}, []
    if lost.any():
        restored = list_few((table["Patient"] + " for " + table["id"])[lost].unique().tolist())
        notes.append(f"leading zeros restored in {lost.sum()} ids: {restored}")
    if lacking := [patient for patient, own in ids.items() if own not in set(table["id"])]:
        notes.append(f"no row for {len(lacking)} of {len(ids)} patients: {list_few(lacking)}")
        if unmatched := table.loc[~fits, "Patient"].tolist():
            notes.append(f"{len(unmatched)} rows fit none of the patients: {list_few(unmatched)}")
    for column in (column for column in LABELS if column in table):
        known, column_notes = read_column(table[fits], column)
        labels[column] = [known.get(own) for own in ids.values()]
        notes += column_notes
    return pd.DataFrame(labels, index=list(ids), dtype=object), notes


def read_column(rows: pd.DataFrame, column: str) -> tuple[dict[str, str], list[str]]:
    """Return {id: label} and sentences on a column of labels; rows: path, Patient, id and the column.

    Spellings of a label (Wild-type, wildtype, WT) become the most common one, those of SAME its own word.
    """
    words = rows[column].fillna("").str.strip()
    words = words.str.replace(r"^(\d+)[.,]0+$", r"\1", regex=True)  # pandas makes 2.0 of a 2 in a column with blanks
    where = rows["path"].astype(str) + ": " + rows["Patient"] + f" has the {column} " + words.map(repr)
    missing = words.str.lower().str.replace(r"[^a-z0-9+]", "", regex=True).str.fullmatch(MISSING)
    if (asked := words.str.lower().str.contains(LOOKS_MISSING) & ~missing).any():
        remedy = "which looks like a word for missing. Leave such cells empty, or rename the group."
        raise UserError(f"{where[asked].iloc[0]}, {remedy}")
    keys = words[~missing].str.casefold().str.replace(r"[\s_-]", "", regex=True).replace(SAME)
    usual = {key: own.value_counts().index[0] for key, own in words[~missing].groupby(keys)}
    labels = keys.map(usual | {word: word for word in SAME.values()})
    first = labels.groupby(rows["id"]).transform("first")
    if (other := labels != first).any():
        raise UserError(f"{where[labels.index][other].iloc[0]}, and {first[other].iloc[0]!r} elsewhere. Correct one.")
    taken_for = labels.reindex(words.index, fill_value="missing")
    notes = []
    for label, own in words[(words != "") & (words != taken_for)].groupby(taken_for, sort=False):
        counts = ", ".join(f"{word} ({number})" for word, number in own.value_counts(sort=False).items())
        notes.append(f"{column}: taken for {label}: {counts}")
    return dict(zip(rows["id"][labels.index], labels, strict=True)), notes


def normalise_id(patient: str) -> str:
    """Return an id with underscores, TCGA's without its date: TCGA-CS-4941, TCGA_CS_4941_19960909 -> TCGA_CS_4941."""
    name = patient.strip().replace("-", "_")
    return match[1] if (match := DATED.fullmatch(name)) else name
