"""The brain, roughly: inside of the skull, with the tumour, at distances by hand."""

import numpy as np
import torch
from conftest import disc, make_slices

from constants import FLAIR
from dataset.head import MARGIN, find_brain, near_brain
from dataset.preprocess import Preprocessing, preprocess
from dataset.slices import without_masks
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


def textured_head() -> np.ndarray:
    """The same with noise in the brain, and a last slice without a head."""
    noise = np.random.default_rng(0).integers(-9, 10, (3, 256, 256, 1))
    stack = (head() + noise * disc(70)[..., None]).astype(np.uint8)
    return np.concatenate([stack, 0 * stack[:1]])


def test_near_the_brain_is_neither_scalp_nor_another_slice():
    stack = textured_head()
    brain, near = find_brain(stack), near_brain(stack)
    assert brain.dtype == near.dtype == bool and brain.shape == near.shape == (4, 256, 256)
    assert brain[0][disc(62)].all() and not brain[0][~disc(72)].any()
    assert near[0][disc(62 + MARGIN)].all() and not near[0][~disc(72 + MARGIN)].any()
    assert not near[3].any()
    assert near_brain(0 * stack).all()  # no brain: nothing is removed


def test_stripped_slices_are_preprocessed_as_a_stripped_scan_is():
    stack, rows = textured_head(), torch.tensor([3, 0, 2])
    stack[..., FLAIR] //= 2  # sequences differ
    settings = Preprocessing("median", neighbours=1, crop=True, tta_strip=True)
    prepared, cpu = preprocess(without_masks(stack, "a"), settings), torch.device("cpu")
    without_skull = without_masks(stack * near_brain(stack)[..., None], "a")
    expected = preprocess(without_skull, settings._replace(tta_strip=False)).batch(rows, cpu)[0]
    stripped = prepared.batch(rows, cpu, stripped=True)[0]
    assert torch.equal(stripped, expected) and stripped[1].unique().numel() > 5
    as_they_are = preprocess(without_masks(stack, "a"), settings._replace(tta_strip=False))
    assert torch.equal(prepared.batch(rows, cpu)[0], as_they_are.batch(rows, cpu)[0])
    assert prepared.boxes == as_they_are.boxes  # the window is that of the head
