"""The time of a training step beside that of a plain PyTorch loop.

    python -m studies.speed --recipe tuned
    python -m studies.speed --width 64 --batch-size 32 --bilinear

training.engine and a loop as it is commonly first written (fp32, channels first, whole frames, scaled slice by slice,
loss and IoU read with .item()) take steps on the same random slices; the options of the recipe are those of
train_model.py.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from constants import FLAIR, IMAGE_SIZE
from dataset.preprocess import Preprocessing, preprocess
from dataset.slices import Slices, table_of
from storage.checkpoints import describe_network
from training.brain import brain_distances
from training.engine import TrainingTransform, train_one_epoch, training_window
from training.hardware import Hardware, choose_hardware, keep_freed_memory
from training.losses import make_loss
from training.optimisation import Optimisation
from training.recipe import Recipe, make_parser, make_settings
from unet import UNet
from utils import run_script

STEPS = 5


def main(argv: list[str] | None = None) -> None:
    args = make_parser(__doc__).parse_args(argv)
    settings = make_settings(args)
    measure_step(Recipe.of(settings), choose_hardware(args.device, settings["precision"]))


def measure_step(recipe: Recipe, hardware: Hardware) -> None:
    """Print the median time of a step of this project and of the plain loop, and the rate of the convolutions."""
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch_size, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 2, shape, dtype=torch.uint8, generator=generator)
    slices = Slices(images, masks, table_of({"noise": range(1, recipe.batch_size + 1)}))
    ours, plain = (time_calls(make(recipe, slices, hardware)) for make in (make_step, make_plain_step))
    flop = count_flop(describe_network(vars(recipe)), *training_window(recipe.crop, 1.0)[1])
    rate = 3 * recipe.batch_size * flop / ours  # backward takes twice as many as forward
    print(f"{hardware}, torch {torch.__version__}, {torch.get_num_threads()} threads; {recipe}")
    print(f"this project {ours / recipe.batch_size * 1e3:8.2f} ms a slice, {rate / 1e9:.0f} GFLOP/s of convolutions")
    print(f"plain loop   {plain / recipe.batch_size * 1e3:8.2f} ms a slice")
    print(f"ratio        {plain / ours:8.2f}, medians of {STEPS} steps")
    if hardware.device.type == "cpu":
        matrix = torch.randn(2048, 2048).to(torch.bfloat16 if hardware.bf16 else torch.float32)
        ceiling = 2 * len(matrix) ** 3 / time_calls(lambda: matrix @ matrix)
        print(f"matrix products reach {ceiling / 1e9:.0f} GFLOP/s here, the convolutions {rate / ceiling:.0%} of that")


def count_flop(network: dict[str, Any], height: int, width: int) -> int:
    """Return the floating-point operations of the convolutions of one forward pass over a slice.

    network: the arguments of UNet.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet(**network)(torch.empty(1, network["channels"], height, width))
    return counter.get_total_flops()


def make_step(recipe: Recipe, slices: Slices, hardware: Hardware) -> Callable[[], float]:
    """Return one training step of this project, which returns its loss."""
    torch.manual_seed(0)
    model = UNet(**describe_network(vars(recipe))).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = Optimisation(model, recipe, steps=100)
    preprocessed = preprocess(slices, Preprocessing.of(vars(recipe))).to(hardware.device)
    loss, rows = make_loss(recipe.loss, recipe.false_negative_weight), torch.arange(len(slices))
    transform = TrainingTransform(recipe.crop, recipe.augment, brain_distances(slices) if recipe.robust else None)
    arguments = (model, preprocessed, rows, optimiser, recipe.batch_size, loss, hardware, "", transform)
    return lambda: train_one_epoch(*arguments)["loss"]


def make_plain_step(recipe: Recipe, slices: Slices, hardware: Hardware) -> Callable[[], float]:
    """Return one step of the plain loop with the network and the loss of the recipe, which returns its loss."""
    torch.manual_seed(0)
    network = describe_network(vars(recipe))
    model = UNet(**network).to(hardware.device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    criterion = make_loss(recipe.loss, recipe.false_negative_weight)

    def step() -> float:
        images = torch.stack([(image.float() / 255 - 0.5) / 0.5 for image in slices.images]).permute(0, 3, 1, 2)
        images = torch.cat([images, *[images[:, FLAIR : FLAIR + 1]] * (network["channels"] - 3)], dim=1)
        masks = torch.stack([mask.float() for mask in slices.masks])[:, None].to(hardware.device)
        logits = model(images.to(hardware.device))
        loss = criterion(logits, masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for predicted, mask in zip(logits > 0, masks > 0, strict=True):  # the IoU of each slice
            (predicted & mask).sum().item() / (predicted | mask).sum().item()
        return loss.item()

    return step


def time_calls(work: Callable[[], Any]) -> float:
    """Return the median seconds of a call, after one that warms up."""
    times = [time.perf_counter()]
    for _ in range(STEPS + 1):
        work()
        times.append(time.perf_counter())
    return statistics.median(np.diff(times)[1:].tolist())


if __name__ == "__main__":
    run_script(main)
