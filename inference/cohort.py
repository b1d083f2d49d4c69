"""Segment the patients of a cohort; what an earlier call has done is passed over."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset.preprocess import find_head
from dataset.slices import fingerprint
from evaluation.selection import Postprocessing
from inference.segment import Compute, expect, predict, to_masks
from scans import write
from scans.check import CORRECTED, NETWORK, OTHER_IMAGES, input_warnings, needs_check, seen_in_training
from scans.geometry import to_network
from scans.inputs import SOME_FAILED
from scans.items import Patient
from scans.masks import is_named, read_reference, read_scan_masks
from scans.read import read_patient
from scans.scan import Scan, file_ending
from scans.write import Result, Row, record_path
from storage.origin import is_recorded
from training.hardware import device_of
from utils import SYSTEM_ERROR, atomic_write, cores, list_few, to_json

# What became of a patient
BEFORE, MEASURED, SEGMENTED, FAILED = "done before", "with masks that were there", "segmented", "failed"
AT_ONCE = 3  # patients in memory: while the network computes one, the next is read and the last one written
MakePage = Callable[[Patient, Result], str]  # of reporting.scans


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

    def run(self, patients: Iterable[Patient]) -> Iterator[tuple[str, Row]]:
        """Segment, measure and write the patients; yield what became of each, and its record, in their order."""
        pool, network, reading = ThreadPoolExecutor(AT_ONCE), ThreadPoolExecutor(1), Lock()
        try:
            yield from pool.map(functools.partial(self.process, reading, network), patients)
        finally:  # if it is stopped, only after the patients that the network has done are written
            network.shutdown(cancel_futures=True)
            pool.shutdown()

    def process(self, reading: Lock, network: Executor, patient: Patient) -> tuple[str, Row]:
        """Read, segment, measure and write a patient; return what became of it, and its record or its problems.

        reading, network: read, and compute, for one patient at a time.
        """
        before, inputs = write.read_record(self.out, patient.name), write.digest_inputs(patient, self.spacing)
        if write.is_done(self.out / patient.name, before, inputs):
            return BEFORE, before
        with reading:
            scan, problems = read_patient(patient, self.spacing)
            if scan is None:
                return FAILED, {"problems": problems}
            origin = write.origin_of(self.out / patient.name, before)
            seen = {"images": fingerprint(scan.slices), "spacing": scan.spacing and list(scan.spacing)}
            earlier = before.get("seen", seen)
            # the images that a corrected mask is of: those that were there when somebody changed it
            changed = earlier == seen and not write.unchanged(self.out / patient.name, before)
            mask_of = seen["images"] if changed else before.get("mask_of", earlier["images"])
            try:
                kept = earlier == seen or origin["origin"] == CORRECTED
                masks = read_written(self.out / patient.name, scan, before) if kept else None
            except ValueError as error:  # a mask that somebody worked on is never replaced
                return FAILED, {"problems": [*problems, str(error)]}
            references = read_reference(patient, scan)
        if scan.spacing is None:
            scan.notes.append("no spacing known, so that areas are in pixels only; add it with --spacing")
        probabilities = small = None
        if masks is None:
            settings = self.checkpoint["input"]
            probabilities, small = network.submit(predict, self.compute, scan, settings).result()
            masks = to_masks(probabilities, Postprocessing.of(settings), scan)
            origin, mask_of = {"origin": NETWORK}, seen["images"]
        elif mask_of != seen["images"]:
            scan.warnings.append(OTHER_IMAGES)
        rows, head = write.measure(scan, masks, references), find_head(scan.slices, filled=True)
        warnings = [*scan.warnings, *input_warnings(scan, head, masks)]
        total = write.sum_up(rows) | origin
        if small is not None:
            total |= expect(self.checkpoint["quality"], small, masks, scan, doubtful=bool(warnings))
        images = fingerprint(to_network(scan))
        known, recorded = self.checkpoint["training_patients"], is_recorded(self.checkpoint["config"])
        total["seen_in_training"] = seen_in_training(scan.name, images, known, recorded)
        total["warnings"] = " ".join(text[0].upper() + text[1:] if n else text for n, text in enumerate(warnings))
        total["check"] = needs_check(total)
        result = Result(scan, head, masks, references, probabilities, rows, total)
        about = {"inputs": inputs, "seen": seen, "mask_of": mask_of, "problems": problems}
        record = self.write(patient, result, about, before)
        return (MEASURED if probabilities is None else SEGMENTED), record

    def write(self, patient: Patient, result: Result, about: Row, before: Row) -> Row:
        """Write the files of a patient, and return its record, PATIENT_mask.json.

        The record goes after all else, but before masks of the network: without all of them the patient counts as not
        segmented, and a mask that is not as the record says has been corrected.

        about: more for the record. before: that of an earlier call, whose masks are gone before others are written.
        """
        scan, probabilities, folder = result.scan, result.probabilities, self.out / result.scan.name
        files = {f"{scan.name}_overlay.png": write.make_sheet(result, self.notice)}
        if self.write_probabilities and probabilities is not None:
            files |= write.encode_stack(scan, probabilities, "probability")
        files[f"{scan.name}_report.html"] = self.make_page(patient, result).encode()
        if probabilities is None:
            masks = {name: (folder / name).read_bytes() for name in write.file_names(scan, "mask")}
        else:
            masks = write.encode_stack(scan, result.masks, "mask")
        record = {"patient": result.total, "slices": result.rows, "notes": scan.notes, "grey": scan.grey, **about}
        record["masks"] = {name: write.digest(content) for name, content in masks.items()}
        record["files"] = sorted(files if probabilities is not None else {*files, *before.get("files", ())})
        for name in (*before.get("masks", ()), *before.get("files", ())) if probabilities is not None else ():
            (folder / Path(name).name).unlink(missing_ok=True)
        files[record_path(self.out, scan.name).name] = to_json(record).encode()
        for name, content in (files if probabilities is None else files | masks).items():
            with atomic_write(folder / name) as file:
                file.write(content)
        return record


def read_written(folder: Path, scan: Scan, record: Row) -> np.ndarray | None:
    """Return the masks of a scan in its output folder, uint8 [S, H, W], 0 or 1.

    None without any, or with some of the network's only, as it was stopped.
    Raises: ValueError that names a file which is missing, damaged, or does not fit the scan.
    """
    paths = [folder / name for name in write.file_names(scan, "mask")]
    lacking = [path for path in paths if not path.is_file()]
    if len(lacking) == len(paths) or (lacking and write.origin_of(folder, record)["origin"] == NETWORK):
        return None
    remedy = "Restore it, or replace all masks with --overwrite."
    if lacking:
        raise ValueError(f"{lacking[0]}: no such file, beside other masks of this scan. {remedy}")
    try:
        return read_scan_masks(paths, scan)[0]
    except Exception as error:  # libraries raise many kinds for a damaged file
        place = paths[0] if len(paths) == 1 else folder
        raise ValueError(f"{place}: cannot be used: {' '.join(str(error).split())} {remedy}") from None


def other_masks(folder: Path, record: Row) -> list[str]:
    """Return what is wrong with the masks that somebody saved in the folder of a patient under other names."""
    names = {path.name for path in folder.iterdir() if file_ending(path) and is_named(path)}
    others = sorted(names.difference(record["masks"], record["files"]))
    remedy = f"is not read: this scan has {list_few([*record['masks']])}. Save what is right as that, and remove this."
    return [f"{folder / name}: {remedy}" for name in others]


def run_shards(
    script: Path, arguments: Sequence[str], number: int, device: str, out: Path, names: Sequence[str]
) -> None:
    """Run a script once for each shard, in processes side by side, with one line of progress over the patients.

    A process that fails ends this one with its output and its exit code.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores() // number))}

    def run_shard(k: int) -> subprocess.CompletedProcess:
        own = ("--workers", "1", "--shard", f"{k + 1}/{number}", "--device", device_of(k, device))
        rest, pipe = [text for text in arguments if text != "--overwrite"], subprocess.PIPE  # it is done by then
        command = [sys.executable, str(script), *rest, *own]
        return subprocess.run(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, check=False)

    with ThreadPoolExecutor(number) as pool, tqdm(total=len(names), unit="scan", disable=None) as bar:
        shards = [pool.submit(run_shard, k) for k in range(number)]
        while wait(shards, timeout=0.5 + len(names) / 10_000).not_done:  # to look for so many files takes time
            bar.update(sum(record_path(out, name).is_file() for name in names) - bar.n)
    for shard in shards:
        if (code := shard.result().returncode) not in (0, SOME_FAILED):
            print(shard.result().stdout.decode(errors="replace"), file=sys.stderr)
            sys.exit(SYSTEM_ERROR if code < 0 else code)
