"""Cross-validation over patients: train and test every fold, and pool the test patients of all folds.

    python cross_validate.py --folds 5 --run runs/cv --width 16 --epochs 40

Options that are not listed here go to train_model.py as they are given. Each fold is a run of its own, DIR/fold_1 ...;
each patient is a test patient once. DIR receives test_*.csv, metrics.json and report.html of all patients. The same
command again goes on where it stopped; a fold that is trained, here or elsewhere (train_model.py --fold 1/5 --run
runs/cv/fold_1), is only tested and pooled.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from constants import CRITERIA, SYNTHETIC_NOTICE
from utils import UserError, cores, existing, positive, run_python, run_script, show_number

if TYPE_CHECKING:
    from storage.run_folder import RunFolder


def main(argv: list[str] | None = None) -> None:
    layout = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**layout, allow_abbrev=False)
    add = parser.add_argument
    add("--folds", type=positive(int), default=5, metavar="N", help="(%(default)s)")
    add("--run", type=Path, required=True, metavar="DIR", help="where fold_1, fold_2, ... and the pooled files go")
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--select-by", choices=CRITERIA, help="what selects the epoch (that of test_model.py)")
    add("--tune", action="store_true", help="choose threshold and smallest component on the validation patients")
    add("--workers", type=positive(int), default=1, metavar="N", help="folds side by side, each on the next GPU")
    args, given = parser.parse_known_args(argv)
    if (args.tune or args.select_by not in (None, "last")) and "--no-validation" in given:
        parser.error("--tune and --select-by need the validation patients, whom --no-validation trains on")
    from dataset.folder import find_folder
    from storage.run_folder import RunFolder

    run, folder = RunFolder(args.run), find_folder(args.data)
    if run.exists():
        raise UserError(f"{run}: holds a run of its own. Name another folder with --run.")
    folds = {number: RunFolder(run.path / f"fold_{number}") for number in range(1, args.folds + 1)}
    select = ["--select-by", args.select_by] if args.select_by else []

    def run_fold(number: int) -> None:
        fold, log, device = folds[number], None, args.device
        if args.workers > 1:
            device, log = device_of(number - 1, device), run.path / f"fold_{number}.log"
        print(f"--- fold {number} of {args.folds}: {fold}{f', output in {log}' if log else ''}", flush=True)
        where = ["--run", fold, "--data", folder, "--device", device]
        fold_of = ["--fold", f"{number}/{args.folds}", "--resume"]
        run_python("train_model.py", *where, *given, *fold_of, log=log)  # begins, goes on, or is done
        run_python("process_models.py", "--run", fold, log=log)
        run_python("test_model.py", *where, *select, *["--tune"] * args.tune, log=log)

    if args.workers > 1:
        from training.hardware import device_of

        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // args.workers))
        run.path.mkdir(parents=True, exist_ok=True)
    refuse_other_settings(folds.values(), given)
    with ThreadPoolExecutor(args.workers) as threads:
        list((threads.map if args.workers > 1 else map)(run_fold, folds))
    refuse_other_settings(folds.values(), given)
    pool(run, folds, folder)


def refuse_other_settings(folds: Collection[RunFolder], given: list[str]) -> None:
    """Raise UserError if the folds that are there, and those that these options begin, are not of one recipe."""
    from training.recipe import Recipe, make_parser, make_settings

    configs = {str(fold): fold.read_config() for fold in folds if fold.exists()}
    recipes = {n: f"{Recipe.of(c['settings'])}{', from weights' * ('weights' in c)}" for n, c in configs.items()}
    asked = make_parser().parse_args(given)
    if 0 < len(configs) < len(folds) and not asked.weights:
        recipes["a fold of these options"] = str(Recipe.of(make_settings(asked)))
    if len(set(recipes.values())) > 1:
        shown = "; ".join(f"{name}: {recipe}" for name, recipe in recipes.items())
        raise UserError(
            f"the folds are not of one recipe ({shown}). Give the options of the first, or name another --run."
        )


def pool(run: RunFolder, folds: dict[int, RunFolder], folder: Path) -> None:
    """Write and print the result of the test patients of all folds together."""
    import numpy as np
    import pandas as pd

    from dataset.slices import load_slices
    from evaluation import calibration, quality, summary
    from reporting.report import write_result
    from storage.run_folder import TEST_TABLES

    tables = {
        name: pd.concat((fold.read_test_table(name).assign(fold=k) for k, fold in folds.items()), ignore_index=True)
        for name in TEST_TABLES
    }
    results = {number: fold.read_metrics() for number, fold in folds.items()}
    details = {
        "split": f"cross-validation, {len(folds)} folds",
        **dict.fromkeys(("epoch", "threshold", "min_component")),  # each fold has its own
        "selected_by": results[1]["selected_by"],
        "synthetic": any(r["synthetic"] for r in results.values()),
        "loss": sum(r["loss"] * r["slices"] for r in results.values()) / len(tables["slices"]),
        "spacing": {patient: mm for r in results.values() for patient, mm in (r.get("spacing") or {}).items()} or None,
        "folds": [
            {"fold": number} | {name: value for name, value in r.items() if not isinstance(value, (dict, list))}
            for number, r in results.items()
        ],
        "quality": quality.study(
            [row for r in results.values() for row in r["quality"]["patients"]], tables["patients"]
        ),
    }
    notes = [f"fold {k}: {note}" for k, r in results.items() for note in r["notes"]]
    bins = calibration.pool(r["calibration"] for r in results.values())
    metrics = summary.summarise(tables, bins, details, notes)
    split_tables, masks = zip(*(fold.read_tested() for fold in folds.values()), strict=True)
    slices = load_slices(folder, {"all": pd.concat(split_tables, ignore_index=True)})["all"]
    write_result(run, slices, np.concatenate(masks), tables, metrics)
    print(f"--- all {len(folds)} folds together")
    if metrics["synthetic"]:
        print(SYNTHETIC_NOTICE)
    for number, r in results.items():
        who = f"{r['patients']} patients, {r['patients_without_tumour']} of them without tumour"
        print(f"  fold {number}: epoch {r['epoch']}, {who}, Dice {show_number(r['patient_dice'])}")
    print(summary.describe(metrics, tables["patients"]))
    print(f"written to {run}: test_*.csv, metrics.json, plots/*.png, report.html")


if __name__ == "__main__":
    run_script(main)
