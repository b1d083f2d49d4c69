"""Checkpoints: write, read, resume. The only module that touches .pt files.

models/epoch_N.pt   weights and figures of epoch N, and what rebuilds the network and its input
models/resume.pt    what the optimiser needs to go on after the newest epoch; only there while training may go on

Both hold tensors and primitives only, so that they load on any device with `weights_only=True`.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from constants import CHANNELS, CLASSES, IMAGE_SIZE, MEAN, STD, THRESHOLD
from unet import UNet
from utils import UserError, whole_file

FORMAT = "lgg-unet-1"
RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
PATTERN = re.compile(r"epoch_([1-9]\d*)\.pt")
RESUME = "resume.pt"


def epoch_path(models: Path, epoch: int) -> Path:
    return models / f"epoch_{epoch}.pt"


def epoch_files(models: Path) -> dict[int, Path]:
    """The checkpoints in a folder by epoch, sorted. Files with other names are strangers and passed over."""
    if not models.is_dir():
        return {}
    found = {int(match[1]): path for path in models.iterdir() if (match := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def save_epoch(models: Path, epoch: int, model: UNet, figures: dict[str, float], config: dict[str, Any]) -> Path:
    """Write models/epoch_N.pt. `figures` are training_loss and so on, `config` the configuration of the run."""
    path = epoch_path(models, epoch)
    content = {
        "format": FORMAT,
        "epoch": epoch,
        **figures,
        "network": {
            "channels": CHANNELS,
            "classes": CLASSES,
            "width": config["settings"]["width"],
            "bilinear": config["settings"]["bilinear"],
        },
        "input": {"size": IMAGE_SIZE, "mean": list(MEAN), "std": list(STD), "threshold": THRESHOLD},
        "config": config,
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
    }
    with whole_file(path) as file:
        torch.save(content, file)
    return path


def save_resume(models: Path, epoch: int, optimiser: torch.optim.Optimizer) -> None:
    """Write what continues after `epoch`, whose checkpoint must be on disk already."""
    with whole_file(models / RESUME) as file:
        torch.save({"format": FORMAT, "epoch": epoch, "optimiser": optimiser.state_dict()}, file)


def restore(models: Path, model: UNet, optimiser: torch.optim.Optimizer) -> int:
    """Put the newest resumable epoch back into the network and its optimiser; returns that epoch.

    Raises: UserError when there is nothing to resume or a file is damaged.
    """
    path = models / RESUME
    if not path.is_file():
        raise UserError(f"{path}: no such file, so that there is nothing to resume. Start without --resume.")
    state = _read(path, {"epoch": int, "optimiser": dict})
    weights = read_checkpoint(epoch_path(models, state["epoch"]))["weights"]
    _load_weights(model, weights, epoch_path(models, state["epoch"]))
    try:
        optimiser.load_state_dict(state["optimiser"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not fit this network ({error}). Start again with --overwrite.") from None
    return state["epoch"]


def read_checkpoint(path: Path, figures_only: bool = False) -> dict[str, Any]:
    """The content of models/epoch_N.pt, tensors on the CPU. For the figures alone, tensors are mapped, never read."""
    required = {"epoch": int, "network": dict, "input": dict, "config": dict, "weights": dict}
    return _read(path, required | {column: float for column in RESULT_COLUMNS[1:]}, mapped=figures_only)


def build_network(checkpoint: dict[str, Any], path: Path) -> UNet:
    """The network of a checkpoint with its weights, on the CPU, in evaluation mode."""
    try:
        model = UNet(**checkpoint["network"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: does not describe a U-Net of this project ({error}).") from None
    _load_weights(model, checkpoint["weights"], path)
    return model.eval()


def read_figures(models: Path) -> pd.DataFrame:
    """A row an epoch, sorted: the figures of all checkpoints of a folder; no weights are read.

    Raises: UserError when there is no checkpoint, or one is damaged.
    """
    rows = []
    for epoch, path in epoch_files(models).items():
        content = read_checkpoint(path, figures_only=True)
        if content["epoch"] != epoch:
            raise UserError(f"{path}: holds epoch {content['epoch']}. Give the file its own name back.")
        rows.append({name: value for name, value in content.items() if isinstance(value, (int, float))})
    if not rows:
        raise UserError(f"{models}: holds no checkpoints (epoch_1.pt, ...). Run train_model.py first.")
    return pd.DataFrame(rows)


def best_epoch(results: pd.DataFrame, by: str = "iou") -> int:
    """The epoch with the best validation figure, the earliest of equals; the published rule takes the highest IoU.

    Raises: UserError when the figure exists for no epoch.
    """
    figures = results[f"validation_{by}"]
    if figures.isna().all():
        raise UserError(f"--select-by {by}: no epoch has this figure on its validation slices. Choose another.")
    return int(results.loc[figures.idxmin() if by == "loss" else figures.idxmax(), "epoch"])


def _read(path: Path, required: dict[str, type], mapped: bool = False) -> dict[str, Any]:
    """Load a file of ours without running anything in it, and check that the named entries are there."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run train_model.py first, or name the right folder with --run.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: is damaged or no checkpoint ({reason}). Remove it or restore it.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no checkpoint of this project (format {FORMAT}). Remove it or rename it.")
    wrong = [name for name, kind in required.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"{path}: lacks {', '.join(wrong)}. Remove it or restore it.")
    return content


def _load_weights(model: UNet, weights: dict[str, torch.Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit its network ({reason}).") from None
