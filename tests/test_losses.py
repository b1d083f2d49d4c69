import math

import torch

from training.losses import LOSSES, bce, bce_dice, soft_dice


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3)]]]])  # probabilities 1/2 and 3/4
    masks = torch.tensor([[[[1.0, 0.0]]]])
    expected = (-math.log(1 / 2) - math.log(1 / 4)) / 2
    assert math.isclose(bce(logits, masks), expected, rel_tol=1e-6)


def test_dice_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3)]]]])
    masks = torch.tensor([[[[1.0, 0.0]]]])
    assert math.isclose(soft_dice(logits, masks), 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1), rel_tol=1e-6)
    assert math.isclose(bce_dice(logits, masks), bce(logits, masks) + soft_dice(logits, masks), rel_tol=1e-6)


def test_perfect_prediction_costs_next_to_nothing_and_extreme_logits_stay_finite():
    masks = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for loss in LOSSES.values():
        right = ((masks * 2 - 1) * 1000).requires_grad_()
        assert loss(right, masks) < 1e-6
        wrong = ((1 - masks * 2) * 1000).requires_grad_()
        value = loss(wrong, masks)
        value.backward()
        assert value > 0.9 and value.isfinite() and wrong.grad.isfinite().all()


def test_dice_of_empty_against_empty_is_zero():
    assert soft_dice(torch.full((1, 1, 4, 4), -1000.0), torch.zeros(1, 1, 4, 4)) == 0
