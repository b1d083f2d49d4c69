"""From decoded slices to the network's input: intensities and the head's window, from each patient's stack alone.

Intensities are mapped by a table of 256 values per patient and sequence: training, testing and prediction do exactly
the same, and every normalisation costs the same. A single slice is its own stack.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import pandas as pd
import torch

from constants import CHANNELS, FLAIR, IMAGE_SIZE, MEAN, STD
from dataset.slices import Slices
from utils import parallel_map

MULTIPLE = 32  # of height and width of the network's input, also at half resolution: it then pads nothing

Box = tuple[int, int, int, int]  # top, bottom, left, right; ends excluded


class Preprocessing(NamedTuple):
    """How slices become the network's input.

    FLAIR of neighbours is added as channels, nearest first, the slice before ahead of the one after; at the ends of a
    stack the last slice is repeated. At a fraction of the resolution the logits are interpolated to full size.
    """

    normalisation: str = "plain"  # a name in NORMALISATIONS
    neighbours: int = 0  # slices before and after
    crop: bool = False  # compute only the window around the head; nothing is predicted outside of it
    resolution: float = 1.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing in the settings of a run or in `input` of a checkpoint.

        Settings have no resolution: it may grow from epoch to epoch and is full at the end.
        """
        return cls(**{name: values[name] for name in cls._fields if name in values})

    @property
    def channels(self) -> int:
        return CHANNELS + 2 * self.neighbours

    @property
    def sequences(self) -> list[int]:
        """The sequence (PRE, FLAIR or POST) of each channel."""
        return [*range(CHANNELS), *[FLAIR] * (2 * self.neighbours)]


# --- Intensities: uint8 [S, H, W, 3] and the head, bool [S, H, W] -> float32 [3, 256], the table of values --------


def plain(stack: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The same for all patients: 0..255 to [-1, 1]."""
    levels = torch.arange(256, dtype=torch.float32)[:, None]
    return levels.div_(255).sub(torch.tensor(MEAN)).div_(torch.tensor(STD)).T.numpy()


def by_head(stack: np.ndarray, head: np.ndarray, median: bool = False) -> np.ndarray:
    """Per sequence: clip to the percentiles 0.5 and 99.5 in the head, divide by the standard deviation; air is 0.

    median: divide by half of the median instead, which is that of the brain, with scalp and skull or without them.
    """
    tables = []
    for sequence in range(CHANNELS):
        inside = stack[..., sequence][head] if head.any() else stack[..., sequence].ravel()
        low, middle, high = np.percentile(inside, (0.5, 50, 99.5))
        clipped = np.clip(np.arange(256), low, high)
        deviation = np.clip(inside, low, high).std(dtype=np.float64)
        scale = (middle - clipped[0]) / 2 if median else deviation
        tables.append((clipped - clipped[0]) / max(scale, 1))
    return np.array(tables, np.float32)


NORMALISATIONS = {"plain": plain, "head": by_head, "median": functools.partial(by_head, median=True)}


# --- The head --------------------------------------------------------------------------------------------------


def find_head(stack: np.ndarray, filled: bool = False) -> np.ndarray:
    """Return the head in a patient's stack: uint8 [S, H, W, 3] -> bool [S, H, W].

    In each slice the largest connected region in which FLAIR, the sequence that every patient has, exceeds a tenth of
    the stack's 99.5th percentile. Dark regions inside of it, such as bone, belong to it if `filled`.
    """
    flair = stack[..., FLAIR]
    bright = (flair > 0.1 * np.percentile(flair, 99.5)).view(np.uint8)
    head = np.zeros(flair.shape, bool)
    for number, plane in enumerate(bright):
        opened = cv2.morphologyEx(plane, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        if count > 1:
            region = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
            head[number] = fill_holes(region) if filled else region
    return head


def fill_holes(region: np.ndarray) -> np.ndarray:
    """Return a region (bool [H, W]) with everything inside its outer outlines."""
    outlines = cv2.findContours(region.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    return cv2.drawContours(np.zeros(region.shape, np.uint8), outlines, -1, 1, cv2.FILLED) > 0


def head_box(head: np.ndarray) -> Box:
    """Return the box of the head in all slices (bool [S, H, W]), or the frame."""
    rows, columns = (np.flatnonzero(head.any((0, axis))) for axis in (2, 1))
    if not len(rows):
        return 0, head.shape[1], 0, head.shape[2]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def window_side(length: int, resolution: float = 1.0) -> int:
    """Return the smallest side >= length that is a multiple of MULTIPLE at this resolution; at most the frame's.

    A network that had to pad its windows would learn where the padding is.
    """
    multiples = math.ceil((length - 0.5) * resolution / MULTIPLE)  # the side is rounded
    return min(round(multiples * MULTIPLE / resolution), IMAGE_SIZE)


def window(box: Box, resolution: float = 1.0) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest window around a box with sides of `window_side`."""
    sides = []
    for start, stop in (box[:2], box[2:]):
        length = window_side(stop - start, resolution)
        first = min(max((start + stop - length) // 2, 0), IMAGE_SIZE - length)
        sides.append(slice(first, first + length))
    return tuple(sides)


# --- Preprocessed slices ---------------------------------------------------------------------------------------


@dataclass
class PreprocessedSlices(Slices):
    """Slices with the tables and boxes that make them the network's input.

    The slices of a patient stand together, sorted by number.
    """

    preprocessing: Preprocessing
    stack: torch.Tensor  # int64 [N], on the CPU; the number of the patient of each slice, from 0
    levels: torch.Tensor  # float32 [P x 3 x 256]; the value of each intensity of each sequence of each patient
    boxes: list[Box]  # the head's box of each patient

    def to(self, device: torch.device) -> Self:
        return replace(super().to(device), levels=self.levels.to(device))

    def batch(self, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's input and the masks of the given rows (int64 [B], on the CPU), on the device.

        Returns: float32 [B, channels, 256, 256] and float32 [B, 1, 256, 256], 0 or 1.
        """
        images, masks = super().batch(rows, device)
        planes = [images]
        for distance in range(1, self.preprocessing.neighbours + 1):
            for step in (-distance, distance):
                near, _ = super().batch(self._neighbour(rows, step), device)
                planes.append(near[..., FLAIR : FLAIR + 1])
        values = torch.cat(planes, dim=3).permute(0, 3, 1, 2)
        sequence = torch.tensor(self.preprocessing.sequences)
        first = (self.stack[rows, None] * CHANNELS + sequence) * 256  # of the table of each slice and channel
        index = values.int() + first.int().to(device, non_blocking=True)[..., None, None]
        return self.levels[index], masks.unsqueeze(1).float()

    def _neighbour(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Return the rows `step` slices away in the same stack, or the last one in that direction."""
        sizes, stack = self.stack.bincount(), self.stack[rows]
        ends = sizes.cumsum(0)  # of each stack, excluded
        return (rows + step).clamp((ends - sizes)[stack], ends[stack] - 1)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, tuple[slice, slice]]]:
        """Yield all rows in batches with the window to compute: the frame, or with `crop` the head's."""
        frame = (slice(0, IMAGE_SIZE), slice(0, IMAGE_SIZE))
        if not self.preprocessing.crop:
            yield from ((rows, frame) for rows in torch.arange(len(self)).split(size))
            return
        for patient, box in enumerate(self.boxes):
            for rows in torch.nonzero(self.stack == patient).squeeze(1).split(size):
                yield rows, window(box, self.preprocessing.resolution)


def preprocess(slices: Slices, preprocessing: Preprocessing) -> PreprocessedSlices:
    """Compute the table of intensities and the head's box of each patient."""
    stack, patients = pd.factorize(slices.table["patient"])  # in the order of the table
    images = slices.images.cpu().numpy()

    def patient_statistics(patient: int) -> tuple[np.ndarray, Box]:
        pixels = images[stack == patient]
        head = find_head(pixels)
        return NORMALISATIONS[preprocessing.normalisation](pixels, head), head_box(head)

    tables, boxes = zip(*parallel_map(patient_statistics, range(len(patients))), strict=True)
    levels = torch.from_numpy(np.concatenate(tables).ravel())
    of_patients = {"stack": torch.from_numpy(stack), "levels": levels, "boxes": list(boxes)}
    return PreprocessedSlices(**vars(slices), preprocessing=preprocessing, **of_patients)
