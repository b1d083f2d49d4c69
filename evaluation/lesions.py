"""Lesions and outlines of two masks of a slice or stack.

Lesions are connected components, with 8 neighbours in a slice and 26 in a stack of slices. Matching: a lesion of the
reference mask is found when at least a tenth of its pixels are predicted; a predicted component is false when less than
a tenth of its pixels are tumour. Components of fewer than SPECK pixels in a slice, or SPECK_3D in a stack, are not
counted, neither as lesions nor as false ones.

Distances between outlines are in pixels of a slice, from each surface pixel of one mask to the nearest of the other,
both ways. The surface of a mask is its pixels with a neighbour (above, below, left, right) outside of the mask; beyond
the image is outside. With one mask empty, HD95 is NaN and surface Dice 0: a missed slice does not show in HD95.
With both empty, both are NaN, and left out of every mean.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

SMALL = 500  # pixels; a slice with less tumour is "small"
SPECK = 10  # pixels; a smaller component of a slice is not counted
SPECK_3D = 50  # pixels; the same in a stack of slices
CONNECTED = np.ones((3, 3, 3), int)  # neighbours of a voxel of a stack
COVERED = 0.1  # share of its pixels from which a component counts as matched
COMPLEX = 2.0  # boundary complexity of a complex outline: the median of tumours >= SMALL with one component
TOLERANCES = (1, 2, 3)  # pixels, for the surface Dice
NEAR = 2.0  # mm, for the surface Dice in 3D
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
SLICE_KINDS = ("no tumour", "small", "several components", "complex boundary", "smooth")


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around all set pixels (uint8 0 or 1, or bool, any dimension); None without any."""
    return ndimage.find_objects(mask.view(np.uint8), max_label=1)[0]


def boundary_complexity(mask: np.ndarray) -> float:
    """Return perimeter² / (4 pi area) of the largest component, holes filled; 0 if the mask is empty.

    About 1 for a disc, more for an irregular outline. The contour runs through the centres of the boundary pixels, so
    half a pixel is added around it, which lengthens it by pi.
    """
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not contours:
        return 0.0
    outline = max(contours, key=lambda points: (cv2.contourArea(points), len(points)))
    centre_length = cv2.arcLength(outline, closed=True)
    area = cv2.contourArea(outline) + centre_length / 2 + math.pi / 4  # grown by half a pixel, as the outline
    return (centre_length + math.pi) ** 2 / (4 * math.pi * area)


def kind_of_slice(mask: np.ndarray) -> str:
    """Return one of SLICE_KINDS; the first rule that applies decides.

    no tumour: empty. small: fewer than 500 px. several components: at least two of 10 px or more. Otherwise complex
    boundary or smooth, by the complexity of the outline of the largest component.
    """
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return "no tumour"
    if areas.sum() < SMALL:
        return "small"
    if (areas >= SPECK).sum() >= 2:
        return "several components"
    return "complex boundary" if boundary_complexity(mask) >= COMPLEX else "smooth"


class Matching(NamedTuple):
    """The lesions of the reference mask of a slice or stack (arrays [L], by label), and the predicted components."""

    first: np.ndarray  # index of the first plane along axis 0 ...
    last: np.ndarray  # ... and of the last
    pixels: np.ndarray
    overlap: np.ndarray  # pixels that are predicted
    found: np.ndarray  # bool
    dice: np.ndarray  # of the lesion and all predicted components that touch it
    predicted: int  # number of predicted components
    false: int  # number of predicted components that match no tumour


def match(mask: np.ndarray, predicted: np.ndarray, smallest: int) -> Matching:
    """Match the lesions of a reference mask with a prediction, by the rule above.

    Args:
        mask, predicted: uint8 0 or 1, [H, W] or [S, H, W].
        smallest: pixels of the smallest component that is counted.
    """
    box = bounding_box(mask | predicted)
    if box is None:
        nothing = np.zeros(0, int)
        return Matching(*[nothing] * 4, nothing.astype(bool), nothing.astype(float), 0, 0)
    neighbours = CONNECTED if mask.ndim == 3 else CONNECTED[0]
    lesion_of, lesions = ndimage.label(mask[box], neighbours)
    component_of, components = ndimage.label(predicted[box], neighbours)
    pairs = (lesion_of.astype(np.int64) * (components + 1) + component_of).ravel()
    joint = np.bincount(pairs, minlength=(lesions + 1) * (components + 1))
    joint = joint.reshape(lesions + 1, components + 1)  # pixels of each lesion in each component; 0 is the background
    pixels, component_pixels = joint.sum(1)[1:], joint.sum(0)[1:]
    joint = joint[1:, 1:]
    overlap, hits = joint.sum(1), joint.sum(0)
    dice = 2 * overlap / (pixels + (joint > 0) @ component_pixels)
    planes = [ends[0] for ends in ndimage.find_objects(lesion_of)]
    first = np.array([box[0].start + plane.start for plane in planes], int)
    last = np.array([box[0].start + plane.stop - 1 for plane in planes], int)
    found = overlap >= COVERED * pixels
    counted, counted_components = pixels >= smallest, component_pixels >= smallest
    return Matching(
        *(column[counted] for column in (first, last, pixels, overlap, found, dice)),
        predicted=int(counted_components.sum()),
        false=int((counted_components & (hits < COVERED * component_pixels)).sum()),
    )


# --- Outlines ------------------------------------------------------------------------------------------------------


class Surfaces(NamedTuple):
    """HD95 of two outlines in pixels, the surface pixels of both together, and the surface Dice at TOLERANCES."""

    hd95: float
    pixels: int
    dice: tuple[float, ...]


def compare_outlines(mask: np.ndarray, predicted: np.ndarray) -> Surfaces:
    """Compare the outlines of two masks (uint8 0 or 1, [H, W])."""
    box = bounding_box(mask | predicted)
    if box is None:
        return Surfaces(np.nan, 0, (np.nan,) * len(TOLERANCES))
    one, other = (surface(np.ascontiguousarray(whole[box])) for whole in (mask, predicted))
    pixels = int(one.sum()) + int(other.sum())
    if not (one.any() and other.any()):
        return Surfaces(np.nan, pixels, (0.0,) * len(TOLERANCES))
    there, back = distances(one, other), distances(other, one)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    dice = tuple(float((there <= t).sum() + (back <= t).sum()) / pixels for t in TOLERANCES)
    return Surfaces(float(hd95), pixels, dice)


def surface_distances(
    mask: np.ndarray, predicted: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return HD95 and mean distance between two surfaces in 3D, in mm, and the share of both within 2 mm of the other.

    A surface is the voxels with a neighbour of six outside of the mask. NaN, NaN and 0 with one mask empty; NaN with
    both.

    Args:
        mask, predicted: uint8 0 or 1, [S, H, W].
        spacing: mm between rows, columns and slices.
    """
    box = bounding_box(mask | predicted)
    if box is None:
        return (np.nan,) * 3
    pair = [whole[box] > 0 for whole in (mask, predicted)]
    if not (pair[0].any() and pair[1].any()):
        return np.nan, np.nan, 0.0
    one, other = (whole & ~ndimage.binary_erosion(whole) for whole in pair)
    sampling = (spacing[2], spacing[0], spacing[1])
    there, back = (
        ndimage.distance_transform_edt(~target, sampling)[source] for source, target in ((one, other), (other, one))
    )
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), float(both.mean()), float((both <= NEAR).mean())


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a mask: uint8 0 or 1, [H, W], as the mask."""
    return mask - cv2.erode(mask, CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each pixel of `one` to the nearest of `other`: float64 [pixels of `one`].

    one, other: uint8 0 or 1, [H, W], not empty. The squares are whole numbers; OpenCV's float32 roots of them are not
    always the same from call to call in their last bit.
    """
    to_other = cv2.distanceTransform(1 - other, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[one > 0].astype(np.float64)
    return np.sqrt(np.rint(to_other**2))
