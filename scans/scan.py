"""A scan in memory, the limit of what is read, and names of files.

Files may come from anyone: only known formats are read, the size is checked before anything is decoded, and nothing is
unpickled.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from constants import IMAGE_SIZE

if TYPE_CHECKING:
    from scans.medical import Grid

PICTURES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
NIFTI = (".nii", ".nii.gz")
ENDINGS = (*PICTURES, ".npy", *NIFTI, ".nrrd", ".nhdr", ".mha", ".mhd")
MOST_VOXELS = 2**27  # of a scan, slices padded to squares: 512 slices of 512 x 512
UNSAFE = re.compile(r"[\0-\x1f\x7f\ud800-\udfff]")  # of a name: control characters, bytes that are not UTF-8


@dataclass
class Scan:
    """The slices of one patient, channels as in constants.py, upwards where the file says so."""

    name: str
    slices: np.ndarray  # uint8 [S, H, W, 3]
    names: list[str]  # of the slices
    paths: list[Path]  # the file of each slice, or the one file or folder of all
    spacing: tuple[float, float, float] | None = None  # mm between rows, columns, slices
    notes: list[str] = field(default_factory=list)  # what was done to intensities or channels, for the user
    warnings: list[str] = field(default_factory=list)  # why the mask may be wrong
    grey: bool = False  # whether there is one sequence only, which fills all three channels
    grid: "Grid | None" = None  # where the slices lie in a file of medical images
    sizes: list[tuple[int, ...]] = field(default_factory=list)  # of pictures of several sizes, before they were padded


def check_voxels(height: int, width: int, slices: int = 1, before: int = 0) -> int:
    """Return the voxels of slices, each padded to a square of at least the network's size, and of those before.

    To be called before they are decoded. Raises: ValueError if they would not fit into memory.
    """
    voxels = before + slices * max(height, width, IMAGE_SIZE) ** 2
    if voxels > MOST_VOXELS:
        raise ValueError(
            f"{voxels:,} voxels, slices padded to squares; at most {MOST_VOXELS:,} are read. Use one folder or file "
            "per patient."
        )
    return voxels


def pad(planes: Sequence[np.ndarray], square: bool = False) -> np.ndarray:
    """Return slices as one array; smaller ones get empty rows and columns at their ends."""
    height, width = (max(plane.shape[axis] for plane in planes) for axis in (0, 1))
    height, width = (max(height, width),) * 2 if square else (height, width)
    form = np.result_type(*{plane.dtype for plane in planes})
    stack = np.zeros((len(planes), height, width, *planes[0].shape[2:]), form)
    for own, plane in zip(stack, planes, strict=True):
        own[: plane.shape[0], : plane.shape[1]] = plane
    return stack


def file_ending(path: Path) -> str:
    """Return the ending that says how to read a file, such as .png or .nii.gz; empty for DICOM and any other file."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def stem(path: Path) -> str:
    """Return the name of a file without the ending that says how to read it."""
    return path.name[: len(path.name) - len(file_ending(path))] or path.name


def safe_name(name: str) -> str:
    """Return a name that can be printed and written in UTF-8: other bytes and control characters as %E9."""
    return UNSAFE.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def natural_order(path: Path) -> list[tuple[float, str]]:
    """Return a sort key by which slice_2 comes before slice_10, and z_-12.5 before z_2.5; the sign follows no word."""
    parts = re.split(r"((?:(?<![^_ =])-)?(?<![\d.])\d+\.\d+(?![\d.])|(?:(?<![^_ =])-)?\d+)", stem(path).lower())
    return [(float(part), "") if number % 2 else (-math.inf, part) for number, part in enumerate(parts)]
