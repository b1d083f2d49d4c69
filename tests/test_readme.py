"""Every command of the README is one that the scripts accept; make demo and make test are run by CI itself."""

import argparse
import importlib
import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "lgg-mri-segmentation" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted(
    path.stem for path in ROOT.glob("*.py") if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8")
)
OTHERS = {
    "pip",
    "pytest",
    "venv",
    "make",
    "benchmarks.compare",
    "benchmarks.growth",
    "benchmarks.faults",
    "benchmarks.step",
}  # programs whose options are not ours


class Parsed(Exception):
    """Raised when the options of a script have been parsed, so that nothing is run."""


def commands() -> list[tuple[str, str]]:
    """(page, command) of every command in an indented block, and of those in prose that begin like one."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        lines += [
            " ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(r"^    .*$", "", text, flags=re.M))
        ]
        words = (r"\.venv/bin/python", "python3?", "make", "pip")
        found += [(page.name, line) for line in lines if re.match(rf"({'|'.join(words)}) \S", line)]
    return sorted(set(found))


def parser_of(monkeypatch, script: str, arguments: list[str], parse: bool) -> argparse.ArgumentParser:
    """The parser of a script, after it has accepted the arguments (if `parse`)."""
    seen = []
    original = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, *args, **kwargs):
        seen.append(self)
        if parse:
            rest = original(self, *args, **kwargs)[1]
            if script == "cross_validate":  # hands on what it does not know
                rest = original(importlib.import_module("train_model").make_parser(), rest)[1]
            assert not rest, f"{script}.py has no {rest}"
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(Parsed):
        importlib.import_module(script).main()
    return seen[0]


def test_there_are_commands():
    assert len(commands()) >= 8
    assert {"train_model", "process_models", "test_model", "download_data", "predict_model", "export_model"} <= set(
        SCRIPTS
    )


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_of_the_readme(monkeypatch, capsys, page, command):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert [a for a in arguments if "=" not in a and a not in targets] == []
        return
    if arguments[:2] == ["-m", "pip"] or program == "pip":
        files = [value for option, value in itertools.pairwise(arguments) if option in ("-r", "-c")]
        assert all((ROOT / name).is_file() for name in files)
        named = [a for a in arguments if a in (ROOT / "requirements-optional.txt").read_text()]
        assert files or named
        return
    if arguments[0] == "-m":
        assert arguments[1] in OTHERS
        return
    script = Path(arguments[0])
    assert (ROOT / script).is_file(), f"{page}: there is no {script}"
    parser_of(
        monkeypatch, script.stem, arguments[1:], parse=True
    )  # ends with exit code 2 at an option it does not know


def test_options_named_in_prose_exist(monkeypatch):
    known = {"--help", "--extra-index-url", "--nproc-per-node"}
    for script in SCRIPTS:
        with monkeypatch.context() as patch:
            known |= set(parser_of(patch, script, [], parse=False)._option_string_actions)
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")):
            assert option in known, f"{page.name}: no script has the option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_to_exist(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: there is no {target}"


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "phantom"])  # it is called by others
def test_help_has_an_example_for_each_script(monkeypatch, script):
    assert f"python {script}.py" in parser_of(monkeypatch, script, [], parse=False).format_help()
