"""A training run: its patients, its description, its epochs, and what it prints."""

import argparse
import functools
import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from constants import CRITERIA, SYNTHETIC_NOTICE
from dataset.folder import find_slices
from dataset.preprocess import Preprocessing, preprocess
from dataset.published import is_published
from dataset.slices import CHECKSUM, Slices, checksums, describe_changes
from dataset.split import (
    SPLITS,
    assign_fold,
    assign_patients,
    describe_persons,
    read_assignment,
    read_patient_list,
    split_tables,
)  # fmt: skip
from dataset.synthetic import any_synthetic
from evaluation.selection import NO_TUMOUR, best_epochs
from storage.checkpoints import Writer, describe_network
from storage.origin import StartingWeights, describe_origin, origin_warning
from storage.run_folder import RunFolder, commit
from training.brain import brain_distances
from training.engine import TrainingTransform, epoch_order, evaluate, resolution_of_epoch, train_one_epoch
from training.hardware import Hardware, distribute, peak_memory, rank, say, versions
from training.losses import make_loss
from training.optimisation import Optimisation
from training.recipe import Recipe, chosen_settings
from unet import UNet
from utils import UserError, cores, counted, show_number

CPU_GFLOPS = {True: 160, False: 55}  # per second and core, in bf16 and in fp32


def split_patients(args: argparse.Namespace, folder: Path) -> dict[str, pd.DataFrame]:
    """Find the slices and split them by patient."""
    listed = read_patient_list(args.patients) if args.patients else None
    table = find_slices(folder, listed)
    patients = table["patient"]
    if args.split:
        assignment, warnings = read_assignment(args.split, patients, folder)
        for warning in warnings:
            say(f"warning: {warning}")
    else:
        if several := describe_persons(patients):
            say(f"{several}: all of a person are in one split")
        assignment = assign_fold(patients, *args.fold) if args.fold else assign_patients(patients)
    if args.no_validation:
        assignment = {name: "train" if of == "validation" else of for name, of in assignment.items()}
    for name in ("train",) if args.no_validation else ("train", "validation"):
        if name not in assignment.values():
            raise UserError(f"{args.split}: leaves no patient with a folder for {name}. Assign at least one.")
    return split_tables(table, assignment)


def resume_settings(
    args: argparse.Namespace, run: RunFolder, before: dict, folder: Path, weights: StartingWeights | None
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:  # fmt: skip
    """Return the split tables and the settings of the run that goes on; before: its config.json.

    Raises: UserError if an option asks for others; more epochs are allowed without a schedule.
    """
    tables, settings = {split: run.read_split_table(split) for split in SPLITS}, before["settings"]
    asked = chosen_settings(args, {name: settings[name] for name in weights.settings} if weights else {})
    if not Recipe.of(settings).has_schedule:
        settings["epochs"] = asked.get("epochs", settings["epochs"])
    different = [f"{name} {settings[name]}, not {value}" for name, value in asked.items() if settings[name] != value]
    if args.split or args.fold or args.patients or args.no_validation:
        others = split_patients(args, folder)
        different += [f"other {s} patients" for s in SPLITS if set(others[s]["patient"]) != set(tables[s]["patient"])]
    begun = before.get("weights", {})
    if begun and not weights and not run.resume.is_file():
        raise UserError(f"{run}: begins with {begun['file']}, and no epoch is finished: name it again with --weights.")
    if weights and weights.sha256 != begun.get("sha256"):
        different.append("other weights to begin with")
    if different:
        raise UserError(f"{run}: holds a run with {'; '.join(different)}. Leave that out, or name another --run.")
    return tables, settings


def describe_run(
    settings: dict, folder: Path, slices: dict[str, Slices], hardware: Hardware, command: str, before: dict,
    weights: StartingWeights | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the content of config.json, which each checkpoint holds too; before: that of a resumed run, or {}."""
    commits = dict.fromkeys([*before.get("commit", "").split(", "), commit()])
    config = {
        "settings": settings,
        "data": str(folder.resolve()),
        "recipe": str(Recipe.of(settings)),
        "command": before.get("command", command),
        "commit": ", ".join(filter(None, commits)),
        "synthetic": any(any_synthetic(subset.patients) for subset in slices.values()),
        "published": all(is_published(subset.patients) for subset in slices.values()),
        "patients": {split: subset.table["patient"].nunique() for split, subset in slices.items()},
        "slices": {split: len(subset) for split, subset in slices.items()},
        "hardware": str(hardware),
        "versions": versions(),
    }
    if before:
        return config | {name: before[name] for name in ("weights", "training_patients") if name in before}
    return config | describe_origin(weights, slices)


def train(
    run: RunFolder, config: dict, slices: dict[str, Slices], hardware: Hardware, keep: int, resumed: bool,
    weights: StartingWeights | None,
) -> None:  # fmt: skip
    """Train, validate and save, epoch by epoch; begins with `weights`, if there are any."""
    settings, recipe = config["settings"], Recipe.of(config["settings"])
    torch.manual_seed(settings["seed"])
    network = UNet(**describe_network(settings)).to(hardware.device, memory_format=hardware.memory_format)
    if weights:
        network.load_state_dict(weights.network.state_dict())
    order = functools.partial(
        epoch_order, settings["seed"], slices=slices["train"],
        negative_fraction=recipe.negative_fraction, patient_balanced=recipe.patient_balanced,
    )  # fmt: skip
    steps = recipe.epochs * math.ceil(len(order(1)) / recipe.batch_size)
    optimiser = Optimisation(network, recipe, steps, trained="weights" in config)
    choose_kept = functools.partial(best_epochs, count=keep) if keep else None
    writer = Writer(run, optimiser.result, optimiser, config, choose_kept)
    finished = writer.resume() if resumed else 0
    if finished >= recipe.epochs:
        say(f"nothing is left to do: {counted(finished, 'epoch')} done")
        return
    if rank() == 0 and resumed:
        run.write("config.json", config)
    elif rank() == 0:
        run.begin(config, {split: of.table.assign(**{CHECKSUM: checksums(of)}) for split, of in slices.items()})
    say(describe_costs(keep, recipe, len(order(1)), network, hardware))
    if finished:
        say(f"resumed after epoch {finished}")

    preprocessing = Preprocessing.of(settings)
    training, validation = (
        preprocess(slices[split], preprocessing).to(hardware.device) if len(slices[split]) else None
        for split in ("train", "validation")
    )
    brain = brain_distances(slices["train"]) if recipe.robust else None
    model = distribute(network, hardware.device)
    loss = make_loss(recipe.loss, recipe.false_negative_weight)
    best = writer.epochs["validation_iou"].max() if finished else -1.0
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
                validated = evaluate(
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
            say(describe_epoch(record, recipe.epochs, best))
            best = max(best, record["validation_iou"])
    except KeyboardInterrupt:
        named = ["--keep", str(keep)] if keep else []
        named += ["--weights", str(weights.path)] if weights and not len(writer.epochs) else []
        again = shlex.join(["python", "train_model.py", "--run", str(run), "--resume", *named])
        raise KeyboardInterrupt(f"Finished epochs are saved. Go on with: {again}") from None
    say(f"checkpoints: {run.models}. Next: {shlex.join(['python', 'process_models.py', '--run', str(run)])}")


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
    lines = [SYNTHETIC_NOTICE] if config["synthetic"] else []
    lines.append(f"data        {config['data']}")
    for split, subset in slices.items():
        lines += [f"{split:<11} {subset.describe()}", describe_changes(subset)]
    for name in ("settings", "versions"):
        lines.append(f"{name:<11} " + ", ".join(f"{key} {value}" for key, value in config[name].items()))
    if weights := config.get("weights"):
        lines.append(f"began with  {weights['file']}, SHA-256 {weights['sha256']}; licence: {weights['licence']}")
    found = filter(None, (origin_warning(config, split) for split in slices if split != "train"))
    lines += [f"warning: {warning}" for warning in found]
    lines.append(f"hardware    {config['hardware']}")
    if len(slices["validation"]) and not slices["validation"].masks.any():
        lines.append(NO_TUMOUR)
    say("\n".join(filter(None, lines)))


def describe_costs(keep: int, recipe: Recipe, slices: int, network: torch.nn.Module, hardware: Hardware) -> str:
    """Return the size of all checkpoints and, on a CPU, roughly the hours of training, before they are spent."""
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    checkpoints = min(recipe.epochs, 1 + keep * len(CRITERIA)) if keep else recipe.epochs
    costs = f"disk        {size * checkpoints / 1e6:,.0f} MB for {counted(checkpoints, 'checkpoint')}"
    gflop = (240 if recipe.bilinear else 289) * (recipe.width / 64 / recipe.pixel_unshuffle) ** 2  # of a slice
    hours = recipe.epochs * slices * gflop / (cores() * CPU_GFLOPS[hardware.bf16]) / 3600
    if hardware.device.type == "cpu" and hours > 1:
        costs += f"\ntime        roughly {hours:.0f} hours; with --width 16 or --recipe tuned less"
    return costs
