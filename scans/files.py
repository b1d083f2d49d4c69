"""Which files below a folder are read, and why the others are not."""

import os
from collections.abc import Iterator
from pathlib import Path

from constants import JUNK_FOLDERS
from scans.medical import is_dicom
from scans.scan import file_ending, stem

DEEPEST = 8  # levels of folders below a folder that is named; patient, session, kind and series are 4
BIDS = "dataset_description.json"  # in a folder of that standard, where these hold no scans as they were taken
BIDS_OTHERS = {"code", "derivatives", "sourcedata", "stimuli"}
OURS = {"slices.csv", "patients.csv"}  # predict_model.py wrote a folder that holds both
GONE, DENIED = "a link that leads nowhere", "no permission to read it"
PROBLEMS = (GONE, DENIED)  # of which a file is named as a problem, too


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
        return "" if is_dicom(path) else GONE
    if not os.access(path, os.R_OK):
        return DENIED
    return "" if os.path.isfile(path) and is_dicom(path) else "no image"
