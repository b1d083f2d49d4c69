"""Train the U-Net: split by patient, train, validate, save a checkpoint each epoch.

python train_model.py --data lgg-mri-segmentation/kaggle_3m --run runs/first
python train_model.py --width 16 --epochs 20          # without any data: on synthetic patients
python train_model.py --data my_patients --weights weights/lgg_unet.safetensors --run runs/own    # go on from weights
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from training.recipe import Recipe, chosen_settings, make_parser, make_settings
from utils import UserError, cores, counted, list_few, run_script, show_number

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from dataset.slices import Slices
    from storage.run_folder import RunFolder
    from training.hardware import Hardware

CPU_GFLOPS = {True: 160, False: 55}  # per second and core, in bf16 and in fp32
REDRAW = 60  # seconds, at least, between two drawings of the curves


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    args = parser.parse_args(argv)
    if args.split and args.fold:
        parser.error("--split and --fold exclude each other")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    from dataset.folder import find_folder
    from dataset.slices import load_slices
    from storage import origin
    from storage.run_folder import RunFolder
    from training import hardware as hw

    if args.tensorboard:
        import tensorboard  # noqa: F401, a missing package is said before training

    run = RunFolder(args.run)
    resumed = args.resume and run.exists()
    if not resumed:
        run.refuse_used(args.overwrite)
    before = run.read_config() if resumed else {}
    folder = find_folder(args.data, before.get("data"))
    needed = origin.needed_settings(args.weights)
    if resumed:
        tables, settings = resume(args, run, folder, needed)
    else:
        tables, settings = split_patients(args, folder), make_settings(args, needed)
    begin = origin.trained_weights(args.weights, settings) if args.weights and not resumed else None

    hardware = hw.choose_hardware(args.device, settings["precision"])
    settings["precision"] = "bf16" if hardware.bf16 else "fp32"
    hw.join_processes(hardware.device)
    hw.keep_freed_memory()
    hw.repeat_exactly(settings["mode"] == "exact", hardware.device, settings["crop"])
    hw.set_seeds(settings["seed"])
    slices = load_slices(folder, tables)
    if not slices["train"].masks.any():
        raise UserError(f"{folder}: all masks of the training patients are empty: nothing can be learned from them.")
    command = shlex.join(["python", "train_model.py", *map(str, sys.argv[1:] if argv is None else argv)])
    config = describe_run(settings, folder, slices, hardware, command, before)
    origins = before if resumed else origin.describe_origin(args.weights, slices)
    config |= {name: origins[name] for name in ("weights", "training_patients") if name in origins}
    print_run(config, slices)
    train(args, run, config, slices, hardware, resumed, begin)
    hw.leave_processes()


def split_patients(args: argparse.Namespace, folder: Path) -> dict[str, pd.DataFrame]:
    """Find the slices and split them by patient."""
    from dataset import split
    from dataset.folder import FEWEST_PATIENTS, find_slices
    from training.hardware import say

    listed = split.read_patient_list(args.patients) if args.patients else None
    table = find_slices(folder, listed, 1 if args.no_validation else FEWEST_PATIENTS)
    patients = table["patient"]
    if args.split:
        assignment, missing, unknown = split.read_assignment(args.split, patients, folder)
        if missing:
            say(f"warning: {args.split} names patients without a folder in {folder}, left out: {', '.join(missing)}")
        if unknown:
            say(
                f"warning: the ids of {list_few(unknown)} do not say that their scans are of one person. The split "
                "keeps them together; intervals and radiogenomics.py count each scan. Name folders PERSON_ses-1, ..."
            )
    else:
        if several := split.describe_persons(patients):
            say(f"{several}: all of a person are in one split")
        assignment = split.assign_fold(patients, *args.fold) if args.fold else split.assign_patients(patients)
    if args.no_validation:
        assignment = {name: "train" if of == "validation" else of for name, of in assignment.items()}
    for name in ("train",) if args.no_validation else ("train", "validation"):
        if name not in assignment.values():
            raise UserError(f"{args.split}: leaves no patient with a folder for {name}. Assign at least one.")
    return split.split_tables(table, assignment)


def resume(
    args: argparse.Namespace, run: RunFolder, folder: Path, needed: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Return the split tables and the settings of the run that goes on.

    Raises: UserError if an option asks for others; more epochs are allowed without a schedule.
    """
    from dataset.split import SPLITS
    from storage.origin import digest_of

    config = run.read_config()
    tables, settings = {split: run.read_split_table(split) for split in SPLITS}, config["settings"]
    asked = chosen_settings(args, needed)
    if not Recipe.of(settings).has_schedule:
        settings["epochs"] = asked.get("epochs", settings["epochs"])
    different = [f"{name} {settings[name]}, not {value}" for name, value in asked.items() if settings[name] != value]
    if args.split or args.fold or args.patients or args.no_validation:
        others = split_patients(args, folder)
        different += [f"other {s} patients" for s in SPLITS if set(others[s]["patient"]) != set(tables[s]["patient"])]
    if args.weights and digest_of(args.weights) != config.get("weights", {}).get("sha256"):
        different.append("other weights to begin with")
    if different:
        raise UserError(f"{run}: holds a run with {'; '.join(different)}. Leave that out, or name another --run.")
    return tables, settings


def describe_run(
    settings: dict, folder: Path, slices: dict[str, Slices], hardware: Hardware, command: str, before: dict
) -> dict[str, Any]:
    """Return the content of config.json, which each checkpoint holds too; before: that of a resumed run, or {}."""
    from dataset.published import is_published
    from dataset.synthetic import any_synthetic
    from storage.run_folder import commit
    from training.hardware import versions

    commits = [*before.get("commit", "").split(", "), commit()]
    return {
        "settings": settings,
        "data": str(folder.resolve()),
        "recipe": str(Recipe.of(settings)),
        "command": before.get("command", command),
        "commit": ", ".join(filter(None, dict.fromkeys(commits))),
        "synthetic": any(any_synthetic(subset.table) for subset in slices.values()),
        "published": all(is_published(subset.table) for subset in slices.values()),
        "patients": {split: subset.table["patient"].nunique() for split, subset in slices.items()},
        "slices": {split: len(subset) for split, subset in slices.items()},
        "hardware": str(hardware),
        "versions": versions(),
    }


def train(
    args: argparse.Namespace, run: RunFolder, config: dict, slices: dict[str, Slices], hardware: Hardware,
    resumed: bool, begin: dict[str, torch.Tensor] | None,
) -> None:  # fmt: skip
    """Train, validate and save, epoch by epoch; from weights to begin with, or from random ones."""
    import functools
    import math
    from dataclasses import replace

    import torch

    from dataset.preprocess import Preprocessing, preprocess
    from dataset.slices import CHECKSUM, checksums
    from evaluation.selection import best_epochs
    from storage import checkpoints
    from training.brain import brain_distances
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
    if begin:
        network.load_state_dict(begin)
    optimiser = Optimisation(network, recipe, recipe.epochs * math.ceil(len(order(1)) / recipe.batch_size))
    choose_kept = functools.partial(best_epochs, count=args.keep) if args.keep else None
    writer = checkpoints.Writer(run, optimiser.result, optimiser, config, choose_kept)
    finished = writer.resume() if resumed else 0
    if finished >= recipe.epochs:
        say(f"nothing is left to do: {counted(finished, 'epoch')} done")
        return
    if rank() == 0:
        if resumed:
            run.write("config.json", config)
        else:
            tables = {split: subset.table.assign(**{CHECKSUM: checksums(subset)}) for split, subset in slices.items()}
            run.begin(config, tables)
        print_costs(args.keep, recipe, len(order(1)), network, run, hardware)
        if finished:
            say(f"resumed after epoch {finished}")

    preprocessing = Preprocessing.of(settings)
    training, validation = (
        preprocess(slices[split], preprocessing).to(hardware.device) if len(slices[split]) else None
        for split in ("train", "validation")
    )
    brain = brain_distances(slices["train"]) if recipe.robust else None
    model = distribute(network, hardware.device)
    model = torch.compile(model, dynamic=False) if args.compile else model
    loss = make_loss(recipe.loss, recipe.false_negative_weight)
    notice = constants.SYNTHETIC_NOTICE if config["synthetic"] else ""
    best = writer.epochs["validation_iou"].max() if finished else -1.0
    drawn = time.monotonic()
    say(HEADER)
    try:
        for epoch in range(finished + 1, recipe.epochs + 1):
            started, title = time.monotonic(), f"epoch {epoch}/{recipe.epochs}"
            resolution = resolution_of_epoch(epoch, recipe.epochs) if recipe.progressive_resolution else 1.0
            transform = TrainingTransform(recipe.crop, recipe.augment, brain, resolution, settings["seed"], epoch)
            learned = train_one_epoch(
                model, training, order(epoch), optimiser, recipe.batch_size, loss, hardware, title, transform
            )
            validated = dict.fromkeys(learned, math.nan)
            if validation:
                validated, _ = evaluate(
                    model if optimiser.result is network else optimiser.result,
                    replace(validation, preprocessing=preprocessing._replace(resolution=resolution)),
                    recipe.batch_size, loss, hardware, title, recipe.tta_flip,
                )  # fmt: skip
            if validation and not math.isfinite(validated["loss"]):
                raise UserError(
                    f"the validation loss is not finite after epoch {epoch}, which is not saved. The epochs before it "
                    "are saved. Try a smaller --lr or --precision fp32."
                )
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
            say(describe_epoch(record, recipe.epochs, best))
            best = max(best, record["validation_iou"])
    except KeyboardInterrupt:
        again = shlex.join(["python", "train_model.py", "--run", str(run), "--resume"])
        raise KeyboardInterrupt(f"Finished epochs are saved. Go on with: {again}") from None
    finally:
        if rank() == 0 and len(writer.epochs):
            draw_curves(run, writer.epochs, notice)
    say(f"checkpoints: {run.models}. Next: {shlex.join(['python', 'process_models.py', '--run', str(run)])}")


def draw_curves(run: RunFolder, epochs: pd.DataFrame, notice: str) -> None:
    from evaluation.selection import best_epoch, usual_criterion
    from reporting.plots import training_plots, write_plots

    write_plots(run, training_plots(epochs, best_epoch(epochs), usual_criterion(epochs)), notice)


def log_to_board(run: RunFolder, record: dict[str, float]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run.path / "tensorboard") as board:
        for name, value in record.items():
            board.add_scalar(name.replace("_", "/", 1), value, record["epoch"])


# --- Print -----------------------------------------------------------------------------------------------------

HEADER = f"""
IoU: mean over slices, empty against empty is 1; (empty): of an empty prediction;
tumour: mean IoU over tumour slices alone; Dice: volumetric, mean over patients;
*: the highest validation IoU so far; left: hours at the pace of this epoch.

{"":9} {"training":^13} | {"validation":^34} |
{"epoch":>9} {"loss":>7} {"Dice":>5} | {"loss":>7} {"IoU":>5} (empty) {"tumour":>6} {"Dice":>5} |  seconds    left"""


def describe_epoch(record: dict[str, float], epochs: int, best: float) -> str:
    """Return one line of at most 80 columns; best: the highest validation IoU of the epochs before."""
    names = ("iou", "empty_prediction", "tumour_iou", "patient_dice")
    iou, empty, tumour, dice = (show_number(record[f"validation_{name}"]) for name in names)
    mark = "*" if record["validation_iou"] > best else " "
    minutes = round(record["seconds"] * (epochs - record["epoch"]) / 60)
    return (
        f"{mark}{record['epoch']:3d}/{epochs:<4d} {record['training_loss']:7.4f} "
        f"{show_number(record['training_patient_dice']):>5} | {record['validation_loss']:7.4f} {iou:>5} ({empty:>5}) "
        f"{tumour:>6} {dice:>5} | {record['seconds']:8.1f} {minutes // 60:4d}:{minutes % 60:02d}"
    )


def print_run(config: dict, slices: dict[str, Slices]) -> None:
    from dataset.slices import describe_changes
    from evaluation.selection import NO_TUMOUR
    from storage.origin import origin_warning
    from training.hardware import say

    lines = [constants.SYNTHETIC_NOTICE] if config["synthetic"] else []
    lines.append(f"data        {config['data']}")
    for split, subset in slices.items():
        lines += [f"{split:<11} {subset.describe()}", describe_changes(subset)]
    for name in ("settings", "versions"):
        lines.append(f"{name:<11} " + ", ".join(f"{key} {value}" for key, value in config[name].items()))
    if weights := config.get("weights"):
        lines.append(f"weights     {weights['file']}, SHA-256 {weights['sha256']}; licence: {weights['licence']}")
        found = filter(None, (origin_warning(config, split) for split in slices if split != "train"))
        lines += [f"warning: {warning}" for warning in found]
    lines += [
        f"hardware    {config['hardware']}",
        "" if slices["validation"].masks.any() or not len(slices["validation"]) else NO_TUMOUR,
    ]
    say("\n".join(filter(None, lines)))


def print_costs(
    keep: int, recipe: Recipe, slices: int, network: torch.nn.Module, run: RunFolder, hardware: Hardware
) -> None:
    """Print the size of all checkpoints and, on a CPU, roughly the hours of training, before they are spent."""
    import shutil

    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    checkpoints = min(recipe.epochs, 1 + keep * len(constants.CRITERIA)) if keep else recipe.epochs
    needed = size * (checkpoints + 4)  # resume.pt holds the optimiser and the average too
    each = f"{counted(checkpoints, 'epoch')} of {size / 1e6:.0f} MB"
    print(f"disk        up to {needed / 1e9:.1f} GB in {run.models}: {each}")
    free = shutil.disk_usage(run.path).free
    if free < needed:
        print(f"warning: {free / 1e9:.1f} GB are free there. Free some, or keep the best epochs only with --keep 3")
    if hardware.device.type == "cpu":
        gflop = (240 if recipe.bilinear else 289) * (recipe.width / 64 / recipe.pixel_unshuffle) ** 2  # of a slice
        hours = recipe.epochs * slices * gflop / (cores() * CPU_GFLOPS[hardware.bf16]) / 3600
        if hours > 1:
            less = "--width 16 takes a sixteenth, " if recipe.width == Recipe.width else ""
            print(f"time        roughly {hours:.0f} hours; {less}--recipe tuned minutes")


if __name__ == "__main__":
    run_script(main)
