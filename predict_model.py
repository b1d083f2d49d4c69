"""Segment your own images with a trained network.

    python predict_model.py patient_folder --out masks                          # with the weights that come along
    python predict_model.py scans/*.png stack.npy --run runs/first --out masks  # with the network of a run
    python predict_model.py flair.nii.gz --pre t1.nii.gz --post t1c.nii.gz --out masks
    python predict_model.py cohort --list cohort.csv  # a table of what is taken for whom, to edit and name as INPUT

INPUT is a picture (grey, or RGB holding pre-contrast, FLAIR, post-contrast), a folder of pictures, an array (.npy), a
volume (.nii .nii.gz .nrrd .mha: FLAIR, or three sequences as its fourth axis), the folder of a DICOM series, a folder
of patients, or a table of patients (.csv: patient,flair,pre,post,mask). Sequences in files of their own belong together
by their names (x_flair, x_t1, x_t1ce), or by --pre and --post.

Writes masks in the form of the input (volumes and DICOM as .nii.gz), overlays and pages by patient, slices.csv and
patients.csv with areas and volumes, and report.html: what to check first, and a viewer. See docs/usage.md.

Masks that are in --out stay as they are: run the command again after correcting some, and tables and pages follow; or
after it was stopped, and it goes on. Those whose images have changed are made anew, unless somebody corrected them.
--overwrite replaces all.

Exit code 0 if all inputs were read, 1 if some were not (the others are done), 2 if nothing was done.
Research use only: not a medical device, not for diagnosis or treatment.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import textwrap
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from scans.inputs import add_image_options, find, parse, report
from utils import counted, existing, fraction, k_of_n, list_few, positive, run_script, write_text

if TYPE_CHECKING:
    from inference.cohort import Prediction
    from scans.cohort import Cohort, Patient
    from unet import UNet

SYNTHETIC_MODEL = "network trained on SYNTHETIC patients: its masks mean nothing on real images"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    layout = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**layout, allow_abbrev=False)  # run_shards looks for --overwrite

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
    add("--probabilities", action="store_true", help="write the probability of each pixel of what is segmented, too")
    add(
        "--overwrite", action="store_true", help="replace the masks of an earlier prediction in --out, corrected or not"
    )

    add = parser.add_argument_group("computing").add_argument
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, metavar="N",
        help="slices at a time (%(default)s)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--shard", type=k_of_n, metavar="K/N", help="only the K-th of N parts of the patients, of a job array")
    add("--workers", type=positive(int), default=1, metavar="N", help="processes side by side, each with a shard")
    args = parse(parser, argv)
    if args.shard and (args.workers > 1 or args.overwrite):
        parser.error("--shard goes with neither --workers nor --overwrite")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.table:
        from scans.table import write_list

        cohort = find(args)
        report(write_list(args.table, cohort), done=bool(cohort.with_flair))
        return
    from scans.table import describe
    from scans.write import begin, refuse_folder

    refuse_folder(args.out)
    cohort = find(args)
    patients = cohort.with_flair[args.shard[0] - 1 :: args.shard[1]] if args.shard else cohort.with_flair
    print("\n".join(describe(cohort)))
    from inference.cohort import Prediction, run_shards
    from inference.segment import computation
    from reporting.scans import make_page
    from training.hardware import choose_hardware, keep_freed_memory
    from unet import weights_digest

    model, checkpoint, chosen = load(args)
    facts = {"Network": chosen.splitlines()[0]}
    notice = SYNTHETIC_MODEL if checkpoint["config"]["synthetic"] else ""
    print("\n".join(filter(None, [chosen, notice])), flush=True)
    names = [patient.name for patient in patients]
    settings = {"weights": weights_digest(model.state_dict(), {})[:16], **checkpoint["input"]}
    begin(args.out, settings, [patient.name for patient in cohort.patients], args.overwrite)
    if args.workers > 1:
        run_shards(Path(__file__), sys.argv[1:] if argv is None else argv, args.workers, args.device, args.out, names)
    hardware = choose_hardware(args.device, "fp32")  # the same masks on every machine
    keep_freed_memory()
    compute = computation(model, checkpoint["input"]["tta_flip"], args.batch_size, hardware)
    page = functools.partial(make_page, facts=facts, synthetic_notice=notice)
    prediction = Prediction(args.out, compute, checkpoint, args.spacing, args.probabilities, notice, page)
    started = time.perf_counter()
    problems, slices, failed = predict_patients(prediction, patients)

    done = ", ".join(f"{counted(number, 'slice')} {what}" for what, number in slices.items())
    print(f"{done or 'nothing'} in {time.perf_counter() - started:.1f} s on {hardware}")
    if args.shard:
        print("The same command without --shard writes the tables and report.html, when all shards are done.")
    elif slices:
        finish(args.out, cohort, failed, facts, notice)
    report(problems if args.shard else cohort.problems + problems, done=bool(slices or args.shard))


def predict_patients(prediction: Prediction, patients: list[Patient]) -> tuple[list[str], Counter[str], dict[str, str]]:
    """Predict the patients, print what was measured, and give them the notes of their scans.

    Returns: what is wrong, the number of slices by what became of them, and what is wrong with those that failed.
    """
    from inference.cohort import BEFORE, FAILED, other_masks
    from scans.write import describe

    problems, slices, failed = [], Counter(), {}
    for patient, (what, record) in zip(patients, prediction.run(patients), strict=True):
        problems += record["problems"]
        if what == FAILED:
            failed[patient.name] = "; ".join(record["problems"])
            continue
        problems += other_masks(prediction.out / patient.name, record)
        patient.notes = record["notes"]
        slices[what] += len(record["slices"])
        if what != BEFORE:
            total = record["patient"]
            corrected = " (corrected mask)" if total["origin"] != "network" else ""
            print(f"{patient.name}{corrected}: {'; '.join(describe(total))}", flush=True)
            warn(total["warnings"])
    return problems, slices, failed


def finish(out: Path, cohort: Cohort, failed: dict[str, str], facts: dict[str, str], notice: str) -> None:
    """Write the tables and the page of the cohort from the records of its patients, and say what holds for all.

    failed: what is wrong with patients whose record is of an earlier call.
    """
    from reporting.scans import write_report
    from scans.check import ONE_SEQUENCE
    from scans.table import to_table
    from scans.write import describe_cohort, write_tables

    totals, grey = write_tables(out, [patient.name for patient in cohort.with_flair], failed)
    write_text(out / "cohort.csv", to_table(cohort, out)[0])  # with the notes
    general = [f"{grey} of {counted(len(totals), 'scan')}: {ONE_SEQUENCE}"] if grey else []
    page = write_report(out, totals, facts, general, notice)
    alike: dict[str, list[tuple[str, str]]] = defaultdict(list)  # by the note without its numbers
    for patient in cohort.with_flair:
        for note in patient.notes:
            alike[re.sub(r"^(pre|post)-contrast: |-?\d[\d.,e+-]*", "", note)].append((patient.name, note))
    for (name, note), *more in alike.values():
        others = len({other for other, _ in more} - {name})
        print(f"note: {note} ({name}{f' and {others} more' if others else ''})")
    warn(*general)
    if warned := [row["patient"] for row in totals if row["warnings"]]:
        warn(f"about {counted(len(warned), 'scan')}, in patients.csv: {list_few(warned)}")
    print(f"written to {out}: masks and overlays by patient; slices.csv, patients.csv\nall of it on one page: {page}")
    print(f"{constants.RESEARCH_USE}\n{describe_cohort(totals)}")


def warn(*texts: str) -> None:
    for text in filter(None, texts):
        print(textwrap.fill(f"warning: {text}", 118, subsequent_indent=" " * 9))


def load(args: argparse.Namespace) -> tuple[UNet, dict[str, Any], str]:
    """Return the network with its checkpoint, as load_network does, and what it is in words."""
    from evaluation.selection import load_chosen, load_weights
    from storage.run_folder import RunFolder

    weights = args.checkpoint or constants.WEIGHTS
    model, checkpoint, chosen = load_chosen(RunFolder(args.run)) if args.run else load_weights(weights)
    if args.threshold is not None:
        checkpoint["input"]["threshold"] = args.threshold
        chosen += f"\nthreshold {args.threshold:g} instead, as asked for"
    return model, checkpoint, chosen


if __name__ == "__main__":
    run_script(main)
