"""The only loops over batches. Everything that trains or scores a network calls them."""

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from constants import MEAN, STD, THRESHOLD
from dataset.slices import Slices
from evaluation.metrics import Counts, count_pixels, slice_mean_iou, summarise
from training import distributed, lean
from training.losses import Loss
from utils import Hardware, UserError

CHECK_EVERY = 16  # steps after which an accelerator, or several processes, are asked for the loss and for signals


def prepare(images: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """Scale slices as the network expects: uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1], same device."""
    mean, std = _per_channel(MEAN, images.device), _per_channel(STD, images.device)
    return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return float32 [3] on the device; made once, because a copy from the host would wait for the whole GPU queue."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def prepare_masks(masks: torch.Tensor) -> torch.Tensor:
    """uint8 {0, 1} [N, H, W] -> float32 [N, 1, H, W]."""
    return masks.unsqueeze(1).float()


def predicted_mask(logits: torch.Tensor, threshold: float = THRESHOLD) -> torch.Tensor:
    """Logits -> bool of the same shape: where the probability reaches the threshold."""
    return logits.sigmoid() >= threshold


def epoch_order(seed: int, epoch: int, slices: int) -> torch.Tensor:
    """Return the order of the slices in epoch 1, 2, ...: int64 [slices]; it depends on (seed, epoch) alone."""
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(slices, generator=torch.Generator().manual_seed(mixed))


@dataclass
class Tally:
    """Running per-batch losses and pixel counts of one epoch; of this process's share of the rows."""

    losses: list[torch.Tensor] = field(default_factory=list)  # mean over the share
    rows: list[torch.Tensor] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)

    def add(self, loss: torch.Tensor, rows: torch.Tensor, counts: Counts) -> None:
        self.losses.append(loss)
        self.rows.append(rows)
        self.counts.append(counts)

    def gather(self, slices: int) -> Counts:
        """Return the counts of every slice by row number, from all processes, as NumPy arrays."""
        device = self.counts[0].true_positive.device
        every = torch.zeros(slices, 3, dtype=torch.int64, device=device)
        every[torch.cat(self.rows).to(device)] = torch.cat([torch.stack(c, dim=1) for c in self.counts])
        return Counts(*distributed.add_up(every).cpu().numpy().T)

    def summarise(self, patients: Sequence[str]) -> tuple[dict[str, float], Counts]:
        """Return the metrics as of `train_one_epoch`, and the counts behind them."""
        sizes = torch.tensor([len(rows) for rows in self.rows], dtype=torch.float64)
        total = (torch.stack(self.losses).double().cpu() * sizes).sum()
        if distributed.world() > 1:
            total = distributed.add_up(total.to(self.losses[0].device))
        counts = self.gather(len(patients))
        return {"loss": total.item() / len(patients), **summarise(counts, patients)}, counts


class Interrupted(Exception):
    """A signal asked training to stop, and it did after a complete step."""


def train_one_epoch(
    model: nn.Module,
    slices: Slices,
    order: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train on every slice once, in the given order. The metrics are those of the network as it learns.

    Args:
        stop: asked after each step whether to stop.

    Returns: loss (mean over batches, weighted by their slices) and the metrics of metrics.summarise.
    Raises: Interrupted when `stop` says so; UserError when the loss is no longer finite, naming the batch and its
        patients.
    """
    model.train()
    tally = Tally()
    batches = order.split(batch_size)
    every = 1 if hardware.device.type == "cpu" and distributed.world() == 1 else CHECK_EVERY
    for number, batch in enumerate(_progress(batches, f"{title} training", tally), start=1):
        rows = distributed.share(batch)
        images, masks = slices.batch(rows, hardware.device)
        masks = prepare_masks(masks)
        loss, logits = _train_step(
            model, prepare(images, hardware.memory_format), masks, optimiser, loss_function, hardware, len(batch)
        )
        tally.add(loss, rows, count_pixels(predicted_mask(logits), masks > 0))
        if number % every == 0 or number == len(batches):
            _stop_unless_finite(tally.losses, batches, slices.patients)
            if distributed.anyone(stop(), hardware.device):
                raise Interrupted
    return tally.summarise(slices.patients)[0]


def _train_step(
    model: nn.Module,
    images: torch.Tensor,
    masks: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    loss_function: Loss,
    hardware: Hardware,
    batch: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train on this process's share of a batch of `batch` slices. Returns its loss and logits, detached."""
    optimiser.zero_grad(set_to_none=True)
    if lean.applies(model, hardware):
        logits = lean.training_pass(model, images, torch.bfloat16 if hardware.bf16 else torch.float32).float()
    else:
        with hardware.autocast():
            logits = model(images).float()
    loss = loss_function(logits, masks) if len(images) else logits.sum()  # an empty share still takes part
    weight = distributed.world() * len(images) / batch  # gradients are averaged over processes, not over slices
    (loss * weight if weight != 1 else loss).backward()
    optimiser.step()
    return loss.detach(), logits.detach()


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    slices: Slices,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    probabilities_out: np.ndarray | None = None,
) -> tuple[dict[str, float], Counts]:
    """Score every slice in order, without training.

    Args:
        probabilities_out: float32 [N, H, W] that receives the probabilities, if they are wanted.

    Returns: the metrics as of `train_one_epoch`, and the counts of each slice as NumPy arrays.
    """
    model.eval()
    tally = Tally()
    batches = torch.arange(len(slices)).split(batch_size)
    for batch in _progress(batches, f"{title} scoring", tally):
        rows = distributed.share(batch)
        images, masks = slices.batch(rows, hardware.device)
        masks = prepare_masks(masks)
        with hardware.autocast():
            logits = model(prepare(images, hardware.memory_format)).float()
        loss = loss_function(logits, masks) if len(rows) else logits.sum()
        tally.add(loss, rows, count_pixels(predicted_mask(logits), masks > 0))
        if probabilities_out is not None:
            probabilities_out[rows.numpy()] = logits.sigmoid().squeeze(1).cpu().numpy()
    return tally.summarise(slices.patients)


@torch.inference_mode()
def predict(model: nn.Module, images: torch.Tensor, batch_size: int, hardware: Hardware) -> torch.Tensor:
    """Return the logits of slices without masks: uint8 [N, H, W, 3] -> float32 [N, H, W] on the CPU."""
    model.eval()
    logits = []
    for batch in images.split(batch_size):
        with hardware.autocast():
            answer = model(prepare(batch.to(hardware.device), hardware.memory_format))
        logits.append(answer.squeeze(1).float().cpu())
    return torch.cat(logits)


def _progress(batches: Sequence[torch.Tensor], title: str, tally: Tally) -> Iterator[torch.Tensor]:
    """Yield the batches behind a progress bar with loss and IoU; silent off a terminal."""
    none = sys.stderr is None or sys.stderr.closed
    quiet = True if none or distributed.rank() else None  # None: tqdm looks for a terminal
    bar = tqdm(batches, title, leave=False, disable=quiet, unit="batch", dynamic_ncols=True)
    shown = time.monotonic()
    for batch in bar:
        yield batch
        if not bar.disable and time.monotonic() - shown > 1:  # reading a metric waits for the device: rarely
            shown = time.monotonic()
            counts = Counts(*(torch.cat(parts).cpu().numpy() for parts in zip(*tally.counts, strict=True)))
            loss = torch.stack(tally.losses).mean().item()
            bar.set_postfix(loss=f"{loss:.4f}", IoU=f"{slice_mean_iou(counts):.3f}")


def _stop_unless_finite(losses: list[torch.Tensor], batches: Sequence[torch.Tensor], patients: Sequence[str]) -> None:
    """Raise UserError if any loss so far, in any process, is not finite."""
    broken = distributed.add_up((~torch.stack(losses).isfinite()).int()).cpu()
    if broken.any():
        first = int(broken.nonzero()[0])
        names = ", ".join(sorted({patients[row] for row in batches[first]}))
        raise UserError(
            f"the training loss is not finite from batch {first + 1} of {len(batches)} of this epoch on "
            f"(patients {names}). The epochs before it are kept. Try a smaller --lr or --precision fp32."
        )
