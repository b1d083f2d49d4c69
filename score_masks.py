"""Score the masks of any program or person against reference masks, as test_model.py scores a network.

    python score_masks.py predictions --data lgg-mri-segmentation/kaggle_3m --patients test.txt --out scores/nnunet
    python score_masks.py reader_b --reference reader_a --data lgg-mri-segmentation/kaggle_3m --out scores/readers
    python score_masks.py masks --scans cohort --out scores/mine  # masks of predict_model.py, in mm
    python score_masks.py runs/first --data lgg-mri-segmentation/kaggle_3m --out scores/first

PREDICTED is a folder of PATIENT_SLICE_mask.png (or .tif), or of PATIENT.nii.gz (.nrrd, .mha, or .npy: one mask per
slice, in their order), each with 0 and one positive value; or a tested run or cross-validation. The reference masks are
those of the data, those beside the scans, or another such folder. With --scans, and with --data of import_data.py,
distances between surfaces are in mm and in 3D, too.

Prints the metrics with their confidence intervals; writes test_results.csv (per slice), test_patients.csv,
test_lesions.csv, metrics.json, test_predictions.npz, plots/*.png and report.html. compare_runs.py takes such folders.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import constants
from utils import UserError, counted, describe_problems, existing, list_few, refuse_used, run_script

if TYPE_CHECKING:
    import numpy as np

    from dataset.slices import Slices
    from scans.masks import MaskStack
    from scans.medical import Grid
    from scans.scan import Scan

    Masks = dict[str, MaskStack]  # by patient
    Frames = dict[str, tuple[tuple[int, ...], Grid | None]]  # height and width of slices, and where they lie


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("predicted", type=existing, metavar="PREDICTED", help="folder of masks, or of a tested run")
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent: images and reference masks")
    add("--scans", type=existing, metavar="DIR", help="or a folder of scans, with masks beside them unless --reference")
    add("--reference", type=existing, metavar="DIR", help="folder of reference masks, in the same forms as PREDICTED")
    add("--patients", type=existing, metavar="FILE", help="score only the patients listed, one per line")
    add("--missing-as-empty", action="store_true", help="count patients and slices without a predicted mask as empty")
    add("--out", type=Path, default="scores", metavar="DIR", help="where the result goes (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier result in --out")
    args = parser.parse_args(argv)
    if not (args.data or args.scans or args.reference):
        parser.error("name the reference: --data, --scans, or --reference")
    if args.data and args.scans:
        parser.error("name --data or --scans, not both")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    refuse_used(args.out, args.overwrite)
    from dataset.split import read_patient_list
    from dataset.synthetic import any_synthetic
    from evaluation import summary
    from reporting.report import write_result
    from storage.run_folder import RunFolder, commit

    out = RunFolder(args.out)
    if out.exists():
        raise UserError(f"{out}: holds a run. Name another folder with --out.")
    predicted = read_folder(args.predicted)
    listed = read_patient_list(args.patients) if args.patients else None
    if listed is None and RunFolder(args.predicted).is_tested():
        listed = list(predicted)
    slices, frames, spacing, unmarked = read_reference(args, listed, predicted)
    if listed is not None:
        predicted = {patient: stack for patient, stack in predicted.items() if patient in listed}
    masks, missing, absent = arrange(predicted, slices, frames, args.predicted, bool(args.scans))
    lacking = absent if args.reference else missing + absent  # a reader may save no empty slices
    if lacking and not args.missing_as_empty:
        raise UserError(
            f"{args.predicted}: no mask of {list_few(lacking)}. Add what is missing, list the patients to score with "
            "--patients, or count it as empty with --missing-as-empty."
        )

    synthetic = any_synthetic(slices.patients)
    given = sys.argv[1:] if argv is None else map(str, argv)
    details = {"split": "scored masks", "synthetic": synthetic, "masks": str(args.predicted),
               "reference": str(args.reference or args.data or args.scans), "commit": commit(),
               "command": shlex.join(["python", "score_masks.py", *given])}  # fmt: skip
    notes = [
        f"Counted as empty, since there is no file of {whose}: {', '.join(names)}."
        for whose, names in (("a predicted mask", missing + absent), ("a reference mask", unmarked))
        if names
    ]
    tables, metrics = summary.evaluate_masks(slices, masks, None, details, notes, spacing)
    write_result(out, slices, masks, tables, metrics)

    if synthetic:
        print(constants.SYNTHETIC_NOTICE)
    print(f"scored      {slices.describe()}")
    print("".join(f"note: {note}\n" for note in notes), end="")
    print(summary.describe(metrics, tables["patients"]))
    print(f"written to {out}: test_*.csv, metrics.json, test_predictions.npz, plots/*.png, report.html")


# --- Masks -----------------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> Masks:
    """Return the masks in a folder, or of a tested run or cross-validation; say what is not taken for a mask.

    Raises: UserError that lists what cannot be read.
    """
    from scans.masks import MaskStack, find_masks, read_masks
    from storage.run_folder import RunFolder

    if RunFolder(folder).is_tested():
        stacks = {}
        for run in RunFolder(folder).tested_runs():
            rows, masks = run.read_test_table("slices").sort_values("slice"), run.read_predictions()
            stacks |= {p: MaskStack(masks[own.index], own["slice"].tolist()) for p, own in rows.groupby("patient")}
        return stacks
    files, left, problems = find_masks(folder)
    if left and not problems:
        print(f"note: no masks in {folder}, as others are called so: {list_few([path.name for path in left])}")
    stacks = {}
    for patient, paths in files.items():
        try:
            stacks[patient] = read_masks(patient, paths)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise UserError(describe_problems(folder, problems))
    return stacks


def read_reference(
    args: argparse.Namespace, listed: list[str] | None, predicted: Masks
) -> tuple[Slices, Frames, dict[str, tuple[float, ...]] | None, list[str]]:
    """Return the slices with their reference masks, where these lie, spacings, and the slices without a file.

    Without images these are black, and the slices are those of which either has a mask. Of pictures in --reference, a
    slice without one is empty: many readers save none of these.
    The spacings are mm between rows, columns and slices by patient, if known. listed: the patients to score; all if
    None. Raises: UserError if one is missing.
    """
    import torch

    from dataset.folder import find_folder, find_slices, read_spacings
    from dataset.slices import load_slices
    from scans.masks import load_scans

    masks, source = read_folder(args.reference) if args.reference else {}, args.reference or args.scans
    if args.scans:
        wanted = {*predicted, *masks} if listed is None else listed
        scans, beside = load_scans(args.scans, wanted, listed is None and not args.reference)
        listed, masks = list(scans), masks or beside
    if source and listed is not None:
        if lacking := sorted(set(listed) - masks.keys()):
            raise UserError(f"{source}: no reference mask of {list_few(lacking)} that fits. List others in --patients.")
        masks = {patient: masks[patient] for patient in sorted(listed)}
    frames, spacing = {patient: (stack.masks.shape[1:], stack.grid) for patient, stack in masks.items()}, None
    if args.scans:
        slices = slices_of(scans)
        frames = {name: (scan.slices.shape[1:3], scan.grid) for name, scan in scans.items()}
        spacing = {name: scan.spacing for name, scan in scans.items()}
        if lacking := [name for name, known in spacing.items() if not known]:
            print(f"note: distances are in pixels alone, since the spacing of {list_few(lacking)} is unknown")
            spacing = None
    elif args.data:
        folder = find_folder(args.data)
        slices = load_slices(folder, {"scored": find_slices(folder, masks if source else listed)})["scored"]
        spacing = read_spacings(folder, slices.patients)
    else:
        slices = without_images(masks, predicted)
    unmarked = []
    if source:
        arranged, missing, absent = arrange(masks, slices, {} if args.data else frames, source, bool(args.scans))
        slices.masks, unmarked = torch.from_numpy(arranged), [*missing, *absent]
    return slices, frames, spacing, unmarked


def slices_of(scans: dict[str, Scan]) -> Slices:
    """Return all slices in one size, the largest, with empty rows and columns at the ends of others.

    Slices called PATIENT_NUMBER keep their numbers, as their masks do; others are numbered from 1.
    """
    import torch

    from dataset.slices import Slices, table_of
    from scans.masks import slice_numbers
    from scans.scan import pad

    images = torch.from_numpy(pad([plane for scan in scans.values() for plane in scan.slices], square=True))
    numbers = {n: slice_numbers(n, scan.names) or range(1, len(scan.slices) + 1) for n, scan in scans.items()}
    return Slices(images, torch.zeros(images.shape[:3], dtype=torch.uint8), table_of(numbers))


def without_images(masks: Masks, predicted: Masks) -> Slices:
    """Return black slices of a square size into which each of the masks fits."""
    import torch

    from dataset.slices import Slices, table_of

    numbers = {}
    for patient, stack in masks.items():
        other = predicted.get(patient, stack)
        numbers[patient] = sorted({*(stack.numbers or range(1, len(stack.masks) + 1)), *(other.numbers or ())})
    table, side = table_of(numbers), max(max(stack.masks.shape[1:]) for stack in masks.values())
    black = torch.zeros(1, dtype=torch.uint8).expand(len(table), side, side, constants.CHANNELS)
    return Slices(black, black[..., 0], table)


def arrange(
    stacks: Masks, slices: Slices, frames: Frames, source: Path, of_scans: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the masks in the order of the slices, uint8 [N, H, H]; patients with slices, and patients, without any.

    Smaller masks get empty rows and columns at their ends.

    frames: the size and the place that the masks of each patient must have; {} for those of the slices.
    of_scans: whether these are of scans, onto which masks on another grid, such as cropped ones, are resampled.
    Raises: UserError that names what in `source` does not fit.
    """
    import numpy as np

    from dataset.slices import slice_number
    from scans.masks import onto_grid

    arranged = np.zeros(slices.masks.shape, np.uint8)
    numbers = slices.table["image_path"].map(slice_number)
    missing, absent, problems = [], [], []
    for patient, rows in slices.stacks().items():
        if not (stack := stacks.get(patient)):
            absent.append(patient)
            continue
        row_of = dict(zip(numbers[rows], rows, strict=True))
        masked, (size, grid) = stack.numbers or list(row_of), frames.get(patient, (arranged.shape[1:], None))
        if of_scans and stack.grid:
            try:
                moved, note = onto_grid(stack.masks, stack.grid, (len(rows), *size), grid)
            except ValueError as error:
                problems.append(f"{source}: {patient}: {error}")
                continue
            stack = stack._replace(masks=moved, grid=grid)
            if note:
                print(f"note: {patient}: {note}")
        if wrong := misfit(stack, len(rows), size, grid):
            problems.append(f"{source}: {patient} {wrong}")
        elif beyond := sorted({*masked} - row_of.keys()):
            problems.append(
                f"{source}: {patient}, slices {list_few(beyond)}: no such slices in the data, which has "
                f"{min(row_of)} to {max(row_of)}. Renumber or remove the files."
            )
        else:
            height, width = stack.masks.shape[1:]
            arranged[[row_of[number] for number in masked], :height, :width] = stack.masks
            if lacking := sorted(row_of.keys() - {*masked}):
                missing.append(f"{patient} (slices {', '.join(map(str, lacking))})")
    if unknown := sorted(stacks.keys() - {*slices.patients}):
        problems.append(f"{source}: {list_few(unknown)}: no such patient in the reference. Rename or remove the files.")
    if problems:
        raise UserError(describe_problems(source, problems))
    return arranged, missing, absent


def misfit(stack: MaskStack, slices: int, size: tuple[int, ...], grid: Grid | None) -> str:
    """Return why masks do not fit slices of this number, size (height, width) and place; "" if they do."""
    if stack.masks.shape[1:] != size:
        own, needed = ("{1}x{0}".format(*shape) for shape in (stack.masks.shape[1:], size))
        return f"has masks of {own} pixels, but {needed} are needed. Resample to nearest neighbours."
    if stack.numbers is None and len(stack.masks) != slices:
        return f"has {counted(len(stack.masks), 'mask')}, but {counted(slices, 'slice')}. Save one for each slice."
    if grid and not grid.matches(stack.grid):
        return "lies elsewhere in space than its reference. Resample it onto the reference."
    return ""


if __name__ == "__main__":
    run_script(main)
