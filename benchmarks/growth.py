"""How the cost of a training step grows with the batch and the width, and that of an epoch with the slices.

    python -m benchmarks.growth [--batch-size 4] [--width 8] [--steps 3]

Each of the three is doubled three times, the other two kept. On random pixels, in the default precision of the device;
medians over the steps after one that warms up.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from constants import IMAGE_SIZE, LEARNING_RATE
from dataset.preprocess import Preparation, Prepared, prepare
from dataset.slices import Slices
from training.engine import train_one_epoch
from training.hardware import choose_hardware, keep_freed_memory
from training.losses import bce
from training.recipes import REFERENCE
from unet import UNet
from utils import positive, run_script

DOUBLINGS = (1, 2, 4, 8)


def random_slices(count: int, settings: Mapping[str, Any] = REFERENCE) -> Prepared:
    """Return slices of random pixels with random masks, prepared as in a recipe, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 2, (count, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, generator=generator)
    slices = Slices(images, masks, pd.DataFrame({"patient": ["noise"] * count}))
    return prepare(slices, Preparation.of(settings))


def seconds(slices: int, batch: int, width: int, steps: int) -> float:
    """Return the median time of one epoch over `slices`."""
    hardware = choose_hardware()
    model = UNet(width=width).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    noise = random_slices(slices).to(hardware.device)
    times = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        train_one_epoch(model, noise, torch.arange(slices), optimiser, batch, bce, hardware)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=positive(int), default=4, help="the smallest (%(default)s)")
    parser.add_argument("--width", type=positive(int), default=8, help="the smallest (%(default)s)")
    parser.add_argument("--steps", type=positive(int), default=3, help="repetitions of each (%(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    print(f"{choose_hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("slices  batch  width    s / epoch  s / slice")
    batch, width = 2 * args.batch_size, 2 * args.width  # where they are kept
    cases = [(factor * batch, batch, width) for factor in DOUBLINGS]
    cases += [(factor * args.batch_size, factor * args.batch_size, width) for factor in DOUBLINGS]
    cases += [(batch, batch, factor * args.width) for factor in DOUBLINGS]
    for slices, batch, width in dict.fromkeys(cases):  # the one where all three meet, once
        spent = seconds(slices, batch, width, args.steps)
        print(f"{slices:6d} {batch:6d} {width:6d} {spent:12.3f} {spent / slices:10.4f}", flush=True)


if __name__ == "__main__":
    run_script(main)
