"""The optimiser of a recipe, its learning rate at each step, and the moving average of the weights."""

import copy
import math
from typing import Any

import torch
from torch import nn

from training.recipe import Recipe

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step, from 0, of a training of `steps` steps."""
    warm_up = round(recipe.warm_up * steps)
    if step < warm_up:
        return recipe.lr * (step + 1) / warm_up
    if not recipe.cosine:
        return recipe.lr
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


class Optimisation:
    """The optimiser of a recipe with its schedule over `steps` steps and the average of the weights.

    result: the network that is validated and saved: the average of the weights, or without one `network`.
    trained: whether training begins with trained weights. The fewer the steps, the more of them remains in the average.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, steps: int, trained: bool = False):
        self.network, self.recipe, self.steps, self.trained, self.done = network, recipe, steps, trained, 0
        fused = next(network.parameters()).device.type != "mps"
        self.optimiser = OPTIMISERS[recipe.optimiser](
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
        self.result = copy.deepcopy(network).requires_grad_(False) if recipe.ema else network
        # The tensors themselves: later steps, and loading, change them in place
        pairs = list(zip(self.result.state_dict().values(), network.state_dict().values(), strict=True))
        self.averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def zero_grad(self) -> None:
        self.optimiser.zero_grad()

    def step(self) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.done, self.steps)
        self.optimiser.step()
        self.done += 1
        if self.result is not self.network:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights and statistics; from random weights faster in the first steps."""
        decay = self.recipe.ema if self.trained else min(self.recipe.ema, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_([mine for mine, _ in self.averaged], [theirs for _, theirs in self.averaged], 1 - decay)
        torch._foreach_copy_([mine for mine, _ in self.counters], [theirs for _, theirs in self.counters])

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the weights of `result`."""
        network = {} if self.result is self.network else self.network.state_dict()
        return {"optimiser": self.optimiser.state_dict(), "done": self.done, "network": network}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state; the weights of `result` are loaded before."""
        if self.result is not self.network:
            self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]
