"""Stacks of slices and masks below a folder: whose they are, and of which sequence, by name, header or value."""

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from constants import FLAIR, JUNK_FOLDERS, POST, PRE
from dataset.folder import GRID
from scans import medical
from scans.names import (
    KINDS,
    MASK,
    OTHER,
    Kind,
    base_of,
    channels_of_set,
    kind_of,
    kind_of_series,
    maker_of,
    read_place,
    volumes_of_set,
)
from scans.read import holds_mask
from scans.scan import ENDINGS, PICTURES, file_ending, natural_order, stem
from utils import UserError

BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OURS = "prediction.json"  # settings of network and masks, the first file in a folder of predict_model.py
THREE_D = re.compile(r"^[23]D[_-]?")  # 3DT1 beside T1 is the same sequence on a grid of its own
NUMBERED = re.compile(r"(.+)_(\d{4})")  # a channel of nnU-Net, in these folders:
NNUNET = {"imagesTr", "imagesTs"}
SEQUENCES = {PRE, FLAIR, POST}
NOT_CHOSEN = "not chosen as FLAIR"
UNOPENED = "cannot be opened"  # of which one is told
RESTORE = "Restore it, or leave it out."


class Item(NamedTuple):
    """One sequence, or the reference masks, of one patient."""

    place: Path  # its file, or the folder of its pictures or DICOM files
    paths: list[Path]
    root: Path  # the folder that was named; items of one root and name are one patient's
    name: str  # of the patient
    kind: Kind
    series: medical.Series | None = None  # of DICOM
    whole: bool = True  # whether naming the place is enough
    reason: str = ""  # why it is not used
    mask_of: str = ""  # who made a mask, where that is known

    @property
    def alone(self) -> bool:
        """Whether it is a file of its own, perhaps a link that leads nowhere."""
        return not os.path.isdir(self.place)

    @property
    def folder(self) -> Path:
        return self.place.parent if self.alone else self.place

    @property
    def begin(self) -> str:
        """What stands before the sequence in the name of a file; nothing for a folder of pictures."""
        name = stem(self.place)
        word = KINDS[FLAIR].search(name)
        begin = name[: word.start()].rstrip("_-. ") if word else re.sub(r"_0000$", "", name)
        return begin if self.alone else ""

    @property
    def maker(self) -> str:
        """Whose a mask is: reader, network or corrected; by its name where nothing else says it."""
        return self.mask_of or maker_of(stem(self.paths[0]))


@dataclass
class Patient:
    """The stacks of one patient, none of them read. Without FLAIR nothing is segmented."""

    name: str
    items: dict[Kind, Item]  # by channel, and MASK
    called: str = ""  # name by its files, where another one has it, too
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

    def refuse_doubles(self, names: Collection[str]) -> None:
        """Raise UserError if one of the names may mean several patients: P, and P_2 if another folder is called P."""
        for patient in self.patients:
            if patient.called and {patient.name, patient.called} & {*names}:
                raise UserError(f"{patient.called} may mean {patient.name}, too. Name them apart in a table of --list.")


def find_items(inputs: Iterable[Path], patterns: dict[Kind, str], problems: list[str]) -> list[Item]:
    """Return the items of all inputs in order, masks and unused files among them; adds to the problems.

    The pictures, or the DICOM series, of one folder are one item; any other file is its own. What matches a pattern is
    of its kind, and of the patient that the rest of its name says.
    """
    stacks: dict[tuple[Path, str], set[Path]] = defaultdict(set)  # by place, and format or why it is not read
    roots: dict[Path, Path] = {}  # by place
    whole: set[Path] = set()  # folders all of whose files are given
    for given in inputs:
        if not os.path.lexists(given):
            problems.append(f"{given}: no such file or folder. Name another.")
            continue
        is_folder = os.path.isdir(given)
        entries = list(walk(given)) if is_folder else [(given, why_unread(given))]
        if all(reason for _, reason in entries):
            problems.append(f"{given}: nothing to read here ({', '.join(ENDINGS)}, DICOM). Name another.")
        problems += problems_of(entries)
        whole |= {path.parent for path, _ in entries if is_folder}
        for path, reason in entries:
            form = reason or ("pictures" if file_ending(path) in PICTURES else file_ending(path) or "DICOM")
            place = path.parent if form in ("pictures", "DICOM") else path
            roots.setdefault(place, Path(os.path.abspath(given if is_folder and place != given else place.parent)))
            stacks[place, form].add(path)
    items, series, left = [], [], []
    for (place, form), paths in stacks.items():
        ordered = sorted(paths, key=lambda path: (natural_order(path), path))
        name, kind = identify(place, roots[place], patterns)
        stack = Item(place, ordered, roots[place], name, kind, whole=place in whole)
        if form == "DICOM":
            found, reports = medical.find_series(sorted(paths))
            series += [stack._replace(paths=one.paths, series=one, whole=len(found) == 1) for one in found]
            without = stack._replace(kind=OTHER, reason="DICOM without an image")
            left += [without._replace(place=path, paths=[path]) for path in reports]
        elif form == "pictures":
            items += picture_items(stack)
        elif form in ENDINGS:
            items.append(stack)
        else:
            left.append(stack._replace(kind=OTHER, reason=form))
    return [*judge_volumes(items), *name_series(series), *left]


def problems_of(entries: Iterable[tuple[Path, str]]) -> list[str]:
    """Return what is told of files and the reasons why they are not read: of those that the user may want."""
    return [f"{path}: {reason}. {RESTORE}" for path, reason in entries if reason.startswith(UNOPENED)]


def identify(place: Path, root: Path, patterns: dict[Kind, str]) -> tuple[str, Kind]:
    """Return whose a place below the root is, and its kind: by a pattern, a dataset.json, or its names."""
    *folders, last = Path(os.path.abspath(place)).relative_to(root).parts or [""]
    file = bool(last) and not os.path.isdir(place)
    last = stem(place) if file else last
    for kind, pattern in patterns.items():
        if last and fnmatch.fnmatch(place.name, pattern):
            for piece in filter(None, map(stem, map(Path, re.split(r"[*?]+", pattern)))):
                last = last.replace(piece, "").strip("_-. ")
            return read_place([*folders, last], root, file)[0], kind
    numbered = NUMBERED.fullmatch(last) if file else None
    if numbered and (channel := channel_of(place, int(numbered[2]))) is not None:
        return read_place([*folders, numbered[1]], root, file)[0], channel
    name, kind = read_place([*folders, last] if last else [], root, file)
    kind = FLAIR if kind is None and file and volumes_of_set(place) else kind
    return name, OTHER if kind in patterns else kind  # the option names another


def channel_of(file: Path, number: int) -> Kind:
    """Return the sequence of a numbered channel of nnU-Net; None if it may be the only one, or is none.

    Without a dataset.json none of several is guessed.
    """
    channels = channels_of_set(file.parent.parent)
    if number in channels or file.parent.name not in NNUNET:
        return channels.get(number)
    return OTHER if number or os.path.lexists(file.with_name(file.name.replace("_0000", "_0001"))) else None


def picture_items(stack: Item) -> list[Item]:
    """Return the pictures of a folder as images and masks, by their names; or by their values, where names continue.

    s_0_m.png is a mask of s_0.png if it holds two values at most. Pictures of no known sequence are masks if they hold
    the values of masks alone.
    """
    if stack.kind == MASK:
        return [stack]
    names = {stem(path) for path in stack.paths}
    stacks: dict[tuple[Kind, str], list[Path]] = defaultdict(list)  # by kind, and the ending of a reader's masks
    for path in stack.paths:
        name = stem(path)
        base = base_of(name, names)
        base = "" if name[len(base) + 1 :].isdecimal() else base  # scan.png, scan_2.png
        said = kind_of(name)[1]
        kind = said if said in (MASK, OTHER) else MASK if base and holds_mask([path], any_two=True) else stack.kind
        stacks[kind, name[len(base) :] if kind == MASK and base else ""].append(path)
    if [*stacks] == [(None, "")] and holds_mask(stack.paths):
        stacks[MASK, ""] = stacks.pop((None, ""))
    return [
        stack._replace(paths=paths, kind=kind, whole=stack.whole and kind == stack.kind)
        for (kind, _), paths in stacks.items()
    ]


def judge_volumes(items: list[Item]) -> list[Item]:
    """Return items where files of no known sequence are masks if they hold the values of one, wherever they lie.

    A file of the same sequence whose name continues that of another, as flair_bias does flair, is not used. What all
    names of a folder have beside their sequence (flair_processed, t1_processed) is nobody's name.
    """
    folders: dict[Path, dict[str, Item]] = defaultdict(dict)  # files by their names
    beside: dict[Path, list[str]] = defaultdict(list)  # what their names have beside the sequence
    for item in filter(lambda item: item.alone, items):
        folders[item.folder][stem(item.place)] = item
        if item.kind in SEQUENCES:
            beside[item.folder].append(kind_of(stem(item.place))[0])
    judged = []
    for item in items:
        folder, name, files = item.folder, stem(item.place), folders.get(item.folder, {})
        base = files.get(base_of(name, files) or THREE_D.sub("", name)) if item.alone else None
        base = None if base is item else base
        if item.kind in SEQUENCES and len(beside[folder]) > len(set(beside[folder])) == 1 and folder != item.root:
            item = item._replace(name=identify(folder, item.root, {})[0])
        if item.alone and (item.kind is None or (base and item.kind == FLAIR)) and holds_mask(item.paths):
            item = item._replace(kind=MASK)
        elif base and item.kind == base.kind and item.kind in SEQUENCES:
            item = item._replace(kind=OTHER, reason=f"a variant of {base.place.name}")
        judged.append(item)
    return judged


def name_series(items: list[Item]) -> list[Item]:
    """Return the items of DICOM series with their kinds. A folder of one series of a study names no patient."""
    studies: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for number, item in enumerate(items):
        if item.kind is None or not item.whole:
            items[number] = item._replace(kind=kind_of_series(item.series.description))
        studies[item.place.parent, item.series.study].append(items[number])
    for number, item in enumerate(items):
        study = studies[item.place.parent, item.series.study]
        several = len({other.place for other in study}) > 1 and [other.kind for other in study].count(FLAIR) == 1
        plain = [re.sub(r"[^a-z0-9]", "", text.lower()) for text in (item.series.description, item.place.name)]
        named = plain[0] and plain[0] in plain[1]  # as TCIA names folders
        if several or named:
            items[number] = item._replace(name=identify(item.place.parent, item.root, {})[0])
    return items


def gap_in(item: Item) -> str:
    """Return where pictures of a whole folder lack slices by the numbers that end their names; empty if they do not."""
    keys = [natural_order(path) for path in item.paths]
    if item.alone or item.series or not item.whole or len(keys) < 3 or min(map(len, keys)) < 2:
        return ""
    steps = np.diff([key[-2][0] for key in keys])
    if steps.min() <= 0 or steps.max() <= 1.5 * np.median(steps):
        return ""
    n = int(steps.argmax())
    return f"slices between {item.paths[n].name} and {item.paths[n + 1].name} are missing by their names. Restore them."


# --- Files ---------------------------------------------------------------------------------------------------


def walk(folder: Path, ours: bool = False, above: frozenset[Path] = frozenset()) -> Iterator[tuple[Path, str]]:
    """Yield the files in a folder and its subfolders, which may be links, and why one is not read, or "" if it is.

    Of a folder that is not entered, the folder; hidden ones and junk of other programs are passed over.
    ours: also in folders that predict_model.py wrote; its masks are no reference. above: folders that led here.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != GRID)
    except OSError as error:
        yield folder, f"{UNOPENED} ({error.strerror})"
        return
    names = {path.name for path in entries}
    if not ours and OURS in names:
        yield folder, "written by predict_model.py"
        return
    folders, above = {path for path in entries if os.path.isdir(path)}, above | {folder.resolve()}
    yield from ((path, why_unread(path)) for path in entries if path not in folders)
    for path in sorted(folders):
        if path.name in BIDS_OTHERS and BIDS in names:
            yield path, "not as it was taken (BIDS)"
        elif any(place.is_relative_to(path.resolve()) for place in above):
            yield path, "a link to a folder above it"
        elif path.name not in JUNK_FOLDERS:
            yield from walk(path, ours, above)


def why_unread(path: Path) -> str:
    """Return why a file is not read; "" if it is. One that is gone but has the ending of an image is, and fails."""
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for ever
        return "no file"
    if file_ending(path):
        return "an overlay" if stem(path).lower().endswith("_overlay") else ""
    try:
        return "" if medical.is_dicom(path) else "no image"
    except OSError as error:
        return f"{UNOPENED} ({error.strerror})"
