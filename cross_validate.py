"""Cross-validation over patients: train and test every fold, and pool the test patients of all folds.

    python cross_validate.py --folds 5 --run runs/cv --width 16 --epochs 40

Options that are not listed here go to train_model.py. Each fold is a run of its own, DIR/fold_1 ...; each patient is a
test patient once. DIR receives test_*.csv, metrics.json and report.html of all patients. The same command again goes on
where it stopped; a fold whose epochs are all there is not trained again, and nothing of the user's is replaced.
"""

import argparse
from pathlib import Path

from constants import CRITERIA, SYNTHETIC_NOTICE
from training.options import SETTINGS, fill_in, make_parser
from utils import parse_first, positive

PER_FOLD = ("run", "fold", "split", "resume", "overwrite", "data", "device", "patients")  # options set from here


def parse_arguments(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this script (in `training` those of train_model.py), and the latter as they were given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--folds", type=positive(int), default=5, metavar="N", help="(%(default)s)")
    add("--run", type=Path, required=True, metavar="DIR", help="where fold_1, fold_2, ... and the pooled files go")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--patients", type=Path, metavar="FILE", help="use only the patients listed, one per line")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--select-by", choices=CRITERIA, default="iou", help="validation metric that selects the epoch (%(default)s)")
    add("--tune", action="store_true", help="choose threshold and smallest component on the validation patients")
    args, given = parser.parse_known_args(argv)
    training_parser = make_parser()
    training_parser.error = parser.error  # a mistake in its options ends here, before any training, with this usage
    args.training, defaults = training_parser.parse_args(given), training_parser.parse_args([])
    if refused := [f"--{n}" for n in PER_FOLD if str(getattr(args.training, n)) != str(getattr(defaults, n))]:
        parser.error(f"{', '.join(refused)}: set for each fold by this script")
    fill_in(args.training)
    if args.folds < 2:
        parser.error("--folds: at least 2 are needed")
    return args, given


if __name__ == "__main__":
    parse_first(parse_arguments)


from typing import Any

import pandas as pd

from dataset.folder import find_folder, find_slices
from dataset.slices import load_slices
from dataset.split import assign_fold, read_patient_list
from evaluation import calibration, summary
from evaluation.tables import Tables
from reporting.report import write_report
from storage.run_folder import TEST_TABLES, RunFolder
from training.recipes import REFERENCE, is_planned
from utils import UserError, call_script, run_script, show_number

POOLED = (*TEST_TABLES.values(), "metrics.json", "report.html")  # written to --run itself


def main(argv: list[str] | None = None) -> None:
    args, given = parse_arguments(argv)
    run = RunFolder(args.run)
    folder = find_folder(args.data)
    patients = find_slices(folder, read_patient_list(args.patients) if args.patients else None)["patient"]
    folds = {number: RunFolder(run.path / f"fold_{number}") for number in range(1, args.folds + 1)}
    if run.checkpoints():
        raise UserError(f"{run}: holds a run of its own. Name another folder with --run.")
    run.refuse_foreign(*POOLED)
    for number, fold in folds.items():
        assignment = assign_fold(patients, number, args.folds)
        fold.refuse_used(overwrite=True)  # files of the user
        if fold.checkpoints():
            fold.refuse_other(settings_to_find(fold, args.training), assignment, REFERENCE)
    for number, fold in folds.items():
        print(f"--- fold {number} of {args.folds}: {fold}", flush=True)
        where = ["--run", fold, "--data", folder, "--device", args.device]
        if not fold.checkpoints():
            listed = ["--patients", args.patients] if args.patients else []
            call_script("train_model.py", *where, *given, *listed, "--fold", f"{number}/{args.folds}")
        elif fold.complete_epochs() < args.training.epochs:
            call_script("train_model.py", *where, *given, "--resume", "--epochs", args.training.epochs)
        call_script("process_models.py", "--run", fold)
        call_script("test_model.py", *where, "--select-by", args.select_by, *["--tune"] * args.tune)
    pool(run, folds, folder)


def settings_to_find(fold: RunFolder, training: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a fold's run has to have; fewer epochs than asked for are gone on with."""
    recorded, asked = REFERENCE | fold.read_config()["settings"], vars(training)
    goes_on = recorded["epochs"] < asked["epochs"] and not is_planned(recorded)
    return {name: asked[name] for name in SETTINGS} | ({"epochs": "auto"} if goes_on else {})


def pool(run: RunFolder, folds: dict[int, RunFolder], folder: Path) -> None:
    """Write and print the result of the test patients of all folds together."""
    run.remove_temporaries()  # of a process that was killed
    of_fold = {number: fold.read_test_tables() for number, fold in folds.items()}
    tables = {
        name: pd.concat([part[name].assign(fold=number) for number, part in of_fold.items()], ignore_index=True)
        for name in TEST_TABLES
    }
    results = {number: fold.read_metrics() for number, fold in folds.items()}
    shown = ("epoch", "threshold", "min_component", "slices", "patients", "patient_dice", "tumour_iou", "loss", "tuned")
    about = {
        "split": f"cross-validation, {len(folds)} folds",
        **dict.fromkeys(("epoch", "threshold", "min_component")),  # each fold has its own
        "selected_by": results[1]["selected_by"],
        "synthetic": any(r["synthetic"] for r in results.values()),
        "loss": sum(r["loss"] * r["slices"] for r in results.values()) / len(tables["slices"]),
        "folds": [{"fold": number, **{name: r[name] for name in shown}} for number, r in results.items()],
    }
    notes = [f"fold {k}: {note}" for k, r in results.items() for note in r["notes"] if note.startswith("warning")]
    calibrated = calibration.merge([r["calibration"] for r in results.values()])
    metrics = summary.summarise(Tables(**tables), calibrated, about, notes)
    run.write_test(tables, metrics, None)
    table, predicted = run.read_tested()
    slices = load_slices(folder, {"all": table})["all"]
    write_report(run, slices.images.numpy(), slices.masks.numpy(), predicted)
    print(f"--- all {len(folds)} folds together")
    if metrics["synthetic"]:
        print(SYNTHETIC_NOTICE)
    for number, r in results.items():
        dice = show_number(r["patient_dice"])
        print(f"  fold {number}: epoch {r['epoch']}, {r['patients']} patients, mean volumetric Dice {dice}")
    print(summary.describe(metrics, tables["patients"]))
    print(f"written to {run}: test_*.csv, metrics.json, report.html")


if __name__ == "__main__":
    run_script(main)
