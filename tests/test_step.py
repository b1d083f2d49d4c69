"""The parts of a training step: their arithmetic counted by hand, and against PyTorch's own counter."""

import json
import sys

import pytest

from benchmarks import compare, step
from utils import run_script


def profile(monkeypatch, capsys, tmp_path, *options) -> tuple[dict, str]:
    """Run benchmarks.step on a tiny network: (its JSON, what it printed)."""
    out = tmp_path / "step.json"
    tiny = ("--width", 2, "--batch-size", 1, "--repeats", 1, "--device", "cpu", "--out", out)
    monkeypatch.setattr(sys, "argv", ["step.py", *map(str, tiny), *options])
    run_script(step.main)
    return json.loads(out.read_text()), capsys.readouterr().out


@pytest.mark.parametrize("bilinear", [False, True])
def test_every_part_of_the_step_is_there(monkeypatch, capsys, tmp_path, bilinear):
    found, printed = profile(monkeypatch, capsys, tmp_path, *["--bilinear"] * bilinear)
    parts = {(part["layer"], part["kind"]): part for part in found["parts"]}
    kinds = [part["kind"] for part in found["parts"]]
    assert len(parts) == len(kinds) and all(part["seconds"] > 0 for part in parts.values())
    assert kinds.count("convolution, forward") == kinds.count("convolution, weight grad") == 19
    assert kinds.count("convolution, input grad") == 18  # nobody asks for the gradient of the image
    assert kinds.count("batch norm, backward") == kinds.count("ReLU, forward") == 18
    assert kinds.count("pooling, backward") == kinds.count("concatenation, forward") == 4
    ups = "interpolation, backward" if bilinear else "up-convolution, weight grad"
    assert kinds.count(ups) == 4
    assert {("loss", "backward"), ("optimiser", "Adam"), ("batch", "taken and prepared")} <= set(parts)

    seconds = found["step_seconds"]
    assert seconds["parts"] == pytest.approx(sum(part["seconds"] for part in parts.values()))
    assert found["checkpoint_seconds"]["on_disk"] > 0 and found["ceiling_flop_s"] > 0 < found["ceiling_bytes_s"]
    assert "sum of the parts" in printed and "host gaps" in printed

    # the second convolution: 2 channels to 2, 3x3, 256x256 pixels, 2 for each multiply-add; its tensors, bytes each
    second = parts["down.0.3", "convolution, forward"]
    item = 2 if "bf16" in found["hardware"] else 4
    assert second["flop"] == 2 * 2 * 2 * 9 * 256 * 256 == parts["down.0.3", "convolution, input grad"]["flop"]
    assert second["bytes"] == item * (2 * 2 * 256 * 256 + 2 * 2 * 9)
    if not bilinear:  # 32 channels to 16, 2x2, each of 16x16 pixels
        assert parts["up.0.upsample", "up-convolution, forward"]["flop"] == 2 * 32 * 16 * 4 * 16 * 16
    forward = sum(p["flop"] for p in parts.values() if p["kind"].endswith("convolution, forward"))
    assert forward == compare.flops(width=2, bilinear=bilinear)
