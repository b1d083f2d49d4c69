"""Slices as pictures: PNG, TIFF, JPEG and BMP."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE

from scans.scan import PICTURES, Scan, check_size, file_ending
from utils import atomic_write

FORMATS = sorted(set(PICTURES.values()))
GREYS = ("L", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of one channel
COLOURS = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "LA": "L", "1": "L"}  # modes of 8 bits, and what they become


def read_picture(path: Path) -> np.ndarray:
    """Return one picture: [H, W] of uint8, uint16, int32 or float32, or uint8 [H, W, 3].

    Raises: ValueError for what is not one slice of at most MOST_SIDE rows and columns; any of Pillow's errors.
    """
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
        _check(picture)
        return np.asarray(picture.convert(COLOURS.get(picture.mode)))


def _check(picture: Image.Image) -> None:
    """Raise ValueError for a picture that is not one slice of a known pixel format; nothing is decoded."""
    check_size((picture.height, picture.width))
    if (pages := getattr(picture, "n_frames", 1)) != 1:
        raise ValueError(f"has {pages} pages. Save one slice per file, or the stack as .npy or NIfTI.")
    if picture.mode not in (*GREYS, *COLOURS):
        raise ValueError(f"has the pixel format {picture.mode}. Save it as grey or as RGB.")
    # Pillow cuts colours of 16 bits to 8 without a warning; it reads a PNG of such colours as RGB;16B
    bits = picture.tag_v2.get(BITSPERSAMPLE, (1,)) if picture.format == "TIFF" else (1,)
    if picture.mode in COLOURS and (max(bits) > 8 or ";16" in str(picture.tile)):
        raise ValueError("has colours, or transparency, of more than 8 bits. Save the sequences as .npy or NIfTI.")


def write_masks(scan: Scan, masks: list[np.ndarray], folder: Path) -> None:
    """Write one file per mask (uint8 [H, W], 0 or 1) with values 0 and 255: TIFF if the slice is TIFF, else PNG."""
    for name, source, mask in zip(scan.names, scan.paths, masks, strict=True):
        ending = ".tif" if PICTURES[file_ending(source)] == "TIFF" else ".png"  # JPEG would blur the outlines
        write_picture(mask * 255, folder / f"{name}_mask{ending}")


def write_picture(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W] or [H, W, 3] in the format of the file's ending."""
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format=PICTURES[file_ending(path)])
