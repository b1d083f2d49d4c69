"""The measurements of speed that can be checked quickly: their arithmetic by hand, and that both loops learn alike."""

import pandas as pd
import pytest
import torch

from dataset.slices import Slices
from storage.checkpoints import describe_network
from studies import speed
from training.hardware import choose_hardware
from training.recipe import Recipe


def test_operations_are_those_of_the_convolutions():
    # of 256x256 pixels at the first level: 3x3 from 3 to 64 channels, then from 64 to 64; 2 for each multiply-add
    first = 2 * 256**2 * 9 * (3 * 64 + 64 * 64)
    plain, bilinear, wide = (
        speed.count_flop(describe_network(vars(Recipe(**changes))), 256, 256)
        for changes in ({}, {"bilinear": True}, {"width": 128})
    )
    assert first < bilinear < plain
    assert wide / plain == pytest.approx(4, 0.01)


def test_both_loops_take_the_same_steps():
    images, masks = torch.randint(0, 256, (2, 256, 256, 3)).byte(), torch.randint(0, 2, (2, 256, 256)).byte()
    slices, recipe = Slices(images, masks, pd.DataFrame({"patient": ["noise"] * 2})), Recipe(width=2, batch_size=2)
    hardware = choose_hardware("cpu", "fp32")
    ours, plain = speed.make_step(recipe, slices, hardware), speed.make_plain_step(recipe, slices, hardware)
    assert [ours() for _ in range(3)] == pytest.approx([plain() for _ in range(3)], abs=1e-4)


def test_a_step_is_timed(capsys, monkeypatch):
    monkeypatch.setattr(speed, "STEPS", 1)
    speed.main(["--recipe", "tuned", "--width", "2", "--batch-size", "1", "--device", "cpu"])
    assert "matrix products reach" in capsys.readouterr().out
