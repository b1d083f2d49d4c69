"""Exported networks give the same logits as the original; the model card; torch.hub."""

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import PLAIN, save_checkpoint

import export_model
import hubconf
from constants import SYNTHETIC_NOTICE
from reporting.model_card import model_card
from storage import checkpoints
from storage.run_folder import RunFolder
from training.recipe import RECIPES
from unet import UNet
from utils import UserError

ROOT = Path(__file__).parents[1]
CONFIG = {
    "settings": {**dataclasses.asdict(RECIPES["reference"]), "epochs": 1, "width": 2, "precision": "fp32"},
    "data": "/data",
    "synthetic": False,
    "published": True,
    "patients": {"train": 8, "validation": 2, "test": 2},
    "slices": {"train": 178, "validation": 45, "test": 113},
    "hardware": "cpu",
    "versions": {"torch": "2"},
}
EPOCH = {"training_loss": 0.1, "training_iou": 0.5, "validation_loss": 0.1} | {
    f"validation_{name}": 0.25 for name in ("patient_dice", "tumour_iou", "tumour_found", "empty_prediction")
}


def make_run(path: Path, bilinear: bool = False, **config) -> RunFolder:
    """Write two epochs, the first the better one, with random weights and batch norms that have seen data."""
    run = RunFolder(path)
    config = CONFIG | {"settings": CONFIG["settings"] | {"bilinear": bilinear}} | config
    run.write("config.json", config)
    for epoch, iou in ((1, 0.9), (2, 0.8)):
        torch.manual_seed(epoch)
        model = UNet(width=2, bilinear=bilinear).to(memory_format=torch.channels_last)  # as training in bf16 saves it
        model(torch.randn(2, 3, 64, 64))
        save_checkpoint(run, model, {"epoch": epoch, **EPOCH, "validation_iou": iou}, config)
    return run


@pytest.fixture
def export(call):
    """Run export_model.py -> (exit code, stdout, stderr)."""
    return partial(call, "export_model")


@pytest.fixture
def images() -> torch.Tensor:
    """Input of two slices; float32 [2, 3, 256, 256] in [-1, 1]."""
    return 2 * torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(7)) - 1


def write_metrics(run: RunFolder, **changes) -> None:
    """Write what test_model.py writes, as far as it is needed here."""
    undefined = {"value": None, "low": None, "high": None, "values": []}
    intervals = dict.fromkeys(("patient_dice_median", "tumour_iou", "tumour_found", "iou"), undefined)
    intervals["patient_dice"] = {"value": 0.75, "low": 0.6, "high": 0.9, "values": []}
    intervals["empty_prediction"] = {"value": 0.6195, "low": None, "high": None, "values": [0.6, 0.639]}
    metrics = {"epoch": 1, "epochs": 1, "selected_by": "iou", "split": "test", "slices": 113, "threshold": 0.5}
    metrics |= {"min_component": 0, "tuned": None, "intervals": intervals, "notes": ["Few."]}
    run.write("metrics.json", json.dumps(metrics | changes).encode())
    run.write("test_results.csv", b"patient,dice\n")
    run.write("test_lesions.csv", b"patient,dice\n")
    run.write("test_patients.csv", b"patient,dice\na,0.6\nb,0.9\n")


def original(run: RunFolder, epoch: int = 1) -> UNet:
    return checkpoints.load_network(run.checkpoint(epoch))[0]


def test_safetensors(export, tmp_path, images):
    run = make_run(tmp_path / "run", bilinear=True)
    code, out, err = export("--run", run, "--formats", "safetensors")
    assert (code, err) == (0, "") and "epoch 1 of" in out
    model, about = checkpoints.load_network(run.path / "export" / "unet.safetensors")
    assert about["epoch"] == 1 and about["config"] == {"synthetic": False, "published": True}
    assert about["input"] == {"size": 256, **PLAIN, "threshold": 0.5, "min_component": 0}
    with torch.inference_mode():
        assert torch.equal(model(images[:1]), original(run)(images[:1]))


@pytest.mark.parametrize("published", [True, False])
def test_weights_carry_the_model_of_expected_dice_and_names_of_published_patients_alone(export, tmp_path, published):
    run = make_run(tmp_path / "run", published=published)
    run.write("train.csv", b"patient,image_path,mask_path\na,a/a_1.tif,a/a_1_mask.tif\n")
    write_metrics(run, quality={"model": {"intercept": 0.5}})
    assert export("--run", run, "--formats", "safetensors")[0] == 0
    about = checkpoints.load_network(run.path / "export" / "unet.safetensors")[1]
    assert about["quality"] == {"intercept": 0.5} and about["training_patients"] == ({"a": ""} if published else None)


def test_halved_weights_are_close_and_damaged_ones_are_refused(export, tmp_path):
    run = make_run(tmp_path / "run")
    options = ("--run", run, "--out", tmp_path / "weights", "--name", "small")
    code, out, err = export(*options, "--formats", "safetensors", "--half")
    assert (code, err) == (0, "") and "logits differ by at most" in out
    assert "# Model card" in (tmp_path / "weights" / "small.md").read_text()
    path = tmp_path / "weights" / "small.safetensors"
    whole = sum(tensor.nbytes for tensor in original(run).state_dict().values())
    assert path.stat().st_size < 0.75 * whole  # the header counts in a network as small as this

    model, _ = checkpoints.load_network(path)
    for name, tensor in original(run).state_dict().items():
        expected = tensor.half().float() if tensor.ndim == 4 else tensor
        assert torch.equal(model.state_dict()[name], expected)

    assert "goes with --formats safetensors alone" in export(*options, "--half")[2]
    content = path.read_bytes()
    crafted = content.replace(b'\\"width\\": 2', b'\\"width\\":-2')
    assert crafted != content
    for broken in (content[:-1], crafted):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged or no weights"):
            checkpoints.load_network(path)


def test_existing_files_are_replaced_only_on_demand_and_no_others(export, tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "weights"
    options = ("--run", run, "--formats", "safetensors", "--out", out)
    assert export(*options)[0] == export(*options, "--name", "first")[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    code, _, err = export(*options, "--epoch", 2)
    assert code == 2 and f"{out / 'MODEL_CARD.md'}: exists already" in err and "--overwrite" in err
    (out / "unet.pt2").write_bytes(b"of another epoch")  # the card would not describe it
    assert export(*options, "--epoch", 2, "--overwrite")[0] == 0 and not (out / "unet.pt2").exists()
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"unet.safetensors", "MODEL_CARD.md"}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # inside the loader of torch 2.11
@pytest.mark.parametrize("name", ["", ".hidden", "../first", "a/b", "a\\b", "C:first"])
def test_a_name_that_leaves_the_folder_is_refused(call, tmp_path, name):
    code, _, err = call("export_model", "--out", tmp_path / "out", "--name", name)
    assert code == 2 and "is not a plain name" in err and not (tmp_path / "out").exists()


def test_torch_export(export, tmp_path, images):
    run = make_run(tmp_path / "run")
    code, _, err = export("--run", run, "--formats", "torch_export", "--epoch", 2, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "out" / "unet.pt2", extra_files=extra)
    assert json.loads(extra["metadata.json"])["epoch"] == 2
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(images), original(run, 2)(images), atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the exporter about itself
def test_onnx(export, tmp_path, images):
    onnxruntime, _, _ = (pytest.importorskip(name) for name in ("onnxruntime", "onnx", "onnxscript"))
    run = make_run(tmp_path / "run", synthetic=True)
    code, out, _ = export("--run", run, "--formats", "onnx")
    assert code == 0 and "SYNTHETIC" in out
    session = onnxruntime.InferenceSession(run.path / "export" / "unet.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["slices"] and session.get_inputs()[0].shape[1:] == [3, 256, 256]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # any batch
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["synthetic"] == "true" and "medical" in metadata["use"]
    assert json.loads(metadata["normalisation"]) == "plain"
    for batch in (1, 2):
        with torch.inference_mode():
            expected = original(run)(images[:batch])
        found = torch.from_numpy(session.run(None, {"slices": images[:batch].numpy()})[0])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_nothing_is_written_of_logits_that_differ_or_without_a_package(export, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    wrong = lambda *_: (b"x", lambda images: images[:, :1] * 3)  # noqa: E731
    monkeypatch.setitem(export_model.FORMATS, "torch_export", ("pt2", wrong))
    code, _, err = export("--run", run, "--formats", "torch_export")
    assert code == 2 and "Nothing was written." in err
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = export("--run", run, "--formats", "safetensors", "onnx")
    assert code == 2 and "onnx" in err and "pip install" in err and not (run.path / "export").exists()


def test_a_tested_run_carries_what_was_chosen_and_the_projects_weights_are_exported_as_they_are(
    export, tmp_path, monkeypatch
):
    run = make_run(tmp_path / "run")
    write_metrics(run, epoch=2, threshold=0.35, min_component=20)
    options = ("--formats", "safetensors", "--half", "--out", tmp_path, "--name", "given")
    code, out, _ = export("--run", run, *options)
    assert code == 0 and f"epoch 2 of {run} (as tested)" in out
    card = (tmp_path / "given.md").read_text()
    assert "components below 20 px, or in one slice alone, removed; threshold 0.35" in card

    monkeypatch.setattr("constants.WEIGHTS", tmp_path / "given.safetensors")
    monkeypatch.chdir(tmp_path)
    assert "--epoch: this folder holds no run. Name one" in export("--formats", "safetensors", "--epoch", 9)[2]
    code, out, err = export("--formats", "safetensors")
    assert (code, err) == (0, "") and "given.safetensors (they come with the project)" in out
    _, about = checkpoints.load_network(tmp_path / "export" / "unet.safetensors")
    assert (about["epoch"], about["input"]["threshold"], about["input"]["min_component"]) == (2, 0.35, 20)
    assert (tmp_path / "export" / "MODEL_CARD.md").read_text() == card


# --- Model card ------------------------------------------------------------------------------------------------


def card(run: RunFolder, epoch: int = 1) -> str:
    return model_card(run, checkpoints.read_checkpoint(run.checkpoint(epoch)), "0" * 64)


def test_the_card_of_a_tested_run(tmp_path):
    run = make_run(tmp_path / "run")
    text = card(run)
    assert f"- SHA-256 of the weights as trained: {'0' * 64}\n\n" in text
    assert "not a medical device" in text and "CC BY-NC-SA 4.0" in text and "SYNTHETIC" not in text
    assert "8 patients with 178 slices for train" in text and "Not tested yet" in text
    parameters = sum(weights.numel() for weights in UNet(width=2).parameters())
    assert f"2 to 32 channels, {parameters / 1e6:.2f} million parameters" in text
    write_metrics(run)
    text = card(run)
    assert "2 patients, 113 slices that were in neither training nor validation" in text and "Few." in text
    assert "| Volumetric Dice, mean over patients | 0.750 | 0.600 to 0.900 |" in text
    assert "| IoU, mean over tumour slices | - |  |" in text and "| 0.620 | 0.600, 0.639 |" in text
    assert "0.600 to 0.900." in text and "Epoch 1 was tested, not epoch 2" in card(run, 2)
    synthetic = card(make_run(tmp_path / "synthetic", synthetic=True))
    assert SYNTHETIC_NOTICE in synthetic and "CC BY-NC-SA" not in synthetic
    own = card(make_run(tmp_path / "own", published=False))
    assert "some or all of whom are the user's own" in own and "learned from images under" not in own


# --- torch.hub -------------------------------------------------------------------------------------------------


def test_hub_offers_only_weights_of_published_patients(export, monkeypatch, tmp_path):
    monkeypatch.setattr(hubconf, "WEIGHTS", tmp_path / "none.safetensors")
    with pytest.raises(RuntimeError, match="comes without pretrained weights"):
        hubconf.unet(pretrained=True)
    for published in (True, False):
        run = make_run(tmp_path / f"published_{published}", published=published)
        assert export("--run", run, "--formats", "safetensors")[0] == 0
        monkeypatch.setattr(hubconf, "WEIGHTS", run.path / "export" / "unet.safetensors")
        if published:
            weights = hubconf.unet(pretrained=True).state_dict()
            assert all(torch.equal(weights[name], value) for name, value in original(run).state_dict().items())
    with pytest.raises(RuntimeError, match="not offered as pretrained"):
        hubconf.unet(pretrained=True)


def test_two_hub_entries_called_unet_live_beside_each_other(tmp_path):
    (tmp_path / "hubconf.py").write_text("from unet import Net\n\ndef unet():\n    return Net()\n")
    (tmp_path / "unet.py").write_text("import torch\n\nclass Net(torch.nn.Module):\n    pass\n")
    program = f"""
import sys
for name in ("cv2", "sklearn", "pandas", "PIL", "tqdm", "safetensors"):
    sys.modules[name] = None  # cannot be imported
import torch
for folder, options in (({str(ROOT)!r}, dict(width=2)), ({str(tmp_path)!r}, {{}})):
    print(type(torch.hub.load(folder, "unet", source="local", **options)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path.parent, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["UNet", "Net"], done.stderr
