"""What predict_model.py writes: masks in the form of the scan's files, one sheet, and areas and volumes in tables."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from constants import RESEARCH_USE
from scans import medical
from scans.check import CORRECTED
from scans.scan import PICTURES, Scan, file_ending, safe_name
from scans.show import contact_sheet
from utils import atomic_write, counted

SLICES, PATIENTS = "slices.csv", "patients.csv"
COLUMNS = {
    SLICES: ("patient", "slice", "height", "width", "lesion_pixels", "lesion_mm2", "lesion_mm3", "reference_pixels",
             "true_positive", "dice", "source"),
    PATIENTS: ("patient", "check", "origin", "volume_ml", "expected_dice", "low", "high", "seen_in_training",
               "warnings", "slices", "lesion_slices", "lesion_pixels", "lesion_mm3", "largest_slice",
               "reference_pixels", "true_positive", "dice", "source"),
}  # fmt: skip
Row = dict[str, Any]  # by column; what is not known is missing


class Result(NamedTuple):
    """A scan, its masks, and what was measured."""

    scan: Scan
    masks: Sequence[np.ndarray]  # uint8 [H, W], 0 or 1, of each slice
    references: Sequence[np.ndarray] | None  # the same by a reader
    probabilities: Sequence[np.ndarray] | None  # float32 [H, W]; None of masks that were in the output folder
    rows: list[Row]  # of slices.csv
    total: Row  # of patients.csv


def make_sheet(result: Result, notice: str) -> bytes:
    """Return PATIENT_overlay.png. notice: below the sheet."""
    scan, masks, references, _, rows, total = result
    heading, footer = [scan.name, *describe(total)], [*filter(None, [notice]), RESEARCH_USE]
    return encode_picture(contact_sheet(scan, masks, references, [caption(row) for row in rows], heading, footer))


def record_path(out: Path, patient: str) -> Path:
    return out / patient / f"{patient}_mask.json"


def read_record(out: Path, patient: str) -> Row:
    """Return the record of a patient, as inference.cohort writes it; {} if there is none, or a damaged one."""
    return read_json(record_path(out, patient))


def read_json(path: Path) -> Row:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def write_tables(out: Path, patients: Iterable[str]) -> tuple[list[Row], int]:
    """Write slices.csv and patients.csv from the records, one after the other.

    Returns: the rows of patients.csv, and how many scans are of one sequence.
    """
    totals, grey = [], 0
    with atomic_write(out / SLICES) as slices, atomic_write(out / PATIENTS) as table:
        for name, file in ((SLICES, slices), (PATIENTS, table)):
            file.write(to_lines(name, [dict(zip(COLUMNS[name], COLUMNS[name], strict=True))]))
        for record in filter(None, (read_record(out, patient) for patient in patients)):
            slices.write(to_lines(SLICES, record["slices"]))
            table.write(to_lines(PATIENTS, [record["patient"]]))
            totals.append(record["patient"])
            grey += record["grey"]
    return totals, grey


def to_lines(name: str, rows: list[Row]) -> bytes:
    """Return rows of a table as CSV: fractions with six decimals, what is not known as an empty cell."""
    writer = csv.writer(file := io.StringIO(), lineterminator="\n")
    for row in rows:
        cells = (row.get(column) for column in COLUMNS[name])
        writer.writerow([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in cells])
    return file.getvalue().encode()


# --- Masks and pictures as files ---------------------------------------------------------------------------------


def encode_stack(scan: Scan, planes: list[np.ndarray], what: str) -> dict[str, bytes]:
    """Return masks (uint8 [H, W], 0 or 1) or probabilities (float32) as files by name, in the form of the scan's.

    An array [S, H, W]; NIfTI on the grid of the scan; or pictures whose 255 is 1: a mask is TIFF if the slice is, else
    PNG. what: "mask" or "probability".
    """
    names = file_names(scan, what)
    if file_ending(scan.paths[0]) in PICTURES:
        grey = [(plane * 255).round().astype(np.uint8) for plane in planes]
        return {name: encode_picture(plane, Path(name).suffix) for name, plane in zip(names, grey, strict=True)}
    if scan.grid:
        return {names[0]: medical.encode(np.stack(planes), scan.grid)}
    np.save(file := io.BytesIO(), np.stack(planes))
    return {names[0]: file.getvalue()}


def file_names(scan: Scan, what: str) -> list[str]:
    """Return the names of the files of `encode_stack`."""
    if file_ending(scan.paths[0]) not in PICTURES:
        return [f"{scan.name}_{what}{'.nii.gz' if scan.grid else '.npy'}"]
    tiff = [what == "mask" and PICTURES[file_ending(path)] == "TIFF" for path in scan.paths]  # JPEG would blur
    return [f"{name}_{what}{'.tif' if own else '.png'}" for name, own in zip(scan.names, tiff, strict=True)]


def encode_picture(pixels: np.ndarray, ending: str = ".png") -> bytes:
    """Return uint8 [H, W] or [H, W, 3] as the content of a picture file."""
    smaller = [cv2.IMWRITE_PNG_COMPRESSION, 1] if ending == ".png" else []  # a sheet by 40%
    pixels = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(ending, pixels, smaller)[1].tobytes()


# --- Areas and volumes -------------------------------------------------------------------------------------------


def measure(scan: Scan, masks: Sequence[np.ndarray], references: Sequence[np.ndarray] | None) -> list[Row]:
    """Return a row for each slice: area in pixels and mm², volume in mm³, where the spacing is known.

    With reference masks also their pixels, those of them that are predicted, and the Dice.
    """
    rows = []
    for n, mask in enumerate(masks):
        row = {"patient": scan.name, "slice": scan.names[n], "height": mask.shape[0], "width": mask.shape[1]}
        row["lesion_pixels"] = pixels = int(mask.sum())
        if scan.spacing:
            height, width, between = scan.spacing
            row |= {"lesion_mm2": pixels * height * width, "lesion_mm3": pixels * height * width * between}
        if references is not None:
            row |= {"reference_pixels": int(references[n].sum()), "true_positive": int((mask & references[n]).sum())}
            row["dice"] = dice(row)
        rows.append(row | {"source": safe_name(str(scan.paths[n if len(scan.paths) == len(masks) else 0]))})
    return rows


def sum_up(rows: list[Row]) -> Row:
    """Return the row of a patient: slices, slices with lesion, sums, and the slice with the largest area."""
    largest = max(rows, key=lambda row: row["lesion_pixels"])
    total = {"patient": rows[0]["patient"], "slices": len(rows)}
    total["lesion_slices"] = sum(row["lesion_pixels"] > 0 for row in rows)
    total["largest_slice"] = largest["slice"] if largest["lesion_pixels"] else ""
    for name in ("lesion_pixels", "lesion_mm3", "reference_pixels", "true_positive"):
        if name in rows[0]:  # in this order: records are the same bytes in every process
            total[name] = sum(row[name] for row in rows)
    if "reference_pixels" in total:
        total["dice"] = dice(total)
    if "lesion_mm3" in total:
        total["volume_ml"] = total["lesion_mm3"] / 1000
    source = rows[0]["source"]
    return total | {"source": source if all(row["source"] == source for row in rows) else str(Path(source).parent)}


def dice(row: Row) -> float:
    """Return the Dice of a row with pixels of masks and references. Empty against empty is 1."""
    both = row["lesion_pixels"] + row["reference_pixels"]
    return 2 * row["true_positive"] / both if both else 1.0


def describe(total: Row) -> list[str]:
    """Return a patient's row in words."""
    volume = f" = {total['volume_ml']:,.1f} ml" if "volume_ml" in total else ""
    lesion = f"{total['lesion_slices']} of {total['slices']} slices with lesion, {total['lesion_pixels']:,} px{volume}"
    seen = ["seen in training"] if total.get("seen_in_training") == "yes" else []
    if "dice" not in total:
        return [lesion, *seen]
    return [lesion, f"Dice {total['dice']:.3f} with the reference mask of {total['reference_pixels']:,} px", *seen]


def describe_cohort(totals: list[Row]) -> str:
    """Return the totals of all patients' rows in one line."""
    lesions = sum(row["lesion_pixels"] > 0 for row in totals)
    check = sum(row["check"] == "yes" for row in totals)
    corrected = sum(row["origin"] == CORRECTED for row in totals)
    volumes = [row["volume_ml"] for row in totals if "volume_ml" in row]
    text = f"{counted(len(totals), 'scan')}: {lesions} with lesion, {check} to check, {corrected} corrected"
    if volumes:
        text += f"; {sum(volumes):,.1f} ml in {len(volumes)} of known spacing"
    if scores := [row["dice"] for row in totals if "dice" in row]:
        text += f"; mean Dice {np.mean(scores):.3f} with {counted(len(scores), 'reference mask')}"
        seen = sum("dice" in row and row.get("seen_in_training") == "yes" for row in totals)
        text += f", {seen} of them seen in training" if seen else ""
    of_tumour = [row["dice"] for row in totals if row.get("reference_pixels")]
    if empty := len(scores) - len(of_tumour):
        text += f", {empty} of them empty" + (f" ({np.mean(of_tumour):.3f} with the others)" if of_tumour else "")
    return text


def caption(row: Row) -> str:
    """Return the line below a slice: its name without that of the patient, and the predicted area, if any."""
    area = f"{row['lesion_mm2']:,.0f} mm²" if "lesion_mm2" in row else f"{row['lesion_pixels']:,} px"
    name = row["slice"].removeprefix(row["patient"]).lstrip("_") or row["slice"]
    return f"{name}   {area}" if row["lesion_pixels"] else name
