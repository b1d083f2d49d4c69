"""Score the masks of any program or person against reference masks, as test_model.py scores a network.

    python score_masks.py predictions --data lgg-mri-segmentation/kaggle_3m --patients test.txt --out scores/nnunet
    python score_masks.py reader_b --reference reader_a --data lgg-mri-segmentation/kaggle_3m --out scores/readers
    python score_masks.py runs/first --data lgg-mri-segmentation/kaggle_3m --out scores/first

PREDICTED is a folder of PATIENT_SLICE_mask.png (or .tif), of PATIENT.nii.gz (or .npy: one mask per slice, in their
order), each with 0 and one positive value; or a tested run. The reference masks are those of the data, or another such
folder. NIfTI is turned as predict_model.py and export_dataset.py turn it: any other file keeps its rows and columns.

Prints the metrics with their confidence intervals; writes test_results.csv (per slice), test_patients.csv,
test_lesions.csv, metrics.json, test_predictions.npz, plots/*.png and report.html. compare_runs.py takes such folders.
"""

import argparse
from pathlib import Path

from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("predicted", type=Path, metavar="PREDICTED", help="folder of masks, or of a tested run")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent: images, and reference masks unless --reference")
    add("--reference", type=Path, metavar="DIR", help="folder of reference masks, in the same forms as PREDICTED")
    add("--patients", type=Path, metavar="FILE", help="score only the patients listed, one per line")
    add("--missing-as-empty", action="store_true", help="count patients and slices without a predicted mask as empty")
    add("--out", type=Path, default="scores", metavar="DIR", help="where the result goes (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in --out")
    args = parser.parse_args(argv)
    if not (args.data or args.reference):
        parser.error("name the reference: --data, or --reference")
    return args


if __name__ == "__main__":
    parse_first(parse_arguments)


import shlex
import sys
from typing import Any

import numpy as np
import pandas as pd
import torch

from constants import CHANNELS, SYNTHETIC_NOTICE
from dataset.folder import find_folder, find_slices
from dataset.slices import COLUMNS, Slices, load_slices, slice_number
from dataset.split import read_patient_list
from dataset.synthetic import any_synthetic
from evaluation import calibration, summary
from reporting.report import write_result
from scans.masks import MaskStack, find_masks, read_masks
from storage.origin import commit
from storage.run_folder import RunFolder
from utils import UserError, describe_problems, run_script

Masks = dict[str, MaskStack]  # by patient
SHOWN = 10  # patients that a message names


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    out = RunFolder(args.out)
    refuse_used(out, args.overwrite, [args.predicted, *filter(None, [args.reference])])
    predicted = read_folder(args.predicted)
    listed = read_patient_list(args.patients) if args.patients else None
    if listed is None and is_run(args.predicted):
        listed = list(predicted)
    slices, references = read_reference(args.data, args.reference, listed)
    if listed is not None:
        predicted = {patient: stack for patient, stack in predicted.items() if patient in listed}
    masks, empty = arrange(predicted, slices, references, args.predicted, args.missing_as_empty)

    synthetic = any_synthetic(slices.table)
    about: dict[str, Any] = {"split": "scored masks", "synthetic": synthetic, "loss": np.nan}
    about |= dict.fromkeys(("epoch", "selected_by", "threshold", "min_component", "tuned"))  # of a network
    about |= {"masks": str(args.predicted), "reference": str(args.reference or args.data)}
    given = sys.argv[1:] if argv is None else map(str, argv)
    about |= {"command": shlex.join(["python", "score_masks.py", *given]), "commit": commit()}
    notes = [f"Counted as empty, since no mask was predicted: {'; '.join(empty)}."] if empty else []
    tables, metrics = summary.evaluate_masks(slices, masks, calibration.uncounted(len(slices)), about, notes)
    out.remove()
    write_result(out, slices, masks, tables, metrics)

    if synthetic:
        print(SYNTHETIC_NOTICE)
    print(f"scored      {slices.describe()}")
    print(summary.describe(metrics, tables.patients))
    print(f"written to {out}: test_*.csv, metrics.json, test_predictions.npz, plots/*.png, report.html")


def refuse_used(out: RunFolder, overwrite: bool, sources: list[Path]) -> None:
    """Raise UserError if the folder is among the masks, or holds files of the user, a run, or a result that stays."""
    for source in sources:
        if out.path.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{out}: is in {source}, whose masks are scored. Name another folder with --out.")
    out.refuse_used(overwrite=True)
    if not out.files():
        return
    if not (out.is_tested() and "masks" in out.read_metrics()):
        raise UserError(f"{out}: holds a run, or another result. Name another folder with --out.")
    if not overwrite:
        raise UserError(f"{out}: holds a result already. Name another folder with --out, or add --overwrite.")


# --- Masks -----------------------------------------------------------------------------------------------------


def is_run(folder: Path) -> bool:
    return (folder / "test_predictions.npz").is_file()


def read_folder(folder: Path) -> Masks:
    """Return the masks in a folder, or of a tested run. Raises: UserError that lists what cannot be read."""
    if is_run(folder):
        run = RunFolder(folder)
        rows, masks = run.read_test_tables()["slices"], run.read_predictions()
        return {
            patient: MaskStack(masks[own.index], own["slice"].tolist())
            for patient, own in rows.sort_values("slice").groupby("patient")
        }
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Name a folder of masks, or of a tested run.")
    files, problems = find_masks(folder)
    stacks = {}
    for patient, paths in files.items():
        try:
            stacks[patient] = read_masks(paths)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UserError(describe_problems(folder, problems))
    return stacks


def read_reference(data: str | None, reference: Path | None, listed: list[str] | None) -> tuple[Slices, Masks]:
    """Return the slices with their reference masks, and the masks in `reference` as they were read.

    Without `data` the images are black. listed: the patients to score; all if None.
    """
    if reference is None:
        return load(data, find_slices(find_folder(data), listed, fewest=1)), {}
    masks = read_folder(reference)
    if listed is not None:
        if lacking := sorted(set(listed) - masks.keys()):
            raise UserError(f"{reference}: holds no mask of {few(lacking)}. Take them out of the list of patients.")
        masks = {patient: masks[patient] for patient in sorted(listed)}
    if not data:
        return without_images(masks), masks
    table = find_slices(find_folder(data), masks, fewest=1)
    marked = [
        (stack := masks[row.patient]).numbers is None or slice_number(row.image_path) in stack.numbers
        for row in table.itertuples()
    ]
    slices = load(data, table[marked].reset_index(drop=True))  # pictures may be of some slices only
    slices.masks = torch.from_numpy(arrange(masks, slices, {}, reference)[0])
    return slices, masks


def load(data: str, table: pd.DataFrame) -> Slices:
    return load_slices(find_folder(data), {"scored": table})["scored"]


def without_images(masks: Masks) -> Slices:
    """Return slices with these masks, padded to one square size, and black images."""
    side = max(max(stack.masks.shape[1:]) for stack in masks.values())
    rows = [
        (patient, f"{patient}/{patient}_{number}.tif", f"{patient}/{patient}_{number}_mask.tif")
        for patient, stack in masks.items()
        for number in stack.numbers or range(1, len(stack.masks) + 1)
    ]
    padded = np.concatenate([pad(stack.masks, side) for stack in masks.values()])
    images = torch.zeros(1, dtype=torch.uint8).expand(*padded.shape, CHANNELS)
    return Slices(images, torch.from_numpy(padded), pd.DataFrame(rows, columns=COLUMNS))


def pad(masks: np.ndarray, side: int) -> np.ndarray:
    """Return masks [S, H, W] with empty rows and columns at their ends: [S, side, side]."""
    return np.pad(masks, ((0, 0), *((0, side - length) for length in masks.shape[1:])))


def arrange(
    stacks: Masks, slices: Slices, references: Masks, source: Path, missing_as_empty: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Return the masks in the order of the slices, uint8 [N, H, W], and the patients and slices that have none.

    Args:
        references: the masks of each patient that these must match in size and place; {} for those of the data.
        source: where they are from, for messages.

    Raises: UserError that names what does not fit, and what is missing unless it counts as empty.
    """
    arranged = np.zeros(slices.masks.shape, np.uint8)
    numbers = slices.table["image_path"].map(slice_number)
    missing, problems = [], []
    for patient, of_rows in numbers.groupby(slices.table["patient"]):
        of_rows = of_rows.sort_values()
        stack = stacks.get(patient)
        if stack is None:
            missing.append(patient)
            continue
        if wrong := misfit(stack, references.get(patient), (len(of_rows), *arranged.shape[1:])):
            problems.append(f"{source}: {patient} {wrong}")
            continue
        place = {number: n for n, number in enumerate(stack.numbers or of_rows)}
        beyond = sorted(place.keys() - set(of_rows))
        if beyond and not references:  # another reader may have left slices out
            problems.append(
                f"{source}: {patient}, slices {few(list(map(str, beyond)))}: no such slices in the data, which has "
                f"{of_rows.min()} to {of_rows.max()}. Renumber or remove the files."
            )
        found = of_rows.isin(place)
        if not found.all():
            missing.append(f"{patient}, slices {', '.join(map(str, of_rows[~found]))}")
        rows = of_rows[found]
        arranged[rows.index] = pad(stack.masks, arranged.shape[1])[rows.map(place)]
    if unknown := sorted(stacks.keys() - set(slices.patients)):
        problems.append(f"{source}: {few(unknown)}: no such patient in the reference. Rename or remove the files.")
    if missing and not missing_as_empty:
        problems.append(
            f"{source}: no mask of {few(missing)}. Add what is missing, list the patients to score with --patients, or "
            "count it as empty with --missing-as-empty."
        )
    if problems:
        raise UserError(describe_problems(source, problems))
    return arranged, missing


def misfit(stack: MaskStack, reference: MaskStack | None, shape: tuple[int, int, int]) -> str:
    """Return why masks do not fit their reference, or slices of a shape [S, H, W]; an empty text if they do."""
    slices, *size = shape if reference is None else (shape[0], *reference.masks.shape[1:])
    if list(stack.masks.shape[1:]) != size:
        (height, width), (rows, columns) = stack.masks.shape[1:], size
        return f"has masks of {width}x{height} pixels, but {columns}x{rows} are needed. Resample to nearest neighbours."
    if stack.numbers is None and len(stack.masks) != slices:
        return f"has {len(stack.masks)} masks, but {slices} slices. Save one mask for each slice."
    if reference and reference.grid and stack.grid and not reference.grid.matches(stack.grid, (*size[::-1], slices)):
        return "lies elsewhere in space than its reference. Resample it onto the reference."
    return ""


def few(names: list[str]) -> str:
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


if __name__ == "__main__":
    run_script(main)
