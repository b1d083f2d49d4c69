"""Distance between the outlines of two masks of one slice, in pixels: the files carry no spacing.

The surface of a mask is its pixels with a neighbour (above, below, left, right) outside of the mask; beyond the edge of
the image is outside. The distance of each surface pixel of one mask to the nearest of the other is taken, both ways.

    both masks empty     undefined: NaN, left out of every mean
    one of them empty    no distance exists: HD95 is NaN, surface Dice is 0. A missed slice therefore does not show
                         in HD95; read HD95 beside the number of missed slices or the surface Dice.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

TOLERANCES = (1, 2, 3)  # pixels, for the surface Dice
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Surfaces(NamedTuple):
    """HD95 of two outlines in pixels, the surface pixels of both together, and the surface Dice at TOLERANCES."""

    hd95: float
    pixels: int
    dice: tuple[float, ...]


def compare(mask: np.ndarray, predicted: np.ndarray) -> Surfaces:
    """Compare the outlines of two masks (uint8 0 or 1, [H, W])."""
    box = bounding_box(mask | predicted)
    if box is None:
        return Surfaces(np.nan, 0, (np.nan,) * len(TOLERANCES))
    one, other = (surface(np.ascontiguousarray(part[box])) for part in (mask, predicted))
    pixels = int(one.sum()) + int(other.sum())
    if not (one.any() and other.any()):
        return Surfaces(np.nan, pixels, (0.0,) * len(TOLERANCES))
    there, back = distances(one, other), distances(other, one)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    dice = tuple(float((there <= t).sum() + (back <= t).sum()) / pixels for t in TOLERANCES)
    return Surfaces(float(hd95), pixels, dice)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around all set pixels (uint8 0 or 1, or bool, any dimension); None without any."""
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a mask: uint8 0 or 1, [H, W], as the mask."""
    return mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each pixel of `one` to the nearest of `other`: float64 [pixels of `one`].

    one, other: uint8 0 or 1, [H, W], not empty. The squares are whole numbers; OpenCV's float32 roots of them are not
    always the same from call to call in their last bit.
    """
    found = cv2.distanceTransform(1 - other, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[one > 0].astype(np.float64)
    return np.sqrt(np.rint(found**2))
