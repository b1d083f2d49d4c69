"""The table of a cohort, one row per patient: written, edited by the user, and read back.

A cell names a file or a folder; a pattern of file names; one DICOM series of a folder (folder#number or description);
or several files with | between them. Paths are relative to the folder of the table.
"""

import os
import re
from pathlib import Path
from typing import Any

from constants import FLAIR
from scans import medical
from scans.items import RESTORE, Cohort, Item, Patient, find_items
from scans.names import COLUMNS, MASK, SHOWN, Kind, is_pattern
from scans.read import open_array
from scans.scan import PICTURES, file_ending, safe_name
from utils import UserError, list_few, read_csv, to_csv, write_text

MASK_OF = "mask_of"
HEADER = ("patient", *COLUMNS, MASK_OF, "slices", "spacing", "unused", "notes")
MOST_LINES = 20  # of the table, printed


def write_list(table: Path, cohort: Cohort) -> list[str]:
    """Write the table of --list, and print it in short. Return what is wrong."""
    text, problems = to_table(cohort, table.parent)
    write_text(table, text)
    print("\n".join([*describe(cohort), f"written to {table}: edit it, and name it as the input"]))
    return cohort.problems + problems


def to_table(cohort: Cohort, folder: Path) -> tuple[str, list[str]]:
    """Return the table of a cohort in a folder as CSV, and what headers say that is wrong.

    What is of no patient has rows as well.
    """
    import pandas as pd

    rows, problems = [], []
    for patient in cohort.patients:
        row, notes = to_row(patient, folder), list(patient.notes)
        if gone := [path for item in patient.items.values() for path in item.paths if not path.exists()]:
            notes.append(f"gone: {list_few([path.name for path in gone])}")
            problems.append(f"{gone[0]}: is gone, or a link that leads nowhere. {RESTORE}")
        if FLAIR not in patient.items:
            notes.append("no FLAIR: write its file into flair, or remove the line")
        elif not {*gone} & {*patient.items[FLAIR].paths}:
            try:
                row["slices"], spacing = outline(patient.items[FLAIR])
                row["spacing"] = " x ".join(f"{size:.4g}" for size in spacing)
            except Exception as error:  # libraries raise many kinds for a damaged file
                notes.append(f"cannot be read: {' '.join(str(error).split())}")
                problems.append(f"{patient.items[FLAIR].place}: {notes[-1]}")
        rows.append(row | {"notes": "; ".join(notes)})
    rows += [{"unused": list_unused([item], folder)} for item in cohort.unused]
    return to_csv(pd.DataFrame(rows, columns=HEADER, dtype=object)), problems


def to_row(patient: Patient, folder: Path) -> dict[str, Any]:
    """Return what a table in a folder says of a patient: files, whose mask, and what is not used."""
    row = {column: cell(patient.items[kind], folder) for column, kind in COLUMNS.items() if kind in patient.items}
    if MASK in patient.items:
        row[MASK_OF] = patient.items[MASK].maker
    return {"patient": patient.name, **row, "unused": list_unused(patient.unused, folder)}


def list_unused(items: list[Item], folder: Path) -> str:
    """Return the cell of what is not used, each with its reason."""
    return "; ".join(f"{cell(item, folder)} ({item.reason})" for item in items)


def outline(item: Item) -> tuple[int, tuple[float, ...]]:
    """Return the slices of an item, and mm between rows, columns and slices as far as its headers say them."""
    ending = file_ending(item.paths[0])
    if ending in PICTURES:
        return len(item.paths), ()
    return (len(open_array(item.paths[0])), ()) if ending == ".npy" else medical.outline(item.paths)


def describe(cohort: Cohort) -> list[str]:
    """Return the table in a few lines."""
    lines = []
    for patient in cohort.patients:
        left = f"; not used: {', '.join(item.place.name for item in patient.unused)}" if patient.unused else ""
        lines.append(f"  {patient.name}: {shown_items(patient)}{left}")
    lines += [f"  not used: {item.place} ({item.reason})" for item in cohort.unused]
    return [*lines[:MOST_LINES], *([f"  and {more} more"] if (more := len(lines) - MOST_LINES) > 0 else [])]


def shown_items(patient: Patient) -> str:
    """Return which file is taken as which sequence of a patient."""
    return ", ".join(f"{SHOWN[kind]} {item.place.name}" for kind, item in patient.items.items())


def cell(item: Item, folder: Path) -> str:
    """Return an item as the cell of a table in a folder; see `read_cell`."""

    def path(place: Path) -> str:
        place, top = Path(os.path.abspath(place)), Path(os.path.abspath(folder))
        return safe_name(str(place.relative_to(top) if place.is_relative_to(top) else place))

    if item.series and not item.whole:
        return f"{path(item.place)}#{item.series.label}"
    if item.whole or item.alone:
        return path(item.place)
    begin, ending = (os.path.commonprefix([path.name[::n] for path in item.paths])[::n] for n in (1, -1))  # noqa: RUF071
    pattern = f"{begin}*{ending}"
    fits = len(item.paths) > 1 and sorted(item.place.glob(pattern)) == sorted(item.paths)
    return f"{path(item.place)}/{pattern}" if fits else "|".join(map(path, item.paths))


def read_cell(folder: Path, text: str, kind: Kind, name: str) -> Item:
    """Return what a cell of a table names. Raises: UserError if it is not one stack of images, or of masks."""
    paths, series = [], ""
    for piece in map(str.strip, text.split("|")):
        place = folder / piece
        if not os.path.lexists(place) and "#" in piece:
            place, series = folder / piece.rpartition("#")[0], piece.rpartition("#")[2]
        paths += sorted(place.parent.glob(place.name)) if is_pattern(str(place)) else [place]
    if not paths:
        raise UserError(f"{folder / text}: no file matches. Write another.")
    if len(paths) == 1 and os.path.isfile(paths[0]) and file_ending(paths[0]) not in ("", *PICTURES):
        return Item(paths[0], paths, paths[0].parent, name, kind)  # unread, as the table says what it is
    items = find_items(paths, {}, problems := [])
    items = [item for item in items if not item.reason]
    items = [item for item in items if not series or (item.series and series.lower() in item.series.names)]
    items = [item for item in items if (item.kind == MASK) == (kind == MASK)] or items
    if len(items) != 1:
        shown = ", ".join(cell(item, folder) for item in items)
        raise UserError(problems[0] if problems else f"{folder / text}: is {len(items)} stacks ({shown}). Write one.")
    return items[0]._replace(kind=kind, name=name)


def read_table(table: Path, problems: list[str]) -> list[Patient]:
    """Return the patients in a CSV file; adds to the problems. Raises: UserError if it is no such table.

    One row per patient: patient, flair and, if wanted, pre, post, mask and mask_of, whose cells may be empty. A row
    without a patient says what is not used.
    """
    rows = read_csv(table, [])
    if missing := [column for column in HEADER[:2] if column not in rows]:
        raise UserError(f"{table}: has no column {', '.join(missing)}. Expected patient,{','.join(COLUMNS)}.")
    patients: dict[str, Patient] = {}  # by the name in lower case
    for line, row in zip(rows.index + 2, rows.to_dict("records"), strict=True):
        name = safe_name(row["patient"])
        filled = {kind: row[column] for column, kind in COLUMNS.items() if row.get(column)}
        if not name and not filled:
            continue
        try:
            if not name or re.search(r"^\.|[/\\]|^\w:", name):
                raise UserError(f"{name!r} cannot be the name of a folder. Write another.")
            if name.lower() in patients:
                raise UserError(f"{name} is named twice. Remove one of the lines.")
            if FLAIR not in filled:
                raise UserError(f"{name} has no FLAIR. Write its file into flair, or remove the line.")
            items = {kind: read_cell(table.parent, text, kind, name) for kind, text in filled.items()}
            if MASK in items:
                items[MASK] = items[MASK]._replace(mask_of=row.get(MASK_OF, ""))
            patients[name.lower()] = Patient(name, items)
        except UserError as error:
            problems.append(f"{table}, line {line}: {error}")
    return list(patients.values())
