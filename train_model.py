"""Train the U-Net: split by patient, train, validate, save a checkpoint each epoch.

python train_model.py --data lgg-mri-segmentation/kaggle_3m --run runs/first
python train_model.py --width 16 --epochs 20          # without any data: on synthetic patients
"""

import argparse
import contextlib
import re
import sys
import time
from pathlib import Path

import torch

import checkpoints
import constants
import data
import distributed
import lean
import runs
from engine import Interrupted, epoch_order, evaluate, train_one_epoch
from losses import LOSSES
from unet import UNet
from utils import (
    SIGNALLED,
    Hardware,
    StopRequest,
    UserError,
    choose_hardware,
    keep_freed_memory,
    peak_memory,
    positive,
    repeat_exactly,
    run_script,
    set_seeds,
    start_anew_to_save_memory,
    versions,
)

# What decides the result of a run. A resumed run must have the same.
SETTINGS = ("epochs", "batch_size", "lr", "width", "bilinear", "loss", "seed", "mode", "precision")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help=f"folder kaggle_3m or its parent ({constants.DATA_DIR}, else synthetic patients)")
    add("--run", type=Path, metavar="DIR", help=f"where models/, CSV files and plots/ go ({constants.RUN_DIR})")
    add("--epochs", type=positive(int), help=f"({constants.EPOCHS})")
    add("--batch-size", type=positive(int), help=f"slices a step ({constants.BATCH_SIZE})")
    add("--lr", type=positive(float), help=f"learning rate of Adam ({constants.LEARNING_RATE})")
    add("--width", type=positive(int), help=f"channels of the first level ({constants.WIDTH})")
    add("--bilinear", action="store_true", help="interpolate on the way up, 17.26 M instead of 31.04 M parameters")
    add("--loss", choices=sorted(LOSSES), help=f"({constants.LOSS})")
    add("--seed", type=int, help=f"of weights and order; the split is the same for all ({constants.RANDOM_STATE})")
    add("--device", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--precision", choices=("auto", "fp32", "bf16"), help="(auto: bf16 where the hardware computes in it)")
    add("--mode", choices=("exact", "fast"), help="exact repeats bit for bit on the same machine; fast may not (exact)")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    add("--fold", type=fold, metavar="K/N", help="test on the K-th of N folds of the patients; cross_validate.py")
    add("--patients", type=Path, metavar="FILE", help="use only the patients listed, one a line")
    add("--compile", action="store_true", help="let torch.compile build the network: slow to start, needs a compiler")
    add("--keep", type=positive(int), metavar="K", help="weights of the K best epochs and the newest only (all)")
    add("--resume", action="store_true", help="go on after the last finished epoch of --run, with its options")
    add("--overwrite", action="store_true", help="remove the run that is in --run first")
    return parser


def fold(text: str) -> tuple[int, int]:
    """An argparse type: the text "2/5", the second of five folds, as numbers."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or not int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not K/N with 1 <= K <= N and N >= 2, such as 2/5")
    return int(match[1]), int(match[2])


def parse_arguments() -> argparse.Namespace:
    """The options given, over the defaults or, with --resume, over those that the run was started with."""
    parser = make_parser()
    given = vars(parser.parse_args())
    defaults = {
        "data": None,
        "run": Path(constants.RUN_DIR),
        "epochs": constants.EPOCHS,
        "batch_size": constants.BATCH_SIZE,
        "lr": constants.LEARNING_RATE,
        "width": constants.WIDTH,
        "bilinear": False,
        "loss": constants.LOSS,
        "seed": constants.RANDOM_STATE,
        "device": "auto",
        "precision": "auto",
        "mode": "exact",
        "split": None,
        "fold": None,
        "patients": None,
        "compile": False,
        "keep": 0,
        "resume": False,
        "overwrite": False,
    }
    if "split" in given and "fold" in given:
        parser.error("--split and --fold exclude each other")
    if given.get("resume"):
        if given.get("overwrite"):
            parser.error("--resume and --overwrite exclude each other")
        defaults |= resumed_options(given, given.get("run", defaults["run"]))
    return argparse.Namespace(**defaults | given)


def resumed_options(given: dict, run: Path) -> dict:
    """What the run to be resumed was started with. Raises: UserError if an option on the command line differs."""
    config = runs.read_config(run)
    recorded = config["settings"]
    different = [
        f"--{name.replace('_', '-')} {given[name]} (the run has {recorded[name]})"
        for name in SETTINGS
        if name in given and name != "epochs" and given[name] != recorded[name]
    ]
    different += [
        f"--{name} (the split is the one it began with)" for name in ("split", "fold", "patients") if name in given
    ]
    if different:
        raise UserError(f"{run}: cannot be resumed with {', '.join(different)}. Leave that out, or start another run.")
    return recorded | {"data": config["data"]}


def main() -> None:
    args = parse_arguments()
    hardware = choose_hardware(args.device, args.precision)
    if hardware.device.type == "cpu" and args.width >= lean.FROM_WIDTH:
        start_anew_to_save_memory()
    stop = StopRequest()
    keep_freed_memory()
    repeat_exactly(args.mode == "exact")
    set_seeds(args.seed)
    refuse_used(args)

    folder = data.find_folder(args.data)
    tables = read_tables(args) if args.resume else make_tables(args, folder)
    slices = data.load(folder, tables)
    config = configuration(args, folder, slices, hardware)
    print_configuration(config, slices)

    distributed.start("nccl" if hardware.device.type == "cuda" else "gloo")
    with runs.locked(args.run) if distributed.rank() == 0 else contextlib.nullcontext():
        refuse_used(args)  # another process may have been quicker
        distributed.wait()
        train(args, slices, config, hardware, stop)
    distributed.stop()
    if stop():
        sys.exit(SIGNALLED + stop.signal)


def refuse_used(args: argparse.Namespace) -> None:
    if not (args.resume or args.overwrite):
        runs.refuse_used(args.run)


def train(args: argparse.Namespace, slices: dict, config: dict, hardware: Hardware, stop: StopRequest) -> None:
    """The run itself, in a folder that is this process's alone."""
    network = UNet(width=args.width, bilinear=args.bilinear).to(hardware.device, memory_format=hardware.memory_format)
    optimiser = torch.optim.Adam(network.parameters(), lr=args.lr, fused=hardware.device.type != "mps")
    writer = checkpoints.Writer(runs.models_folder(args.run), network, optimiser, config, args.keep)
    finished, tally = 0, None
    if args.resume:
        finished, tally = checkpoints.restore(runs.models_folder(args.run), network, optimiser)
        if finished >= args.epochs:
            fewer = f", --epochs asks for {args.epochs}" if finished > args.epochs else ""
            say(f"nothing was left to do: all {finished} epochs are done{fewer}")
            return
        say(f"resumed {f'within epoch {finished + 1}' if tally else f'after epoch {finished}'}")
    elif distributed.rank() == 0:
        runs.clear(args.run)
        data.write_tables(args.run, {split: part.table for split, part in slices.items()})
    if distributed.rank() == 0:
        runs.write_config(args.run, config)

    train, validation = (slices[split].to(hardware.device) for split in ("train", "validation"))
    model = distributed.spread(network, hardware.device) if distributed.world() > 1 else network
    model = torch.compile(model, dynamic=False) if args.compile else model
    how = {"batch_size": args.batch_size, "loss_function": LOSSES[args.loss], "hardware": hardware}
    print_header()
    for epoch in range(finished + 1, args.epochs + 1):
        started = time.monotonic()
        order = epoch_order(args.seed, epoch, len(train))
        how["title"] = f"epoch {epoch}/{args.epochs}"
        try:
            learned = train_one_epoch(model, train, order, optimiser, **how, tally=tally, stop=stop)
        except Interrupted as interruption:
            if distributed.rank() == 0:
                writer.save_unfinished(epoch - 1, interruption.tally)
            say(f"stopped within epoch {epoch}; go on with: python train_model.py --run {args.run} --resume")
            return
        tally = None
        scored, _ = evaluate(model, validation, **how)
        figures = {f"training_{k}": v for k, v in learned.items()} | {f"validation_{k}": v for k, v in scored.items()}
        figures["seconds"] = time.monotonic() - started
        figures["peak_memory_gib"] = peak_memory(hardware.device) / 2**30
        if distributed.rank() == 0:
            writer.save_epoch(epoch, figures)
        print_epoch(epoch, args.epochs, figures)
    writer.finish()
    say(f"checkpoints: {runs.models_folder(args.run)}. Next: python process_models.py --run {args.run}")


def make_tables(args: argparse.Namespace, folder: Path) -> dict:
    """Find the slices and split them by patient."""
    only = data.read_patient_list(args.patients) if args.patients else None
    table = data.find_slices(folder, only)
    if args.fold:
        return data.split_tables(table, data.assign_fold(table["patient"], *args.fold))
    if not args.split:
        return data.split_tables(table, data.assign_patients(table["patient"]))
    assignment, missing = data.read_assignment(args.split, table["patient"], folder)
    if missing:
        say(f"warning: {args.split} names {len(missing)} patient(s) that are not used here: {', '.join(missing)}")
    return data.split_tables(table, assignment)


def read_tables(args: argparse.Namespace) -> dict:
    """The split that a run was begun with."""
    return {split: data.read_table(args.run, split) for split in data.SPLITS}


def configuration(args: argparse.Namespace, folder: Path, slices: dict, hardware: Hardware) -> dict:
    """What config.json records, and each checkpoint with it."""
    return {
        "settings": {name: getattr(args, name) for name in SETTINGS},
        "data": str(folder.resolve()),
        "synthetic": any(data.is_synthetic(part.table) for part in slices.values()),
        "published": all(data.is_published(part.table) for part in slices.values()),
        "patients": {split: part.table["patient"].nunique() for split, part in slices.items()},
        "slices": {split: len(part) for split, part in slices.items()},
        "hardware": str(hardware),
        "versions": versions(),
    }


def say(text: str) -> None:
    """Print at once, so that a log can be followed; several processes speak with one voice."""
    if distributed.rank() == 0:
        print(text, flush=True)


def print_configuration(config: dict, slices: dict) -> None:
    if config["synthetic"]:
        say(runs.SYNTHETIC_NOTICE)
    say(f"data        {config['data']}")
    for split, part in slices.items():
        say(f"{split:<11} {part.describe()}")
    for name in ("settings", "versions"):
        say(f"{name:<11} " + ", ".join(f"{key} {value}" for key, value in config[name].items()))
    say(f"hardware    {config['hardware']}")


def print_header() -> None:
    say("\nIoU is the mean over slices, empty against empty is 1; (all-empty) is what predicting nothing scores.")
    say("Tumour IoU is the mean over tumour slices only; Dice is volumetric, the mean over patients.")
    columns = "   loss    IoU (all-empty)  tumour IoU   Dice"
    say(f"{'':9}  {'training':^{len(columns)}}  |  {'validation':^{len(columns)}}")
    say(f"{'epoch':>9}  {columns}  |  {columns}  |  seconds")


def print_epoch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
    """One plain line an epoch."""
    columns = []
    for split in ("training", "validation"):
        loss, iou, all_empty, tumour_iou, patient_dice = (
            figures[f"{split}_{name}"] for name in ("loss", "iou", "all_empty", "tumour_iou", "patient_dice")
        )
        columns.append(f"{loss:7.4f}  {iou:5.3f}     ({all_empty:5.3f})       {tumour_iou:5.3f}  {patient_dice:5.3f}")
    say(f"{epoch:4d}/{epochs:<4d}  {columns[0]}  |  {columns[1]}  |  {figures['seconds']:7.1f}")


if __name__ == "__main__":
    run_script(main)
