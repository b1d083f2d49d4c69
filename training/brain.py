"""A rough brain mask, by which training removes scalp and skull from slices (training/augment.py)."""

import cv2
import numpy as np
import torch
from scipy import ndimage

from constants import FLAIR
from dataset.preprocess import fill_holes, find_head
from dataset.slices import Slices
from utils import parallel_map

EDGE = 20  # of the brain, in the values of brain_distance
SKIN = 6  # pixels
DARKEST = 0.55  # FLAIR of the brain, as a fraction of the head's median
OPENED, CLOSED = 11, 15  # pixels, diameters


def brain_distances(slices: Slices) -> torch.Tensor:
    """Return `brain_distance` of each slice, patient by patient: uint8 [N, H, W]."""
    images, masks = slices.images.numpy(), slices.masks.numpy()
    distances = np.empty(masks.shape, np.uint8)

    def measure(rows: np.ndarray) -> None:
        distances[rows] = brain_distance(images[rows], masks[rows])

    parallel_map(measure, slices.stacks().values())
    return torch.from_numpy(distances)


def brain_distance(stack: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return how far each pixel lies outside of the brain, in pixels, plus EDGE: uint8 [S, H, W], below EDGE inside.

    The brain is rough, as other programs find it at times: FLAIR above a fraction of the head's median, deeper than the
    skin, opened; the largest region in the stack, closed; and always the tumour.
    stack, masks: a patient's slices, uint8 [S, H, W, 3], and masks, uint8 [S, H, W].
    """
    flair, head = stack[..., FLAIR], find_head(stack, filled=True)
    bright = flair > DARKEST * np.median(flair[head]) if head.any() else np.zeros(flair.shape, bool)
    brain = np.array([
        cv2.morphologyEx((plane & (_inner_distance(inside) > SKIN)).view(np.uint8), cv2.MORPH_OPEN, _disc(OPENED))
        for plane, inside in zip(bright, head, strict=True)
    ])  # fmt: skip
    regions, count = ndimage.label(brain)
    if count:
        brain = regions == 1 + np.bincount(regions.ravel())[1:].argmax()
    distances = np.empty(flair.shape, np.uint8)
    for number, plane in enumerate(brain):
        closed = cv2.morphologyEx(np.pad(plane, 16).astype(np.uint8), cv2.MORPH_CLOSE, _disc(CLOSED))[16:-16, 16:-16]
        inside = fill_holes(np.ascontiguousarray(closed) > 0) | (masks[number] > 0)
        signed = _inner_distance(~inside) - _inner_distance(inside)
        distances[number] = np.clip(signed + EDGE, 0, 255)
    return distances


def _inner_distance(region: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel in a region (bool [H, W]) from its outside in the frame, float32; 0 outside."""
    return cv2.distanceTransform(np.pad(region, 1, mode="edge").view(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]


def _disc(diameter: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
