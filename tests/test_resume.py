"""Cohorts that are stopped and go on, in one process, in shards, or by several workers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import blob, bright_checkpoint, contents, refused, run_here
from PIL import Image

import utils
from scans.read import read_patient


@pytest.fixture
def cohort(tmp_path) -> Path:
    """Write three patients: two slices as pictures, an array without lesion, a file that is no image."""
    image, mask = blob()
    (tmp_path / "coh" / "a").mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(image).save(tmp_path / "coh" / "a" / f"a_{number}.png")
    Image.fromarray(mask * 255).save(tmp_path / "coh" / "a" / "a_1_mask.png")  # of one slice only: a note
    np.save(tmp_path / "coh" / "b.npy", np.stack([image // 4] * 2))
    np.save(tmp_path / "coh" / "c.npy", np.stack([image] * 3))
    (tmp_path / "coh" / "d.npy").write_bytes(b"no array")
    return tmp_path / "coh"


@pytest.fixture
def predict(call, cohort, tmp_path):
    """Run predict_model.py on the cohort, into a folder named out by its parent -> (exit code, stdout, stderr)."""
    options = ("--checkpoint", bright_checkpoint(tmp_path / "run"), "--device", "cpu", "--out")
    return lambda folder, *arguments: call("predict_model", cohort, *options, tmp_path / folder / "out", *arguments)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Return the names of the patients that are read."""
    names = []

    def record(patient, spacing):
        names.append(patient.name)
        return read_patient(patient, spacing)

    monkeypatch.setattr("inference.cohort.read_patient", record)
    return names


def test_a_cohort_stopped_at_any_file_ends_as_one_that_was_not(predict, cohort, tmp_path, monkeypatch):
    (cohort / "c.npy").unlink()
    assert predict("whole", "--probabilities")[0] == 1
    left, atomic_write = 0, utils.atomic_write

    def write_until_stopped(path):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return atomic_write(path)

    for module in ("inference.cohort", "scans.write"):
        monkeypatch.setattr(f"{module}.atomic_write", write_until_stopped)
    codes = []
    for number in range(30):  # stopped after ever more files, and so at each kind of file
        left = number
        code, out, err = predict("stopped", "--probabilities")
        codes.append(code)
        if code != 130:
            break
    assert codes[-1] == 1 and len(codes) > 6 and "d.npy: cannot be read" in err and "slices done before" in out
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_what_is_done_is_not_read_again_unless_something_changed(predict, read, cohort, tmp_path):
    folder = tmp_path / "x" / "out"

    def column(name: str) -> list:
        table = pd.read_csv(folder / "patients.csv", index_col="patient")
        return table.loc[["a", "b", "c"], name].tolist()

    for expected in (["a", "b", "c", "d"], ["d"]):
        read.clear()
        code, out, err = predict("x")
        assert code == 1 and err.count("error:") == 1 and sorted(read) == expected
    assert "7 slices done before" in out and "3 scans: 2 with lesion" in out
    np.save(folder / "c" / "c_mask.npy", np.load(folder / "c" / "c_mask.npy") * 0)  # corrected
    Image.fromarray(blob()[1] * 255).save(cohort / "a" / "a_2_mask.png")  # the reference is complete
    (folder / "b" / "b_overlay.png").unlink()
    for expected in (["a", "b", "c", "d"], ["d"]):
        read.clear()
        predict("x")
        assert sorted(read) == expected and column("origin") == ["network", "network", "corrected"]
        assert column("lesion_pixels") == [4800, 0, 0] and column("dice")[0] == 1
    assert (folder / "b" / "b_overlay.png").exists()
    predict("x", "--spacing", 1, 1, 1)
    assert column("lesion_mm3") == [4800, 0, 0]
    refused(predict("x", "--threshold", 0.6), "holds masks made with threshold 0.5, not 0.6. Give the same options")
    (folder / "a" / "a_2_mask.png").unlink()
    Image.fromarray(blob()[1] * 0).save(folder / "a" / "a_1_mask.png")  # beside it, one that a person worked on
    code, _, err = predict("x")
    assert code == 1 and "a_2_mask.png: no such file, beside other masks of this scan" in err


def run_worker_here(command: list[str], **_) -> subprocess.CompletedProcess:
    """Run the command of a worker in a thread of this process: one of its own would import torch again."""
    assert command[0] == sys.executable
    try:
        code = run_here(*command[1:]) or 0
    except SystemExit as stop:
        code = stop.code
    return subprocess.CompletedProcess(command, code)


def test_shards_in_any_order_and_a_last_call_or_workers_are_one_prediction(predict, read, tmp_path, monkeypatch):
    predict("whole")
    read.clear()
    codes = [predict("shards", "--shard", shard)[0] for shard in ("3/3", "1/3", "2/3", "1/2")]
    assert codes == [1, 0, 0, 1] and sorted(read) == ["a", "b", "c", "d", "d"]  # d cannot be read
    assert not (tmp_path / "shards" / "out" / "patients.csv").exists()
    code, out, err = predict("shards")
    assert code == 1 and "7 slices done before" in out and "d.npy" in err
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    monkeypatch.setattr("inference.cohort.subprocess.run", run_worker_here)
    code, out, err = predict("workers", "--workers", 2, "--overwrite")
    assert code == 1 and "7 slices done before" in out and "d.npy" in err
    assert contents(tmp_path / "workers") == contents(tmp_path / "whole")
    assert predict("workers", "--workers", 2, "--over")[0] == 2  # which the workers would not know from --overwrite
    for wrong in (("4/3",), ("1/3", "--workers", 2), ("1/3", "--overwrite")):
        assert predict("shards", "--shard", *wrong)[0] == 2


def test_cores_are_those_that_the_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert utils.cores(tmp_path) == 8
    for limit, expected in (("max", 8), ("250000", 3), ("50000", 1)):
        (tmp_path / "cpu.max").write_text(f"{limit} 100000")
        assert utils.cores(tmp_path) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (tmp_path / "cpu.max").unlink()
    assert utils.cores(tmp_path) == 2
