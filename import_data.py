"""Make a data set for train_model.py from your own scans and a reader's masks.

    python import_data.py cohort --list cohort.csv              # a table of what is taken for whom, to edit
    python import_data.py cohort.csv --out my_patients          # or a folder, or files, as for predict_model.py
    python import_data.py cohort --masks masks --labels 1,2,4 --out my_patients
    python import_data.py cohort --masks corrected --out my_patients_2

INPUT is all that predict_model.py reads, in the same steps. A mask lies beside the images (x_seg.nii.gz,
slice_1_mask.png) or in a folder --masks: PATIENT.nii.gz, PATIENT_mask.nrrd, PATIENT/PATIENT_1_mask.png, .... Patients
without one are left out, unless --empty says that they are healthy.

Writes a new folder with PATIENT/PATIENT_1.tif, PATIENT_1_mask.tif, ..., grid.json (their spacing, affine and source),
and imported.csv, the table of all patients. See docs/usage.md.

Exit code 0 if all was read, 1 if some was not (the others are done), 2 if nothing was done.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from scans import inputs
from utils import UserError, counted, existing, list_few, new_folder, run_script, to_csv, write_text

if TYPE_CHECKING:
    from scans.items import Patient

TABLE = "imported.csv"
COLUMNS = ("patient", "slices", "tumour_slices", "ml", "spacing", "sequences", "flair", "pre", "post", "mask",
           "mask_of", "left_out", "unused", "notes")  # fmt: skip
SHOWN = ["patient", "slices", "tumour_slices", "ml", "spacing", "sequences", "mask_of"]  # of these, printed
NO_MASK = "no mask beside it or in --masks; if it is healthy, name it with --empty"
NO_FLAIR = "no FLAIR"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    inputs.add_image_options(parser)
    add = parser.add_argument_group("masks").add_argument
    add("--masks", type=existing, metavar="FOLDER", help="masks by patient, which go before those beside the images")
    add("--labels", type=labels, default=set(), metavar="1,2,4", help="which labels of a mask are tumour (all)")
    add("--empty", nargs="+", default=[], metavar="PATIENT", help="patients without a mask who are healthy")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR", help="the data set, a new folder")
    return inputs.parse(parser, argv)


def labels(text: str) -> set[int]:
    """An argparse type: labels with commas between them; none for "all"."""
    try:
        return set() if text == "all" else {int(label) for label in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not all, nor whole numbers such as 1,2,4") from None


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    for folder in args.inputs:
        if args.out and args.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{args.out}: lies in {folder}, among its patients. Name another folder with --out.")
    from scans.masks import take_masks
    from scans.table import describe, to_row, write_list

    cohort = inputs.find(args)
    if args.masks:
        take_masks(cohort, args.masks)
    if args.table:
        inputs.report(write_list(args.table, cohort), done=bool(cohort.with_flair))
        return
    names = sorted(patient.name for patient in cohort.patients)
    if unknown := [name for name in args.empty if name not in names]:
        raise UserError(f"--empty {unknown[0]}: is no patient. There are {list_few(names)}.")
    cohort.refuse_doubles(args.empty)
    print("\n".join(describe(cohort)))
    rows, problems = [], cohort.problems
    with new_folder(args.out) as work:
        for patient in cohort.patients:
            rows.append(to_row(patient, args.out) | {"left_out": "", "notes": "; ".join(patient.notes)})
            try:
                rows[-1] |= import_patient(work, patient, args, problems)
            except ValueError as error:
                rows[-1]["left_out"] = str(error)
                if str(error) not in (NO_FLAIR, NO_MASK):  # of which one is told anyway
                    problems.append(f"{patient.name}: left out: {error}")
        import pandas as pd

        from dataset.split import SPLITS

        table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
        taken = table[table["slices"].notna()]
        if names := table["patient"][table["left_out"] == NO_MASK].tolist():
            print(f"left out: {list_few(names)}: {NO_MASK}")
        if taken.empty:
            raise UserError("\n".join(["nothing was imported", *problems]))
        print(taken[SHOWN].to_string(index=False, na_rep="", float_format="{:.1f}".format))
        write_text(work / TABLE, to_csv(table))
    print(f"written to {args.out}: slices and masks of {counted(len(taken), 'patient')}, and {TABLE}")
    options = ["--data", args.out, "--weights", constants.WEIGHTS, "--no-validation", "--run", "runs/own"]
    if len(taken) < len(SPLITS):
        print(f"train_model.py needs {len(SPLITS)} patients or more. Import them together.")
    else:
        print("Next:", shlex.join(["python", "train_model.py", *map(str, options)]))
    inputs.report(problems, done=True)


def import_patient(work: Path, patient: Patient, args: argparse.Namespace, problems: list[str]) -> dict[str, Any]:
    """Read a patient, write its folder, and return what was measured; adds to the problems.

    Raises: ValueError that says why the patient is left out.
    """
    import numpy as np

    from scans.masks import read_training_masks
    from scans.names import MASK
    from scans.read import read_patient
    from scans.write import write_training_slices

    if constants.FLAIR not in patient.items:
        raise ValueError(NO_FLAIR)
    every = [item.place.name for item in (*patient.items.values(), *patient.unused) if item.kind == MASK]
    if every and patient.name in args.empty:
        raise ValueError(f"--empty names it, but it has a mask, {every[0]}. Leave the name or the mask out.")
    if MASK not in patient.items and patient.name not in args.empty:
        which = f"{list_few(every)}: which one is its mask? Write it into the table of --list."
        raise ValueError(which if every else NO_MASK)
    scan, wrong = read_patient(patient, args.spacing)
    if scan is None:
        raise ValueError("; ".join(wrong))
    if MASK in patient.items:
        masks, notes = read_training_masks(patient.items[MASK], scan, args.labels)
    else:
        masks, notes = np.zeros(scan.slices.shape[:3], np.uint8), ["healthy, as --empty says"]
    problems += wrong
    for note in patient.notes + notes:  # about images and mask; what was done to intensities stands in the table alone
        print(f"{patient.name}: {note}")
    return write_training_slices(work, scan, masks) | {"notes": "; ".join(scan.notes + notes)}


if __name__ == "__main__":
    run_script(main)
