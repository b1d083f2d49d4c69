"""Which files make up a patient: in folders, where names and places tell patients and sequences, or in a table.

A name follows from the place of a patient's files alone, so that it stays when other patients come or go.
"""

import fnmatch
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from constants import FLAIR, JUNK_FOLDERS, POST, PRE
from scans.dicom import is_dicom
from scans.names import MASK, OTHER, in_nnunet_set, is_mask, kind_of, read_place, repeats
from scans.scan import ENDINGS, PICTURES, Source, file_ending, natural_order, safe_name, stem
from storage.owned_folder import MANIFEST, OwnedFolder
from utils import UserError, leaves_folder, read_csv

DEEPEST = 8  # levels of folders below a folder that is named; patient, session, kind and series are 4
BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OVERLAY = re.compile(r".*_overlay", re.IGNORECASE)  # of predict_model.py
TABLE = ".csv"
CHANNELS = {PRE: "pre-contrast", POST: "post-contrast"}
COLUMNS = {"pre": PRE, "post": POST}  # of a table, beside patient, flair and mask; and the options of these names


class Stack(NamedTuple):
    """The files of one sequence, or the reference masks, of one patient.

    Attributes:
        place: its file, or the folder of its pictures or DICOM files.
        paths: the files.
        root: the folder in which stacks of one name are one patient's.
        name: whose it is.
        kind: a channel, OTHER, MASK, or None where the names do not say.
    """

    place: Path
    paths: list[Path]
    root: Path
    name: str
    kind: int | str | None


class Patient(NamedTuple):
    """The stack to segment, the other stacks of the same patient, and, of a table's row, what else it holds."""

    main: Stack
    beside: list[Stack]
    listed: bool = False
    unused: Iterable[str] = ()


def find_sources(
    inputs: Iterable[Path], pre: str = "", post: str = "", series: str = ""
) -> tuple[list[Source], list[str]]:
    """Return the patients to read, and problems as text.

    The pictures, or the DICOM files, of one folder are one stack; any other file is its own. Stacks that are named
    alike but for the sequence are one patient's. Masks and overlays are never segmented.

    Args:
        inputs: files; folders, which stand for all in them and in their subfolders; tables (see `from_table`).
        pre, post: the file of that sequence for the one patient, or the pattern of its name for each patient.
        series: which DICOM series is meant where a folder holds several.
    """
    inputs = list(inputs)
    asked = {channel: text for channel, text in ((PRE, pre), (POST, post)) if text}
    tables = [path for path in inputs if path.suffix.lower() == TABLE]
    stacks, problems = find_stacks(path for path in inputs if path not in tables)
    patients, wrong = group([stack for stack in stacks if not _is_asked_for(stack, asked)])
    problems += wrong
    named: list[tuple[str, Patient]] = []
    for table in tables:
        rows, wrong = from_table(table)
        named += rows
        problems += wrong
    named += with_unique_names(patients, [name for name, _ in named])
    if len(named) > 1 and not all(map(is_pattern, asked.values())):
        problems.append(
            f"--pre and --post name the files of one patient, but there are {len(named)}. Name patterns of file names, "
            "such as '*_t1.nii.gz', or list the files of each patient in a table (patient,flair,pre,post)."
        )
        return [], problems
    sources = []
    for name, patient in named:
        try:
            sources.append(to_source(name, patient, asked, series))
        except ValueError as error:
            problems.append(str(error))
    if not sources and not problems:
        problems.append(f"{', '.join(map(str, inputs))}: no image that is not a mask by its name. Name another.")
    return sources, problems


# --- Stacks in folders -----------------------------------------------------------------------------------------


def find_stacks(inputs: Iterable[Path]) -> tuple[list[Stack], list[str]]:
    """Return the stacks of all inputs in order, masks among them, and problems as text."""
    files: dict[tuple[Path, str], set[Path]] = defaultdict(set)  # by place, and format
    roots: dict[Path, Path] = {}  # of each place, the folder that was named, or the one above it
    problems = []
    for given in inputs:
        found = _inputs_below(given) if given.is_dir() else [given] if given.is_file() and _is_read(given) else []
        if not found:
            reason = (
                f"nothing to read here ({', '.join(ENDINGS)}, DICOM)" if given.exists() else "no such file or folder"
            )
            problems.append(f"{given}: {reason}. Name another.")
        for path in found:
            format = "pictures" if file_ending(path) in PICTURES else file_ending(path) or "DICOM"
            place = path.parent if format in ("pictures", "DICOM") else path
            root = given if given.is_dir() and place != given else Path(os.path.abspath(place)).parent
            roots[place] = min(roots.get(place, root), root, key=lambda path: len(Path(os.path.abspath(path)).parts))
            files[place, format].add(path)
    return [stack for (place, _), paths in files.items() for stack in _stacks(place, paths, roots[place])], problems


def _stacks(place: Path, paths: set[Path], root: Path) -> Iterator[Stack]:
    """Yield the stack of a place, and the one of the masks among its pictures."""
    full, top = (Path(os.path.abspath(path)) for path in (place, root))
    parts = list(full.relative_to(top).parts)
    if place.is_file():
        parts[-1] = stem(full)
    if place.is_file() and (said := in_nnunet_set(full)):
        whose, kind = read_place([*parts[:-1], said[0]], top)[0], said[1]
    else:
        whose, kind = read_place(parts, top)
    ordered = sorted(sorted(paths), key=natural_order)
    masks = [path for path in ordered if is_mask(path)] if place.is_dir() and kind != MASK else []
    for stacked, of in (([path for path in ordered if path not in masks], kind), (masks, MASK)):
        if stacked:
            yield Stack(place, stacked, top, safe_name("_".join(whose)).lstrip(".") or "images", of)


def _inputs_below(folder: Path) -> list[Path]:
    """Return the files below a folder without those that this project wrote: its own masks are no reference."""
    found = list(files_below(folder))
    ours = {
        place / name
        for place in {path.parent for path in found}
        if (place / MANIFEST).is_file()
        for name in OwnedFolder(place).files()
    }
    return [path for path in found if path not in ours]


def files_below(folder: Path, levels: int = DEEPEST) -> Iterator[Path]:
    """Yield the files to read in a folder and its subfolders, which may be links; neither hidden ones nor overlays."""
    entries = sorted(folder.glob("[!.]*"))
    left_out = JUNK_FOLDERS | (BIDS_OTHERS if (folder / BIDS).is_file() else set())
    yield from (path for path in entries if path.is_file() and _is_read(path))
    for path in entries:
        if levels and path.is_dir() and path.name not in left_out and not _leads_back(path):
            yield from files_below(path, levels - 1)


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _is_read(path: Path) -> bool:
    """Return whether a file is of a kind that is read, by its ending or as DICOM, and no overlay."""
    return not OVERLAY.fullmatch(stem(path)) if file_ending(path) else is_dicom(path)


# --- Patients --------------------------------------------------------------------------------------------------


def group(stacks: Iterable[Stack]) -> tuple[list[Patient], list[str]]:
    """Return the patients, and problems as text. FLAIR is segmented, or what is of no known sequence."""
    by_patient: dict[tuple[Path, str], list[Stack]] = defaultdict(list)
    for stack in stacks:
        by_patient[stack.root, stack.name].append(stack)
    patients, problems = [], []
    for own in by_patient.values():
        masks = [stack for stack in own if stack.kind == MASK]
        images = [stack for stack in own if stack.kind != MASK]
        flair = [stack for stack in images if stack.kind == FLAIR]
        unknown = [stack for stack in images if stack.kind is None]
        others = [stack for stack in images if stack.kind not in (FLAIR, None)]
        mains = flair or unknown
        if not mains and len(others) > 1:
            shown = ", ".join(stack.place.name for stack in others)
            problems.append(
                f"{others[0].place.parent}: no FLAIR, which is what is segmented, beside {shown}. Name its file like "
                "one (flair, x_flair), or list it in a table (patient,flair,pre,post)."
            )
        elif len(images) == 1 or len(mains) == 1:
            main = (mains or others)[0]
            patients += [Patient(main, [s for s in (*others, *masks) if s is not main])]
            patients += [Patient(stack, []) for stack in unknown if stack is not main]
        else:  # each on its own, with the masks that lie in the same folder
            mains = [*flair, *unknown]
            patients += [Patient(main, [mask for mask in masks if mask.place == main.place]) for main in mains]
    return patients, problems


def with_unique_names(patients: Iterable[Patient], taken: Iterable[str]) -> Iterator[tuple[str, Patient]]:
    """Yield each patient with a name that no other has, upper and lower case aside, as on some file systems.

    Those of one name are told apart by as many folders above as that takes.
    """
    alike: dict[str, list[Patient]] = defaultdict(list)
    for patient in patients:
        alike[patient.main.name.lower()].append(patient)
    used = {name.lower() for name in taken}
    for name, several in alike.items():
        places = [Path(os.path.abspath(patient.main.place)) for patient in several]
        tried = [[patient.main.name for patient in several]]
        tried += [
            ["_".join([*p.parts[-n:-1], stem(p)]) for p in places] for n in range(2, max(len(p.parts) for p in places))
        ]
        tried += [["_".join(p.parts[-2:]) for p in places]]  # such as a.npy beside a.nii.gz
        names = next((names for names in tried if _all_differ(names, used)), None)
        names = names or [f"{name}_{number}" for number in range(1, len(several) + 1)]
        used |= {name.lower() for name in names}
        yield from zip(map(safe_name, names), several, strict=True)


def _all_differ(names: list[str], used: set[str]) -> bool:
    lower = {name.lower() for name in names}
    return len(lower) == len(names) and not lower & used


def to_source(name: str, patient: Patient, asked: dict[int, str], series: str) -> Source:
    """Return the files of a patient. Raises: ValueError where a sequence is missing or not certain.

    asked: the option of a channel, which goes before what names say; of a table, its row goes before the option.
    """
    main = patient.main
    others: dict[int, Stack] = {}
    taken = {FLAIR: f"FLAIR {main.place.name}"}
    for column, channel in COLUMNS.items():
        option, how = f"--{column}", "in the table" if patient.listed else "by its name"
        found = [stack for stack in patient.beside if stack.kind == channel]
        if channel in asked and not (found and patient.listed):
            text, how = asked[channel], option
            found = [_match(text, main.place, option) if is_pattern(text) else one_stack(Path(text))]
        if len(found) > 1:
            shown = " and ".join(stack.place.name for stack in found)
            raise ValueError(f"{main.place}: {shown} are both {CHANNELS[channel]}. Name one with {option}.")
        if found:
            others[channel] = found[0]
            taken[channel] = f"{CHANNELS[channel]} {found[0].place.name} ({how})"
    masks = [stack for stack in patient.beside if stack.kind == MASK]
    missing = [CHANNELS[channel] for channel in CHANNELS if channel not in taken]
    stands_in = f"; FLAIR stands in for {missing[0]}" if missing else ""
    notes = [f"sequences: {', '.join(taken[channel] for channel in sorted(taken))}{stands_in}"] if others else []
    if main.kind not in (FLAIR, None):
        notes.append(f"{main.place.name} is segmented as FLAIR, though its name says another sequence")
    unused = [*patient.unused, *(stack.place.name for stack in patient.beside if stack.kind == OTHER)]
    unused += [stack.place.name for stack in masks] if len(masks) > 1 else []
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    paths = masks[0].paths if len(masks) == 1 else []
    return Source(name, main.paths, {c: stack.paths for c, stack in others.items()}, paths, series, notes)


def is_pattern(text: str) -> bool:
    """Return whether --pre or --post names a pattern of file names, and not a file."""
    return bool(re.search(r"[*?[]", text)) and not Path(text).exists()


def _is_asked_for(stack: Stack, asked: dict[int, str]) -> bool:
    return any(is_pattern(text) and fnmatch.fnmatch(stack.place.name, text) for text in asked.values())


def _match(pattern: str, main: Path, option: str) -> Stack:
    """Return the one stack beside another whose name matches a pattern; of several, the one that repeats its name.

    Raises: ValueError if there is none, or several.
    """
    beside = [path for path in sorted(main.parent.iterdir()) if path != main and fnmatch.fnmatch(path.name, pattern)]
    beside = [path for path in beside if kind_of(stem(path))[1] != MASK and (path.is_dir() or _is_read(path))]
    whose = kind_of(stem(main))[0]
    named = [path for path in beside if repeats(path.name, whose)] if len(beside) > 1 else beside
    if len(beside) > 1 and not named:  # s1_a beside s1_b: by as many words at their beginning as they share
        shared = [_shared_words(path.name, main.name) for path in beside]
        named = [path for path, words in zip(beside, shared, strict=True) if words and words == max(shared)]
    if len(named) != 1:
        found = f"{len(beside)} files match" if beside else "no file matches"
        which = f", {len(named) or 'none'} of them named {whose}" if beside else ""
        raise ValueError(
            f"{main}: {found} {option} {pattern} beside it{which}. Name a pattern that fits one for each patient, or "
            "list the files of each patient in a table (patient,flair,pre,post)."
        )
    return one_stack(named[0])


def _shared_words(name: str, other: str) -> int:
    """Return with how many words two names begin alike."""
    pairs = zip(*(re.split(r"[_\-. ]+", each.lower()) for each in (name, other)), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def one_stack(path: Path) -> Stack:
    """Return the stack of a file or of a folder. Raises: ValueError if there is none, or several."""
    stacks, problems = find_stacks([path])
    if problems:
        raise ValueError(problems[0])
    images = [stack for stack in stacks if stack.kind != MASK] or stacks
    if len(images) > 1:
        raise ValueError(f"{path}: holds {len(images)} stacks. Name one of them.")
    return images[0]


# --- Tables ----------------------------------------------------------------------------------------------------


def from_table(table: Path) -> tuple[list[tuple[str, Patient]], list[str]]:
    """Return the names and patients of a CSV file, and problems as text.

    One row per patient: patient, flair and, if wanted, pre, post and mask, whose cells may be empty. Paths are relative
    to the folder of the table.
    """
    try:
        rows = read_csv(table, ["patient", "flair"])
    except UserError as error:
        return [], [str(error)]
    unknown = [column for column in rows if column not in ("patient", "flair", "mask", *COLUMNS)]
    named: dict[str, Patient] = {}
    problems = []
    for line, row in zip(rows.index + 2, rows.to_dict("records"), strict=True):
        name = safe_name(row["patient"])
        if leaves_folder(name) or "/" in name or "\\" in name or name.startswith("."):
            problems.append(f"{table}, line {line}: {name!r} cannot be the name of a folder. Write another.")
            continue
        if name.lower() in map(str.lower, named):
            problems.append(f"{table}, line {line}: {name} is named twice. Remove one of the lines.")
            continue
        try:
            main = one_stack(table.parent / row["flair"])
            kinds = {kind: row[column] for column, kind in (*COLUMNS.items(), ("mask", MASK)) if row.get(column)}
            beside = [one_stack(table.parent / path)._replace(kind=kind) for kind, path in kinds.items()]
        except ValueError as error:
            problems.append(f"{table}, line {line}: {error}")
            continue
        named[name] = Patient(main, beside, listed=True, unused=[f"column {column}" for column in unknown])
    return list(named.items()), problems
