"""How weights do on the same patients in other forms: stripped, FLAIR alone, thin slices, another plane, and more.

    python -m studies.robustness --data kaggle_3m --split split.csv --out runs/robustness
    python -m studies.robustness --run runs/cv --out runs/robustness_cv

Patients are the validation patients of the split, or with --run the test patients of each fold of cross_validate.py,
each by the network of its fold. Each form is written as NIfTI and goes the way of a user's scan. The set does not say
its spacing: pixels of 0.9 mm and slices of 5 mm are presumed. OUT/robustness.csv has the Dice of each patient in each
form, and the features of its expected Dice.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import SimpleITK as sitk

from constants import BATCH_SIZE, FLAIR, POST, WEIGHTS
from dataset.folder import find_folder, find_slices
from dataset.slices import Slices, load_slices
from dataset.split import read_assignment
from evaluation import quality
from evaluation.selection import Postprocessing, load_chosen
from inference.segment import computation, predict, to_masks
from scans.cohort import find_patients
from scans.geometry import masks_to_network
from scans.masks import read_reference
from scans.read import read_patient
from storage.checkpoints import load_network
from storage.run_folder import RunFolder
from training.brain import EDGE, brain_distances
from training.hardware import choose_hardware
from unet import UNet
from utils import existing, refuse_used, run_script, to_csv, to_markdown, write_text

SPACING = (0.9, 0.9, 5.0)  # mm between columns, rows, slices
THICK = 6  # columns that a sagittal slice averages
FACE = 15  # pixels from the brain: a removed face begins there
NAMES = ("t1", "flair", "t1ce")  # of the channels' files
Form = Callable[[np.ndarray, np.ndarray], np.ndarray]  # stack and distance from the brain -> stack, or FLAIR of it


def stripped(stack: np.ndarray, distance: np.ndarray) -> np.ndarray:
    return stack * (distance < EDGE)[..., None]


def defaced(stack: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Remove what lies in front of the brain's middle and away from it."""
    brain = np.flatnonzero((distance < EDGE).any((0, 2)))
    front = np.arange(stack.shape[1])[:, None] < (brain.mean() if len(brain) else 0)
    return stack * ~(front & (distance > EDGE + FACE))[..., None]


def biased(stack: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Change intensities by 0.7 to 1.3 left to right and 0.8 to 1.2 front to back, on another scale of floats."""
    rows, columns = np.linspace(0.8, 1.2, stack.shape[1]), np.linspace(0.7, 1.3, stack.shape[2])
    return (stack * np.outer(rows, columns)[..., None] * 7.3 + 11).astype(np.float32)


def halved(stack: np.ndarray, distance: np.ndarray) -> np.ndarray:
    height, width = stack.shape[1:3]
    small = (cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for plane in stack)
    return np.stack([cv2.resize(plane, (width, height)) for plane in small])


FORMS: dict[str, Form] = {
    "as they are": lambda stack, distance: stack,
    "stripped": stripped,
    "defaced": defaced,
    "FLAIR alone": lambda stack, distance: stack[..., FLAIR:POST],
    "stripped, FLAIR alone": lambda stack, distance: stripped(stack, distance)[..., FLAIR:POST],
    "scaled and biased": biased,
    "half the resolution": halved,
    "1 mm slices": lambda stack, distance: stack,  # see write_patient
    "sagittal": lambda stack, distance: stack,
}
THIN = ("1 mm slices", "sagittal")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--split", type=existing, metavar="FILE", help="CSV with the columns patient and split")
    add("--run", type=Path, metavar="DIR", help="a cross-validation, instead of --checkpoint and --split")
    add("--checkpoint", type=existing, default=WEIGHTS, metavar="FILE", help="weights (%(default)s)")
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS), metavar="FORM", help=f"{', '.join(FORMS)} (all)")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    args = parser.parse_args(argv)
    refuse_used(args.out)
    if args.run:
        rows = []
        for fold in RunFolder(args.run).tested_runs():
            rows += score_patients(args, fold.read_split_table("test"), *load_chosen(fold)[:2])
    else:
        slices = find_slices(folder := find_folder(args.data))
        if args.split:
            assignment = read_assignment(args.split, slices["patient"], folder)[0]
            slices = slices[slices["patient"].map(assignment) == "validation"]
        rows = score_patients(args, slices, *load_network(args.checkpoint))
    table = pd.DataFrame(rows).sort_values("form", key=lambda form: form.map(list(FORMS).index), kind="stable")
    write_text(args.out / "robustness.csv", to_csv(table))
    print(describe(table))


def score_patients(
    args: argparse.Namespace, table: pd.DataFrame, model: UNet, checkpoint: dict[str, Any]
) -> list[dict[str, Any]]:
    """Write the patients of a table of slices in each form, and predict them as a user's scans.

    Returns: of each patient in each form the Dice, the predicted ml, and the features of the expected Dice.
    """
    folder, settings, rows = find_folder(args.data), checkpoint["input"], []
    compute = computation(model, settings["tta_flip"], BATCH_SIZE, choose_hardware("cpu", "fp32"))
    for _, own in table.groupby("patient"):
        slices = load_slices(folder, {"": own.reset_index(drop=True)})[""]
        for form in args.forms:
            with tempfile.TemporaryDirectory() as work:
                write_patient(Path(work), slices, form)
                (patient,) = find_patients([Path(work)]).patients
                scan, _ = read_patient(patient)
                reference = read_reference(patient, scan)
            probabilities, small = predict(compute, scan, settings)
            masks = to_masks(probabilities, Postprocessing.of(settings), scan)
            ml = round(int(masks.sum()) * float(np.prod(scan.spacing)) / 1000, 3)
            row = {"patient": scan.name, "form": form, "dice": quality.dice(masks, reference), "ml": ml}
            rows.append(row | quality.features(small, masks_to_network(masks, scan)))
    return rows


def write_patient(out: Path, slices: Slices, form: str) -> None:
    """Write the sequences of a patient in a form, and the mask, as NIfTI: OUT/PATIENT/t1.nii.gz and so on."""
    distance, name = brain_distances(slices).numpy(), slices.patients[0]
    planes = np.moveaxis(FORMS[form](slices.images.numpy(), distance), 3, 0)
    names = NAMES if len(planes) > 1 else ("flair",)
    (out / name).mkdir(parents=True)
    for what, volume in [*zip(names, planes, strict=True), ("seg", slices.masks.numpy())]:
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume))
        image.SetSpacing(SPACING)
        if form in THIN:
            thin = [*image.GetSize()[:2], round(image.GetSize()[2] * SPACING[2])]
            nearest = sitk.sitkNearestNeighbor if what == "seg" else sitk.sitkLinear
            image = sitk.Resample(image, thin, sitk.Transform(), nearest, (0, 0, -SPACING[2] / 2 + 0.5),
                                  (*SPACING[:2], 1.0), image.GetDirection(), 0)  # fmt: skip
        if form == "sagittal":
            image = sitk.PermuteAxes(sitk.BinShrink(image, (THICK, 1, 1)), (1, 2, 0))
        sitk.WriteImage(image, str(out / name / f"{what}.nii.gz"), useCompression=True)


def describe(table: pd.DataFrame) -> str:
    """Return the table of the forms: Dice over patients, the difference from the first form, false volumes."""
    first = table[table["form"] == table["form"].iloc[0]].set_index("patient")["dice"]
    rows = []
    for form, of in table.groupby("form", sort=False):
        dice = of.set_index("patient")["dice"].dropna()
        below = (first.reindex(dice.index) - dice).mean()
        rows.append([form, len(dice), *(f"{value:.3f}" for value in (dice.mean(), dice.median(), dice.min(), below))])
    return to_markdown(["form", "patients", "mean Dice", "median", "lowest", "below the first"], rows)


if __name__ == "__main__":
    run_script(main)
