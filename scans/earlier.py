"""An earlier prediction in the output folder: what is done is passed over, and masks are never replaced unasked."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scans.check import CORRECTED, NETWORK
from scans.cohort import Patient
from scans.items import OURS
from scans.masks import read_scan_masks
from scans.scan import Scan
from scans.write import Row, file_names, read_json, read_record, record_path
from utils import UserError, list_few, to_json, write_text


def refuse_folder(out: Path) -> None:
    """Raise UserError if an output folder holds anything but an earlier prediction."""
    seen = out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir())  # other processes begin, too
    if (seen and not (out / OURS).is_file()) or out.is_file():
        raise UserError(f"{out}: is not empty, and holds no earlier prediction. Name another folder with --out.")


def begin(out: Path, settings: dict[str, Any], patients: Iterable[str], overwrite: bool) -> None:
    """Write the settings of a prediction into its folder; with `overwrite`, remove the files of an earlier one first.

    settings: of network and masks. Raises: UserError if there are masks of other patients, or with other settings.
    """
    path, settings = out / OURS, json.loads(to_json(settings))
    earlier = {folder.name for folder in out.glob("*") if record_path(out, folder.name).is_file()}
    before = {} if overwrite else read_json(path)
    remedy = "another folder with --out, or replace all masks with --overwrite."
    if overwrite:
        for name in earlier:
            remove(out, name)
    elif others := sorted(earlier.difference(patients)):
        raise UserError(f"{out}: holds masks of {list_few(others)}, who is not named now. Name all, or {remedy}")
    different = [f"{name} {before[name]}, not {new}" for name, new in settings.items() if before.get(name, new) != new]
    if different:
        raise UserError(f"{out}: holds masks made with {'; '.join(different)}. Give the same options, name {remedy}")
    if before != settings:
        write_text(path, to_json(settings))


def remove(out: Path, patient: str) -> None:
    """Remove the files of a patient that its record names, and no other."""
    record = read_record(out, patient)
    for name in (*record.get("masks", ()), *record.get("files", ()), record_path(out, patient).name):
        (out / patient / Path(name).name).unlink(missing_ok=True)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_inputs(patient: Patient, spacing: Sequence[float] | None) -> str:
    """Return a text that tells apart what a patient is read from, by path, size and time of the files."""
    about = [str(spacing)]
    for kind, item in patient.items.items():
        for path in item.paths:
            state = path.stat() if path.exists() else None
            about.append(f"{kind} {path!r} {(state.st_size, state.st_mtime_ns) if state else 'gone'}")
    return digest("\n".join(about).encode())


def is_done(folder: Path, record: Row, inputs: str) -> bool:
    """Return whether the record of a patient is of these inputs, and all its files are there, with unchanged masks."""
    if not record or record["inputs"] != inputs:
        return False
    return all((folder / name).is_file() for name in (*record["masks"], *record["files"])) and unchanged(folder, record)


def unchanged(folder: Path, record: Row) -> bool:
    """Return whether there is a record, and the masks that are in its folder are as it says."""
    known = [(folder / name, content) for name, content in record.get("masks", {}).items()]
    return bool(known) and all(digest(path.read_bytes()) == content for path, content in known if path.is_file())


def read_written(folder: Path, scan: Scan, record: Row) -> list[np.ndarray] | None:
    """Return the masks of a scan in its output folder, uint8 [H, W], 0 or 1, of each slice.

    None without any, or with some of the network's only, as it was stopped.
    Raises: ValueError that names a file which is missing, damaged, or does not fit the scan.
    """
    paths = [folder / name for name in file_names(scan, "mask")]
    lacking = [path for path in paths if not path.is_file()]
    if len(lacking) == len(paths) or (lacking and origin_of(folder, record)["origin"] == NETWORK):
        return None
    remedy = "Restore it, or replace all masks with --overwrite."
    if lacking:
        raise ValueError(f"{lacking[0]}: no such file, beside other masks of this scan. {remedy}")
    try:
        return read_scan_masks(paths, scan)[0]
    except Exception as error:  # libraries raise many kinds for a damaged file
        raise ValueError(f"{paths[0]}: cannot be used: {' '.join(str(error).split())} {remedy}") from None


def origin_of(folder: Path, record: Row) -> Row:
    """Return the columns of patients.csv that say who made the masks in a folder: as its record, or a person since."""
    if not unchanged(folder, record):
        return {"origin": CORRECTED}
    names = ("origin", "expected_dice", "low", "high")
    return {name: record["patient"][name] for name in names if name in record["patient"]}
