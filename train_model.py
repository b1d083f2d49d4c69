"""Train the U-Net: split by patient, train, validate, save a checkpoint each epoch.

python train_model.py --data lgg-mri-segmentation/kaggle_3m --run runs/first
python train_model.py --width 16 --epochs 20          # without any data: on synthetic patients
"""

import argparse

from training.options import OPTIONS, SETTINGS, fill_in, make_parser
from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    args = parser.parse_args(argv)
    if args.split and args.fold:
        parser.error("--split and --fold exclude each other")
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    return fill_in(args)


if __name__ == "__main__":
    parse_first(parse_arguments)


import contextlib
import functools
import math
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

import constants
from dataset.folder import find_folder, find_slices
from dataset.preprocess import Preparation, prepare
from dataset.published import is_published
from dataset.slices import Slices, load_slices
from dataset.split import SPLITS, assign_fold, assign_patients, read_assignment, read_patient_list, split_tables
from dataset.synthetic import any_synthetic
from evaluation.selection import NO_TUMOUR, best_epochs
from reporting.curves import Curves, need_tensorboard
from storage import checkpoints
from storage.origin import describe_origin
from storage.run_folder import RunFolder
from training import distributed
from training.distributed import say
from training.engine import Interrupted, Views, epoch_order, evaluate, growth, train_one_epoch
from training.hardware import (
    Hardware,
    choose_hardware,
    keep_freed_memory,
    peak_memory,
    repeat_exactly,
    set_seeds,
    versions,
)
from training.losses import LOSSES
from training.optimisation import Optimisation
from training.recipes import RECIPES, REFERENCE, is_planned, name_recipe
from unet import UNet
from utils import SIGNALLED, StopRequest, UserError, run_script, show_number


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    run = RunFolder(args.run)
    if args.resume:
        args = parse_again(argv, run)
    if args.tensorboard:
        need_tensorboard()
    args.run, args.given = run, sys.argv[1:] if argv is None else argv
    hardware = choose_hardware(distributed.local_device(args.device), args.precision)
    args.precision = "bf16" if hardware.bf16 else "fp32"
    distributed.start(hardware.device)
    keep_freed_memory()
    repeat_exactly(args.mode == "exact", args.crop)
    set_seeds(args.seed)
    if not args.resume:
        args.run.refuse_used(args.overwrite)

    folder = find_folder(args.data)
    tables = {split: args.run.read_split_table(split) for split in SPLITS} if args.resume else make_tables(args, folder)
    slices = load_slices(folder, tables)
    if not slices["train"].masks.any():
        raise UserError(f"{folder}: all masks of the training patients are empty: nothing can be learned from them.")
    config = describe_run(args, folder, slices, hardware)
    print_run(config, slices)

    with args.run.locked() if distributed.rank() == 0 else contextlib.nullcontext(), StopRequest() as stop:
        if not args.resume:
            args.run.refuse_used(args.overwrite)  # another process may have been quicker
        distributed.wait()
        train(args, slices, config, hardware, stop)
    distributed.stop()
    if stop():
        sys.exit(SIGNALLED + stop.signal)


def parse_again(argv: list[str] | None, run: RunFolder) -> argparse.Namespace:
    """Parse the options of --resume: those that the run was started with become the defaults."""
    parser = make_parser(__doc__)
    config = run.read_config()
    recorded = REFERENCE | config["settings"]  # of an earlier version, which had fewer
    parser.set_defaults(**recorded, **config["options"], data=config["data"])
    parser.set_defaults(**RECIPES.get(parser.parse_args(argv).recipe, {}))  # named again: that of the run is asked for
    args = parser.parse_args(argv)
    args.precision = recorded["precision"] if args.precision == "auto" else args.precision
    longer = () if is_planned(recorded) else ("epochs",)
    different = [
        f"--{name.replace('_', '-')} {getattr(args, name)} (the run has {recorded[name]})"
        for name in SETTINGS
        if name not in longer and getattr(args, name) != recorded[name]
    ]
    different += [
        f"--{name} (the split is the one it began with)"
        for name in ("split", "fold", "patients")
        if getattr(args, name)
    ]
    if different:
        raise UserError(f"{run}: cannot be resumed with {', '.join(different)}. Leave that out, or start another run.")
    return args


def make_tables(args: argparse.Namespace, folder: Path) -> dict[str, pd.DataFrame]:
    """Find the slices and split them by patient."""
    only = read_patient_list(args.patients) if args.patients else None
    table = find_slices(folder, only)
    if args.fold:
        return split_tables(table, assign_fold(table["patient"], *args.fold))
    if not args.split:
        return split_tables(table, assign_patients(table["patient"]))
    assignment, missing = read_assignment(args.split, table["patient"], folder)
    if missing:
        say(
            f"warning: {args.split} names {len(missing)} patient(s) who are not in {folder}, and goes on without them; "
            f"name another --data if they should be there: {', '.join(missing)}"
        )
    return split_tables(table, assignment)


def describe_run(args: argparse.Namespace, folder: Path, slices: dict[str, Slices], hardware: Hardware) -> dict:
    """Return the content of config.json, which each checkpoint holds too."""
    return {
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "options": {name: getattr(args, name) for name in OPTIONS},
        "data": str(folder.resolve()),
        "recipe": name_recipe(vars(args)),
        **describe_origin(args.run, args.given, args.resume),
        "synthetic": any(any_synthetic(part.table) for part in slices.values()),
        "published": all(is_published(part.table) for part in slices.values()),
        "patients": {split: part.table["patient"].nunique() for split, part in slices.items()},
        "slices": {split: len(part) for split, part in slices.items()},
        "hardware": str(hardware),
        "versions": versions(),
    }


def train(
    args: argparse.Namespace, slices: dict[str, Slices], config: dict, hardware: Hardware, stop: StopRequest
) -> None:
    """Train, validate and save, epoch by epoch, in a folder that belongs to this process alone."""
    network = UNet(**checkpoints.describe_network(vars(args)))
    if args.prior:
        expect(network, slices["train"])
    network = network.to(hardware.device, memory_format=hardware.memory_format)

    def order(epoch: int) -> torch.Tensor:
        return epoch_order(args.seed, epoch, slices["train"], args.empty_share, args.by_patient)

    steps = args.epochs * math.ceil(len(order(1)) / args.batch_size)
    optimiser = Optimisation(network, vars(args), steps)
    run = distributed.first_only(args.run)
    kept = functools.partial(best_epochs, count=args.keep) if args.keep else None
    writer = distributed.first_only(checkpoints.Writer(args.run, optimiser.result, optimiser, config, kept))
    finished = checkpoints.restore(args.run, optimiser.result, optimiser) if args.resume else 0
    if args.resume:
        writer.resume_after(finished)
    if finished >= args.epochs:
        fewer = f", --epochs asks for {args.epochs}" if finished > args.epochs else ""
        say(f"nothing was left to do: all {finished} epochs are done{fewer}")
        return
    say_disk(args, network)
    if args.resume:
        say(f"resumed after epoch {finished}")
        run.write_config(config)
    else:
        run.begin(config, {split: part.table for split, part in slices.items()})

    how = Preparation.of(vars(args))
    training, validation = (prepare(slices[split], how).to(hardware.device) for split in ("train", "validation"))
    model = distributed.wrap(network, hardware.device)
    model = torch.compile(model, dynamic=False) if args.compile else model
    loss_function = LOSSES[args.loss]
    done = checkpoints.read_epochs(args.run) if finished else pd.DataFrame()
    note = constants.SYNTHETIC_NOTICE if config["synthetic"] else ""
    curves = distributed.first_only(Curves(args.run, done, note, args.tensorboard and distributed.rank() == 0))
    best = done["validation_iou"].max() if finished else -1.0
    print_header()
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(writer.finish)  # after an error too: an epoch may still be on its way to the disk
        for epoch in range(finished + 1, args.epochs + 1):
            started = time.monotonic()
            title = f"epoch {epoch}/{args.epochs}"
            resolution = growth(epoch, args.epochs) if args.growing else 1.0
            views = Views(args.crop, args.augment, resolution, args.seed, epoch)
            alike = args.batch_size, loss_function, hardware, title  # in training and validation
            try:
                learned = train_one_epoch(model, training, order(epoch), optimiser, *alike, stop, views)
            except Interrupted:
                writer.finish()
                again = shlex.join(["python", "train_model.py", "--run", str(args.run), "--resume"])
                resume = again if epoch > 1 else "the same command"
                say(f"stopped within epoch {epoch}; {epoch - 1} epoch(s) are saved. Go on with: {resume}")
                return
            scored_model = model if optimiser.result is network else optimiser.result
            seen = replace(validation, how=how._replace(resolution=resolution))
            scored, _ = evaluate(scored_model, seen, *alike)
            refuse_not_finite(scored["loss"], epoch)
            record = {
                "epoch": epoch,
                **{f"training_{name}": value for name, value in learned.items()},
                **{f"validation_{name}": value for name, value in scored.items()},
                "seconds": time.monotonic() - started,
                "peak_memory_gib": peak_memory(hardware.device) / 2**30,
                "resolution": resolution,
            }
            writer.save_epoch(record)
            curves.add(record)
            print_epoch(record, args.epochs, best)
            best = max(best, record["validation_iou"])
    curves.finish()
    say(f"checkpoints: {args.run.models}. Next: {shlex.join(['python', 'process_models.py', '--run', str(args.run)])}")


@torch.no_grad()
def expect(network: UNet, slices: Slices) -> None:
    """Let an untrained network begin with the share of tumour pixels of these slices as probability, on average."""
    share = (slices.masks > 0).double().mean().clamp(1e-4, 0.5)
    network.head.bias.fill_(share.logit())


def say_disk(args: argparse.Namespace, network: UNet) -> None:
    """Print how much the checkpoints will take, and warn if there is less."""
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    kept = min(args.epochs, 1 + args.keep * len(constants.CRITERIA)) if args.keep else args.epochs
    needed = size * (kept + 4)  # resume.pt holds the optimiser and the average too
    say(f"disk        up to {needed / 1e9:.1f} GB in {args.run.models}: {kept} epochs of {size / 1e6:.0f} MB each")
    free = shutil.disk_usage(args.run.path).free
    if free < needed:
        say(f"warning: {free / 1e9:.1f} GB are free there. Free some, or keep the best epochs only with --keep 3")


def refuse_not_finite(loss: float, epoch: int) -> None:
    """Raise UserError if the validation loss is not finite: the last step of the epoch has broken the weights."""
    if not math.isfinite(loss):
        raise UserError(
            f"the validation loss is not finite after epoch {epoch}, which is not saved. The epochs before it are "
            "kept. Try a smaller --lr or --precision fp32."
        )


# --- Print -----------------------------------------------------------------------------------------------------


def print_run(config: dict, slices: dict[str, Slices]) -> None:
    if config["synthetic"]:
        say(constants.SYNTHETIC_NOTICE)
    say(f"data        {config['data']}")
    for split, part in slices.items():
        say(f"{split:<11} {part.describe()}")
    for name in ("settings", "versions"):
        say(f"{name:<11} " + ", ".join(f"{key} {value}" for key, value in config[name].items()))
    say(f"hardware    {config['hardware']}")
    if not slices["validation"].masks.any():
        say(NO_TUMOUR)


def print_header() -> None:
    say("\nIoU: mean over slices, empty against empty is 1; (empty): that of an empty prediction;")
    say("tumour: mean IoU over tumour slices alone; Dice: volumetric, mean over patients;")
    say("*: the highest validation IoU so far; left: at the pace of this epoch.\n")
    say(f"{'':9} {'training':^13} | {'validation':^34} |")
    validation = f"{'loss':>7} {'IoU':>5} (empty) {'tumour':>6} {'Dice':>5}"
    say(f"{'epoch':>9} {'loss':>7} {'Dice':>5} | {validation} |  seconds    left")


def print_epoch(record: dict[str, float], epochs: int, best: float) -> None:
    """Print one plain line of at most 80 columns; best: the highest validation IoU of the epochs before."""
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
