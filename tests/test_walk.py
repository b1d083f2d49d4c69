"""The README, and the pages it leads to, walked through by a new user: each command in its turn, as a process, in one
clone. Only the numbers of epochs, channels, folds and the like are small, and the data set a synthetic one."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, clone_project, make_patients
from PIL import Image
from test_readme import commands

# Beginnings of commands that are not executed here
EXCLUDED = {
    "make": "CI executes `make demo` and `make test`; the CPU build of PyTorch has an index of its own",
    "apt-get": "CI executes it; it needs the rights of root",
    "python3 -m venv": "make does it",
    ".venv/bin/python -m pip": "make does it",
    "pip": "make installs these packages",
    "python -m pytest": "make does it; this is it",
}

# What makes a command small: options appended to every command with this text, of which the last counts
TINY = {
    "phantom.py": "--patients 4",
    "train_model.py": "--width 2 --batch-size 4 --epochs 1",
    "--resume": "--epochs 2",
    "reproduce.py full": "--width 2 --epochs 1",
    "benchmarks.step": "--width 2 --batch-size 2 --repeats 1",
    "benchmarks.compare": "--width 2 --repeats 1",
    "benchmarks.growth": "--width 1 --batch-size 1 --steps 1",
    "benchmarks.faults": "--kills 2 --damages 10",
    "cross_validate.py": "--width 2 --batch-size 4 --epochs 1 --folds 2",
}

# What stands in for a thing of the user's own, or of a run that was not made small
INSTEAD = {
    "models/epoch_80.pt": "models/epoch_1.pt",
    "runs/a runs/b": "demo demo",
    "--data DIR": "--data my_patients",
    "--nproc-per-node 8": "--standalone --nproc-per-node 2",
}

PROGRAMS = {"torchrun": ["-m", "torch.distributed.run"]}  # what is not Python itself, as a module of this Python

ALONGSIDE = ("cross_validate.py", "benchmarks.")  # they take half of the time, and nothing after them needs their files

# Beside what the README's table promises of a run
LEFT_BEHIND = (
    "lgg-mri-segmentation/kaggle_3m/SYNTH_T_7/SYNTH_T_7_2_mask.tif",
    "lgg-mri-segmentation/synthetic/SYNTH_XX_0004_20000101",
    "masks_folder/patient_folder/2_mask.png",
    "masks_folder/patient_folder/2_overlay.png",
    "masks_folder/patient_folder/patient_folder.gif",
    "masks_files/stack/stack_mask.npy",
    "masks_files/slices.csv",
    "masks_nifti/flair/flair_mask.nii.gz",
    "masks_nifti/patients.csv",
    "runs/first/export/unet.onnx",
    "runs/first/export/unet.pt2",
    "runs/first/export/unet.safetensors",
    "runs/first/export/MODEL_CARD.md",
    "runs/first/models/epoch_2.pt",  # of --resume
    "results/full_bilinear/run.json",
    "weights/full_bilinear.safetensors",
    "step.json",
    "runs/eight/models/epoch_1.pt",
    "runs/mine/models/epoch_1.pt",
    "runs/cv/fold_2/test_patients.csv",
    "runs/cv/report.html",
)


def steps() -> list[str]:
    """The commands to execute, in their order."""
    return [command for command in commands() if not command.startswith(tuple(EXCLUDED))]


def made_small(command: str) -> list[str]:
    """The words of a command for this Python, with what makes it small."""
    for text, other in INSTEAD.items():
        command = command.replace(text, other)
    command = " ".join([command, *(options for text, options in TINY.items() if text in command)])
    program, *arguments = shlex.split(command)
    return [sys.executable, *PROGRAMS.get(program, []), *arguments]


def promised() -> list[str]:
    """The files of a run that the README's table names, as patterns."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (?:train|process|test) \|", text, re.M)
    return [name.replace("_N.", "_*.") for row in rows for name in re.findall(r"`([^`]+)`", row)]


def bring_own_files(folder: Path) -> None:
    """What the README presumes: the archive of Kaggle, pictures, an array, NIfTI volumes, a data set of one's own."""
    nibabel = pytest.importorskip("nibabel")
    shutil.make_archive(str(folder / "archive"), "zip", folder / "cache")
    make_patients(folder / "my_patients", patients=3, slices=2)
    stack = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    np.save(folder / "stack.npy", stack)
    for name in ("patient_folder", "scans"):
        (folder / name).mkdir()
        for number, picture in enumerate(stack, 1):
            Image.fromarray(picture).save(folder / name / f"{number}.png")
    for channel, name in enumerate(("t1", "flair", "t1c")):
        nibabel.save(nibabel.Nifti1Image(stack[..., channel].T, np.eye(4)), folder / f"{name}.nii.gz")


def test_every_command_works_in_its_turn(tmp_path):
    clone = clone_project(tmp_path)
    bring_own_files(clone)
    environment = os.environ | {
        "PYTHONPATH": str(clone / "stand_in"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def execute(command: str) -> None:
        done = subprocess.run(made_small(command), cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    with ThreadPoolExecutor(1) as other_core:
        longest = []
        for command in steps():
            if any(text in command for text in ALONGSIDE):
                longest.append(other_core.submit(execute, command))
            else:
                execute(command)
        for each in longest:
            each.result()
    missing = [f"{run}/{name}" for run in (".", "demo") for name in promised() if not list((clone / run).glob(name))]
    assert missing + [name for name in LEFT_BEHIND if not (clone / name).exists()] == []


def test_no_entry_of_the_lists_is_stale():
    assert [start for start in EXCLUDED if not any(command.startswith(start) for command in commands())] == []
    assert [text for text in (*TINY, *INSTEAD) if not any(text in command for command in steps())] == []
    assert len(promised()) >= 14 and len(steps()) >= 20
