"""The optimiser of a recipe, its learning rate at each step, and the average of the weights."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def learning_rate(settings: Mapping[str, Any], step: int, steps: int) -> float:
    """Return the learning rate of a step, from 0, of a training of `steps` steps."""
    warm_up = round(settings["warm_up"] * steps)
    if step < warm_up:
        return settings["lr"] * (step + 1) / warm_up
    if not settings["cosine"]:
        return settings["lr"]
    return settings["lr"] * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


class Optimisation:
    """Steps of a recipe. Has the methods of an optimiser that a training step needs.

    Args:
        network: what is trained.
        settings: optimiser, lr, weight_decay, warm_up, cosine, ema, as in training/recipes.py.
        steps: of the whole training.

    Attributes:
        result: the network that is scored and saved: the average of the weights if there is one, else `network`.
    """

    def __init__(self, network: nn.Module, settings: Mapping[str, Any], steps: int):
        self.network, self.settings, self.steps, self.done = network, settings, steps, 0
        fused = next(network.parameters()).device.type != "mps"
        self.optimiser = OPTIMISERS[settings["optimiser"]](
            network.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"], fused=fused
        )
        self.result = copy.deepcopy(network).requires_grad_(False) if settings["ema"] else network
        # The tensors themselves, which later steps and loading change in place
        pairs = list(zip(self.result.state_dict().values(), network.state_dict().values(), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimiser.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, self.done, self.steps)
        self.optimiser.step()
        self.done += 1
        if self.result is not self.network:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights and statistics, the faster the fewer steps there were."""
        decay = min(self.settings["ema"], (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_([mine for mine, _ in self.averaged], [theirs for _, theirs in self.averaged], 1 - decay)
        torch._foreach_copy_([mine for mine, _ in self.counters], [theirs for _, theirs in self.counters])

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside `result`."""
        averaged = self.result is not self.network
        return {
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "network": self.network.state_dict() if averaged else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; `result` has been loaded already."""
        if self.result is not self.network:
            self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]
