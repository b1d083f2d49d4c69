"""A new user's walk through a copy of the project: the first command of each script on the pages, as a process.

All other commands are parsed. Only the numbers of epochs, channels and the like are small, and the data is synthetic.
"""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clone_project
from test_readme import PAGES, README, commands

# Beginnings of commands that are neither executed nor parsed here: CI executes make, which does the others
EXCLUDED = ("make", "apt-get", "python3 -m venv", "source", "python -m pip", "pip", "python -m pytest")
WHOLE_ELSEWHERE = ("cross_validate", "reproduce")  # their own tests run them whole; here they would be half of the walk
# What makes a command small: options appended to every command with this text, of which the last counts
TINY = {
    "make_phantoms.py": "--patients 3",
    "train_model.py": "--width 2 --batch-size 4 --epochs 1",
    "export_model.py": "--formats safetensors",
    "ablate.py": "--only base --width 2 --epochs 1",
    "benchmarks.step": "--width 2 --batch-size 2",
    "benchmarks.compare": "--width 2 --repeats 1",
    "benchmarks.growth": "--width 1 --batch-size 1 --steps 1",
    "benchmarks.faults": "--scripts train --every 40 --limits 1 --kills 1 --damages 13 --scans 7",
}
# What stands in for a thing of the user's own, or of a run that was not made small
INSTEAD = {
    "runs/a runs/b": "demo demo",
    "--run runs/first": "--run demo",
}
# Beside what the README's table promises of a run
LEFT_BEHIND = (
    "lgg-mri-segmentation/kaggle_3m/SYNTH_T_7/SYNTH_T_7_2_mask.tif",
    "demo/masks/slices.csv",
    "demo/export/unet.safetensors",
    "demo/export/MODEL_CARD.md",
)


def steps(*pages: Path) -> list[str]:
    """Return the commands of pages that are ours, each once."""
    found = dict.fromkeys(command for page in pages for command in commands(page))
    return [command for command in found if not command.startswith(EXCLUDED)]


def script_of(command: str) -> str:
    """Return the module that a command runs, such as train_model or benchmarks.step."""
    return re.search(r"(\w+)\.py|-m (\S+)", command).expand(r"\1\2")


def arguments(command: str) -> list[str]:
    """Return the arguments of the script that a command runs."""
    return shlex.split(re.split(r"\w+\.py|-m \S+", command, maxsplit=1)[1])


def made_small(command: str) -> str:
    """Return a command with what makes it small."""
    for text, other in INSTEAD.items():
        command = command.replace(text, other)
    return " ".join([command, *(options for text, options in TINY.items() if text in command)])


def promised() -> list[str]:
    """Return the files of a run that the README's table names, as patterns."""
    rows = re.findall(r"^\| (.+?) \| (?:train|process|test) \|", README.read_text(encoding="utf-8"), re.M)
    return [name.replace("_N.", "_*.") for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_the_first_command_of_each_script_works(tmp_path, monkeypatch):
    monkeypatch.chdir(clone_project(tmp_path))
    for variable, value in {"PYTHONPATH": "stand_in", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(variable, value)
    first: dict[str, str] = {}
    for command in steps(*PAGES):
        first.setdefault(script_of(command), command)
    for script, command in first.items():
        if script not in WHOLE_ELSEWHERE:
            words = shlex.split(made_small(command))[1:]
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    missing = [name for name in promised() if not list(Path("demo").glob(name))]
    assert missing + [name for name in LEFT_BEHIND if not Path(name).exists()] == []


@pytest.mark.parametrize("command", steps(*PAGES))
def test_every_command_parses(command, monkeypatch):
    class Parsed(Exception):
        """Raised when the options have been parsed, so that nothing is run."""

    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script_of(command), *arguments(command)])
    with pytest.raises(Parsed):
        importlib.import_module(script_of(command)).main()


def test_no_entry_of_the_lists_is_stale():
    every = [command for page in PAGES for command in commands(page)]
    assert [start for start in EXCLUDED if not any(command.startswith(start) for command in every)] == []
    assert [text for text in (*TINY, *INSTEAD) if not any(text in command for command in every)] == []
    assert len(promised()) >= 14 and len({script_of(command) for command in steps(*PAGES)}) >= 14
