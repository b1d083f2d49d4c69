"""Slices and masks on disk: find, check, split by patient, decode. The only module that opens a training set."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

import phantom
import tiff
from constants import (
    CHANNELS,
    DATA_DIR,
    FLAIR,
    IMAGE_SIZE,
    RANDOM_STATE,
    SYNTHETIC_DIR,
    TEST_SHARE,
    VALIDATION_SHARE,
)
from utils import UserError, write_text

SPLITS = ("train", "validation", "test")
COLUMNS = ["patient", "image_path", "mask_path"]  # of train.csv, validation.csv, test.csv
PRE, POST = 0, 2  # indices of the channels on both sides of FLAIR
FEWEST_PATIENTS = 3  # one for each split
SHOWN = 10  # problems printed of a folder
PIXEL = {"RGB": (CHANNELS,), "L": ()}  # shape of one pixel in each mode
NESTED_COPIES = {"kaggle_3m", "lgg-mri-segmentation"}  # the Kaggle archive holds the whole set twice
HOW_TO_GET = (
    "Run download_data.py to get the data set, name the folder kaggle_3m of a copy with --data, or leave --data out to "
    "run on synthetic patients."
)
PATIENTS_FILE = Path(__file__).parent / "lgg-mri-segmentation" / "patients.csv"  # all ids, slices each, 12 in_subset


@dataclass
class Slices:
    """Decoded slices, in the order of their table: on the device that computes, or on the host.

    Attributes:
        images: uint8 [N, 256, 256, 3]; pre-contrast, FLAIR, post-contrast.
        masks: uint8 [N, 256, 256]; 1 on the FLAIR abnormality, else 0.
        table: N rows of patient, image_path, mask_path.
    """

    images: torch.Tensor
    masks: torch.Tensor
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.images)

    @property
    def patients(self) -> list[str]:
        """The patient of each slice."""
        return self.table["patient"].tolist()

    def batch(self, rows: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and masks of the given row numbers (int64 [B], on the CPU), on the device."""
        if self.images.device == device:
            rows = rows.to(device, non_blocking=True)
            return self.images[rows], self.masks[rows]
        batch = (self.images[rows], self.masks[rows])
        return tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)

    def to(self, device: torch.device) -> "Slices":
        """On the device, if they fill less than a quarter of the memory that is free there; else left on the host."""
        if device.type == "cuda" and self.images.nbytes + self.masks.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return Slices(self.images.to(device), self.masks.to(device), self.table)

    def describe(self) -> str:
        """Patients, slices and the share of tumour slices, for people."""
        if not len(self):
            return "no patients"
        tumour = int(self.masks.flatten(1).any(1).sum())
        return (
            f"{self.table['patient'].nunique():3d} patients  {len(self):5d} slices  "
            f"{tumour:4d} with tumour ({tumour / len(self):.0%})"
        )


# --- Find ------------------------------------------------------------------------------------------------------


def find_folder(path: str | None) -> Path:
    """The folder that holds the patient folders: `path`, or the kaggle_3m in it.

    Without a path: the real data set if it is in its default place, else synthetic patients, made when first needed.
    """
    if path is None:
        if Path(DATA_DIR).is_dir():
            return Path(DATA_DIR)
        if Path(DATA_DIR).is_symlink():
            raise UserError(f"{DATA_DIR}: a link to a folder that is gone. Run download_data.py again, or remove it.")
        try:
            phantom.write_patients(Path(SYNTHETIC_DIR))
        except ValueError as error:
            raise UserError(f"{error}") from None
        return Path(SYNTHETIC_DIR)
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"{folder}: no such folder. {HOW_TO_GET}")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, not a folder. Unpack it and name the folder kaggle_3m. {HOW_TO_GET}")
    inner = folder / "kaggle_3m"
    return inner if inner.is_dir() else folder


def find_slices(folder: Path, only: Iterable[str] | None = None) -> pd.DataFrame:
    """Every slice and its mask: patient, image_path, mask_path (relative to `folder`, POSIX), sorted.

    Patients are in the order of their names, slices in the order of their numbers. Looks into the patient folders
    and no deeper. `only` names the patients to use.

    Raises: UserError with every problem of the folder, those inside the files included.
    """
    patients = _patient_folders(folder)
    problems = []
    if only is not None:
        only = list(only)
        problems += [
            f"{folder / name}: no such folder, but the list of patients names it. Remove the name or restore it."
            for name in only
            if name not in patients
        ]
        patients = [p for p in patients if p in set(only)]
    rows = []
    for patient in patients:
        found, wrong = _find_patient(folder, patient)
        rows += found
        problems += wrong
    if not patients and not problems:
        problems.append(f"{folder}: holds no patient folders. {HOW_TO_GET}")
    elif len(patients) < FEWEST_PATIENTS:
        problems.append(
            f"{folder}: {len(patients)} patient(s), but training, validation and test need one each. "
            f"Use at least {FEWEST_PATIENTS}."
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    if problems:
        problems += _decode(folder, table)[1]
        raise UserError(_report(folder, problems))
    return table


def _patient_folders(folder: Path) -> list[str]:
    """Names of the folders to look into, sorted; not the second copy of the whole set, nor anything hidden."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [name for name in names if name not in NESTED_COPIES]


def _find_patient(folder: Path, patient: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(rows of the table, problems) of one patient, sorted by slice number."""
    pattern = re.compile(re.escape(patient) + r"_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)
    images: dict[int, str] = {}
    masks: dict[int, str] = {}
    problems = []
    for entry in sorted(entry.name for entry in (folder / patient).iterdir()):
        if entry.startswith(".") or not entry.lower().endswith((".tif", ".tiff")):
            continue
        match = pattern.fullmatch(entry)
        if not match:
            problems.append(
                f"{folder / patient / entry}: not named like a slice of this patient. "
                f"Rename it to {patient}_NUMBER.tif or {patient}_NUMBER_mask.tif, or remove it."
            )
            continue
        kind = masks if match["mask"] else images
        number = int(match["number"])
        if number in kind:
            problems.append(
                f"{folder / patient / entry}: the same slice as {kind[number]}, number {number}. Remove one."
            )
            continue
        kind[number] = entry
    if not images and not masks:
        problems.append(f"{folder / patient}: holds no slices. Remove the folder or restore its files.")
    for number in sorted(images.keys() - masks.keys()):
        problems.append(f"{folder / patient / images[number]}: has no mask. Restore {patient}_{number}_mask.tif.")
    for number in sorted(masks.keys() - images.keys()):
        problems.append(f"{folder / patient / masks[number]}: has no image. Restore {patient}_{number}.tif.")
    paired = sorted(images.keys() & masks.keys())
    return [(patient, f"{patient}/{images[n]}", f"{patient}/{masks[n]}") for n in paired], problems


def slice_number(image_path: str) -> int:
    """The number in the name of a slice's file."""
    return int(re.search(r"_(\d+)\.tiff?$", image_path, re.IGNORECASE)[1])


def institution(patient: str) -> str:
    """The code of the hospital in a patient id such as TCGA_CS_4942_19970222; "unknown" in ids of another kind."""
    parts = patient.split("_")
    return parts[1] if len(parts) > 2 else "unknown"


def sequences(images: np.ndarray) -> str:
    """Which sequences a patient has (uint8 [S, H, W, 3]): where one was not acquired, the set repeats FLAIR."""
    lacks_pre, lacks_post = (np.array_equal(images[..., c], images[..., FLAIR]) for c in (PRE, POST))
    if lacks_pre and lacks_post:
        return "FLAIR only"
    return "no pre-contrast" if lacks_pre else "no post-contrast" if lacks_post else "all three"


def published_patients(subset: bool = False) -> dict[str, int]:
    """{patient: slices} of the data set as published: all 110 patients, or the 12 of the 100 MB run."""
    table = pd.read_csv(PATIENTS_FILE)
    if subset:
        table = table[table["in_subset"] == 1]
    return dict(zip(table["patient"], table["slices"].tolist(), strict=True))


def is_published(table: pd.DataFrame) -> bool:
    """Whether every patient of the table has a name of the published data set."""
    return set(table["patient"]) <= published_patients().keys()


def is_synthetic(table: pd.DataFrame) -> bool:
    """Whether any patient of the table was made by phantom.py."""
    return any(phantom.is_synthetic(patient) for patient in table["patient"].unique())


# --- Split -----------------------------------------------------------------------------------------------------


def assign_patients(patients: Iterable[str]) -> dict[str, str]:
    """{patient: "train" | "validation" | "test"}; depends on the set of ids alone. Needs at least three patients."""
    rest, test = train_test_split(sorted(set(patients)), test_size=TEST_SHARE, random_state=RANDOM_STATE)
    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=RANDOM_STATE)
    return {p: split for split, group in zip(SPLITS, (train, validation, test), strict=True) for p in group}


def assign_fold(patients: Iterable[str], number: int, folds: int) -> dict[str, str]:
    """As `assign_patients`, with fold 1, 2, ... of `folds` as the test patients: each patient is in one fold.

    The other patients are divided into training and validation as ever. Depends on the set of ids alone.
    Raises: UserError when there are too few patients for so many folds.
    """
    shuffled = np.random.default_rng(RANDOM_STATE).permutation(sorted(set(patients))).tolist()
    test = shuffled[number - 1 :: folds]
    rest = sorted(set(shuffled) - set(test))
    largest = -(-len(shuffled) // folds)
    if folds > len(shuffled) or len(shuffled) - largest < FEWEST_PATIENTS - 1:
        raise UserError(f"{len(shuffled)} patients are too few for {folds} folds. Use fewer folds or more patients.")
    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=RANDOM_STATE)
    return {p: split for split, group in zip(SPLITS, (train, validation, test), strict=True) for p in group}


def read_assignment(path: Path, patients: Iterable[str], folder: Path) -> tuple[dict[str, str], list[str]]:
    """A saved assignment (CSV with the columns patient and split) for the patients that are in `folder`.

    Returns: the assignment, and the patients that it names but that have no folder.
    Raises: UserError for an unreadable file, an unknown split, a patient named twice, folders it does not name,
        or no patient left for training or validation.
    """
    rows = _read_csv(path, ["patient", "split"])
    problems = []
    named: dict[str, str] = {}
    for line, (patient, split) in enumerate(rows[["patient", "split"]].itertuples(index=False), start=2):
        if split not in SPLITS:
            problems.append(f"{path}, line {line}: {split!r} is no split. Use one of {', '.join(SPLITS)}.")
        elif patient in named:
            problems.append(f"{path}, line {line}: {patient} is named twice. Remove one of the lines.")
        else:
            named[patient] = split
    present = sorted(set(patients))
    problems += [
        f"{folder / patient}: is not named in {path}. Add it there, or remove the folder."
        for patient in present
        if patient not in named
    ]
    assignment = {patient: named[patient] for patient in present if patient in named}
    if not problems:
        problems += [
            f"{path}: leaves no patient with a folder for {split}. Assign at least one."
            for split in ("train", "validation")
            if split not in assignment.values()
        ]
    if problems:
        raise UserError(_report(path, problems))
    return assignment, sorted(named.keys() - set(present))


def split_tables(table: pd.DataFrame, assignment: dict[str, str]) -> dict[str, pd.DataFrame]:
    """The rows of each split, in the order of `table`."""
    of_row = table["patient"].map(assignment)
    return {split: table[of_row == split].reset_index(drop=True) for split in SPLITS}


def write_tables(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    """train.csv, validation.csv and test.csv of a run."""
    for split, table in tables.items():
        write_text(run / f"{split}.csv", table.to_csv(index=False, lineterminator="\n"))


def read_table(run: Path, split: str) -> pd.DataFrame:
    """train.csv, validation.csv or test.csv of a run.

    Raises: UserError when it is missing, is not such a table, or holds a path that leaves the data folder.
    """
    path = run / f"{split}.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such file. Run train_model.py --run {run} first.")
    table = _read_csv(path, COLUMNS)[COLUMNS]
    problems = [
        f"{path}, line {line}: {text!r} leaves the data folder. Paths must be relative to it, such as PATIENT/FILE.tif."
        for line, row in enumerate(table.itertuples(index=False), start=2)
        for text in (row.image_path, row.mask_path)
        if leaves_folder(text)
    ]
    if problems:
        raise UserError(_report(path, problems))
    return table


def read_patient_list(path: Path) -> list[str]:
    """Patient ids, one a line; blank lines and lines that begin with # are passed over."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Name a text file with one patient a line.") from None
    patients = [line for line in lines if line and not line.startswith("#")]
    if not patients:
        raise UserError(f"{path}: names no patient. Write one patient folder a line.")
    return sorted(set(patients))


def leaves_folder(text: str) -> bool:
    """Whether a relative path of a table or an archive could point outside of its folder, on any system."""
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    return posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts or "\0" in text


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV file as text, nothing guessed; every cell of the named columns filled."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as CSV ({reason}). Expected columns {', '.join(columns)}.") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}. Expected columns {', '.join(columns)}.")
    empty = table[columns].eq("").any(axis=1)
    if empty.any():
        raise UserError(f"{path}, line {int(np.argmax(empty)) + 2}: an empty cell. Fill in {', '.join(columns)}.")
    return table


# --- Decode ----------------------------------------------------------------------------------------------------


def load(folder: Path, tables: dict[str, pd.DataFrame]) -> dict[str, Slices]:
    """Decode and check every file of the tables, each once.

    Raises: UserError with every file that is not what it should be.
    """
    loaded, problems = {}, []
    for split, table in tables.items():
        loaded[split], wrong = _decode(folder, table)
        problems += wrong
    if problems:
        raise UserError(_report(folder, problems))
    return loaded


def _decode(folder: Path, table: pd.DataFrame) -> tuple[Slices, list[str]]:
    """(decoded slices, problems); slices with a problem stay undefined."""
    images = np.empty((len(table), IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
    masks = np.empty((len(table), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    problems = []
    for row, (_, image_path, mask_path) in enumerate(table.itertuples(index=False)):
        for read, path, target in ((read_image, image_path, images), (read_mask, mask_path, masks)):
            try:
                target[row] = read(folder / path)
            except ValueError as error:
                problems.append(str(error))
    return Slices(torch.from_numpy(images), torch.from_numpy(masks), table), problems


def read_image(path: Path) -> np.ndarray:
    """One slice: uint8 [256, 256, 3]. Raises: ValueError naming the file, what is wrong, and the remedy."""
    return _read_tiff(path, "RGB", "an image")


def read_mask(path: Path) -> np.ndarray:
    """One mask: uint8 [256, 256], 0 or 1. The file holds 0 and one positive value. Raises: as `read_image`."""
    pixels = _read_tiff(path, "L", "a mask")
    lesion = pixels == max(pixels.max(), 1)
    if np.count_nonzero(lesion) != np.count_nonzero(pixels):
        values = np.unique(pixels)
        shown = ", ".join(str(v) for v in values[:5]) + (", ..." if len(values) > 5 else "")
        raise ValueError(f"{path}: a mask with the values {shown}. Save it with 0 and one positive value only.")
    return lesion.view(np.uint8)


def _read_tiff(path: Path, mode: str, what: str) -> np.ndarray:
    """The pixels of a single-page TIFF of the expected size and mode."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}. Restore it from the data set.") from None
    pixels = tiff.read_plain(content)
    if pixels is not None and pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, *PIXEL[mode]):
        return pixels
    try:
        with Image.open(io.BytesIO(content), formats=["TIFF"]) as picture:
            pages, found, size = getattr(picture, "n_frames", 1), picture.mode, picture.size
            if pages == 1 and found == mode and size == (IMAGE_SIZE, IMAGE_SIZE):
                return np.asarray(picture)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(
            f"{path}: cannot be read as a TIFF ({type(error).__name__}: {error}). Restore it from the data set."
        ) from None
    if pages != 1:
        raise ValueError(f"{path}: has {pages} pages. Save {what} as a TIFF with one page.")
    if found != mode:
        raise ValueError(f"{path}: has the mode {found}, but {what} must have {mode} (8 bits). Convert it.")
    raise ValueError(
        f"{path}: is {size[0]}x{size[1]} pixels, but {what} must be {IMAGE_SIZE}x{IMAGE_SIZE}. Resize image and mask."
    )


def _report(source: Path, problems: list[str]) -> str:
    """One problem as it is; several as a list."""
    return problems[0] if len(problems) == 1 else f"{source}: {len(problems)} problems\n{listed(problems)}"


def listed(problems: list[str]) -> str:
    """The first problems, a line each, and how many more there are."""
    more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n".join([*(f"  - {problem}" for problem in problems[:SHOWN]), *more])
