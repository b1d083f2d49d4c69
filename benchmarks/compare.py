"""The plain loop and the pipeline on the same work, as whole processes in turn, against what the machine can do.

    python -m benchmarks.compare --data lgg-mri-segmentation/kaggle_3m [--repeats 3] [--width 64]

One epoch of training, validation and checkpoint each, on the CPU. Prints medians over the repetitions, and the median
of the ratios within each. The ceiling is the machine's own rate in matrix products (2048 x 2048, bf16 where the
hardware computes in it), measured before each pair: it says how much longer a process took than its convolutions'
arithmetic would at that rate.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch.utils.benchmark import Timer

from constants import IMAGE_SIZE, WIDTH
from storage.checkpoints import describe_network
from storage.run_folder import RunFolder
from training.engine import count_flop
from training.hardware import choose_hardware
from training.recipes import REFERENCE
from utils import positive, run_script

ROOT = Path(__file__).parents[1]
PROGRAMS = {"naive": "benchmarks/naive.py", "ours": "train_model.py"}
TOLERANCE = 0.02  # of the training loss: what bf16 may differ from fp32 over one epoch


def matmul_rate() -> float:
    """Return the FLOP/s of matrix products, in the precision in which train_model.py computes here."""
    matrix = torch.randn(2048, 2048).to(torch.bfloat16 if choose_hardware("cpu").bf16 else torch.float32)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * len(matrix) ** 3 / timer.blocked_autorange(min_run_time=1).median


def run(program: str, folder: str, *options: str) -> dict[str, float]:
    """Run a program for one epoch, as a process of its own.

    Returns: seconds on the clock (`wall`), in the kernel, and of the epoch; peak memory in bytes; the training loss.
    """
    command = [sys.executable, program, "--run", folder, "--epochs", "1", "--device", "cpu", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    epoch = pd.read_csv(f"{folder}/epochs.csv").iloc[0]
    return {
        "wall": wall,
        "kernel": usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "loss": epoch["training_loss"],
        "epoch": epoch["seconds"],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder kaggle_3m; all its patients are used")
    add("--repeats", type=positive(int), default=3, help="(%(default)s)")
    add("--width", type=positive(int), default=WIDTH, help="(%(default)s)")
    add("--bilinear", action="store_true")
    args = parser.parse_args(argv)

    options = ["--data", str(Path(args.data).resolve()), "--width", str(args.width), *["--bilinear"] * args.bilinear]
    runs: dict[str, list[dict]] = {name: [] for name in PROGRAMS}
    ceilings = []
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(1, args.repeats + 1):
            ceilings.append(matmul_rate())
            for name, program in PROGRAMS.items():
                runs[name].append(run(program, f"{folder}/{name}_{repeat}", *options))
                print(f"repetition {repeat}, {name}: {runs[name][-1]['wall']:.1f} s", flush=True)
        slices = RunFolder(f"{folder}/ours_1").read_config()["slices"]
    network = describe_network(REFERENCE | {"width": args.width, "bilinear": args.bilinear})
    forward = count_flop(network, IMAGE_SIZE, IMAGE_SIZE)
    report(runs, ceilings, forward, slices["train"], slices["validation"])


def report(runs: dict[str, list[dict]], ceilings: list[float], forward: float, train: int, validation: int) -> None:
    """Print the table. Ends the program if the training losses differ by more than TOLERANCE."""
    pairs = list(zip(runs["naive"], runs["ours"], strict=True))
    work = forward * (3 * train + validation)

    def row(title: str, value: Callable[[dict], float], unit: str) -> None:
        medians = [statistics.median(map(value, done)) for done in runs.values()]
        ratio = statistics.median(value(naive) / value(ours) for naive, ours in pairs)
        print(f"{title:<34}{medians[0]:>12.2f}{medians[1]:>12.2f}  {unit:<10}{ratio:>8.2f}")

    print(f"\n{train} + {validation} slices, {forward / 1e9:.1f} GFLOP each forward, {work / 1e12:.2f} TFLOP in all")
    print(f"{f'median of {len(pairs)}':<34}{'naive':>12}{'ours':>12}  {'':<10}{'naive/ours':>8}")
    row("whole process", lambda r: r["wall"], "s")
    row("  training and validation", lambda r: r["epoch"], "s")
    row("  start, checkpoint, end", lambda r: r["wall"] - r["epoch"], "s")
    row("  of these in the kernel", lambda r: r["kernel"], "s")
    row("peak memory", lambda r: r["peak"] / 2**30, "GiB")
    row("arithmetic", lambda r: work / r["wall"] / 1e9, "GFLOP/s")
    print(f"{'matrix products':<34}{statistics.median(ceilings) / 1e9:>12.2f}{'':>12}  GFLOP/s")
    for name, done in runs.items():
        times = statistics.median(r["wall"] * rate / work for r, rate in zip(done, ceilings, strict=True))
        print(f"{name}: {times:.2f} times the time of its arithmetic at that rate ({1 / times:.0%} of the ceiling)")
    naive, ours = (runs[name][0]["loss"] for name in PROGRAMS)
    difference = abs(naive - ours) / naive
    print(f"training loss, mean over the epoch: naive {naive:.4f}, ours {ours:.4f}; they differ by {difference:.2%}")
    if difference > TOLERANCE:
        sys.exit(f"the losses differ by more than {TOLERANCE:.0%}, the tolerance for bf16 over one epoch")


if __name__ == "__main__":
    run_script(main)
