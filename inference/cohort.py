"""Segment the patients of a cohort, one after the other; what an earlier call has done is passed over.

The next patient is read and the last one written while the network computes.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.selection import Postprocessing
from inference.segment import Compute, expect, predict, to_masks
from scans.check import NETWORK, input_warnings, needs_check, seen_in_training
from scans.cohort import Patient
from scans.earlier import describe_written, digest, inputs_digest, read_done, read_written
from scans.inputs import SOME_FAILED
from scans.masks import read_reference
from scans.read import read_patient
from scans.scan import Scan
from scans.write import (
    Row,
    digest_bytes,
    encode_stack,
    file_names,
    make_sheet,
    measure,
    read_record,
    record_path,
    sum_up,
)
from training.hardware import device_of
from utils import SYSTEM_ERROR, atomic_write, cores, to_json

NO_SPACING = "no spacing known, so that areas are in pixels only; add it with --spacing"
Planes = Sequence[np.ndarray] | None  # of each slice
MakePage = Callable[[Patient, Scan, Planes, Planes, Planes, list[Row], Row], str]  # of reporting.scans


@dataclass
class Work:
    """A patient on the way from files to files."""

    patient: Patient
    before: Row  # the earlier record, {} if there is none
    inputs: str  # digest
    problems: list[str] = field(default_factory=list)
    scan: Scan | None = None  # None: cannot be read, or is done already
    references: Planes = None  # masks: uint8 [H, W], 0 or 1
    masks: Planes = None
    in_place: bool = False  # whether the masks were in the output folder
    probabilities: Planes = None  # float32 [H, W]
    small: np.ndarray | None = None  # the same on the grid of the network
    record: Row | None = None  # what was written, or there already

    @property
    def done(self) -> str:
        """Return whether the patient was done before, or else measured with the masks there, or segmented."""
        return "before" if self.record is self.before else "measured" if self.in_place else "segmented"


@dataclass(frozen=True)
class Prediction:
    """What is the same for all patients."""

    out: Path
    compute: Compute
    checkpoint: dict[str, Any]
    spacing: Sequence[float] | None
    write_probabilities: bool
    notice: str
    make_page: MakePage

    def run(self, patients: Iterable[Patient]) -> Iterator[Work]:
        """Segment, measure and write the patients in their order; yield each when it is written."""
        return in_stages(patients, self.read, self.segment, self.write)

    def read(self, patient: Patient) -> Work:
        inputs = inputs_digest(patient, self.spacing)
        if record := read_done(self.out, patient, inputs):
            return Work(patient, record, inputs, record["problems"], record=record)
        work = Work(patient, read_record(self.out, patient.name), inputs)
        scan, work.problems = read_patient(patient, self.spacing)
        if scan is None:
            return work
        try:
            work.masks = read_written(self.out, scan, work.before)
        except ValueError as error:  # a mask that somebody worked on is never replaced
            work.problems.append(str(error))
            return work
        if scan.spacing is None:
            scan.notes.append(NO_SPACING)
        work.scan, work.in_place, work.references = scan, work.masks is not None, read_reference(patient, scan)
        return work

    def segment(self, work: Work) -> Work:
        if work.scan and not work.in_place:
            work.probabilities, work.small = predict(self.compute, work.scan, self.checkpoint["input"])
        return work

    def write(self, work: Work) -> Work:
        """Write the files of a patient and its record, PATIENT_mask.json.

        The record goes before masks of the network: without all of them the patient counts as not segmented, and a mask
        that is not as the record says has been corrected. Whatever else there is stands when the record does.
        """
        scan = work.scan
        if scan is None:
            return work
        if not work.in_place:
            work.masks = to_masks(work.probabilities, Postprocessing.of(self.checkpoint["input"]), scan.spacing)
        masks, references, folder = work.masks, work.references, self.out / scan.name
        rows = measure(scan, masks, references)
        total = sum_up(rows) | self.judge(work)
        total["check"] = needs_check(total)
        files = {f"{scan.name}_overlay.png": make_sheet(scan, masks, references, rows, total, self.notice)}
        if self.write_probabilities and work.probabilities:
            files |= encode_stack(scan, work.probabilities, "probability")
        page = self.make_page(work.patient, scan, masks, references, work.probabilities, rows, total)
        files[f"{scan.name}_report.html"] = page.encode()
        if work.in_place:
            own = {name: (folder / name).read_bytes() for name in file_names(scan, "mask")}
        else:
            own = encode_stack(scan, masks, "mask")
        work.record = {
            "patient": total,
            "slices": rows,
            "notes": scan.notes,
            "grey": scan.grey,
            "inputs": work.inputs,
            "problems": work.problems,
            "masks": {name: digest_bytes(content) for name, content in own.items()},
            "files": sorted({*files, *work.before.get("files", ())}),
        }
        files[record_path(self.out, scan.name).name] = to_json(work.record).encode()
        for name, content in (files if work.in_place else files | own).items():
            with atomic_write(folder / name) as file:
                file.write(content)
        work.scan = work.references = work.masks = work.probabilities = work.small = None  # memory
        return work

    def judge(self, work: Work) -> Row:
        """Return the columns of patients.csv that the masks do not say: origin, expected Dice, warnings."""
        scan, model = work.scan, self.checkpoint["quality"]
        warnings = [*scan.warnings, *input_warnings(scan.slices, work.masks, scan.spacing)]
        if work.in_place:
            about = describe_written(work.masks, work.before.get("patient", {}))
        else:
            about = {"origin": NETWORK, "network_mask": digest(work.masks)}
            about |= expect(model, work.small, work.masks, scan, bool(warnings))
        about["seen_in_training"] = seen_in_training(scan, self.checkpoint["training_patients"])
        later = (text[0].upper() + text[1:] for text in warnings[1:])
        return about | {"warnings": " ".join([*warnings[:1], *later])}


def in_stages(items: Iterable, read: Callable, compute: Callable, write: Callable) -> Iterator:
    """Yield write(compute(read(item))) in order. A thread reads the next item, another writes the last one."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = written = None
        for item in (*items, None):
            following = None if item is None else reader.submit(read, item)
            if ahead:
                writing = writer.submit(write, compute(ahead.result()))
                if written:
                    yield written.result()
                written = writing
            ahead = following
        if written:
            yield written.result()


def run_shards(
    script: Path, arguments: Sequence[str], number: int, device: str, out: Path, names: Sequence[str]
) -> None:
    """Run a script once for each shard, in processes side by side, with one line of progress over the patients.

    A process that fails ends this one with its output and its exit code.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores() // number))}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and so end them, too
    waiting = {name for name in names if not record_path(out, name).is_file()}
    with contextlib.ExitStack() as stack:
        processes = []
        for k in range(number):
            own = ("--workers", "1", "--shard", f"{k + 1}/{number}", "--device", device_of(k, device))
            log = stack.enter_context(tempfile.TemporaryFile())
            command = [sys.executable, str(script), *arguments, *own]
            processes.append((subprocess.Popen(command, stdout=log, stderr=log, env=environment), log))
            stack.callback(processes[-1][0].wait)
            stack.callback(processes[-1][0].terminate)
        bar = stack.enter_context(tqdm(total=len(names), initial=len(names) - len(waiting), unit="scan", disable=None))
        while any(process.poll() is None for process, _ in processes):
            time.sleep(0.5 + len(waiting) / 10_000)  # to look for so many files takes time
            done = {name for name in waiting if record_path(out, name).is_file()}
            waiting -= done
            bar.update(len(done))
        for process, log in processes:
            if process.returncode not in (0, SOME_FAILED):
                log.seek(0)
                print(log.read().decode(errors="replace"), file=sys.stderr)
                sys.exit(SYSTEM_ERROR if process.returncode < 0 else process.returncode)
