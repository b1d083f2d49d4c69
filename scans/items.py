"""Stacks of slices and masks below a folder: whose, and of which sequence, by name, header or value."""

import fnmatch
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
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
    read_place,
    volumes_of_set,
)
from scans.read import holds_mask, is_mask, read_picture
from scans.scan import ENDINGS, PICTURES, file_ending, natural_order, stem

DEEPEST = 8  # levels of folders below a folder that is named; patient, session, kind and series are 4
BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OURS = "prediction.json"  # settings of network and masks, the first file in a folder of predict_model.py
THREE_D = re.compile(r"^[23]D[_-]?")  # 3DT1 beside T1 is the same sequence on a grid of its own
NUMBERED = re.compile(r"(.+)_(\d{4})")  # a channel of nnU-Net, in these folders:
NNUNET = {"imagesTr", "imagesTs"}
NOT_CHOSEN = "not chosen as FLAIR"
PROBLEMS = GONE, DENIED = "a link that leads nowhere", "no permission to read it"  # of which one is told


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
    stacks: dict[tuple[Path, str], set[Path]] = defaultdict(set)  # by place, and format
    roots: dict[Path, Path] = {}
    unused: dict[Path, str] = {}
    whole: set[Path] = set()  # folders all of whose files are given
    for given in inputs:
        if not os.path.lexists(given):
            problems.append(f"{given}: no such file or folder. Name another.")
            continue
        is_folder = os.path.isdir(given)
        entries = list(walk(given)) if is_folder else [(given, why_unread(given))]
        if all(reason for _, reason in entries):
            problems.append(f"{given}: nothing to read here ({', '.join(ENDINGS)}, DICOM). Name another.")
        whole |= {path.parent for path, _ in entries if is_folder}
        for path, reason in entries:
            format = "pictures" if file_ending(path) in PICTURES else file_ending(path) or "DICOM"
            place = path.parent if format in ("pictures", "DICOM") and not reason else path
            roots.setdefault(place, Path(os.path.abspath(given if is_folder and place != given else place.parent)))
            if not reason:
                stacks[place, format].add(path)
                continue
            unused[path] = reason
            if reason.startswith(PROBLEMS):
                problems.append(f"{path}: {reason}. Restore it, or leave it out.")
    items, series = [], []
    for (place, format), paths in stacks.items():
        stack = Item(place, in_order(paths), roots[place], *identify(place, roots[place], patterns))
        if format == "DICOM":
            found, reports = medical.find_series(sorted(paths))
            series += [stack._replace(paths=one.paths, series=one, whole=len(found) == 1) for one in found]
            unused |= dict.fromkeys(reports, "DICOM without an image")
            roots |= dict.fromkeys(reports, roots[place])
        elif format == "pictures":
            items += picture_items(stack._replace(whole=place in whole), patterns.get(MASK))
        else:
            items.append(stack)
    items = [*name_channels(judge_volumes(items), problems), *name_series(series, patterns)]
    for path, reason in unused.items():
        items.append(Item(path, [path], roots[path], identify(path, roots[path], {})[0], OTHER, reason=reason))
    return items


def in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (natural_order(path), path))


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
    if numbered and int(numbered[2]) in (channels := channels_of_set(place.parent.parent)):
        return read_place([*folders, numbered[1]], root, file)[0], channels[int(numbered[2])]
    name, kind = read_place([*folders, last] if last else [], root, file)
    kind = FLAIR if kind is None and file and volumes_of_set(place) else kind
    return name, OTHER if kind in patterns else kind  # the option names another


def name_channels(items: list[Item], problems: list[str]) -> list[Item]:
    """Return items where channels of nnU-Net (x_0000, x_0001) without a dataset.json are not used; adds a problem."""
    channels: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind is None and item.folder.name in NNUNET and (match := NUMBERED.fullmatch(stem(item.place))):
            channels[item.folder, match[1]].append(item)
    unclear = {item.place for own in channels.values() if len(own) > 1 for item in own}
    if unclear:
        first = min(unclear)
        problems.append(
            f"{first.parent}: no dataset.json says which of the channels, such as {first.name}, is FLAIR. "
            "Restore it in the folder above, or write FLAIR into the table of --list."
        )
    return [
        item._replace(kind=OTHER, name=item.name[:-5], reason=NOT_CHOSEN) if item.place in unclear else item
        for item in items
    ]


def picture_items(stack: Item, pattern: str | None) -> list[Item]:
    """Return the pictures of a folder as images and masks: by their names; or by their values, where names continue.

    s_0_m.png is a mask of s_0.png if the pictures with this ending hold two values at most. Pictures of no known
    sequence, beside none that are called masks, are masks if they hold the values of masks alone.
    """
    if stack.kind == MASK:
        return [stack]
    names = {stem(path) for path in stack.paths}
    stacks: dict[tuple[Kind, str], list[Path]] = defaultdict(list)  # by kind, and the ending of a reader's masks
    for path in stack.paths:
        name = stem(path)
        base = base_of(name, names)
        base = "" if name[len(base) + 1 :].isdecimal() else base  # scan.png, scan_2.png
        named = bool(KINDS[MASK].search(name))
        if pattern:
            kind = MASK if fnmatch.fnmatch(path.name, pattern) else OTHER if named else stack.kind
        elif base or named:
            kind = OTHER if kind_of(name)[1] == OTHER else MASK
        else:
            kind = stack.kind
        stacks[kind, name[len(base) :] if kind == MASK and base and not pattern else ""].append(path)
    for kind, ending in list(stacks):
        paths = stacks[kind, ending]
        if ending and kind_of(f"x{ending}")[1] != MASK and sum(map(holds_mask, paths)) * 2 <= len(paths):
            stacks[stack.kind, ""] += stacks.pop((kind, ending))
    if [*stacks] == [(None, "")] and all_masks(stack.paths):
        stacks[MASK, ""] = stacks.pop((None, ""))
    return [
        stack._replace(paths=in_order(paths), kind=kind, whole=stack.whole and kind == stack.kind)
        for (kind, _), paths in stacks.items()
    ]


def all_masks(paths: list[Path]) -> bool:
    """Return whether pictures can be read, and hold the values of masks alone."""
    try:
        return is_mask(map(read_picture, paths))
    except Exception:  # a damaged file, which is named when it is read
        return False


def judge_volumes(items: list[Item]) -> list[Item]:
    """Return items where files of no known sequence are masks if they hold the values of one, wherever they lie.

    A file of the same sequence whose name continues that of another, as flair_bias does flair, is not used. What all
    names of a folder have beside their sequence (flair_processed, t1_processed) is nobody's name.
    """
    folders: dict[Path, list[Item]] = defaultdict(list)
    for item in items:
        folders[item.folder].append(item)
    judged = []
    for folder, own in folders.items():
        files = {stem(item.place): item for item in own if item.alone and not item.series}
        sequences = [kind_of(name)[0] for name, item in files.items() if item.kind in (PRE, FLAIR, POST)]
        shared = len(sequences) > 1 and len(set(sequences)) == 1 and folder != own[0].root
        name = identify(folder, own[0].root, {})[0] if shared else ""
        flairs = [item for item in files.values() if item.kind == FLAIR][:3]
        for item in own:
            if name and item.kind in (PRE, FLAIR, POST):
                item = item._replace(name=name)
            base = files.get(base_of(stem(item.place), files) or THREE_D.sub("", stem(item.place)))
            base = base if item.alone and base and base.place != item.place else None
            others = [other for other in flairs if other.place != item.place]
            image = base or (others[0] if len(others) == 1 else None)
            unknown = item.kind is None or (base and item.kind == FLAIR)
            if item.alone and unknown and not item.series and holds_mask(item.place):
                image = image if image and image.kind in (FLAIR, None) else item
                item = item._replace(kind=MASK, name=name or image.name)
            if base and item.kind == base.kind and item.kind in (PRE, FLAIR, POST):
                item = item._replace(kind=OTHER, name=base.name, reason=f"a variant of {base.place.name}")
            judged.append(item)
    return judged


def name_series(items: list[Item], patterns: dict[Kind, str]) -> list[Item]:
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
        if (several or named) and Path(os.path.abspath(item.place.parent)).is_relative_to(item.root):
            items[number] = item._replace(name=identify(item.place.parent, item.root, patterns)[0])
    return items


def side_of(item: Item, other: Item) -> Path:
    """Return the highest folder that holds an item, but not another one; its own file if there is none."""
    common = Path(os.path.commonpath([item.folder, other.folder]))
    return Path(common, *item.place.relative_to(common).parts[:1])


def begin_of(item: Item) -> str:
    """Return what stands before the sequence in the name of a file; nothing for a folder of pictures."""
    word = KINDS[FLAIR].search(stem(item.place))
    begin = stem(item.place)[: word.start()].rstrip("_-. ") if word else re.sub(r"_0000$", "", stem(item.place))
    return begin if item.alone else ""


def gap_in(item: Item) -> str:
    """Return where pictures of a whole folder lack slices by the numbers that end their names; empty if they do not."""
    keys = [natural_order(path) for path in item.paths]
    if item.alone or item.series or not item.whole or len(keys) < 3 or min(map(len, keys)) < 2:
        return ""
    steps = np.diff([key[-2][0] for key in keys])
    if steps.min() <= 0 or steps.max() <= 1.5 * np.median(steps):
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
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != GRID)
    except OSError as error:
        yield folder, f"{DENIED} ({error.strerror})"
        return
    names = {path.name for path in entries}
    if not ours and OURS in names:
        yield folder, "written by predict_model.py"
        return
    folders = {path for path in entries if os.path.isdir(path)}
    yield from ((path, why_unread(path)) for path in entries if path not in folders)
    for path in sorted(folders):
        if path.name in BIDS_OTHERS and BIDS in names:
            yield path, "not as it was taken (BIDS)"
        elif not levels:
            yield path, "too many folders deep"
        elif path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
            yield path, "a link to a folder above it"
        elif path.name not in JUNK_FOLDERS:
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
