"""Which files belong to whom: by the names of files and folders, by patterns, or by a table. No image is read here.

A patient is named by the place of the files alone, so that the name stays when other patients come or go.
"""

import fnmatch
import functools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from constants import FLAIR, JUNK_FOLDERS, POST, PRE
from scans.medical import is_dicom
from scans.scan import ENDINGS, PICTURES, file_ending, natural_order, safe_name, stem
from utils import UserError, is_unsafe_path, read_csv

Kind = int | str | None  # a channel; one of the next two; None where the names do not say
MASK, OTHER = "mask", "other"
COLUMNS = {"flair": FLAIR, "pre": PRE, "post": POST, "mask": MASK}  # of a table; options but for flair
SHOWN = {PRE: "pre-contrast", FLAIR: "FLAIR", POST: "post-contrast", MASK: "reference mask"}
WORDS = {  # of BraTS, BIDS and common habits; short ones say nothing where they may be of a patient's name
    MASK: r"d?seg|segmentations?|masks?|labels?(?:tr|ts)?|lesions?|(?:ground|gold)[_-]?(?:truth|standard)|(?:roi|gt)$",
    FLAIR: r"(?:t2[_-]?)?flair|t2f|fla",
    POST: r"ce-[a-z0-9]+_t1w|t1w?[_-]?(?:ce|c|gd|post|contrast)|(?<!.)post(?:[_-]?contrast)?$|post[_-]?contrast",
    PRE: r"t1(?:w|n|[_-]?pre)?|(?<!.)pre$|pre[_-]?contrast",
    OTHER: r"t2w?|adc|dwi|swi|pd$|brain[_-]?masks?",
}
KINDS = {kind: re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", re.IGNORECASE) for kind, words in WORDS.items()}
ONTO = re.compile(r"[_-](?:space|to|in|on|reg)[_-][a-z0-9]+(?=[_-]|$)", re.IGNORECASE)  # T1_to_FLAIR is a T1
OF_BRAIN = re.compile(r"brain|bet|skull", re.IGNORECASE)  # a mask of this is no reference
NOBODY = re.compile(r"anat|nifti|nii|dicom|dcm|mri?|images?(?:tr|ts)?|scans?|volumes?|stack|brain", re.IGNORECASE)
DEEPEST = 8  # levels of folders below a folder that is named; patient, session, kind and series are 4
BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OURS = {"slices.csv", "patients.csv"}  # predict_model.py wrote a folder that holds both
REMEDY = "list the files of each patient in a table (patient,flair,pre,post,mask)."


@dataclass(frozen=True)
class Patient:
    """The files of one patient, none of them read.

    Attributes:
        name: unique among the patients of a command.
        files: by channel, FLAIR always, and MASK: pictures of a folder, files of a DICOM folder, or one volume.
        series: which DICOM series of the folder is FLAIR, where it holds several.
        notes: how the files were chosen, for the user.
    """

    name: str
    files: dict[Kind, list[Path]]
    series: str = ""
    notes: list[str] = field(default_factory=list)


class Item(NamedTuple):
    """The files of one sequence, or the reference masks, of one patient.

    Attributes:
        place: its file, or the folder of its pictures or DICOM files.
        root: the folder that was named; items of one root and name are one patient's.
    """

    place: Path
    paths: list[Path]
    root: Path
    name: str
    kind: Kind


def find_patients(
    inputs: Iterable[Path], patterns: dict[Kind, str] | None = None, series: str = ""
) -> tuple[list[Patient], list[str]]:
    """Return the patients, and problems as text. Masks are never segmented.

    Args:
        inputs: files; folders, which stand for all in them and in their subfolders; tables (see `from_table`).
        patterns: of PRE, POST or MASK, the pattern of the names of its files; or its file, of the one patient.
        series: which DICOM series is FLAIR where a folder holds several.
    """
    inputs, patterns = list(inputs), {kind: text for kind, text in (patterns or {}).items() if text}
    tables = [path for path in inputs if path.suffix.lower() == ".csv"]
    problems: list[str] = []
    items = find_items([path for path in inputs if path not in tables], patterns, problems)
    asked = [kind for kind, text in patterns.items() if is_pattern(text)]
    rows = [row for table in tables for row in from_table(table, problems)]
    groups = [*rows, *group(item for item in items if item.kind not in asked)]
    if len(groups) > 1 and len(asked) < len(patterns):
        single = next(text for kind, text in patterns.items() if kind not in asked)
        problems.append(
            f"{single} is the file of one patient, but there are {len(groups)}. Name a pattern of file names, such as "
            f"'*_t1.nii.gz', or {REMEDY}"
        )
        return [], problems
    patients: list[Patient] = []
    folders = [main.place.parent for main, *_ in groups]
    for main, *others in groups:
        try:
            own = {item.kind for item in others}  # those of a row go before patterns
            others += [matching(main, kind, text, items, folders) for kind, text in patterns.items() if kind not in own]
            above = Path(os.path.abspath(main.place)).parent.name
            tried = (
                main.name,
                safe_name(f"{above}_{main.name}"),
                *(f"{main.name}_{n}" for n in range(2, len(groups) + 2)),
            )
            taken = {patient.name.lower() for patient in patients}  # in lower case, as on some file systems
            name = next(name for name in tried if name.lower() not in taken)
            patients.append(to_patient(name, main, others, series))
        except ValueError as error:
            problems.append(str(error))
    if not patients and not problems:
        problems.append(f"{', '.join(map(str, inputs))}: no image that is not a mask by its name. Name another.")
    return patients, problems


def group(items: Iterable[Item]) -> list[list[Item]]:
    """Return the items of each patient, the one to segment first: FLAIR, or what is of no known sequence."""
    by_patient: dict[tuple[Path, str], list[Item]] = defaultdict(list)
    for item in items:
        by_patient[item.root, item.name].append(item)
    patients = []
    for own in by_patient.values():
        of = {kind: [item for item in own if item.kind == kind] for kind in (FLAIR, None, PRE, POST, OTHER)}
        mains = of[FLAIR] or of[None] or [*of[PRE], *of[POST], *of[OTHER]][:1]
        for main in mains:  # several are each on their own, with the masks that lie in the same folder
            beside = [item for item in own if item not in mains and (len(mains) == 1 or item.place == main.place)]
            patients.append([main, *beside])
    return patients


def to_patient(name: str, main: Item, others: list[Item], series: str) -> Patient:
    """Return a patient of whom `main` is segmented. Raises: ValueError where a sequence is missing or not certain."""
    images = [item.place.name for item in others if item.kind != MASK]
    if main.kind not in (FLAIR, None) and images:
        raise ValueError(
            f"{main.place.parent}: no FLAIR, which is what is segmented, beside {main.place.name}, "
            f"{', '.join(images)}. Name its file like one (flair, x_flair), or {REMEDY}"
        )
    chosen = {FLAIR: main}
    for column, kind in list(COLUMNS.items())[1:]:
        own = [item for item in others if item.kind == kind]
        if len(own) > 1 and kind != MASK:
            shown = " and ".join(item.place.name for item in own)
            raise ValueError(f"{main.place}: {shown} are both {SHOWN[kind]}. Name one with --{column}.")
        chosen |= {kind: own[0]} if len(own) == 1 else {}
    notes = []
    if {PRE, POST} & chosen.keys():
        missing = [f"; FLAIR stands in for {SHOWN[kind]}" for kind in (PRE, POST) if kind not in chosen]
        shown = ", ".join(f"{SHOWN[kind]} {chosen[kind].place.name}" for kind in (PRE, FLAIR, POST) if kind in chosen)
        notes.append("".join([f"sequences: {shown}", *missing]))
    if main.kind not in (FLAIR, None):
        notes.append(f"{main.place.name} is segmented as FLAIR, though its name says another sequence")
    if unused := [item.place.name for item in others if item not in chosen.values()]:
        notes.append(f"not used: {', '.join(unused)}")
    return Patient(name, {kind: item.paths for kind, item in chosen.items()}, series, notes)


# --- Names and files -------------------------------------------------------------------------------------------


def kind_of(name: str, within: bool = True) -> tuple[str, Kind]:
    """Return whose a file or folder is by its name, and its kind; the name itself and None where it says no kind.

    x_flair, flair_x and, within, x_flair_y are FLAIR of x, x and x_y; x_flair_mask_y is a mask of x_flair.
    """
    text = ONTO.sub("", name)
    found = {kind: match for kind, words in KINDS.items() for match in words.finditer(text)
             if within or match.start() == 0 or match.end() == len(text)}  # fmt: skip
    if not found:
        return name, None
    kind = max(found, key=lambda kind: (kind == MASK, found[kind].end(), -found[kind].start()))  # t2_flair is no t2
    before, after = text[: found[kind].start()].rstrip("_-. "), text[found[kind].end() :].lstrip("_-. ")
    if kind == MASK:
        return before or after, OTHER if OF_BRAIN.search(name) else MASK
    return "_".join(filter(None, (before, after))), kind


def read_place(parts: list[str], root: Path, file: bool) -> tuple[str, Kind]:
    """Return the name of the patient whose images lie at a place below the root, and their kind.

    Not what is called like a sequence or says nothing, nor a folder whose name is repeated in what it holds.
    parts: folders, and the name of the file or of the folder of slices last.
    file: whether that is a file, whose kind may stand anywhere in its name.
    """
    kind: Kind = None
    left: list[str] = []
    for number, part in enumerate(reversed([*root.parts[1:], *parts])):
        if number >= len(parts) and left:
            break
        whose, found = kind_of(part, within=file and number == 0)
        kind = MASK if found == MASK else kind
        if found in (MASK, OTHER):  # of some sequence
            whose = kind_of(whose)[0]
        elif left and whose:  # sub-01_flair/x.nii.gz: the folder is of no sequence alone
            whose, found = part, None
        kind = found if kind is None else kind
        repeated = left and re.search(rf"(?<![a-z0-9]){re.escape(whose)}(?![a-z0-9])", left[0], re.IGNORECASE)
        if whose and not NOBODY.fullmatch(whose) and not repeated:
            left.insert(0, whose)
    return safe_name("_".join(left)).lstrip(".") or "images", kind


def identify(place: Path, root: Path, patterns: dict[Kind, str]) -> tuple[str, Kind]:
    """Return whose a place below the root is, and its kind: by a pattern, nnU-Net's dataset.json, or its names."""
    *folders, last = Path(os.path.abspath(place)).relative_to(root).parts
    file = place.is_file()
    last = stem(place) if file else last
    for kind, pattern in patterns.items():
        if fnmatch.fnmatch(place.name, pattern):
            for piece in filter(None, map(stem, map(Path, re.split(r"[*?]+", pattern)))):
                last = last.replace(piece, "").strip("_-. ")
            return read_place([*folders, last], root, file)[0], kind
    numbered = re.fullmatch(r"(.+)_(\d{4})", last) if file else None
    if numbered and (channel := nnunet_channels(place.parent.parent).get(numbered[2])):
        kind = kind_of(channel)[1]
        return read_place([*folders, numbered[1]], root, file)[0], OTHER if kind is None else kind
    name, kind = read_place([*folders, last], root, file)
    return name, OTHER if kind in patterns else kind  # the option names another


@functools.cache
def nnunet_channels(folder: Path) -> dict[str, str]:
    """Return the sequence of each number that ends a name in an nnU-Net data set (x_0000.nii.gz), if it is one."""
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return {f"{int(number):04d}": str(name) for number, name in about["channel_names"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or of another program
        return {}


def find_items(inputs: Iterable[Path], patterns: dict[Kind, str], problems: list[str]) -> list[Item]:
    """Return the items of all inputs in order, masks among them; adds to the problems.

    The pictures, or the DICOM files, of one folder are one item; any other file is its own. What matches a pattern is
    of its kind, and of the patient that the rest of its name says.
    """
    found: dict[tuple[Path, str], dict[Path, None]] = defaultdict(dict)  # by place, and format
    roots: dict[Path, Path] = {}
    for given in inputs:
        files = list(files_below(given)) if given.is_dir() else [given] if given.is_file() and is_read(given) else []
        if not files:
            why = f"nothing to read here ({', '.join(ENDINGS)}, DICOM)" if given.exists() else "no such file or folder"
            problems.append(f"{given}: {why}. Name another.")
        for path in files:
            format = "pictures" if file_ending(path) in PICTURES else file_ending(path) or "DICOM"
            place = path.parent if format in ("pictures", "DICOM") else path
            root = Path(os.path.abspath(given if given.is_dir() and place != given else place.parent))
            roots[place] = min(roots.get(place, root), root, key=lambda folder: len(folder.parts))
            found[place, format][path] = None
    items = []
    for (place, _), paths in found.items():
        name, kind = identify(place, roots[place], patterns)
        paths = sorted(sorted(paths), key=natural_order)
        by_kind: dict[Kind, list[Path]] = {kind: [], MASK: [], OTHER: []}  # masks lie among the pictures of a folder
        for path in paths:
            of = kind
            if fnmatch.fnmatch(path.name, patterns.get(MASK, "")):
                of = MASK
            elif place.is_dir() and kind != MASK and KINDS[MASK].search(stem(path)):
                of = OTHER if MASK in patterns else kind_of(stem(path))[1]
            by_kind[of].append(path)
        items += [Item(place, own, roots[place], name, of) for of, own in by_kind.items() if own]
    return items


def files_below(folder: Path, levels: int = DEEPEST, ours: bool = False) -> Iterator[Path]:
    """Yield the files to read in a folder and its subfolders, which may be links; neither hidden ones nor overlays.

    ours: also in folders that predict_model.py wrote; its masks are no reference.
    """
    entries = sorted(folder.glob("[!.]*"))
    if not ours and {path.name for path in entries} >= OURS:
        return
    left_out = JUNK_FOLDERS | (BIDS_OTHERS if (folder / BIDS).is_file() else set())
    yield from (path for path in entries if path.is_file() and is_read(path))
    for path in entries:
        if not levels or not path.is_dir() or path.name in left_out:
            continue
        if not path.is_symlink() or not path.parent.resolve().is_relative_to(path.resolve()):  # which leads back
            yield from files_below(path, levels - 1, ours)


def is_read(path: Path) -> bool:
    """Return whether a file is of a kind that is read, by its ending or as DICOM, and no overlay."""
    return not stem(path).lower().endswith("_overlay") if file_ending(path) else is_dicom(path)


# --- Patterns and tables ---------------------------------------------------------------------------------------


def is_pattern(text: str) -> bool:
    """Return whether an option names a pattern of file names, and not a file."""
    return bool(re.search(r"[*?[]", text)) and not Path(text).exists()


def matching(main: Item, kind: Kind, text: str, items: list[Item], folders: list[Path]) -> Item:
    """Return what an option names for a patient: the file, or of the items of its kind the one of the same name.

    Names do not matter where there is no other patient in the folder, by the folders of all.
    Raises: ValueError if there is none, or several.
    """
    if not is_pattern(text):
        return one_item(Path(text))._replace(kind=kind)
    own = [item for item in items if item.kind == kind and item.name == main.name]
    if not own and folders.count(folder := main.place.parent) == 1:
        own = [item for item in items if item.kind == kind and item.place.parent == folder]
    if len(own) != 1:
        raise ValueError(
            f"{main.place}: {len(own) or 'no'} files match {text} beside it. Name a pattern that fits one for each "
            f"patient, or {REMEDY}"
        )
    return own[0]


def one_item(path: Path) -> Item:
    """Return the images, or else the masks, of a file or folder. Raises: ValueError if there are none, or several."""
    items = find_items([path], {}, problems := [])
    items = [item for item in items if item.kind != MASK] or items
    if len(items) != 1:
        raise ValueError(problems[0] if problems else f"{path}: holds {len(items)} stacks. Name one of them.")
    return items[0]


def from_table(table: Path, problems: list[str]) -> list[list[Item]]:
    """Return the items of the patients in a CSV file, that of FLAIR first, which bears the name; adds to the problems.

    One row per patient: patient, flair and, if wanted, pre, post and mask, whose cells may be empty. Paths are relative
    to the folder of the table.
    """
    try:
        rows = read_csv(table, ["patient", "flair"])
    except UserError as error:
        problems.append(str(error))
        return []
    patients: list[list[Item]] = []
    for line, row in zip(rows.index + 2, rows.to_dict("records"), strict=True):
        name = safe_name(row["patient"])
        try:
            if is_unsafe_path(name) or "/" in name or "\\" in name or name.startswith("."):
                raise ValueError(f"{name!r} cannot be the name of a folder. Write another.")
            if name.lower() in [main.name.lower() for main, *_ in patients]:
                raise ValueError(f"{name} is named twice. Remove one of the lines.")
            filled = {kind: row[column] for column, kind in COLUMNS.items() if row.get(column)}
            patients.append([one_item(table.parent / path)._replace(kind=k, name=name) for k, path in filled.items()])
        except ValueError as error:
            problems.append(f"{table}, line {line}: {error}")
    return patients
