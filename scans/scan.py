"""Scans that are not of the data set: the formats that are read, their limits, and which files make up one scan.

The files may come from anyone: only known formats are read, limits are checked before anything is decoded, and nothing
is unpickled.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
ENDINGS = (*PICTURES, ".npy", ".nii", ".nii.gz")
OURS = re.compile(r".*_(mask|overlay)", re.IGNORECASE)  # masks of the data set, and what predict_model.py writes
MOST_SIDE = 4096  # rows or columns of a slice; MR has about 1024
MOST_SLICES = 1024  # of a scan
MOST_PIXELS = 2**27  # of a scan, each slice padded to a square: 512 slices of 512 x 512
MOST_BYTES = 640 * 2**20  # of a scan's values: three sequences of 192 slices of 512 x 512 in float32
UNSAFE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")  # of a name: control characters, bytes that are not UTF-8


class Source(NamedTuple):
    """The files of one scan: the pictures of a folder, or one array or NIfTI volume. The name is unique."""

    name: str
    paths: list[Path]


@dataclass
class Scan:
    """The slices of one patient, or the pictures of one folder.

    Attributes:
        slices: uint8 [H, W, 3] each, channels as in constants.py, from bottom to top where the file says so.
        names: one per slice.
        paths: the file of each slice, or the one file of all.
        spacing: mm between rows, columns, slices; None where unknown.
        notes: what was done to intensities or channels, for the user.
        grey: whether there is one sequence only, which fills all three channels.
        nifti: the nibabel image that the slices are from; None for other formats.
    """

    name: str
    slices: list[np.ndarray]
    names: list[str]
    paths: list[Path]
    spacing: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    grey: bool = False
    nifti: Any = None


def check_side(height: int, width: int) -> None:
    """Raise ValueError if a slice is larger than any of MR; to be called before it is decoded."""
    if max(height, width) > MOST_SIDE:
        raise ValueError(f"is {width:,} x {height:,} pixels large; at most {MOST_SIDE:,} on a side are read.")


def check_total(slices: int, pixels: int, size: int = 0) -> None:
    """Raise ValueError if a scan would not fit into memory; to be called before it is decoded.

    Args:
        pixels: of all slices together, each padded to a square.
        size: bytes of the values.
    """
    for amount, most, unit in (
        (slices, MOST_SLICES, "slices"),
        (pixels, MOST_PIXELS, "pixels, each slice padded to a square"),
        (size, MOST_BYTES, "bytes of values"),
    ):
        if amount > most:
            raise ValueError(f"{amount:,} {unit}; at most {most:,} are read. Use one folder or file per patient.")


def find_sources(inputs: Iterable[Path]) -> tuple[list[Source], list[str]]:
    """Return the scans to read, and problems as text. Pictures of one folder are one scan, any other file is its own.

    A folder stands for the pictures and volumes in it, and for those in its subfolders (one per patient).
    """
    groups: dict[Path, set[Path]] = {}  # pictures under their folder, any other file under itself
    problems = []
    for given in inputs:
        files = _files_below(given) if given.is_dir() else [given] if given.is_file() and file_ending(given) else []
        if not files:
            reason = f"nothing to read here ({', '.join(ENDINGS)})" if given.exists() else "no such file or folder"
            problems.append(f"{given}: {reason}. Name another.")
        for path in files:
            groups.setdefault(path.parent if file_ending(path) in PICTURES else path, set()).add(path)
    sources: dict[str, Source] = {}  # by the name without case, which some file systems ignore
    for group, paths in groups.items():
        name = safe_name(stem(group) if group.is_file() else group.resolve().name).lstrip(".") or "images"
        numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        unique = next(each for each in numbered if each.lower() not in sources)
        sources[unique.lower()] = Source(unique, sorted(sorted(paths), key=natural_order))
    return list(sources.values()), problems


def _files_below(folder: Path) -> list[Path]:
    """Return the readable files in a folder and its subfolders; neither masks nor hidden files."""
    subfolders = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    files = [path for inside in (folder, *subfolders) for path in sorted(inside.glob("[!.]*")) if path.is_file()]
    return [path for path in files if file_ending(path) and not OURS.fullmatch(stem(path))]


def file_ending(path: Path) -> str:
    """Return the ending that says how to read a file, such as .png or .nii.gz; empty for any other file."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def stem(path: Path) -> str:
    """Return the name of a file without the ending that says how to read it."""
    return path.name[: len(path.name) - len(file_ending(path))] or path.name


def safe_name(name: str) -> str:
    """Return a name that can be printed and written in UTF-8: other bytes and control characters as %E9."""
    return UNSAFE.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which slice_2 comes before slice_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stem(path).lower())]
