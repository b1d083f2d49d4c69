"""train_model.py with a stopwatch at its parts.

    PYTHONPATH=. python benchmarks/ours.py [options of train_model.py]

Prints, after what train_model.py prints, one line of JSON as naive.py does. On a CPU only, where calls are finished
when they return. Run as a script, as train_model.py is, because that may start itself anew.
"""

import functools
import json
import time
from collections import defaultdict

import torch

import train_model
from dataset.slices import Slices, load_slices
from storage import checkpoints
from training import engine
from utils import run_script

seconds: dict[str, float] = defaultdict(float)
losses: list[float] = []
running: list[str] = []  # the parts that are being timed, the innermost last


def timed(part: str, function):
    """The same function; its time counts for the part, unless one around it is timed already."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        running.append(part)
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            running.pop()
            if not running:
                seconds[part] += time.perf_counter() - started

    return wrapper


def main() -> None:
    load_slices = timed("data", load_slices)
    Slices.batch = timed("data", Slices.batch)
    engine.prepare = timed("data", engine.prepare)
    engine._training_logits = timed("forward", engine._training_logits)
    torch.Tensor.backward = timed("backward", torch.Tensor.backward)
    torch.optim.Adam.step = timed("optimiser", torch.optim.Adam.step)
    engine.count_pixels = timed("metrics", engine.count_pixels)
    train_model.evaluate = timed("validation", train_model.evaluate)
    checkpoints.Writer.save_epoch = timed("checkpoint", checkpoints.Writer.save_epoch)
    add = engine.Tally.add

    def remember(tally, loss, rows, counts):
        if "validation" not in running:
            losses.append(loss.item())
        add(tally, loss, rows, counts)

    engine.Tally.add = remember
    run_script(train_model.main)
    print(json.dumps({"losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main()
