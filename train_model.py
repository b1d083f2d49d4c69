"""Train the U-Net: split by patient, train, validate, save a checkpoint each epoch.

python train_model.py --data lgg-mri-segmentation/kaggle_3m --run runs/first
python train_model.py --width 16 --epochs 20          # without any data: on synthetic patients
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from training.recipe import COMPUTING, Recipe, chosen_values, make_parser, parse_recipe
from utils import UserError, run_script, show_number

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dataset.slices import Slices
    from storage.run_folder import RunFolder
    from training.hardware import Hardware

CPU_GFLOPS = {True: 160, False: 55}  # per second and core, in bf16 and in fp32
REDRAW = 60  # seconds, at least, between two drawings of the curves


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    args = parser.parse_args(argv)
    if args.split and args.fold:
        parser.error("--split and --fold exclude each other")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    from dataset.folder import find_folder
    from dataset.slices import load_slices
    from storage.run_folder import RunFolder
    from training import hardware as hw

    if args.tensorboard:
        import tensorboard  # noqa: F401, a missing package is said before training

    run = RunFolder(args.run)
    resumed = args.resume and run.exists()
    if not resumed:
        run.refuse_used(args.overwrite)
    config = run.read_config() if resumed else {}
    folder = find_folder(args.data, config.get("data"))
    tables = make_tables(args, folder, run if resumed else None)
    settings = make_settings(args, config.get("settings"), run)

    hardware = hw.choose_hardware(args.device, settings["precision"])
    settings["precision"] = "bf16" if hardware.bf16 else "fp32"
    hw.join_processes(hardware.device)
    hw.keep_freed_memory()
    hw.repeat_exactly(settings["mode"] == "exact", hardware.device, settings["crop"])
    hw.set_seeds(settings["seed"])
    slices = load_slices(folder, tables)
    if not slices["train"].masks.any():
        raise UserError(f"{folder}: all masks of the training patients are empty: nothing can be learned from them.")
    given = sys.argv[1:] if argv is None else argv
    config = describe_run(args, settings, folder, slices, hardware, given, config)
    print_run(config, slices)
    train(args, run, config, slices, hardware, resumed)
    hw.leave_processes()


def make_tables(args: argparse.Namespace, folder: Path, resumed: RunFolder | None) -> dict[str, pd.DataFrame]:
    """Find the slices and split them by patient; a resumed run keeps its split.

    Raises: UserError if options ask a resumed run for other patients.
    """
    from dataset.folder import find_slices
    from dataset.split import (
        SPLITS,
        assign_fold,
        assign_patients,
        describe_persons,
        read_assignment,
        read_patient_list,
        split_tables,
    )
    from training.hardware import say

    if resumed:
        recorded = {split: resumed.read_split_table(split) for split in SPLITS}
        if not (args.split or args.fold or args.patients):
            return recorded
    table = find_slices(folder, read_patient_list(args.patients) if args.patients else None)
    if args.fold:
        assignment = assign_fold(table["patient"], *args.fold)
    elif args.split:
        assignment, missing = read_assignment(args.split, table["patient"], folder)
        if missing:
            say(
                f"warning: {args.split} names {len(missing)} patient(s) without a folder in {folder}, and goes on "
                f"without them: {', '.join(missing)}"
            )
    else:
        assignment = assign_patients(table["patient"])
    if not args.split and (several := describe_persons(table["patient"])):
        say(f"{several}: all of a person are in one split")
    tables = split_tables(table, assignment)
    if resumed:
        other = [split for split in SPLITS if set(tables[split]["patient"]) != set(recorded[split]["patient"])]
        if other:
            raise UserError(f"{resumed}: holds a run with other {' and '.join(other)} patients. Name another --run.")
        return recorded
    return tables


def make_settings(args: argparse.Namespace, recorded: dict[str, Any] | None, run: RunFolder) -> dict[str, Any]:
    """Return recipe, seed, mode and precision: those of the options, or of the run that goes on.

    Raises: UserError if an option asks a resumed run for other settings; more epochs are allowed without a schedule.
    """
    if recorded is None:
        return asdict(parse_recipe(args)) | {name: getattr(args, name) for name in COMPUTING}
    defaults = make_parser().parse_args([])
    asked = chosen_values(args)
    asked |= {n: getattr(args, n) for n in COMPUTING if getattr(args, n) != getattr(defaults, n)}
    if not Recipe.of(recorded).has_schedule:
        recorded = recorded | {"epochs": asked.pop("epochs", recorded["epochs"])}
    different = [f"{name} {recorded[name]}, not {value}" for name, value in asked.items() if recorded[name] != value]
    if different:
        raise UserError(f"{run}: holds a run with {'; '.join(different)}. Leave that out, or name another --run.")
    return dict(recorded)


def describe_run(
    args: argparse.Namespace, settings: dict, folder: Path, slices: dict[str, Slices], hardware: Hardware,
    given: list[str], before: dict,
) -> dict[str, Any]:  # fmt: skip
    """Return the content of config.json, which each checkpoint holds too; before: that of a resumed run, or {}."""
    from dataset.published import is_published
    from dataset.synthetic import any_synthetic
    from storage.run_folder import commit
    from training.hardware import versions

    commits = [*before.get("commit", "").split(", "), commit()]
    return {
        "settings": settings,
        "options": {name: getattr(args, name) for name in ("device", "compile", "keep")},
        "data": str(folder.resolve()),
        "recipe": str(Recipe.of(settings)),
        "command": before.get("command", shlex.join(["python", "train_model.py", *map(str, given)])),
        "commit": ", ".join(filter(None, dict.fromkeys(commits))),
        "synthetic": any(any_synthetic(subset.table) for subset in slices.values()),
        "published": all(is_published(subset.table) for subset in slices.values()),
        "patients": {split: subset.table["patient"].nunique() for split, subset in slices.items()},
        "slices": {split: len(subset) for split, subset in slices.items()},
        "hardware": str(hardware),
        "versions": versions(),
    }


def train(
    args: argparse.Namespace, run: RunFolder, config: dict, slices: dict[str, Slices], hardware: Hardware, resumed: bool
) -> None:
    """Train, validate and save, epoch by epoch."""
    import functools
    import math
    from dataclasses import replace

    import torch

    from dataset.preprocess import Preprocessing, preprocess
    from dataset.slices import CHECKSUM, checksums
    from evaluation.selection import best_epochs
    from storage import checkpoints
    from training.engine import TrainingTransform, epoch_order, evaluate, resolution_of_epoch, train_one_epoch
    from training.hardware import distribute, peak_memory, rank, say
    from training.losses import make_loss
    from training.optimisation import Optimisation
    from unet import UNet

    settings, recipe = config["settings"], Recipe.of(config["settings"])
    order = functools.partial(
        epoch_order, settings["seed"], slices=slices["train"],
        negative_fraction=recipe.negative_fraction, patient_balanced=recipe.patient_balanced,
    )  # fmt: skip
    network = UNet(**checkpoints.describe_network(settings)).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = Optimisation(network, recipe, recipe.epochs * math.ceil(len(order(1)) / recipe.batch_size))
    choose_kept = functools.partial(best_epochs, count=args.keep) if args.keep else None
    writer = checkpoints.Writer(run, optimiser.result, optimiser, config, choose_kept)
    finished = checkpoints.restore(run, optimiser.result, optimiser) if resumed else 0
    writer.resume_after(finished)
    if finished >= recipe.epochs:
        say(f"nothing is left to do: all {finished} epochs are done")
        return
    if rank() == 0:
        if resumed:
            run.write_config(config)
        else:
            tables = {split: subset.table.assign(**{CHECKSUM: checksums(subset)}) for split, subset in slices.items()}
            run.begin(config, tables)
        say_costs(args.keep, recipe, len(order(1)), network, run, hardware)
        if finished:
            say(f"resumed after epoch {finished}")

    preprocessing = Preprocessing.of(settings)
    training, validation = (
        preprocess(slices[split], preprocessing).to(hardware.device) for split in ("train", "validation")
    )
    model = distribute(network, hardware.device)
    model = torch.compile(model, dynamic=False) if args.compile else model
    loss = make_loss(recipe.loss, recipe.false_negative_weight)
    notice = constants.SYNTHETIC_NOTICE if config["synthetic"] else ""
    best, drawn = -1.0, time.monotonic()
    if finished:
        best = writer.epochs["validation_iou"].max()
    print_header()
    try:
        for epoch in range(finished + 1, recipe.epochs + 1):
            started, title = time.monotonic(), f"epoch {epoch}/{recipe.epochs}"
            resolution = resolution_of_epoch(epoch, recipe.epochs) if recipe.progressive_resolution else 1.0
            transform = TrainingTransform(recipe.crop, recipe.augment, resolution, settings["seed"], epoch)
            learned = train_one_epoch(
                model, training, order(epoch), optimiser, recipe.batch_size, loss, hardware, title, transform
            )
            validated, _ = evaluate(
                model if optimiser.result is network else optimiser.result,
                replace(validation, preprocessing=preprocessing._replace(resolution=resolution)),
                recipe.batch_size, loss, hardware, title, recipe.tta_flip,
            )  # fmt: skip
            refuse_not_finite(validated["loss"], epoch)
            record = {
                "epoch": epoch,
                **{f"training_{name}": value for name, value in learned.items()},
                **{f"validation_{name}": value for name, value in validated.items()},
                "seconds": time.monotonic() - started,
                "peak_memory_gib": peak_memory(hardware.device) / 2**30,
                "resolution": resolution,
            }
            if rank() == 0:
                writer.save_epoch(record)
                if args.tensorboard:
                    log_to_board(run, record)
                if time.monotonic() - drawn > REDRAW:
                    draw_curves(run, writer.epochs, notice)
                    drawn = time.monotonic()
            print_epoch(record, recipe.epochs, best)
            best = max(best, record["validation_iou"])
    except KeyboardInterrupt:
        again = shlex.join(["python", "train_model.py", "--run", str(run), "--resume"])
        raise KeyboardInterrupt(f"Finished epochs are saved. Go on with: {again}") from None
    finally:
        writer.finish()
        if rank() == 0 and len(writer.epochs):
            draw_curves(run, writer.epochs, notice)
    say(f"checkpoints: {run.models}. Next: {shlex.join(['python', 'process_models.py', '--run', str(run)])}")


# --- Curves ----------------------------------------------------------------------------------------------------


def draw_curves(run: RunFolder, epochs: pd.DataFrame, notice: str) -> None:
    """Draw plots/loss and plots/iou anew."""
    from evaluation.selection import best_epoch
    from reporting.plots import training_plots, write_plots

    write_plots(run, training_plots(epochs, best_epoch(epochs)), notice)


def log_to_board(run: RunFolder, record: dict[str, float]) -> None:
    """Log an epoch to DIR/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run.path / "tensorboard") as board:
        for name, value in record.items():
            board.add_scalar(name.replace("_", "/", 1), value, record["epoch"])


# --- Print -----------------------------------------------------------------------------------------------------


def print_run(config: dict, slices: dict[str, Slices]) -> None:
    from dataset.slices import describe_changes
    from evaluation.selection import NO_TUMOUR
    from training.hardware import say

    if config["synthetic"]:
        say(constants.SYNTHETIC_NOTICE)
    say(f"data        {config['data']}")
    for split, subset in slices.items():
        say(f"{split:<11} {subset.describe()}")
        if changes := describe_changes(subset):
            say(changes)
    for name in ("settings", "versions"):
        say(f"{name:<11} " + ", ".join(f"{key} {value}" for key, value in config[name].items()))
    say(f"hardware    {config['hardware']}")
    if not slices["validation"].masks.any():
        say(NO_TUMOUR)


def say_costs(
    keep: int, recipe: Recipe, slices: int, network: torch.nn.Module, run: RunFolder, hardware: Hardware
) -> None:
    """Print the size of all checkpoints and, on a CPU, roughly the hours of training, before they are spent."""
    import os
    import shutil

    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    checkpoints = min(recipe.epochs, 1 + keep * len(constants.CRITERIA)) if keep else recipe.epochs
    needed = size * (checkpoints + 4)  # resume.pt holds the optimiser and the average too
    print(f"disk        up to {needed / 1e9:.1f} GB in {run.models}: {checkpoints} epochs of {size / 1e6:.0f} MB each")
    free = shutil.disk_usage(run.path).free
    if free < needed:
        print(f"warning: {free / 1e9:.1f} GB are free there. Free some, or keep the best epochs only with --keep 3")
    if hardware.device.type == "cpu":
        gflop = (240 if recipe.bilinear else 289) * (recipe.width / 64 / recipe.pixel_unshuffle) ** 2  # of a slice
        hours = recipe.epochs * slices * gflop / ((os.cpu_count() or 1) * CPU_GFLOPS[hardware.bf16]) / 3600
        if hours > 1:
            print(f"time        roughly {hours:.0f} hours; --width 16 takes a sixteenth, --recipe tuned minutes")


def refuse_not_finite(loss: float, epoch: int) -> None:
    """Raise UserError if the validation loss is not finite: the last step of the epoch has broken the weights."""
    if loss - loss != 0:
        raise UserError(
            f"the validation loss is not finite after epoch {epoch}, which is not saved. The epochs before it are "
            "saved. Try a smaller --lr or --precision fp32."
        )


def print_header() -> None:
    from training.hardware import say

    say("\nIoU: mean over slices, empty against empty is 1; (empty): of an empty prediction;")
    say("tumour: mean IoU over tumour slices alone; Dice: volumetric, mean over patients;")
    say("*: the highest validation IoU so far; left: at the pace of this epoch.\n")
    say(f"{'':9} {'training':^13} | {'validation':^34} |")
    validation = f"{'loss':>7} {'IoU':>5} (empty) {'tumour':>6} {'Dice':>5}"
    say(f"{'epoch':>9} {'loss':>7} {'Dice':>5} | {validation} |  seconds    left")


def print_epoch(record: dict[str, float], epochs: int, best: float) -> None:
    """Print one plain line of at most 80 columns; best: the highest validation IoU of the epochs before."""
    from training.hardware import say

    mark = "*" if record["validation_iou"] > best else " "
    iou, empty, tumour, dice = (
        show_number(record[f"validation_{name}"]) for name in ("iou", "empty_prediction", "tumour_iou", "patient_dice")
    )
    left = show_duration(record["seconds"] * (epochs - record["epoch"]))
    say(
        f"{mark}{record['epoch']:3d}/{epochs:<4d} {record['training_loss']:7.4f} "
        f"{show_number(record['training_patient_dice']):>5} | {record['validation_loss']:7.4f} {iou:>5} ({empty:>5}) "
        f"{tumour:>6} {dice:>5} | {record['seconds']:8.1f} {left:>7}"
    )


def show_duration(seconds: float) -> str:
    """Return a duration as text: 40 s, 12 min, 3 h 05."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d}"


if __name__ == "__main__":
    run_script(main)
