"""The folder of one run: the name of every file in it, its reader and its writer.

config.json, train.csv, validation.csv, test.csv, models/, epochs.csv, results.csv, metrics.json, test_*.csv, plots/,
report.html; of radiogenomics.py: shape_features.csv, associations.csv, radiogenomics.json
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset.slices import CHECKSUM, COLUMNS
from dataset.split import SPLITS
from utils import UserError, atomic_write, describe_problems, is_unsafe_path, parse_csv, to_csv, to_json

PROJECT = Path(__file__).resolve().parents[1]
RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
TEST_TABLES = {"slices": "test_results.csv", "patients": "test_patients.csv", "lesions": "test_lesions.csv"}
GENOMICS = ("shape_features.csv", "associations.csv", "radiogenomics.json")
PRIVATE = ("data", "command")  # of config.json: names of folders of this machine, which nothing published repeats
EPOCH_FILE = re.compile(r"epoch_([1-9]\d*)\.pt")
KNOWN = (  # every file that a run may hold
    "config.json",
    *(f"{split}.csv" for split in SPLITS),
    "epochs.csv",
    "results.csv",
    "metrics.json",
    *TEST_TABLES.values(),
    "test_predictions.npz",
    *GENOMICS,
    "plots/*.png",
    "report.html",
    "models/resume.pt",
    "models/epoch_*.pt",
)


class RunFolder:
    """The files of one run. Readers raise UserError with the remedy when a file is missing; writers are atomic."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.models = self.path / "models"
        self.resume = self.models / "resume.pt"

    def __str__(self) -> str:
        return str(self.path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically; `name` is relative to the folder."""
        with atomic_write(self.path / name) as file:
            file.write(content)

    def read(self, name: str, script: str) -> bytes:
        """Return the content of a file. Raises: UserError that names the script to run if it is missing."""
        path = self.path / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. Run {script} --run {self} first.") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from None

    def _read_json(self, name: str, script: str) -> dict[str, Any]:
        try:
            return json.loads(self.read(name, script))
        except ValueError as error:
            raise UserError(f"{self.path / name}: is no JSON ({error}). Run {script} --run {self} again.") from None

    # --- Begin ---

    def known_files(self) -> list[Path]:
        """Return the files that bear a name of a run's."""
        return [path for pattern in KNOWN for path in sorted(self.path.glob(pattern))]

    def exists(self) -> bool:
        """Return whether the folder holds a run."""
        return (self.path / "config.json").is_file()

    def refuse_used(self, overwrite: bool = False) -> None:
        """Raise UserError if the folder is a file, or holds files of a run and may not be overwritten."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self}: is a file. Name a folder with --run.")
        if not overwrite and (known := self.known_files()):
            raise UserError(
                f"{self}: holds {known[0].relative_to(self.path)} already. Name another folder with --run, go on with "
                "--resume, or replace the run with --overwrite."
            )

    def begin(self, config: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        """Write config.json and the split tables of a new run; files of an earlier run are removed."""
        for path in self.known_files():
            path.unlink()
        self.write_config(config)
        for split, table in tables.items():
            self.write(f"{split}.csv", to_csv(table).encode())

    # --- Checkpoints ---

    def checkpoint(self, epoch: int) -> Path:
        return self.models / f"epoch_{epoch}.pt"

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoint files by epoch, sorted. Files with other names are ignored."""
        if not self.models.is_dir():
            return {}
        matches = ((EPOCH_FILE.fullmatch(path.name), path) for path in self.models.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    # --- Settings and split ---

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json: settings, options, data folder, patients and slices per split, hardware, versions."""
        self.write("config.json", to_json(config).encode())

    def read_config(self) -> dict[str, Any]:
        return self._read_json("config.json", "train_model.py")

    def is_synthetic(self) -> bool:
        """Return whether the run was trained on synthetic patients."""
        return self.read_config()["synthetic"]

    def read_split_table(self, split: str) -> pd.DataFrame:
        """Return train.csv, validation.csv or test.csv; a path that leaves the data folder is an error."""
        path = self.path / f"{split}.csv"
        table = parse_csv(self.read(path.name, "train_model.py"), path, COLUMNS)
        table = table[[column for column in (*COLUMNS, CHECKSUM) if column in table]]
        problems = [
            f"{path}, line {line}: {text!r} leaves the data folder. "
            "Paths must be relative to it, such as PATIENT/FILE.tif."
            for line, row in enumerate(table.itertuples(index=False), start=2)
            for text in (row.image_path, row.mask_path)
            if is_unsafe_path(text)
        ]
        if problems:
            raise UserError(describe_problems(path, problems))
        return table

    # --- Epochs ---

    def write_epochs(self, epochs: pd.DataFrame) -> None:
        """Write epochs.csv, every metric of each epoch."""
        self.write("epochs.csv", to_csv(epochs).encode())

    def read_epochs_table(self) -> pd.DataFrame:
        """Return epochs.csv as numbers; an empty table if there is none."""
        path = self.path / "epochs.csv"
        if not path.is_file():
            return pd.DataFrame({"epoch": []})
        return parse_csv(self.read(path.name, "train_model.py"), path, ["epoch"]).apply(pd.to_numeric)

    def write_results(self, epochs: pd.DataFrame) -> None:
        """Write results.csv, loss and IoU of each epoch."""
        self.write("results.csv", to_csv(epochs[RESULT_COLUMNS]).encode())

    # --- Test ---

    def write_test(
        self, tables: dict[str, pd.DataFrame], metrics: dict[str, Any], predicted: np.ndarray | None
    ) -> None:
        """Write test_results.csv, test_patients.csv, test_lesions.csv, metrics.json and test_predictions.npz.

        Args:
            tables: the keys of TEST_TABLES.
            predicted: the masks in the order of the slices, uint8 [N, H, W], 0 or 1; None writes no such file.
        """
        for table, name in TEST_TABLES.items():
            self.write(name, to_csv(tables[table]).encode())
        self.write("metrics.json", to_json(metrics).encode())
        if predicted is not None:
            with io.BytesIO() as file:
                np.savez_compressed(file, predicted=predicted)
                self.write("test_predictions.npz", file.getvalue())

    def read_test_tables(self) -> dict[str, pd.DataFrame]:
        """Return test_results.csv, test_patients.csv and test_lesions.csv under the keys of TEST_TABLES."""
        return {table: self.read_test_table(table) for table in TEST_TABLES}

    def read_test_table(self, table: str) -> pd.DataFrame:
        """Return one of TEST_TABLES by its key."""
        return pd.read_csv(
            io.BytesIO(self.read(TEST_TABLES[table], "test_model.py")),
            keep_default_na=False,
            na_values=[""],
            dtype={"patient": str, "institution": str},
        )

    def is_tested(self) -> bool:
        return (self.path / "metrics.json").is_file()

    def read_metrics(self) -> dict[str, Any]:
        return self._read_json("metrics.json", "test_model.py")

    def read_predictions(self) -> np.ndarray:
        """Return the masks of test_predictions.npz, uint8 [N, H, W], 0 or 1."""
        with np.load(io.BytesIO(self.read("test_predictions.npz", "test_model.py"))) as archive:
            return archive["predicted"]

    def tested_runs(self) -> list["RunFolder"]:
        """Return the folds of a cross-validation, or the run itself."""
        folds = self.read_metrics().get("folds")
        return [RunFolder(self.path / f"fold_{row['fold']}") for row in folds] if folds else [self]

    def read_tested(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the table of the tested slices, and their predicted masks in this order, uint8 [N, H, W], 0 or 1.

        Raises: UserError for scored masks (score_masks.py), whose images are not recorded.
        """
        if "masks" in self.read_metrics():
            raise UserError(f"{self}: holds scored masks, not a run. Name a run that test_model.py has tested.")
        runs = self.tested_runs()
        tables = [run.read_split_table(run.read_metrics()["split"]) for run in runs]
        masks = [run.read_predictions() for run in runs]
        for run, table, predicted in zip(runs, tables, masks, strict=True):
            if len(table) != len(predicted):
                raise UserError(f"{run}: {len(table)} slices, but {len(predicted)} predicted masks. Test it again.")
        return pd.concat(tables, ignore_index=True), np.concatenate(masks)

    # --- Radiogenomics ---

    def write_genomics(self, features: str, associations: str, result: dict[str, Any]) -> None:
        """Write shape_features.csv, associations.csv (their text) and radiogenomics.json."""
        for name, text in zip(GENOMICS, (features, associations, to_json(result)), strict=True):
            self.write(name, text.encode())

    def read_genomics(self, predicted: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]] | None:
        """Return what `write_genomics` wrote for these predicted masks; None if there is nothing."""
        if not all((self.path / name).is_file() for name in GENOMICS):
            return None
        features, associations, result = (self.read(name, "radiogenomics.py") for name in GENOMICS)
        result = json.loads(result)
        if result["predictions"] != masks_digest(predicted):
            return None
        text = {"keep_default_na": False, "na_values": [""]}
        labels = dict.fromkeys(("patient", *result["labels"]), str)
        return (
            pd.read_csv(io.BytesIO(features), dtype=labels, **text).fillna({"reason": "", "predicted_reason": ""}),
            pd.read_csv(io.BytesIO(associations), **text),
            result,
        )


def masks_digest(masks: np.ndarray) -> str:
    """Return the SHA-256 of masks (uint8, 0 or 1)."""
    return hashlib.sha256(np.packbits(masks)).hexdigest()


def commit() -> str:
    """Return the commit of this checkout, followed by "changed" if its files were; "" without a checkout or git."""
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", PROJECT, *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + (" changed" if changed else "")
