"""What the pages name exists: files, headings, options, targets, packages. test_walk.py executes their commands."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "lgg-mri-segmentation" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_OURS = {"--logdir", "--help", "--extra-index-url", "--nproc-per-node"}  # options of argparse, pip and torchrun
PROGRAMS = r"(?:\w+=\S+ )?((?:python3?|torchrun|make|pip|apt-get|source) \S.*)"


def commands(page: Path) -> list[str]:
    """Return the commands of a page in order, each once: lines of indented blocks, and code in prose."""
    code = re.findall(r"^    (.+)$|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.M)
    found = (re.fullmatch(PROGRAMS, re.sub(r" +#.*", "", block or prose)) for block, prose in code)
    return list(dict.fromkeys(match[1] for match in found if match))


def all_commands(program: str) -> list[str]:
    return [command for page in PAGES for command in commands(page) if re.search(program, command)]


def slugs(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-").lower() for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: links to {target}, which does not exist"
        assert not heading or heading in slugs(linked), f"{page.name}: {linked.name} has no heading #{heading}"


def test_readme_leads_to_every_page():
    assert [page.name for page in PAGES[1:] if f"({page.relative_to(ROOT)})" not in README.read_text()] == []


def test_options_exist():
    sources = [
        path.read_text(encoding="utf-8")
        for path in (*ROOT.glob("*.py"), ROOT / "training" / "options.py", *ROOT.glob("benchmarks/*.py"))
    ]
    known = NOT_OURS | {option for source in sources for option in re.findall(r'"(--[a-z][a-z-]+)"', source)}
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name}: no script has the option {', '.join(named - known)}"


def test_targets_of_make_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = {word for command in all_commands("^make ") for word in shlex.split(command)[1:] if "=" not in word}
    assert {"demo", "test"} <= named <= set(targets)


def test_what_pip_installs_is_listed():
    optional = (ROOT / "requirements-optional.txt").read_text()
    for command in all_commands(r"\bpip install "):
        words = shlex.split(command)
        files = [name for option, name in itertools.pairwise(words) if option in ("-r", "-c")]
        assert all((ROOT / name).is_file() for name in files), command
        assert files or re.search(rf"^{words[-1]}\b", optional, re.M), command
