"""The shape of a lesion in one slice, and the kinds of slices that people look at separately."""

import math

import cv2
import numpy as np

SMALL = 500  # pixels; a slice with less tumour is "small"
SPECK = 10  # pixels; a smaller separate part does not make a tumour two-part
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
