"""Which files belong to whom: by names of files and folders, headers, patterns, or a table of the user.

Every file below a folder is used, or unused with a reason. A patient is named by the place of the files alone.

The table of a cohort has one row per patient. It is written, edited by the user, and read back. A cell names a file or
a folder; a pattern of file names; one DICOM series of a folder (folder#number or description); or several files with |
between them. Paths are relative to the folder of the table.
"""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from constants import FLAIR, POST, PRE
from scans import medical
from scans.items import GONE, NOT_CHOSEN, Item, begin_of, find_items, gap_in, identify, side_of
from scans.names import COLUMNS, MASK, OTHER, SHOWN, Kind, base_of, is_pattern, maker_of, volumes_of_set
from scans.read import open_array
from scans.scan import PICTURES, file_ending, safe_name, stem
from utils import UserError, counted, is_unsafe_path, list_few, read_csv, to_csv, write_text

HEADER = ("mask_of", "slices", "spacing", "unused", "notes")  # after the patient and its files
Columns = dict[str, Kind]  # of files, in a table
# Images, each with the begin of its name: by folder, by each folder above that, and by a begin that has a number
Places = tuple[dict[Path, list], dict[Path, list], dict[str, list]]
REMEDY = "write it into the table of --list."
SEVERAL = "fits several scans: write it into the table"
MOST_LINES = 20  # of the table, printed


@dataclass
class Patient:
    """The stacks of one patient, none of them read. Without FLAIR nothing is segmented."""

    name: str
    items: dict[Kind, Item]  # by channel, and MASK
    unused: list[Item] = field(default_factory=list)  # each with its reason
    notes: list[str] = field(default_factory=list)


class Cohort(NamedTuple):
    """Patients; problems as text; and what is of no patient, with the reason why it is not used."""

    patients: list[Patient]
    problems: list[str]
    unused: list[Item]

    @property
    def with_flair(self) -> list[Patient]:
        return [patient for patient in self.patients if FLAIR in patient.items]


def find_patients(inputs: Iterable[Path], options: dict[Kind, str] | None = None, series: str = "") -> Cohort:
    """Return the patients of files, folders and tables. Masks are never segmented.

    Args:
        inputs: folders stand for all in them and in their subfolders; tables are those of `to_table`.
        options: of PRE, POST or MASK, the pattern of the names of its files; or its file, of the one patient.
        series: which DICOM series is FLAIR where there are several.
    """
    inputs, options = list(inputs), {kind: text for kind, text in (options or {}).items() if text}
    patterns = {kind for kind, text in options.items() if is_pattern(text)}
    tables = [path for path in inputs if path.suffix.lower() == ".csv"]
    problems: list[str] = []
    items = find_items([path for path in inputs if path not in tables], options, problems)
    cohort = Cohort([patient for table in tables for patient in read_table(table, problems)], problems, [])
    taken = {patient.name.lower() for patient in cohort.patients}
    for name, own in group(items, patterns):
        add_patients(cohort, name, choose_series(own, series, problems), taken)
    ready = cohort.with_flair
    for patient in ready:
        if any(volumes := volumes_of_set(patient.items[FLAIR].place)) and patient.items[FLAIR].alone:
            shown = ", ".join(f"{SHOWN[kind]} {volumes[kind]}" for kind in (PRE, FLAIR, POST))
            patient.notes.append(f"volumes by their numbers from 0, as dataset.json says: {shown}")
        if gap := gap_in(patient.items[FLAIR]):
            patient.notes.append(gap)
            problems.append(f"{patient.items[FLAIR].place}: {gap}")
        for kind in options.keys() - patient.items.keys():  # the cells of a table go before options
            text = options[kind]
            if kind in patterns:
                problems.append(f"{patient.name}: no file matches {text} beside it. Name another pattern, or {REMEDY}")
            elif len(ready) > 1:
                raise UserError(
                    f"{text} is the file of one patient, but there are {len(ready)}. Name a pattern of file names, "
                    f"such as '*_t1.nii.gz', or {REMEDY}"
                )
            else:
                patient.items[kind] = read_cell(Path(), text, kind, patient.name)
    if not ready and not problems:
        problems.append(f"{inputs[0]}: no image that is not a mask by its name or its values. Name another.")
    return cohort


# --- From items to patients --------------------------------------------------------------------------------------


def group(items: list[Item], patterns: set[Kind]) -> list[tuple[str, list[Item]]]:
    """Return name and items of each patient.

    Masks, what matches a pattern, and images of no known sequence, to be listed as unused, may have another name than
    the FLAIR that they belong to: see `owners`.
    """
    patients: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    with_flair = {item.root for item in items if item.kind == FLAIR and not item.series}
    places: dict[Path, Places] = defaultdict(lambda: (defaultdict(list), defaultdict(list), defaultdict(list)))
    for item in items:
        patients[item.root, item.name].append(item)
        if not item.series and item.kind == (FLAIR if item.root in with_flair else None):
            add_place(places[item.root], item)
    for (root, name), own in list(patients.items()):
        kinds = {item.kind for item in own}
        of_images = {PRE, FLAIR, POST, *([] if root in with_flair else [None])} - patterns
        if kinds & of_images or not own[0].alone:
            continue
        fits = owners(own[0], places[root], kinds, bool(kinds & patterns))
        if len(fits) == 1:
            patients[root, fits.pop()] += patients.pop((root, name))
        elif fits:
            kind = {None: OTHER}
            own[:] = [i._replace(kind=kind.get(i.kind, i.kind), reason=i.reason or SEVERAL) for i in own]
    return [(name, own) for (_, name), own in patients.items()]


def add_place(places: Places, image: Item) -> None:
    inside, below, begins = places
    folder, begin = image.folder, begin_of(image)
    inside[folder].append((image, begin))
    for above in (folder, *folder.parents):
        below[above].append((image, begin))
    if re.search(r"\d", begin):
        begins[begin].append(image)


def owners(item: Item, places: Places, kinds: set[Kind], wanted: bool) -> set[str]:
    """Return the names of the patients that a mask, or an image of no known sequence, may belong to.

    Those of whom an image in its folder, or else in another that is not of masks alone, begins with the same name. Or
    the one in its folder, if that bears the name of the patient, or the image has none. A mask may also lie above or
    below the folder of a FLAIR that is called FLAIR alone.

    places: of the images. wanted: whether a pattern names the item.
    """
    inside, below, begins = places
    folder, beside = item.folder, inside.get(item.folder, [])
    if start := base_of(f"{stem(item.place)}_", {begin for _, begin in beside} - {""}):
        return {image.name for image, begin in beside if begin == start}
    same = begins.get(base_of(f"{stem(item.place)}_", begins), [])
    if fits := {image.name for image in same if side_of(item, image) not in below}:
        return fits
    if len(beside) == 1:
        ((image, begin),) = beside
        named = identify(folder, item.root, {})[0] == image.name
        if wanted or not begin or (named and kinds <= {MASK, OTHER}):
            return {image.name}
    if kinds == {MASK}:
        near = below.get(folder, []) + [pair for above in folder.parents for pair in inside.get(above, [])]
        return {image.name for image, begin in near if image.kind == FLAIR and not begin}
    return set()


def choose_series(own: list[Item], series: str, problems: list[str]) -> list[Item]:
    """Return the items of a patient, of which the DICOM series that is meant is FLAIR; none of several is guessed."""
    stacks = [item for item in own if item.series]
    wanted = FLAIR if any(item.kind == FLAIR for item in own) else None
    meant = [item for item in stacks if (series.lower() in item.series.names if series else item.kind == wanted)]
    if stacks and len(meant) != 1 and (meant or series):
        listed = "; ".join(f"{item.series.label}, {counted(len(item.paths), 'file')}" for item in stacks)
        wrong = f"--series {series} names {len(meant) or 'none'} of them. " if series else ""
        problems.append(
            f"{stacks[0].folder}: holds {len(stacks)} series. {wrong}Say which one is FLAIR: --series with its number, "
            f"description or UID; or {REMEDY} They are {listed}."
        )
        meant = []
    return [
        item._replace(kind=FLAIR) if item in meant
        else item._replace(kind=OTHER, reason=NOT_CHOSEN) if item.series and item.kind in (FLAIR, None)
        else item for item in own
    ]  # fmt: skip


def add_patients(cohort: Cohort, name: str, own: list[Item], taken: set[str]) -> None:
    """Add the patient of some items to a cohort: one for each FLAIR, or for each image of no known sequence.

    taken: names of all patients, in lower case.
    """
    mains = [item for item in own if item.kind == FLAIR] or [item for item in own if item.kind is None]
    asked = any(item.reason == NOT_CHOSEN for item in own)
    if not mains and not asked and all(item.kind in (MASK, OTHER) and not item.series for item in own):
        for item in own:
            fits = "a mask that fits no image" if item.kind == MASK else "no sequence that is used"
            cohort.unused.extend(unused([item], fits))
        return
    top = os.path.commonpath([os.path.abspath(item.place.parent) for item in mains or own])
    rest = [item for item in own if item not in mains]
    for main in mains or [None]:
        where = Path(os.path.abspath(main.place)).relative_to(top) if len(mains) > 1 else Path()
        patient = Patient(unique(name, where, taken), {FLAIR: main} if main else {})
        if stem(where) in ("", name) and not where.parent.parts and patient.name != safe_name(name):
            patient.notes.append(f"another one is called {name}, too")
        others = [item for item in rest if len(mains) < 2 or item.folder == main.folder]
        for column, kind in COLUMNS.items():
            same = [item for item in others if item.kind == kind]
            first = foremost(same) if kind == MASK else same
            if len(first) == 1:
                patient.items[kind] = first[0]
                patient.unused += unused((item for item in same if item is not first[0]), "another mask goes first")
            elif same:
                reason = f"one of {len(same)} that may be {SHOWN[kind]}: write one into {column} of the table"
                patient.unused += unused(same, reason)
                if kind != MASK:
                    shown = " and ".join(item.place.name for item in same)
                    cohort.problems.append(f"{name}: {shown} are both {SHOWN[kind]}. Name one with --{column}.")
        patient.unused += unused((item for item in others if item.kind in (None, OTHER)), "no sequence that is used")
        if not main and not asked:
            shown = ", ".join(item.place.name for item in own)
            cohort.problems.append(
                f"{own[0].folder}: no FLAIR, which is what is segmented, beside {shown}. Name its file like one "
                f"(flair, x_flair), or {REMEDY}"
            )
        cohort.patients.append(patient)
    if len(mains) > 1:
        folders = {main.folder for main in mains}
        left = [item for item in rest if item.folder not in folders]
        cohort.unused.extend(unused(left, "beside none of several scans"))


def foremost(masks: list[Item]) -> list[Item]:
    """Return the mask that a person has corrected, or else the one that a person drew; all masks if there are more."""
    makers = [maker_of(stem(mask.paths[0])) for mask in masks]
    best = next((maker for maker in ("corrected", "reader") if maker in makers), None)
    return [masks[makers.index(best)]] if makers.count(best) == 1 else masks


def unused(items: Iterable[Item], reason: str) -> list[Item]:
    """Return items with a reason why they are not used, unless they have one."""
    return [item._replace(reason=item.reason or reason) for item in items]


def unique(name: str, where: Path, taken: set[str]) -> str:
    """Return a name that no other patient has, in lower case, as on some file systems, and add it to those taken.

    where: place of one of several scans of the patient below the folder of all.
    """
    last = [] if stem(where) in ("", name) else [stem(where)]
    own = safe_name("_".join([name, *where.parent.parts, *last]))
    numbered = (f"{own}_{number}" for number in itertools.count(2))
    name = next(text for text in itertools.chain([own], numbered) if text.lower() not in taken)
    taken.add(name.lower())
    return name


# --- The table ---------------------------------------------------------------------------------------------------


def write_list(table: Path, cohort: Cohort, columns: Columns = COLUMNS) -> list[str]:
    """Write the table of --list, and print it in short. Return what is wrong."""
    text, problems = to_table(cohort, table.parent, columns)
    write_text(table, text)
    print("\n".join([*describe(cohort), f"written to {table}: edit it, and name it as the input"]))
    return cohort.problems + problems


def to_table(cohort: Cohort, folder: Path, columns: Columns = COLUMNS) -> tuple[str, list[str]]:
    """Return the table of a cohort as CSV, and what headers say that is wrong. What is of no patient has rows as well.

    folder: of the table. columns: those of files, the main one first.
    """
    import pandas as pd

    column, main = next(iter(columns.items()))

    def left(items: list[Item]) -> str:
        return "; ".join(f"{cell(item, folder)} ({item.reason})" for item in items)

    rows, problems = [], []
    for patient in cohort.patients:
        row = {own: cell(patient.items[kind], folder) for own, kind in columns.items() if kind in patient.items}
        row |= {"patient": patient.name, "unused": left(patient.unused)}
        if MASK in patient.items:
            row["mask_of"] = maker_of(stem(patient.items[MASK].paths[0]))
        notes = list(patient.notes)
        gone = [path for item in patient.items.values() for path in item.paths if not path.exists()]
        if gone:
            notes.append(f"{list_few([path.name for path in gone])}: {GONE}")
            problems.append(f"{gone[0]}: {GONE}. Restore it, or leave it out.")
        if main in patient.items and not {*gone} & {*patient.items[main].paths}:
            try:
                slices, spacing = outline(patient.items[main])
                row |= {"slices": slices, "spacing": " x ".join(f"{size:.4g}" for size in spacing)}
            except Exception as error:  # libraries raise many kinds for a damaged file
                notes.append(f"cannot be read: {' '.join(str(error).split())}")
                problems.append(f"{patient.items[main].place}: {notes[-1]}")
        elif main not in patient.items:
            notes.append(f"no {SHOWN[main]}: write its file into {column}, or remove the line")
        rows.append(row | {"notes": "; ".join(notes)})
    rows += [{"unused": left([item])} for item in cohort.unused]
    return to_csv(pd.DataFrame(rows, columns=["patient", *columns, *HEADER], dtype=object)), problems


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
    for pattern in (f"*{ending}", f"{begin}*{ending}") if len(item.paths) > 1 else ():
        if sorted(item.place.glob(pattern)) == sorted(item.paths):
            return f"{path(item.place)}/{pattern}"
    return "|".join(map(path, item.paths))


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
    items = [item for item in items if (item.kind == MASK) == (kind not in (PRE, FLAIR, POST))] or items
    if len(items) != 1:
        shown = ", ".join(cell(item, folder) for item in items)
        raise UserError(problems[0] if problems else f"{folder / text}: is {len(items)} stacks ({shown}). Write one.")
    return items[0]._replace(kind=kind, name=name)


def read_table(table: Path, problems: list[str], columns: Columns = COLUMNS) -> list[Patient]:
    """Return the patients in a CSV file; adds to the problems.

    One row per patient: patient, flair and, if wanted, pre, post and mask, whose cells may be empty; or other columns,
    the main one first. A row without a patient says what is not used.
    """
    try:
        rows = read_csv(table, [])
        if missing := [column for column in ("patient", *list(columns)[:1]) if column not in rows]:
            raise UserError(f"{table}: has no column {', '.join(missing)}. Expected {','.join(['patient', *columns])}.")
    except UserError as error:
        problems.append(str(error))
        return []
    patients: dict[str, Patient] = {}  # by the name in lower case
    for line, row in zip(rows.index + 2, rows.to_dict("records"), strict=True):
        name = safe_name(row["patient"])
        filled = {kind: row[column] for column, kind in columns.items() if row.get(column)}
        if not name and not filled:
            continue
        try:
            if not name or is_unsafe_path(name) or "/" in name or "\\" in name or name.startswith("."):
                raise UserError(f"{name!r} cannot be the name of a folder. Write another.")
            if name.lower() in patients:
                raise UserError(f"{name} is named twice. Remove one of the lines.")
            if FLAIR in columns.values() and FLAIR not in filled:
                raise UserError(f"{name} has no FLAIR. Write its file into flair, or remove the line.")
            items = {kind: read_cell(table.parent, text, kind, name) for kind, text in filled.items()}
            patients[name.lower()] = Patient(name, items)
        except UserError as error:
            problems.append(f"{table}, line {line}: {error}")
    return list(patients.values())
