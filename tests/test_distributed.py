"""Two processes on the CPU against one: losses, figures and weights over some steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_patients

ROOT = Path(__file__).parents[1]
OPTIONS = ("--width", "2", "--batch-size", "5", "--epochs", "2", "--device", "cpu", "--precision", "fp32")


def torchrun(processes: int, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "--"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        list(map(str, (*command, *arguments))), capture_output=True, text=True, env=environment, timeout=300
    )


def test_two_processes_train_as_one(call, tmp_path):
    # 11 training slices in batches of 5, 5 and 1: uneven shares, and one that is empty
    folder = make_patients(tmp_path / "data", patients=5, slices=3)
    (folder / "SYNTH_T_4" / "SYNTH_T_4_3.tif").unlink()
    (folder / "SYNTH_T_4" / "SYNTH_T_4_3_mask.tif").unlink()
    split = tmp_path / "split.csv"
    rows = zip(range(5), ["train", "train", "train", "validation", "train"], strict=True)
    split.write_text("patient,split\n" + "".join(f"SYNTH_T_{n},{s}\n" for n, s in rows))
    options = ("--data", folder, "--split", split, "--loss", "bce+dice", *OPTIONS)

    code, _, err = call("train_model", "--run", tmp_path / "one", *options)
    assert code == 0, err
    done = torchrun(2, ROOT / "train_model.py", "--run", tmp_path / "two", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoints:") == 1  # one voice

    def figures(run: str, epoch: int) -> dict:
        return torch.load(tmp_path / run / "models" / f"epoch_{epoch}.pt", weights_only=True)

    one, two = figures("one", 1), figures("two", 1)
    assert one["weights"].keys() == two["weights"].keys()
    for name in ("training_loss", "training_iou", "validation_loss", "validation_iou", "validation_patient_dice"):
        assert two[name] == pytest.approx(one[name], abs=1e-3), name
    # Sums in another order differ in the last bits, which Adam's first steps enlarge; the loss still agrees.
    assert figures("two", 2)["training_loss"] == pytest.approx(figures("one", 2)["training_loss"], rel=2e-2)


PROGRAM = """
import json, sys
import torch
from training import distributed
from training.losses import LOSSES
from unet import UNet

distributed.start("gloo")
torch.manual_seed(0)
network = UNet(width=2)
images, masks = torch.randn(5, 3, 32, 32), (torch.rand(5, 1, 32, 32) > 0.7).float()
model = distributed.spread(network, torch.device("cpu")) if distributed.world() > 1 else network
rows = distributed.share(torch.arange(5))
result = {}
for name, loss_function in LOSSES.items():
    network.zero_grad()
    loss = loss_function(model(images[rows]), masks[rows])
    loss.backward()
    result[name] = [loss.item(), [p.grad.flatten().tolist() for p in network.parameters()]]
result["variance"] = network.down[0][1].running_var.tolist()
if distributed.rank() == 0:
    print(json.dumps(result))
distributed.stop()
"""


def test_one_step_gives_the_gradients_and_statistics_of_the_whole_batch(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}")
    one, two = (json.loads(torchrun(n, program).stdout.splitlines()[-1]) for n in (1, 2))
    assert two["variance"] == pytest.approx(one["variance"], rel=1e-5)
    for name in ("bce", "dice", "bce+dice"):
        assert two[name][0] == pytest.approx(one[name][0], abs=1e-6)
        for mine, theirs in zip(two[name][1], one[name][1], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


def test_a_rank_that_dies_takes_the_others_down_and_the_run_resumes(call, folder, tmp_path):
    program = tmp_path / "dies.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, engine, distributed, train_model\n"
        "add = engine.Tally.add\n"
        "def dies(tally, *seen):\n"
        "    add(tally, *seen)\n"
        "    if distributed.rank() == 1 and os.path.exists(os.environ['RUN'] + '/models/epoch_1.pt'):\n"
        "        os._exit(9)\n"
        "engine.Tally.add = dies\n"
        "train_model.main()\n"
    )
    run = tmp_path / "run"
    os.environ["RUN"] = str(run)
    done = torchrun(2, program, "--data", folder, "--run", run, *OPTIONS)
    del os.environ["RUN"]
    assert done.returncode != 0 and "exitcode" in done.stderr
    code, out, _ = call("train_model", "--run", run, "--resume")
    assert code == 0 and "resumed after epoch 1" in out and (run / "models" / "epoch_2.pt").exists()
