"""Cross-validation over patients: train and test every fold, pool the test patients of all into one table.

    python cross_validate.py --folds 5 --run runs/cv --width 16 --epochs 40

Each fold has its own run folder, DIR/fold_1 ..., which train_model.py, process_models.py and test_model.py know too.
Called again, it goes on where it stopped. Options that are not listed here go to train_model.py. Each patient is a
test patient once; test_results.csv, test_patients.csv, test_lesions.csv, metrics.json and report.html in DIR are of all
of them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import data
import numpy as np
import pandas as pd
import runs

import train_model
from constants import SYNTHETIC_NOTICE
from dataset.folder import find_folder, find_slices
from dataset.slices import load_slices
from dataset.split import SPLITS, assign_fold, read_patient_list
from evaluation import calibration, summary
from evaluation.tables import Tables
from reporting.report import write_report
from storage import checkpoints
from test_model import CRITERIA
from utils import UserError, positive, run_script, show_number

HERE = Path(__file__).resolve().parent
OWN = ("run", "fold", "split", "resume", "overwrite", "data", "device", "patients")  # set for each fold from here


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--folds", type=positive(int), default=5, metavar="N", help="(%(default)s)")
    add("--run", type=Path, required=True, metavar="DIR", help="where fold_1, fold_2, ... and the pooled files go")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--patients", type=Path, metavar="FILE", help="use only the patients listed, one a line")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--select-by", choices=CRITERIA, default="iou", help="validation figure that chooses the epoch (%(default)s)")
    add("--tune", action="store_true", help="choose threshold and smallest part on the validation patients")
    args, training = parser.parse_known_args()
    of_training = train_model.make_parser()
    of_training.error = parser.error  # a mistake in its options ends here, before any training, with this usage
    given = vars(of_training.parse_args(training))
    if wrong := [f"--{name}" for name in OWN if name in given]:
        parser.error(f"{', '.join(wrong)}: set for each fold by this script")
    if args.folds < 2:
        parser.error("--folds: at least 2 are needed")
    args.given = given
    return args, training


def main() -> None:
    args, training = parse_arguments()
    folder = find_folder(args.data)
    only = read_patient_list(args.patients) if args.patients else None
    patients = find_slices(folder, only)["patient"]
    folds = {number: args.run / f"fold_{number}" for number in range(1, args.folds + 1)}
    assignments = {number: assign_fold(patients, number, args.folds) for number in folds}
    if checkpoints.epoch_files(runs.models_folder(args.run)):
        raise UserError(f"{args.run}: holds a run of its own. Name another folder with --run.")
    for number, run in folds.items():
        check(run, assignments[number], args.given)

    for number, run in folds.items():
        print(f"--- fold {number} of {args.folds}: {run}", flush=True)
        train(run, f"{number}/{args.folds}", training, args, folder)
        test(run, args, folder)
    pool(args.run, folds)
    report(args.run, folds, find_folder(folder))


def check(run: Path, assignment: dict[str, str], given: dict) -> None:
    """Raise UserError if the folder of a fold holds a run on other patients or with other settings."""
    if not checkpoints.epoch_files(runs.models_folder(run)):
        return
    settings = runs.read_config(run)["settings"]
    different = [
        f"{name} {settings[name]}, not {given[name]}"
        for name in train_model.SETTINGS
        if name in given and name != "epochs" and given[name] != settings.get(name)
    ]
    for split in SPLITS:
        if set(data.read_table(run, split)["patient"]) != {p for p, s in assignment.items() if s == split}:
            different.append(f"other {split} patients")
    if different:
        raise UserError(f"{run}: holds a run with {'; '.join(different)}. Name another folder with --run.")


def train(run: Path, fold: str, training: list[str], args: argparse.Namespace, folder: Path) -> None:
    """Begin, resume or pass over the training of a fold."""
    trained = max(checkpoints.epoch_files(runs.models_folder(run)), default=0)
    where = ["--data", folder, "--device", args.device, "--run", run, *training]
    if not trained:
        only = ["--patients", args.patients] if args.patients else []
        call("train_model.py", *where, *only, "--fold", fold, "--overwrite")
    elif trained < args.given.get("epochs", runs.read_config(run)["settings"]["epochs"]):
        call("train_model.py", *where, "--resume")
    else:
        print(f"trained already, {trained} epochs")


def test(run: Path, args: argparse.Namespace, folder: Path) -> None:
    call("process_models.py", "--run", run)
    tune = ["--tune"] if args.tune else []
    options = ("--data", folder, "--device", args.device, "--select-by", args.select_by, *tune)
    call("test_model.py", "--run", run, *options)


def call(script: str, *arguments) -> None:
    """Run a script of this folder, in a process of its own that gives all its memory back; stop if it fails."""
    done = subprocess.run([sys.executable, HERE / script, *map(str, arguments)])
    if done.returncode:
        raise UserError(f"{script} stopped (exit code {done.returncode}, see above). Called again, this goes on there.")


def pool(run: Path, folds: dict[int, Path]) -> None:
    """One table, one metrics.json and one printed result of the test patients of all folds."""
    tables = {number: summary.read_tables(fold) for number, fold in folds.items()}
    pooled = Tables(
        *(
            pd.concat([getattr(t, part).assign(fold=number) for number, t in tables.items()], ignore_index=True)
            for part in summary.FILES
        )
    )
    cards = {number: json.loads((fold / "metrics.json").read_text(encoding="utf-8")) for number, fold in folds.items()}
    shown = ("epoch", "threshold", "min_component", "slices", "patients", "patient_dice", "tumour_iou", "loss", "tuned")
    about = {
        "split": f"cross-validation, {len(folds)} folds",
        "epoch": None,
        "selected_by": cards[1]["selected_by"],
        "synthetic": any(card["synthetic"] for card in cards.values()),
        "threshold": None,
        "min_component": None,
        "loss": sum(card["loss"] * card["slices"] for card in cards.values()) / len(pooled.slices),
        "folds": [{"fold": number, **{name: card[name] for name in shown}} for number, card in cards.items()],
    }
    notes = [
        f"fold {number}: {note}"
        for number, card in cards.items()
        for note in card["notes"]
        if note.startswith("warning")
    ]
    calibrated = calibration.merge([card["calibration"] for card in cards.values()])
    card = summary.make(pooled, calibrated, about, notes)
    summary.write(run, pooled, card)

    print(f"--- all {len(folds)} folds together")
    if card["synthetic"]:
        print(SYNTHETIC_NOTICE)
    for fold in about["folds"]:
        dice = show_number(fold["patient_dice"])
        print(f"  fold {fold['fold']}: epoch {fold['epoch']}, {fold['patients']} patients, mean volumetric Dice {dice}")
    print(summary.describe(card, pooled.patients))
    print(f"written to {run}: {', '.join(summary.FILES.values())}, metrics.json")


def report(run: Path, folds: dict[int, Path], folder: Path) -> None:
    """report.html of the test patients of all folds."""
    parts = load_slices(folder, {number: data.read_table(fold, "test") for number, fold in folds.items()}).values()
    predicted = [np.load(fold / runs.PREDICTIONS)["predicted"] for fold in folds.values()]
    images, masks = (np.concatenate([getattr(part, name).numpy() for part in parts]) for name in ("images", "masks"))
    write_report(run, images, masks, np.concatenate(predicted), pd.read_csv(run / "test_results.csv"))
    print(f"and {run / 'report.html'}")


if __name__ == "__main__":
    run_script(main)
