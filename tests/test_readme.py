"""What the README names is there: targets, files, options, headings. test_walk.py executes its commands."""

import argparse
import importlib
import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "lgg-mri-segmentation" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted(
    path.stem for path in ROOT.glob("*.py") if "argparse.ArgumentParser(" in path.read_text(encoding="utf-8")
)


class Parsed(Exception):
    """Raised when the options of a script have been parsed, so that nothing is run."""


def commands() -> list[str]:
    """Every command of the pages, in the order of the text, each once: lines of indented blocks, and code in prose."""
    found = []
    for page in PAGES:
        for code in re.finditer(r"^    (.+)$|`([^`]+)`", page.read_text(encoding="utf-8"), re.M):
            command = re.sub(r" #.*", "", " ".join((code[1] or code[2]).split()))
            if re.match(r"(\.venv/bin/python|python3?|torchrun|make|pip|apt-get) \S", command):
                found.append(command)
    return list(dict.fromkeys(found))


@pytest.mark.skipif(shutil.which("perl") is None, reason="needs perl")
def test_one_command_sets_the_address_everywhere(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`(perl [^`]+)`", text)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    subprocess.run(" ".join(command.split()), shell=True, cwd=tmp_path, check=True)
    pages = [tmp_path / "README.md", *sorted((tmp_path / "notebooks").glob("*.ipynb"))]
    assert len(pages) == 3
    for page in pages:
        changed = page.read_text(encoding="utf-8")
        assert "OWNER/REPO" not in changed and "you/name" in changed


def parser_of(monkeypatch, script: str) -> argparse.ArgumentParser:
    """The parser of a script, from its main function, which is stopped there."""
    seen = []

    def parse_known_args(self, *_, **__):
        seen.append(self)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    with pytest.raises(Parsed):
        importlib.import_module(script).main()
    return seen[0]


def test_there_are_commands():
    assert len(commands()) >= 8
    assert {"train_model", "process_models", "test_model", "download_data", "predict_model", "export_model"} <= set(
        SCRIPTS
    )


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make ")])
def test_targets_of_make_exist(command):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert [a for a in shlex.split(command)[1:] if "=" not in a and a not in targets] == []


@pytest.mark.parametrize("command", [command for command in commands() if "pip" in command.split()])
def test_what_pip_is_to_install_is_listed(command):
    arguments = shlex.split(command)
    files = [value for option, value in itertools.pairwise(arguments) if option in ("-r", "-c")]
    assert all((ROOT / name).is_file() for name in files)
    assert files or arguments[-1] in (ROOT / "requirements-optional.txt").read_text()


def test_options_named_in_prose_exist(monkeypatch):
    known = {"--help", "--extra-index-url", "--nproc-per-node"}
    for script in SCRIPTS:
        with monkeypatch.context() as patch:
            known |= set(parser_of(patch, script)._option_string_actions)
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")):
            assert option in known, f"{page.name}: no script has the option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_to_exist(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: there is no {target}"


def test_headings_that_are_linked_to_exist():
    text = PAGES[0].read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in re.findall(r"^#+ (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def test_the_repository_has_one_address_in_three_files():
    ours = r'(?:/github/|REPOSITORY = \\?"https://github\.com/|torch\.hub\.load\(\\?")([\w-]+/[\w.-]+)'
    found = {}
    for path in (*PAGES, *sorted(ROOT.glob("notebooks/*.ipynb")), *sorted(ROOT.glob("*.py"))):
        if addresses := re.findall(ours, path.read_text(encoding="utf-8")):
            found[path.name] = addresses
    assert {name: len(addresses) for name, addresses in found.items()} == {
        "README.md": 3,
        "train_test_100mb.ipynb": 2,
        "train_test_1gb.ipynb": 2,
    }
    assert len({address for addresses in found.values() for address in addresses}) == 1, found


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_an_example_for_each_script(monkeypatch, script):
    assert f"python {script}.py" in parser_of(monkeypatch, script).format_help()
