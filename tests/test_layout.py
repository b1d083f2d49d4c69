"""The rooms and who may import whom; see the list of rooms in docs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"constants", "utils", "unet"}
MAY_IMPORT = {  # of our own modules, besides the room itself
    "constants": set(),
    "utils": set(),
    "unet": set(),
    "hubconf": set(),
    "dataset": {"constants", "utils"},
    "scans": {"constants", "utils"},
    "storage": BASE | {"dataset"},
    "evaluation": BASE | {"dataset", "storage"},
    "training": BASE | {"dataset", "evaluation.metrics"},
    "reporting": {"constants", "utils", "dataset", "evaluation", "storage", "scans"},
}
ROOMS = {name for name in MAY_IMPORT if (ROOT / name).is_dir()}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - MAY_IMPORT.keys()
FILES = sorted(path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith("."))


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_point_down(part):
    files = sorted((ROOT / part).glob("*.py")) if part in ROOMS else [ROOT / f"{part}.py"]
    assert files
    allowed = MAY_IMPORT[part] | {part}
    for path in files:
        for name in imported(path):
            if name.split(".")[0] in MAY_IMPORT.keys() | SCRIPTS:
                assert any(f"{name}.".startswith(f"{other}.") for other in allowed), f"{path}: imports {name}"


def test_no_script_imports_another():
    for script in SCRIPTS:
        assert not {name.split(".")[0] for name in imported(ROOT / f"{script}.py")} & SCRIPTS, script


def test_no_file_is_longer_than_400_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_importing_defines_and_never_acts():
    """A script can be imported anywhere: only definitions, constants and the guard stand at its top level."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If, ast.Expr)
    for script in SCRIPTS:
        for node in ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8")).body:
            assert isinstance(node, allowed), f"{script}, line {node.lineno}"
            assert not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant), f"{script}, {node.lineno}"
