"""A run that is stopped, killed, or disturbed."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import QUICK
from test_scripts import ROOT, digest, same_weights

import train_model
from storage import checkpoints
from utils import UserError


def start(folder: Path, run: Path, *options) -> subprocess.Popen:
    """Start training in a process of its own."""
    command = [sys.executable, ROOT / "train_model.py", "--run", run, "--data", folder, *QUICK, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the same sums in the same order
    return subprocess.Popen(list(map(str, command)), cwd=run.parent, env=environment, **pipes)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def metrics_of(path: Path) -> dict[str, float]:
    content = torch.load(path, weights_only=True)
    return {
        name: value for name, value in content.items() if isinstance(value, float) and name.endswith(("iou", "loss"))
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_resumed_run_ends_the_same(call, folder, tmp_path, number):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = start(folder, stopped, "--batch-size", 1, "--epochs", 4)
    wait_for(stopped / "models" / "epoch_1.pt", process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number and "Go on with: python train_model.py" in out
    assert err == "\nstopping after this step; finished epochs are kept; once more aborts\n"
    last = int(re.search(r"(\d+) epoch\(s\) are saved", out)[1])
    assert pd.read_csv(stopped / "epochs.csv")["epoch"].tolist() == list(range(1, last + 1))

    assert call("train_model", "--run", stopped, "--resume", "--epochs", 4)[::2] == (0, "")
    assert call("train_model", "--data", folder, "--run", whole, *QUICK, "--batch-size", 1, "--epochs", 4)[0] == 0
    for epoch in (1, 4):
        ends = [run / "models" / f"epoch_{epoch}.pt" for run in (whole, stopped)]
        assert same_weights(*ends) and metrics_of(ends[0]) == metrics_of(ends[1])
    assert pd.read_csv(stopped / "epochs.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_a_killed_run_goes_on_after_its_last_epoch_and_leaves_no_lock(call, folder, tmp_path):
    run = tmp_path / "run"
    process = start(folder, run, "--epochs", "50")
    wait_for(run / "models" / "epoch_2.pt", process)
    code, _, err = call("train_model", "--run", run, "--resume")
    assert code == 2 and "another process is training there" in err
    process.kill()
    process.communicate()
    (run / "models" / ".epoch_2.pt.1.tmp").write_bytes(b"half")
    code, out, _ = call("train_model", "--run", run, "--resume", "--epochs", 6)
    assert code == 0 and "resumed after epoch" in out
    assert not list((run / "models").glob("*.tmp"))
    assert call("process_models", "--run", run)[0] == 0
    for name in ("results.csv", "epochs.csv"):
        assert pd.read_csv(run / name)["epoch"].tolist()[:5] == [1, 2, 3, 4, 5]


def test_a_full_disk_is_one_message_and_keeps_the_earlier_epochs(call, finished):
    before = digest(finished)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        code, _, err = call("train_model", "--run", finished, "--resume", "--epochs", 2)
    finally:
        signal.signal(signal.SIGXFSZ, old)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert code == 1 and "epoch_2.pt: could not be written: File too large" in err
    after = digest(finished)
    assert all(after[name] == before[name] for name in before if name.startswith("models/"))
    assert not list(finished.rglob("*.tmp"))
    assert call("train_model", "--run", finished, "--resume", "--epochs", 2)[0] == 0


def test_an_error_waits_for_the_epoch_that_is_written_in_the_background(call, folder, tmp_path, monkeypatch):
    """As on a GPU: the disk is full for epoch 1 while epoch 2 ends with another error, which must not hide it."""
    begin, train, epochs = checkpoints.Writer.__init__, train_model.train_one_epoch, []

    def in_background(writer, *arguments):
        begin(writer, *arguments)
        writer.background = ThreadPoolExecutor(1)

    def full(*_):
        time.sleep(0.2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "epoch_1.pt")

    def diverge(*arguments):
        epochs.append(len(epochs) + 1)
        if len(epochs) == 2:
            raise UserError("the loss is not finite; the epochs before it are kept")
        return train(*arguments)

    monkeypatch.setattr(checkpoints.Writer, "__init__", in_background)
    monkeypatch.setattr(checkpoints.Writer, "_write_epoch", full)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(train_model, "train_one_epoch", diverge)
    code, _, err = call("train_model", "--data", folder, "--run", tmp_path / "run", "--epochs", 3, *QUICK)
    assert (code, epochs) == (1, [1, 2]) and err.endswith("error: epoch_1.pt: No space left on device\n")


def test_keep_leaves_weights_to_the_best_by_each_criterion_and_the_newest(call, folder, tmp_path):
    run = tmp_path / "run"
    assert call("train_model", "--data", folder, "--run", run, "--epochs", 5, "--keep", 1, *QUICK)[0] == 0
    epochs = pd.read_csv(run / "epochs.csv").set_index("epoch")
    best = {epochs[f"validation_{by}"].idxmax() for by in ("iou", "tumour_iou", "patient_dice")}
    best.add(epochs["validation_loss"].idxmin())
    sizes = {n: (run / "models" / f"epoch_{n}.pt").stat().st_size for n in range(1, 6)}
    assert {n for n, size in sizes.items() if size > 50_000} == best | {5}
    assert all(size < 10_000 for n, size in sizes.items() if n not in best | {5})
    for by in ("iou", "tumour_iou", "loss"):
        assert call("test_model", "--run", run, "--select-by", by)[0] == 0
    assert call("train_model", "--run", run, "--resume", "--epochs", 6)[0] == 0
