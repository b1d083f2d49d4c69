"""The table of a cohort: what is taken for whom, one row per patient. It is written, edited by the user, and read back.

A cell names a file or a folder; a pattern of file names; one DICOM series of a folder (folder#number or description);
or several files with | between them. Paths are relative to the folder of the table.
"""

import csv
import io
import os
from pathlib import Path

from constants import FLAIR
from scans import medical
from scans.items import Cohort, Item, Patient, find_items, is_pattern
from scans.names import COLUMNS, MASK, SHOWN, Kind, maker_of
from scans.read import open_array
from scans.scan import PICTURES, file_ending, safe_name, stem
from utils import UserError, is_unsafe_path, read_csv

HEADER = ("patient", *COLUMNS, "mask_of", "slices", "spacing", "unused", "notes")
MOST_LINES = 20  # of the table, printed


def to_table(cohort: Cohort, folder: Path) -> tuple[str, list[str]]:
    """Return the table of a cohort as CSV, and what headers say that is wrong. What is of no patient has rows as well.

    folder: of the table.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, HEADER, lineterminator="\n")
    table.writeheader()
    problems = []
    for patient in cohort.patients:
        row = {"patient": patient.name, "mask_of": mask_of(patient)}
        row |= {column: cell(patient.items[kind], folder) for column, kind in COLUMNS.items() if kind in patient.items}
        notes = list(patient.notes)
        if FLAIR in patient.items:
            try:
                slices, spacing = outline(patient.items[FLAIR])
                row |= {"slices": slices, "spacing": " x ".join(f"{size:.4g}" for size in spacing)}
            except Exception as error:  # libraries raise many kinds for a damaged file
                notes.append(f"cannot be read: {' '.join(str(error).split())}")
                problems.append(f"{patient.items[FLAIR].place}: {notes[-1]}")
        else:
            notes.append("no FLAIR: write its file into flair, or remove the line")
        row["unused"] = "; ".join(f"{cell(item, folder)} ({reason})" for item, reason in patient.unused)
        table.writerow(row | {"notes": "; ".join(notes)})
    for item, reason in cohort.unused:
        table.writerow({"unused": f"{cell(item, folder)} ({reason})"})
    return text.getvalue(), problems


def mask_of(patient: Patient) -> str:
    """Return whose the reference mask of a patient is, by its name; empty without one."""
    return maker_of(stem(patient.items[MASK].paths[0])) if MASK in patient.items else ""


def outline(item: Item) -> tuple[int, tuple[float, ...]]:
    """Return the slices of an item, and mm between rows, columns and slices as far as its headers say them."""
    ending = file_ending(item.paths[0])
    if not ending:
        return medical.outline_series(item.paths)
    if ending in PICTURES:
        return len(item.paths), ()
    return (len(open_array(item.paths[0])), ()) if ending == ".npy" else medical.outline(item.paths[0])


def describe(cohort: Cohort) -> list[str]:
    """Return the table in a few lines."""
    lines = []
    for patient in cohort.patients:
        taken = ", ".join(f"{SHOWN[kind]} {item.place.name}" for kind, item in patient.items.items())
        unused = f"; not used: {', '.join(item.place.name for item, _ in patient.unused)}" if patient.unused else ""
        lines.append(f"  {patient.name}: {taken}{unused}")
    lines += [f"  not used: {item.place} ({reason})" for item, reason in cohort.unused]
    return [*lines[:MOST_LINES], *([f"  and {more} more"] if (more := len(lines) - MOST_LINES) > 0 else [])]


def cell(item: Item, folder: Path) -> str:
    """Return an item as the cell of a table in a folder; see `read_cell`."""

    def path(place: Path) -> str:
        place, top = Path(os.path.abspath(place)), Path(os.path.abspath(folder))
        return safe_name(str(place.relative_to(top) if place.is_relative_to(top) else place))

    if item.series and not item.whole:
        return f"{path(item.place)}#{item.series.label}"
    if item.whole or item.alone:
        return path(item.place)
    ending = os.path.commonprefix([path.name[::-1] for path in item.paths])[::-1]  # noqa: RUF071
    if len(item.paths) > 1 and sorted(item.place.glob(f"*{ending}")) == sorted(item.paths):
        return f"{path(item.place)}/*{ending}"
    return "|".join(map(path, item.paths))


def read_cell(folder: Path, text: str, kind: Kind, name: str) -> Item:
    """Return what a cell of a table names. Raises: ValueError if it is not one stack of images, or of masks."""
    paths, series = [], ""
    for piece in map(str.strip, text.split("|")):
        place = folder / piece
        if not os.path.lexists(place) and "#" in piece:
            place, series = folder / piece.rpartition("#")[0], piece.rpartition("#")[2]
        paths += sorted(place.parent.glob(place.name)) if is_pattern(str(place)) else [place]
    if not paths:
        raise ValueError(f"{folder / text}: no file matches. Write another.")
    items = find_items(paths, {}, problems := [])
    items = [item for item in items if not item.reason]
    items = [item for item in items if not series or (item.series and series.lower() in item.series.names)]
    items = [item for item in items if (item.kind == MASK) == (kind == MASK)] or items
    if len(items) != 1:
        shown = ", ".join(cell(item, folder) for item in items)
        raise ValueError(problems[0] if problems else f"{folder / text}: is {len(items)} stacks ({shown}). Write one.")
    return items[0]._replace(kind=kind, name=name)


def read_table(table: Path, problems: list[str]) -> list[Patient]:
    """Return the patients in a CSV file; adds to the problems.

    One row per patient: patient, flair and, if wanted, pre, post and mask, whose cells may be empty. A row without a
    patient says what is not used.
    """
    try:
        rows = read_csv(table, [])
        if missing := [column for column in ("patient", "flair") if column not in rows]:
            raise UserError(f"{table}: has no column {', '.join(missing)}. Expected patient,flair,pre,post,mask.")
    except UserError as error:
        problems.append(str(error))
        return []
    patients: list[Patient] = []
    for line, row in zip(rows.index + 2, rows.to_dict("records"), strict=True):
        name = safe_name(row["patient"])
        filled = {kind: row[column] for column, kind in COLUMNS.items() if row.get(column)}
        if not name and not filled:
            continue
        try:
            if not name or is_unsafe_path(name) or "/" in name or "\\" in name or name.startswith("."):
                raise ValueError(f"{name!r} cannot be the name of a folder. Write another.")
            if name.lower() in [patient.name.lower() for patient in patients]:
                raise ValueError(f"{name} is named twice. Remove one of the lines.")
            if FLAIR not in filled:
                raise ValueError(f"{name} has no FLAIR. Write its file into flair, or remove the line.")
            patients.append(
                Patient(name, {kind: read_cell(table.parent, text, kind, name) for kind, text in filled.items()})
            )
        except ValueError as error:
            problems.append(f"{table}, line {line}: {error}")
    return patients
