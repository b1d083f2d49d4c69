"""Make a data set for train_model.py from your own scans and a reader's masks.

    python import_data.py cohort --list cohort.csv              # a table of what is taken for whom, to edit
    python import_data.py cohort.csv --out my_patients          # or a folder, or files, as for predict_model.py
    python import_data.py cohort --masks masks --labels 1,2,4 --out my_patients
    python import_data.py cohort --masks corrected --out my_patients_2

INPUT is all that predict_model.py reads, in the same steps. A mask lies beside the images (x_seg.nii.gz,
slice_1_mask.png) or in a folder --masks: PATIENT.nii.gz, PATIENT_mask.nrrd, PATIENT/PATIENT_1_mask.png, .... Patients
without one are left out, unless --empty says that they are healthy.

Writes a new folder with PATIENT/PATIENT_1.tif, PATIENT_1_mask.tif, ..., grid.json (files, spacing and place in space of
the scan), and imported.csv, the table of all patients. See docs/usage.md.

Exit code 0 if all was read, 1 if some was not (the others are done), 2 if nothing was done.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import constants
from scans import inputs
from utils import UserError, existing, list_few, new_folder, run_script, to_csv, write_text

if TYPE_CHECKING:
    import pandas as pd

    from scans.cohort import Cohort, Patient
    from scans.training_set import Row

TABLE = "imported.csv"
COLUMNS = ("patient", "slices", "tumour_slices", "ml", "spacing", "flair", "pre", "post", "mask", "mask_of", "left_out",
           "mask_notes", "unused", "notes")  # fmt: skip
NO_MASK = "no mask beside it or in --masks; if it is healthy, name it with --empty"
FEWEST = 3  # patients, one for each split


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    inputs.add_image_options(parser)
    add = parser.add_argument_group("masks").add_argument
    add("--masks", type=existing, metavar="FOLDER", help="masks by patient, which go before those beside the images")
    add("--labels", type=labels, default=set(), metavar="1,2,4", help="which labels of a mask are tumour (all)")
    add("--empty", nargs="+", default=[], metavar="PATIENT", help="patients without a mask who are healthy")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR", help="the data set, a new folder")
    add("--list", type=Path, metavar="FILE", dest="table",
        help="only write what would be taken for whom, as a table to edit and to name as INPUT")  # fmt: skip
    return inputs.parse(parser, argv)


def labels(text: str) -> set[int]:
    """An argparse type: labels with commas between them; none for "all"."""
    try:
        return set() if text == "all" else {int(label) for label in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not all, nor whole numbers such as 1,2,4") from None


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    from scans.training_set import begin_row, take_masks

    cohort = inputs.find(args)
    if args.masks:
        take_masks(cohort, args.masks)
    if args.table:
        from scans.cohort import write_list

        inputs.report(write_list(args.table, cohort), done=bool(cohort.with_flair))
        return
    check_healthy(cohort, args.empty)
    rows = []
    with new_folder(args.out, "Name another folder with --out.") as work:
        for patient in cohort.patients:
            rows.append(begin_row(patient, args.out, args.masks))
            import_patient(work, patient, args, rows[-1], cohort.problems)
        import pandas as pd

        table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
        if table["slices"].isna().all():
            reasons = [f"{row['patient']}: left out: {row['left_out']}" for row in rows]
            raise UserError("\n".join([f"{list_few([*map(str, args.inputs)])}: nothing was imported", *reasons]))
        write_text(work / TABLE, to_csv(table))
    print(describe(table, cohort))
    print(f"written to {args.out}: slices and masks of {table['slices'].notna().sum()} patients, and {TABLE}")
    if table["slices"].notna().sum() < FEWEST:
        print(f"warning: training needs at least {FEWEST} patients: one each to train, to validate and to test")
    else:
        options = ["--data", args.out, "--weights", constants.WEIGHTS, "--run", "runs/own"]
        print("Next:", shlex.join(["python", "train_model.py", *map(str, options)]))
    inputs.report(cohort.problems, done=True)


def check_healthy(cohort: Cohort, names: list[str]) -> None:
    """Raise UserError if --empty names nobody, or a patient with a mask."""
    from scans.names import MASK

    patients = {patient.name: patient for patient in cohort.patients}
    if unknown := [name for name in names if name not in patients]:
        raise UserError(f"--empty {unknown[0]}: is no patient. There are {list_few(sorted(patients))}.")
    for name in names:
        if masks := [i for i in (*patients[name].items.values(), *patients[name].unused) if i.kind == MASK]:
            raise UserError(f"--empty {name}: has a mask, {masks[0].place}. Leave the name or the mask out.")


def import_patient(work: Path, patient: Patient, args: argparse.Namespace, row: Row, problems: list[str]) -> None:
    """Read a patient and write its folder, or why it is left out into its row; adds to the problems."""
    import numpy as np

    from scans.names import MASK
    from scans.read import read_patient
    from scans.training_set import read_training_masks, write_patient

    if constants.FLAIR not in patient.items:
        row["left_out"] = "no FLAIR"
        return
    if MASK not in patient.items and patient.name not in args.empty:
        row["left_out"] = "; ".join(f"{i.place.name}: {i.reason}" for i in patient.unused if i.kind == MASK) or NO_MASK
        return
    scan, wrong = read_patient(patient, args.spacing)
    problems += wrong
    if scan is None:
        row["left_out"] = wrong[-1]
        return
    notes = []
    if MASK not in patient.items:
        masks = [np.zeros(plane.shape[:2], np.uint8) for plane in scan.slices]
        notes.append("healthy, as --empty says")
    else:
        path = patient.items[MASK].paths[0]
        try:
            masks, notes = read_training_masks(patient.items[MASK], scan, args.labels)
        except Exception as error:  # libraries raise many kinds for a damaged file
            reason = " ".join(str(error).split())
            row["left_out"] = f"mask {path.name}: {reason}"
            problems.append(f"{path}: {reason} {patient.name} is left out.")
            return
    row["mask_notes"] = "; ".join(notes)
    write_patient(work, scan, masks, row)


def describe(table: pd.DataFrame, cohort: Cohort) -> str:
    """Return the table for the terminal, and below it who is left out and why, and notes on masks."""
    shown = table[table["slices"].notna()].copy()
    shown["sequences"] = ["+".join(name for name in ("pre", "flair", "post") if row[name] == row[name])
                          for _, row in shown.iterrows()]  # fmt: skip
    shown["ml"] = ["" if ml != ml else f"{ml:.1f}" for ml in shown["ml"].astype(float)]
    names = ["patient", "slices", "tumour_slices", "ml", "spacing", "sequences", "mask_of"]
    lines = [shown[names].fillna("").to_string(index=False)]
    for row in table.fillna("").to_dict("records"):
        lines += [f"{row['patient']}: left out: {row['left_out']}"] if row["left_out"] else []
        lines += [f"{row['patient']}: {row['mask_notes']}"] if row["mask_notes"] else []
        lines += [f"{row['patient']}: not used: {row['unused']}"] if row["unused"] else []
    return "\n".join([*lines, *(f"not used: {item.place} ({item.reason})" for item in cohort.unused)])


if __name__ == "__main__":
    run_script(main)
