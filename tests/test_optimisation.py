"""Learning rate, average of the weights, and resuming, by hand."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from training.optimisation import Optimisation, learning_rate
from training.recipe import RECIPES, Recipe

REFERENCE, TUNED = RECIPES["reference"], RECIPES["tuned"]


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
