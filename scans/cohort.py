"""Which files belong to whom: by names of files and folders, headers, patterns, or a table of the user.

Every file below a folder is used, or unused with a reason. A patient is named by the place of the files alone.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from constants import FLAIR, POST, PRE
from scans.items import Cohort, Item, Patient, find_items, gap_in, is_pattern
from scans.names import COLUMNS, KINDS, MASK, OTHER, SHOWN, Kind, base_of
from scans.scan import safe_name, stem
from scans.table import read_cell, read_table
from utils import UserError

REMEDY = "write it into the table of --list."
NOT_CHOSEN = "not chosen as FLAIR"


def find_patients(inputs: Iterable[Path], options: dict[Kind, str] | None = None, series: str = "") -> Cohort:
    """Return the patients of files, folders and tables. Masks are never segmented.

    Args:
        inputs: folders stand for all in them and in their subfolders; tables are those of scans.table.
        options: of PRE, POST or MASK, the pattern of the names of its files; or its file, of the one patient.
        series: which DICOM series is FLAIR where there are several.
    """
    inputs, options = list(inputs), {kind: text for kind, text in (options or {}).items() if text}
    patterns = {kind for kind, text in options.items() if is_pattern(text)}
    tables = [path for path in inputs if path.suffix.lower() == ".csv"]
    problems: list[str] = []
    items = find_items([path for path in inputs if path not in tables], options, problems)
    cohort = Cohort([patient for table in tables for patient in read_table(table, problems)], problems, [])
    for name, own in group(items, patterns):
        add_patients(cohort, name, choose_series(own, series, problems))
    ready = [patient for patient in cohort.patients if FLAIR in patient.items]
    for patient in ready:
        if gap := gap_in(patient.items[FLAIR]):
            patient.notes.append(gap)
            problems.append(f"{patient.items[FLAIR].place}: {gap}")
        for kind in options.keys() - patient.items.keys():  # the cells of a table go before options
            text = options[kind]
            if kind in patterns:
                problems.append(f"{patient.name}: no file matches {text} beside it. Name another pattern, or {REMEDY}")
                continue
            if len(ready) > 1:
                raise UserError(
                    f"{text} is the file of one patient, but there are {len(ready)}. Name a pattern of file names, "
                    f"such as '*_t1.nii.gz', or {REMEDY}"
                )
            try:
                patient.items[kind] = read_cell(Path(), text, kind, patient.name)
            except ValueError as error:
                raise UserError(str(error)) from None
    if not ready and not problems:
        problems.append(f"{', '.join(map(str, inputs))}: no image that is not a mask by its name. Name another.")
    return cohort


def group(items: Iterable[Item], patterns: set[Kind]) -> Iterator[tuple[str, list[Item]]]:
    """Yield name and items of each patient.

    Masks, and what matches a pattern, may have another name than the images that they lie beside; and so may, to be
    listed as unused, images of no known sequence beside a FLAIR whose name begins alike.
    """
    patients: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    images = defaultdict(list)  # by folder
    for item in items:
        patients[item.root, item.name].append(item)
        if item.kind in (FLAIR, None) and not item.series:
            images[item.folder].append(item)
    for key, own in list(patients.items()):
        kinds = {item.kind for item in own}
        if kinds & {PRE, FLAIR, POST} - patterns or not own[0].alone:
            continue
        beside = [item for item in images[own[0].folder] if item.name != key[1]]
        beside = [item for item in beside if item.kind == FLAIR] or ([] if None in kinds else beside)
        begins = {(item.root, item.name): begin_of(item) for item in beside}
        start = base_of(f"{stem(own[0].place)}_", {*begins.values()} - {""})
        fits = [other for other, begin in begins.items() if start and begin == start]
        if not fits and len(beside) == 1 and (kinds & patterns or not begin_of(beside[0])):
            fits = list(begins)
        if len(fits) == 1:
            patients[fits[0]] += patients.pop(key)
    yield from ((name, own) for (_, name), own in patients.items())


def begin_of(item: Item) -> str:
    """Return what stands before the sequence in the name of a file; nothing for a folder of pictures."""
    word = KINDS[FLAIR].search(stem(item.place))
    begin = stem(item.place)[: word.start()].rstrip("_-. ") if word else stem(item.place)
    return begin if item.alone else ""


def choose_series(own: list[Item], series: str, problems: list[str]) -> list[Item]:
    """Return the items of a patient, of which the DICOM series that is meant is FLAIR; none of several is guessed."""
    stacks = [item for item in own if item.series]
    wanted = FLAIR if any(item.kind == FLAIR for item in own) else None
    meant = [item for item in stacks if (series.lower() in item.series.names if series else item.kind == wanted)]
    if stacks and len(meant) != 1 and (meant or series):
        listed = "; ".join(f"{item.series.label}, {len(item.paths)} files" for item in stacks)
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


def add_patients(cohort: Cohort, name: str, own: list[Item]) -> None:
    """Add the patient of some items to a cohort: one for each FLAIR, or for each image of no known sequence."""
    mains = [item for item in own if item.kind == FLAIR] or [item for item in own if item.kind is None]
    if not mains and all(item.kind in (MASK, OTHER) and not item.series for item in own):
        cohort.unused.extend((item, item.reason or "a mask beside no image") for item in own)
        return
    top = os.path.commonpath([os.path.abspath(item.place.parent) for item in mains or own])
    rest = [item for item in own if item not in mains]
    for main in mains or [None]:
        where = Path(os.path.abspath(main.place)).relative_to(top) if len(mains) > 1 else Path()
        patient = Patient(unique(name, where, cohort), {FLAIR: main} if main else {})
        others = [item for item in rest if len(mains) < 2 or item.folder == main.folder]
        for column, kind in COLUMNS.items():
            same = [item for item in others if item.kind == kind]
            if len(same) == 1:
                patient.items[kind] = same[0]
            elif same:
                reason = f"one of {len(same)} that may be {SHOWN[kind]}: write one into {column} of the table"
                patient.unused += [(item, reason) for item in same]
                if kind != MASK:
                    shown = " and ".join(item.place.name for item in same)
                    cohort.problems.append(f"{name}: {shown} are both {SHOWN[kind]}. Name one with --{column}.")
        patient.unused += [(item, item.reason or "no sequence that is used")
                           for item in others if item.kind in (None, OTHER)]  # fmt: skip
        if not main and not any(item.reason == NOT_CHOSEN for item in own):
            shown = ", ".join(item.place.name for item in own)
            cohort.problems.append(
                f"{own[0].folder}: no FLAIR, which is what is segmented, beside {shown}. Name its file like one "
                f"(flair, x_flair), or {REMEDY}"
            )
        cohort.patients.append(patient)
    if len(mains) > 1:
        folders = {main.folder for main in mains}
        left = [item for item in rest if item.folder not in folders]
        cohort.unused.extend((item, item.reason or "beside none of several scans") for item in left)


def unique(name: str, where: Path, cohort: Cohort) -> str:
    """Return a name that no other patient has, in lower case, as on some file systems.

    where: place of one of several scans of the patient below the folder of all.
    """
    last = [] if stem(where) in ("", name) else [stem(where)]
    own = safe_name("_".join([name, *where.parent.parts, *last]))
    taken = {patient.name.lower() for patient in cohort.patients}
    numbered = (f"{own}_{number}" for number in range(2, len(taken) + 3))
    return next(text for text in (own, *numbered) if text.lower() not in taken)
