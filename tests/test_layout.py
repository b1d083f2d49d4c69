"""The table of docs/development.md: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"constants", "utils"}
MAY_IMPORT = {  # our own modules that a folder may import besides itself
    "dataset": SHARED,
    "scans": SHARED | {"dataset"},
    "storage": SHARED | {"dataset", "unet"},
    "evaluation": SHARED | {"dataset", "storage", "unet"},
    "training": SHARED | {"dataset", "unet", "storage", "evaluation.metrics", "evaluation.selection"},
    "inference": SHARED | {"dataset", "unet", "scans", "storage", "evaluation", "training"},
    "reporting": SHARED | {"evaluation", "storage", "scans", "dataset"},
    "studies": SHARED | {"unet", "dataset", "scans", "storage", "evaluation", "training", "inference", "reporting"},
}
ALONE = ("constants", "utils", "unet", "hubconf")  # import nothing of ours
TOP = sorted(path.stem for path in ROOT.glob("*.py"))
SCRIPTS = [name for name in TOP if name not in ALONE]
OURS = {*TOP, *MAY_IMPORT}


def imported(path: Path) -> set[str]:
    """Return the names of our own modules that a file imports anywhere, dotted."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            allowed = any(f"{name}.".startswith(f"{other}.") for other in MAY_IMPORT[folder] | {folder})
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("name", TOP)
def test_no_script_imports_another(name):
    forbidden = OURS if name in ALONE else {*SCRIPTS, "hubconf", "studies"}
    forbidden -= {"inference", "unet"} if name == "hubconf" else set()  # what torch.hub offers
    assert {other.split(".")[0] for other in imported(ROOT / f"{name}.py")} & forbidden == set()


def test_few_and_short_files():
    assert len(TOP) <= 15
    files = [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/**/*.py")]  # not those of .venv
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


@pytest.mark.parametrize("name", SCRIPTS)
def test_importing_a_script_defines_and_never_acts(name):
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If, ast.Expr)
    *body, last = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8")).body
    assert ast.unparse(last) == "if __name__ == '__main__':\n    run_script(main)"
    for node in body:
        assert isinstance(node, allowed), f"line {node.lineno}"
        assert not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant), f"line {node.lineno}"
