"""The pages: their links resolve, their commands parse, and those of the README run on synthetic patients."""

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import ROOT

import constants
from training.recipe import make_parser

README = ROOT / "README.md"
PAGES = [README, ROOT / "lgg-mri-segmentation" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "weights").glob("*.md"))
COMMAND = re.compile(r"^(?:    )?(?:python3?|torchrun --nproc-per-node \d+ --) (?:-m )?([\w.]+?)(?:\.py)?(?: (.*))?$")
NOT_OURS = ("pip", "venv", "pytest", "studies.NAME")
OTHERS_OPTIONS = {"--help", "--extra-index-url", "--nproc-per-node", "--gpus"}  # of argparse, pip, torchrun, sbatch
HANDING_ON = ("cross_validate", "studies.reproduce")  # others to train_model.py
TINY = {"dataset.synthetic": "--patients 2", "train_model": "--width 2 --batch-size 4 --epochs 1"}  # the last counts
IN_RUN = ("results.csv", "plots/iou.png", "test_patients.csv", "report.html")
LEFT_BEHIND = (*(f"runs/first/{name}" for name in IN_RUN), "masks/patients.csv", "masks/slices.csv")


def commands(*pages: Path) -> list[tuple[str, str]]:
    """Return (module, arguments) of our commands on pages, each once: indented lines and code in prose."""
    code = [
        re.sub(r" +#.*", "", block or prose)
        for page in pages
        for block, prose in re.findall(r"^    (.+)$|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.M)
    ]
    matches = filter(None, map(COMMAND.match, code))
    found = dict.fromkeys((match[1], match[2] or "") for match in matches)
    return [(module, arguments) for module, arguments in found if module not in NOT_OURS]


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"links to {target}, which does not exist"
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M) if heading else []
        anchors = {re.sub(r"[^\w -]", "", text).replace(" ", "-").lower() for text in headings}  # as GitHub makes them
        assert not heading or heading in anchors, f"{linked.name} has no heading #{heading}"


def test_readme_leads_to_every_page():
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in text] == []


def test_every_option_exists(capsys):
    for module in dict(commands(*PAGES)):
        with pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
    known = OTHERS_OPTIONS | set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in PAGES:
        lines = [line for line in page.read_text(encoding="utf-8").splitlines() if "sbatch" not in line.lower()]
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
        assert named <= known, f"{page.name}: no script has the option {', '.join(sorted(named - known))}"


@pytest.mark.parametrize(("module", "arguments"), commands(*PAGES))
def test_every_command_parses(module, arguments, monkeypatch):
    class Parsed(Exception):
        """Raised once the options are parsed, so that nothing runs."""

    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, args=None, namespace=None):
        _, others = parse(self, args, namespace)
        assert not others or module in HANDING_ON
        assert parse(make_parser(), others)[1] == []
        raise Parsed

    main = importlib.import_module(module).main
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.setattr(Path, "exists", lambda path: True)  # the reader's own files
    with pytest.raises(Parsed):
        main(shlex.split(arguments))


def test_the_commands_of_the_readme_run(call, kaggle, undrawn, monkeypatch):
    """On the stand-in for the published data set, and with tiny networks."""
    monkeypatch.setitem(sys.modules, "kagglehub", Mock(**{"dataset_download.return_value": str(kaggle)}))
    order = ("dataset.synthetic", "download_data", "train_model", "process_models", "test_model", "predict_model")
    first = dict(reversed(commands(README)))  # of each script
    assert {*first} == {*order}
    for module in order:
        arguments = first[module].replace("patient_folder", str(constants.DATA_DIR / "SYNTH_T_0"))
        code, out, err = call(module, *shlex.split(f"{arguments} {TINY.get(module, '')}"))
        assert code == 0, f"{module} {arguments}\n{out}{err}"
    assert [name for name in LEFT_BEHIND if not Path(name).exists()] == []
