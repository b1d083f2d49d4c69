"""The only loops over batches. Everything that trains or scores a network calls them."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from constants import MEAN, STD, THRESHOLD
from data import Slices
from losses import Loss
from metrics import Counts, count_pixels, slice_mean_iou, summary
from utils import Hardware, UserError


def prepare(images: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1], on the same device."""
    mean = images.new_tensor(MEAN, dtype=torch.float32)
    std = images.new_tensor(STD, dtype=torch.float32)
    return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


def prepare_masks(masks: torch.Tensor) -> torch.Tensor:
    """uint8 {0, 1} [N, H, W] -> float32 [N, 1, H, W]."""
    return masks.unsqueeze(1).float()


def predicted_mask(logits: torch.Tensor, threshold: float = THRESHOLD) -> torch.Tensor:
    """Logits -> bool of the same shape: where the probability reaches the threshold."""
    return logits.sigmoid() >= threshold


def epoch_order(seed: int, epoch: int, slices: int) -> torch.Tensor:
    """The order in which epoch 1, 2, ... visits the slices: int64 [slices]; it depends on (seed, epoch) alone."""
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(slices, generator=torch.Generator().manual_seed(mixed))


def train_one_epoch(
    model: nn.Module,
    slices: Slices,
    order: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
) -> dict[str, float]:
    """Train on every slice once, in the given order. Figures are those of the moving network, as it learns.

    Returns: loss (mean over slices) and the figures of metrics.summary.
    Raises: UserError when the loss is no longer finite, naming the batch and its patients.
    """
    model.train()
    losses, counts = [], []
    for rows in _progress(order.split(batch_size), f"{title} training", losses, counts):
        images, masks = slices.batch(rows)
        masks = prepare_masks(masks)
        optimiser.zero_grad(set_to_none=True)
        with hardware.autocast():
            logits = model(prepare(images, hardware.memory_format))
        logits = logits.float()
        loss = loss_function(logits, masks)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach() * len(rows))
        counts.append(count_pixels(predicted_mask(logits.detach()), masks > 0))
    _stop_unless_finite(losses, order.split(batch_size), slices.patients)
    return _figures(losses, _gather(counts), [slices.patients[row] for row in order])


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    slices: Slices,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    masks_out: np.ndarray | None = None,
) -> tuple[dict[str, float], Counts]:
    """Score every slice in order, without training.

    Args:
        masks_out: uint8 [N, H, W] that receives the predicted masks (0 or 1), if they are wanted.

    Returns: the figures as of `train_one_epoch`, and the counts of each slice as NumPy arrays.
    """
    model.eval()
    losses, counts = [], []
    for rows in _progress(torch.arange(len(slices)).split(batch_size), f"{title} scoring", losses, counts):
        images, masks = slices.batch(rows)
        masks = prepare_masks(masks)
        with hardware.autocast():
            logits = model(prepare(images, hardware.memory_format))
        logits = logits.float()
        predicted = predicted_mask(logits)
        losses.append(loss_function(logits, masks) * len(rows))
        counts.append(count_pixels(predicted, masks > 0))
        if masks_out is not None:
            masks_out[rows.numpy()] = predicted.squeeze(1).cpu().numpy()
    counts = _gather(counts)
    return _figures(losses, counts, slices.patients), counts


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, batch_size: int, hardware: Hardware) -> torch.Tensor:
    """Logits of slices without masks: uint8 [N, H, W, 3] -> float32 [N, H, W] on the CPU."""
    model.eval()
    logits = []
    for batch in images.split(batch_size):
        with hardware.autocast():
            answer = model(prepare(batch.to(hardware.device), hardware.memory_format))
        logits.append(answer.squeeze(1).float().cpu())
    return torch.cat(logits)


def _progress(batches: Sequence[torch.Tensor], title: str, losses: list, counts: list):
    """Yield the batches behind a progress bar with running loss and IoU; silent when the output is no terminal."""
    bar = tqdm(batches, desc=title, leave=False, disable=None, unit="batch", dynamic_ncols=True)
    shown = time.monotonic()
    for batch in bar:
        yield batch
        if not bar.disable and time.monotonic() - shown > 1:  # reading a figure waits for the device: rarely
            shown = time.monotonic()
            done = sum(len(c.true_positive) for c in counts)
            bar.set_postfix(loss=f"{sum(losses).item() / done:.4f}", IoU=f"{slice_mean_iou(_gather(counts)):.3f}")


def _gather(counts: list[Counts]) -> Counts:
    """The counts of all batches in one, as NumPy arrays."""
    return Counts(*(torch.cat(parts).cpu().numpy() for parts in zip(*counts, strict=True)))


def _figures(losses: list[torch.Tensor], counts: Counts, patients: Sequence[str]) -> dict[str, float]:
    return {"loss": torch.stack(losses).sum().item() / len(patients), **summary(counts, patients)}


def _stop_unless_finite(losses: list[torch.Tensor], batches: Sequence[torch.Tensor], patients: Sequence[str]) -> None:
    finite = torch.stack(losses).isfinite().cpu()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        names = ", ".join(sorted({patients[row] for row in batches[first]}))
        raise UserError(
            f"the training loss is not finite from batch {first + 1} of {len(batches)} of this epoch on "
            f"(patients {names}). The epochs before it are kept. Try a smaller --lr or --precision fp32."
        )
