"""The lean training pass against the network itself."""

import copy

import pytest
import torch
from torch.nn import functional as F

from training.lean import training_pass
from unet import UNet


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("bilinear", "size", "stem"),
    [(False, (64, 64), 1), (True, (64, 64), 1), (False, (53, 90), 1), (True, (53, 90), 2), (False, (64, 64), 2)],
)
def test_the_same_logits_gradients_and_statistics(bilinear, size, stem, memory_format):
    torch.manual_seed(0)
    plain = UNet(width=3, bilinear=bilinear, stem=stem).to(memory_format=memory_format).double()
    lean = copy.deepcopy(plain)
    images = torch.randn(3, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    weights = torch.randn(3, 1, *size, dtype=torch.float64)
    outputs = plain(images), training_pass(lean, images, torch.float64)
    for logits in outputs:
        (logits * weights).sum().backward()
    torch.testing.assert_close(*outputs)
    for (name, mine), theirs in zip(lean.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda m, n=name: f"{n}: {m}")
    for (name, mine), theirs in zip(lean.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=lambda m, n=name: f"{n}: {m}")


def test_bf16_stays_close_to_fp32():
    torch.manual_seed(0)
    plain = UNet(width=8)
    images, masks = torch.randn(4, 3, 64, 64), (torch.rand(4, 1, 64, 64) > 0.8).float()
    losses = [
        F.binary_cross_entropy_with_logits(logits.float(), masks)
        for logits in (plain(images), training_pass(plain, images, torch.bfloat16))
    ]
    assert abs(losses[0] - losses[1]) < 0.01 * losses[0]


def test_the_same_bits_again():
    torch.manual_seed(0)
    net = UNet(width=8).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    gradients = []
    for _ in range(2):
        net.zero_grad()
        training_pass(net, images, torch.bfloat16).float().square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
