"""The time of a training step beside that of a plain PyTorch loop; and what a window around the head cuts away.

    python -m studies.speed step --recipe tuned
    python -m studies.speed step --width 64 --batch-size 32 --bilinear
    python -m studies.speed head --data lgg-mri-segmentation/kaggle_3m

step: training.engine and a loop as it is commonly first written (fp32, channels first, whole frames, scaled slice by
slice, loss and IoU read with .item()) on the same random slices. head: tumour pixels outside of the windows of
dataset/preprocess.py, and outside of a brain mask by classical morphology.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from constants import FLAIR, IMAGE_SIZE
from dataset.folder import find_folder, find_slices
from dataset.preprocess import Preprocessing, find_head, head_box, preprocess, window
from dataset.slices import Slices, load_slices
from storage.checkpoints import describe_network
from training.engine import WINDOW, TrainingTransform, train_one_epoch, training_window
from training.hardware import Hardware, choose_hardware, keep_freed_memory
from training.losses import make_loss
from training.optimisation import Optimisation
from training.recipe import RECIPES, Recipe
from unet import UNet
from utils import parallel_map, positive, run_script

STEPS = 5
RADII = (3, 5, 8)  # of the disc of morphology, in pixels


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("study", nargs="?", choices=("step", "head"), default="step", help="(%(default)s)")
    add("--recipe", choices=RECIPES, default="reference", help="(%(default)s)")
    add("--width", type=positive(int), help="channels of the first level (the recipe's)")
    add("--batch-size", type=positive(int), help="slices (the recipe's)")
    add("--bilinear", action="store_true", help="interpolate on the way up")
    add("--device", default="auto", help="(auto: CUDA, else MPS, else the CPU)")
    add("--data", metavar="DIR", help="of head: folder kaggle_3m or its parent")
    args = parser.parse_args(argv)
    if args.study == "head":
        measure_head(args.data)
    else:
        changes = {name: getattr(args, name) for name in ("width", "batch_size", "bilinear") if getattr(args, name)}
        measure_step(replace(RECIPES[args.recipe], **changes), choose_hardware(args.device))


# --- A training step -------------------------------------------------------------------------------------------


def measure_step(recipe: Recipe, hardware: Hardware) -> None:
    """Print the median time of a step of this project and of the plain loop, and the rate of the convolutions."""
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch_size, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 2, shape, dtype=torch.uint8, generator=generator)
    slices = Slices(images, masks, pd.DataFrame({"patient": ["noise"] * recipe.batch_size}))
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
    transform = TrainingTransform(recipe.crop, recipe.augment)
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


# --- The head --------------------------------------------------------------------------------------------------


def measure_head(data: str | None) -> None:
    """Print the tumour pixels outside of the head's windows, of the head, and of brain masks by morphology."""
    folder = find_folder(data)
    slices = load_slices(folder, {"all": find_slices(folder)})["all"]
    images, masks, patients = slices.images.numpy(), slices.masks.numpy() > 0, np.array(slices.patients)

    def count_patient(patient: str) -> dict[str, tuple[int, int, int]]:
        """Return (tumour pixels, those outside, pixels inside) of each region."""
        stack, tumour = images[patients == patient], masks[patients == patient]
        head = find_head(stack)
        top, bottom, left, right = head_box(head)
        firsts = ((top + bottom - WINDOW[0]) // 2, (left + right - WINDOW[1]) // 2)
        training = (slice(max(first, 0), first + side) for first, side in zip(firsts, WINDOW, strict=True))
        testing, regions = window((top, bottom, left, right)), {}
        for name, (rows, columns) in {"window of testing": testing, "window of training": training}.items():
            regions[name] = np.zeros_like(head)
            regions[name][:, rows, columns] = True
        regions |= {"head, not filled": head}
        regions |= {f"brain, disc of {radius} px": find_brain(stack, head, radius) for radius in RADII}
        return {name: (tumour.sum(), (tumour & ~inside).sum(), inside.sum()) for name, inside in regions.items()}

    counts = parallel_map(count_patient, np.unique(patients))
    print(f"{len(counts)} patients, {masks.sum():,} tumour pixels in {len(masks):,} slices\n")
    print(f"{'region':<24}{'share of pixels':>18}{'tumour lost':>14}{'patients':>10}{'most of one patient':>22}")
    for name in counts[0]:
        tumour, lost, inside = np.array([count[name] for count in counts]).T
        worst = (lost / np.maximum(tumour, 1)).max()
        print(f"{name:<24}{inside.sum() / masks.size:>18.1%}{lost.sum():>14,}{(lost > 0).sum():>10}{worst:>22.1%}")


def find_brain(stack: np.ndarray, head: np.ndarray, radius: int) -> np.ndarray:
    """Return a brain mask by morphology: uint8 [S, H, W, 3] and its head, bool [S, H, W] -> bool [S, H, W].

    FLAIR above half of the head's median in the slice, opened by a disc to break bridges through the skull; the largest
    region, grown by the same disc, its holes filled.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    brain = np.zeros(head.shape, bool)
    for number, (plane, inside) in enumerate(zip(stack[..., FLAIR], head, strict=True)):
        bright = ((plane > 0.5 * np.median(plane[inside])) & inside if inside.any() else inside).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.morphologyEx(bright, cv2.MORPH_OPEN, disc))
        if count > 1:
            largest = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
            outlines, _ = cv2.findContours(cv2.dilate(largest, disc), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            brain[number] = cv2.drawContours(np.zeros_like(plane), outlines, -1, 1, cv2.FILLED) > 0
    return brain


if __name__ == "__main__":
    run_script(main)
