"""The plain loop and the pipeline on the same work, as whole processes in turn, against what the machine can do.

    python -m benchmarks.compare --data lgg-mri-segmentation/kaggle_3m [--repeats 3] [--width 64]

One epoch of training, validation and checkpoint each. Prints a table of medians over the repetitions. The ceiling is
the machine's own rate in bf16 matrix products (4096 x 4096, or smaller where one takes long), measured before each
pair; times against it say how much longer a process took than its convolutions' arithmetic would at that rate.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from constants import IMAGE_SIZE, WIDTH
from dataset.folder import find_folder, find_slices
from dataset.split import assign_patients, split_tables
from unet import UNet

ROOT = Path(__file__).parents[1]
PARTS = ("data", "forward", "backward", "optimiser", "metrics", "validation", "checkpoint")
MATMUL = """
import time, torch
for kind in (torch.float32, torch.bfloat16):
    for size in (512, 1024, 2048, 4096):
        a = torch.randn(size, size).to(kind); a @ a
        times = []
        for _ in range(5):
            start = time.perf_counter(); a @ a; times.append(time.perf_counter() - start)
        if sorted(times)[2] > 0.2:
            break
    print(2 * size**3 / sorted(times)[2])
"""


def flops(width: int, bilinear: bool) -> float:
    """Of the forward pass of one slice; the backward pass takes twice as many."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet(width=width, bilinear=bilinear)(torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    return counter.get_total_flops()


def run(command: list[str]) -> dict:
    """Run a process to its end: wall and kernel seconds, peak memory in bytes, and the JSON of its last line."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    found = json.loads(output.splitlines()[-1])
    return found | {"wall": wall, "kernel": usage.ru_stime, "peak": usage.ru_maxrss * 1024}


def matmul_rates() -> tuple[float, float]:
    """FLOP/s in fp32 and in bf16 matrix products."""
    done = subprocess.run([sys.executable, "-c", MATMUL], capture_output=True, text=True, check=True)
    fp32, bf16 = map(float, done.stdout.split())
    return fp32, bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder kaggle_3m; all its patients are used")
    add("--repeats", type=int, default=3, help="(%(default)s)")
    add("--width", type=int, default=WIDTH, help="(%(default)s)")
    add("--bilinear", action="store_true")
    args = parser.parse_args()

    table = find_slices(find_folder(args.data))
    tables = split_tables(table, assign_patients(table["patient"]))
    train, validation = len(tables["train"]), len(tables["validation"])
    forward = flops(args.width, args.bilinear)
    work = forward * (3 * train + validation)
    options = ["--data", str(Path(args.data).resolve()), "--width", str(args.width), "--epochs", "1"] + [
        "--bilinear"
    ] * args.bilinear
    print("python -m benchmarks.compare", *sys.argv[1:])
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"{train} + {validation} slices, {forward / 1e9:.1f} GFLOP a slice forward, {work / 1e12:.1f} TFLOP an epoch\n"
    )

    runs: dict[str, list[dict]] = {"naive": [], "ours": []}
    ceilings = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            ceilings.append(matmul_rates())
            for name, done in runs.items():
                place = ["--run", f"{folder}/{name}_{repeat}"]
                done.append(run([sys.executable, f"benchmarks/{name}.py", *options, *place]))
                print(f"repetition {repeat + 1}, {name}: {done[-1]['wall']:.1f} s", flush=True)
    report(runs, ceilings, train, validation, work)


def report(runs: dict[str, list[dict]], ceilings: list, train: int, validation: int, work: float) -> None:
    """Print medians over the repetitions, and medians of the ratios within each."""

    def median(name: str, figure) -> float:
        return statistics.median(figure(done) for done in runs[name])

    def row(title: str, figure, unit: str, digits: int = 1) -> None:
        naive, ours = median("naive", figure), median("ours", figure)
        ratio = statistics.median(figure(a) / figure(b) for a, b in zip(runs["naive"], runs["ours"], strict=True))
        print(f"{title:<34}{naive:>12.{digits}f}{ours:>12.{digits}f}  {unit:<10}{ratio:>8.2f}")

    bf16 = [rate for _, rate in ceilings]
    print(f"\n{'median of ' + str(len(bf16)):<34}{'naive':>12}{'ours':>12}  {'':<10}{'naive/ours':>8}")
    row("whole process", lambda r: r["wall"], "s")
    row("peak memory", lambda r: r["peak"] / 2**30, "GiB", 2)
    row("kernel time", lambda r: r["kernel"], "s")
    for part in PARTS:
        row(f"  {part}", lambda r, part=part: r["seconds"][part], "s", 2)
    row("  the rest (start, imports)", lambda r: r["wall"] - sum(r["seconds"].values()), "s", 2)
    steps = ("data", "forward", "backward", "optimiser", "metrics")
    row("training", lambda r: train / sum(r["seconds"][part] for part in steps), "slices/s", 2)
    row("validation (inference)", lambda r: validation / r["seconds"]["validation"], "slices/s", 2)
    row("arithmetic", lambda r: work / r["wall"] / 1e9, "GFLOP/s")
    print(
        f"{'matrix products, fp32 | bf16':<34}{median_of(ceilings, 0):>12.1f}{median_of(ceilings, 1):>12.1f}  GFLOP/s"
    )
    for name, done in runs.items():
        times = statistics.median(r["wall"] * rate / work for r, rate in zip(done, bf16, strict=True))
        print(f"{name}: {times:.2f} times the time of its arithmetic at the bf16 rate ({1 / times:.0%} of the ceiling)")
    pairs = list(zip(runs["naive"][0]["losses"], runs["ours"][0]["losses"], strict=True))
    worst = max(abs(a - b) / a for a, b in pairs)
    print(f"training loss, step by step: naive {pairs[0][0]:.4f} ... {pairs[-1][0]:.4f}, "
          f"ours {pairs[0][1]:.4f} ... {pairs[-1][1]:.4f}; largest relative difference {worst:.2%}")  # fmt: skip
    if worst > 0.02:
        sys.exit("the losses differ by more than 2%, the tolerance for bf16 over one epoch")


def median_of(ceilings: list[tuple[float, float]], which: int) -> float:
    return statistics.median(rates[which] for rates in ceilings) / 1e9


if __name__ == "__main__":
    main()
