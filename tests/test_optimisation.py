"""Losses, learning rate, average of the weights, and resuming, by hand."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from training.losses import SMOOTH, bce, make_loss, slice_dice, soft_dice
from training.optimisation import Optimisation, learning_rate
from training.recipe import RECIPES, Recipe

REFERENCE, TUNED = RECIPES["reference"], RECIPES["tuned"]
LOSSES = {name: make_loss(name, 0.7) for name in Recipe.__dataclass_fields__["loss"].metadata["choices"]}
# Probabilities 1/2 on tumour and 3/4 beside it: 1/2 hit, 1/2 missed, 3/4 false positive
LOGITS, MASKS = torch.tensor([[[[0.0, math.log(3)]]]]), torch.tensor([[[[1.0, 0.0]]]])
BCE = (-math.log(1 / 2) - math.log(1 / 4)) / 2


@pytest.mark.parametrize(("name", "weight", "expected"), [
    ("bce", 0.7, BCE),
    ("bce+dice", 0.7, BCE + 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)),
    ("bce+tversky", 0.7, BCE + 1 - 1.5 / (0.5 + 0.7 * 0.5 + 0.3 * 0.75 + 1)),
    ("bce+tversky", 0.9, BCE + 1 - 1.5 / (0.5 + 0.9 * 0.5 + 0.1 * 0.75 + 1)),
])  # fmt: skip
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


# --- Optimisation -----------------------------------------------------------------------------------------------------


def test_warm_up_and_cosine_by_hand():
    settings = Recipe(lr=0.1, warm_up=0.04, cosine=True)  # of 100 steps: 4
    rates = [learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[4 + 48] == pytest.approx(0.05)  # half-way down
    assert rates[4 + 32] == pytest.approx(0.075)  # a third: cos 60 degrees is 1/2
    assert 0 < rates[-1] < 1e-4 and learning_rate(settings, 100, 100) == pytest.approx(0, abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True) and max(rates) == pytest.approx(0.1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def learn(net: nn.Module, optimisation: Optimisation, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(steps):
        optimisation.zero_grad()
        net(torch.randn(8, 3, generator=generator)).square().mean().backward()
        optimisation.step()


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(net: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(net), weights(other), strict=True))


def test_the_reference_steps_are_those_of_adam():
    net, plain = network(), network()
    optimisation = Optimisation(net, REFERENCE, 5)
    assert optimisation.result is net
    learn(net, optimisation, 5)
    learn(plain, torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True), 5)
    assert same(net, plain)


def test_each_step_has_its_learning_rate():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    optimisation = Optimisation(net, Recipe(lr=0.1, warm_up=0.5, cosine=True), 4)
    places = []
    for _ in range(4):
        net.weight.grad = torch.ones_like(net.weight)  # Adam moves by the learning rate against a constant gradient
        optimisation.step()
        places.append(-net.weight.item())
    assert places == pytest.approx([0.05, 0.15, 0.25, 0.30], rel=1e-4)


def test_the_average_by_hand():
    net = network()
    optimisation = Optimisation(net, Recipe(lr=0.1, ema=0.2), 10)
    assert optimisation.result is not net and same(net, optimisation.result)
    assert not any(parameter.requires_grad for parameter in optimisation.result.parameters())
    for decay in (2 / 11, 0.2):  # (1 + 1) / (10 + 1), then 3/12 > 0.2
        before = weights(optimisation.result)
        learn(net, optimisation, 1)
        for mine, old, new in zip(weights(optimisation.result), before, weights(net), strict=True):
            if mine.is_floating_point():
                torch.testing.assert_close(mine, decay * old + (1 - decay) * new)
            else:
                assert mine == new  # the number of batches that the norm has seen
    assert not same(net, optimisation.result)


def test_of_trained_weights_the_average_keeps_more_the_fewer_the_steps():
    net = network()
    optimisation = Optimisation(net, Recipe(lr=0.1, ema=0.9), 2, trained=True)
    passed = [weights(net)[0]]
    for _ in range(2):
        learn(net, optimisation, 1)
        passed.append(weights(net)[0])
    expected = 0.81 * passed[0] + 0.09 * passed[1] + 0.1 * passed[2]
    torch.testing.assert_close(weights(optimisation.result)[0], expected)


def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path):
    settings = dataclasses.replace(TUNED, ema=0.9)
    net = network()
    optimisation = Optimisation(net, settings, 9)
    learn(net, optimisation, 4)
    saved = {"weights": optimisation.result.state_dict(), "state": optimisation.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    learn(net, optimisation, 5, seed=1)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = copy.deepcopy(net)
    nn.init.constant_(other[0].weight, 7.0)
    resumed = Optimisation(other, settings, 9)
    resumed.result.load_state_dict(saved["weights"])
    resumed.load_state_dict(saved["state"])
    assert resumed.done == 4
    learn(other, resumed, 5, seed=1)
    assert same(other, net) and same(resumed.result, optimisation.result)
