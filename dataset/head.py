"""Where the head is in a patient's slices, and roughly the brain in it: from FLAIR, the sequence that all have."""

import cv2
import numpy as np
from scipy import ndimage

from constants import FLAIR

SKIN = 6  # pixels
DARKEST = 0.55  # FLAIR of the brain, as a fraction of the head's median
OPENED, CLOSED = 11, 15  # pixels, diameters
MARGIN = 6  # pixels around the brain, within which a tumour at its surface lies


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


def find_brain(stack: np.ndarray) -> np.ndarray:
    """Return the brain in a patient's stack: uint8 [S, H, W, 3] -> bool [S, H, W].

    It is rough, as other programs find it at times: FLAIR above a fraction of the head's median, deeper than the skin,
    opened; the largest region in the stack, closed. A tumour at the surface may be cut.
    """
    flair, head = stack[..., FLAIR], find_head(stack, filled=True)
    bright = flair > DARKEST * np.median(flair[head]) if head.any() else np.zeros(flair.shape, bool)
    brain = np.array([
        cv2.morphologyEx((plane & (inner_distance(inside) > SKIN)).view(np.uint8), cv2.MORPH_OPEN, disc(OPENED))
        for plane, inside in zip(bright, head, strict=True)
    ])  # fmt: skip
    regions, count = ndimage.label(brain)
    if count:
        brain = regions == 1 + np.bincount(regions.ravel())[1:].argmax()
    closed = (
        cv2.morphologyEx(np.pad(plane, 16).astype(np.uint8), cv2.MORPH_CLOSE, disc(CLOSED))[16:-16, 16:-16]
        for plane in brain
    )
    return np.array([fill_holes(np.ascontiguousarray(plane) > 0) for plane in closed])


def near_brain(stack: np.ndarray) -> np.ndarray:
    """Return the brain and what is within MARGIN of it: uint8 [S, H, W, 3] -> bool [S, H, W]; all without a brain."""
    brain = find_brain(stack)
    return np.array([inner_distance(~plane) < MARGIN for plane in brain]) if brain.any() else ~brain


def inner_distance(region: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel in a region (bool [H, W]) from its outside in the frame, float32; 0 outside."""
    return cv2.distanceTransform(np.pad(region, 1, mode="edge").view(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]


def disc(diameter: int) -> np.ndarray:
    """Return the disc of this diameter in pixels by which the brain is opened or closed: uint8 [D, D]."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
