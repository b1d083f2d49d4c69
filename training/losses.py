"""Training losses: float logits and masks [N, 1, H, W] -> one number. Masks are 0 or 1."""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
POSITIVE = 3.0  # weight of a tumour pixel in `weighted_bce`
MISSED = 0.7  # weight of false negatives in `tversky`; false positives have the rest of 1. 0.5 would be Dice
SMOOTH = 50.0  # pixels added to both in `slice_dice`: an empty slice costs 1/2 where as many are marked falsely
OTHERS = (0.3, 0.9)  # such weights that can be chosen too
FOCUS = 0.75  # exponent of `focal_tversky`


def bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels (nats)."""
    return F.binary_cross_entropy_with_logits(logits, masks)


def weighted_bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy in which a tumour pixel counts POSITIVE times; mean over all pixels (nats)."""
    return F.binary_cross_entropy_with_logits(logits, masks, pos_weight=logits.new_tensor(POSITIVE))


def soft_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - Dice of the probabilities over the whole batch, so that empty slices count by their pixels only.

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
    overlap, predicted, true = (part.sum((1, 2, 3)) for part in (probabilities * masks, probabilities, masks))
    return (1 - (2 * overlap + SMOOTH) / (predicted + true + SMOOTH)).mean()


def tversky(logits: torch.Tensor, masks: torch.Tensor, weight: float = MISSED) -> torch.Tensor:
    """1 - Tversky index of the probabilities over the whole batch (Salehi et al. 2017): Dice that punishes misses more.

    TP / (TP + weight x FN + (1 - weight) x FP), with one pixel added to both: empty against empty is 0, not 0/0.
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum()
    missed, false = masks.sum() - overlap, probabilities.sum() - overlap
    return 1 - (overlap + 1) / (overlap + weight * missed + (1 - weight) * false + 1)


def focal_tversky(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The Tversky loss to the power FOCUS (Abraham and Khan 2019, whose gamma is 1 / FOCUS)."""
    return tversky(logits, masks).clamp(min=1e-6) ** FOCUS


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The sum of both: cross-entropy for every pixel, Dice against the rarity of foreground pixels."""
    return bce(logits, masks) + soft_dice(logits, masks)


def bce_slice_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, and the mean of the Dice losses over the batch and over slices."""
    return bce(logits, masks) + (soft_dice(logits, masks) + slice_dice(logits, masks)) / 2


def bce_tversky(logits: torch.Tensor, masks: torch.Tensor, weight: float = MISSED) -> torch.Tensor:
    """Cross-entropy and Tversky: as `bce_dice`, with misses punished more."""
    return bce(logits, masks) + tversky(logits, masks, weight)


LOSSES: dict[str, Loss] = {
    "bce": bce,
    "weighted-bce": weighted_bce,
    "dice": soft_dice,
    "bce+dice": bce_dice,
    "bce+slice-dice": bce_slice_dice,
    "tversky": tversky,
    "bce+tversky": bce_tversky,
    "focal-tversky": focal_tversky,
    **{f"bce+tversky-{weight}": partial(bce_tversky, weight=weight) for weight in OTHERS},
}
