"""Training losses: float logits and masks [N, 1, H, W] -> one number. Masks are 0 or 1."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SMOOTH = 50.0  # pixels added to both sides in `slice_dice`: an empty slice costs 1/2 at so many false pixels


def bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels (nats)."""
    return F.binary_cross_entropy_with_logits(logits, masks)


def soft_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - Dice of the probabilities over the whole batch; empty slices count by their pixels only.

    Between 0 and 1. One pixel is added to numerator and denominator: empty against empty is 0, not 0/0.
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum()
    return 1 - (2 * overlap + 1) / (probabilities.sum() + masks.sum() + 1)


def slice_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - Dice of each slice, mean over slices: a small tumour counts as much as a large one.

    Between 0 and 1. SMOOTH is added to numerator and denominator: empty against empty is 0, not 0/0.
    """
    probabilities = logits.sigmoid()
    overlap, predicted, true = (x.sum((1, 2, 3)) for x in (probabilities * masks, probabilities, masks))
    return (1 - (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)).mean()


def tversky(logits: torch.Tensor, masks: torch.Tensor, false_negative_weight: float) -> torch.Tensor:
    """1 - Tversky index of the probabilities over the whole batch (Salehi et al. 2017).

    TP / (TP + w FN + (1 - w) FP), with one pixel added to both: empty against empty is 0, not 0/0. w = 0.5 is Dice.
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum()
    missed, false = masks.sum() - overlap, probabilities.sum() - overlap
    return 1 - (overlap + 1) / (overlap + false_negative_weight * missed + (1 - false_negative_weight) * false + 1)


def make_loss(name: str, false_negative_weight: float) -> Loss:
    """Return a loss of the recipe by its name: cross-entropy for every pixel, others against the rarity of tumour."""
    return {
        "bce": bce,
        "bce+dice": lambda x, y: bce(x, y) + soft_dice(x, y),
        "bce+slice-dice": lambda x, y: bce(x, y) + (soft_dice(x, y) + slice_dice(x, y)) / 2,
        "bce+tversky": lambda x, y: bce(x, y) + tversky(x, y, false_negative_weight),
    }[name]
