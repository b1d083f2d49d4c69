"""The only loops over batches. Everything that trains or scores a network calls them."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from constants import IMAGE_SIZE, THRESHOLD
from dataset.preprocess import Preparation, Prepared, fitting, prepare
from dataset.slices import Slices
from evaluation.metrics import Counts, count_pixels, slice_mean_iou, summarise
from training import augment, distributed, lean
from training.hardware import Hardware
from training.losses import LOSSES, Loss
from unet import UNet
from utils import UserError

WINDOW = (224, 192)  # rows and columns around the head that training sees with `crop`, at least
GROWING = ((0.3, 0.5), (0.6, 0.75), (1.0, 1.0))  # until this share of the epochs, this share of the resolution
OUTSIDE = -20.0  # the logit where nothing is computed
CHECK_EVERY = 16  # steps after which an accelerator, or several processes, are asked for the loss and for signals


def count_flop(network: dict[str, Any], height: int, width: int) -> int:
    """Return the floating-point operations of the convolutions of one forward pass; backward takes twice as many.

    network: the arguments of UNet. height, width: of the slice.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet(**network)(torch.empty(1, network["channels"], height, width))
    return counter.get_total_flops()


def predicted_mask(logits: torch.Tensor, threshold: float = THRESHOLD) -> torch.Tensor:
    """Logits -> bool of the same shape: where the probability reaches the threshold."""
    return logits.sigmoid() >= threshold


def epoch_order(
    seed: int, epoch: int, slices: Slices, empty_share: float = 1.0, by_patient: float = 0.0
) -> torch.Tensor:
    """Return the rows of epoch 1, 2, ... in their order: int64; it depends on (seed, epoch) and the slices alone.

    All tumour slices, and a share of the others, drawn anew in each epoch. With `by_patient` as many rows, each drawn
    with replacement: any patient with the same probability, then a slice in proportion to its tumour pixels plus this
    times their mean.
    """
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(mixed)
    order = torch.randperm(len(slices), generator=generator)
    if empty_share == 1 and not by_patient:
        return order
    tumour = slices.masks.flatten(1).sum(1).cpu().double()
    if by_patient:
        patient = torch.from_numpy(np.unique(slices.patients, return_inverse=True)[1])
        mean = (patient.bincount(tumour) / patient.bincount())[patient]
        weights = torch.where(mean > 0, tumour + by_patient * mean, 1)
        rows = round(int((tumour > 0).sum()) + empty_share * int((tumour == 0).sum()))
        return torch.multinomial(weights / patient.bincount(weights)[patient], rows, True, generator=generator)
    empty = (tumour == 0)[order]
    drawn = empty.cumsum(0) <= round(empty_share * int(empty.sum()))
    return order[~empty | drawn]


@dataclass(frozen=True)
class Views:
    """What training sees of the slices in an epoch: the window, its resolution, and random changes.

    Args:
        crop: the window around the head, not the frame.
        augmented: change each slice at random.
        share: of the resolution.
        seed, epoch: of the random changes.
    """

    crop: bool = False
    augmented: bool = False
    share: float = 1.0
    seed: int = 0
    epoch: int = 1

    def batch(self, prepared: Prepared, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input and masks as of `Prepared.batch`, [B, C, h, w] and [B, 1, h, w]."""
        images, masks = prepared.batch(rows, device)
        if not len(rows) or (self.crop, self.augmented, self.share) == (False, False, 1):
            return images, masks
        chances = augment.generators(self.seed, self.epoch, rows) if self.augmented else None
        extent, size = training_window(self.crop, self.share)
        boxes = [prepared.boxes[patient] if self.crop else (0, IMAGE_SIZE) * 2 for patient in prepared.stack[rows]]
        centres = torch.tensor([((top + bottom) // 2, (left + right) // 2) for top, bottom, left, right in boxes])
        images, masks = augment.place(images, masks, centres, extent, size, chances)
        if chances is not None:  # on the window alone, which is what costs least
            images = augment.change_intensities(images, prepared.how.sequences, chances)
        return images, masks


EVERYTHING = Views()


def training_window(crop: bool, share: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of what training sees: in pixels of the slice, and as computed at a share of them."""
    extent = tuple(fitting(side, share) for side in WINDOW) if crop else (IMAGE_SIZE, IMAGE_SIZE)
    return extent, tuple(round(side * share) for side in extent)


def growth(epoch: int, epochs: int) -> float:
    """Return the share of the resolution in an epoch, 1, 2, ..., of a training that grows."""
    return next(share for until, share in GROWING if epoch <= until * epochs + 1e-9)


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
        """Return the counts of every slice by row number, from all processes, as NumPy arrays.

        Of a slice that several processes drew: their mean, rounded down.
        """
        device = self.counts[0].true_positive.device
        every = torch.zeros(slices, 4, dtype=torch.int64, device=device)
        counts = torch.cat([torch.stack(c, dim=1) for c in self.counts])
        every[torch.cat(self.rows).to(device)] = torch.nn.functional.pad(counts, (0, 1), value=1)
        *counts, processes = distributed.add_up(every).cpu().numpy().T
        return Counts(*(each // processes.clip(min=1) for each in counts))

    def summarise(self, patients: Sequence[str], seen: torch.Tensor | None = None) -> tuple[dict[str, float], Counts]:
        """Return the metrics as of `train_one_epoch`, and the counts behind them; of the rows `seen` only, if given."""
        sizes = torch.tensor([len(rows) for rows in self.rows], dtype=torch.float64)
        total = (torch.stack(self.losses).cpu().double() * sizes).sum()  # Apple's GPUs have no float64
        if distributed.world() > 1:
            total = distributed.add_up(total.to(self.losses[0].device))
        counts = self.gather(len(patients))
        if seen is not None:
            rows = seen.sort().values.numpy()
            counts, patients = Counts(*(part[rows] for part in counts)), [patients[row] for row in rows]
        return {"loss": total.item() / len(patients), **summarise(counts, patients)}, counts


class Optimiser(Protocol):
    """What a training step needs: one of PyTorch's, or an Optimisation."""

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> None: ...


class Interrupted(Exception):
    """A signal asked training to stop, and it did after a complete step."""


def train_one_epoch(
    model: nn.Module,
    slices: Prepared,
    order: torch.Tensor,
    optimiser: Optimiser,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    stop: Callable[[], bool] = lambda: False,
    views: Views = EVERYTHING,
) -> dict[str, float]:
    """Train on the given rows, in their order. The metrics are those of the network as it learns, on what it saw.

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
        images, masks = views.batch(slices, rows, hardware.device)
        images = images.contiguous(memory_format=hardware.memory_format)
        loss, logits = _train_step(model, images, masks, optimiser, loss_function, hardware, len(batch))
        tally.add(loss, rows, count_pixels(predicted_mask(logits), masks > 0))
        if number % every == 0 or number == len(batches):
            _stop_unless_finite(tally.losses, batches, slices.patients)
            if distributed.anyone(stop(), hardware.device):
                raise Interrupted
    return tally.summarise(slices.patients, order)[0]


def _train_step(
    model: nn.Module,
    images: torch.Tensor,
    masks: torch.Tensor,
    optimiser: Optimiser,
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
    slices: Prepared,
    batch_size: int,
    loss_function: Loss,
    hardware: Hardware,
    title: str = "",
    probabilities_out: np.ndarray | None = None,
    flips: bool = False,
) -> tuple[dict[str, float], Counts]:
    """Score every slice in order, without training.

    Args:
        probabilities_out: float32 [N, H, W] that receives the probabilities, if they are wanted.
        flips: as of `compute_logits`.

    Returns: the metrics as of `train_one_epoch`, and the counts of each slice as NumPy arrays.
    """
    model.eval()
    tally = Tally()
    for batch, window in _progress(list(slices.batches(batch_size)), f"{title} scoring", tally):
        rows = distributed.share(batch)
        logits, masks = compute_logits(model, slices, rows, window, hardware, flips)
        loss = loss_function(logits, masks) if len(rows) else logits.sum()
        tally.add(loss, rows, count_pixels(predicted_mask(logits), masks > 0))
        if probabilities_out is not None:
            probabilities_out[rows.numpy()] = logits.sigmoid().squeeze(1).cpu().numpy()
    return tally.summarise(slices.patients)


def score(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    slices: Slices,
    hardware: Hardware,
    title: str,
    batch_size: int | None = None,
) -> tuple[float, np.ndarray]:
    """Prepare slices as the network of a checkpoint needs them, and score them.

    batch_size: slices at a time, on which a Dice loss depends; that of training if None.

    Returns: the loss of training, and the probabilities, float32 [N, H, W].
    """
    about, settings = checkpoint["input"], checkpoint["config"]["settings"]
    probabilities = np.empty(slices.masks.shape, np.float32)
    metrics, _ = evaluate(
        model.to(hardware.device, memory_format=hardware.memory_format),
        prepare(slices, Preparation.of(about)).to(hardware.device),
        batch_size or settings["batch_size"],
        LOSSES[settings["loss"]],
        hardware,
        title,
        probabilities,
        about["flips"],
    )
    return metrics["loss"], probabilities


@torch.inference_mode()
def predict(
    model: nn.Module, slices: Prepared, batch_size: int, hardware: Hardware, flips: bool = False
) -> torch.Tensor:
    """Return the logits of slices whose masks do not matter: float32 [N, H, W] on the CPU."""
    model.eval()
    batches = slices.batches(batch_size)
    return torch.cat([compute_logits(model, slices, *batch, hardware, flips)[0].squeeze(1).cpu() for batch in batches])


def compute_logits(
    model: nn.Module,
    slices: Prepared,
    rows: torch.Tensor,
    window: tuple[slice, slice],
    hardware: Hardware,
    flips: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of the whole frame and masks of some slices: float32 [B, 1, 256, 256] each.

    Args:
        window: what is computed; the logit is OUTSIDE elsewhere.
        flips: average the logits of the slice and of its mirror image.
    """
    images, masks = slices.batch(rows, hardware.device)
    images = images[..., window[0], window[1]]
    whole = images.shape[-2:]
    computed = [round(side * slices.how.resolution) for side in whole]
    images = resize(images, computed).contiguous(memory_format=hardware.memory_format)
    with hardware.autocast():
        logits = model(images).float()
        if flips:
            logits = (logits + model(images.flip(3)).float().flip(3)) / 2
    logits = resize(logits, whole)
    if logits.shape == masks.shape:
        return logits, masks
    frame = torch.full_like(masks, OUTSIDE)
    frame[..., window[0], window[1]] = logits
    return frame, masks


def resize(planes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate bilinearly, as the windows of training are: float32 [N, C, H, W]."""
    if list(planes.shape[-2:]) == list(size):
        return planes
    return F.interpolate(planes, list(size), mode="bilinear", align_corners=False)


def _progress(batches: Sequence[Any], title: str, tally: Tally) -> Iterator[Any]:
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
