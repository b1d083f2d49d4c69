"""Masks of an earlier prediction in the output folder: never replaced, and measured as they are, edited or not."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from scans.check import CORRECTED, NETWORK
from scans.masks import read_mask, read_mask_stack
from scans.scan import PICTURES, Scan, file_ending
from scans.write import COLUMNS, PATIENTS, SLICES, Row, file_names
from utils import UserError, read_csv, write_text


def read_earlier(out: Path, patients: Iterable[str]) -> dict[str, Row]:
    """Return the rows of patients.csv of an earlier prediction by patient, as text; none without the file.

    patients: those of this one. Raises: UserError if it lacks some, whose rows and masks would be of another cohort.
    """
    if not (out / PATIENTS).is_file():
        return {}
    rows = {row["patient"]: row for row in read_csv(out / PATIENTS, ["patient"]).to_dict("records")}
    if others := sorted(rows.keys() - set(patients)):
        few = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{out}: holds masks of {few}, which this command does not name. Name all patients, or another folder with "
            "--out, or replace all masks with --overwrite."
        )
    return rows


def read_written(out: Path, scan: Scan) -> list[np.ndarray] | None:
    """Return the masks of a scan in the output folder, uint8 [H, W], 0 or 1, of each slice; None without any.

    Raises: ValueError that names a file which is missing, damaged, or does not fit the scan.
    """
    paths = [out / scan.name / name for name in file_names(scan, "mask")]
    lacking = [path for path in paths if not path.is_file()]
    if len(lacking) == len(paths):
        return None
    remedy = "Restore it, or replace all masks with --overwrite."
    if lacking:
        raise ValueError(f"{lacking[0]}: no such file, beside other masks of this scan. {remedy}")
    try:
        if file_ending(paths[0]) in PICTURES:
            masks = [read_mask(path) for path in paths]
        else:
            stack, _, grid = read_mask_stack(paths[0])
            masks = list(stack)
            if scan.grid and not (grid and scan.grid.matches(grid)):
                raise ValueError("lies elsewhere in space than the scan.")
        if [mask.shape for mask in masks] != [plane.shape[:2] for plane in scan.slices]:
            raise ValueError("is not of the size of the scan.")
    except Exception as error:  # libraries raise many kinds for a damaged file
        raise ValueError(f"{paths[0]}: cannot be used: {' '.join(str(error).split())} {remedy}") from None
    return masks


def describe_predicted(masks: Sequence[np.ndarray]) -> Row:
    """Return the columns of patients.csv that say that masks are as the network made them."""
    return {"origin": NETWORK, "network_mask": digest(masks)}


def describe_written(masks: Sequence[np.ndarray], row: Row) -> Row:
    """Return the columns of patients.csv that say where masks come from that were in the output folder.

    row: of the patient in the earlier table; of masks as the network made them, what was expected still holds.
    """
    network = row.get("network_mask", "")
    if digest(masks) != network:
        return {"origin": CORRECTED, "network_mask": network}
    known = {name: float(row[name]) for name in ("expected_dice", "low", "high") if row.get(name)}
    return {"origin": NETWORK, "network_mask": network} | known


def digest(masks: Sequence[np.ndarray]) -> str:
    """Return a text that tells apart masks (uint8 0 or 1) by their pixels alone, not by how they were saved."""
    content = hashlib.sha256()
    for mask in masks:
        content.update(f"{mask.shape}".encode() + np.packbits(mask > 0).tobytes())
    return f"sha256:{content.hexdigest()[:16]}"


def forget(out: Path, patient: str) -> None:
    """Remove the rows of a patient from both tables, before new ones are appended."""
    for name in (SLICES, PATIENTS):
        table = read_csv(out / name, ["patient"])
        others = table[table["patient"] != patient].reindex(columns=COLUMNS[name], fill_value="")
        write_text(out / name, others.to_csv(index=False, lineterminator="\n"))
