"""Checkpoints: write, read, resume. The only module that opens .pt files.

models/epoch_N.pt   metrics and weights of epoch N, and what rebuilds the network and its input
models/resume.pt    the optimiser's state after the newest epoch

Both hold tensors and primitives only, so that they load on any device with `weights_only=True`.
"""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from constants import CLASSES, IMAGE_SIZE, MOST_NEIGHBOURS, THRESHOLD
from dataset.preprocess import NORMALISATIONS, Preparation
from storage.run_folder import PRIVATE, RESULT_COLUMNS, RunFolder
from unet import WIDEST, UNet, load_weights
from utils import UserError, atomic_write

FORMAT = "lgg-unet-3"
REMEDY = "A network is in models/epoch_N.pt of a run. Restore this file, or move it away."
# How slices are prepared, which probability is foreground, the smallest component, and how it was computed
INPUT = ("size", *Preparation._fields, "flips", "threshold", "min_component", "precision")
ADDED = {"resolution": 1.0}  # what files of earlier versions of the format mean without saying


class Optimiser(Protocol):
    """What has a state to resume from: one of PyTorch's optimisers, or an Optimisation."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def describe_network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the UNet that the settings of a run ask for."""
    wanted = {name: settings[name] for name in ("width", "bilinear", "stem")}
    return {"channels": Preparation.of(settings).channels, "classes": CLASSES, **wanted}


# --- Write -----------------------------------------------------------------------------------------------------


class Writer:
    """Writes the checkpoints of a run. On a GPU in the background, from copies in host memory, while it computes on.

    A failed write is raised by the next call, or by `finish`.

    Args:
        config: the content of config.json.
        kept: maps the table of epochs to those whose weights are kept, beside the newest; None keeps all. The other
            epochs keep their metrics.
    """

    def __init__(
        self,
        run: RunFolder,
        model: UNet,
        optimiser: Optimiser,
        config: dict,
        kept: Callable[[pd.DataFrame], set[int]] | None = None,
    ):
        self.run, self.model, self.optimiser, self.config, self.kept = run, model, optimiser, config, kept
        self.background = ThreadPoolExecutor(1) if next(model.parameters()).is_cuda else None
        self.pending: Future | None = None

    def resume_after(self, epoch: int) -> None:
        """Do what a killed process may have left undone after its last epoch; epochs.csv is rebuilt."""
        if epoch:
            self._tidy(epoch)
        self.run.write_epochs(self._epochs_to(epoch))

    def save_epoch(self, record: dict[str, float]) -> None:
        """Write models/epoch_N.pt, models/resume.pt and a line of epochs.csv.

        record: epoch, training_loss, training_iou, validation_loss, validation_iou, further metrics, and the resolution
            at which the epoch was trained and scored.
        """
        settings = self.config["settings"]
        content = {
            "format": FORMAT,
            **record,
            "network": describe_network(settings),
            "input": {
                "size": IMAGE_SIZE,
                **Preparation.of(settings)._asdict(),
                "resolution": record["resolution"],
                "flips": settings["flips"],
                "threshold": THRESHOLD,
                "min_component": 0,
                "precision": settings["precision"],
            },
            "config": {name: value for name, value in self.config.items() if name not in PRIVATE},
            "weights": _on_host(self.model.state_dict()),
        }
        state = {"format": FORMAT, "epoch": record["epoch"], "optimiser": _on_host(self.optimiser.state_dict())}
        if self.background:
            torch.cuda.synchronize()  # the copies are under way
        self.finish()
        if self.background:
            self.pending = self.background.submit(self._write_epoch, record, content, state)
        else:
            self._write_epoch(record, content, state)

    def finish(self) -> None:
        """Wait until everything is on disk."""
        if self.pending:
            self.pending.result()

    def _write_epoch(self, record: dict, content: dict, state: dict) -> None:
        self.run.refuse_replaced()
        _write(self.run, self.run.checkpoint(record["epoch"]), content)
        _write(self.run, self.run.resume, state)
        self._tidy(record["epoch"])
        self.run.append_epoch(record)  # last: see RunFolder.complete_epochs

    def _tidy(self, newest: int) -> None:
        """Remove what a finished epoch makes needless: the run that it replaces, and weights that are not kept."""
        self.run.remove_previous()
        if not self.kept:
            return
        epochs = self._epochs_to(newest)
        for epoch in set(epochs["epoch"].iloc[:-1].astype(int)) - self.kept(epochs):
            content = read_checkpoint(self.run.checkpoint(epoch), metrics_only=True)
            if content["weights"]:
                _write(self.run, self.run.checkpoint(epoch), content | {"weights": {}})

    def _epochs_to(self, newest: int) -> pd.DataFrame:
        """Return the epochs up to `newest`; the checkpoint of an unfinished epoch may lie behind it."""
        epochs = read_epochs(self.run)
        return epochs[epochs["epoch"] <= newest]


def _on_host(content: Any) -> Any:
    """Return the same nested content with its tensors in host memory; those that are there already are not copied.

    From a GPU the copies are complete after the next synchronisation.
    """
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", non_blocking=content.is_cuda)  # not by way of pageable memory
    if isinstance(content, dict):
        return {key: _on_host(value) for key, value in content.items()}
    return [_on_host(value) for value in content] if isinstance(content, (list, tuple)) else content


def _write(run: RunFolder, path: Path, content: dict) -> None:
    with atomic_write(run.claim(path.relative_to(run.path).as_posix())) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch hides the reason, such as a full disk, behind its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


# --- Read ------------------------------------------------------------------------------------------------------


def restore(run: RunFolder, model: UNet, optimiser: Optimiser) -> int:
    """Load the newest state into the network and its optimiser. Returns the last finished epoch.

    Where the process was killed between the two files of an epoch, that epoch is trained again: its order depends on
    the seed and its number alone, so that the same weights come out.

    Raises: UserError when there is nothing to resume or a file is damaged.
    """
    if not run.resume.is_file():
        if (newest := run.newest_epoch()) > 1:
            raise UserError(
                f"{run.resume}: no such file, without which this run of {newest} epochs cannot go on. Restore it, or "
                f"move {run} away and begin again."
            )
        if newest == 0:
            raise UserError(f"{run.resume}: no such file, so that there is nothing to resume. Start without --resume.")
        return 0
    state = _read(run.resume, {"epoch": int, "optimiser": dict})
    source = run.checkpoint(state["epoch"])
    _load_weights(model, read_checkpoint(source)["weights"], source)
    try:
        optimiser.load_state_dict(state["optimiser"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{run.resume}: does not fit this network ({error}). Start again with --overwrite.") from None
    return state["epoch"]


def read_checkpoint(path: Path, metrics_only: bool = False) -> dict[str, Any]:
    """Return the content of models/epoch_N.pt, tensors on the CPU. With `metrics_only` no tensor is read from disk."""
    if path.name == "resume.pt":
        raise UserError(f"{path}: holds the optimiser's state, not a network. Name an epoch_N.pt beside it.")
    required = {"epoch": int, "network": dict, "input": dict, "config": dict, "weights": dict}
    return _read(path, required | {column: float for column in RESULT_COLUMNS[1:]}, metrics_only)


def load_network(path: Path) -> tuple[UNet, dict[str, Any]]:
    """Load the network of models/epoch_N.pt, or of a safetensors file written by export_model.py.

    Returns: the network with its weights, on the CPU, in evaluation mode; and what the file says besides: epoch,
        network, input (as INPUT), config (synthetic, published).
    Raises: UserError when the file is missing, damaged, or no network of this project.
    """
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    checkpoint = read_checkpoint(path)
    checkpoint["input"] = ADDED | checkpoint["input"]
    if not checkpoint["weights"]:
        raise UserError(
            f"{path}: keeps metrics only (--keep). Test again, which chooses among the "
            "epochs that are kept; or train again, with a larger --keep or without it."
        )
    _check_description(checkpoint, path)
    with torch.device("meta"):  # no memory yet, whatever the file asks for
        model = UNet(**checkpoint["network"])
    _load_weights(model, checkpoint["weights"], path, assign=True)
    for parameter in model.parameters():  # training may have saved them with channels last, which exports refuse
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model.eval(), checkpoint


def _check_description(about: dict[str, Any], path: Path) -> None:
    """Raise UserError unless a file describes a network, and slices, that this version builds and prepares."""
    entries = about["network"] | about["input"] | {"synthetic": about["config"].get("synthetic")}
    expected = {"classes": CLASSES, "size": IMAGE_SIZE}
    others = {
        "width": lambda width: type(width) is int and 0 < width <= WIDEST,
        "stem": lambda stem: type(stem) is int and stem in (1, 2),
        "normalisation": lambda name: type(name) is str and name in NORMALISATIONS,
        "neighbours": lambda number: type(number) is int and 0 <= number <= MOST_NEIGHBOURS,
        **dict.fromkeys(("bilinear", "crop", "flips", "synthetic"), lambda value: type(value) is bool),
        "resolution": lambda share: type(share) is float and 0 < share <= 1,
        "threshold": lambda threshold: type(threshold) is float and 0 < threshold < 1,
        "min_component": lambda pixels: type(pixels) is int and 0 <= pixels <= IMAGE_SIZE**2,
        "precision": lambda precision: type(precision) is str and precision in ("fp32", "bf16"),
    }
    wrong = [name for name, value in expected.items() if not _same(entries.get(name), value)]
    wrong += [name for name, fits in others.items() if not fits(entries.get(name))]
    wrong += ["network"] * (len(about["network"]) != 5)  # an entry that UNet does not know
    if "neighbours" not in wrong:
        channels = Preparation(neighbours=about["input"]["neighbours"]).channels
        wrong += ["channels"] * (not _same(about["network"].get("channels"), channels))
    if wrong:
        raise UserError(f"{path}: holds no network of this version (wrong: {', '.join(wrong)}). {REMEDY}")


def _same(value: Any, expected: Any) -> bool:
    """Return whether a value from a file has the type, too: True is not 1, 256.0 is not 256."""
    return type(value) is type(expected) and value == expected


def _load_safetensors(path: Path) -> tuple[UNet, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Write it with export_model.py --formats safetensors.")
    try:
        model, metadata = load_weights(str(path))
        text = {name: json.dumps(value) for name, value in ADDED.items()} | metadata
        about = {name: json.loads(text[name]) for name in ("network", "epoch", "synthetic", "published", *INPUT)}
    except Exception as error:  # safetensors has kinds of its own
        raise UserError(f"{path}: is damaged or no weights of this project ({str(error)[:200]}). Restore it.") from None
    checkpoint = {
        "epoch": about["epoch"],
        "network": about["network"],
        "input": {name: about[name] for name in INPUT},
        "config": {name: about[name] for name in ("synthetic", "published")},
        "weights": model.state_dict(),
    }
    _check_description(checkpoint, path)
    return model, checkpoint


def read_epochs(run: RunFolder) -> pd.DataFrame:
    """Return the metrics of all checkpoints of a run, one row per epoch, sorted; no weights are read.

    Raises: UserError when there is no checkpoint, or one is damaged.
    """
    rows = []
    for epoch, path in run.checkpoints().items():
        content = read_checkpoint(path, metrics_only=True)
        if content["epoch"] != epoch:
            raise UserError(f"{path}: holds epoch {content['epoch']}. Give the file its own name back.")
        row = {name: value for name, value in content.items() if isinstance(value, (int, float))}
        rows.append(row | {name: value for name, value in ADDED.items() if name not in row})
    if not rows:
        raise UserError(f"{run.models}: holds no checkpoints (epoch_1.pt, ...). Run train_model.py first.")
    return pd.DataFrame(rows)


def _read(path: Path, required: dict[str, type], metrics_only: bool = False) -> dict[str, Any]:
    """Load a file without running anything in it, and check that the required entries are there."""
    if not path.is_file():
        problem = "is a folder. Name one of its files epoch_N.pt" if path.is_dir() else "no such file. Name another"
        raise UserError(f"{path}: {problem}, or run train_model.py first.")
    try:
        _verify(path, metrics_only)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=metrics_only)
    except Exception as error:  # zipfile, pickle and PyTorch raise many kinds for a damaged file
        reason = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: is damaged or no checkpoint ({reason}). {REMEDY}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no checkpoint of this project (format {FORMAT}). {REMEDY}")
    wrong = [name for name, kind in required.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"{path}: lacks {', '.join(wrong)}. {REMEDY}")
    return content


def _verify(path: Path, metrics_only: bool) -> None:
    """Compare the archive's members with their checksums, which PyTorch itself does not; tensors unless skipped."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise pickle.UnpicklingError(f"{member.filename} is compressed")
            if not (metrics_only and "/data/" in member.filename):
                with archive.open(member) as file:
                    while file.read(1 << 20):  # the last read compares
                        pass


def _load_weights(model: UNet, weights: dict[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    def layout(tensor: Any) -> tuple | None:
        return (tensor.shape, tensor.dtype, tensor.layout) if isinstance(tensor, torch.Tensor) else None

    expected = {name: layout(tensor) for name, tensor in model.state_dict().items()}
    if {name: layout(tensor) for name, tensor in weights.items()} != expected:
        raise UserError(f"{path}: its weights do not fit its network. Restore it.")
    if sum(tensor.nbytes for tensor in weights.values()) > path.stat().st_size:  # strides may repeat one value
        raise UserError(f"{path}: claims more weights than it holds. Restore it.")
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError(f"{path}: holds weights that are not finite. Use an earlier epoch.")
    model.load_state_dict(weights, assign=assign)
