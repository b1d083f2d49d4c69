"""Kill, fill, cut and falsify: does a run survive, and is a damaged file ever taken for a good one?

    python -m benchmarks.faults [--kills 50] [--damages 200] [--seed 0]

Trains a tiny network on a few synthetic slices in a temporary folder. Prints counts; exit code 1 if anything was lost
or accepted that should not be.
"""

import argparse
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from dataset.phantom import make_patient
from dataset.synthetic import patient_name
from storage import checkpoints
from utils import UserError

ROOT = Path(__file__).parents[1]
SLICES = range(8, 11)  # of each patient
EPOCHS = 100_000  # more than any run here reaches


def write_few_slices(folder: Path) -> None:
    for number in range(1, 5):
        images, masks = make_patient(0, number)
        patient = patient_name(number)
        (folder / patient).mkdir(parents=True)
        for index in SLICES:
            Image.fromarray(images[index]).save(folder / patient / f"{patient}_{index}.tif")
            Image.fromarray(masks[index] * 255).save(folder / patient / f"{patient}_{index}_mask.tif")


def start(folder: Path, run: Path, *options: str, **process) -> subprocess.Popen:
    command = [sys.executable, "train_model.py", "--run", run, *options]
    if "--resume" not in options:
        command += ["--data", folder, "--width", "2", "--batch-size", "2", "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes, **process)


def newest(run: Path) -> int:
    return max(checkpoints.epoch_files(run / "models"), default=0)


def kill_in_training(process: subprocess.Popen, run: Path, chance: random.Random) -> bool:
    """Kill with SIGKILL: half of the times after a random while, else as soon as a file is being written."""
    for line in process.stdout:
        if "seconds" in line:  # the head of the table: training begins
            break
    else:
        raise SystemExit(f"training did not start, exit code {process.wait()}")
    deadline = time.monotonic() + chance.uniform(0, 1.5)
    in_write = chance.random() < 0.5
    while time.monotonic() < deadline and not (in_write and list(run.glob("models/.*.tmp"))):
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return bool(list(run.glob("models/.*.tmp")))


def all_sound(run: Path, reference: dict[int, dict]) -> bool:
    """Whether every epoch file is whole, and none that was there before has changed."""
    for epoch, path in checkpoints.epoch_files(run / "models").items():
        weights = checkpoints.read_checkpoint(path)["weights"]
        known = reference.setdefault(epoch, weights)
        if not all(torch.equal(weights[name], known[name]) for name in known):
            return False
    return True


def campaign_of_kills(folder: Path, home: Path, kills: int, chance: random.Random) -> list[str]:
    run, known, in_writes, reached, lost = home / "killed", {}, 0, 0, 0
    for kill in range(kills):
        resume = (
            ["--resume"] if (run / "models" / checkpoints.RESUME).exists() else ["--epochs", str(EPOCHS), "--overwrite"]
        )
        in_writes += kill_in_training(start(folder, run, *resume), run, chance)
        if newest(run) < reached or not all_sound(run, known):
            lost += 1
        reached = max(reached, newest(run))
        print(f"\rkill {kill + 1} of {kills}, epoch {reached}", end="", flush=True)
    print()  # the line of progress ends
    last = reached + 2
    outputs = [start(folder, run, "--resume", "--epochs", str(last)).communicate()[0]]
    outputs.append(start(folder, home / "whole", "--epochs", str(last)).communicate()[0])
    ends = [checkpoints.epoch_path(home / name / "models", last) for name in ("killed", "whole")]
    if not all(path.exists() for path in ends):
        raise SystemExit("\n".join(outputs))
    one, other = (checkpoints.read_checkpoint(path)["weights"] for path in ends)
    same = all(torch.equal(one[name], other[name]) for name in one)
    print(
        f"{kills} SIGKILLs, {in_writes} of them while a file was being written; epoch {last} reached, "
        f"{lost} times anything lost; final weights {'equal bit for bit' if same else 'DIFFER from'} those of a run "
        "without interruption"
    )
    return ["kills"] * (lost > 0 or not same)


def full_and_read_only(folder: Path, home: Path) -> list[str]:
    """A disk that is full while the next epoch is written, and a folder that may not be written."""
    run, failed = home / "whole", []
    before = newest(run)

    def no_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(folder, run, "--resume", "--epochs", str(before + 2), preexec_fn=no_space)
    output = process.communicate()[0]
    sound = (
        process.returncode == 1 and "could not be written" in output and newest(run) == before and all_sound(run, {})
    )
    print(
        f"disk full: exit code {process.returncode}, epoch {before} {'kept' if sound else 'LOST'}: "
        f"{output.splitlines()[-1]}"
    )
    failed += ["disk full"] * (not sound)

    frozen = subprocess.run(["chattr", "+i", run / "models"], capture_output=True).returncode == 0
    if not frozen and os.geteuid() == 0:
        print("read-only folder: not tried, root may write everywhere here")
        return failed
    if not frozen:
        (run / "models").chmod(0o500)
    process = start(folder, run, "--resume", "--epochs", str(before + 2))
    output = process.communicate()[0]
    subprocess.run(["chattr", "-i", run / "models"], capture_output=True)
    (run / "models").chmod(0o700)
    sound = process.returncode == 1 and "Traceback" not in output and newest(run) == before and all_sound(run, {})
    print(
        f"read-only: exit code {process.returncode}, epoch {before} {'kept' if sound else 'LOST'}: "
        f"{output.splitlines()[-1]}"
    )
    return failed + ["read-only"] * (not sound)


def damages(home: Path, count: int, chance: random.Random) -> list[str]:
    """Cut a checkpoint at random places and flip random bits: each must be refused, or change nothing that is read."""
    path = checkpoints.epoch_path(home / "whole" / "models", 1)
    content, copy = path.read_bytes(), home / "damaged.pt"
    good = checkpoints.read_checkpoint(path)
    refused = harmless = accepted = 0
    for number in range(count):
        broken = bytearray(content)
        if number % 2:
            broken[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del broken[chance.randrange(len(content)) :]
        copy.write_bytes(broken)
        try:
            read = checkpoints.read_checkpoint(copy)
        except UserError:
            refused += 1
            continue
        same = all(torch.equal(read["weights"][name], tensor) for name, tensor in good["weights"].items())
        same = same and {k: v for k, v in read.items() if k != "weights"} == {
            k: v for k, v in good.items() if k != "weights"
        }
        harmless += same
        accepted += not same
    print(
        f"{count} cuts and bit flips: {refused} refused, {harmless} between the members (nothing read differs), "
        f"{accepted} accepted with other content"
    )
    return ["damaged files"] * (accepted > 0)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_MARK"],)


def malicious(home: Path) -> list[str]:
    """Files that would run code when unpickled, in three disguises."""
    os.environ["EVIL_MARK"] = str(home / "code was run")
    files = [home / f"evil_{n}.pt" for n in range(3)]
    torch.save(Evil(), files[0])
    torch.save({"format": checkpoints.FORMAT, "epoch": 1, "weights": Evil()}, files[1])
    files[2].write_bytes(pickle.dumps(Evil()))
    refused = 0
    for path in files:
        try:
            checkpoints.read_checkpoint(path)
        except UserError:
            refused += 1
    ran = Path(os.environ["EVIL_MARK"]).exists()
    print(f"{len(files)} malicious files: {refused} refused, code {'WAS RUN' if ran else 'never run'}")
    return ["malicious files"] * (ran or refused < len(files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        home, folder = Path(temporary), Path(temporary) / "patients"
        write_few_slices(folder)
        failed = campaign_of_kills(folder, home, args.kills, chance)
        failed += full_and_read_only(folder, home)
        failed += damages(home, args.damages, chance)
        failed += malicious(home)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
