"""Lesions as connected parts: their shape, the kinds of slices, and which of them a prediction finds.

Parts are connected through corners too: 8 neighbours in a slice, 26 in a stack of slices.

Matching, in a slice and in a stack alike: a true lesion is found when at least a tenth of its pixels are predicted;
a predicted part is false when less than a tenth of its pixels are tumour. Smaller parts than SPECK pixels in a slice,
or SPECK_3D in a stack, are not counted, neither as lesions nor as false ones.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from evaluation.surfaces import bounding_box

SMALL = 500  # pixels; a slice with less tumour is "small"
SPECK = 10  # pixels; a smaller separate part does not make a tumour two-part
SPECK_3D = 50  # pixels; the same for a lesion in a stack of slices
COVERED = 0.1  # share of its pixels from which a part counts as matched
COMPLEX = 2.0  # boundary complexity from which an outline counts as complex: the median of one-part lesions >= SMALL

KINDS = ("no tumour", "small", "two-part", "complex boundary", "smooth")


def part_areas(mask: np.ndarray) -> list[int]:
    """Pixels of each 8-connected part of a mask (uint8 or bool [H, W]), largest first."""
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2]
    return sorted((int(area) for area in stats[1:, cv2.CC_STAT_AREA]), reverse=True)


def boundary_complexity(mask: np.ndarray) -> float:
    """perimeter² / (4 pi area) of the largest part: about 1 for a disc, more for an irregular outline; 0 if empty.

    Holes are filled. The outline runs through the centres of the boundary pixels, so that half a pixel is added
    around it, which lengthens it by pi.
    """
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not contours:
        return 0.0
    outline = max(contours, key=lambda points: (cv2.contourArea(points), len(points)))
    centre_length = cv2.arcLength(outline, closed=True)
    area = cv2.contourArea(outline) + centre_length / 2 + math.pi / 4  # grown by half a pixel, as the outline
    return (centre_length + math.pi) ** 2 / (4 * math.pi * area)


def kind_of_slice(mask: np.ndarray) -> str:
    """One of KINDS; the first rule that applies decides.

    no tumour: empty. small: fewer than 500 px. two-part: at least two parts of 10 px or more. Otherwise complex
    boundary or smooth, by the complexity of the outline of the largest part.
    """
    areas = part_areas(mask)
    if not areas:
        return "no tumour"
    if sum(areas) < SMALL:
        return "small"
    if sum(area >= SPECK for area in areas) >= 2:
        return "two-part"
    return "complex boundary" if boundary_complexity(mask) >= COMPLEX else "smooth"


class Matching(NamedTuple):
    """The true lesions of a slice or stack (arrays [L], in the order of their labels), and the predicted parts.

    first, last: index of the first and the last plane along axis 0; pixels: size; overlap: predicted pixels in it;
    found: bool; dice: of the lesion and all predicted parts that touch it; predicted, false: number of predicted
    parts, and of those that match no tumour.
    """

    first: np.ndarray
    last: np.ndarray
    pixels: np.ndarray
    overlap: np.ndarray
    found: np.ndarray
    dice: np.ndarray
    predicted: int
    false: int


def match(mask: np.ndarray, predicted: np.ndarray, smallest: int) -> Matching:
    """Which lesions of a mask a prediction finds (uint8 0 or 1, [H, W] or [S, H, W]); see the rule above."""
    box = bounding_box(mask | predicted)
    if box is None:
        nothing = np.zeros(0, int)
        return Matching(*[nothing] * 4, nothing.astype(bool), nothing.astype(float), 0, 0)
    touching = np.ones((3,) * mask.ndim, int)
    truth, lesions = ndimage.label(mask[box], touching)
    found_parts, parts = ndimage.label(predicted[box], touching)
    joint = np.bincount(
        (truth.astype(np.int64) * (parts + 1) + found_parts).ravel(), minlength=(lesions + 1) * (parts + 1)
    )
    joint = joint.reshape(lesions + 1, parts + 1)  # pixels of each lesion in each predicted part; 0 is neither
    pixels, part_pixels = joint.sum(1)[1:], joint.sum(0)[1:]
    joint = joint[1:, 1:]
    overlap, hits = joint.sum(1), joint.sum(0)
    dice = 2 * overlap / (pixels + (joint > 0) @ part_pixels)
    planes = [place[0] for place in ndimage.find_objects(truth)]
    start = box[0].start
    first = np.array([plane.start + start for plane in planes], int)
    last = np.array([plane.stop - 1 + start for plane in planes], int)
    found = overlap >= COVERED * pixels
    counted, counted_parts = pixels >= smallest, part_pixels >= smallest
    return Matching(
        *(column[counted] for column in (first, last, pixels, overlap, found, dice)),
        predicted=int(counted_parts.sum()),
        false=int((counted_parts & (hits < COVERED * part_pixels)).sum()),
    )


def remove_small_parts(masks: np.ndarray, smallest: int) -> np.ndarray:
    """Masks (uint8 0 or 1, [N, H, W]) without the parts that have fewer than `smallest` pixels in their slice."""
    if smallest <= 1:
        return masks
    kept = np.zeros_like(masks)
    for row in np.flatnonzero(masks.any((1, 2))):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(masks[row], connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= smallest
        large[0] = False  # the background
        kept[row] = large[labels]
    return kept
