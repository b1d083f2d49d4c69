"""Train variants of a recipe with equal budgets and compare them on the validation patients.

    python ablate.py screen --data lgg-mri-segmentation/kaggle_3m --split split.csv
    python ablate.py screen --seeds 1 2 3 --only base "reference, width 8"

Each variant is a run in DIR/VARIANT_SEED; the same command goes on where it stopped. DIR/ablation.csv: metrics of
the validation patients after the last epoch, without any choice of epoch or threshold; slices seen, TFLOP and seconds
of training; the minutes until the validation Dice passed 0.70, 0.75 and 0.80; and the difference of each variant's mean
Dice from the first variant's, with its 95% interval over patients. DIR/recall.png: tumour slices found against false
positives. Test patients are never looked at.
"""

import argparse
from pathlib import Path

import constants
from storage.owned_folder import OwnedFolder
from utils import parse_first, positive, whole_number

# Studies: a base, and what each variant changes in it. The first variant is what the others are compared with.
# Narrow, and so few epochs that many can be tried. Patients drawn evenly are a variant: found with this base.
BASE = ("--recipe", "tuned", "--by-patient", "0", "--width", "16", "--epochs", "6")
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "screen": {
        "base": BASE,
        "reference, width 8": ("--recipe", "reference", "--width", "8", "--epochs", "3"),
        "plain intensities": (*BASE, "--normalisation", "plain"),
        "published intensities": (*BASE, "--normalisation", "published"),
        "without neighbours": (*BASE, "--neighbours", "0"),
        "without random changes": (*BASE, "--no-augment"),
        "without average": (*BASE, "--ema", "0"),
        "without growing": (*BASE, "--no-growing", "--epochs", "5"),  # about the same FLOPs
        "all empty slices": (*BASE, "--empty-share", "1", "--epochs", "4"),
        "without stem": (*BASE, "--stem", "1", "--width", "8"),
        "without crop": (*BASE, "--no-crop", "--epochs", "4"),
        "without Dice of each slice": (*BASE, "--loss", "bce+dice"),
        "focal-tversky": (*BASE, "--loss", "focal-tversky"),
        "drawn by patient, 0.1": (*BASE, "--by-patient", "0.1"),
        "drawn by patient, 0.5": (*BASE, "--by-patient", "0.5"),
        "drawn by patient, 1": (*BASE, "--by-patient", "1"),
        "begun at the prior": (*BASE, "--prior"),
    },
    "misses": {  # the weight of a missed pixel against that of a false one grows
        "bce+tversky-0.3": (*BASE, "--loss", "bce+tversky-0.3"),
        "bce+dice": (*BASE, "--loss", "bce+dice"),
        "bce+tversky": (*BASE, "--loss", "bce+tversky"),
        "bce+tversky-0.9": (*BASE, "--loss", "bce+tversky-0.9"),
        "bce": (*BASE, "--loss", "bce"),
        "weighted-bce": (*BASE, "--loss", "weighted-bce"),
    },
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("study", choices=STUDIES)
    add("--only", nargs="+", metavar="VARIANT", help="(all of the study)")
    add("--seeds", type=whole_number, nargs="+", default=[constants.SEED], help="(%(default)s)")
    add("--epochs", type=positive(int), help="of all variants, for a quick trial")
    add("--width", type=positive(int), help="of all variants, for a quick trial")
    add("--run", type=OwnedFolder, default="runs/ablation", metavar="DIR", help="(%(default)s)")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.only or ()) - STUDIES[args.study].keys()):
        parser.error(f"--only: {args.study} has no {', '.join(unknown)} ({', '.join(STUDIES[args.study])})")
    return args


if __name__ == "__main__":
    parse_first(parse_arguments)


from collections.abc import Iterable
from typing import Any

import pandas as pd

from dataset.folder import find_folder, find_slices
from dataset.slices import Slices, load_slices
from dataset.split import assign
from evaluation import calibration, intervals
from evaluation.selection import Postprocessing, postprocess
from evaluation.summary import evaluate_masks
from reporting import plots
from storage import checkpoints
from storage.run_folder import RunFolder
from training.engine import count_flop, epoch_order, growth, score, training_window
from training.hardware import hardware_like, keep_freed_memory
from training.options import SETTINGS, fill_in, make_parser
from training.recipes import REFERENCE
from utils import call_script, run_script, show_number, to_csv

SHOWN = ("patient_dice", "patient_dice_median", "patient_sensitivity", "patient_precision", "tumour_iou",
         "tumour_found", "false_positive_share", "iou", "empty_prediction")  # fmt: skip
QUALITIES = (0.7, 0.75, 0.8)  # mean volumetric Dice, for the time until they are reached


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    keep_freed_memory()
    args.run.refuse_foreign("ablation.csv", "recall.png")
    folder = find_folder(args.data)
    study = STUDIES[args.study]
    wanted = [name for name in study if not args.only or name in args.only]
    trial = [word for name in ("epochs", "width") if getattr(args, name) for word in (f"--{name}", getattr(args, name))]
    runs = {}  # with their options
    for seed in args.seeds:
        for name in wanted:
            run = RunFolder(args.run.path / f"{name.replace(' ', '_')}_{seed}")
            runs[name, seed] = run, [*study[name], *trial, "--seed", seed]
    refuse_others(runs.values(), folder, args.split)
    split = ["--split", args.split] if args.split else []
    results: list[dict[str, Any]] = []
    for (name, seed), (run, options) in runs.items():
        train(run, [*options, *split, "--data", folder, "--keep", 1])
        results.append({"variant": name, "seed": seed, **judge_run(run)})
        args.run.write("ablation.csv", to_csv(compare(results)).encode())
    table = compare(results)
    args.run.write("recall.png", plots.to_png(plots.draw_recall(table).figure, plots.DPI))
    print(table.to_string(index=False, float_format=show_number))
    print(f"written to {args.run}: ablation.csv, recall.png")


def refuse_others(runs: Iterable[tuple[RunFolder, list]], folder: Path, split: Path | None) -> None:
    """Raise UserError if the folder of a variant holds a run of other settings, or on other patients."""
    assignment = assign(find_slices(folder)["patient"], split, folder)
    for run, options in runs:
        if run.checkpoints():
            asked = vars(fill_in(make_parser().parse_args(list(map(str, options)))))
            run.refuse_other({name: asked[name] for name in SETTINGS}, assignment, REFERENCE)


def train(run: RunFolder, options: list) -> None:
    """Train a variant, or what is left of it."""
    if run.newest_epoch() == 0:
        call_script("train_model.py", "--run", run, *options)
    elif run.complete_epochs() < run.read_config()["settings"]["epochs"]:
        call_script("train_model.py", "--run", run, "--resume")


def judge_run(run: RunFolder) -> dict[str, Any]:
    """Return metrics of the validation patients after the last epoch, their Dice, and the cost of training."""
    epochs, config = checkpoints.read_epochs(run), run.read_config()
    model, checkpoint = checkpoints.load_network(run.checkpoint(run.newest_epoch()))
    about = checkpoint["input"]
    tables = {split: run.read_split_table(split) for split in ("train", "validation")}
    train, slices = load_slices(Path(config["data"]), tables).values()
    _, probabilities = score(model, checkpoint, slices, hardware_like("auto", about["precision"]), "validation")
    predicted = postprocess(probabilities, Postprocessing.of(about), slices.patients)
    tables, metrics = evaluate_masks(slices, predicted, calibration.count(slices, probabilities), {}, [])
    return {
        **{name: metrics[name] for name in SHOWN},
        "epochs": len(epochs),
        **training_cost(REFERENCE | config["settings"], epochs, train),
        "seconds": epochs["seconds"].sum(),
        **{f"minutes_to_{dice}": minutes_to(dice, epochs) for dice in QUALITIES},
        "dice": tables.patients.set_index("patient")["dice"],
    }


def minutes_to(dice: float, epochs: pd.DataFrame) -> float:
    """Return the minutes of training and validation until an epoch has this validation Dice; NaN if none has."""
    reached = epochs["validation_patient_dice"] >= dice
    return epochs["seconds"].cumsum()[reached].min() / 60


def training_cost(settings: dict[str, Any], epochs: pd.DataFrame, slices: Slices) -> dict[str, float]:
    """Return the slices that training saw, and the TFLOP of its convolutions, backward counted as two forward passes.

    slices: those of the training patients, of which an epoch draws as many as any other.
    """
    seen = len(epoch_order(settings["seed"], 1, slices, settings["empty_share"], settings["by_patient"]))
    flop = 0.0
    for epoch in epochs["epoch"]:
        share = growth(epoch, settings["epochs"]) if settings["growing"] else 1.0
        sides = training_window(settings["crop"], share)[1]
        flop += 3 * seen * count_flop(checkpoints.describe_network(settings), *sides)
    return {"slices": seen * len(epochs), "tflop": flop / 1e12}


def compare(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per variant and seed, with the difference of its mean Dice to the first variant's of that seed."""
    rows = []
    for result in results:
        base = next(each for each in results if each["seed"] == result["seed"])
        difference = (result["dice"] - base["dice"]).rename_axis("patient").reset_index(name="dice")
        estimate = intervals.estimate(difference["patient"], difference["dice"], scale=intervals.DIFFERENCE)
        row = {name: value for name, value in result.items() if name != "dice"}
        rows.append(row | {"difference": estimate["value"], "low": estimate["low"], "high": estimate["high"]})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_script(main)
