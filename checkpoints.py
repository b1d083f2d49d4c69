"""Checkpoints: write, read, resume. The only module that touches .pt files.

models/epoch_N.pt   figures and weights of epoch N, and what rebuilds the network and its input
models/resume.pt    what continues the run: the optimiser's state after the newest epoch, or, where the run was stopped
                    within an epoch, the weights as well and what that epoch had seen

All hold tensors and primitives only, so that they load on any device with `weights_only=True`.
"""

import pickle
import re
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import portable
from constants import CHANNELS, CLASSES, IMAGE_SIZE, MEAN, STD, THRESHOLD
from engine import Tally
from metrics import Counts
from unet import UNet
from utils import UserError, whole_file

FORMAT = "lgg-unet-1"
RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
PATTERN = re.compile(r"epoch_([1-9]\d*)\.pt")
REMEDY = "A network is in models/epoch_N.pt of a run. Restore this file, or move it away."
RESUME = "resume.pt"
WIDEST = 4096  # channels; a file that asks for more is not ours


def epoch_path(models: Path, epoch: int) -> Path:
    return models / f"epoch_{epoch}.pt"


def epoch_files(models: Path) -> dict[int, Path]:
    """The checkpoints in a folder by epoch, sorted. Files with other names are strangers and passed over."""
    if not models.is_dir():
        return {}
    found = {int(match[1]): path for path in models.iterdir() if (match := PATTERN.fullmatch(path.name))}
    return dict(sorted(found.items()))


# --- Write -----------------------------------------------------------------------------------------------------


class Writer:
    """Writes the checkpoints of a run. On a GPU in the background, from copies in host memory, while it computes on.

    A failed write is raised by the next call, or by `finish`.

    Args:
        keep: how many of the best epochs (by validation IoU) keep their weights, beside the newest; 0 keeps all.
            The others keep their figures.
    """

    def __init__(self, models: Path, model: UNet, optimiser: torch.optim.Optimizer, config: dict, keep: int = 0):
        self.models, self.model, self.optimiser, self.config, self.keep = models, model, optimiser, config, keep
        self.background = ThreadPoolExecutor(1) if next(model.parameters()).is_cuda else None
        self.pending: Future | None = None

    def save_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Write models/epoch_N.pt and what resumes after it. `figures` are training_loss and so on."""
        settings = self.config["settings"]
        content = {
            "format": FORMAT,
            "epoch": epoch,
            **figures,
            "network": {
                "channels": CHANNELS,
                "classes": CLASSES,
                "width": settings["width"],
                "bilinear": settings["bilinear"],
            },
            "input": {"size": IMAGE_SIZE, "mean": list(MEAN), "std": list(STD), "threshold": THRESHOLD},
            "config": self.config,
            "weights": on_host(self.model.state_dict()),
        }
        state = {"format": FORMAT, "epoch": epoch, "optimiser": on_host(self.optimiser.state_dict())}
        self._do(self._write_epoch, content, state)

    def save_unfinished(self, epoch: int, tally: Tally) -> None:
        """Write what goes on within the epoch after `epoch`, of which `tally` is done."""
        counts = [torch.stack(counts, dim=1) for counts in tally.counts]
        state = {
            "format": FORMAT,
            "epoch": epoch,
            "optimiser": on_host(self.optimiser.state_dict()),
            "weights": on_host(self.model.state_dict()),
            "tally": on_host({"losses": tally.losses, "rows": tally.rows, "counts": counts}),
        }
        self._do(_write, self.models / RESUME, state)
        self.finish()

    def finish(self) -> None:
        """Wait until all is on disk."""
        if self.pending:
            self.pending.result()

    def _do(self, function, *arguments) -> None:
        self.finish()
        if self.background:
            self.pending = self.background.submit(function, *arguments)
        else:
            function(*arguments)

    def _write_epoch(self, content: dict, state: dict) -> None:
        _write(epoch_path(self.models, content["epoch"]), content)
        _write(self.models / RESUME, state)
        if self.keep:
            drop_weights(self.models, self.keep)


def on_host(content: Any) -> Any:
    """The same nested content with its tensors in host memory; those that are there already are not copied."""
    if isinstance(content, torch.Tensor):
        return content.detach().cpu()
    if isinstance(content, dict):
        return {key: on_host(value) for key, value in content.items()}
    return [on_host(value) for value in content] if isinstance(content, (list, tuple)) else content


def drop_weights(models: Path, keep: int) -> None:
    """Leave the weights to the `keep` best epochs and the newest; rewrite the other files with figures only."""
    files = epoch_files(models)
    contents = {epoch: read_checkpoint(path, figures_only=True) for epoch, path in files.items()}
    ranked = sorted(contents, key=lambda epoch: (-contents[epoch]["validation_iou"], epoch))
    for epoch in ranked[keep:]:
        if epoch != max(files) and contents[epoch]["weights"]:
            _write(files[epoch], contents[epoch] | {"weights": {}})


def _write(path: Path, content: dict) -> None:
    with whole_file(path) as file:
        torch.save(content, file)


# --- Read ------------------------------------------------------------------------------------------------------


def restore(models: Path, model: UNet, optimiser: torch.optim.Optimizer) -> tuple[int, Tally | None]:
    """Put the newest state back into the network and its optimiser.

    Returns: the last finished epoch, and what the one after it had seen when it was stopped.
    Raises: UserError when there is nothing to resume or a file is damaged.
    """
    path = models / RESUME
    if not path.is_file():
        raise UserError(f"{path}: no such file, so that there is nothing to resume. Start without --resume.")
    state = _read(path, {"epoch": int, "optimiser": dict})
    source = path if "weights" in state else epoch_path(models, state["epoch"])
    _load_weights(model, state["weights"] if "weights" in state else read_checkpoint(source)["weights"], source)
    try:
        optimiser.load_state_dict(state["optimiser"])
        tally = state.get("tally")
        if tally is not None:
            device = next(model.parameters()).device
            losses = [loss.to(device) for loss in tally["losses"]]
            tally = Tally(losses, tally["rows"], [Counts(*c.to(device).unbind(1)) for c in tally["counts"]])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: does not fit this network ({error}). Start again with --overwrite.") from None
    return state["epoch"], tally


def read_checkpoint(path: Path, figures_only: bool = False) -> dict[str, Any]:
    """The content of models/epoch_N.pt, tensors on the CPU. For the figures alone, tensors are mapped, never read."""
    if path.name == RESUME:
        raise UserError(f"{path}: is what --resume goes on from, no network. Name an epoch_N.pt beside it.")
    required = {"epoch": int, "network": dict, "input": dict, "config": dict, "weights": dict}
    return _read(path, required | {column: float for column in RESULT_COLUMNS[1:]}, figures_only)


def build_network(checkpoint: dict[str, Any], path: Path) -> UNet:
    """The network of a checkpoint with its weights, on the CPU, in evaluation mode."""
    if not checkpoint["weights"]:
        raise UserError(f"{path}: keeps figures only (--keep). Train again, with a larger --keep or without it.")
    network = checkpoint["network"]
    if not all(isinstance(network.get(name), int) and 0 < network[name] <= WIDEST for name in ("channels", "width")):
        raise UserError(f"{path}: does not describe a U-Net of this project ({network}).")
    try:
        with torch.device("meta"):  # no memory yet, for whatever the file asks
            model = UNet(**network)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: does not describe a U-Net of this project ({error}).") from None
    _load_weights(model, checkpoint["weights"], path, assign=True)
    return model.eval()


def load_network(path: Path) -> tuple[UNet, dict[str, Any]]:
    """The network of models/epoch_N.pt, or of a safetensors file of export_model.py, and all that the file says."""
    checkpoint = portable.read_checkpoint(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    return build_network(checkpoint, path), checkpoint


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


def _read(path: Path, required: dict[str, type], figures_only: bool = False) -> dict[str, Any]:
    """Load a file of ours without running anything in it, and check that the named entries are there."""
    if not path.is_file():
        problem = "is a folder. Name one of its files epoch_N.pt" if path.is_dir() else "no such file. Name another"
        raise UserError(f"{path}: {problem}, or run train_model.py first.")
    try:
        _verify(path, figures_only)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=figures_only)
    except Exception as error:  # zipfile, pickle and PyTorch raise many kinds for a damaged file
        reason = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: is damaged or no checkpoint ({reason}). {REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no checkpoint of this project (format {FORMAT}). {REMEDY}")
    wrong = [name for name, kind in required.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"{path}: lacks {', '.join(wrong)}. {REMEDY}")
    return content


def _verify(path: Path, figures_only: bool) -> None:
    """Compare the archive's members with their checksums, which PyTorch itself does not; tensors only if they count."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"{member.filename} is compressed")
            if not (figures_only and "/data/" in member.filename):
                with archive.open(member) as file:
                    while file.read(1 << 20):  # the last read compares
                        pass


def _load_weights(model: UNet, weights: dict[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    try:
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise UserError(f"{path}: holds weights that are not finite. Use an earlier epoch.")
        model.load_state_dict(weights, assign=assign)
        if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
            raise UserError(f"{path}: its weights are not float32. Restore it.")
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit its network ({reason}).") from None
