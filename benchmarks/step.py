"""One training step in parts: what each layer costs, against what the device itself can do.

    python -m benchmarks.step [--bilinear] [--width 64] [--batch-size 32] [--mode fast] [--out step.json]

Every part is run by itself on random tensors of the shape, type and memory format that it has in the step; medians
over --repeats. On a GPU the parts and the step are queued behind other work, so that what is measured is the device
alone; `host gaps` is what a step takes longer when it is not. Inputs may still lie in the cache, which flatters the
small ones. On a CPU a wide network's step does more than its parts here: it computes norms and ReLUs again (lean.py).

GFLOP: two for each multiply-add of a convolution, none for anything else. GB: each tensor that goes in or out, once.
The ceilings are measured in the same process: a large matrix product, and a large copy (read and written).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.growth import random_slices
from constants import BATCH_SIZE, CHANNELS, IMAGE_SIZE, LEARNING_RATE, WIDTH
from evaluation.metrics import count_pixels
from storage import checkpoints
from training import engine
from training.losses import bce
from unet import UNet
from utils import (
    Hardware,
    choose_hardware,
    keep_freed_memory,
    peak_memory,
    positive,
    repeat_exactly,
    run_script,
    versions,
    write_text,
)

aten = torch.ops.aten
Shape = tuple[int, int, int, int]  # [N, C, H, W]
COLUMNS = f"{'layer':<22}{'part':<26}{'ms':>9}{'share':>7}{'TFLOP/s':>9}{'of peak':>8}{'GB/s':>8}{'of peak':>8}"


@dataclass
class Part:
    """A piece of the step: `layer` as named in the network, `kind` such as "convolution, forward"."""

    layer: str
    kind: str
    flop: float
    bytes: float
    seconds: float = 0.0


class Bench:
    """Makes tensors as the step has them, and measures functions on the device."""

    def __init__(self, hardware: Hardware, repeats: int):
        self.hardware, self.repeats = hardware, repeats
        self.dtype = torch.bfloat16 if hardware.bf16 else torch.float32
        self.cuda = hardware.device.type == "cuda"
        if self.cuda:
            self.busy = torch.ones(8192, 8192, dtype=torch.bfloat16, device=hardware.device)

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        made = torch.randn(shape, device=self.hardware.device).to(dtype or self.dtype)
        return made.contiguous(memory_format=self.hardware.memory_format) if made.ndim == 4 else made

    def seconds(self, function: Callable[[], object]) -> float:
        """Median over the repetitions, after two that warm up; on a GPU, of the device alone."""
        for _ in range(2):
            function()
        if not self.cuda:
            return statistics.median(self.wall(function) for _ in range(self.repeats))
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        self.keep_busy()
        for before, after in events:
            before.record()
            function()
            after.record()
        self.wait()
        return statistics.median(before.elapsed_time(after) for before, after in events) / 1000

    def keep_busy(self) -> None:
        """Some 30 ms of work on a fast GPU: the host has queued what comes then before the device gets there."""
        self.wait()
        for _ in range(20):
            self.busy @ self.busy

    def wall(self, function: Callable[[], object], times: int = 1) -> float:
        """Seconds of one of `times` calls in a row, as the host sees them."""
        self.wait()
        started = time.perf_counter()
        for _ in range(times):
            function()
        self.wait()
        return (time.perf_counter() - started) / times

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def ceilings(self) -> tuple[float, float]:
        """FLOP/s of a large matrix product in the step's type, and bytes/s of a large copy."""
        size = 8192 if self.cuda else 1024
        a, b = self.tensor(size, size), self.tensor(size, size)
        product = 2 * size**3 / self.seconds(lambda: a @ b)
        source = torch.empty(2**31 if self.cuda else 2**26, dtype=torch.uint8, device=self.hardware.device)
        target = torch.empty_like(source)
        return product, 2 * source.nbytes / self.seconds(lambda: target.copy_(source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--bilinear", action="store_true", help="interpolate on the way up")
    add("--width", type=positive(int), default=WIDTH, help="(%(default)s)")
    add("--batch-size", type=positive(int), default=BATCH_SIZE, help="(%(default)s)")
    add("--repeats", type=positive(int), default=20, help="(%(default)s)")
    add("--mode", choices=("exact", "fast"), default="fast", help="as of train_model.py (%(default)s)")
    add("--device", default="auto", help="(auto: CUDA, else the CPU)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="(%(default)s)")
    add("--out", type=Path, metavar="FILE", help="where the JSON goes")
    args = parser.parse_args()
    keep_freed_memory()
    repeat_exactly(args.mode == "exact")
    hardware = choose_hardware(args.device, args.precision)
    bench = Bench(hardware, args.repeats)

    model = UNet(width=args.width, bilinear=args.bilinear)
    model = model.to(hardware.device, memory_format=hardware.memory_format).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=hardware.device.type != "mps")
    whole = whole_step(bench, model, optimiser, args.batch_size)
    parts = [*network_parts(bench, model, args.batch_size), *other_parts(bench, model, optimiser, args.batch_size)]
    whole["parts"] = sum(part.seconds for part in parts)
    product, copy = bench.ceilings()
    checkpoint = checkpoint_seconds(model, optimiser, args.width, args.bilinear)

    about = {name: getattr(args, name) for name in ("bilinear", "width", "batch_size", "repeats", "mode")}
    print(f"{hardware}, torch {torch.__version__}; " + ", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"ceilings: {product / 1e12:.2f} TFLOP/s in matrix products, {copy / 1e9:.0f} GB/s in copies\n")
    report(parts, whole, checkpoint, product, copy)
    if args.out:
        content = about | {"hardware": str(hardware), "versions": versions()}
        content |= {"ceiling_flop_s": product, "ceiling_bytes_s": copy, "step_seconds": whole}
        content |= {"checkpoint_seconds": checkpoint, "parts": [asdict(part) for part in parts]}
        write_text(args.out, json.dumps(content, indent=1) + "\n")
        print(f"written to {args.out}")


# --- The step as a whole ---------------------------------------------------------------------------------------


def whole_step(bench: Bench, model: UNet, optimiser: torch.optim.Optimizer, batch_size: int) -> dict[str, float]:
    """Seconds: `wall` of a step among others; `device`, the same queued in advance; and the peak memory in bytes."""
    hardware = bench.hardware
    noise, rows = random_slices(batch_size).to(hardware.device), torch.arange(batch_size)

    def step() -> None:
        """What engine.train_one_epoch does for a batch."""
        images, masks = noise.batch(rows, hardware.device)
        masks = engine.prepare_masks(masks)
        images = engine.prepare(images, hardware.memory_format)
        _, logits = engine._step(model, images, masks, optimiser, bce, hardware)
        count_pixels(engine.predicted_mask(logits), masks > 0)

    step()
    step()
    wall = statistics.median(bench.wall(step, times=5 if bench.cuda else 1) for _ in range(bench.repeats))
    once = Bench(hardware, repeats=1)  # each step behind a pause of its own, so that all of it is queued in time
    device = statistics.median(once.seconds(step) for _ in range(bench.repeats)) if bench.cuda else wall
    return {"wall": wall, "device": device, "peak_memory": peak_memory(hardware.device)}


def checkpoint_seconds(model: UNet, optimiser: torch.optim.Optimizer, width: int, bilinear: bool) -> dict[str, float]:
    """Of one checkpoint, written once an epoch: how long it holds training up, and until it is on the disk."""
    settings = {"width": width, "bilinear": bilinear}
    with tempfile.TemporaryDirectory() as folder:
        writer = checkpoints.Writer(Path(folder), model, optimiser, {"settings": settings})
        started = time.perf_counter()
        writer.save_epoch(1, {})
        held_up = time.perf_counter() - started
        writer.finish()
        return {"training_waits": held_up, "on_disk": time.perf_counter() - started}


# --- Parts -----------------------------------------------------------------------------------------------------


def network_parts(bench: Bench, model: UNet, batch_size: int) -> Iterator[Part]:
    """The parts of forward and backward pass, in the order of the layers."""
    n, size = batch_size, IMAGE_SIZE
    shape, skips = (n, CHANNELS, size, size), []
    for level, block in enumerate(model.down):
        if level:
            skips.append(shape)
            yield from pool_parts(bench, f"down.{level}.pool", shape)
            shape = (n, shape[1], shape[2] // 2, shape[3] // 2)
        yield from block_parts(bench, f"down.{level}", block, shape)
        shape = (n, block[3].out_channels, *shape[2:])
    for index, up in enumerate(model.up):
        name, skip = f"up.{index}", skips.pop()
        if isinstance(up.upsample, nn.ConvTranspose2d):
            yield from convolution_parts(bench, f"{name}.upsample", up.upsample, shape)
            above = (n, up.upsample.out_channels, *skip[2:])
        else:
            above = (n, shape[1], *skip[2:])
            yield from upsample_parts(bench, f"{name}.upsample", up.upsample, shape, above)
        yield from join_parts(bench, f"{name}.join", skip, above)
        yield from block_parts(bench, f"{name}.convolve", up.convolve, (n, skip[1] + above[1], *skip[2:]))
        shape = (n, up.convolve[3].out_channels, *skip[2:])
    yield from convolution_parts(bench, "head", model.head, shape)


def block_parts(bench: Bench, name: str, block: nn.Sequential, shape: Shape) -> Iterator[Part]:
    """Convolution, norm, ReLU, twice; `shape` is that of the input."""
    for index, layer in enumerate(block):
        if isinstance(layer, nn.Conv2d):
            yield from convolution_parts(bench, f"{name}.{index}", layer, shape)
            shape = (shape[0], layer.out_channels, *shape[2:])
        elif isinstance(layer, nn.BatchNorm2d):
            yield from norm_parts(bench, f"{name}.{index}", layer, shape)
        else:
            x, grad = bench.tensor(*shape), bench.tensor(*shape)
            yield measured(bench, f"{name}.{index}", "ReLU, forward", lambda x=x: F.relu_(x), [x, x])
            yield measured(bench, f"{name}.{index}", "ReLU, backward",
                           lambda x=x, g=grad: aten.threshold_backward(g, x, 0), [x, grad, x])  # fmt: skip


def convolution_parts(bench: Bench, name: str, layer: nn.Conv2d | nn.ConvTranspose2d, shape: Shape) -> Iterator[Part]:
    """Forward, gradient of the input (not where the input is the image) and gradient of the weights."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    x, weight = bench.tensor(*shape), bench.tensor(*layer.weight.shape)
    bias = None if layer.bias is None else bench.tensor(len(layer.bias))
    how = (layer.stride, layer.padding, layer.dilation, transposed, layer.output_padding, 1)
    y = aten.convolution(x, weight, bias, *how)
    pixels = shape[0] * shape[2] * shape[3]  # every weight meets each: of the input if transposed, else of the output
    flop = 2 * pixels * weight.numel()
    kind = "up-convolution" if transposed else "convolution"

    def backward(*wanted: bool) -> Callable[[], object]:
        sizes = None if bias is None else list(bias.shape)
        return lambda: aten.convolution_backward(y, x, weight, sizes, *how, wanted)

    forward = lambda: aten.convolution(x, weight, bias, *how)  # noqa: E731
    yield measured(bench, name, f"{kind}, forward", forward, [x, weight, y], flop)
    if shape[1] != CHANNELS or name != "down.0.0":
        yield measured(bench, name, f"{kind}, input grad", backward(True, False, False), [y, weight, x], flop)
    has_bias = bias is not None
    yield measured(bench, name, f"{kind}, weight grad", backward(False, True, has_bias), [y, x, weight], flop)


def norm_parts(bench: Bench, name: str, layer: nn.BatchNorm2d, shape: Shape) -> Iterator[Part]:
    x, grad = bench.tensor(*shape).requires_grad_(), bench.tensor(*shape)

    def forward() -> torch.Tensor:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, training=True)

    yield from both_ways(bench, name, "batch norm", forward, (x, layer.weight, layer.bias), grad)


def pool_parts(bench: Bench, name: str, shape: Shape) -> Iterator[Part]:
    x = bench.tensor(*shape).requires_grad_()
    grad = bench.tensor(*shape[:2], shape[2] // 2, shape[3] // 2)
    yield from both_ways(bench, name, "pooling", lambda: F.max_pool2d(x, kernel_size=2), (x,), grad)


def upsample_parts(bench: Bench, name: str, layer: nn.Upsample, shape: Shape, above: Shape) -> Iterator[Part]:
    x, grad = bench.tensor(*shape).requires_grad_(), bench.tensor(*above)
    yield from both_ways(bench, name, "interpolation", lambda: layer(x), (x,), grad)


def join_parts(bench: Bench, name: str, skip: Shape, above: Shape) -> Iterator[Part]:
    """Concatenation; backward, a slice of the gradient is copied out, and the other added to that of the skip."""
    a, b = bench.tensor(*skip), bench.tensor(*above)
    joined = torch.cat([a, b], dim=1)
    yield measured(bench, name, "concatenation, forward", lambda: torch.cat([a, b], dim=1), [a, b, joined])
    behind = lambda: joined[:, skip[1] :].contiguous(memory_format=bench.hardware.memory_format)  # noqa: E731
    yield measured(bench, name, "concatenation, backward", behind, [b, b])
    yield measured(bench, name, "skip gradients, sum", lambda: joined[:, : skip[1]] + a, [a, a, a])


def both_ways(
    bench: Bench, name: str, kind: str, forward: Callable[[], torch.Tensor], inputs: tuple, grad: torch.Tensor
) -> Iterator[Part]:
    """A layer without weights worth counting: forward, and backward by autograd."""
    y, x = forward(), inputs[0]
    yield measured(bench, name, f"{kind}, forward", forward, [x, y])
    backward = lambda: torch.autograd.grad(y, inputs, grad, retain_graph=True)  # noqa: E731
    yield measured(bench, name, f"{kind}, backward", backward, [x, grad, x])


def other_parts(bench: Bench, model: UNet, optimiser: torch.optim.Optimizer, batch_size: int) -> Iterator[Part]:
    """What surrounds the network's pass: batch, casts, loss, figures, optimiser."""
    hardware, noise = bench.hardware, random_slices(batch_size).to(bench.hardware.device)
    rows = torch.arange(batch_size)
    images, masks = noise.batch(rows, hardware.device)
    prepared = engine.prepare(images, hardware.memory_format)
    take = lambda: engine.prepare(noise.batch(rows, hardware.device)[0], hardware.memory_format)  # noqa: E731
    yield measured(bench, "batch", "taken and prepared", take, [images, prepared])

    kernels = [p for p in model.parameters() if p.ndim == 4]
    low = [p.detach().to(bench.dtype) for p in kernels]
    if hardware.bf16:
        yield measured(bench, "weights", "cast to bf16", lambda: [p.detach().to(bench.dtype) for p in kernels],
                       [*kernels, *low])  # fmt: skip
        yield measured(bench, "weights", "gradients cast back", lambda: [p.float() for p in low], [*low, *kernels])

    targets = engine.prepare_masks(masks)
    logits = bench.tensor(*targets.shape).requires_grad_()
    loss = lambda: bce(logits.float(), targets)  # noqa: E731
    yield measured(bench, "loss", "forward", loss, [logits, targets])
    there = loss()
    backward = lambda: torch.autograd.grad(there, logits, retain_graph=True)  # noqa: E731
    yield measured(bench, "loss", "backward", backward, [logits, targets, logits])
    count = lambda: count_pixels(engine.predicted_mask(logits.detach()), targets > 0)  # noqa: E731
    yield measured(bench, "figures", "pixels counted", count, [logits, targets])

    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    state = [p for p in model.parameters() for _ in range(7)]  # weights, two moments: read and written; gradients: read
    yield measured(bench, "optimiser", "Adam", optimiser.step, state)


def measured(
    bench: Bench, layer: str, kind: str, function: Callable[[], object], moved: list[torch.Tensor], flop: float = 0.0
) -> Part:
    """`moved`: the tensors that have to be read or written, each as often as it is named."""
    return Part(layer, kind, flop, float(sum(tensor.nbytes for tensor in moved)), bench.seconds(function))


# --- For people ------------------------------------------------------------------------------------------------


def report(parts: list[Part], whole: dict, checkpoint: dict, product: float, copy: float) -> None:
    """The table by layer, the same by kind, and how the sum of the parts compares with the step."""

    def line(layer: str, kind: str, seconds: float, flop: float, moved: float) -> str:
        text = f"{layer:<22}{kind:<26}{1000 * seconds:9.3f}{seconds / whole['device']:7.1%}"
        text += f"{flop / seconds / 1e12:9.2f}{flop / seconds / product:8.0%}" if flop else " " * 17
        return text + f"{moved / seconds / 1e9:8.0f}{moved / seconds / copy:8.0%}"

    print(COLUMNS)
    for part in parts:
        print(line(part.layer, part.kind, part.seconds, part.flop, part.bytes))
    print("\nby kind\n" + COLUMNS)
    kinds = defaultdict(list)
    for part in parts:
        kinds[part.kind if part.flop or "," in part.kind else f"{part.layer}: {part.kind}"].append(part)
    totals = {
        kind: [sum(getattr(p, f) for p in of) for f in ("seconds", "flop", "bytes")] for kind, of in kinds.items()
    }
    for kind, figures in sorted(totals.items(), key=lambda item: -item[1][0]):
        print(line(f"{len(kinds[kind])} parts", kind, *figures))

    flop = sum(part.flop for part in parts)
    print(f"\n{'sum of the parts':<34}{1000 * whole['parts']:9.2f} ms")
    rate = flop / whole["device"]
    print(f"{'the step on the device':<34}{1000 * whole['device']:9.2f} ms, "
          f"{rate / 1e12:.2f} TFLOP/s, {rate / product:.0%} of the ceiling")  # fmt: skip
    print(f"{'  less its parts':<34}{1000 * (whole['device'] - whole['parts']):9.2f} ms")
    print(f"{'a step among others, wall':<34}{1000 * whole['wall']:9.2f} ms")
    print(f"{'  host gaps (0 without a GPU)':<34}{1000 * (whole['wall'] - whole['device']):9.2f} ms")
    print(f"{'peak memory of the step':<34}{whole['peak_memory'] / 2**30:9.2f} GiB")
    print(f"checkpoint, once an epoch: training waits {checkpoint['training_waits']:.2f} s, "
          f"on the disk after {checkpoint['on_disk']:.2f} s")  # fmt: skip


if __name__ == "__main__":
    run_script(main)
