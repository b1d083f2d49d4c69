"""Both notebooks from the first cell to the last: offline, on synthetic patients, with a stand-in for the download."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clone_project

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = {"train_test_100mb": 6, "train_test_1gb": 8}  # patients that each of them is to find


def read(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return clone_project(tmp_path_factory.mktemp("clone"))


@pytest.mark.filterwarnings("ignore")  # of the machinery that executes notebooks
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_runs(clone, monkeypatch, name):
    notebook = read(name)
    parameters = notebook.cells[1]
    assert parameters.source.count("QUICK = False") == 1
    parameters.source = parameters.source.replace("QUICK = False", "QUICK = True")
    for variable, value in {
        "PYTHONPATH": f"{clone / 'stand_in'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PIP_NO_INDEX": "1",  # nothing may be installed
        "OMP_NUM_THREADS": "2",
        "JUPYTER_RUNTIME_DIR": str(clone / "jupyter"),
        "IPYTHONDIR": str(clone / "ipython"),
        "JUPYTER_PATH": str(kernel_of_this_python(clone)),
    }.items():
        monkeypatch.setenv(variable, value)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(clone / "notebooks")}}
    )
    client.execute()  # raises CellExecutionError at the first cell that fails

    printed = "".join(
        "".join(out.get("text", "")) for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out
    )
    assert "the stand-in for kagglehub was asked" in printed and "nothing, all is there" in printed
    assert f"checked: {NOTEBOOKS[name]} patients" in printed and "SYNTHETIC PATIENTS" in printed
    assert "predicting nothing at all would score" in printed and "slices with lesion" in printed
    kinds = [kind for cell in notebook.cells for out in cell.get("outputs", []) for kind in out.get("data", {})]
    assert kinds.count("image/png") >= 4 and kinds.count("image/gif") == 1 and kinds.count("text/html") == 3


def kernel_of_this_python(folder: Path) -> Path:
    """A Jupyter data folder whose kernel python3 is the interpreter of these tests."""
    kernel = folder / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    return folder / "share"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_outputs_are_committed_and_the_badge_names_the_notebook(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    first = notebook.cells[0].source
    assert "colab-badge.svg" in first and f"/blob/main/notebooks/{name}.ipynb" in first
    everything = "\n".join(cell.source for cell in notebook.cells)
    assert "--upgrade" not in everything and "not a medical device" in everything


def test_a_script_that_fails_stops_the_notebook():
    setup = next(cell.source for cell in read("train_test_100mb").cells if "def run(" in cell.source)
    names: dict = {}
    exec("import subprocess, sys\n" + setup[setup.index("def run(") : setup.index("def is_missing")], names)
    names["run"]("-c", "print('fine')")
    with pytest.raises(RuntimeError, match="exit code 3"):
        names["run"]("-c", "import sys; sys.exit(3)")
