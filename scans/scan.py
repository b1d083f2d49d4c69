"""Scans that are not of the data set: the formats that are read, their limits, and the names of their files.

The files may come from anyone: only known formats are read, limits are checked before anything is decoded, and nothing
is unpickled.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
ENDINGS = (*PICTURES, ".npy", ".nii", ".nii.gz")
MOST_SIDE = 4096  # rows or columns of a slice; MR has about 1024
MOST_SLICES = 1024  # of a scan
MOST_PIXELS = 2**27  # of a scan, each slice padded to a square: 512 slices of 512 x 512
MOST_BYTES = 640 * 2**20  # of a scan's values: three sequences of 192 slices of 512 x 512 in float32
UNSAFE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")  # of a name: control characters, bytes that are not UTF-8


@dataclass(frozen=True)
class Source:
    """The files of one patient.

    Attributes:
        name: unique among the patients that are read together.
        paths: the pictures of a folder, the files of a DICOM series, or one array or NIfTI volume.
        others: the files of further sequences, by their channel; `paths` then is FLAIR.
        masks: reference masks: one per picture, or one volume; empty without any.
        series: which DICOM series is meant where a folder holds several.
        notes: how the files were chosen, for the user.
    """

    name: str
    paths: list[Path]
    others: dict[int, list[Path]] = field(default_factory=dict)
    masks: list[Path] = field(default_factory=list)
    series: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Scan:
    """The slices of one patient, or the pictures of one folder.

    Attributes:
        slices: uint8 [H, W, 3] each, channels as in constants.py, from bottom to top where the file says so.
        names: one per slice.
        paths: the file of each slice, or the one file or folder of all.
        spacing: mm between rows, columns, slices; None where unknown.
        notes: what was done to intensities or channels, for the user.
        grey: whether there is one sequence only, which fills all three channels.
        grid: where the slices of a NIfTI volume or a DICOM series lie (volumes.Grid); None for other formats.
    """

    name: str
    slices: list[np.ndarray]
    names: list[str]
    paths: list[Path]
    spacing: tuple[float, float, float] | None = None
    notes: list[str] = field(default_factory=list)
    grey: bool = False
    grid: Any = None


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
