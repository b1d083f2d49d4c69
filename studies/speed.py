"""The time of a training step beside that of a plain PyTorch loop, and that of the stages of predict_model.py.

    python -m studies.speed --recipe tuned
    python -m studies.speed --width 64 --batch-size 32 --bilinear
    python -m studies.speed --scans

training.engine and a loop as it is commonly first written (fp32, channels first, whole frames, scaled slice by slice,
loss and IoU read with .item()) take steps on the same random slices; the options of the recipe are those of
train_model.py. With --scans, synthetic scans of several sizes are segmented with the committed weights: stage by stage,
and as a cohort, whose stages overlap.
"""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from torch.utils.flop_counter import FlopCounterMode

from constants import BATCH_SIZE, FLAIR, IMAGE_SIZE, SYNTHETIC_SEED, WEIGHTS
from dataset.preprocess import Preprocessing, preprocess
from dataset.slices import Slices
from dataset.synthetic import make_patient
from evaluation.selection import Postprocessing
from inference.cohort import Prediction
from inference.segment import computation, predict, to_masks
from reporting.scans import make_page
from scans.cohort import Patient, find_patients
from scans.read import read_patient
from storage.checkpoints import describe_network, load_network
from training.engine import TrainingTransform, train_one_epoch, training_window
from training.hardware import Hardware, choose_hardware, keep_freed_memory
from training.losses import make_loss
from training.optimisation import Optimisation
from training.recipe import Recipe, make_parser, make_settings
from unet import UNet
from utils import run_script

STEPS = 5
SCANS = ((24, 256, 6.0), (155, 240, 1.0), (400, 512, 0.5), (400, 512, 5.0))  # slices, pixels of a side, mm apart
COHORT = 4  # scans of one size


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--scans", action="store_true", help="measure the stages of predict_model.py instead")
    args = parser.parse_args(argv)
    if args.scans:
        for size in SCANS:
            measure_scans(*size, choose_hardware(args.device, "fp32"))
        return
    settings = make_settings(args)
    measure_step(Recipe.of(settings), choose_hardware(args.device, settings["precision"]))


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


def measure_scans(slices: int, side: int, apart: float, hardware: Hardware) -> None:
    """Print the mean seconds of each stage of a scan, one after the other, and of a scan of a cohort."""
    model, checkpoint = load_network(WEIGHTS)
    settings, seconds = checkpoint["input"], Counter()
    network = computation(model, settings["tta_flip"], BATCH_SIZE, hardware)

    def timed(stage: str, work: Callable, *arguments: Any) -> Any:
        begun = time.perf_counter()
        result = work(*arguments)
        seconds[stage] += (time.perf_counter() - begun) / COHORT
        return result

    with tempfile.TemporaryDirectory() as folder:
        for number in range(COHORT):
            write_scan(Path(folder, "scans", f"P{number}", "flair.nii.gz"), number, slices, side, apart)
        patients = find_patients([Path(folder, "scans")]).patients

        def predict_into(name: str, cohort: list[Patient]) -> None:
            page = partial(make_page, facts={})
            list(Prediction(Path(folder, name), network, checkpoint, None, False, "", page).run(cohort))

        for patient in patients:
            scan, _ = timed("reading", read_patient, patient)
            probabilities, _ = timed("network", predict, network, scan, settings)
            timed("postprocessing", to_masks, probabilities, Postprocessing.of(settings), scan.spacing)
            timed("alone", predict_into, patient.name, [patient])
        timed("cohort", predict_into, "cohort", patients)
    seconds["writing"] = seconds.pop("alone") - sum(seconds[name] for name in ("reading", "network", "postprocessing"))
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    print(f"{slices} slices of {side} x {side}, {apart:g} mm apart, seconds a scan on {hardware}: {stages}", flush=True)


def write_scan(path: Path, number: int, slices: int, side: int, apart: float) -> None:
    """Write FLAIR of a synthetic patient as NIfTI of 16 bits, of the size of a head."""
    images, _ = make_patient(SYNTHETIC_SEED, number, slices=24)
    drawn = [cv2.resize(image[..., FLAIR], (side, side)).astype(np.int16) * 4 for image in images]
    noise = np.random.default_rng(number).integers(0, 8, (slices, side, side), dtype=np.int16)
    rows = np.linspace(0, len(drawn) - 1, slices).round().astype(int)
    volume = sitk.GetImageFromArray(np.stack([drawn[row] for row in rows]) + noise)
    volume.SetSpacing((230 / side, 230 / side, apart))
    path.parent.mkdir(parents=True)
    sitk.WriteImage(volume, str(path))


def time_calls(work: Callable[[], Any]) -> float:
    """Return the median seconds of a call, after one that warms up."""
    times = [time.perf_counter()]
    for _ in range(STEPS + 1):
        work()
        times.append(time.perf_counter())
    return statistics.median(np.diff(times)[1:].tolist())


if __name__ == "__main__":
    run_script(main)
