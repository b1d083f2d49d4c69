"""The folder of one run: the name of every file in it, its reader and its writer.

config.json, train.csv, validation.csv, test.csv, models/, epochs.csv, results.csv, metrics.json, test_*.csv, plots/,
report.html
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from dataset.slices import COLUMNS
from dataset.split import SPLITS
from utils import (
    TEMPORARY,
    UserError,
    atomic_write,
    describe_problems,
    leaves_folder,
    read_csv,
    to_csv,
    to_json,
    write_text,
)

RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
TEST_TABLES = {"slices": "test_results.csv", "patients": "test_patients.csv", "lesions": "test_lesions.csv"}
EPOCH_FILE = re.compile(r"epoch_([1-9]\d*)\.pt")

# What the three scripts write, and what --overwrite therefore removes; nothing else is ever removed
OUTPUTS = (
    "config.json",
    *(f"{split}.csv" for split in SPLITS),
    "epochs.csv",
    "results.csv",
    "metrics.json",
    *TEST_TABLES.values(),
    "test_predictions.npz",
    "plots/loss.png",
    "plots/iou.png",
    "plots/panel_*.png",
    "plots/bland_altman.png",
    "plots/dice_area.png",
    "report.html",
    "models/resume.pt",
)


class RunFolder:
    """The files of one run.

    Readers raise UserError with the remedy when a file is missing or damaged; writers are atomic.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.models = self.path / "models"
        self.resume = self.models / "resume.pt"
        self.config = self.path / "config.json"
        self.epochs = self.path / "epochs.csv"
        self.results = self.path / "results.csv"
        self.metrics = self.path / "metrics.json"
        self.predictions = self.path / "test_predictions.npz"
        self.plots = self.path / "plots"
        self.report = self.path / "report.html"

    def __str__(self) -> str:
        return str(self.path)

    # --- Checkpoints ---

    def checkpoint(self, epoch: int) -> Path:
        return self.models / f"epoch_{epoch}.pt"

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoint files by epoch, sorted. Files with other names are ignored."""
        if not self.models.is_dir():
            return {}
        found = {int(match[1]): path for path in self.models.iterdir() if (match := EPOCH_FILE.fullmatch(path.name))}
        return dict(sorted(found.items()))

    def newest_epoch(self) -> int:
        """Return the last finished epoch, 0 if there is none."""
        return max(self.checkpoints(), default=0)

    def refuse_used(self) -> None:
        """Raise UserError if the folder already holds checkpoints, or is a file."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self}: is a file. Name a folder with --run.")
        epochs = self.checkpoints()
        if epochs or self.resume.exists():
            raise UserError(
                f"{self.models}: already holds a run of {len(epochs)} epoch(s). Name another folder with --run, "
                "go on with --resume, or remove that run with --overwrite."
            )

    def clear(self) -> None:
        """Remove what an earlier run left in the folder, and nothing that these scripts do not write."""
        for path in (*self.checkpoints().values(), *(p for name in OUTPUTS for p in self.path.glob(name))):
            path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other training processes out of the folder for as long as the block, or the process, lasts.

        The system releases the lock when the process ends, however it ends. Half-written files of a killed process
        are removed.
        """
        self.models.mkdir(parents=True, exist_ok=True)
        with open(self.models / ".lock", "a+b") as file:
            try:
                _lock(file)
            except OSError:
                raise UserError(
                    f"{self}: another process is training there. Wait for it, or name another --run."
                ) from None
            for folder in (self.path, self.models):
                for stale in folder.glob(f".*{TEMPORARY}"):
                    stale.unlink(missing_ok=True)
            yield

    # --- Settings and split ---

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json: settings, data folder, patients and slices per split, hardware, versions."""
        write_text(self.config, to_json(config))

    def read_config(self) -> dict[str, Any]:
        config = self._read_json(self.config, f"Run train_model.py --run {self} first.")
        if not isinstance(config.get("settings"), dict) or "data" not in config:
            raise UserError(f"{self.config}: does not describe a run. Restore it, or train again with --overwrite.")
        return config

    def is_synthetic(self) -> bool:
        """Return whether the run was trained on synthetic patients."""
        return bool(self.read_config().get("synthetic"))

    def write_split_tables(self, tables: dict[str, pd.DataFrame]) -> None:
        """Write train.csv, validation.csv and test.csv."""
        for split, table in tables.items():
            write_text(self.path / f"{split}.csv", to_csv(table))

    def read_split_table(self, split: str) -> pd.DataFrame:
        """Return train.csv, validation.csv or test.csv; a path that leaves the data folder is an error."""
        path = self.path / f"{split}.csv"
        if not path.is_file():
            raise UserError(f"{path}: no such file. Run train_model.py --run {self} first.")
        table = read_csv(path, COLUMNS)[COLUMNS]
        problems = [
            f"{path}, line {line}: {text!r} leaves the data folder. "
            "Paths must be relative to it, such as PATIENT/FILE.tif."
            for line, row in enumerate(table.itertuples(index=False), start=2)
            for text in (row.image_path, row.mask_path)
            if leaves_folder(text)
        ]
        if problems:
            raise UserError(describe_problems(path, problems))
        return table

    # --- Epochs ---

    def append_epoch(self, record: dict[str, float]) -> None:
        """Append one line to epochs.csv, with a header if the file is new."""
        line = to_csv(pd.DataFrame([record]))
        new = not self.epochs.is_file()
        with open(self.epochs, "a", encoding="utf-8", newline="") as file:
            file.write(line if new else line.split("\n", 1)[1])

    def write_epochs(self, epochs: pd.DataFrame) -> None:
        """Write results.csv (loss and IoU of each epoch) and epochs.csv (every metric of each epoch)."""
        write_text(self.results, to_csv(epochs[RESULT_COLUMNS]))
        write_text(self.epochs, to_csv(epochs))

    def read_epochs(self) -> pd.DataFrame:
        """Return epochs.csv, one row per epoch; no checkpoint is opened."""
        return self._read_table(self.epochs, ("epoch", "validation_iou"), "process_models.py")

    # --- Test ---

    def write_test(
        self, tables: dict[str, pd.DataFrame], metrics: dict[str, Any], predicted: np.ndarray | None
    ) -> None:
        """Write test_results.csv, test_patients.csv, test_lesions.csv, metrics.json and test_predictions.npz.

        Args:
            tables: the keys of TEST_TABLES.
            predicted: the masks in the order of the slices, uint8 [N, H, W], 0 or 1; None writes no such file.
        """
        for part, name in TEST_TABLES.items():
            write_text(self.path / name, to_csv(tables[part]))
        write_text(self.metrics, to_json(metrics))
        if predicted is not None:
            with atomic_write(self.predictions) as file:
                np.savez_compressed(file, predicted=predicted)

    def read_test_tables(self) -> dict[str, pd.DataFrame]:
        """Return test_results.csv, test_patients.csv and test_lesions.csv under the keys of TEST_TABLES."""
        return {
            part: self._read_table(self.path / name, ("patient", "dice"), "test_model.py")
            for part, name in TEST_TABLES.items()
        }

    def _read_table(self, path: Path, columns: tuple[str, ...], script: str) -> pd.DataFrame:
        """Return a CSV file that the script writes."""
        if not path.is_file():
            raise UserError(f"{path}: no such file. Run {script} --run {self} first.")
        try:
            table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"patient": str, "institution": str})
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: cannot be read as CSV ({reason}). Run {script} --run {self} again.") from None
        if not set(columns) <= set(table):
            raise UserError(f"{path}: has no columns {' and '.join(columns)}. Run {script} --run {self} again.")
        return table

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json."""
        return self._read_json(self.metrics, f"Run test_model.py --run {self} first.")

    def read_predictions(self) -> np.ndarray:
        """Return the masks of test_predictions.npz, uint8 [N, H, W], 0 or 1."""
        try:
            with np.load(self.predictions) as archive:
                return archive["predicted"]
        except FileNotFoundError:
            raise UserError(f"{self.predictions}: no such file. Run test_model.py --run {self} first.") from None
        except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file
            raise UserError(
                f"{self.predictions}: is damaged ({error}). Run test_model.py --run {self} again."
            ) from None

    def _read_json(self, path: Path, missing: str) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. {missing}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Restore it, or run its script again.") from None
        if not isinstance(content, dict):
            raise UserError(f"{path}: does not hold names and values. Restore it, or run its script again.")
        return content


if os.name == "nt":
    import msvcrt

    def _lock(file: IO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
