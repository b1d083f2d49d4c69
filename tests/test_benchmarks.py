"""The benchmarks that can be checked quickly: their arithmetic by hand, and that the parts of a step add up."""

import re

import pytest

from benchmarks import compare, step


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
    assert first < compare.flops(width=64, bilinear=True) < compare.flops(width=64, bilinear=False)
    assert compare.flops(width=128, bilinear=False) / compare.flops(width=64, bilinear=False) == pytest.approx(4, 0.01)
