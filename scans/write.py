"""What predict_model.py writes: masks in the form of the scan's files, one sheet, areas and volumes in tables.

PATIENT/PATIENT_mask.json is the record of a patient. By it a later call passes over what is done, and never replaces a
mask that somebody corrected.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from constants import FLAIR, POST, PRE, RESEARCH_USE
from dataset.folder import GRID
from dataset.synthetic import write_slice
from scans import medical
from scans.check import CORRECTED
from scans.geometry import masks_to_network, network_affine, network_spacing, to_network
from scans.items import OURS, Patient
from scans.scan import PICTURES, Scan, file_ending, safe_name
from scans.show import contact_sheet
from utils import UserError, atomic_write, counted, list_few, to_json, write_text

SLICES, PATIENTS = "slices.csv", "patients.csv"
COLUMNS = {
    SLICES: ("patient", "slice", "height", "width", "lesion_pixels", "lesion_mm2", "lesion_mm3", "reference_pixels",
             "true_positive", "dice", "source"),
    PATIENTS: ("patient", "check", "origin", "volume_ml", "expected_dice", "low", "high", "seen_in_training",
               "warnings", "slices", "lesion_slices", "lesion_pixels", "lesion_mm3", "largest_slice",
               "reference_pixels", "true_positive", "dice", "source"),
}  # fmt: skip
TRAINING_NAMES = {PRE: "pre", FLAIR: "flair", POST: "post"}
Row = dict[str, Any]  # by column; what is not known is missing


class Result(NamedTuple):
    """A scan, its masks, and what was measured."""

    scan: Scan
    head: np.ndarray  # bool [S, H, W], filled
    masks: np.ndarray  # uint8 [S, H, W], 0 or 1
    references: np.ndarray | None  # the same by a reader
    probabilities: np.ndarray | None  # float32 [S, H, W]; None of masks that were in the output folder
    rows: list[Row]  # of slices.csv
    total: Row  # of patients.csv


def make_sheet(result: Result, notice: str) -> bytes:
    """Return PATIENT_overlay.png. notice: below the sheet."""
    heading, footer = [result.scan.name, *describe(result.total)], [*filter(None, [notice]), RESEARCH_USE]
    captions = [caption(row) for row in result.rows]
    return encode_picture(contact_sheet(*result[:4], captions, heading, footer))


def write_tables(out: Path, patients: Iterable[str], failed: dict[str, str]) -> tuple[list[Row], int]:
    """Write slices.csv and patients.csv from the records, one after the other.

    failed: what is wrong with patients whose record is of an earlier call: their row says so.
    Returns: the rows of patients.csv, and how many scans are of one sequence.
    """
    totals, grey = [], 0
    with atomic_write(out / SLICES) as slices, atomic_write(out / PATIENTS) as table:
        for name, file in ((SLICES, slices), (PATIENTS, table)):
            file.write(to_lines(name, [dict(zip(COLUMNS[name], COLUMNS[name], strict=True))]))
        for record in filter(None, (read_record(out, patient) for patient in patients)):
            total = record["patient"]
            if wrong := failed.get(total["patient"]):
                total |= {"check": "yes", "warnings": f"from an earlier call, since now it cannot be read: {wrong}"}
            slices.write(to_lines(SLICES, record["slices"]))
            table.write(to_lines(PATIENTS, [total]))
            totals.append(total)
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


def encode_stack(scan: Scan, stack: np.ndarray, what: str) -> dict[str, bytes]:
    """Return masks (uint8 [S, H, W], 0 or 1) or probabilities (float32) as files by name, in the form of the scan's.

    An array [S, H, W]; NIfTI on the grid of the scan; or pictures whose 255 is 1: a mask is TIFF if the slice is, else
    PNG. what: "mask" or "probability".
    """
    names = file_names(scan, what)
    if file_ending(scan.paths[0]) in PICTURES:
        grey = (stack * np.float32(255)).round().astype(np.uint8)
        sizes = scan.sizes or [grey.shape[1:]] * len(grey)
        planes = [plane[:height, :width] for plane, (height, width) in zip(grey, sizes, strict=True)]
        return {name: encode_picture(plane, Path(name).suffix) for name, plane in zip(names, planes, strict=True)}
    if scan.grid:
        return {names[0]: medical.encode(stack, scan.grid)}
    np.save(file := io.BytesIO(), stack)
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


def write_training_slices(folder: Path, scan: Scan, masks: np.ndarray) -> Row:
    """Write the slices of a patient, their masks (uint8 [S, H, W], 0 or 1) and GRID; return what was measured."""
    images, small = to_network(scan), masks_to_network(masks, scan)
    for number, (image, mask) in enumerate(zip(images, small, strict=True), start=1):
        write_slice(folder, scan.name, number, image, mask)
    own = (images != images[..., [FLAIR]]).any((0, 1, 2))  # by channel
    used = [name for channel, name in TRAINING_NAMES.items() if channel == FLAIR or own[channel]]
    row = {"slices": len(images), "tumour_slices": int(small.any((1, 2)).sum()), "sequences": "+".join(used)}
    if scan.spacing:
        grid = {"spacing": network_spacing(scan), "affine": network_affine(scan)}
        write_text(folder / scan.name / GRID, to_json(grid | {"source": safe_name(str(scan.paths[0]))}))
        row["ml"] = round(int(masks.sum()) * float(np.prod(scan.spacing)) / 1000, 3)
        row["spacing"] = " x ".join(f"{size:.4g}" for size in scan.spacing)
    return row


# --- Areas and volumes -------------------------------------------------------------------------------------------


def measure(scan: Scan, masks: np.ndarray, references: np.ndarray | None) -> list[Row]:
    """Return a row for each slice: area in pixels and mm², volume in mm³, where the spacing is known.

    With reference masks also their pixels, those of them that are predicted, and the Dice.
    """
    rows = []
    for n, mask in enumerate(masks):
        height, width = scan.sizes[n] if scan.sizes else mask.shape
        row = {"patient": scan.name, "slice": scan.names[n], "height": height, "width": width}
        row["lesion_pixels"] = pixels = int(mask.sum())
        if scan.spacing:
            own, across, between = scan.spacing
            row |= {"lesion_mm2": pixels * own * across, "lesion_mm3": pixels * own * across * between}
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


# --- An earlier prediction in the output folder --------------------------------------------------------------------


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
    for name in earlier if overwrite else ():
        record = read_record(out, name)  # no other file is removed
        for file in (*record.get("masks", ()), *record.get("files", ()), record_path(out, name).name):
            (out / name / Path(file).name).unlink(missing_ok=True)
    if not overwrite and (others := sorted(earlier.difference(patients))):
        raise UserError(f"{out}: holds masks of {list_few(others)}, who is not named now. Name all, or {remedy}")
    different = [f"{name} {before[name]}, not {new}" for name, new in settings.items() if before.get(name, new) != new]
    if different:
        raise UserError(f"{out}: holds masks made with {'; '.join(different)}. Give the same options, name {remedy}")
    if before != settings:
        write_text(path, to_json(settings))


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
    names = (*record.get("masks", ()), *record.get("files", ()))
    there = record.get("inputs") == inputs and all((folder / name).is_file() for name in names)
    return there and unchanged(folder, record)


def unchanged(folder: Path, record: Row) -> bool:
    """Return whether there is a record, and the masks that are in its folder are as it says."""
    known = [(folder / name, content) for name, content in record.get("masks", {}).items()]
    return bool(known) and all(digest(path.read_bytes()) == content for path, content in known if path.is_file())


def origin_of(folder: Path, record: Row) -> Row:
    """Return the columns of patients.csv that say who made the masks in a folder: as its record, or a person since."""
    if not unchanged(folder, record):
        return {"origin": CORRECTED}
    names = ("origin", "expected_dice", "low", "high")
    return {name: record["patient"][name] for name in names if name in record["patient"]}
