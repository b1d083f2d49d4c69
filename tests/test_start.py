"""How a script begins: --help, mistakes in the options and missing packages, all before PyTorch is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import export_model
from dataset.preprocess import NORMALISATIONS
from training.losses import LOSSES
from training.optimisation import OPTIMISERS
from training.recipes import CHOICES, RECIPES
from utils import run_script

ROOT = Path(__file__).parents[1]
REQUIRED = {  # arguments that a script needs
    "ablate": ["screen"],
    "compare_runs": ["a", "b"],
    "cross_validate": ["--run", "cv"],
    "export_dataset": ["nnunet", "out"],
    "predict_model": ["image.png", "--out", "masks"],
    "reproduce": ["table"],
    "score_masks": ["masks", "--reference", "others"],
}
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if "def main(" in path.read_text(encoding="utf-8"))


def run(script, *arguments, cwd):
    """Run a script with Python's option -S, which leaves all installed packages out."""
    command = [sys.executable, "-S", str(ROOT / f"{script}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_mistakes_need_no_package_and_a_missing_one_is_one_message(script, tmp_path):
    shown = run(script, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: ") and f"python {script}.py" in shown.stdout  # with an example
    mistaken = run(script, *REQUIRED.get(script, []), "--no-such-option", cwd=tmp_path)
    assert mistaken.returncode == 2 and mistaken.stderr.endswith("unrecognized arguments: --no-such-option\n")
    lacking = run(script, *REQUIRED.get(script, []), cwd=tmp_path)
    assert (lacking.returncode, lacking.stdout) == (2, "")
    [line] = lacking.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable}: has no torch, ")
    assert line.endswith(f"-m pip install -r {ROOT / 'requirements.txt'}")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_while_packages_are_imported_is_one_line(tmp_path):
    """SIGINT reaches the process in the import of torch, which stands in here as a package that waits."""
    names = "torch numpy cv2 pandas PIL sklearn matplotlib tqdm scipy jinja2 safetensors"
    for name in names.split():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import time\nprint('imported', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-S", str(ROOT / "process_models.py")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "imported\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "interrupted")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_one_line(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit, match="1"):
        run_script(main)
    assert capsys.readouterr().err.startswith("error: out of memory. Take a smaller --batch-size or --width")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_script(lambda: (_ for _ in ()).throw(RuntimeError("a fault of ours")))


def test_what_can_be_chosen_is_what_there_is():
    for name, table in {"normalisation": NORMALISATIONS, "loss": LOSSES, "optimiser": OPTIMISERS}.items():
        assert sorted(CHOICES[name]) == sorted(table)
    assert tuple(export_model.FORMATS) == export_model.NAMES
    for recipe in RECIPES.values():
        assert all(recipe[name] in choices for name, choices in CHOICES.items())
