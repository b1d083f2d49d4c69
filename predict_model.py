"""Segment your own images with a trained network.

    python predict_model.py patient_folder --checkpoint models/epoch_80.pt --out masks
    python predict_model.py scans/*.png stack.npy --checkpoint models/epoch_80.pt --out masks
    python predict_model.py flair.nii.gz --pre t1.nii.gz --post t1c.nii.gz --checkpoint models/epoch_80.pt --out masks

INPUT is a picture (.png .tif .jpg .bmp: grey, or RGB holding pre-contrast, FLAIR, post-contrast), a folder of
pictures, a folder of patient folders, a NumPy array (.npy: [S, H, W] or [S, H, W, 3]) or a NIfTI volume (.nii .nii.gz,
FLAIR alone or with three sequences as its fourth axis; needs the package nibabel). Sequences in files of their own go
together with --pre and --post. Any size: slices are padded to a square and resized to the network's size, and their
masks mapped back. More than 8 bits are scaled by percentiles, and one channel fills all three: both are said.

Writes DIR/<patient>/: masks in the format of the input, an overlay a slice, and an animated GIF of a stack; and
DIR/slices.csv, DIR/patients.csv with areas and volumes, in mm where the spacing is known.

Exit code 0 if all inputs were read, 1 if some were not (the others are done), 2 if nothing was done.

Research use only: not a medical device, not for diagnosis or treatment.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import runs
import torch

import constants
from reporting.model_card import RESEARCH_USE
from scans import scan as scans
from scans.scan import Scan, overlays
from storage import checkpoints
from training.engine import predict, predicted_mask
from utils import (
    USER_ERROR,
    Hardware,
    UserError,
    choose_hardware,
    keep_freed_memory,
    positive,
    repeat_exactly,
    run_script,
    to_csv,
    write_text,
)

SOME_FAILED = 1  # exit code


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="file or folder")
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="models/epoch_N.pt of a run, or weights/*.safetensors",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where masks, overlays and tables go")
    add("--pre", type=Path, metavar="FILE", help="pre-contrast sequence of the one INPUT, which then is FLAIR")
    add("--post", type=Path, metavar="FILE", help="post-contrast sequence of the one INPUT, which then is FLAIR")
    add("--spacing", type=positive(float), nargs=3, metavar=("ROWS", "COLUMNS", "SLICES"),
        help="mm between rows, columns and slices, for files that do not say so")  # fmt: skip
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, help="slices at a time (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--overwrite", action="store_true", help="write into a folder that holds files already")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    keep_freed_memory()
    hardware = choose_hardware(args.device)
    repeat_exactly(True)
    model, checkpoint = checkpoints.load_network(args.checkpoint)
    check_preparation(checkpoint, args.checkpoint)
    model = model.to(hardware.device, memory_format=hardware.memory_format)
    sources, problems = find_sources(args)
    note = runs.SYNTHETIC_MODEL if checkpoint["config"].get("synthetic") else ""
    if note:
        print(note)

    rows, seconds = [], {"reading": 0.0, "network": 0.0, "writing": 0.0}
    for source in sources:
        started = time.perf_counter()
        scan, wrong = read(source, args)
        problems += wrong
        seconds["reading"] += time.perf_counter() - started
        if scan is None:
            continue
        masks = segment(model, scan, checkpoint["input"], args.batch_size, hardware, seconds)
        started = time.perf_counter()
        table = measure(scan, masks)
        write(scan, masks, table, args.out / scan.name, note)
        seconds["writing"] += time.perf_counter() - started
        rows.append(table)
        print_scan(scan, table)
    finish(rows, problems, seconds, hardware, args.out)


def check_preparation(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises: UserError if the network was trained on slices that were prepared in another way than here."""
    prepared = checkpoint["input"]
    here = {"mean": list(constants.MEAN), "std": list(constants.STD)}
    if any(list(prepared.get(name, [])) != value for name, value in here.items()) or "size" not in prepared:
        raise UserError(f"{path}: was trained on slices prepared as {prepared}, which this version does not do.")


def find_sources(args: argparse.Namespace) -> tuple[list[scans.Source], list[str]]:
    """What to read. Raises: UserError when nothing is there to be read, or written to."""
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file. Name a folder with --out.")
    if not args.overwrite and args.out.is_dir() and any(args.out.iterdir()):
        raise UserError(f"{args.out}: holds files already. Name another folder with --out, or add --overwrite.")
    sources, problems = scans.find_sources(args.inputs)
    if not sources:
        raise UserError("\n".join(problems))
    if (args.pre or args.post) and len(sources) != 1:
        raise UserError(f"--pre and --post belong to one INPUT, but {len(sources)} were named.")
    return sources, problems


def read(source: scans.Source, args: argparse.Namespace) -> tuple[Scan | None, list[str]]:
    """(the scan with all its sequences or None, problems)"""
    scan, problems = scans.read_scan(source)
    if scan is not None and scan.spacing is None and args.spacing:
        scan.spacing = tuple(args.spacing)
    if scan is None or not (args.pre or args.post):
        return scan, problems
    others: list[Scan | None] = []
    for path in (args.pre, args.post):
        found, wrong = scans.find_sources([path]) if path else ([], [])
        other, more = scans.read_scan(found[0]) if found else (None, [])
        problems += wrong + more
        others.append(other)
    if problems:  # a sequence that was named must not be missing without a word
        return None, problems
    try:
        return scans.combine(scan, *others), problems
    except ValueError as error:
        return None, [str(error)]


def segment(
    model: torch.nn.Module,
    scan: Scan,
    prepared: dict[str, Any],
    batch_size: int,
    hardware: Hardware,
    seconds: dict[str, float],
) -> list[np.ndarray]:
    """The mask of each slice at its own size: uint8 0 or 1, [H, W]."""
    started = time.perf_counter()
    images = torch.from_numpy(np.stack([scans.fit(plane, prepared["size"]) for plane in scan.slices]))
    logits = predict(model, images, batch_size, hardware).numpy()
    seconds["network"] += time.perf_counter() - started
    back = (scans.unfit(answer, *plane.shape[:2]) for answer, plane in zip(logits, scan.slices, strict=True))
    threshold = prepared.get("threshold", constants.THRESHOLD)
    return [predicted_mask(torch.from_numpy(answer.copy()), threshold).numpy().astype(np.uint8) for answer in back]


def measure(scan: Scan, masks: list[np.ndarray]) -> pd.DataFrame:
    """A row a slice: area in pixels and mm², volume in mm³; NaN where the spacing is unknown."""
    rows, columns, slices = scan.spacing or (float("nan"),) * 3
    pixels = [int(mask.sum()) for mask in masks]
    return pd.DataFrame(
        {
            "patient": scan.name,
            "slice": scan.names,
            "height": [mask.shape[0] for mask in masks],
            "width": [mask.shape[1] for mask in masks],
            "lesion_pixels": pixels,
            "lesion_mm2": [count * rows * columns for count in pixels],
            "lesion_mm3": [count * rows * columns * slices for count in pixels],
        }
    )


def write(scan: Scan, masks: list[np.ndarray], table: pd.DataFrame, folder: Path, note: str) -> None:
    """Masks, overlays and, for a stack of one size, its animation."""
    scans.write_masks(scan, masks, folder)
    captions = [[caption(row), *filter(None, [note]), RESEARCH_USE] for row in table.itertuples()]
    flair = overlays.flair_of(scan.slices)
    for name, plane, mask, lines in zip(scan.names, flair, masks, captions, strict=True):
        picture = overlays.with_text(overlays.overlay(plane, mask), lines)
        overlays.write_picture(picture, folder / f"{name}_overlay.png")
    if len(masks) > 1 and len({mask.shape for mask in masks}) == 1:
        overlays.write_gif(flair, masks, captions, folder / f"{scan.name}.gif")


def caption(row: Any) -> str:
    if not row.lesion_pixels:
        return f"{row.slice}   no lesion predicted"
    area = "" if np.isnan(row.lesion_mm2) else f" = {row.lesion_mm2:,.0f} mm²"
    return f"{row.slice}   predicted {row.lesion_pixels:,} px{area}"


def patient_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a patient: slices, slices with lesion, volume, and the slice with most of it."""
    rows = []
    for patient, part in table.groupby("patient", sort=False):
        largest = part.loc[part["lesion_pixels"].idxmax()]
        rows.append(
            {
                "patient": patient,
                "slices": len(part),
                "lesion_slices": int((part["lesion_pixels"] > 0).sum()),
                "lesion_pixels": int(part["lesion_pixels"].sum()),
                "lesion_mm3": part["lesion_mm3"].sum(skipna=False),
                "largest_slice": largest["slice"] if largest["lesion_pixels"] else "",
            }
        )
    return pd.DataFrame(rows)


def print_scan(scan: Scan, table: pd.DataFrame) -> None:
    row = patient_table(table).iloc[0]
    volume = "" if np.isnan(row.lesion_mm3) else f" = {row.lesion_mm3 / 1000:,.1f} ml"
    print(f"{scan.name}: {row.lesion_slices} of {row.slices} slices with lesion, {row.lesion_pixels:,} px{volume}")
    for note in scan.notes:
        print(f"  note: {note}")
    if scan.grey:
        print(
            "  warning: one sequence only, used for all three channels. Unless the network was trained on many patients"
        )
        print("           with FLAIR alone, it may find nothing; on any sequence but FLAIR its masks mean nothing.")
    if scan.spacing is None:
        print("  note: no spacing known, so that areas are in pixels only; --spacing adds it")


def finish(
    rows: list[pd.DataFrame], problems: list[str], seconds: dict[str, float], hardware: Hardware, out: Path
) -> None:
    """Tables, throughput, and what could not be read, which decides the exit code."""
    if rows:
        table = pd.concat(rows, ignore_index=True)
        write_text(out / "slices.csv", to_csv(table))
        write_text(out / "patients.csv", to_csv(patient_table(table)))
        rate = len(table) / max(seconds["network"], 1e-9)
        print(
            f"{len(table)} slices: reading {seconds['reading']:.1f} s, network {seconds['network']:.1f} s "
            f"({rate:.1f} slices/s on {hardware}), writing {seconds['writing']:.1f} s"
        )
        print(f"written to {out}: masks, overlays and animations by patient; slices.csv, patients.csv")
        print(RESEARCH_USE)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(SOME_FAILED if rows else USER_ERROR)


if __name__ == "__main__":
    run_script(main)
