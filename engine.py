"""The only loops over batches. Everything that trains or scores a network calls them."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import distributed
import lean
from constants import MEAN, STD, THRESHOLD
from data import Slices
from losses import Loss
from metrics import Counts, count_pixels, slice_mean_iou, summary
from unet import UNet
from utils import Hardware, UserError

AGREE_EVERY = 16  # steps after which several processes ask each other whether to stop; each time they wait


def prepare(images: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1], on the same device."""
    mean, std = per_channel(MEAN, images.device), per_channel(STD, images.device)
    return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)


@functools.cache
def per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 [3] on the device. Made once: to copy it there anew would wait for all that a GPU has still to do."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


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


@dataclass
class Tally:
    """What an epoch has seen so far, batch by batch: the loss of the whole batch, and counts of this process's rows."""

    losses: list[torch.Tensor] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)

    def add(self, loss: torch.Tensor, rows: torch.Tensor, counts: Counts) -> None:
        self.losses.append(loss)
        self.rows.append(rows)
        self.counts.append(counts)

    def gather(self, slices: int) -> Counts:
        """The counts of every slice by row number, from all processes, as NumPy arrays."""
        device = self.counts[0].true_positive.device
        every = torch.zeros(slices, 3, dtype=torch.int64, device=device)
        every[torch.cat(self.rows).to(device)] = torch.cat([torch.stack(c, dim=1) for c in self.counts])
        return Counts(*distributed.add_up(every).cpu().numpy().T)

    def figures(self, batches: Sequence[torch.Tensor], patients: Sequence[str]) -> tuple[dict[str, float], Counts]:
        """Loss (mean over slices) and the figures of metrics.summary; the counts behind them."""
        sizes = torch.tensor([len(rows) for rows in batches], dtype=torch.float64)
        counts = self.gather(len(patients))
        loss = (torch.stack(self.losses).double().cpu() * sizes).sum().item() / len(patients)
        return {"loss": loss, **summary(counts, patients)}, counts


class Interrupted(Exception):
    """Training was asked to stop and did, after a whole step; `tally` is what the unfinished epoch has seen."""

    def __init__(self, tally: Tally):
        super().__init__("interrupted")
        self.tally = tally


def train_one_epoch(
    model: nn.Module,
    slices: Slices,
    order: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    tally: Tally | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train on every slice once, in the given order. Figures are those of the moving network, as it learns.

    Args:
        tally: of an epoch that was interrupted; its batches are not repeated.
        stop: asked after each step whether to stop.

    Returns: loss (mean over slices) and the figures of metrics.summary.
    Raises: Interrupted, when `stop` says so; UserError when the loss is no longer finite, naming the batch and its
        patients.
    """
    model.train()
    tally = tally or Tally()
    batches = order.split(batch_size)
    for rows in _progress(batches, f"{title} training", tally):
        rows = distributed.share(rows)
        images, masks = slices.batch(rows, hardware.device)
        masks = prepare_masks(masks)
        images = prepare(images, hardware.memory_format)
        loss, logits = _step(model, images, masks, optimiser, loss_function, hardware)
        tally.add(loss, rows, count_pixels(predicted_mask(logits), masks > 0))
        agree = distributed.world() == 1 or len(tally.losses) % AGREE_EVERY == 0
        if agree and distributed.anyone(stop(), hardware.device):
            raise Interrupted(tally)
    _stop_unless_finite(tally.losses, batches, slices.patients)
    return tally.figures(batches, slices.patients)[0]


def _step(
    model: nn.Module,
    images: torch.Tensor,
    masks: torch.Tensor,
    optimiser: torch.optim.Optimizer,
    loss_function: Loss,
    hardware: Hardware,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of training: the loss and the logits, without what they hang on, which is gone before the next step."""
    optimiser.zero_grad(set_to_none=True)
    logits = _training_logits(model, images, hardware)
    loss = loss_function(logits, masks)
    loss.backward()
    optimiser.step()
    return loss.detach(), logits.detach()


def _training_logits(model: nn.Module, images: torch.Tensor, hardware: Hardware) -> torch.Tensor:
    """float32 [N, classes, H, W]. A wide network on the CPU takes the way that needs half of the memory."""
    plain = hardware.device.type != "cpu" or distributed.world() > 1 or not isinstance(model, UNet)
    if not plain and model.head.in_channels >= lean.FROM_WIDTH:
        return lean.training_pass(model, images, torch.bfloat16 if hardware.bf16 else torch.float32).float()
    with hardware.autocast():
        return model(images).float()


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

    Returns: the figures as of `train_one_epoch`, and the counts of each slice as NumPy arrays.
    """
    model.eval()
    tally = Tally()
    batches = torch.arange(len(slices)).split(batch_size)
    for rows in _progress(batches, f"{title} scoring", tally):
        rows = distributed.share(rows)
        images, masks = slices.batch(rows, hardware.device)
        masks = prepare_masks(masks)
        with hardware.autocast():
            logits = model(prepare(images, hardware.memory_format)).float()
        predicted = predicted_mask(logits)
        tally.add(loss_function(logits, masks), rows, count_pixels(predicted, masks > 0))
        if probabilities_out is not None:
            probabilities_out[rows.numpy()] = logits.sigmoid().squeeze(1).cpu().numpy()
    return tally.figures(batches, slices.patients)


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


def _progress(batches: Sequence[torch.Tensor], title: str, tally: Tally) -> Iterator[torch.Tensor]:
    """Yield the batches that are still to do, behind a progress bar with loss and IoU; off a terminal it is silent."""
    done = len(tally.losses)
    quiet = True if distributed.rank() else None  # None: tqdm looks for a terminal
    bar = tqdm(
        batches[done:], title, len(batches), False, initial=done, disable=quiet, unit="batch", dynamic_ncols=True
    )
    shown = time.monotonic()
    for batch in bar:
        yield batch
        if not bar.disable and time.monotonic() - shown > 1:  # reading a figure waits for the device: rarely
            shown = time.monotonic()
            counts = Counts(*(torch.cat(parts).cpu().numpy() for parts in zip(*tally.counts, strict=True)))
            loss = torch.stack(tally.losses).mean().item()
            bar.set_postfix(loss=f"{loss:.4f}", IoU=f"{slice_mean_iou(counts):.3f}")


def _stop_unless_finite(losses: list[torch.Tensor], batches: Sequence[torch.Tensor], patients: Sequence[str]) -> None:
    finite = torch.stack(losses).isfinite().cpu()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        names = ", ".join(sorted({patients[row] for row in batches[first]}))
        raise UserError(
            f"the training loss is not finite from batch {first + 1} of {len(batches)} of this epoch on "
            f"(patients {names}). The epochs before it are kept. Try a smaller --lr or --precision fp32."
        )
