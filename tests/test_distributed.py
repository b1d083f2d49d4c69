"""Two processes on the CPU against one. All are forks of a server that has imported everything once."""

import contextlib
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from conftest import run_here
from torch import multiprocessing as torch_processes
from torch import nn

from dataset.preprocess import Preprocessing, preprocess
from dataset.slices import Slices
from training import hardware as hw
from training.engine import evaluate, train_one_epoch
from training.losses import bce
from unet import UNet


def in_two_processes(function: Callable, *arguments: object) -> None:
    """Call function(*arguments) in two processes that know of each other as under torchrun; an error ends both."""
    multiprocessing.set_forkserver_preload(["training.run"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch_processes.start_processes(in_one, (port, function, *arguments), nprocs=2, start_method="forkserver")


def in_one(rank: int, port: int, function: Callable, *arguments: object) -> None:
    known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in known.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    function(*arguments)


def train_and_score(out: Path) -> None:
    """Write what an epoch and a validation return, and the weights after them.

    Each slice is normalised by itself, since PyTorch has no batch norm over several processes on a CPU.
    """
    cpu = torch.device("cpu")
    hw.join_processes(cpu)
    torch.manual_seed(0)
    with patch.object(nn, "BatchNorm2d", partial(nn.GroupNorm, 1)):
        network = UNet(width=2)
    images = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8)
    slices = Slices(images, (images[..., 1] > 180).byte(), pd.DataFrame({"patient": list("aaaabbbbccc")}))
    slices = preprocess(slices, Preprocessing())
    model, hardware = hw.distribute(network, cpu), hw.Hardware(cpu, bf16=False)
    still = torch.optim.SGD(network.parameters(), lr=0.05)
    # 11 slices in batches of 5, 5 and 1: one process has more slices than the other, or all
    trained = train_one_epoch(model, slices, torch.arange(11), still, 5, bce, hardware)
    scored = evaluate(model, slices, 5, bce, hardware)
    if hw.rank() == 0:
        weights = [p.flatten().tolist() for p in network.state_dict().values() if p.is_floating_point()]
        out.write_text(json.dumps([trained, scored, weights]))
    del model
    hw.leave_processes()


def test_an_epoch_of_two_processes_equals_that_of_one(tmp_path):
    train_and_score(tmp_path / "one")
    in_two_processes(train_and_score, tmp_path / "two")
    (trained, scored, weights), other = (json.loads((tmp_path / n).read_text()) for n in ("one", "two"))
    assert other[0] == pytest.approx(trained, abs=1e-5) and other[1] == pytest.approx(scored, abs=1e-4)
    for mine, theirs in zip(other[2], weights, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def train_and_print(out: Path, *arguments: object) -> None:
    """Run train_model.py, and write what it prints into a file of this process."""
    with (out / f"printed_{os.environ['RANK']}").open("a") as file, contextlib.redirect_stdout(file):
        run_here("train_model", *arguments)


def test_two_processes_write_one_run_with_one_voice(folder, tmp_path):
    options = ("--width", 2, "--batch-size", 5, "--device", "cpu", "--precision", "fp32", "--resume", "--epochs")
    for epochs in (1, 2):
        arguments = ("--run", tmp_path / "run", "--data", folder, *options, epochs)
        in_two_processes(train_and_print, tmp_path, *arguments)
    assert (tmp_path / "printed_0").read_text().count("checkpoints:") == 2
    assert (tmp_path / "printed_1").read_text() == ""
    epochs = pd.read_csv(tmp_path / "run" / "epochs.csv")
    assert epochs["epoch"].tolist() == [1, 2] and epochs.notna().all().all()
