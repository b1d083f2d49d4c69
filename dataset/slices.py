"""Decode slices and masks, each file once, into uint8 arrays."""

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from PIL import Image

from constants import CHANNELS, IMAGE_SIZE
from utils import UserError, counted, describe_problems, list_few, parallel_map

COLUMNS = ["patient", "image_path", "mask_path"]  # of a table of slices; paths are relative to the data folder
CHECKSUM = "checksum"  # a further column of the split tables of a run, see `checksums`


@dataclass
class Slices:
    """Decoded slices in the order of their table, on one device."""

    images: torch.Tensor  # uint8 [N, 256, 256, 3]; pre-contrast, FLAIR, post-contrast
    masks: torch.Tensor  # uint8 [N, 256, 256]; 1 on the FLAIR abnormality, else 0
    table: pd.DataFrame  # N rows of COLUMNS

    def __len__(self) -> int:
        return len(self.images)

    @property
    def patients(self) -> list[str]:
        """The patient of each slice."""
        return self.table["patient"].tolist()

    def stacks(self) -> dict[str, np.ndarray]:
        """Return the rows of each patient, sorted by the number of the slice, by sorted patient."""
        numbers = self.table["image_path"].map(slice_number)
        groups = numbers.groupby(self.table["patient"])
        return {patient: own.sort_values(kind="stable").index.to_numpy() for patient, own in groups}

    def batch(self, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and masks of the given row numbers (int64 [B], on the CPU), on the device."""
        if self.images.device == device:
            rows = rows.to(device, non_blocking=True)
            return self.images[rows], self.masks[rows]
        batch = (self.images[rows], self.masks[rows])
        return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in batch)

    def to(self, device: torch.device) -> Self:
        """Return a copy on the device if it fills less than a quarter of its free memory; else stay on the host."""
        if device.type == "cuda" and self.images.nbytes + self.masks.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return replace(self, images=self.images.to(device), masks=self.masks.to(device))

    def describe(self) -> str:
        """Return a line with the number of patients, slices and tumour slices."""
        if not len(self):
            return "no patients"
        tumour = int(self.masks.flatten(1).any(1).sum())
        return (
            f"{self.table['patient'].nunique():3d} patients  {len(self):5d} slices  "
            f"{tumour:4d} with tumour ({tumour / len(self):.0%})"
        )


def without_masks(images: np.ndarray, patient: str) -> Slices:
    """Return the slices of one patient without a reference, uint8 [N, 256, 256, 3], with empty masks."""
    table = pd.DataFrame({"patient": [patient] * len(images), "image_path": "", "mask_path": ""}, columns=COLUMNS)
    return Slices(torch.from_numpy(images), torch.zeros(images.shape[:3], dtype=torch.uint8), table)


def table_of(numbers: Mapping[str, Iterable[int]]) -> pd.DataFrame:
    """Return a table of slices, as find_slices does, of patients with the numbers of their slices."""
    names = [(patient, f"{patient}/{patient}_{number}") for patient, own in numbers.items() for number in own]
    return pd.DataFrame([(patient, f"{name}.tif", f"{name}_mask.tif") for patient, name in names], columns=COLUMNS)


def slice_number(image_path: str) -> int:
    """Return the number in the name of a slice's file."""
    return int(re.search(r"_(\d+)\.tiff?$", image_path, re.IGNORECASE)[1])


def checksums(slices: Slices) -> list[str]:
    """Return a checksum of the pixels of each image and its mask, as text that no spreadsheet takes for a number."""
    images, masks = slices.images.numpy(), slices.masks.numpy()
    return parallel_map(lambda row: f"x{zlib.crc32(masks[row], zlib.crc32(images[row])):08x}", range(len(slices)))


def fingerprint(images: Iterable[np.ndarray]) -> str:
    """Return a text that identifies the images of a patient (uint8 [H, W, 3] each, slices in their order)."""
    content = hashlib.sha256()
    for image in images:
        content.update(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    return f"sha256:{content.hexdigest()[:16]}"


def name_digest(patient: str) -> str:
    """Return a text that stands for a patient's name, which may be that of a person."""
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def describe_changes(slices: Slices) -> str:
    """Return a warning that names slices whose pixels have changed since training began; "" if there are none."""
    if CHECKSUM not in slices.table:
        return ""
    changed = slices.table.loc[slices.table[CHECKSUM] != checksums(slices), "mask_path"].tolist()
    what = f"image or mask of {counted(len(changed), 'slice')} changed since training began"
    return f"warning: {what}: {list_few(changed)}" if changed else ""


def load_slices(folder: Path, tables: dict[str, pd.DataFrame]) -> dict[str, Slices]:
    """Decode and check every file of the tables ({split: table}).

    Raises: UserError that lists every file that is not a valid image or mask.
    """
    table = pd.concat(tables.values(), ignore_index=True)
    images = np.empty((len(table), IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
    masks = np.empty(images.shape[:3], np.uint8)

    def read_row(row: int) -> list[str]:
        problems = []
        for read, column, target in ((read_image, "image_path", images), (read_mask, "mask_path", masks)):
            try:
                target[row] = read(folder / table[column].iat[row])
            except ValueError as error:
                problems.append(str(error))
        return problems

    if problems := [problem for of_row in parallel_map(read_row, range(len(table))) for problem in of_row]:
        raise UserError(describe_problems(folder, problems))
    sizes = [len(table) for table in tables.values()]
    parts = (torch.from_numpy(pixels).split(sizes) for pixels in (images, masks))
    return {split: Slices(*pixels, tables[split]) for split, *pixels in zip(tables, *parts, strict=True)}


def read_image(path: Path) -> np.ndarray:
    """Return one slice, uint8 [256, 256, 3]. Raises: ValueError naming the file, what is wrong, and the remedy."""
    return read_tiff(path, "RGB", "an image")


def read_mask(path: Path) -> np.ndarray:
    """Return one mask, uint8 [256, 256], 0 or 1. The file holds 0 and one positive value. Raises: as `read_image`."""
    pixels = read_tiff(path, "L", "a mask")
    foreground = pixels == max(pixels.max(), 1)
    if np.count_nonzero(foreground) != np.count_nonzero(pixels):
        shown = list_few(np.unique(pixels).tolist(), 5)
        raise ValueError(f"{path}: a mask with the values {shown}. Save it with 0 and one positive value only.")
    if foreground[:: IMAGE_SIZE - 1, :: IMAGE_SIZE - 1].all():
        raise ValueError(f"{path}: a mask of all four corners: inverted, or its header is damaged. Restore it.")
    return foreground.view(np.uint8)


def read_tiff(path: Path, mode: str, what: str) -> np.ndarray:
    """Return the pixels of a single-page TIFF, uint8 [256, 256, 3] in the mode RGB, [256, 256] in the mode L.

    OpenCV would take half of the time, but decodes damaged files to other pixels without a word.
    """
    try:
        with Image.open(path, formats=["TIFF"]) as picture:
            pages, actual_mode, size = getattr(picture, "n_frames", 1), picture.mode, picture.size
            pixels = np.asarray(picture)
    except Exception as error:  # Pillow raises many kinds for damaged files
        reason = f"{type(error).__name__}: {error}" if path.exists() else "no such file, or a link that leads nowhere"
        raise ValueError(f"{path}: cannot be read as a TIFF ({reason}). Restore it from the data set.") from None
    if (pages, actual_mode, size) != (1, mode, (IMAGE_SIZE, IMAGE_SIZE)):
        has = f"{counted(pages, 'page')} of the mode {actual_mode} and {size[0]}x{size[1]} pixels"
        raise ValueError(
            f"{path}: has {has}, but {what} must have 1 of {mode} and {IMAGE_SIZE}x{IMAGE_SIZE}. Convert it."
        )
    return pixels
