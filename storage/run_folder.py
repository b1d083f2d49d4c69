"""The folder of one run: the name of every file in it (KNOWN), its reader and its writer."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset.slices import COLUMNS, slice_number
from dataset.split import SPLITS
from utils import PROJECT, UserError, atomic_write, read_csv, to_csv, to_json

RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
TEST_TABLES = {"slices": "test_results.csv", "patients": "test_patients.csv", "lesions": "test_lesions.csv"}
GENOMICS = ("shape_features.csv", "associations.csv", "auc.csv", "agreement.csv")
PRIVATE = ("data", "command")  # of config.json: names of folders of this machine, which nothing published repeats
DECIMAL_COMMA = r"^(-?\d+),(\d+)$"  # of a table that a spreadsheet has saved
EPOCH_FILE = re.compile(r"epoch_([1-9]\d*)\.pt")
KNOWN = (  # every file that a run may hold
    "config.json", *(f"{split}.csv" for split in SPLITS), "epochs.csv", "results.csv", "metrics.json",
    *TEST_TABLES.values(), "test_predictions.npz", *GENOMICS, "plots/*.png", "report.html",
    "models/resume.pt", "models/epoch_*.pt",
)  # fmt: skip


class RunFolder:
    """The files of one run. Readers raise UserError with the remedy when a file is missing; writers are atomic."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.models = self.path / "models"
        self.resume = self.models / "resume.pt"

    def __str__(self) -> str:
        return str(self.path)

    def write(self, name: str, content: bytes | pd.DataFrame | dict) -> None:
        """Write a file atomically, tables as CSV, dicts as JSON; `name` is relative to the folder."""
        if not isinstance(content, bytes):
            content = (to_csv if isinstance(content, pd.DataFrame) else to_json)(content).encode()
        with atomic_write(self.path / name) as file:
            file.write(content)

    def find(self, name: str, script: str) -> Path:
        """Return the path of a file. Raises: UserError that names the script to run if it is missing."""
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path}: no such file. {self.remedy(script)}")
        return path

    def remedy(self, script: str) -> str:
        """Return what to do where a file that a script writes is missing."""
        if (self.path / "fold_1").is_dir() and not self.exists():
            return f"{self} holds the folds of a cross-validation: name one, or pool them with cross_validate.py."
        return f"Run {script} --run {self} first."

    def _read_json(self, name: str, script: str) -> dict[str, Any]:
        path = self.find(name, script)
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: is no JSON ({error}). Run {script} --run {self} again.") from None

    def known_files(self) -> list[Path]:
        return [path for pattern in KNOWN for path in sorted(self.path.glob(pattern))]

    def exists(self) -> bool:
        """Return whether the folder holds a run."""
        return (self.path / "config.json").is_file()

    def refuse_used(self, overwrite: bool = False) -> None:
        """Raise UserError if the folder holds files of a run that may not be overwritten."""
        if not overwrite and (known := self.known_files()):
            go_on = "go on with --resume, " if self.exists() else ""
            raise UserError(
                f"{self}: holds {known[0].relative_to(self.path)} already. Name another folder with --run, {go_on}or "
                "replace it with --overwrite."
            )

    def begin(self, config: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        """Write the split tables and config.json of a new run; files of an earlier run are removed."""
        for path in self.known_files():
            path.unlink()
        for split, table in tables.items():
            self.write(f"{split}.csv", table)
        self.write("config.json", config)  # last: with it a run is one that --resume goes on with

    def checkpoint(self, epoch: int) -> Path:
        return self.models / f"epoch_{epoch}.pt"

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoint files by epoch, sorted. Files with other names are ignored."""
        matches = ((EPOCH_FILE.fullmatch(path.name), path) for path in self.models.glob("epoch_*.pt"))
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    def read_config(self) -> dict[str, Any]:
        return self._read_json("config.json", "train_model.py")

    def read_split_table(self, split: str) -> pd.DataFrame:
        """Return train.csv, validation.csv or test.csv as text, by patient and number, however it was sorted since."""
        table = read_csv(self.find(f"{split}.csv", "train_model.py"), COLUMNS)
        order = table.assign(number=table["image_path"].map(slice_number)).sort_values(["patient", "number"]).index
        return table.loc[order].reset_index(drop=True)

    def read_epochs_table(self) -> pd.DataFrame:
        """Return epochs.csv; an empty table if there is none."""
        if not (self.path / "epochs.csv").is_file():
            return pd.DataFrame({"epoch": []})
        table = read_csv(self.path / "epochs.csv", ["epoch"]).replace(DECIMAL_COMMA, r"\1.\2", regex=True)
        return table.apply(pd.to_numeric)

    def write_test(self, tables: dict[str, pd.DataFrame], metrics: dict[str, Any], predicted: np.ndarray) -> None:
        """Write TEST_TABLES, metrics.json and the masks (uint8 [N, H, W], 0 or 1)."""
        for table, name in TEST_TABLES.items():
            self.write(name, tables[table])
        self.write("metrics.json", metrics)
        with atomic_write(self.path / "test_predictions.npz") as file:
            np.savez_compressed(file, predicted=predicted)

    def read_test_tables(self) -> dict[str, pd.DataFrame]:
        return {table: self.read_test_table(table) for table in TEST_TABLES}

    def read_test_table(self, table: str) -> pd.DataFrame:
        """Return one of TEST_TABLES by its key, with numbers but for the names of patients; empty cells are NaN."""
        path = self.find(TEST_TABLES[table], "test_model.py")
        text = read_csv(path, []).replace(DECIMAL_COMMA, r"\1.\2", regex=True).to_csv(index=False)
        names = {"patient": str, "institution": str}
        return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""], dtype=names)

    def is_tested(self) -> bool:
        return (self.path / "metrics.json").is_file()

    def read_metrics(self) -> dict[str, Any]:
        return self._read_json("metrics.json", "test_model.py")

    def read_predictions(self) -> np.ndarray:
        """Return the masks of test_predictions.npz, uint8 [N, H, W], 0 or 1, in the order of test_results.csv."""
        with np.load(self.find("test_predictions.npz", "test_model.py")) as archive:
            masks = archive["predicted"]
        if self.read_test_table("slices")["predicted_pixels"].tolist() != masks.sum((1, 2)).tolist():
            raise UserError(
                f"{self}: test_results.csv was sorted or changed since the test, or is older. Test it again."
            )
        return masks

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
        tables = [run.read_split_table(run.read_metrics()["split"]) for run in self.tested_runs()]
        table, masks = pd.concat(tables, ignore_index=True), self.read_predictions()
        if table["image_path"].tolist() != self.read_test_table("slices")["image_path"].tolist():
            raise UserError(f"{self}: test_results.csv has other slices than the tables of the split. Test it again.")
        return table, masks


def commit() -> str:
    """Return the commit of this checkout, followed by "changed" if its files were; "" without a checkout or git."""
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        return ""
    command = ["git", "-C", PROJECT, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= changed"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
