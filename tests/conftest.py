"""Patients of a few synthetic slices, a way to run the scripts, and real data where there is."""

import functools
import importlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import constants
from dataset import synthetic
from dataset.slices import Slices, table_of
from storage import checkpoints
from storage.run_folder import RunFolder
from training.recipe import Recipe
from unet import UNet
from utils import run_script

ROOT = Path(__file__).parents[1]
QUICK = ("--width", 2, "--batch-size", 4, "--device", "cpu")  # options of train_model.py
PLAIN = {"normalisation": "plain", "neighbours": 0, "crop": False, "resolution": 1.0, "tta_flip": False}  # `input`
torch.set_num_threads(1)  # one process per core runs the tests; and the same sums in the same order everywhere
SLOWEST = {"test_web", "test_export", "test_notebooks", "test_report", "test_scripts"}  # first: no core waits then


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


@functools.cache
def draw_patient(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two slices with tumour, each before one without: uint8 [4, 256, 256, 3] and [4, 256, 256]."""
    images, masks = synthetic.make_patient(constants.SYNTHETIC_SEED, number + 2, slices=7)
    largest = masks.sum((1, 2)).argsort()[::-1]
    rows = largest[[0, -1, 1, -2]]
    return images[rows], masks[rows]


def write_slice(folder: Path, patient: str, number: int, tumour: bool, seed: int = 0) -> None:
    """Write a synthetic slice and its mask, with or without tumour, of one of five heads."""
    images, masks = draw_patient(seed % 5)
    row = 2 * (number // 2 % 2) + (not tumour)
    synthetic.write_slice(folder, patient, number, images[row], masks[row])


def make_patients(folder: Path, patients: int = 5, slices: int = 3) -> Path:
    """Write patients SYNTH_T_0 ... with slices 1 ..., of which the odd ones have tumour."""
    for patient in range(patients):
        for number in range(1, slices + 1):
            write_slice(folder, f"SYNTH_T_{patient}", number, tumour=number % 2 == 1, seed=patient)
    return folder


def write_split(folder: Path, *splits: str) -> Path:
    """Write split.csv, a split of the patients SYNTH_T_0, ..."""
    path = folder / "split.csv"
    path.write_text("patient,split\n" + "".join(f"SYNTH_T_{n},{split}\n" for n, split in enumerate(splits)))
    return path


def make_slices(masks: dict[str, list[np.ndarray]], images: np.ndarray | None = None) -> Slices:
    """Slices 1, 2, ... of each patient with the given masks (0 or 1, [H, W]); without images, all are black."""
    table = table_of({patient: range(1, len(stack) + 1) for patient, stack in masks.items()})
    stacked = np.concatenate([np.asarray(stack, np.uint8) for stack in masks.values()])
    if images is None:
        images = np.zeros((*stacked.shape, 3), np.uint8)
    return Slices(torch.from_numpy(images), torch.from_numpy(stacked), table)


def box(*places: tuple[int, int, int, int], size: int = 256) -> np.ndarray:
    """A mask of rectangles, each (top, left, height, width): uint8 [size, size]."""
    mask = np.zeros((size, size), np.uint8)
    for top, left, height, width in places:
        mask[top : top + height, left : left + width] = 1
    return mask


def disc(radius: float, row: int = 128, column: int = 128) -> np.ndarray:
    """bool [256, 256]: the pixels whose distance to a point is at most the radius."""
    y, x = np.mgrid[:256, :256]
    return np.hypot(y - row, x - column) <= radius


def make_volume(stack: np.ndarray, spacing: Sequence[float] = (1, 1, 1), origin=(0, 0, 0)) -> sitk.Image:
    """A volume of slices as they are shown, [S, H, W]; spacing: mm between columns, rows and slices."""
    image = sitk.GetImageFromArray(stack)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def write_volume(path: Path, stack: np.ndarray, *place: Sequence[float]) -> Path:
    """Write a volume; place: its spacing and origin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(make_volume(stack, *place), str(path))
    return path


def bright_network() -> UNet:
    """Return a U-Net with weights set by hand: FLAIR passes the first level, the logit is FLAIR - 0.2 (of -1..1)."""
    model = UNet(width=2)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        for block, channel in ((model.encoders[0], 1), (model.decoders[-1].convolve, 0)):
            block[0].weight[0, channel, 1, 1] = 1
            block[3].weight[0, 0, 1, 1] = 1
            block[1].weight[0] = block[4].weight[0] = 1  # of the batch norms
        model.head.weight[0, 0] = 1
        model.head.bias[0] = -0.2
    return model


OF_VALIDATION = ("loss", "iou", "empty_prediction", "tumour_iou", "tumour_found", "patient_dice")
EPOCH = {"epoch": 1, "training_loss": 0.5, "training_iou": 0.5} | {f"validation_{name}": 0.5 for name in OF_VALIDATION}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_checkpoint(run: RunFolder, model: UNet, record: dict, config: dict) -> Path:
    """Write a checkpoint as training does; `record` has the epoch and its metrics."""
    writer = checkpoints.Writer(run, model, torch.optim.Adam(model.parameters()), config)
    if run.checkpoints():
        writer.epochs = checkpoints.read_epochs(run).drop(columns="saved")
    writer.save_epoch({"resolution": 1.0, **record})
    return run.checkpoint(record["epoch"])


def bright_checkpoint(folder: Path, precision: str = "fp32", **config) -> Path:
    """Write a run whose network is bright_network, and return its checkpoint."""
    config = {"settings": {**vars(Recipe(width=2)), "precision": precision}, "synthetic": False} | config
    return save_checkpoint(RunFolder(folder), bright_network(), EPOCH, config)


def blob(bottom: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return a dark slice (uint8 [256, 256, 3]) with FLAIR bright in a box that starts in row 60, and its mask."""
    mask = box((60, 80, bottom - 60, 60))
    image = np.random.default_rng(0).integers(0, 90, (256, 256, 3), dtype=np.uint8)
    image[mask > 0, 1] = 220
    return image, mask


def run_here(script: str | Path, *arguments: object, **_) -> None:
    """Run a script in this process, as utils.run_python does in another."""
    importlib.import_module(Path(script).stem).main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five patients with three slices each, in a folder kaggle_3m."""
    return make_patients(tmp_path / "kaggle_3m")


@pytest.fixture
def call(capsys):
    """Run a script as the command line would: call("train_model", "--run", ...) -> (exit code, stdout, stderr)."""

    def run(script: str, *arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main = importlib.import_module(script).main
            run_script(lambda: main([str(argument) for argument in arguments]))
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def done(result: tuple) -> str:
    """Return what a script printed that `call` or `predict` ran: it ended well, and without a complaint."""
    code, out, err, *_ = result
    assert (code, err) == (0, "")
    return out


def refused(result: tuple, *words: str) -> None:
    """Assert that a script ended as the mistakes of users end: with exit code 2, no traceback, and these words."""
    code, out, err, *_ = result
    assert code == 2 and "Traceback" not in out + err and [word for word in words if word not in err] == []


@pytest.fixture
def predict(call, tmp_path):
    """Run predict_model.py with bright_network into tmp_path/out -> (exit code, stdout, stderr, out folder)."""

    def run(*arguments, model: Path | None = None) -> tuple[int, str, str, Path]:
        model, out = model or bright_checkpoint(tmp_path / "run"), tmp_path / "out"
        return *call("predict_model", *arguments, "--checkpoint", model, "--out", out, "--device", "cpu"), out

    return run


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Plots are files without content: drawing takes most of the time of a test."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


@pytest.fixture
def unreported(monkeypatch) -> None:
    """Neither pictures nor reports are made."""
    for name in ("panels.write_panels", "plots.write_plots", "write_report"):
        monkeypatch.setattr(f"reporting.report.{name}", lambda *_: None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run of two epochs on the patients of `folder`, trained once for all tests: they take a copy, `finished`."""
    top = tmp_path_factory.mktemp("trained")
    run_here("train_model", "--data", make_patients(top / "data"), "--run", top / "run", "--epochs", 2, *QUICK)
    return top / "run"


@pytest.fixture
def finished(trained, folder, undrawn, tmp_path) -> Path:
    """A finished run of two epochs, whose data are `folder`."""
    run = RunFolder(shutil.copytree(trained, tmp_path / "finished"))
    run.write("config.json", run.read_config() | {"data": str(folder)})
    return run.path


@pytest.fixture
def kaggle(tmp_path, monkeypatch) -> Path:
    """The published set, as Kaggle gives it: twice, one copy inside another folder, data.csv among the patients.

    It is five synthetic patients with three slices each, SYNTH_T_1, 3 and 4 of them the subset. Data belong into the
    current folder, tmp_path, instead of beside the code.
    """
    rows = [f"SYNTH_T_{n},3,{int(n in (1, 3, 4))}\n" for n in range(5)]
    (tmp_path / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    monkeypatch.setattr("dataset.published.PATIENTS_FILE", tmp_path / "patients.csv")
    for name in ("DATA_DIR", "SYNTHETIC_DIR"):
        monkeypatch.setattr(constants, name, tmp_path / getattr(constants, name).relative_to(ROOT))
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "cache" / "versions" / "2"
    make_patients(top / "kaggle_3m")
    (top / "kaggle_3m" / "data.csv").write_text("Patient;RNASeqCluster\n")
    shutil.copytree(top / "kaggle_3m", top / "lgg-mri-segmentation" / "kaggle_3m")
    return top


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real patients that LGG_DATA names."""
    if not os.environ.get("LGG_DATA"):
        pytest.skip("LGG_DATA does not name a folder of real patients")
    return Path(os.environ["LGG_DATA"])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
