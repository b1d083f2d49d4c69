"""Segment your own images with a trained network.

    python predict_model.py patient_folder --out masks                          # with the weights that come along
    python predict_model.py scans/*.png stack.npy --run runs/first --out masks  # with the network of a run
    python predict_model.py flair.nii.gz --pre t1.nii.gz --post t1c.nii.gz --out masks

INPUT is a picture (.png .tif .jpg .bmp: grey, or RGB holding pre-contrast, FLAIR, post-contrast), a folder of
pictures, a NumPy array (.npy: [S, H, W] or [S, H, W, 3]), a volume (.nii .nii.gz .nrrd .mha .mhd: FLAIR alone or with
three sequences as its fourth axis), the folder of a DICOM series, a folder of patients, or a table of patients (.csv:
patient,flair,pre,post,mask). Sequences in files of their own belong together by their names (x_flair, x_t1, x_t1ce), or
by --pre and --post. Masks beside them are not segmented.

Slices of any size are padded to a square and resized to the network's size, and their masks are resized back. More than
8 bits are scaled by percentiles; a single sequence fills all three channels.

With --run the epoch, the threshold and the smallest component are those that test_model.py chose.

Writes DIR/<patient>/: masks in the form of the input (volumes and DICOM as .nii.gz), and PATIENT_overlay.png, one sheet
with the outlines; and DIR/slices.csv and DIR/patients.csv with areas and volumes, in mm where the spacing is known, and
with the Dice where a reference mask lies beside the input.

Exit code 0 if all inputs were read, 1 if some were not (the others are done), 2 if nothing was done.

Research use only: not a medical device, not for diagnosis or treatment.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from utils import (
    USER_ERROR,
    UserError,
    atomic_write,
    fraction,
    is_unsafe_path,
    positive,
    read_csv,
    refuse_used,
    run_script,
    write_text,
)

if TYPE_CHECKING:
    import numpy as np

    from scans.cohort import Patient
    from evaluation.selection import Postprocessing
    from scans.scan import Scan
    from training.hardware import Hardware
    from unet import UNet

SLICES, PATIENTS = "slices.csv", "patients.csv"
COLUMNS = {
    SLICES: ("patient", "slice", "height", "width", "lesion_pixels", "lesion_mm2", "lesion_mm3", "reference_pixels",
             "true_positive", "dice", "source"),
    PATIENTS: ("patient", "slices", "lesion_slices", "lesion_pixels", "lesion_mm3", "largest_slice", "reference_pixels",
               "true_positive", "dice", "source"),
}  # fmt: skip
WRITTEN = ("mask", "probability", "overlay")  # end the names of the files of a patient
SOME_FAILED = 1  # exit code
SYNTHETIC_MODEL = "network trained on SYNTHETIC patients: its masks mean nothing on real images"
ONE_SEQUENCE = (
    "one sequence only, used for all three channels. Unless it is FLAIR, the masks mean nothing; and a network that was "
    "trained on three sequences may find nothing in one. Name the others with --pre and --post."
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    add = parser.add_argument_group("images").add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="file, folder or table")
    add("--pre", default="", metavar="FILE",
        help="pre-contrast sequence of the one INPUT, or a pattern of its name ('*_t1.nii.gz')")  # fmt: skip
    add("--post", default="", metavar="FILE", help="post-contrast sequence, in the same way")
    add("--mask", default="", metavar="FILE", help="reference mask, in the same way")
    add("--series", default="", metavar="NAME", help="number or description of the DICOM series that is FLAIR")
    add("--spacing", type=positive(float), nargs=3, metavar=("ROWS", "COLUMNS", "SLICES"),
        help="mm between rows, columns and slices, for files that do not say so")  # fmt: skip

    network = parser.add_argument_group("network")
    one = network.add_mutually_exclusive_group().add_argument
    one("--run", type=Path, metavar="DIR",
        help="folder of a run, whose chosen network is used (the weights that come with the project)")  # fmt: skip
    one("--checkpoint", type=Path, metavar="FILE", help="or models/epoch_N.pt of a run, or weights/*.safetensors")
    network.add_argument("--threshold", type=fraction, metavar="P",
                         help="from which a pixel is tumour (that of the network)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where masks, overlays and tables go")
    add("--probabilities", action="store_true", help="write the probability of each pixel, too")
    add("--overwrite", action="store_true", help="replace an earlier prediction in --out")

    add = parser.add_argument_group("computing").add_argument
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, metavar="N",
        help="slices at a time (%(default)s)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    refuse_used(args.out, args.overwrite)
    patients, problems = find(args)
    from evaluation.selection import Postprocessing
    from scans.read import read_patient
    from training.hardware import choose_hardware, keep_freed_memory, repeat_exactly

    model, checkpoint, chosen = load(args)
    postprocessing = Postprocessing.of(checkpoint["input"])
    hardware = choose_hardware(args.device, "fp32")  # the same masks on every machine
    keep_freed_memory()
    repeat_exactly(True, hardware.device)
    model = model.to(hardware.device, memory_format=hardware.memory_format)
    notice = SYNTHETIC_MODEL if checkpoint["config"]["synthetic"] else ""
    print("\n".join(filter(None, [chosen, notice])))

    started, slices = time.perf_counter(), 0
    for patient in patients:
        scan, wrong = read_patient(patient, args.spacing)
        problems += wrong
        if scan is None:
            continue
        probabilities = predict(model, scan, checkpoint["input"], args.batch_size, hardware)
        masks = segment(probabilities, postprocessing)
        if not slices:
            start(args.out)
        write(args, patient, scan, masks, probabilities, notice)
        slices += len(masks)
    if slices:
        seconds = time.perf_counter() - started
        print(f"{slices} slices in {seconds:.1f} s, {slices / seconds:.1f} slices/s on {hardware}")
        print(f"written to {args.out}: masks and overlays by patient; {SLICES}, {PATIENTS}")
        print(constants.RESEARCH_USE)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(SOME_FAILED if slices else USER_ERROR)


def find(args: argparse.Namespace) -> tuple[list[Patient], list[str]]:
    """Return the patients, and problems as text. Raises: UserError where there is nothing to read, or to be spared."""
    from scans.cohort import MASK, find_patients

    patterns = {constants.PRE: args.pre, constants.POST: args.post, MASK: args.mask}
    patients, problems = find_patients(args.inputs, patterns, args.series)
    if not patients:
        raise UserError("\n".join(problems))
    if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / PATIENTS).is_file():
        raise UserError(f"{args.out}: holds no earlier prediction to overwrite. Name another folder with --out.")
    for patient in patients:
        folders = {path.parent.resolve() for paths in patient.files.values() for path in paths}
        if (args.out / patient.name).resolve() in folders:
            raise UserError(f"{args.out / patient.name}: holds images to segment. Name another folder with --out.")
    return patients, problems


def load(args: argparse.Namespace) -> tuple[UNet, dict[str, Any], str]:
    """Return the network with its checkpoint, as of load_network, and what it is in words."""
    from evaluation.selection import Postprocessing, load_chosen
    from storage.checkpoints import load_network
    from storage.run_folder import RunFolder

    if args.run:
        model, checkpoint, chosen = load_chosen(RunFolder(args.run))
    else:
        path = args.checkpoint or constants.WEIGHTS
        model, checkpoint = load_network(path)
        come_along = "" if args.checkpoint else " (they come with the project)"
        rules = Postprocessing.of(checkpoint["input"]).describe()
        chosen = f"weights {path}{come_along}: epoch {checkpoint['epoch']}; {rules}"
    if args.threshold is not None:
        checkpoint["input"]["threshold"] = args.threshold
        chosen += f"\nthreshold {args.threshold:g} instead, as asked for"
    return model, checkpoint, chosen


def predict(
    model: UNet, scan: Scan, preprocessing: dict[str, Any], batch_size: int, hardware: Hardware
) -> list[np.ndarray]:
    """Return the probability of tumour of each pixel of each slice, at its own size: float32 [H, W].

    preprocessing: `input` of the checkpoint. The scan is one stack, whose intensities are scaled together.
    """
    import numpy as np
    import torch

    from dataset.preprocess import Preprocessing, preprocess
    from dataset.slices import without_masks
    from scans.scan import to_network_size, to_original_size
    from training import engine

    images = np.stack([to_network_size(plane) for plane in scan.slices])
    slices = preprocess(without_masks(images, scan.name), Preprocessing.of(preprocessing)).to(hardware.device)
    logits = engine.predict(model, slices, batch_size, hardware, preprocessing["tta_flip"]).numpy()
    return [
        torch.from_numpy(to_original_size(logit, *plane.shape[:2])).sigmoid().numpy()
        for plane, logit in zip(scan.slices, logits, strict=True)
    ]


def segment(probabilities: list[np.ndarray], postprocessing: Postprocessing) -> list[np.ndarray]:
    """Return the mask of each slice: uint8 [H, W], 0 or 1.

    The smallest component is counted at the network's size. Components go through the slices, unless these differ in
    size.
    """
    import numpy as np

    from evaluation.selection import postprocess_stack

    alike = len({plane.shape for plane in probabilities}) == 1
    stacks = [np.stack(probabilities)] if alike else [plane[None] for plane in probabilities]
    masks = []
    for stack in stacks:
        scale = (max(stack.shape[1:]) / constants.IMAGE_SIZE) ** 2
        smallest = round(postprocessing.min_component * scale)
        masks += list(postprocess_stack(stack, postprocessing._replace(min_component=smallest)))
    return masks


# --- Output ----------------------------------------------------------------------------------------------------


def start(out: Path) -> None:
    """Begin both tables. Of an earlier prediction, remove what its tables name: no masks of two networks side by side."""
    from scans.scan import stem

    with contextlib.suppress(UserError):  # no table, or not one of ours
        rows = read_csv(out / SLICES, ["patient", "slice"])
        names = {f"{name}_{ending}" for name in (*rows["patient"], *rows["slice"]) for ending in WRITTEN}
        for patient in rows["patient"].unique():
            if not is_unsafe_path(patient) and (out / patient).is_dir():
                for path in (out / patient).iterdir():
                    if stem(path) in names:
                        path.unlink()
    for name, columns in COLUMNS.items():
        write_text(out / name, ",".join(columns) + "\n")


def write(
    args: argparse.Namespace,
    patient: Patient,
    scan: Scan,
    masks: list[np.ndarray],
    probabilities: list[np.ndarray],
    notice: str,
) -> None:
    """Write the files of a patient, then the rows of both tables, and print what was found."""
    from evaluation.quality import input_warnings
    from scans.masks import encode_picture, mask_files, probability_files, read_reference
    from scans.show import contact_sheet

    references = read_reference(patient, scan)
    rows = measure(scan, masks, references)
    total = sum_up(rows)
    found = describe(total)
    captions = [caption(row, scan.name) for row in rows]
    footer = [*filter(None, [notice]), constants.RESEARCH_USE]
    sheet = contact_sheet(scan, masks, references, captions, [scan.name, *found], footer)
    files = mask_files(scan, masks) | {f"{scan.name}_overlay.png": lambda: encode_picture(sheet)}
    if args.probabilities:
        files |= probability_files(scan, probabilities)
    for name, encode in files.items():
        with atomic_write(args.out / scan.name / name) as file:
            file.write(encode())
    append(args.out / SLICES, rows)
    append(args.out / PATIENTS, [total])

    print(f"{scan.name}: {'; '.join(found)}")
    for note in scan.notes:
        print(f"  note: {note}")
    for warning in [*([ONE_SEQUENCE] if scan.grey else []), *input_warnings(scan.slices, masks)]:
        print(textwrap.fill(f"warning: {warning}", 118, initial_indent="  ", subsequent_indent=" " * 11))
    if scan.spacing is None:
        print("  note: no spacing known, so that areas are in pixels only; add it with --spacing")


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a table in one go, numbers with six decimals, what is not known as an empty cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS[path.name], lineterminator="\n")
    for row in rows:
        table.writerow({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()})
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def measure(scan: Scan, masks: list[np.ndarray], references: list[np.ndarray] | None) -> list[dict[str, Any]]:
    """Return a row for each slice: area in pixels and mm², volume in mm³, where the spacing is known.

    With reference masks also their pixels, those of them that are predicted, and the Dice.
    """
    from scans.scan import safe_name

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


def sum_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a patient: slices, slices with lesion, sums, and the slice with the largest area."""
    largest = max(rows, key=lambda row: row["lesion_pixels"])
    total = {"patient": rows[0]["patient"], "slices": len(rows)}
    total["lesion_slices"] = sum(row["lesion_pixels"] > 0 for row in rows)
    for name in ("lesion_pixels", "lesion_mm3", "reference_pixels", "true_positive"):
        if name in rows[0]:
            total[name] = sum(row[name] for row in rows)
    total["largest_slice"] = largest["slice"] if largest["lesion_pixels"] else ""
    if "reference_pixels" in total:
        total["dice"] = dice(total)
    sources = {row["source"] for row in rows}
    return total | {"source": rows[0]["source"] if len(sources) == 1 else str(Path(rows[0]["source"]).parent)}


def dice(row: dict[str, Any]) -> float:
    """Return the Dice of a row with pixels of masks and references. Empty against empty is 1."""
    both = row["lesion_pixels"] + row["reference_pixels"]
    return 2 * row["true_positive"] / both if both else 1.0


def describe(total: dict[str, Any]) -> list[str]:
    """Return a patient's row in words."""
    volume = f" = {total['lesion_mm3'] / 1000:,.1f} ml" if "lesion_mm3" in total else ""
    lesion = f"{total['lesion_slices']} of {total['slices']} slices with lesion, {total['lesion_pixels']:,} px{volume}"
    if "dice" not in total:
        return [lesion]
    return [lesion, f"Dice {total['dice']:.3f} with the reference mask of {total['reference_pixels']:,} px"]


def caption(row: dict[str, Any], patient: str) -> str:
    """Return the line below a slice: its name without that of the patient, and the predicted area."""
    area = f" = {row['lesion_mm2']:,.0f} mm²" if "lesion_mm2" in row else ""
    predicted = f"   {row['lesion_pixels']:,} px{area}" if row["lesion_pixels"] else ""
    return f"{row['slice'].removeprefix(patient).lstrip('_') or row['slice']}{predicted}"


if __name__ == "__main__":
    run_script(main)
