"""The folder of one run: the name of every file in it, its reader and its writer.

config.json, train.csv, validation.csv, test.csv, models/, epochs.csv, results.csv, metrics.json, test_*.csv, plots/,
report.html; of radiogenomics.py: shape_features.csv, associations.csv, radiogenomics.json
"""

import contextlib
import hashlib
import io
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
from storage.owned_folder import OwnedFolder
from utils import UserError, describe_problems, file_lock, leaves_folder, parse_csv, to_csv, to_json

RESULT_COLUMNS = ["epoch", "training_loss", "training_iou", "validation_loss", "validation_iou"]
REPLACED = "replaced.txt"  # in DIR/previous: proves that --overwrite moved a run there
KEEP_IT = (
    "This run was replaced with --overwrite. It is removed when the first epoch of the new one is on disk. To keep it, "
    "move this folder away.\n"
)
TEST_TABLES = {"slices": "test_results.csv", "patients": "test_patients.csv", "lesions": "test_lesions.csv"}
GENOMICS = ("shape_features.csv", "associations.csv", "radiogenomics.json")
PRIVATE = ("data", "command")  # of config.json: names of folders of this machine, which nothing published repeats
EPOCH_FILE = re.compile(r"epoch_([1-9]\d*)\.pt")

BEGUN = ("config.json", *(f"{split}.csv" for split in SPLITS), "patients.txt")  # of a run without a finished epoch

# Every file that a run may hold. A new run refuses a folder in which one of them is not ours.
RESERVED = (
    "config.json",
    *(f"{split}.csv" for split in SPLITS),
    "epochs.csv",
    "results.csv",
    "metrics.json",
    *TEST_TABLES.values(),
    "test_predictions.npz",
    *GENOMICS,
    "plots/*.png",
    "plots/*.svg",
    "report.html",
    "models/resume.pt",
    "models/epoch_*.pt",
)


class RunFolder(OwnedFolder):
    """The files of one run.

    Readers raise UserError with the remedy when a file is missing, damaged or changed; writers are atomic.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        self.models = self.path / "models"
        self.resume = self.models / "resume.pt"
        self.previous = OwnedFolder(self.path / "previous")  # the run that --overwrite replaces
        self.lock: IO | None = None

    # --- Begin ---

    def refuse_used(self, overwrite: bool = False) -> None:
        """Raise UserError if the folder is a file, holds files of the user under our names, or a run or results."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self}: is a file. Name a folder with --run.")
        found = [path for pattern in RESERVED for path in sorted(self.path.glob(pattern))]
        self.refuse_foreign(*(path.relative_to(self.path).as_posix() for path in found))
        if (epochs := self.checkpoints()) and not overwrite:
            raise UserError(
                f"{self.models}: already holds a run of {len(epochs)} epoch(s). Name another folder with --run, "
                "go on with --resume, or replace that run with --overwrite."
            )
        results = [name for name in self.files() if name not in BEGUN and not name.startswith("models/")]
        if results and not overwrite:
            raise UserError(
                f"{self}: holds results, such as {results[0]}. Name another folder with --run, or replace them with "
                "--overwrite."
            )

    def refuse_other(self, asked: dict[str, Any], assignment: dict[str, str], earlier: dict[str, Any]) -> None:
        """Raise UserError if the folder holds a run with other settings, or on other patients.

        Args:
            asked: settings by name; "auto" is any.
            assignment: the split of each patient.
            earlier: the values of settings that runs of earlier versions did not record.
        """
        recorded = earlier | self.read_config()["settings"]
        different = [
            f"{n} {recorded[n]}, not {value}" for n, value in asked.items() if value not in ("auto", recorded[n])
        ]
        for split in SPLITS:
            if set(self.read_split_table(split)["patient"]) != {p for p, s in assignment.items() if s == split}:
                different.append(f"other {split} patients")
        if different:
            raise UserError(f"{self}: holds a run with {'; '.join(different)}. Name another folder with --run.")

    def begin(self, config: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        """Write config.json and the split tables of a new run.

        A run that is there is moved into DIR/previous, where it stays until the first epoch of the new one is on disk.
        Raises: UserError, before anything is changed, if the user has put files or a copy of the run there.
        """
        if self.checkpoints():
            self.previous.refuse_foreign(*self.files(), REPLACED)  # files of the user
            if self.previous.files() and not self.previous.lists(REPLACED):
                raise UserError(f"{self.previous}: holds a run that --overwrite did not put there. Move it away.")
            self.previous.write(REPLACED, KEEP_IT.encode())
            self.move_to(self.previous)
        self.remove()
        self.write_config(config)
        for split, table in tables.items():
            self.write(f"{split}.csv", to_csv(table).encode())

    def remove_previous(self) -> None:
        """Remove the run that --overwrite has replaced; not a folder of that name that the user has made."""
        if self.previous.lists(REPLACED):
            self.previous.remove()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other training processes out of the folder for as long as the block, or the process, lasts.

        The system releases the lock when the process ends, however it ends. Half-written files of a killed process
        are removed.
        """
        self.models.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                self.lock = stack.enter_context(file_lock(self.models / ".lock", wait=False))
            except BlockingIOError:
                raise UserError(
                    f"{self}: another process is training there. Wait for it, or name another --run."
                ) from None
            self.remove_temporaries()
            yield

    def refuse_replaced(self) -> None:
        """Raise UserError if the folder was removed, and perhaps made anew, since this process locked it."""
        try:
            same = os.path.samestat(os.fstat(self.lock.fileno()), os.stat(self.models / ".lock"))
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(f"{self}: was removed or replaced while this process was training there. It ends.")

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

    def complete_epochs(self) -> int:
        """Return the last epoch of epochs.csv: all that belongs to it is on disk, since its line is written last."""
        path = self.path / "epochs.csv"
        if not path.exists():
            return 0
        table = parse_csv(self.read(path.name, self._remedy("train_model.py")), path, ["epoch"])
        return max(map(int, table["epoch"]), default=0)

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
        table = parse_csv(self.read(path.name, self._remedy("train_model.py")), path, COLUMNS)[COLUMNS]
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

    def write_epochs(self, epochs: pd.DataFrame) -> None:
        """Write epochs.csv, every metric of each epoch."""
        self.write("epochs.csv", to_csv(epochs).encode())

    def append_epoch(self, record: dict[str, float]) -> None:
        """Append one line to epochs.csv, with a header if the file is new."""
        before = self.read("epochs.csv", "") if (self.path / "epochs.csv").exists() else b""
        line = to_csv(pd.DataFrame([record])).encode()
        self.write("epochs.csv", before + (line.split(b"\n", 1)[1] if before else line))

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
        for part, name in TEST_TABLES.items():
            self.write(name, to_csv(tables[part]).encode())
        self.write("metrics.json", to_json(metrics).encode())
        if predicted is not None:
            with io.BytesIO() as file:
                np.savez_compressed(file, predicted=predicted)
                self.write("test_predictions.npz", file.getvalue())

    def read_test_tables(self) -> dict[str, pd.DataFrame]:
        """Return test_results.csv, test_patients.csv and test_lesions.csv under the keys of TEST_TABLES."""
        return {
            part: pd.read_csv(
                io.BytesIO(self.read(name, self._remedy("test_model.py"))),
                keep_default_na=False,
                na_values=[""],
                dtype={"patient": str, "institution": str},
            )
            for part, name in TEST_TABLES.items()
        }

    def is_tested(self) -> bool:
        return (self.path / "metrics.json").is_file()

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json."""
        return self._read_json("metrics.json", "test_model.py")

    def read_predictions(self) -> np.ndarray:
        """Return the masks of test_predictions.npz, uint8 [N, H, W], 0 or 1."""
        with np.load(io.BytesIO(self.read("test_predictions.npz", self._remedy("test_model.py")))) as archive:
            return archive["predicted"]

    def tested_runs(self) -> list["RunFolder"]:
        """Return the folds of a cross-validation, and any other run itself."""
        folds = self.read_metrics().get("folds")
        return [RunFolder(self.path / f"fold_{each['fold']}") for each in folds] if folds else [self]

    def read_tested(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the table of the tested slices, and their predicted masks in this order, uint8 [N, H, W], 0 or 1.

        Raises: UserError for masks that score_masks.py has scored: whose images they are is not kept.
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
        """Return what `write_genomics` wrote about these predicted masks; None without, or if it was changed."""
        if not set(GENOMICS) <= set(self.files()):
            return None
        features, associations, result = (self.read(name, self._remedy("radiogenomics.py")) for name in GENOMICS)
        result = json.loads(result)
        if result["predictions"] != masks_digest(predicted):
            return None
        text = {"keep_default_na": False, "na_values": [""]}
        labels = {**dict.fromkeys(("patient", *result["labels"]), str)}
        return (
            pd.read_csv(io.BytesIO(features), dtype=labels, **text).fillna({"reason": "", "predicted_reason": ""}),
            pd.read_csv(io.BytesIO(associations), **text),
            result,
        )

    def _read_json(self, name: str, script: str) -> dict[str, Any]:
        return json.loads(self.read(name, self._remedy(script)))

    def _remedy(self, script: str) -> str:
        return f"Run {script} --run {self} first; with config.json and manifest.json, a run is moved as a whole."


def masks_digest(masks: np.ndarray) -> str:
    """Return the SHA-256 of masks (uint8, 0 or 1)."""
    return hashlib.sha256(np.packbits(masks)).hexdigest()
