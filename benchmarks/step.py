"""Where the time of one training step goes: forward, backward, optimiser, and the most expensive operators.

    python -m benchmarks.step [--recipe reference] [--width 64] [--batch-size 32] [--bilinear] [--device cpu]

Random pixels go through training.engine, as in training. First steps are timed, and on a CPU the arithmetic of the
convolutions is compared with the rate of matrix products there; then one step is profiled by torch.profiler.
"""

import argparse
import statistics
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare import matmul_rate
from benchmarks.growth import random_slices
from storage.checkpoints import describe_network
from training.engine import Views, count_flop, train_one_epoch, training_window
from training.hardware import choose_hardware, keep_freed_memory
from training.losses import LOSSES
from training.optimisation import Optimisation
from training.recipes import RECIPES
from unet import UNet
from utils import positive, run_script

BACKWARD = "autograd::engine::evaluate_function"  # begins the name of each node of the backward pass
OPTIMISER = "Optimizer.step"
TIMED = 7  # steps


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", choices=RECIPES, default="reference", help="(%(default)s)")
    add("--width", type=positive(int), help="channels of the first level (the recipe's)")
    add("--batch-size", type=positive(int), help="slices (the recipe's)")
    add("--bilinear", action="store_true", default=None, help="interpolate on the way up")
    add("--device", default="auto", help="(auto: CUDA, else MPS, else the CPU)")
    args = parser.parse_args(argv)
    changed = {name: getattr(args, name) for name in ("width", "batch_size", "bilinear") if getattr(args, name)}
    settings = RECIPES[args.recipe] | changed

    keep_freed_memory()
    hardware = choose_hardware(args.device)
    network = describe_network(settings)
    model = UNet(**network).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = Optimisation(model, settings, steps=100)
    size = settings["batch_size"]
    noise = random_slices(size, settings).to(hardware.device)
    views = Views(settings["crop"], settings["augment"])
    loss = LOSSES[settings["loss"]]

    def step() -> float:
        started = time.perf_counter()
        train_one_epoch(model, noise, torch.arange(size), optimiser, size, loss, hardware, views=views)
        return time.perf_counter() - started

    step()
    seconds = statistics.median(step() for _ in range(TIMED))
    rate = 3 * size * count_flop(network, *training_window(settings["crop"], 1.0)[1]) / seconds
    print(f"{hardware}, torch {torch.__version__}, {torch.get_num_threads()} threads; {size} slices")
    print(f"{seconds / size * 1e3:.1f} ms a slice, median of {TIMED} steps; {rate / 1e9:.0f} GFLOP/s of convolutions")
    if hardware.device.type == "cpu":
        ceiling = matmul_rate()
        print(f"matrix products here: {ceiling / 1e9:.0f} GFLOP/s, of which the step has {rate / ceiling:.0%}")
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
    parts = {"forward and metrics": whole - backward - update, "backward": backward, "optimiser": update}
    for name, microseconds in {**parts, "whole step": whole}.items():
        print(f"{name:<20} {microseconds / 1e3:9.1f} ms  {microseconds / whole:5.0%}")
    print(table.table(sort_by=f"self_{clock}", row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    run_script(main)
