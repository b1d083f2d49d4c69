"""A notebook from first to last cell, offline, with a stand-in for the download; the other differs in its data only."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_patients
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = ("train_test_100mb", "train_test_1gb")
PARAMETERS, SET_UP, SEGMENT, DOWNLOAD, TRAIN, OWN = 1, 3, 5, 7, 9, 18  # cells
QUICKER = (  # cell, what stands in it, and what is run instead
    (PARAMETERS, "QUICK = False", "QUICK = True"),
    (SEGMENT, "slices=16", "slices=4"),
    (TRAIN, "--width 8 --batch-size 8 --epochs 16", "--width 2 --batch-size 8 --epochs 2"),
    (OWN, "slices=6", "slices=3"),
    (OWN, '"--epochs", "2"', '"--epochs", "1"'),
)


def read(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


NOT_CLONED = shutil.ignore_patterns(
    ".*", "__pycache__", "node_modules", "demo", "runs", "tests", "results", "kaggle_3m", "synthetic"
)
STAND_IN = """
def dataset_download(handle):
    assert handle == "mateuszbuda/lgg-mri-segmentation"
    print("the stand-in for kagglehub was asked")
    return {folder!r}
"""
IN_KERNEL = """
import importlib

from reporting import panels

panels.write_panels = lambda *_: None  # drawing takes most of the time

def run(script, *options):  # in this process: each of its own would import torch again
    importlib.import_module(Path(script).stem).main([*options])
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """The files of the project, as in a clone.

    The published data set of the copy is eight synthetic patients, six of them the subset; `cache` is what the stand-in
    for kagglehub in `stand_in` returns as downloaded.
    """
    shutil.copytree(ROOT, tmp_path, dirs_exist_ok=True, ignore=NOT_CLONED)
    kaggle = make_patients(tmp_path / "cache" / "kaggle_3m", patients=8, slices=2)
    rows = [f"{patient.name},2,{int(n < 6)}\n" for n, patient in enumerate(sorted(kaggle.iterdir()))]
    (tmp_path / "lgg-mri-segmentation" / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    information = tmp_path / "stand_in" / "kagglehub-9.dist-info"  # so that it counts as installed
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: kagglehub\nVersion: 9\n")
    (tmp_path / "stand_in" / "kagglehub.py").write_text(STAND_IN.format(folder=str(tmp_path / "cache")))
    (tmp_path / "uploads").mkdir()
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "uploads" / "head.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # of the machinery that executes notebooks
def test_every_cell_runs(clone, monkeypatch):
    kernel = clone / "jupyter" / "kernels" / "python3"  # whose interpreter is that of these tests
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    environment = {"JUPYTER_PATH": clone / "jupyter", "JUPYTER_RUNTIME_DIR": clone / "runtime",
                   "IPYTHONDIR": clone / "ipython", "PYTHONPATH": clone / "stand_in", "OMP_NUM_THREADS": 1,
                   "PIP_NO_INDEX": 1, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    notebook = read("train_test_100mb")
    for cell, text, quicker in QUICKER:
        assert text in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(text, quicker)
    notebook.cells.insert(TRAIN + 1, nbformat.v4.new_code_cell(notebook.cells[TRAIN].source))  # run again
    notebook.cells.insert(SET_UP + 1, nbformat.v4.new_code_cell(IN_KERNEL))
    resources = {"metadata": {"path": str(clone / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "the stand-in for kagglehub was asked" in printed and "nothing is left to do" in printed
    assert "checked: 6 patients" in printed and "SYNTHETIC PATIENTS" in printed and "not on Colab" in printed
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 5  # masks, two plots, two sheets of outlines
    pages = "".join(output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {}))
    assert pages.count("<iframe srcdoc=") == 1
    assert list((clone / "masks_uploads").rglob("head_mask.png"))


def test_the_notebooks_differ_in_their_data_alone():
    pairs = zip(*(read(name).cells for name in NOTEBOOKS), strict=True)
    different = [n for n, (one, other) in enumerate(pairs) if one.cell_type == "code" and one.source != other.source]
    assert different == [DOWNLOAD, TRAIN]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_of_synthetic_patients_and_end_with_a_picture(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert "QUICK = False" in notebook.cells[PARAMETERS].source and len(nbformat.writes(notebook)) < 1_000_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = json.dumps([cell.outputs for cell in code])
    assert "SYNTHETIC" in text and not re.search("TCGA_|/tmp/|/home/|/root/|/content/", text)
    assert "image/png" in code[-1].outputs[-1].data


def test_a_script_that_fails_stops_the_notebook(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(read(NOTEBOOKS[0]).cells[SET_UP].source.partition("\nrun(")[0], names)  # without the installation
    with pytest.raises(RuntimeError, match=r"train_model.py --epochs 0 ended with exit code 2"):
        names["run"]("train_model.py", "--epochs", "0")
