"""Kill, fill, cut and falsify: does a run survive, and is a damaged file ever taken for a good one?

    python -m benchmarks.faults [--kills 50] [--damages 200] [--seed 0]

Trains a tiny network on a few synthetic slices in a temporary folder. Prints counts; exit code 1 if anything was lost
or accepted that should not be.
"""

import argparse
import contextlib
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

from dataset.synthetic import write_patients
from storage import checkpoints
from storage.run_folder import RunFolder
from utils import UserError

ROOT = Path(__file__).parents[1]
SLICES = range(8, 11)  # of each patient
EPOCHS = 100_000  # more than any run here reaches
SMALL_DISK = 100_000  # bytes that a file may have: less than a checkpoint of this network, more than its tables


def write_few_slices(folder: Path) -> None:
    write_patients(folder, patients=4, seed=0)
    for path in folder.glob("*/*.tif"):
        if int(path.name.split("_")[4].removesuffix(".tif")) not in SLICES:
            path.unlink()


def start(run: RunFolder, *options: object, **process) -> subprocess.Popen:
    command = [sys.executable, "train_model.py", "--run", run, "--device", "cpu", *options]
    if "--resume" not in options:
        command += ["--width", 2, "--batch-size", 2]
    process |= {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(list(map(str, command)), **process)


def kill_in_training(process: subprocess.Popen, run: RunFolder, chance: random.Random) -> bool:
    """Send SIGKILL: half of the times after a random while, else as soon as a file is being written.

    Returns: whether a file was being written.
    """
    if not any("seconds" in line for line in process.stdout):  # the head of the table: training begins
        sys.exit(f"training did not start, exit code {process.wait()}")
    deadline = time.monotonic() + chance.uniform(0, 1.5)
    in_write = chance.random() < 0.5
    while time.monotonic() < deadline and not (in_write and list(run.models.glob(".*.tmp"))):
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return bool(list(run.models.glob(".*.tmp")))


def read(path: Path) -> dict | None:
    """Return the content of a checkpoint, None if it is refused."""
    with contextlib.suppress(UserError):
        return checkpoints.read_checkpoint(path)


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def is_sound(run: RunFolder, known: dict[int, dict]) -> bool:
    """Return whether every checkpoint can be read, and none of the known ones has changed; adds new ones."""
    for epoch, path in run.checkpoints().items():
        weights = checkpoints.read_checkpoint(path)["weights"]
        if not same_weights(known.setdefault(epoch, weights), weights):
            return False
    return True


def campaign_of_kills(folder: Path, run: RunFolder, whole: RunFolder, kills: int, chance: random.Random) -> bool:
    def begin_or_resume(epochs: int) -> subprocess.Popen:
        options = ["--resume"] if run.newest_epoch() else ["--data", folder, "--overwrite"]
        return start(run, *options, "--epochs", epochs)

    known, in_writes, reached, lost = {}, 0, 0, 0
    for kill in range(1, kills + 1):
        in_writes += kill_in_training(begin_or_resume(EPOCHS), run, chance)
        lost += run.newest_epoch() < reached or not is_sound(run, known)
        reached = max(reached, run.newest_epoch())
        print(f"kill {kill} of {kills}, epoch {reached}", end="\r" if kill < kills else "\n", flush=True)
    last = reached + 2
    begin_or_resume(last).communicate()
    start(whole, "--data", folder, "--epochs", last).communicate()
    same = same_weights(*(checkpoints.read_checkpoint(each.checkpoint(last))["weights"] for each in (run, whole)))
    print(
        f"{kills} SIGKILLs, {in_writes} of them while a file was being written; epoch {last} reached, "
        f"{lost} times anything lost; final weights {'equal bit for bit' if same else 'DIFFER from'} those of a run "
        "without interruption"
    )
    return lost == 0 and same


def refuses_to_write(run: RunFolder, title: str, message: str, **process) -> bool:
    """Train two more epochs where nothing can be written: it must end with one message and keep what there is."""
    before = run.newest_epoch()
    training = start(run, "--resume", "--epochs", before + 2, **process)
    output = training.communicate()[0]
    sound = training.returncode == 1 and message in output and "Traceback" not in output
    sound = sound and run.newest_epoch() == before and is_sound(run, {})
    kept = "kept" if sound else "LOST"
    print(f"{title}: exit code {training.returncode}, epoch {before} {kept}: {output.splitlines()[-1]}")
    return sound


def full_disk(run: RunFolder) -> bool:
    def no_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_DISK, SMALL_DISK))

    return refuses_to_write(run, "disk full", "could not be written", preexec_fn=no_space)


def read_only(run: RunFolder) -> bool:
    root = os.geteuid() == 0  # who may write wherever the mode forbids it
    off, on = (["chattr", "+i"], ["chattr", "-i"]) if root else (["chmod", "500"], ["chmod", "700"])
    if subprocess.run([*off, run.models], capture_output=True).returncode:
        print("read-only: not tried, root may write everywhere here")
        return True
    try:
        return refuses_to_write(run, "read-only", "error: ")
    finally:
        subprocess.run([*on, run.models], check=True)


def damages(path: Path, copy: Path, count: int, chance: random.Random) -> bool:
    """Cut a checkpoint at random places and flip random bits: each must be refused, or change nothing that is read."""
    content, good = path.read_bytes(), checkpoints.read_checkpoint(path)
    weights = good.pop("weights")
    refused = harmless = 0
    for number in range(count):
        broken = bytearray(content)
        if number % 2:
            broken[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del broken[chance.randrange(len(content)) :]
        copy.write_bytes(broken)
        found = read(copy)
        refused += found is None
        harmless += found is not None and same_weights(found.pop("weights"), weights) and found == good
    accepted = count - refused - harmless
    print(
        f"{count} cuts and bit flips: {refused} refused, {harmless} between the members (nothing read differs), "
        f"{accepted} accepted with other content"
    )
    return accepted == 0


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def malicious(home: Path) -> bool:
    """Read files that would run code when unpickled, in three disguises."""
    evil = Evil(home / "code was run")
    files = [home / f"evil_{n}.pt" for n in range(3)]
    torch.save(evil, files[0])
    torch.save({"format": checkpoints.FORMAT, "epoch": 1, "weights": evil}, files[1])
    files[2].write_bytes(pickle.dumps(evil))
    refused = sum(read(path) is None for path in files)
    ran = evil.folder.exists()
    print(f"{len(files)} malicious files: {refused} refused, code {'WAS RUN' if ran else 'never run'}")
    return refused == len(files) and not ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        home, folder = Path(temporary), Path(temporary, "patients")
        killed, whole = RunFolder(home / "killed"), RunFolder(home / "whole")
        write_few_slices(folder)
        sound = {
            "kills": campaign_of_kills(folder, killed, whole, args.kills, chance),
            "full disk": full_disk(whole),
            "read-only folder": read_only(whole),
            "damaged files": damages(whole.checkpoint(1), home / "damaged.pt", args.damages, chance),
            "malicious files": malicious(home),
        }
    if failed := [name for name, passed in sound.items() if not passed]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
