"""The only loops over batches. Everything that trains, validates or applies a network calls them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from constants import IMAGE_SIZE, THRESHOLD
from dataset.preprocess import PreprocessedSlices, Preprocessing, preprocess, window_side
from dataset.slices import Slices
from evaluation.metrics import Counts, count_pixels, summarise
from training import augment
from training.hardware import Hardware, rank, sum_over_processes, world
from training.losses import Loss, make_loss
from utils import UserError

WINDOW = (224, 192)  # least rows and columns around the head in training with `crop`
RESOLUTIONS = ((0.3, 0.5), (0.6, 0.75), (1.0, 1.0))  # up to this fraction of the epochs: the resolution
OUTSIDE = -20.0  # the logit outside of the computed window
CHECK_EVERY = 16  # steps between checks of the loss on an accelerator or by several processes
# Of this process's slices of a batch: mean loss, positions in the epoch's order, counts; they stay on the device
Batch = tuple[torch.Tensor, torch.Tensor, Counts]


def predicted_mask(logits: torch.Tensor) -> torch.Tensor:
    """Logits -> bool of the same shape: whether the probability reaches THRESHOLD."""
    return logits.sigmoid() >= THRESHOLD


def epoch_order(
    seed: int, epoch: int, slices: Slices, negative_fraction: float = 1.0, patient_balanced: float = 0.0
) -> torch.Tensor:
    """Return the rows of epoch 1, 2, ... in their order: int64; it depends on (seed, epoch) and the slices alone.

    All tumour slices, and a fraction of the others, drawn anew in each epoch. With `patient_balanced` as many rows,
    drawn with replacement: first a patient, all with the same probability, then a slice in proportion to its tumour
    pixels plus `patient_balanced` times their mean.
    """
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(mixed)
    order = torch.randperm(len(slices), generator=generator)
    if negative_fraction == 1 and not patient_balanced:
        return order
    tumour = slices.masks.flatten(1).sum(1).cpu().double()
    if patient_balanced:
        patient = torch.from_numpy(np.unique(slices.patients, return_inverse=True)[1])
        mean = (patient.bincount(tumour) / patient.bincount())[patient]
        weights = torch.where(mean > 0, tumour + patient_balanced * mean, 1)
        rows = round(int((tumour > 0).sum()) + negative_fraction * int((tumour == 0).sum()))
        return torch.multinomial(weights / patient.bincount(weights)[patient], rows, True, generator=generator)
    negative = (tumour == 0)[order]
    drawn = negative.cumsum(0) <= round(negative_fraction * int(negative.sum()))
    return order[~negative | drawn]


@dataclass(frozen=True)
class TrainingTransform:
    """Slices -> training input: the window around the head with `crop`, its resolution, and random augmentation."""

    crop: bool = False
    augmented: bool = False
    brain: torch.Tensor | None = None  # `robust`: brain_distance of each slice; skulls are removed, tumours changed
    resolution: float = 1.0  # fraction of the full one
    seed: int = 0
    epoch: int = 1

    def batch(
        self, slices: PreprocessedSlices, rows: torch.Tensor, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input and masks, float32 [B, C, h, w] and [B, 1, h, w]."""
        images, masks = slices.batch(rows, device)
        if not len(rows) or (self.crop, self.augmented, self.resolution) == (False, False, 1):
            return images, masks
        generators = augment.generators(self.seed, self.epoch, rows) if self.augmented else None
        if generators is not None and self.brain is not None:
            images = augment.strip_skull(images, self.brain[rows].to(device), generators)
        extent, size = training_window(self.crop, self.resolution)
        boxes = [slices.boxes[patient] if self.crop else (0, IMAGE_SIZE) * 2 for patient in slices.stack[rows]]
        centres = torch.tensor([((top + bottom) // 2, (left + right) // 2) for top, bottom, left, right in boxes])
        images, masks = augment.cut_window(images, masks, centres, extent, size, generators)
        if generators is not None:  # on the window alone, which costs least
            if self.brain is not None:
                images = augment.change_lesions(images, masks, slices.preprocessing.sequences, generators)
            images = augment.change_intensities(images, slices.preprocessing.sequences, generators)
        return images, masks


def training_window(crop: bool, resolution: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of the training window: in pixels of the slice, and in pixels of the network's input."""
    extent = tuple(window_side(side, resolution) for side in WINDOW) if crop else (IMAGE_SIZE, IMAGE_SIZE)
    return extent, tuple(round(side * resolution) for side in extent)


def resolution_of_epoch(epoch: int, epochs: int) -> float:
    """Return the resolution in an epoch, 1, 2, ..., of a training with progressive resolution."""
    return next(resolution for until, resolution in RESOLUTIONS if epoch <= until * epochs + 1e-9)


def summarise_epoch(batches: Sequence[Batch], patients: Sequence[str]) -> dict[str, float]:
    """Return the metrics of `train_one_epoch`, over all processes.

    patients: of each slice in the epoch's order. A slice that was drawn twice counts twice, each time with the counts
    of its own prediction.
    """
    losses, positions, counts = zip(*batches, strict=True)
    device, sizes = losses[0].device, torch.tensor([len(rows) for rows in positions], dtype=torch.float64)
    total = (torch.stack(losses).cpu().double() * sizes).sum()  # Apple's GPUs have no float64
    if world() > 1:
        total = sum_over_processes(total.to(device))
    table = torch.zeros(len(patients), len(Counts._fields), dtype=torch.int64, device=device)
    table[torch.cat(positions).to(device)] = torch.cat([torch.stack(c, dim=1) for c in counts])
    counts = Counts(*sum_over_processes(table).cpu().numpy().T)
    return {"loss": total.item() / len(patients), **summarise(counts, patients)}


def train_one_epoch(
    model: nn.Module, slices: PreprocessedSlices, order: torch.Tensor, optimiser: Any, batch_size: int,
    loss_function: Loss, hardware: Hardware, title: str = "", transform: TrainingTransform | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train on the given rows, in their order. The metrics are of the network while it learns, on transformed slices.

    optimiser: has zero_grad() and step().

    Returns: loss (mean over batches, weighted by their slices) and the metrics of metrics.summarise.
    Raises: UserError when the loss is no longer finite, naming the batch and its patients.
    """
    model.train()
    done, transform = [], transform or TrainingTransform()
    patients = slices.table["patient"].iloc[order.numpy()].tolist()
    batches = torch.arange(len(order)).split(batch_size)
    check_every = 1 if hardware.device.type == "cpu" and world() == 1 else CHECK_EVERY
    for number, batch in enumerate(_progress(batches, f"{title} training"), start=1):
        positions = batch[rank() :: world()]  # of this process; they may be none
        images, masks = transform.batch(slices, order[positions], hardware.device)
        images = images.contiguous(memory_format=hardware.memory_format)
        optimiser.zero_grad()
        with hardware.autocast():
            logits = model(images).float()
        loss = loss_function(logits, masks) if len(images) else logits.sum()  # without slices it still takes part
        weight = world() * len(images) / len(batch)  # gradients are averaged over processes, not over slices
        (loss * weight if weight != 1 else loss).backward()
        optimiser.step()
        done.append((loss.detach(), positions, count_pixels(predicted_mask(logits.detach()), masks > 0)))
        if number % check_every == 0 or number == len(batches):
            _refuse_not_finite([loss for loss, *_ in done], batches, patients)
    return summarise_epoch(done, patients)


@torch.inference_mode()
def evaluate(
    model: nn.Module, slices: PreprocessedSlices, batch_size: int, loss_function: Loss, hardware: Hardware,
    title: str = "", tta_flip: bool = False, probabilities_out: np.ndarray | None = None,
) -> dict[str, float]:  # fmt: skip
    """Predict every slice in order and compare with its mask.

    Args:
        tta_flip: average the logits of the slice and of its mirror image.
        probabilities_out: float32 [N, H, W] that receives the probabilities, if they are wanted.

    Returns: the metrics of `train_one_epoch`, over the whole frame; but the loss over the computed window, as in
        training.
    """
    model.eval()
    done = []
    for batch, window in _progress(list(slices.batches(batch_size)), f"{title} evaluation"):
        rows = batch[rank() :: world()]
        logits, masks = compute_logits(model, slices, rows, window, hardware, tta_flip)
        loss = loss_function(logits[..., *window], masks[..., *window]) if len(rows) else logits.sum()
        done.append((loss, rows, count_pixels(predicted_mask(logits), masks > 0)))
        if probabilities_out is not None:
            probabilities_out[rows.numpy()] = logits.sigmoid().squeeze(1).cpu().numpy()
    return summarise_epoch(done, slices.patients)


def score(
    model: nn.Module, checkpoint: Mapping[str, Any], slices: Slices, hardware: Hardware, title: str,
    batch_size: int | None = None,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """Preprocess slices for the network of a checkpoint, and predict them.

    batch_size: slices at a time, on which a Dice loss depends; that of training if None.

    Returns: the loss of training, and the probabilities, float32 [N, H, W].
    """
    input, settings = checkpoint["input"], checkpoint["config"]["settings"]
    probabilities = np.empty(slices.masks.shape, np.float32)
    metrics = evaluate(
        model.to(hardware.device, memory_format=hardware.memory_format),
        preprocess(slices, Preprocessing.of(input)).to(hardware.device),
        batch_size or settings["batch_size"], make_loss(settings["loss"], settings["false_negative_weight"]),
        hardware, title, input["tta_flip"], probabilities,
    )  # fmt: skip
    return metrics["loss"], probabilities


@torch.inference_mode()
def predict(
    model: nn.Module, slices: PreprocessedSlices, batch_size: int, hardware: Hardware, tta_flip: bool = False
) -> torch.Tensor:
    """Return the logits of slices without masks: float32 [N, H, W] on the CPU."""
    model.eval()
    batches = slices.batches(batch_size)
    return torch.cat([compute_logits(model, slices, *b, hardware, tta_flip)[0].squeeze(1).cpu() for b in batches])


def compute_logits(
    model: nn.Module, slices: PreprocessedSlices, rows: torch.Tensor, window: tuple[slice, slice],
    hardware: Hardware, tta_flip: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return logits and masks of some slices in the whole frame: float32 [B, 1, 256, 256] each.

    window: rows and columns to compute; the logit is OUTSIDE elsewhere. tta_flip: as of `evaluate`.
    """
    images, masks = slices.batch(rows, hardware.device)
    images = images[..., *window]
    full = images.shape[-2:]
    computed = [round(side * slices.preprocessing.resolution) for side in full]
    images = resize(images, computed).contiguous(memory_format=hardware.memory_format)
    with hardware.autocast():
        logits = model(images).float()
        if tta_flip:
            logits = (logits + model(images.flip(3)).float().flip(3)) / 2
    logits = resize(logits, full)
    if logits.shape == masks.shape:
        return logits, masks
    frame = torch.full_like(masks, OUTSIDE)
    frame[..., *window] = logits
    return frame, masks


def resize(planes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate bilinearly, like the windows of training: float32 [N, C, H, W]."""
    if list(planes.shape[-2:]) == list(size):
        return planes
    return F.interpolate(planes, list(size), mode="bilinear", align_corners=False)


def _progress(batches: Sequence[Any], title: str) -> Iterator[Any]:
    """Yield the batches behind a progress bar; silent off a terminal."""
    disable = rank() > 0 or sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty()
    return iter(tqdm(batches, title, leave=False, disable=disable, unit="batch", dynamic_ncols=True))


def _refuse_not_finite(losses: list[torch.Tensor], batches: Sequence[torch.Tensor], patients: Sequence[str]) -> None:
    """Raise UserError if any loss so far, in any process, is not finite."""
    broken = sum_over_processes((~torch.stack(losses).isfinite()).int()).cpu()
    if broken.any():
        first = int(broken.nonzero()[0])
        names = ", ".join(sorted({patients[position] for position in batches[first]}))
        raise UserError(
            f"the training loss is not finite from batch {first + 1} of {len(batches)} of this epoch on "
            f"(patients {names}). The epochs before it are saved. Try a smaller --lr or --precision fp32."
        )
