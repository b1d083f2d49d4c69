"""Train variants of a recipe with equal budgets and compare them on the validation patients.

    python -m studies.ablate screen --data lgg-mri-segmentation/kaggle_3m --split split.csv
    python -m studies.ablate screen --seeds 1 2 3 --only base "reference, width 8"

Each variant is a run in DIR/VARIANT_SEED; the same command goes on where it stopped. DIR/ablation.csv: metrics of
the validation patients after the last epoch, without any choice of epoch or threshold; the cost of training; and the
difference of each variant's mean Dice from the first variant's, with its 95% interval over patients. DIR/recall.png:
tumour slices found against false positives. Test patients are never looked at.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import constants
from dataset.folder import find_folder
from dataset.slices import Slices, load_slices
from evaluation import intervals
from evaluation.selection import Postprocessing, postprocess
from evaluation.summary import evaluate_masks
from reporting import plots
from storage import checkpoints
from storage.run_folder import RunFolder
from studies.speed import count_flop
from training.engine import epoch_order, resolution_of_epoch, score, training_window
from training.hardware import choose_hardware, keep_freed_memory
from training.recipe import Recipe
from utils import run_python, run_script, show_number, whole_number

# Studies: a base, and what each variant changes in it. The first variant is what the others are compared with.
# Narrow, and so few epochs that many can be tried. Patient-balanced sampling is a variant: found with this base.
EARLIER = ("--recipe", "tuned", "--normalisation", "head", "--no-robust")
BASE = (*EARLIER, "--patient-balanced", "0", "--width", "16", "--epochs", "6")
TVERSKY = (*BASE, "--loss", "bce+tversky", "--false-negative-weight")
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "screen": {
        "base": BASE,
        "reference, width 8": ("--recipe", "reference", "--width", "8", "--epochs", "3"),
        "plain intensities": (*BASE, "--normalisation", "plain"),
        "without neighbours": (*BASE, "--neighbours", "0"),
        "without augmentation": (*BASE, "--no-augment"),
        "without average": (*BASE, "--ema", "0"),
        "without progressive resolution": (*BASE, "--no-progressive-resolution", "--epochs", "5"),  # about equal FLOP
        "all slices without tumour": (*BASE, "--negative-fraction", "1", "--epochs", "4"),
        "without pixel unshuffle": (*BASE, "--pixel-unshuffle", "1", "--width", "8"),
        "without crop": (*BASE, "--no-crop", "--epochs", "4"),
        "without Dice of each slice": (*BASE, "--loss", "bce+dice"),
        "patient-balanced, 0.1": (*BASE, "--patient-balanced", "0.1"),
        "patient-balanced, 0.5": (*BASE, "--patient-balanced", "0.5"),
        "patient-balanced, 1": (*BASE, "--patient-balanced", "1"),
    },
    "misses": {  # the weight of a missed pixel against that of a false one grows
        "false negatives 0.3": (*TVERSKY, "0.3"),
        "bce+dice": (*BASE, "--loss", "bce+dice"),
        "false negatives 0.7": (*TVERSKY, "0.7"),
        "false negatives 0.9": (*TVERSKY, "0.9"),
        "bce": (*BASE, "--loss", "bce"),
    },
}
SHOWN = ("patient_dice", "patient_dice_median", "patient_sensitivity", "patient_precision", "tumour_iou",
         "tumour_found", "false_positive_share", "iou", "empty_prediction")  # fmt: skip
PROJECT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("study", choices=STUDIES)
    add("--only", nargs="+", metavar="VARIANT", help="(all of the study)")
    add("--seeds", type=whole_number, nargs="+", default=[constants.SEED], help="(%(default)s)")
    add("--run", type=Path, default=Path("runs/ablation"), metavar="DIR", help="(%(default)s)")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.only or ()) - STUDIES[args.study].keys()):
        parser.error(f"--only: {args.study} has no {', '.join(unknown)} ({', '.join(STUDIES[args.study])})")
    keep_freed_memory()
    shared = ["--data", find_folder(args.data), *(["--split", args.split] if args.split else [])]
    results: list[dict[str, Any]] = []
    for seed in args.seeds:
        for name in args.only or STUDIES[args.study]:
            run = RunFolder(args.run / f"{name.replace(' ', '_')}_{seed}")
            options = [*STUDIES[args.study][name], "--seed", seed, *shared, "--keep", 1]
            run_python(PROJECT / "train_model.py", "--run", run, *options, "--resume")  # begins, goes on, or is done
            results.append({"variant": name, "seed": seed, **evaluate_run(run)})
            RunFolder(args.run).write("ablation.csv", compare(results))
    table = compare(results)
    RunFolder(args.run).write("recall.png", plots.to_png(draw_recall(table), plots.DPI))
    print(table.to_string(index=False, float_format=show_number))
    print(f"written to {args.run}: ablation.csv, recall.png")


def evaluate_run(run: RunFolder) -> dict[str, Any]:
    """Return metrics of the validation patients after the last epoch, their Dice, and the cost of training."""
    epochs, config = checkpoints.read_epochs(run), run.read_config()
    model, checkpoint = checkpoints.load_network(run.checkpoint(epochs["epoch"].max()))
    tables = {split: run.read_split_table(split) for split in ("train", "validation")}
    train, validation = load_slices(Path(config["data"]), tables).values()
    _, probabilities = score(model, checkpoint, validation, choose_hardware("auto", "fp32"), "validation")
    masks = postprocess(probabilities, Postprocessing.of(checkpoint["input"]), validation.patients)
    tables, metrics = evaluate_masks(validation, masks, probabilities, {}, [])
    return {
        **{name: metrics[name] for name in SHOWN},
        "epochs": len(epochs),
        **training_cost(config["settings"], epochs, train),
        "seconds": epochs["seconds"].sum(),
        "dice": tables.patients.set_index("patient")["dice"],
    }


def training_cost(settings: dict[str, Any], epochs: pd.DataFrame, slices: Slices) -> dict[str, float]:
    """Return the slices that training saw, and the TFLOP of its convolutions, backward counted as two forward passes.

    slices: those of the training patients, of which each epoch draws equally many.
    """
    recipe = Recipe.of(settings)
    seen = len(epoch_order(settings["seed"], 1, slices, recipe.negative_fraction, recipe.patient_balanced))
    flop = 0.0
    for epoch in epochs["epoch"]:
        resolution = resolution_of_epoch(epoch, recipe.epochs) if recipe.progressive_resolution else 1.0
        height, width = training_window(recipe.crop, resolution)[1]
        flop += 3 * seen * count_flop(checkpoints.describe_network(settings), height, width)
    return {"slices": seen * len(epochs), "tflop": flop / 1e12}


def draw_recall(variants: pd.DataFrame) -> Figure:
    """Draw the tumour slices that each variant finds against its false positives: a point per seed."""
    figure, axes = plots.new_axes("empty slices with a false positive", "tumour slices found")
    for number, (name, seeds) in enumerate(variants.groupby("variant", sort=False)):
        points = seeds["false_positive_share"], seeds["tumour_found"]
        axes.plot(*points, ls="", marker="o^sD"[number // 10 % 4], label=name)
    return plots.finished(figure, "Tumour slices found against false positives", "").figure


def compare(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per variant and seed, with the difference of its mean Dice from that of the first variant."""
    rows = []
    for result in results:
        base = next(other for other in results if other["seed"] == result["seed"])
        difference = (result["dice"] - base["dice"]).rename_axis("patient").reset_index(name="dice")
        estimate = intervals.estimate(difference["patient"], difference["dice"], scale=intervals.DIFFERENCE)
        row = {name: value for name, value in result.items() if name != "dice"}
        rows.append(row | {"difference": estimate["value"], "low": estimate["low"], "high": estimate["high"]})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_script(main)
