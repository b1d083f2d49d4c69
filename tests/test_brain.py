"""The brain, roughly: inside of the skull, with the tumour, at distances by hand."""

import numpy as np
import torch
from conftest import disc, make_slices

from training.brain import EDGE, brain_distance, brain_distances


def head(brain: int = 60) -> np.ndarray:
    """A bright scalp, dark bone, and a brain as discs of the radii 90, 84 and 70: uint8 [3, 256, 256, 3]."""
    plane = np.select([disc(70), disc(84), disc(90)], [brain, 5, 200])
    return np.broadcast_to(plane[None, ..., None], (3, 256, 256, 3)).astype(np.uint8)


def test_distances_from_the_brain():
    masks = np.zeros((3, 256, 256), np.uint8)
    distance = brain_distance(head(), masks).astype(int)
    assert distance.shape == (3, 256, 256) and (distance == distance[0]).all()
    assert distance[0, 128, 128] == 0 and distance[0, 128, 128 + 60] < EDGE
    assert abs(distance[0, 128, 128 + 87] - EDGE - 17) <= 6  # opening flattens the edge
    assert abs(distance[0, 128, 128 + 107] - distance[0, 128, 128 + 87] - 20) <= 2


def test_tumour_is_brain_and_patients_are_apart():
    mask = np.zeros((256, 256), np.uint8)
    mask[120:130, 200:215] = 1
    slices = make_slices({"a": [mask] * 3, "b": [mask * 0] * 3}, np.concatenate([head(), head(brain=0) * 0]))
    distance = brain_distances(slices)
    assert (distance[:3][slices.masks[:3] > 0] < EDGE).all()
    assert torch.equal(distance[3:], distance[3:4].expand(3, -1, -1)) and (distance[3:] >= EDGE).all()
