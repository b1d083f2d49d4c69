"""Stacks of slices and masks below a folder: whose, and of which sequence, by name, header or value."""

import fnmatch
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from constants import FLAIR, JUNK_FOLDERS, POST, PRE
from scans import medical
from scans.names import KINDS, MASK, OTHER, Kind, base_of, channels_of_set, kind_of, kind_of_series, read_place
from scans.read import holds_mask
from scans.scan import ENDINGS, PICTURES, file_ending, natural_order, stem

DEEPEST = 8  # levels of folders below a folder that is named; patient, session, kind and series are 4
BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OURS = {"slices.csv", "patients.csv"}  # predict_model.py wrote a folder that holds both
GONE, DENIED = "a link that leads nowhere", "no permission to read it"
PROBLEMS = (GONE, DENIED)  # of which a file is named as a problem, too


class Item(NamedTuple):
    """One sequence, or the reference masks, of one patient.

    Attributes:
        place: its file, or the folder of its pictures or DICOM files.
        paths: its files.
        root: the folder that was named; items of one root and name are one patient's.
        name: of the patient.
        series: of DICOM, or one volume of several in a file.
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


def find_items(inputs: Iterable[Path], patterns: dict[Kind, str], problems: list[str]) -> list[Item]:
    """Return the items of all inputs in order, masks and unused files among them; adds to the problems.

    The pictures, or the DICOM series, of one folder are one item; any other file is its own. What matches a pattern is
    of its kind, and of the patient that the rest of its name says.
    """
    found: dict[tuple[Path, str], dict[Path, None]] = defaultdict(dict)  # by place, and format
    roots: dict[Path, Path] = {}
    unused: dict[Path, str] = {}
    folders: set[Path] = set()  # all of whose files are given
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
            folders |= {path.parent} if os.path.isdir(given) else set()
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
            items += volume_items(Item(place, [place], roots[place], name, kind))
            continue
        ordered = sorted(sorted(paths), key=natural_order)
        items += picture_items(Item(place, ordered, roots[place], name, kind, whole=place in folders), patterns)
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


def volume_items(file: Item) -> list[Item]:
    """Return a file as one item; or the volumes in it, if a dataset.json names them as in the Decathlon."""
    channels = channels_of_set(file.place.parent.parent)
    if file.kind is not None or not channels or not file.place.parent.name.startswith("images"):
        return [file]
    return [
        file._replace(kind=OTHER if kind_of(name)[1] is None else kind_of(name)[1], whole=False,
                      series=medical.Series(name, file.paths, name, (name.lower(),), volume=int(number)))
        for number, name in channels.items()
    ]  # fmt: skip


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
        if stem(path)[len(base) + 1 :].isdecimal():  # scan.png, scan_2.png
            base = ""
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
        if item.alone and not item.series:
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


def gap_in(item: Item) -> str:
    """Return where pictures of a whole folder lack slices by the numbers that end their names; empty if they do not."""
    if item.alone or item.series or not item.whole:
        return ""
    numbers = [natural_order(path)[-2][0] if len(natural_order(path)) > 1 else math.nan for path in item.paths]
    steps = np.diff(numbers)
    if not len(steps) or not (steps > 0).all() or steps.max() <= 1.5 * np.median(steps):
        return ""
    n = int(steps.argmax())
    return (
        f"slices between {item.paths[n].name} and {item.paths[n + 1].name} are missing by their names, and so they are "
        "in areas and volumes. Restore them."
    )


# --- Files ---------------------------------------------------------------------------------------------------


def walk(folder: Path, levels: int = DEEPEST, ours: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield the files in a folder and its subfolders, which may be links, and why one is not read, or "" if it is.

    Of a folder that is not entered, the folder; hidden ones and junk of other programs are passed over.
    ours: also in folders that predict_model.py wrote; its masks are no reference.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        yield folder, f"{DENIED} ({error.strerror})"
        return
    names = {path.name for path in entries}
    if not ours and names >= OURS:
        yield folder, "written by predict_model.py"
        return
    yield from ((path, why_unread(path)) for path in entries if not os.path.isdir(path))
    for path in entries:
        if not os.path.isdir(path) or path.name in JUNK_FOLDERS:
            continue
        if path.name in BIDS_OTHERS and BIDS in names:
            yield path, "not as it was taken (BIDS)"
        elif not levels:
            yield path, "too many folders deep"
        elif path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
            yield path, "a link to a folder above it"
        else:
            yield from walk(path, levels - 1, ours)


def why_unread(path: Path) -> str:
    """Return why a file is not read; "" if it is. One that is gone but has the ending of an image is, and fails."""
    if file_ending(path):
        if stem(path).lower().endswith("_overlay"):
            return "an overlay"
        return "" if os.path.isfile(path) or not os.path.exists(path) else "no file"
    if not os.path.exists(path):
        return "" if medical.is_dicom(path) else GONE
    if not os.access(path, os.R_OK):
        return DENIED
    return "" if os.path.isfile(path) and medical.is_dicom(path) else "no image"
