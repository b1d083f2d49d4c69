"""Which files belong to whom: by names of files and folders, headers, patterns, or a table of the user.

Every file below a folder is used, or unused with a reason. A patient is named by the place of the files alone.
"""

import fnmatch
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from constants import FLAIR, POST, PRE
from scans import medical
from scans.files import PROBLEMS, walk, why_unread
from scans.names import KINDS, MASK, OTHER, Kind, base_of, channels_of_set, kind_of, kind_of_series, read_place
from scans.read import holds_mask
from scans.scan import ENDINGS, PICTURES, file_ending, natural_order, safe_name, stem
from utils import UserError

COLUMNS = {"flair": FLAIR, "pre": PRE, "post": POST, "mask": MASK}  # of a table; options but for flair
SHOWN = {PRE: "pre-contrast", FLAIR: "FLAIR", POST: "post-contrast", MASK: "reference mask"}
REMEDY = "write it into the table of --list."


class Item(NamedTuple):
    """One sequence, or the reference masks, of one patient.

    Attributes:
        place: its file, or the folder of its pictures or DICOM files.
        paths: its files.
        root: the folder that was named; items of one root and name are one patient's.
        name: of the patient.
        series: of DICOM; its label, where the folder holds several.
        whole: whether naming the place is enough.
        reason: why it is not used, where it is none of the sequences.
    """

    place: Path
    paths: list[Path]
    root: Path
    name: str
    kind: Kind
    series: medical.Series | None = None
    whole: bool = True
    reason: str = ""

    @property
    def alone(self) -> bool:
        """Whether it is a file of its own, perhaps a link that leads nowhere."""
        return not os.path.isdir(self.place)

    @property
    def folder(self) -> Path:
        return self.place.parent if self.alone else self.place


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
    """Yield name and items of each patient; masks of another name go to the images that they lie beside."""
    patients: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for item in items:
        patients[item.root, item.name].append(item)
    beside = defaultdict(set)  # patients by folder
    for key, own in patients.items():
        for item in own:
            if item.kind in (FLAIR, None):
                says_nothing = item.alone and not kind_of(stem(item.place))[0]
                beside[item.folder].add((key, says_nothing))
    for key in [key for key, own in patients.items() if all(item.kind in (MASK, OTHER) for item in own)]:
        fits = [other for other, says_nothing in beside[patients[key][0].folder]
                if says_nothing or key[1].startswith(f"{other[1]}_")]  # fmt: skip
        if len(fits) == 1:
            patients[fits[0]] += patients.pop(key)
    yield from ((name, own) for (_, name), own in patients.items())


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
        else item._replace(kind=OTHER, reason="not chosen as FLAIR") if item in left_out
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
        if not main and not any(item.series for item in own):
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


# --- Files -----------------------------------------------------------------------------------------------------


def find_items(inputs: Iterable[Path], patterns: dict[Kind, str], problems: list[str]) -> list[Item]:
    """Return the items of all inputs in order, masks and unused files among them; adds to the problems.

    The pictures, or the DICOM series, of one folder are one item; any other file is its own. What matches a pattern is
    of its kind, and of the patient that the rest of its name says.
    """
    found: dict[tuple[Path, str], dict[Path, None]] = defaultdict(dict)  # by place, and format
    roots: dict[Path, Path] = {}
    unused: dict[Path, str] = {}
    for given in inputs:
        if not os.path.lexists(given):
            problems.append(f"{given}: no such file or folder. Name another.")
            continue
        entries = list(walk(given)) if os.path.isdir(given) else [(given, why_unread(given))]
        if all(reason for _, reason in entries):
            problems.append(f"{given}: nothing to read here ({', '.join(ENDINGS)}, DICOM). Name another.")
        for path, reason in entries:
            format = "pictures" if file_ending(path) in PICTURES else file_ending(path) or "DICOM"
            place = path.parent if format in ("pictures", "DICOM") and not reason else path
            root = Path(os.path.abspath(given if os.path.isdir(given) and place != given else place.parent))
            roots[place] = min(roots.get(place, root), root, key=lambda folder: len(folder.parts))
            if reason:
                unused[path] = reason
                if reason.startswith(PROBLEMS):
                    problems.append(f"{path}: {reason}. Restore it, or leave it out.")
            else:
                found[place, format][path] = None
    items, dicom = [], {}
    for (place, format), paths in found.items():
        if format == "DICOM":
            dicom[place], reports = medical.find_series(sorted(paths))
            unused |= dict.fromkeys(reports, "DICOM without an image")
            roots |= dict.fromkeys(reports, roots[place])
            continue
        name, kind = identify(place, roots[place], patterns)
        if format != "pictures":
            items.append(Item(place, [place], roots[place], name, kind))
            continue
        items += picture_items(
            Item(place, sorted(sorted(paths), key=natural_order), roots[place], name, kind), patterns
        )
    items = [*judge_volumes(items), *series_items(dicom, roots, patterns)]
    for path, reason in unused.items():
        items.append(Item(path, [path], roots[path], identify(path, roots[path], {})[0], OTHER, reason=reason))
    return items


def identify(place: Path, root: Path, patterns: dict[Kind, str]) -> tuple[str, Kind]:
    """Return whose a place below the root is, and its kind: by a pattern, a dataset.json, or its names."""
    *folders, last = Path(os.path.abspath(place)).relative_to(root).parts or [""]
    if not last:
        return read_place([], root, False)
    file = not os.path.isdir(place)
    last = stem(place) if file else last
    for kind, pattern in patterns.items():
        if fnmatch.fnmatch(place.name, pattern):
            for piece in filter(None, map(stem, map(Path, re.split(r"[*?]+", pattern)))):
                last = last.replace(piece, "").strip("_-. ")
            return read_place([*folders, last], root, file)[0], kind
    numbered = re.fullmatch(r"(.+)_(\d{4})", last) if file else None
    if numbered and (channel := channels_of_set(place.parent.parent).get(str(int(numbered[2])))):
        kind = kind_of(channel)[1]
        return read_place([*folders, numbered[1]], root, file)[0], OTHER if kind is None else kind
    name, kind = read_place([*folders, last], root, file)
    return name, OTHER if kind in patterns else kind  # the option names another


def picture_items(stack: Item, patterns: dict[Kind, str]) -> list[Item]:
    """Return the pictures of a folder as images and masks: by their names; or by their values, where names continue.

    s_0_m.png is a mask of s_0.png if the pictures with this ending hold two values at most.
    """
    if stack.kind == MASK:
        return [stack]
    names = {stem(path) for path in stack.paths}
    masks: dict[str, list[Path]] = defaultdict(list)  # by what follows the name of the image: readers
    images, others = [], []
    for path in stack.paths:
        base = base_of(stem(path), names)
        if MASK in patterns and fnmatch.fnmatch(path.name, patterns[MASK]):
            masks[""].append(path)
        elif MASK in patterns or not (base or KINDS[MASK].search(stem(path))):
            (others if KINDS[MASK].search(stem(path)) else images).append(path)
        elif kind_of(stem(path))[1] == OTHER:
            others.append(path)
        else:
            masks[stem(path)[len(base) :] if base else ""].append(path)
    for ending, paths in list(masks.items()):
        if ending and kind_of(f"x{ending}")[1] != MASK and sum(map(holds_mask, paths)) * 2 <= len(paths):
            images += masks.pop(ending)
    items = [stack._replace(paths=sorted(images, key=natural_order))] if images else []
    items += [stack._replace(paths=paths, kind=MASK, whole=False) for paths in masks.values()]
    return items + ([stack._replace(paths=others, kind=OTHER, whole=False)] if others else [])


def judge_volumes(items: list[Item]) -> list[Item]:
    """Return items where files of no known sequence beside a FLAIR are masks if they hold the values of one.

    A file of the same sequence whose name continues that of another, as flair_bias does flair, is not used. What
    follows the sequence in all names of a folder (flair_processed, t1_processed) is nobody's name.
    """
    folders: dict[Path, dict[str, Item]] = defaultdict(dict)
    for item in items:
        if item.alone:
            folders[item.folder][stem(item.place)] = item
    names: dict[Path, str] = {}  # of folders
    for folder, beside in folders.items():
        sequences = {name: kind_of(name)[0] for name, item in beside.items() if item.kind in (PRE, FLAIR, POST)}
        alike = len(sequences) > 1 and len(set(sequences.values())) == 1
        if alike and not any(name.startswith(whose) for name, whose in sequences.items()):
            names[folder] = identify(folder, next(iter(beside.values())).root, {})[0]
    judged = []
    for item in items:
        beside = folders[item.folder]
        if item.kind in (PRE, FLAIR, POST) and item.folder != item.root:
            item = item._replace(name=names.get(item.folder, item.name))
        base = beside.get(base_of(stem(item.place), set(beside))) if item.alone else None
        flair = [other for other in beside.values() if other.kind == FLAIR and other.place != item.place]
        image = base or (flair[0] if len(flair) == 1 else None)
        unknown = item.kind is None or (base and item.kind == FLAIR)
        if item.alone and image and unknown and image.kind in (FLAIR, None) and holds_mask(item.place):
            item = item._replace(kind=MASK, name=names.get(item.folder, image.name))
        if base and item.kind == base.kind and item.kind in (PRE, FLAIR, POST):
            item = item._replace(kind=OTHER, name=base.name, reason=f"a variant of {base.place.name}")
        judged.append(item)
    return judged


def series_items(
    found: dict[Path, list[medical.Series]], roots: dict[Path, Path], patterns: dict[Kind, str]
) -> list[Item]:
    """Return the items of DICOM series. A folder of one series beside others of its study names no patient."""
    items = []
    studies: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for place, series in found.items():
        name, kind = identify(place, roots[place], patterns)
        for one in series:
            of = kind_of_series(one.description) if kind is None or len(series) > 1 else kind
            items.append(Item(place, one.paths, roots[place], name, of, one, len(series) == 1))
            studies[place.parent, one.study].append(items[-1])
    for number, item in enumerate(items):
        study = studies[item.place.parent, item.series.study]
        several = len({other.place for other in study}) > 1 and [other.kind for other in study].count(FLAIR) == 1
        named = item.series.description and plain(item.series.description) in plain(item.place.name)  # as of TCIA
        if (several or named) and Path(os.path.abspath(item.place.parent)).is_relative_to(item.root):
            items[number] = item._replace(name=identify(item.place.parent, item.root, patterns)[0])
    return items


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


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
