"""Which files belong to whom: by names of files and folders, headers, patterns, or a table of the user.

Every file below a folder is used, or unused with a reason. A patient is named by the place of the files alone.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from constants import FLAIR, POST, PRE
from scans.items import NOT_CHOSEN, Cohort, Item, Patient, find_items, gap_in, identify
from scans.names import COLUMNS, MASK, OTHER, SHOWN, Kind, base_of, is_pattern, kind_of, volumes_of_set
from scans.scan import stem
from scans.table import read_cell, read_table
from utils import UserError, counted

# Images by what stands before the sequence in their names, of each folder with its subfolders
Images = dict[Path, dict[str, list[Item]]]
NO_USE = "no sequence that is used"
REMEDY = "write it into the table of --list."


def find_patients(inputs: Iterable[Path], options: dict[Kind, str] | None = None, series: str = "") -> Cohort:
    """Return the patients of files, folders and tables. Masks are never segmented.

    Args:
        inputs: folders stand for all in them and in their subfolders; tables are those of `to_table`.
        options: of PRE, POST or MASK, the pattern of the names of its files; or its file, of the one patient.
        series: which DICOM series is FLAIR where there are several.
    """
    inputs, options = list(inputs), {kind: text for kind, text in (options or {}).items() if text}
    tables = [path for path in inputs if path.suffix.lower() == ".csv"]
    cohort = Cohort([], [], [])
    items = find_items([path for path in inputs if path not in tables], options, cohort.problems)
    for table in tables:
        cohort.patients.extend(read_table(table, cohort.problems))
    taken = {patient.name.lower() for patient in cohort.patients}
    for name, own in group(items):
        add_patients(cohort, name, choose_series(own, series, cohort.problems), taken)
    for patient in cohort.with_flair:
        flair = patient.items[FLAIR]
        if not {PRE, POST} & patient.items.keys() and any(volumes := volumes_of_set(flair.place)):
            shown = ", ".join(f"{SHOWN[kind]} {volumes[kind]}" for kind in (PRE, FLAIR, POST))
            patient.notes.append(f"volumes by their numbers from 0, as dataset.json says: {shown}")
        if gap := gap_in(flair):
            patient.notes.append(gap)
            cohort.problems.append(f"{flair.place}: {gap}")
    take_options(cohort, options)
    if not cohort.with_flair and not cohort.problems:
        cohort.problems.append(f"{inputs[0]}: nothing is FLAIR by its name or its values. Name another, or {REMEDY}")
    return cohort


def take_options(cohort: Cohort, options: dict[Kind, str]) -> None:
    """Give the one patient the files that options name; adds whom the pattern of an option fits not to the problems.

    The cells of a table go before options. Raises: UserError if there is one file for several patients.
    """
    for kind, text in options.items():
        lacking = [patient for patient in cohort.with_flair if kind not in patient.items]
        if not is_pattern(text) and len(lacking) > 1:
            raise UserError(f"{text} is one file for {len(lacking)} patients. Name a pattern, such as '*_t1.nii.gz'.")
        for patient in lacking:
            if is_pattern(text):
                cohort.problems.append(f"{patient.name}: no file matches {text} beside it. Name another, or {REMEDY}")
            else:
                patient.items[kind] = read_cell(Path(), text, kind, patient.name)


# --- From items to patients --------------------------------------------------------------------------------------


def group(items: list[Item]) -> list[tuple[str, list[Item]]]:
    """Return name and items of each patient. What has another name than any FLAIR may belong to one: see `owners`."""
    roots = {item.root for item in items if item.kind == FLAIR and not item.series}
    images: dict[Path, Images] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))  # by root
    named = set()  # who has an image
    for item in items:
        main = FLAIR if item.root in roots else None
        if item.kind == main and not item.series:
            for above in (item.folder, *item.folder.parents):
                images[item.root][above][item.begin].append(item)
        if item.kind in (FLAIR, main):
            named.add((item.root, item.name))
    patients: dict[tuple[Path, str], list[Item]] = {(item.root, item.name): [] for item in items}
    for item in items:
        name = item.name
        if item.alone and (item.root, name) not in named:
            fits = owners(item, images[item.root])
            if len(fits) == 1:
                (name,) = fits
            elif fits:
                item = item._replace(kind=OTHER if item.kind is None else item.kind)
                item = unused(item, "fits several scans: write it into the table")
        patients[item.root, name].append(item)
    return [(name, own) for (_, name), own in patients.items() if own]


def owners(item: Item, images: Images) -> set[str]:
    """Return the names of the patients that a file of another name may belong to.

    Only the nearest folder at or above it that holds images counts, with its subfolders: those of whom an image begins
    with the same name; or the one beside it, if either bears the name of the folder, or the image is called by its
    sequence alone. A mask may also lie above or below the folder of a FLAIR that is called FLAIR alone.
    """
    folder = item.folder
    nearest = next((above for above in (folder, *folder.parents) if above in images), folder)
    begins = images.get(nearest, {})
    begin = base_of(f"{stem(item.place)}_", begins)
    if begin and (nearest == folder or re.search(r"\d", begin)):
        return {image.name for image in begins[begin]}
    inside = (image for same in begins.values() for image in same if image.folder == folder)
    beside = list(itertools.islice(inside, 2)) if nearest == folder else []  # two are enough to know
    if len(beside) == 1:
        (image,) = beside
        of_folder = identify(folder, item.root, {})[0] in (item.name, image.name) and item.kind is not None
        if of_folder or not image.begin:
            return {image.name}
    if item.kind != MASK:
        return set()
    alone = (image for image in begins.get("", []) if image.kind == FLAIR)
    return {image.name for image in alone if nearest == folder or image.folder == nearest}


def choose_series(own: list[Item], series: str, problems: list[str]) -> list[Item]:
    """Return the items of a patient, of which the DICOM series that is meant is FLAIR; none of several is guessed."""
    stacks = [item for item in own if item.series]
    wanted = FLAIR if any(item.kind == FLAIR for item in own) else None
    meant = [item for item in stacks if (series.lower() in item.series.names if series else item.kind == wanted)]
    if stacks and len(meant) != 1 and (meant or series):
        listed = "; ".join(f"{item.series.label}, {counted(len(item.paths), 'file')}" for item in stacks)
        wrong = f"--series {series} names {len(meant) or 'none'} of them. " if series else ""
        problems.append(f"{stacks[0].folder}: holds {len(stacks)} series. {wrong}Name FLAIR with --series: {listed}.")
        meant = []
    return [
        item._replace(kind=FLAIR) if item in meant
        else item._replace(kind=OTHER, reason=NOT_CHOSEN) if item.series and item.kind in (FLAIR, None)
        else item for item in own
    ]  # fmt: skip


def add_patients(cohort: Cohort, name: str, own: list[Item], taken: set[str]) -> None:
    """Add the patient of some items to a cohort: one for each FLAIR, or for each image of no known sequence.

    taken: names of all patients in lower case, as some file systems see them; adds to it.
    """
    mains = [item for item in own if item.kind == FLAIR] or [item for item in own if item.kind is None]
    asked = any(item.reason == NOT_CHOSEN for item in own)
    if not mains and all(item.kind in (MASK, OTHER) and not item.series for item in own):
        for item in own:
            cohort.unused.append(unused(item, "a mask that fits no image" if item.kind == MASK else NO_USE))
            if item.kind == MASK and kind_of(stem(item.place))[1] == FLAIR:
                cohort.problems.append(
                    f"{item.place}: FLAIR by its name, a mask by its folder. Rename one, or {REMEDY}"
                )
        return
    rest = [item for item in own if item not in mains]
    for main in mains or [None]:
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        patient = Patient(next(text for text in names if text.lower() not in taken), {FLAIR: main} if main else {})
        taken.add(patient.name.lower())
        if patient.name != name:
            patient.called = name
            patient.notes.append(f"another one is called {name}, too")
        others = [item for item in rest if len(mains) < 2 or item.folder == main.folder]
        assign(patient, others, cohort.problems)
        if not main and not asked:
            shown = ", ".join(item.place.name for item in own)
            cohort.problems.append(f"{own[0].folder}: no FLAIR beside {shown}. Name its file x_flair, or {REMEDY}")
        cohort.patients.append(patient)
    if len(mains) > 1:
        folders = {main.folder for main in mains}
        left = (item for item in rest if item.folder not in folders)
        cohort.unused.extend(unused(item, "beside none of several scans") for item in left)


def assign(patient: Patient, items: list[Item], problems: list[str]) -> None:
    """Give a patient its other sequences and its mask; none of several is guessed. Adds to the problems."""
    for column, kind in COLUMNS.items():
        same = first = [item for item in items if item.kind == kind]
        # of masks a corrected one goes first, then one by a person
        for maker in ("reader", "corrected") if kind == MASK else ():
            best = [mask for mask in same if mask.maker == maker]
            first = best if len(best) == 1 else same if best else first
        if len(first) == 1:
            patient.items[kind] = first[0]
            patient.unused += [unused(item, "another mask goes first") for item in same if item is not first[0]]
        elif same:
            reason = f"one of {len(same)} that may be {SHOWN[kind]}: write one into {column} of the table"
            patient.unused += [unused(item, reason) for item in same]
            if kind != MASK:
                shown = " and ".join(item.place.name for item in same)
                problems.append(f"{patient.name}: {shown} are both {SHOWN[kind]}. Name one with --{column}.")
    patient.unused += [unused(item, NO_USE) for item in items if item.kind in (None, OTHER)]


def unused(item: Item, reason: str) -> Item:
    """Return an item with a reason why it is not used, unless it has one."""
    return item._replace(reason=item.reason or reason)
