"""Where the time of one training step goes: forward, backward, optimiser, and the most expensive operators.

    python -m benchmarks.step [--width 64] [--batch-size 32] [--bilinear] [--device cpu]

Random pixels go through training.engine, as in training, under torch.profiler: one step to warm up, one that counts.
"""

import argparse

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.growth import random_slices
from constants import BATCH_SIZE, LEARNING_RATE, WIDTH
from training.engine import train_one_epoch
from training.hardware import choose_hardware, keep_freed_memory
from training.losses import bce
from unet import UNet
from utils import positive, run_script

BACKWARD = "autograd::engine::evaluate_function"  # begins the name of each node of the backward pass
OPTIMISER = "Optimizer.step"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width", type=positive(int), default=WIDTH, help="channels of the first level (%(default)s)")
    add("--batch-size", type=positive(int), default=BATCH_SIZE, help="slices (%(default)s)")
    add("--bilinear", action="store_true", help="interpolate on the way up")
    add("--device", default="auto", help="(auto: CUDA, else MPS, else the CPU)")
    args = parser.parse_args(argv)

    keep_freed_memory()
    hardware = choose_hardware(args.device)
    model = UNet(width=args.width, bilinear=args.bilinear).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=hardware.device.type != "mps")
    noise = random_slices(args.batch_size).to(hardware.device)

    def step() -> None:
        train_one_epoch(model, noise, torch.arange(len(noise)), optimiser, len(noise), bce, hardware)

    step()
    cuda = hardware.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiled:
        step()
    clock = "device_time_total" if cuda else "cpu_time_total"
    table = profiled.key_averages()
    events = [event for event in table if event.device_type == DeviceType.CPU]  # operators, with their kernels' time
    whole = sum(getattr(event, f"self_{clock}") for event in events)
    backward, update = (
        sum(getattr(event, clock) for event in events if event.key.startswith(name)) for name in (BACKWARD, OPTIMISER)
    )
    print(f"{hardware}, torch {torch.__version__}, {torch.get_num_threads()} threads; {args.batch_size} slices")
    parts = {"forward and metrics": whole - backward - update, "backward": backward, "optimiser": update}
    for name, microseconds in {**parts, "whole step": whole}.items():
        print(f"{name:<20} {microseconds / 1e3:9.1f} ms  {microseconds / whole:5.0%}")
    print(table.table(sort_by=f"self_{clock}", row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    run_script(main)
