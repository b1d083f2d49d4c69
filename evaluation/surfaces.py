"""Distance between the outlines of two masks of one slice, in pixels: the files carry no spacing.

The surface of a mask is its pixels that have a neighbour (above, below, left, right) outside of it; beyond the edge of
the image is outside. Each surface pixel of one mask is measured to the nearest of the other, both ways.

    both masks empty     nothing to measure: NaN, left out of every mean
    one of them empty    no distance exists: HD95 is NaN, surface Dice is 0. A missed slice therefore does not show
                         in HD95, which is to be read beside the count of missed slices or the surface Dice.
"""

from typing import NamedTuple

import cv2
import numpy as np

TOLERANCES = (1, 2, 3)  # pixels, for the surface Dice
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Surfaces(NamedTuple):
    """How far apart two outlines are: HD95 in pixels, surface pixels of both, and the surface Dice at TOLERANCES."""

    hd95: float
    pixels: int
    dice: tuple[float, ...]


def compare(mask: np.ndarray, predicted: np.ndarray) -> Surfaces:
    """The outlines of two masks (uint8 0 or 1, [H, W])."""
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
    """The smallest box that holds every set pixel of an array of any dimension; None where there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        used = np.flatnonzero(mask.any(others))
        if not len(used):
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def surface(mask: np.ndarray) -> np.ndarray:
    """The outermost pixels of a mask: uint8 0 or 1, [H, W] as the mask."""
    return mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each pixel of `one` to the nearest pixel of `other` (uint8 [H, W], not empty): float32, Euclidean."""
    return cv2.distanceTransform(1 - other, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[one > 0]
