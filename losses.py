"""Training losses: logits and masks in, one number out. Both are float [N, 1, H, W]; masks are 0 or 1.

With several processes each gives its share of the batch, and all get the loss of the whole batch.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from distributed import all_sum

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over all pixels (nats)."""
    total = F.binary_cross_entropy_with_logits(logits, masks, reduction="sum")
    pixels = total.new_full((), masks.numel())  # filled on the device: a copy from the host would wait for it
    return all_sum(total) / all_sum(pixels)


def soft_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - Dice of the probabilities, over the whole batch at once, so that empty slices weigh by their pixels only.

    Between 0 and 1. One pixel is added to both parts of the fraction: empty against empty is 0, not 0/0.
    """
    probabilities = logits.sigmoid()
    overlap = all_sum((probabilities * masks).sum())
    return 1 - (2 * overlap + 1) / (all_sum(probabilities.sum()) + all_sum(masks.sum()) + 1)


def bce_dice(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The sum of both: cross-entropy for every pixel, Dice against the rarity of lesion pixels."""
    return bce(logits, masks) + soft_dice(logits, masks)


LOSSES: dict[str, Loss] = {"bce": bce, "dice": soft_dice, "bce+dice": bce_dice}
