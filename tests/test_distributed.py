"""Two processes on the CPU against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def torchrun(processes: int, *arguments) -> subprocess.CompletedProcess:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "--")
    command = [sys.executable, *(launcher if processes > 1 else ())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        list(map(str, (*command, *arguments))), capture_output=True, text=True, env=environment, timeout=300
    )


# PyTorch's SyncBatchNorm refuses CPU tensors. This stands in for it: statistics over the slices of all processes.
EPOCH = """
import json
import pandas as pd, torch
from torch import nn
from torch.distributed.nn.functional import all_reduce
from dataset.preprocess import Preprocessing, preprocess
from dataset.slices import Slices
from training import hardware as hw
from training.engine import evaluate, train_one_epoch
from training.losses import bce
from unet import UNet

class GlobalBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        if not self.training or hw.world() == 1:
            return super().forward(x)
        sums = [x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), torch.full((x.shape[1],), float(x[:, 0].numel()))]
        total, squares, n = all_reduce(torch.stack(sums))
        mean, variance = total / n, squares / n - (total / n) ** 2
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        x = (x - mean[:, None, None]) * (self.weight * (variance + self.eps).rsqrt())[:, None, None]
        return x + self.bias[:, None, None]

nn.BatchNorm2d, cpu = GlobalBatchNorm, torch.device("cpu")
hw.join_processes(cpu)
torch.manual_seed(0)
network = UNet(width=2)
images = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8)
slices = Slices(images, (images[..., 1] > 180).byte(), pd.DataFrame({"patient": list("aaaabbbbccc")}))
slices = preprocess(slices, Preprocessing())
model, hardware = hw.distribute(network, cpu), hw.Hardware(cpu, bf16=False)
still = torch.optim.SGD(network.parameters(), lr=0.05)
# 11 slices in batches of 5, 5 and 1: one process has more slices than the other, or all
trained = train_one_epoch(model, slices, torch.arange(11), still, 5, bce, hardware)
scored, counts = evaluate(model, slices, 5, bce, hardware)
if hw.rank() == 0:
    weights = [p.flatten().tolist() for p in network.state_dict().values() if p.is_floating_point()]
    print(json.dumps([trained, scored, counts.predicted.tolist(), weights]))
del model
hw.leave_processes()
"""


def test_an_epoch_of_two_processes_equals_that_of_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(EPOCH)
    results = []
    for processes in (1, 2):
        done = torchrun(processes, program)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    (trained, scored, predicted, weights), other = results
    assert other[0] == pytest.approx(trained, abs=1e-5) and other[1] == pytest.approx(scored, abs=1e-4)
    assert other[2] == pytest.approx(predicted, abs=2)  # pixels; a logit at the threshold may fall to either side
    for mine, theirs in zip(other[3], weights, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


DIES = """
import os, sys, torch, train_model
step, steps = torch.optim.Adam.step, []
def dies(*arguments, **options):
    steps.append(1)
    if len(steps) == 3 and os.environ["RANK"] == "1":  # two steps are an epoch
        os._exit(3)
    return step(*arguments, **options)
torch.optim.Adam.step = dies
train_model.main(sys.argv[1:])
"""


def test_a_run_of_two_processes_goes_on_after_one_of_them_died(folder, tmp_path):
    """The script under torchrun: two processes write one run with one voice."""
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(DIES)
    options = ("--width", 2, "--batch-size", 5, "--epochs", 2, "--device", "cpu", "--precision", "fp32")
    died = torchrun(2, program, "--run", run, "--data", folder, *options)
    assert died.returncode != 0 and "checkpoints:" not in died.stdout
    done = torchrun(2, ROOT / "train_model.py", "--run", run, "--resume")
    assert done.returncode == 0 and done.stdout.count("checkpoints:") == 1, done.stderr
    epochs = pd.read_csv(run / "epochs.csv")
    assert epochs["epoch"].tolist() == [1, 2] and epochs.notna().all().all()
