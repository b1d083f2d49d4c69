"""The benchmarks that can be checked quickly: their arithmetic by hand, and that the parts of a step add up."""

import re

import numpy as np
import pytest

from benchmarks import step
from benchmarks.head import find_brain
from constants import FLAIR
from storage.checkpoints import describe_network
from training.engine import count_flop
from training.recipes import REFERENCE


@pytest.mark.parametrize("bilinear", [False, True])
def test_the_parts_of_a_step_add_up(capsys, bilinear):
    step.main(["--width", "2", "--batch-size", "1", "--device", "cpu", *["--bilinear"] * bilinear])
    out = capsys.readouterr().out
    found = dict(re.findall(r"^(forward and metrics|backward|optimiser|whole step) +([\d.]+) ms", out, re.M))
    *parts, whole = map(float, found.values())
    assert len(parts) == 3 and min(parts) > 0 and sum(parts) == pytest.approx(whole, abs=0.2)
    assert "aten::convolution_backward" in out


def test_operations_are_those_of_the_convolutions():
    # of 256x256 pixels at the first level: 3x3 from 3 to 64 channels, then from 64 to 64; 2 for each multiply-add
    first = 2 * 256**2 * 9 * (3 * 64 + 64 * 64)
    plain, bilinear, wide = (
        count_flop(describe_network(REFERENCE | changes), 256, 256)
        for changes in ({}, {"bilinear": True}, {"width": 128})
    )
    assert first < bilinear < plain
    assert wide / plain == pytest.approx(4, 0.01)


def test_a_brain_by_morphology_is_what_is_left_without_the_ring_around_it():
    """A bright disc, a lesion at its edge, a dark gap, and a bright ring: the ring goes, disc and lesion stay."""
    rows, columns = np.mgrid[:256, :256] - 128
    radius = np.hypot(rows, columns)
    stack = np.zeros((1, 256, 256, 3), np.uint8)
    stack[0, ..., FLAIR] = np.select([radius < 60, (radius > 70) & (radius < 80)], [100, 200])
    stack[0, 118:138, 175:190, FLAIR] = 250  # reaches beyond the disc
    brain = find_brain(stack, stack[..., FLAIR] > 0, 3)[0]
    assert brain[radius < 58].all() and not brain[radius > 70].any() and brain[128, 188]
