"""Segment your own images with a trained network.

    python predict_model.py patient_folder --out masks                          # with the weights that come along
    python predict_model.py scans/*.png stack.npy --run runs/first --out masks  # with the network of a run
    python predict_model.py flair.nii.gz --pre t1.nii.gz --post t1c.nii.gz --out masks
    python predict_model.py cohort --list cohort.csv  # a table of what is taken for whom, to edit and name as INPUT

INPUT is a picture (grey, or RGB holding pre-contrast, FLAIR, post-contrast), a folder of pictures, an array (.npy: [S,
H, W] or [S, H, W, 3]), a volume (.nii .nii.gz .nrrd .mha: FLAIR, or three sequences as its fourth axis), the folder of
a DICOM series, a folder of patients, or a table of patients (.csv: patient,flair,pre,post,mask). Sequences in files of
their own belong together by their names (x_flair, x_t1, x_t1ce), or by --pre and --post.

Writes DIR/report.html: a table of the scans, what to check first on top, and a viewer; DIR/<patient>/: masks in the
form of the input (volumes and DICOM as .nii.gz), and PATIENT_overlay.png, one sheet with the outlines; and
DIR/slices.csv and DIR/patients.csv with areas and volumes, in mm where the spacing is known, and with the Dice where a
reference mask lies beside the input. See docs/usage.md.

Masks that are in DIR already stay as they are: run the command again after correcting some, and tables, overlays and
report.html follow. --overwrite replaces them.

Exit code 0 if all inputs were read, 1 if some were not (the others are done), 2 if nothing was done.
Research use only: not a medical device, not for diagnosis or treatment.
"""

from __future__ import annotations

import argparse
import re
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from scans.inputs import add_image_options, find, parse, report
from utils import UserError, existing, fraction, list_few, positive, refuse_used, run_script, write_text

if TYPE_CHECKING:
    from scans.cohort import Cohort
    from scans.scan import Scan
    from unet import UNet

SYNTHETIC_MODEL = "network trained on SYNTHETIC patients: its masks mean nothing on real images"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    add_image_options(parser)
    network = parser.add_argument_group("network")
    one = network.add_mutually_exclusive_group().add_argument
    one("--run", type=existing, metavar="DIR",
        help="folder of a run, whose chosen network is used (the weights that come with the project)")  # fmt: skip
    one("--checkpoint", type=existing, metavar="FILE", help="or models/epoch_N.pt of a run, or weights/*.safetensors")
    network.add_argument("--threshold", type=fraction, metavar="P",
                         help="from which a pixel is tumour (that of the network)")  # fmt: skip

    add = parser.add_argument_group("output").add_argument
    add("--out", type=Path, metavar="DIR", help="where masks, overlays and tables go")
    add("--list", type=Path, metavar="FILE", dest="table",
        help="only write what would be taken for whom, as a table to edit and to name as INPUT")  # fmt: skip
    add("--probabilities", action="store_true", help="write the probability of each pixel, too")
    add(
        "--overwrite", action="store_true", help="replace the masks of an earlier prediction in --out, corrected or not"
    )

    add = parser.add_argument_group("computing").add_argument
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, metavar="N",
        help="slices at a time (%(default)s)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.table:
        from scans.cohort import write_list

        cohort = find(args)
        report(write_list(args.table, cohort), done=bool(cohort.with_flair))
        return
    from scans.cohort import SWAPPED, describe, shown_items, to_table
    from scans.write import PATIENTS, begin_tables, describe_cohort, write_patient

    refuse_used(args.out, args.overwrite or (args.out / PATIENTS).is_file())
    cohort = find(args)
    refuse_images(args.out, cohort)
    problems = cohort.problems
    print("\n".join(describe(cohort)))
    from evaluation.selection import Postprocessing
    from inference.segment import computation, expect, predict, to_masks
    from reporting.scans import ScansReport, make_stack, scan_facts
    from scans.check import cohort_warnings, input_warnings, seen_in_training
    from scans.earlier import describe_predicted, describe_written, forget, read_earlier, read_written
    from scans.masks import is_swapped, read_reference
    from scans.read import read_patient
    from training.hardware import choose_hardware, keep_freed_memory

    earlier = {} if args.overwrite else read_earlier(args.out, [patient.name for patient in cohort.patients])
    model, checkpoint, chosen = load(args)
    postprocessing = Postprocessing.of(checkpoint["input"])
    hardware = choose_hardware(args.device, "fp32")  # the same masks on every machine
    keep_freed_memory()
    compute = computation(model, checkpoint["input"]["tta_flip"], args.batch_size, hardware)
    notice = SYNTHETIC_MODEL if checkpoint["config"]["synthetic"] else ""
    print("\n".join(filter(None, [chosen, notice])))

    started, totals, slices, grey, swapped = time.perf_counter(), [], 0, 0, []
    page = ScansReport(args.out, len(cohort.with_flair), {"Network": chosen.splitlines()[0]}, notice)
    for patient in cohort.with_flair:
        scan, wrong = read_patient(patient, args.spacing)
        if scan is None and is_swapped(patient):
            swapped.append(patient.name)
            continue
        problems += wrong
        if scan is None:
            continue
        try:
            masks = None if args.overwrite else read_written(args.out, scan)
        except ValueError as error:  # a mask that somebody worked on is never replaced
            problems.append(str(error))
            continue
        if scan.spacing is None:
            scan.notes.append("no spacing known, so that areas are in pixels only; add it with --spacing")
        patient.notes = scan.notes
        in_place, probabilities = masks is not None, None
        if in_place:
            about = describe_written(masks, earlier.get(scan.name, {}))
        else:
            probabilities, small = predict(compute, scan, checkpoint["input"])
            masks = to_masks(probabilities, postprocessing, scan.spacing)
            about = describe_predicted(masks) | expect(checkpoint["quality"], small, masks, scan)
            slices += len(masks)
        warnings = [*scan.warnings, *input_warnings(scan.slices, masks)]
        about["seen_in_training"] = seen_in_training(scan, checkpoint.get("training_patients"))
        about["warnings"] = " ".join(warnings)
        if not totals:
            if not earlier:
                begin_tables(args.out, args.overwrite)
            write_text(args.out / "cohort.csv", to_table(cohort, args.out)[0])
        if earlier:
            forget(args.out, scan.name)
        references = read_reference(patient, scan)
        wanted = probabilities if args.probabilities else None
        rows, total = write_patient(args.out, scan, masks, references, about, wanted, notice, in_place)
        describe_patient(scan, total, warnings)
        facts = scan_facts(scan, total, shown_items(patient))
        page.add(make_stack(scan, masks, references, probabilities, rows, total, facts), total)
        totals.append(total)
        grey += scan.grey
    problems += [f"{list_few(swapped)}: {SWAPPED}"] if swapped else []
    if totals:
        write_text(args.out / "cohort.csv", to_table(cohort, args.out)[0])  # with the notes
        print("".join(f"{note}\n" for note in describe_notes(cohort)), end="")
        general = cohort_warnings(grey, len(totals))
        written = page.finish(general)
        seconds = time.perf_counter() - started
        for warning in general:
            print(textwrap.fill(f"warning: {warning}", 118, subsequent_indent=" " * 9))
        if kept := sum(total["slices"] for total in totals) - slices:
            print(f"{kept} slices have masks in {args.out} already, which were measured as they are")
        if slices:
            print(f"{slices} slices segmented in {seconds:.1f} s, {slices / seconds:.1f} slices/s on {hardware}")
        print(
            f"written to {args.out}: masks and overlays by patient; slices.csv, patients.csv\n"
            f"all of it on one page: {written}\n{constants.RESEARCH_USE}\n{describe_cohort(totals)}"
        )
    report(problems, done=bool(totals))


def describe_patient(scan: Scan, total: dict[str, Any], warnings: list[str]) -> None:
    """Print what was measured in a scan, and warnings."""
    from scans.write import describe

    corrected = " (corrected mask)" if total["origin"] != "network" else ""
    print(f"{scan.name}{corrected}: {'; '.join(describe(total))}")
    for warning in warnings:
        print(textwrap.fill(f"warning: {warning}", 118, initial_indent="  ", subsequent_indent=" " * 11))


def describe_notes(cohort: Cohort) -> list[str]:
    """Return what was done to the scans, once for all patients and sequences whose notes differ in numbers alone."""
    alike: dict[str, dict[str, str]] = {}  # by the note without numbers: patients, and their notes
    for patient in cohort.with_flair:
        for note in patient.notes:
            plain = re.sub(r"^(pre|post)-contrast: |-?\d[\d.,e+-]*", "", note)
            alike.setdefault(plain, {}).setdefault(patient.name, note)
    return [
        f"note: {next(iter(own.values()))} ({next(iter(own))}" + (f" and {len(own) - 1} more)" if len(own) > 1 else ")")
        for own in alike.values()
    ]


def refuse_images(out: Path, cohort: Cohort) -> None:
    """Raise UserError if an output folder holds images to segment, or else no earlier prediction."""
    from scans.write import PATIENTS

    if out.is_dir() and any(out.iterdir()) and not (out / PATIENTS).is_file():
        raise UserError(f"{out}: holds no earlier prediction to overwrite. Name another folder with --out.")
    for patient in cohort.with_flair:
        folders = {path.parent.resolve() for item in patient.items.values() for path in item.paths}
        if (out / patient.name).resolve() in folders:
            raise UserError(f"{out / patient.name}: holds images to segment. Name another folder with --out.")


def load(args: argparse.Namespace) -> tuple[UNet, dict[str, Any], str]:
    """Return the network with its checkpoint, as load_network does, and what it is in words."""
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


if __name__ == "__main__":
    run_script(main)
