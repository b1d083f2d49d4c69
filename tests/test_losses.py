import math

import pytest
import torch

from training.losses import SMOOTH, bce, make_loss, slice_dice, soft_dice
from training.recipe import Recipe

LOSSES = {name: make_loss(name, 0.7) for name in Recipe.__dataclass_fields__["loss"].metadata["choices"]}


# Probabilities 1/2 on tumour and 3/4 beside it: 1/2 hit, 1/2 missed, 3/4 false positive
LOGITS, MASKS = torch.tensor([[[[0.0, math.log(3)]]]]), torch.tensor([[[[1.0, 0.0]]]])
BCE = (-math.log(1 / 2) - math.log(1 / 4)) / 2


@pytest.mark.parametrize(
    ("name", "weight", "expected"),
    [
        ("bce", 0.7, BCE),
        ("bce+dice", 0.7, BCE + 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)),
        ("bce+tversky", 0.7, BCE + 1 - 1.5 / (0.5 + 0.7 * 0.5 + 0.3 * 0.75 + 1)),
        ("bce+tversky", 0.9, BCE + 1 - 1.5 / (0.5 + 0.9 * 0.5 + 0.1 * 0.75 + 1)),
    ],
)
def test_losses_of_two_pixels_by_hand(name, weight, expected):
    assert math.isclose(make_loss(name, weight)(LOGITS, MASKS), expected, rel_tol=1e-6)


def test_dice_of_each_slice_by_hand():
    masks = torch.zeros(3, 1, 10, 10)
    masks[0, 0, :5] = 1  # 50 pixels, half of them found
    masks[1, 0, 0, :4] = 1  # 4 pixels, all missed; the third slice is empty, and 50 pixels of it are marked
    marked = torch.zeros(3, 1, 10, 10)
    marked[0, 0, 0, :] = marked[0, 0, 1, :] = marked[0, 0, 2, :5] = marked[2, 0, 5:] = 1
    logits = (marked * 2 - 1) * 1000
    each = [1 - (2 * 25 + 50) / (25 + 50 + 50), 1 - 50 / (4 + 50), 1 - 50 / (50 + 50)]
    assert SMOOTH == 50 and each[2] == 0.5
    assert math.isclose(slice_dice(logits, masks), sum(each) / 3, rel_tol=1e-6)
    expected = bce(logits, masks) + (soft_dice(logits, masks) + slice_dice(logits, masks)) / 2
    assert math.isclose(LOSSES["bce+slice-dice"](logits, masks), expected, rel_tol=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_and_gradients_are_finite_for_extreme_logits_and_without_tumour(loss):
    some = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for masks in (some, torch.zeros(2, 1, 8, 8)):
        right, half, wrong = values = [loss_and_gradient(loss, masks, sign) for sign in (1000, 0, -1000)]
        assert all(value.isfinite() and value >= 0 for value in values)
        assert right < 1e-6 < half and wrong > 0.9


def loss_and_gradient(loss, masks: torch.Tensor, sign: float) -> torch.Tensor:
    logits = ((masks * 2 - 1) * sign).requires_grad_()
    value = loss(logits, masks)
    value.backward()
    assert logits.grad.isfinite().all()
    return value
