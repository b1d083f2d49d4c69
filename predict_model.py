"""Segment your own images with a trained network.

    python predict_model.py patient_folder --out masks                          # with the weights that come along
    python predict_model.py scans/*.png stack.npy --run runs/first --out masks  # with the network of a run
    python predict_model.py flair.nii.gz --pre t1.nii.gz --post t1c.nii.gz --out masks

INPUT is a picture (.png .tif .jpg .bmp: grey, or RGB holding pre-contrast, FLAIR, post-contrast), a folder of
pictures, a NumPy array (.npy: [S, H, W] or [S, H, W, 3]), a NIfTI volume (.nii .nii.gz, FLAIR alone or with three
sequences as its fourth axis; needs the package nibabel), the folder of a DICOM series (needs nibabel and pydicom), a
folder of patients, or a table of patients (.csv: patient,flair,pre,post,mask). Sequences in files of their own belong
together by their names (x_flair, x_t1, x_t1ce), or by --pre and --post. Masks beside them are not segmented.

Slices of any size are padded to a square and resized to the network's size, and their masks are resized back. More than
8 bits are scaled by percentiles; a single sequence fills all three channels.

With --run the epoch, the threshold and the smallest component are those that test_model.py chose.

Writes DIR/<patient>/: masks in the format of the input, one overlay per slice, an animated GIF of a stack; and
DIR/slices.csv and DIR/patients.csv with areas and volumes, in mm where the spacing is known, and with the Dice where a
reference mask lies beside the input.

Exit code 0 if all inputs were read, 1 if some were not (the others are done), 2 if nothing was done.

Research use only: not a medical device, not for diagnosis or treatment.
"""

import argparse
from pathlib import Path

import constants
from utils import parse_first, positive


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    add = parser.add_argument_group("images").add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="file or folder")
    add("--pre", default="", metavar="FILE",
        help="pre-contrast sequence of the one INPUT, or a pattern of its name ('*_t1.nii.gz')")  # fmt: skip
    add("--post", default="", metavar="FILE", help="post-contrast sequence, in the same way")
    add("--series", default="", metavar="NAME", help="number or description of the DICOM series that is FLAIR")
    add("--spacing", type=positive(float), nargs=3, metavar=("ROWS", "COLUMNS", "SLICES"),
        help="mm between rows, columns and slices, for files that do not say so")  # fmt: skip

    network = parser.add_argument_group("network")
    one = network.add_mutually_exclusive_group().add_argument
    one("--run", type=Path, metavar="DIR",
        help="folder of a run, whose chosen network is used (the weights that come with the project)")  # fmt: skip
    one("--checkpoint", type=Path, metavar="FILE", help="or models/epoch_N.pt of a run, or weights/*.safetensors")
    network.add_argument("--threshold", type=probability, metavar="P",
                         help="from which a pixel is tumour (that of the network)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where masks, overlays and tables go")
    add("--probabilities", action="store_true", help="write the probability of each pixel, too")
    add("--overwrite", action="store_true", help="replace what an earlier prediction wrote into --out")

    add = parser.add_argument_group("computing").add_argument
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, metavar="N",
        help="slices at a time (%(default)s)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    return parser.parse_args(argv)


def probability(text: str) -> float:
    """An argparse type: a number between 0 and 1."""
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    parse_first(parse_arguments)


import os
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

from dataset.preprocess import Preparation, prepare
from dataset.slices import without_masks
from evaluation.metrics import Counts, dice
from evaluation.quality import input_warnings
from evaluation.selection import Postprocessing, load_chosen, postprocess_stack
from scans import overlays, pictures, volumes
from scans.cohort import find_sources
from scans.display import brightness
from scans.masks import read_reference
from scans.read import read_patient
from scans.resize import fit, unfit
from scans.scan import PICTURES, Scan, Source, file_ending, safe_name
from storage.checkpoints import load_network
from storage.owned_folder import MANIFEST, OwnedFolder
from storage.run_folder import RunFolder
from training.engine import predict
from training.hardware import Hardware, hardware_like, keep_freed_memory, repeat_exactly
from unet import UNet
from utils import USER_ERROR, UserError, leaves_folder, read_csv, run_script, to_csv

TABLES = ("slices.csv", "patients.csv")
SOME_FAILED = 1  # exit code
OBLONG = 1.5  # pixels whose sides differ by more than this factor are of another plane than axial
SYNTHETIC_MODEL = "network trained on SYNTHETIC patients: its masks mean nothing on real images"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    keep_freed_memory()
    repeat_exactly(True)
    out = OwnedFolder(args.out)
    refuse_used(out, args.overwrite)
    sources, problems = find(args)
    model, checkpoint, chosen = load(args)
    hardware = hardware_like(args.device, checkpoint["input"]["precision"])
    model = model.to(hardware.device, memory_format=hardware.memory_format)
    notice = SYNTHETIC_MODEL if checkpoint["config"]["synthetic"] else ""
    print(chosen)
    if notice:
        print(notice)

    started = time.perf_counter()
    tables: list[pd.DataFrame] = []
    for source in sources:
        problems += process(source, model, checkpoint["input"], hardware, args, out, tables, notice)
    if tables:
        slices, seconds = sum(map(len, tables)), time.perf_counter() - started
        print(f"{slices} slices in {seconds:.1f} s, {slices / seconds:.1f} slices/s on {hardware}")
        print(f"written to {out}: masks, overlays and animations by patient; slices.csv, patients.csv")
        print(constants.RESEARCH_USE)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(SOME_FAILED if tables else USER_ERROR)


def load(args: argparse.Namespace) -> tuple[UNet, dict[str, Any], str]:
    """Return the network with its checkpoint, as of load_network, and what it is in words."""
    if args.run:
        model, checkpoint, chosen = load_chosen(RunFolder(args.run))
    else:
        path = args.checkpoint or constants.WEIGHTS
        model, checkpoint = load_network(path)
        rules = Postprocessing.of(checkpoint["input"])
        come_along = "" if args.checkpoint else " (they come with the project)"
        chosen = f"weights {path}{come_along}: epoch {checkpoint['epoch']}; {rules.describe()}"
    if args.threshold:
        checkpoint["input"]["threshold"] = args.threshold
        chosen += f"\nthreshold {args.threshold:g} instead, as asked for"
    return model, checkpoint, chosen


def refuse_used(out: OwnedFolder, overwrite: bool) -> None:
    """Raise UserError if the output folder is a file, holds files of the user, or an earlier prediction that stays."""
    if out.path.exists() and not out.path.is_dir():
        raise UserError(f"{out}: is a file. Name a folder with --out.")
    if not out.path.is_dir() or not any(out.path.iterdir()):
        return
    if not (out.path / MANIFEST).is_file():
        raise UserError(f"{out}: holds files that this program did not write. Name another folder with --out.")
    if not overwrite:
        raise UserError(f"{out}: holds files already. Name another folder with --out, or add --overwrite.")
    out.refuse_foreign(*TABLES)


def remove_earlier(out: OwnedFolder) -> None:
    """Remove the patients' folders of the prediction that --overwrite replaces: no masks of two networks side by side.

    Files that were added or edited since stay.
    """
    if TABLES[1] in out.files():
        for patient in read_csv(out.path / TABLES[1], ["patient"])["patient"]:
            if not leaves_folder(patient):
                OwnedFolder(out.path / patient).remove()


def find(args: argparse.Namespace) -> tuple[list[Source], list[str]]:
    """Return the scans to read, and problems as text. Raises: UserError when there is nothing to read."""
    sources, problems = find_sources(args.inputs, args.pre, args.post, args.series)
    if not sources:
        raise UserError("\n".join(problems))
    return sources, problems


def read(source: Source, args: argparse.Namespace) -> tuple[Scan | None, list[str]]:
    """Return the scan with all its sequences, or None, and problems as text."""
    scan, problems = read_patient(source)
    if scan is not None and args.series and file_ending(source.paths[0]):
        scan.notes.append("--series is not used: no DICOM")
    if scan is not None and args.spacing:
        if scan.spacing:
            scan.notes.append("--spacing is not used: the file says it")
        scan.spacing = scan.spacing or tuple(args.spacing)
    if scan is not None and scan.spacing and max(scan.spacing[:2]) > OBLONG * min(scan.spacing[:2]):
        rows, columns, _ = scan.spacing
        scan.notes.append(
            f"pixels of {rows:.3g} x {columns:.3g} mm, as of slices that were taken in another plane: the network "
            "knows axial ones with square pixels alone"
        )
    return scan, problems


def process(
    source: Source,
    model: torch.nn.Module,
    about_input: dict[str, Any],
    hardware: Hardware,
    args: argparse.Namespace,
    out: OwnedFolder,
    tables: list[pd.DataFrame],
    notice: str,
) -> list[str]:
    """Segment one scan, write its files, and add it to the per-slice tables. Return problems as text."""
    scan, problems = read(source, args)
    if scan is None:
        return problems
    probabilities = find_probabilities(model, scan, about_input, args.batch_size, hardware)
    masks = segment(probabilities, about_input)
    table = measure(scan, masks, reference(source, scan))
    files = encoders(scan, masks, table, notice)
    if args.probabilities:
        files |= kind_of_files(scan).probability_files(scan, probabilities)
    if not tables:
        remove_earlier(out)
    folder = OwnedFolder(out.path / scan.name)  # a manifest of its own: one for all patients would grow too long
    try:
        folder.refuse_foreign(*files)
    except UserError as error:
        return [*problems, str(error)]
    tables.append(table)
    slices = pd.concat(tables, ignore_index=True)
    for name, content in zip(TABLES, (slices, sum_up(slices)), strict=True):
        counts = [column for column in ("reference_pixels", "true_positive") if column in content]
        out.write(name, to_csv(content.astype(dict.fromkeys(counts, "Int64"))).encode())  # empty cells, not 1.0
    folder.remove_temporaries()
    for name, encode in files.items():
        folder.write(name, encode())
    print_scan(scan, table, input_warnings(scan.slices, masks))
    return problems


def find_probabilities(
    model: torch.nn.Module, scan: Scan, about_input: dict[str, Any], batch_size: int, hardware: Hardware
) -> list[np.ndarray]:
    """Return the probability of tumour of each pixel of each slice, at its own size: float32 [H, W].

    about_input: `input` of the checkpoint. The scan is one stack, whose intensities are scaled together.
    """
    images = np.stack([fit(plane, constants.IMAGE_SIZE) for plane in scan.slices])
    prepared = prepare(without_masks(images, scan.name), Preparation.of(about_input)).to(hardware.device)
    logits = predict(model, prepared, batch_size, hardware, about_input["flips"]).numpy()
    return [
        torch.from_numpy(unfit(logit, *plane.shape[:2])).sigmoid().numpy()
        for plane, logit in zip(scan.slices, logits, strict=True)
    ]


def segment(probabilities: list[np.ndarray], about_input: dict[str, Any]) -> list[np.ndarray]:
    """Return the mask of each slice: uint8 [H, W], 0 or 1.

    about_input: `input` of the checkpoint. Components below its smallest one, counted at the network's size, are
    removed; they go through the slices, unless these differ in size.
    """
    alike = len({plane.shape for plane in probabilities}) == 1
    stacks = [np.stack(probabilities)] if alike else [plane[None] for plane in probabilities]
    masks = []
    for stack in stacks:
        smallest = round(about_input["min_component"] * (max(stack.shape[1:]) / constants.IMAGE_SIZE) ** 2)
        masks += list(postprocess_stack(stack, Postprocessing(about_input["threshold"], smallest)))
    return masks


def reference(source: Source, scan: Scan) -> list[np.ndarray] | None:
    """Return the reference mask of each slice, uint8 [H, W], 0 or 1; None where there is none that fits."""
    if not source.masks:
        return None
    try:
        return read_reference(source, scan)
    except Exception as error:  # libraries raise many kinds for a damaged file
        scan.notes.append(f"not scored against the reference mask {source.masks[0].name}: {error}")
        return None


def measure(scan: Scan, masks: list[np.ndarray], references: list[np.ndarray] | None = None) -> pd.DataFrame:
    """Return the per-slice table: area in pixels and mm², volume in mm³; NaN where the spacing is unknown.

    With reference masks also their pixels, those of them that are predicted, and the Dice.
    """
    rows, columns, slices = scan.spacing or (float("nan"),) * 3
    pixels = np.array([np.count_nonzero(mask) for mask in masks])
    table = pd.DataFrame(
        {
            "patient": scan.name,
            "slice": scan.names,
            "height": [mask.shape[0] for mask in masks],
            "width": [mask.shape[1] for mask in masks],
            "lesion_pixels": pixels,
            "lesion_mm2": pixels * rows * columns,
            "lesion_mm3": pixels * rows * columns * slices,
        }
    )
    if references is not None:
        pairs = list(zip(masks, references, strict=True))
        table["reference_pixels"] = [np.count_nonzero(mask) for mask in references]
        table["true_positive"] = [np.count_nonzero(mask & other) for mask, other in pairs]
        table["dice"] = dice_of(table)
    paths = scan.paths if len(scan.paths) == len(masks) else scan.paths * len(masks)
    return table.assign(source=[safe_name(str(path)) for path in paths])


def dice_of(table: pd.DataFrame) -> pd.Series:
    """Return the Dice of each row of a table with pixels of masks and references; NaN where it has no reference."""
    hits, predicted, target = (table[name] for name in ("true_positive", "lesion_pixels", "reference_pixels"))
    found = dice(Counts(hits, predicted - hits, target - hits))
    return pd.Series(found, table.index).where(target.notna())


def sum_up(slices: pd.DataFrame) -> pd.DataFrame:
    """Return the per-patient table: slices, slices with lesion, volume, and the slice with the largest area."""
    patients = slices.assign(lesion=slices["lesion_pixels"] > 0).groupby("patient", sort=False)
    table = patients.agg(
        slices=("slice", "size"), lesion_slices=("lesion", "sum"), lesion_pixels=("lesion_pixels", "sum")
    )
    table["lesion_mm3"] = patients["lesion_mm3"].sum(min_count=1)  # NaN stays NaN
    largest = slices.loc[patients["lesion_pixels"].idxmax()].set_index("patient")
    table["largest_slice"] = largest["slice"].where(largest["lesion_pixels"] > 0, "")
    if "reference_pixels" in slices:
        table[["reference_pixels", "true_positive"]] = patients[["reference_pixels", "true_positive"]].sum(min_count=1)
        table["dice"] = dice_of(table)
    first = patients["source"].first()
    table["source"] = first.where(patients["source"].nunique() == 1, first.map(os.path.dirname))
    return table.reset_index()


def encoders(scan: Scan, masks: list[np.ndarray], table: pd.DataFrame, notice: str) -> dict[str, Callable[[], bytes]]:
    """Return the files of a scan, each name with the function that returns its content.

    Masks, overlays and, for a stack of one size, its animation.
    """
    files = kind_of_files(scan).mask_files(scan, masks)
    captions = [[caption(row), *filter(None, [notice]), constants.RESEARCH_USE] for row in table.itertuples()]
    flair = [plane[..., constants.FLAIR] for plane in scan.slices]
    shown = brightness(flair)
    for name, plane, mask, lines in zip(scan.names, flair, masks, captions, strict=True):
        files[f"{name}_overlay.png"] = partial(encode_overlay, plane, shown, mask, lines)
    if len(masks) > 1 and len({mask.shape for mask in masks}) == 1:
        files[f"{scan.name}.gif"] = partial(overlays.gif, (shown[plane] for plane in flair), masks, captions)
    return files


def kind_of_files(scan: Scan) -> ModuleType:
    """Return the module that writes what belongs to the scan, in the format of its input."""
    return pictures if file_ending(scan.paths[0]) in PICTURES else volumes


def encode_overlay(flair: np.ndarray, shown: np.ndarray, mask: np.ndarray, lines: list[str]) -> bytes:
    return pictures.encode(overlays.with_text(overlays.overlay(shown[flair], mask), lines))


def caption(row: Any) -> str:
    """Return the line below a slice: its name and the predicted area."""
    if not row.lesion_pixels:
        return f"{row.slice}   no lesion predicted"
    area = "" if np.isnan(row.lesion_mm2) else f" = {row.lesion_mm2:,.0f} mm²"
    return f"{row.slice}   predicted {row.lesion_pixels:,} px{area}"


def print_scan(scan: Scan, table: pd.DataFrame, warnings: list[str]) -> None:
    row = sum_up(table).iloc[0]
    volume = "" if scan.spacing is None else f" = {row.lesion_mm3 / 1000:,.1f} ml"
    print(f"{scan.name}: {row.lesion_slices} of {row.slices} slices with lesion, {row.lesion_pixels:,} px{volume}")
    if "dice" in row:
        print(f"  Dice {row.dice:.3f} with the reference mask of {row.reference_pixels:,} px beside it")
    for note in scan.notes:
        print(f"  note: {note}")
    if scan.grey:
        warnings = [
            "one sequence only, used for all three channels. Unless it is FLAIR, the masks mean nothing; and a network "
            "that was trained on three sequences may find nothing in one. Name the others with --pre and --post.",
            *warnings,
        ]
    for warning in warnings:
        print(textwrap.fill(f"warning: {warning}", 118, initial_indent="  ", subsequent_indent=" " * 11))
    if scan.spacing is None:
        print("  note: no spacing known, so that areas are in pixels only; add it with --spacing")


if __name__ == "__main__":
    run_script(main)
