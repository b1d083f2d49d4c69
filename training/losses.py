"""Training losses: float logits and masks [N, 1, H, W] -> one number. Masks are 0 or 1."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels (nats)."""
    return F.binary_cross_entropy_with_logits(logits, masks)


def soft_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - Dice of the probabilities over the whole batch, so that empty slices count by their pixels only.

    Between 0 and 1. One pixel is added to numerator and denominator: empty against empty is 0, not 0/0.
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum()
    return 1 - (2 * overlap + 1) / (probabilities.sum() + masks.sum() + 1)


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The sum of both: cross-entropy for every pixel, Dice against the rarity of foreground pixels."""
    return bce(logits, masks) + soft_dice(logits, masks)


LOSSES: dict[str, Loss] = {"bce": bce, "dice": soft_dice, "bce+dice": bce_dice}
