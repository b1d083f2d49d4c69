"""What predict_model.py writes: masks in the form of the scan's files, one sheet, and areas and volumes in tables."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from constants import RESEARCH_USE
from scans import medical
from scans.scan import PICTURES, Scan, file_ending, safe_name, stem
from scans.show import contact_sheet
from utils import UserError, atomic_write, is_unsafe_path, read_csv, write_text

SLICES, PATIENTS = "slices.csv", "patients.csv"
COLUMNS = {
    SLICES: ("patient", "slice", "height", "width", "lesion_pixels", "lesion_mm2", "lesion_mm3", "reference_pixels",
             "true_positive", "dice", "source"),
    PATIENTS: ("patient", "slices", "lesion_slices", "lesion_pixels", "lesion_mm3", "largest_slice", "reference_pixels",
               "true_positive", "dice", "source"),
}  # fmt: skip
WRITTEN = ("mask", "probability", "overlay")  # end the names of a patient's files
Row = dict[str, Any]  # by column; what is not known is missing


def begin_tables(out: Path) -> None:
    """Begin both tables. Of an earlier prediction, remove the files of the patients in its tables: no masks of two."""
    with contextlib.suppress(UserError):  # no table, or one that was damaged
        rows = read_csv(out / SLICES, ["patient", "slice"])
        names = {f"{name}_{ending}" for name in (*rows["patient"], *rows["slice"]) for ending in WRITTEN}
        for patient in {name for name in rows["patient"] if not is_unsafe_path(name) and (out / name).is_dir()}:
            for path in (out / patient).iterdir():
                if stem(path) in names:
                    path.unlink()
    for name, columns in COLUMNS.items():
        write_text(out / name, ",".join(columns) + "\n")


def write_patient(
    out: Path, scan: Scan, masks: list[np.ndarray], references: Sequence[np.ndarray] | None,
    probabilities: list[np.ndarray] | None = None, notice: str = "",
) -> list[str]:  # fmt: skip
    """Write the files of a patient, then its rows of both tables. Returns what was measured, in words.

    masks, references: uint8 [H, W], 0 or 1, of each slice; probabilities: float32 [H, W], written if given.
    notice: below the sheet.
    """
    rows = measure(scan, masks, references)
    total = sum_up(rows)
    heading, footer = [scan.name, *describe(total)], [*filter(None, [notice]), RESEARCH_USE]
    sheet = contact_sheet(scan, masks, references, [caption(row) for row in rows], heading, footer)
    files = encode_stack(scan, masks, "mask") | {f"{scan.name}_overlay.png": encode_picture(sheet)}
    files |= encode_stack(scan, probabilities, "probability") if probabilities else {}
    for name, content in files.items():
        with atomic_write(out / scan.name / name) as file:
            file.write(content)
    append(out, rows, total)
    return heading[1:]


def append(out: Path, rows: list[Row], total: Row) -> None:
    """Append the rows of a patient to both tables, numbers with six decimals, what is not known as an empty cell."""
    for name, own in ((SLICES, rows), (PATIENTS, [total])):
        table = pd.DataFrame(own, columns=COLUMNS[name])
        table.to_csv(out / name, mode="a", header=False, index=False, float_format="%.6f", lineterminator="\n")


# --- Masks and pictures as files ---------------------------------------------------------------------------------


def encode_stack(scan: Scan, planes: list[np.ndarray], what: str) -> dict[str, bytes]:
    """Return masks (uint8 [H, W], 0 or 1) or probabilities (float32) as files by name, in the form of the scan's.

    An array [S, H, W]; NIfTI on the grid of the scan; or pictures whose 255 is 1: a mask is TIFF if the slice is, else
    PNG. what: "mask" or "probability".
    """
    if file_ending(scan.paths[0]) in PICTURES:
        files = {}
        for name, path, plane in zip(scan.names, scan.paths, planes, strict=True):
            ending = ".tif" if what == "mask" and PICTURES[file_ending(path)] == "TIFF" else ".png"  # JPEG would blur
            files[f"{name}_{what}{ending}"] = encode_picture((plane * 255).round().astype(np.uint8), ending)
        return files
    if scan.grid:
        return {f"{scan.name}_{what}.nii.gz": medical.encode(np.stack(planes), scan.grid)}
    np.save(file := io.BytesIO(), np.stack(planes))
    return {f"{scan.name}_{what}.npy": file.getvalue()}


def encode_picture(pixels: np.ndarray, ending: str = ".png") -> bytes:
    """Return uint8 [H, W] or [H, W, 3] as the content of a picture file."""
    return cv2.imencode(ending, pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


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
    for name in {"lesion_pixels", "lesion_mm3", "reference_pixels", "true_positive"} & rows[0].keys():
        total[name] = sum(row[name] for row in rows)
    if "reference_pixels" in total:
        total["dice"] = dice(total)
    source = rows[0]["source"]
    return total | {"source": source if all(row["source"] == source for row in rows) else str(Path(source).parent)}


def dice(row: Row) -> float:
    """Return the Dice of a row with pixels of masks and references. Empty against empty is 1."""
    both = row["lesion_pixels"] + row["reference_pixels"]
    return 2 * row["true_positive"] / both if both else 1.0


def describe(total: Row) -> list[str]:
    """Return a patient's row in words."""
    volume = f" = {total['lesion_mm3'] / 1000:,.1f} ml" if "lesion_mm3" in total else ""
    lesion = f"{total['lesion_slices']} of {total['slices']} slices with lesion, {total['lesion_pixels']:,} px{volume}"
    if "dice" not in total:
        return [lesion]
    return [lesion, f"Dice {total['dice']:.3f} with the reference mask of {total['reference_pixels']:,} px"]


def caption(row: Row) -> str:
    """Return the line below a slice: its name without that of the patient, and the predicted area, if any."""
    area = f"{row['lesion_mm2']:,.0f} mm²" if "lesion_mm2" in row else f"{row['lesion_pixels']:,} px"
    name = row["slice"].removeprefix(row["patient"]).lstrip("_") or row["slice"]
    return f"{name}   {area}" if row["lesion_pixels"] else name
