"""Checkpoints: write, read, resume. The only module that opens .pt files.

models/epoch_N.pt   weights and metrics of epoch N, and all that rebuilds the network and its input
models/resume.pt    the optimiser's state after the newest epoch

Both hold tensors and primitives only and load on any device with `weights_only=True`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from constants import CLASSES, IMAGE_SIZE
from dataset.preprocess import Preprocessing
from storage.run_folder import PRIVATE, RESULT_COLUMNS, RunFolder
from unet import UNet, load_weights
from utils import UserError, atomic_write

FORMAT = "lgg-unet-4"
NETWORK = ("width", "bilinear", "pixel_unshuffle")  # settings that describe the network, beside its channels
INPUT = ("size", *Preprocessing._fields, "tta_flip", "threshold", "min_component")  # how slices become masks
PATIENT_METADATA = (  # of weights
    "quality",  # model of quality.fit
    "training_patients",  # {name, or its digest: fingerprint of the images, or ""} of those they learned from
)
REMEDY = "A network is in models/epoch_N.pt of a run. Restore this file, or move it away."


def describe_network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the UNet for the settings of a run."""
    return {"channels": Preprocessing.of(settings).channels, "classes": CLASSES} | {n: settings[n] for n in NETWORK}


# --- Write -----------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Writes the checkpoints of a run."""

    run: RunFolder
    model: UNet
    optimiser: Any  # has state_dict() and load_state_dict()
    config: dict[str, Any]  # the content of config.json
    choose_kept: Callable[[pd.DataFrame], set[int]] | None = None  # of all epochs those to keep, beside the newest
    epochs: pd.DataFrame = field(default_factory=pd.DataFrame)  # the records so far

    def resume(self) -> int:
        """Load the newest state into network and optimiser. Returns the last finished epoch, 0 if there is none.

        An epoch without its resume.pt is trained again: its order depends on seed and number alone.

        Raises: UserError when a file is damaged, or missing beside others.
        """
        path = self.run.resume
        if not path.is_file():
            if max(self.run.checkpoints(), default=0) > 1:
                raise UserError(
                    f"{path}: no such file; the run cannot go on. Restore it, or begin again with --overwrite."
                )
            return 0
        state = _read(path, ("epoch", "optimiser"))
        source = self.run.checkpoint(state["epoch"])
        _load(self.model, read_checkpoint(source)["weights"], source)
        self.optimiser.load_state_dict(state["optimiser"])
        epochs = read_epochs(self.run).drop(columns="saved")
        self.epochs = epochs[epochs["epoch"] <= state["epoch"]]
        return state["epoch"]

    def save_epoch(self, record: dict[str, float]) -> None:
        """Write models/epoch_N.pt, models/resume.pt and epochs.csv.

        record: RESULT_COLUMNS, further metrics, and the resolution of training and validation in this epoch.
        """
        epoch, settings = record["epoch"], self.config["settings"]
        of_input = settings | {"size": IMAGE_SIZE, "resolution": record["resolution"]}
        content = {
            **record,
            "network": describe_network(settings),
            "input": {name: of_input[name] for name in INPUT},
            "config": {name: value for name, value in self.config.items() if name not in PRIVATE},
            "weights": self.model.state_dict(),
        }
        _write(self.run.checkpoint(epoch), content)
        _write(self.run.resume, {"epoch": epoch, "optimiser": self.optimiser.state_dict()})
        self.epochs = pd.concat([self.epochs, pd.DataFrame([record])], ignore_index=True)
        self.run.write("epochs.csv", self.epochs)
        if self.choose_kept:
            for old in self.run.checkpoints().keys() - self.choose_kept(self.epochs) - {epoch}:
                self.run.checkpoint(old).unlink()


def _write(path: Path, content: dict) -> None:
    with atomic_write(path) as file:
        try:
            torch.save({"format": FORMAT, **content}, file)
        except RuntimeError as error:  # PyTorch hides the reason, such as a full disk, behind its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


# --- Read ------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path, metrics_only: bool = False) -> dict[str, Any]:
    """Return the content of models/epoch_N.pt, tensors on the CPU. With `metrics_only` no tensor is read from disk."""
    return _read(path, ("network", "input", "config", "weights", *RESULT_COLUMNS), mmap=metrics_only)


def load_network(path: Path) -> tuple[UNet, dict[str, Any]]:
    """Load the network of models/epoch_N.pt, or of a safetensors file written by export_model.py.

    Returns: the network with its weights, on the CPU, in evaluation mode; and the rest of the file: epoch, network,
        input (INPUT), config (synthetic, published, weights), and PATIENT_METADATA, None where the file lacks them.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".onnx":
        raise UserError(f"{path}: ONNX is for segment and other programs. Export safetensors as well, and name that.")
    checkpoint = read_checkpoint(path)
    model = UNet(**checkpoint["network"])
    _load(model, checkpoint["weights"], path)
    patient_metadata = {"quality": None, "training_patients": checkpoint["config"].get("training_patients")}
    return model.eval(), checkpoint | patient_metadata


def _load_safetensors(path: Path) -> tuple[UNet, dict[str, Any]]:
    try:
        model, metadata = load_weights(str(path))
        content = {name: json.loads(metadata[name]) for name in ("epoch", "network")}
        content["input"] = {name: json.loads(metadata[name]) for name in INPUT}
        content["config"] = {name: json.loads(metadata[name]) for name in ("synthetic", "published")}
        content["config"] |= {"weights": json.loads(metadata["weights"])} if "weights" in metadata else {}
    except Exception as error:  # safetensors has its own kinds
        raise UserError(f"{path}: is damaged or no weights of this project ({str(error)[:200]}). Restore it.") from None
    content |= {name: json.loads(metadata.get(name, "null")) for name in PATIENT_METADATA}
    return model, content | {"weights": model.state_dict()}


def read_epochs(run: RunFolder) -> pd.DataFrame:
    """Return the metrics of all epochs of a run, one row per epoch, sorted; no weights are read.

    They come from the checkpoints; of epochs whose checkpoint is gone, from epochs.csv. `saved` tells them apart.

    Raises: UserError when there is no checkpoint, or one is damaged.
    """
    rows = []
    for path in run.checkpoints().values():
        content = read_checkpoint(path, metrics_only=True)
        rows.append({name: value for name, value in content.items() if isinstance(value, (int, float))})
    if not rows:
        raise UserError(f"{run.models}: holds no checkpoints (epoch_1.pt, ...). {run.remedy('train_model.py')}")
    saved, recorded = pd.DataFrame(rows).assign(saved=True), run.read_epochs_table().assign(saved=False)
    recorded = recorded[~recorded["epoch"].isin(saved["epoch"])]
    return (pd.concat([saved, recorded]) if len(recorded) else saved).sort_values("epoch", ignore_index=True)


def _read(path: Path, needed: tuple[str, ...], mmap: bool = False) -> dict[str, Any]:
    """Load a file, without running anything in it, that must hold some values."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # zipfile, pickle and PyTorch raise many kinds for a damaged or missing file
        reason = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: is damaged or no checkpoint ({reason}). {REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= {*needed}:
        raise UserError(f"{path}: is no checkpoint of this version ({FORMAT}), or incomplete. {REMEDY}")
    return content


def _load(model: UNet, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights strictly. Raises: UserError if they do not fit the network or are not finite."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit its network ({' '.join(str(error).split())[:200]}).") from None
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError(f"{path}: its weights are not finite. Use an earlier epoch.")
