"""How far pixels lie from the brain, by which training removes scalp and skull from slices (training/augment.py)."""

import numpy as np
import torch

from dataset.head import find_brain, inner_distance
from dataset.slices import Slices
from utils import parallel_map

EDGE = 20  # of the brain, in the values of brain_distance


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

    The brain is that of `find_brain`, and always the tumour.
    stack, masks: a patient's slices, uint8 [S, H, W, 3], and masks, uint8 [S, H, W].
    """
    brain = find_brain(stack) | (masks > 0)
    signed = np.array([inner_distance(~inside) - inner_distance(inside) for inside in brain])
    return np.clip(signed + EDGE, 0, 255).astype(np.uint8)
