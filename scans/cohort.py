"""Which files belong to whom: by names of files and folders, headers, patterns, or a table of the user.

Every file below a folder is used, or unused with a reason. A patient is named by the place of the files alone.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from constants import FLAIR, POST, PRE
from scans.items import Item, find_items, gap_in
from scans.names import KINDS, MASK, OTHER, Kind, base_of
from scans.scan import safe_name, stem
from utils import UserError

COLUMNS = {"flair": FLAIR, "pre": PRE, "post": POST, "mask": MASK}  # of a table; options but for flair
SHOWN = {PRE: "pre-contrast", FLAIR: "FLAIR", POST: "post-contrast", MASK: "reference mask"}
NOT_CHOSEN = "not chosen as FLAIR"
REMEDY = "write it into the table of --list."


@dataclass
class Patient:
    """The stacks of one patient, none of them read. Without FLAIR nothing is segmented.

    Attributes:
        name: unique among the patients of a command.
        items: by channel, and MASK.
        unused: other items of the patient, and why each is not used.
        notes: for the user.
    """

    name: str
    items: dict[Kind, Item]
    unused: list[tuple[Item, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[Kind, list[Path]]:
        return {kind: item.paths for kind, item in self.items.items()}


class Cohort(NamedTuple):
    """Patients; problems as text; and what is of no patient, with the reason why it is not used."""

    patients: list[Patient]
    problems: list[str]
    unused: list[tuple[Item, str]]


def find_patients(inputs: Iterable[Path], patterns: dict[Kind, str] | None = None, series: str = "") -> Cohort:
    """Return the patients of files, folders and tables. Masks are never segmented.

    Args:
        inputs: folders stand for all in them and in their subfolders; tables are those of scans.table.
        patterns: of PRE, POST or MASK, the pattern of the names of its files; or its file, of the one patient.
        series: which DICOM series is FLAIR where there are several.
    """
    from scans.table import read_table

    inputs, patterns = list(inputs), {kind: text for kind, text in (patterns or {}).items() if text}
    tables = [path for path in inputs if path.suffix.lower() == ".csv"]
    problems: list[str] = []
    items = find_items([path for path in inputs if path not in tables], patterns, problems)
    asked = [kind for kind, text in patterns.items() if is_pattern(text)]
    cohort = Cohort([patient for table in tables for patient in read_table(table, problems)], problems, [])
    for name, own in group([item for item in items if item.kind not in asked]):
        add_patients(cohort, name, choose_series(own, series, problems))
    ready = [patient for patient in cohort.patients if FLAIR in patient.items]
    for patient in ready:
        if gap := gap_in(patient.items[FLAIR]):
            patient.notes.append(gap)
            problems.append(f"{patient.items[FLAIR].place}: {gap}")
    if len(ready) > 1 and len(asked) < len(patterns):
        single = next(text for kind, text in patterns.items() if kind not in asked)
        raise UserError(
            f"{single} is the file of one patient, but there are {len(ready)}. Name a pattern of file names, such as "
            f"'*_t1.nii.gz', or {REMEDY}"
        )
    alone = Counter(patient.items[FLAIR].place.parent for patient in ready)
    for patient in ready:
        for kind in patterns.keys() - patient.items.keys():  # the cells of a table go before patterns
            try:
                patient.items[kind] = matching(patient, kind, patterns[kind], items, alone)
            except ValueError as error:
                if kind not in asked:
                    raise UserError(str(error)) from None
                problems.append(f"{patient.name}: {error}")
    used = {id(item) for patient in ready for item in patient.items.values()}
    cohort.unused.extend((item, "of no patient") for item in items if item.kind in asked and id(item) not in used)
    if not ready and not problems:
        problems.append(f"{', '.join(map(str, inputs))}: no image that is not a mask by its name. Name another.")
    return cohort


def group(items: Iterable[Item]) -> Iterator[tuple[str, list[Item]]]:
    """Yield name and items of each patient.

    Masks of another name go to the images that they lie beside; and so do, to be listed as unused, images of no known
    sequence beside a FLAIR whose name begins alike.
    """
    patients: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for item in items:
        patients[item.root, item.name].append(item)
    images = defaultdict(list)  # by folder
    for item in items:
        if item.kind in (FLAIR, None) and not item.series:
            images[item.folder].append(item)
    for key, own in list(patients.items()):
        kinds = {item.kind for item in own}
        if kinds & {PRE, FLAIR, POST} or not own[0].alone:
            continue
        beside = [item for item in images[own[0].folder] if item.name != key[1]]
        beside = [item for item in beside if item.kind == FLAIR] or ([] if None in kinds else beside)
        starts = {begin_of(item) for item in beside if item.alone}
        start = base_of(f"{stem(own[0].place)}_", starts - {""})
        fits = {(item.root, item.name) for item in beside if start and item.alone and begin_of(item) == start}
        if not fits and len(beside) == 1 and (not beside[0].alone or not begin_of(beside[0])):
            fits = {(beside[0].root, beside[0].name)}
        if len(fits) == 1:
            patients[fits.pop()] += patients.pop(key)
    yield from ((name, own) for (_, name), own in patients.items())


def begin_of(item: Item) -> str:
    """Return what stands before the sequence in the name of a file."""
    word = KINDS[FLAIR].search(stem(item.place))
    return stem(item.place)[: word.start()].rstrip("_-. ") if word else stem(item.place)


def choose_series(own: list[Item], series: str, problems: list[str]) -> list[Item]:
    """Return the items of a patient, of which the DICOM series that is meant is FLAIR; none of several is guessed."""
    stacks = [item for item in own if item.series]
    known = [item for item in stacks if item.kind == FLAIR]
    possible = known or [item for item in stacks if item.kind is None and FLAIR not in [other.kind for other in own]]
    meant = [item for item in stacks if series.lower() in item.series.names] if series else possible
    if stacks and len(meant) != 1 and (meant or series):
        listed = "; ".join(f"{item.series.label}, {len(item.paths)} files" for item in stacks)
        wrong = f"--series {series} names {len(meant) or 'none'} of them. " if series else ""
        problems.append(
            f"{stacks[0].folder}: holds {len(stacks)} series. {wrong}Say which one is FLAIR: --series with its number, "
            f"description or UID; or {REMEDY} They are {listed}."
        )
        meant = []
    left_out = [item for item in stacks if item.kind in (FLAIR, None)]
    return [
        item._replace(kind=FLAIR) if item in meant
        else item._replace(kind=OTHER, reason=NOT_CHOSEN) if item in left_out
        else item for item in own
    ]  # fmt: skip


def add_patients(cohort: Cohort, name: str, own: list[Item]) -> None:
    """Add the patient of some items to a cohort: one for each FLAIR, or for each image of no known sequence."""
    mains = [item for item in own if item.kind == FLAIR] or [item for item in own if item.kind is None]
    if not mains and all(item.kind in (MASK, OTHER) and not item.series for item in own):
        cohort.unused.extend((item, item.reason or "a mask beside no image") for item in own)
        return
    top = os.path.commonpath([os.path.abspath(item.place.parent) for item in mains or own])
    for main in mains or [None]:
        others = [item for item in own if item not in mains and (len(mains) < 2 or item.folder == main.folder)]
        where = Path(os.path.abspath(main.place)).relative_to(top) if len(mains) > 1 else Path()
        patient = Patient(unique(name, where, main, cohort), {FLAIR: main} if main else {})
        for column, kind in list(COLUMNS.items())[1:]:
            found = [item for item in others if item.kind == kind]
            if len(found) == 1:
                patient.items[kind] = found[0]
            reason = f"one of {len(found)} that may be {SHOWN[kind]}: write one into {column} of the table"
            patient.unused.extend((item, reason) for item in found[1:] and found)
            if len(found) > 1 and kind != MASK:
                shown = " and ".join(item.place.name for item in found)
                cohort.problems.append(f"{name}: {shown} are both {SHOWN[kind]}. Name one with --{column}.")
        rest = [item for item in others if item.kind in (None, OTHER)]
        patient.unused.extend((item, item.reason or "no sequence that is used") for item in rest)
        if not main and not any(item.reason == NOT_CHOSEN for item in own):
            shown = ", ".join(item.place.name for item in own)
            cohort.problems.append(
                f"{own[0].folder}: no FLAIR, which is what is segmented, beside {shown}. Name its file like one "
                f"(flair, x_flair), or {REMEDY}"
            )
        cohort.patients.append(patient)
    if len(mains) > 1:
        folders = {main.folder for main in mains}
        left = [item for item in own if item not in mains and item.folder not in folders]
        cohort.unused.extend((item, item.reason or "beside none of several scans") for item in left)


def unique(name: str, where: Path, main: Item | None, cohort: Cohort) -> str:
    """Return a name that no other patient has, in lower case, as on some file systems.

    where: place of one of several scans of the patient below the folder of all.
    """
    above = Path(os.path.abspath(main.place)).parent.name if main else ""
    last = [] if stem(where) in ("", name) else [stem(where)]
    own = safe_name("_".join([name, *where.parent.parts, *last]))
    taken = {patient.name.lower() for patient in cohort.patients}
    numbered = (f"{own}_{number}" for number in range(2, len(taken) + 3))
    return next(text for text in (own, safe_name(f"{above}_{name}"), *numbered) if text.lower() not in taken)


# --- Patterns --------------------------------------------------------------------------------------------------


def is_pattern(text: str) -> bool:
    """Return whether an option names a pattern of file names, and not a file."""
    return bool(re.search(r"[*?[]", text)) and not Path(text).exists()


def matching(patient: Patient, kind: Kind, text: str, items: list[Item], alone: Counter[Path]) -> Item:
    """Return what an option names for a patient: the file, or of the items of its kind the one of the same name.

    Names do not matter where there is no other patient in the folder. Raises: ValueError if there is none, or several.
    """
    from scans.table import read_cell

    if not is_pattern(text):
        return read_cell(Path(), text, kind, patient.name)
    folder = patient.items[FLAIR].place.parent
    own = [item for item in items if item.kind == kind and item.name == patient.name]
    if not own and alone[folder] == 1:
        own = [item for item in items if item.kind == kind and item.place.parent == folder]
    if len(own) != 1:
        raise ValueError(f"{len(own) or 'no'} files match {text} beside it. Name a pattern that fits one, or {REMEDY}")
    return own[0]
