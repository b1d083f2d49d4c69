"""Slices as pictures: PNG, TIFF, JPEG and BMP."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE

from scans.scan import PICTURES, Scan, check_side, file_ending

FORMATS = sorted(set(PICTURES.values()))
GREYS = ("L", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow's modes of one channel
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of either byte order; + where offsets have 64 bits
COLOURS = {"RGB": "RGB", "RGBA": "RGB", "P": "RGB", "LA": "L", "1": "L"}  # modes of 8 bits, and what they become


def read_size(path: Path) -> tuple[int, int]:
    """Return height and width of a picture, from its header. Raises what `read_picture` raises."""
    with _opened(path) as picture:
        return picture.height, picture.width


def read_picture(path: Path) -> np.ndarray:
    """Return one picture: [H, W] of uint8, uint16, int32 or float32, or uint8 [H, W, 3].

    Raises: ValueError for what is not one slice of at most MOST_SIDE rows and columns; any of Pillow's errors.
    """
    with _opened(path) as picture:
        mode = COLOURS.get(picture.mode, picture.mode)
        return np.asarray(picture if picture.mode == mode else picture.convert(mode))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture, checked but not decoded."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            _check(picture)
            yield picture
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            if file.read(4) not in TIFF_BEGINNINGS:
                raise
        raise ValueError(
            "a TIFF of a kind that is not read, such as floating point or whole numbers of 64 bits. Save it as .npy."
        ) from None


def _check(picture: Image.Image) -> None:
    """Raise ValueError for a picture that is not one slice of a known pixel format; nothing is decoded."""
    check_side(picture.height, picture.width)
    if getattr(picture, "is_animated", False):
        raise ValueError("has more than one page. Save one slice per file, or the stack as .npy or NIfTI.")
    if picture.mode not in (*GREYS, *COLOURS):
        raise ValueError(f"has the pixel format {picture.mode}. Save it as grey or as RGB.")
    # Pillow cuts colours of 16 bits to 8 without a warning; it reads a PNG of such colours as RGB;16B
    bits = picture.tag_v2.get(BITSPERSAMPLE, (1,)) if picture.format == "TIFF" else (1,)
    if picture.mode in COLOURS and (max(bits) > 8 or ";16" in str(picture.tile)):
        raise ValueError("has colours, or transparency, of more than 8 bits. Save the sequences as .npy or NIfTI.")


def mask_files(scan: Scan, masks: list[np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Return a file for each mask (uint8 [H, W], 0 or 1), with values 0 and 255: TIFF if the slice is TIFF, else PNG.

    The keys are file names, the values return the content.
    """
    files = {}
    for name, source, mask in zip(scan.names, scan.paths, masks, strict=True):
        kind = "TIFF" if PICTURES[file_ending(source)] == "TIFF" else "PNG"  # JPEG would blur the outlines
        files[f"{name}_mask{'.tif' if kind == 'TIFF' else '.png'}"] = partial(_encode_mask, mask, kind)
    return files


def probability_files(scan: Scan, probabilities: list[np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Return a grey PNG for the probabilities of each slice (float32 [H, W]): 255 is 1. Keys and values as above."""
    return {
        f"{name}_probability.png": partial(_encode_probability, plane)
        for name, plane in zip(scan.names, probabilities, strict=True)
    }


def _encode_probability(plane: np.ndarray) -> bytes:
    return encode((plane * 255).round().astype(np.uint8))


def _encode_mask(mask: np.ndarray, kind: str) -> bytes:
    return encode(mask * 255, kind)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return uint8 [H, W] or [H, W, 3] as the content of a picture file."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format=kind)
        return file.getvalue()
