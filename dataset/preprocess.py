"""From decoded slices to the network's input: intensities and the head's window, from each patient's stack alone.

Intensities are mapped by a table of 256 values per patient and sequence, so that training, testing and prediction do
exactly the same, and any rule costs the same. A single slice is its own stack.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from constants import CHANNELS, FLAIR, IMAGE_SIZE, MEAN, STD
from dataset.slices import Slices
from utils import parallel_map

VALUES = np.arange(256)
MULTIPLE = 32  # of height and width of what is computed: what the network with a stem halves without padding


class Preparation(NamedTuple):
    """How slices are prepared.

    Attributes:
        normalisation: a name in NORMALISATIONS.
        neighbours: slices before and after whose FLAIR is added as channels, nearest first, the one before before the
            one after. At the ends of a stack the last slice is repeated.
        crop: whether only the window around the head is computed; nothing is found outside of it.
        resolution: share of it at which the network computes; its logits are interpolated to the whole one.
    """

    normalisation: str = "plain"
    neighbours: int = 0
    crop: bool = False
    resolution: float = 1.0

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Preparation":
        """Return the one that the settings of a run, or `input` of a checkpoint, describe.

        Settings have no resolution: it may grow from epoch to epoch, and is whole in the end.
        """
        return cls(**{name: about[name] for name in cls._fields if name in about})

    @property
    def channels(self) -> int:
        return CHANNELS + 2 * self.neighbours

    @property
    def sequences(self) -> list[int]:
        """The sequence (PRE, FLAIR or POST) of each channel."""
        return [*range(CHANNELS), *[FLAIR] * (2 * self.neighbours)]


# --- Intensities: uint8 [S, H, W, 3] and the head in it, bool [S, H, W] -> float32 [3, 256], the values ---------


def plain(stack: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The same for all: 0..255 to [-1, 1]."""
    levels = torch.arange(256, dtype=torch.float32)[:, None]
    return levels.div_(255).sub(torch.tensor(MEAN)).div_(torch.tensor(STD)).T.numpy()


def by_head(stack: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Per sequence: clip to the percentiles 0.5 and 99.5 in the head, divide by the standard deviation; air is 0."""
    tables = []
    for sequence in range(CHANNELS):
        inside = stack[..., sequence][head] if head.any() else stack[..., sequence].ravel()
        low, high = np.percentile(inside, (0.5, 99.5))
        spread = np.clip(inside, low, high).std(dtype=np.float64)
        clipped = np.clip(VALUES, low, high)
        tables.append((clipped - clipped[0]) / max(spread, 1))
    return np.array(tables, np.float32)


def published(stack: np.ndarray, head: np.ndarray) -> np.ndarray:
    """As Buda, Saha and Mazurowski (2019) publish it, over the whole stack.

    Levels below 10% of the stack's maximum become 0; all are clipped to the percentiles 10 and 99 over all sequences,
    then each sequence gets mean 0 and standard deviation 1.
    """
    kept = np.where(0.1 * stack.max() > VALUES, 0, VALUES)
    low, high = np.percentile(kept[stack], (10, 99))
    levels = np.clip(kept, low, high)
    tables = []
    for sequence in range(CHANNELS):
        values = levels[stack[..., sequence]]
        tables.append((levels - values.mean()) / max(values.std(), 1))
    return np.array(tables, np.float32)


NORMALISATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": plain,
    "head": by_head,
    "published": published,
}


# --- The head --------------------------------------------------------------------------------------------------


def find_head(stack: np.ndarray, filled: bool = False) -> np.ndarray:
    """Return where the head is: uint8 [S, H, W, 3] -> bool [S, H, W].

    In each slice the largest connected region in which FLAIR, the sequence that every patient has, reaches a tenth of
    the stack's percentile 99.5. Dark regions inside of it belong to it only if
    `filled` is set.
    """
    flair = stack[..., FLAIR]
    bright = (flair > 0.1 * np.percentile(flair, 99.5)).view(np.uint8)
    head = np.zeros(flair.shape, bool)
    for number, plane in enumerate(bright):
        opened = cv2.morphologyEx(plane, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        if count > 1:
            region = np.uint8(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())
            if filled:
                outlines = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
                cv2.drawContours(region, outlines, -1, 1, cv2.FILLED)
            head[number] = region
    return head


def head_box(head: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box (top, bottom, left, right; ends excluded) of the head in all slices, or the frame."""
    rows, columns = (np.flatnonzero(head.any((0, axis))) for axis in (2, 1))
    if not len(rows):
        return 0, head.shape[1], 0, head.shape[2]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def fitting(length: int, resolution: float = 1.0, size: int = IMAGE_SIZE) -> int:
    """Return the smallest side >= length whose part that is computed is a multiple of MULTIPLE; at most the frame's.

    A network that had to pad its windows would learn where the padding is.
    """
    multiples = math.ceil((length - 0.5) * resolution / MULTIPLE)  # the side is rounded
    return min(round(multiples * MULTIPLE / resolution), size)


def window(box: tuple[int, int, int, int], resolution: float = 1.0, size: int = IMAGE_SIZE) -> tuple[slice, slice]:
    """Return the smallest window of the frame around a box whose sides fit a resolution: rows and columns."""
    sides = []
    for start, stop in (box[:2], box[2:]):
        length = fitting(stop - start, resolution, size)
        first = min(max((start + stop - length) // 2, 0), size - length)
        sides.append(slice(first, first + length))
    return tuple(sides)


# --- Prepared slices -------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """Slices with what prepares them.

    Attributes:
        slices: the decoded slices; those of a patient stand together, sorted by number.
        stack: int64 [N], on the CPU; the number of the patient of each slice, from 0.
        levels: float32 [P x 3 x 256]; the value of each intensity of each sequence of each patient.
        boxes: the head's box of each patient.
    """

    slices: Slices
    how: Preparation
    stack: torch.Tensor
    levels: torch.Tensor
    boxes: list[tuple[int, int, int, int]]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def patients(self) -> list[str]:
        return self.slices.patients

    def to(self, device: torch.device) -> "Prepared":
        return Prepared(self.slices.to(device), self.how, self.stack, self.levels.to(device), self.boxes)

    def batch(self, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the network's input and the masks of the given rows (int64 [B], on the CPU), on the device.

        Returns: float32 [B, channels, 256, 256] and float32 [B, 1, 256, 256], 0 or 1.
        """
        images, masks = self.slices.batch(rows, device)
        planes = [images]
        for distance in range(1, self.how.neighbours + 1):
            for step in (-distance, distance):
                near, _ = self.slices.batch(self._neighbour(rows, step), device)
                planes.append(near[..., FLAIR : FLAIR + 1])
        values = torch.cat(planes, dim=3).permute(0, 3, 1, 2)
        sequence = torch.tensor(self.how.sequences)
        first = (self.stack[rows, None] * CHANNELS + sequence) * 256  # of the table of each slice and channel
        index = values.int() + first.int().to(device, non_blocking=True)[..., None, None]
        return self.levels[index], masks.unsqueeze(1).float()

    def _neighbour(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Return the rows `step` slices away in the same stack, or the last one in that direction."""
        last = self.stack.bincount().cumsum(0) - 1  # of each stack
        first = torch.cat([torch.zeros(1, dtype=last.dtype), last[:-1] + 1])
        stack = self.stack[rows]
        return torch.minimum(torch.maximum(rows + step, first[stack]), last[stack])

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, tuple[slice, slice]]]:
        """Yield all rows in batches, each with the window that is computed: the frame, or with `crop` the head's."""
        frame = (slice(0, IMAGE_SIZE), slice(0, IMAGE_SIZE))
        if not self.how.crop:
            yield from ((rows, frame) for rows in torch.arange(len(self)).split(size))
            return
        for patient, box in enumerate(self.boxes):
            for rows in torch.nonzero(self.stack == patient).squeeze(1).split(size):
                yield rows, window(box, self.how.resolution)


def prepare(slices: Slices, how: Preparation) -> Prepared:
    """Look at each patient's stack, and return the slices ready for a network."""
    patients, first, stack = np.unique(np.array(slices.patients, dtype=object), return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # in the order of the table
    stack = order[stack]
    images = slices.images.cpu().numpy()

    def look(patient: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        pixels = images[stack == patient]
        head = find_head(pixels)
        return NORMALISATIONS[how.normalisation](pixels, head), head_box(head)

    looked = parallel_map(look, range(len(patients)))
    levels = np.stack([levels for levels, _ in looked]) if looked else np.zeros((0, CHANNELS, 256), np.float32)
    return Prepared(
        slices, how, torch.from_numpy(stack), torch.from_numpy(levels).flatten(), [box for _, box in looked]
    )
