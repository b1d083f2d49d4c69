"""Exported networks answer as the original does; model card and torch.hub."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import portable
import pytest
import runs
import torch
from conftest import save_checkpoint

import export_model
from constants import SYNTHETIC_NOTICE
from reporting.model_card import model_card
from storage import checkpoints
from training.engine import prepare
from unet import UNet

ROOT = Path(__file__).parents[1]
CONFIG = {
    "settings": {"epochs": 1, "width": 2, "bilinear": False, "loss": "bce"},
    "data": "/data",
    "synthetic": False,
    "published": True,
    "patients": {"train": 8, "validation": 2, "test": 2},
    "slices": {"train": 178, "validation": 45, "test": 113},
    "hardware": "cpu",
    "versions": {"torch": "2"},
}


def make_run(run: Path, synthetic: bool = False, bilinear: bool = False, published: bool = True) -> Path:
    """A run of two epochs, the first the better one, with random weights and batch norms that have seen data."""
    config = CONFIG | {
        "synthetic": synthetic,
        "published": published,
        "settings": CONFIG["settings"] | {"bilinear": bilinear},
    }
    runs.write_config(run, config)
    for epoch, iou in ((1, 0.9), (2, 0.8)):
        torch.manual_seed(epoch)
        model = UNet(width=2, bilinear=bilinear)
        model(torch.randn(2, 3, 64, 64))
        figures = {"training_loss": 0.1, "training_iou": 0.5, "validation_loss": 0.1, "validation_iou": iou}
        save_checkpoint(runs.models_folder(run), epoch, model, figures, config)
    return run


@pytest.fixture
def export(call):
    """Run export_model.py -> (exit code, stdout, stderr)."""
    return partial(call, "export_model")


@pytest.fixture
def images() -> torch.Tensor:
    """Five prepared slices; float32 [5, 3, 256, 256]."""
    generator = torch.Generator().manual_seed(7)
    return prepare(torch.randint(0, 256, (5, 256, 256, 3), dtype=torch.uint8, generator=generator))


def original(run: Path, epoch: int = 1) -> UNet:
    return checkpoints.load_network(checkpoints.epoch_path(runs.models_folder(run), epoch))[0]


def test_safetensors(export, tmp_path, images):
    safetensors = pytest.importorskip("safetensors")
    run = make_run(tmp_path / "run", bilinear=True)
    code, out, err = export("--run", run, "--formats", "safetensors")
    assert (code, err) == (0, "") and "epoch 1 of" in out
    with safetensors.safe_open(run / "export" / "unet.safetensors", "pt") as file:
        metadata, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(metadata["threshold"]) == 0.5 and json.loads(metadata["mean"]) == [0.5, 0.5, 0.5]
    again = UNet(**json.loads(metadata["network"]))
    again.load_state_dict(weights)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images[:1]), original(run)(images[:1]))


def test_halved_weights_are_close_and_load_without_a_package(export, tmp_path, images):
    run = make_run(tmp_path / "run")
    options = ("--run", run, "--out", tmp_path / "weights", "--name", "small")
    code, out, err = export(*options, "--formats", "safetensors", "--half")
    assert (code, err) == (0, "") and "logits differ by at most" in out
    assert "# Model card" in (tmp_path / "weights" / "small.md").read_text()
    path = tmp_path / "weights" / "small.safetensors"
    whole = sum(tensor.nbytes for tensor in original(run).state_dict().values())
    assert path.stat().st_size < 0.75 * whole  # with a header that weighs more in a network as small as this

    checkpoint = checkpoints.load_network(path)[1]
    assert checkpoint["epoch"] == 1 and checkpoint["config"] == {"synthetic": False, "published": True}
    assert checkpoint["input"] == {"size": 256, "mean": [0.5] * 3, "std": [0.5] * 3, "threshold": 0.5}
    for name, tensor in original(run).state_dict().items():
        expected = tensor.half().float() if tensor.ndim == 4 else tensor
        assert torch.equal(checkpoint["weights"][name], expected)
    with torch.inference_mode():
        expected, found = (model(images[:1]) for model in (original(run), checkpoints.build_network(checkpoint, path)))
    assert 0 < (found - expected).abs().max() < 1e-2 * expected.abs().max()

    assert "goes with --formats safetensors alone" in export(*options, "--half")[2]
    content = path.read_bytes()
    for broken in (b"", content[:-1], content[:100], b"{" * 100):
        path.write_bytes(broken)
        with pytest.raises(export_model.UserError, match="damaged or no weights"):
            checkpoints.load_network(path)[1]


def test_files_of_another_run_are_not_replaced(export, tmp_path):
    out = tmp_path / "weights"
    options = ("--formats", "safetensors", "--out", out, "--name", "small")
    assert export("--run", make_run(tmp_path / "one"), *options)[0] == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    other = make_run(tmp_path / "other")
    code, _, err = export("--run", other, "--epoch", 2, *options)
    assert code == 2 and "small.safetensors: exists already" in err and "--overwrite" in err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert export("--run", other, "--epoch", 2, *options, "--overwrite")[0] == 0
    for _ in range(2):  # in the folder of the run it is written anew
        assert export("--run", other, "--formats", "safetensors")[0] == 0


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # inside the loader of torch 2.11
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
    session = onnxruntime.InferenceSession(run / "export" / "unet.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["slices"] and session.get_inputs()[0].shape[1:] == [3, 256, 256]
    assert isinstance(session.get_inputs()[0].shape[0], str)  # any batch
    metadata = session.get_modelmeta().custom_metadata_map
    assert (
        metadata["synthetic"] == "true"
        and json.loads(metadata["std"]) == [0.5, 0.5, 0.5]
        and "medical" in metadata["use"]
    )
    for batch in (1, 5):
        with torch.inference_mode():
            expected = original(run)(images[:batch])
        found = torch.from_numpy(session.run(None, {"slices": images[:batch].numpy()})[0])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_what_differs_is_not_written(export, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    wrong = export_model.Format("pt2", lambda *_: b"x", lambda *_: lambda images: images[:, :1] * 3)
    monkeypatch.setitem(export_model.FORMATS, "torch_export", wrong)
    code, _, err = export("--run", run, "--formats", "torch_export")
    assert code == 2 and "so it was not written" in err and not (run / "export").exists()


def test_a_package_that_is_missing(export, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    for package in ("onnxruntime", "onnxscript"):
        with monkeypatch.context() as patch:
            for other in export_model.FORMATS["onnx"].packages:
                patch.setitem(sys.modules, other, None if other == package else sys)
            code, _, err = export("--run", run, "--formats", "onnx")
        assert code == 2 and f"--formats onnx needs the package {package}" in err and "pip install" in err
    assert not (run / "export").exists()


def test_mistakes(export, tmp_path):
    assert "holds no checkpoints" in export("--run", tmp_path, "--formats", "torch_export")[2]
    run = make_run(tmp_path / "run")
    code, _, err = export("--run", run, "--formats", "torch_export", "--epoch", 9)
    assert code == 2 and "epoch_9.pt: no such file" in err
    code, out, _ = export("--help")
    assert code == 0 and "python export_model.py --run" in out and "not a medical device" in out


# --- Model card ------------------------------------------------------------------------------------------------


def card(run: Path, epoch: int = 1) -> str:
    checkpoint = checkpoints.read_checkpoint(checkpoints.epoch_path(runs.models_folder(run), epoch))
    return model_card(run, epoch, checkpoint)


def test_the_card_says_what_is_known_and_what_is_not(tmp_path):
    run = make_run(tmp_path / "run")
    text = card(run)
    assert "not a medical device" in text and "CC BY-NC-SA 4.0" in text and "SYNTHETIC" not in text
    assert "8 patients with 178 slices for train" in text and "Not tested yet" in text
    parameters = sum(weights.numel() for weights in UNet(width=2).parameters())
    assert f"2 to 32 channels, {parameters / 1e6:.2f} million parameters" in text

    metrics = {"epoch": 1, "slices": 113, "iou": 0.9012, "all_empty": 0.6195, "tumour_iou": None, "patient_dice": 0.75}
    metrics |= {"threshold": 0.5, "min_component": 0}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "test_patients.csv").write_text("patient,dice\na,0.6\nb,0.9\n")
    text = card(run)
    assert "2 patients, 113 slices that were in neither training nor validation" in text
    assert "empty against empty is 1 | 0.901 |  |" in text and "would score in that IoU | 0.620 |" in text
    assert "tumour slices only | undefined |" in text and "0.600 to 0.900, median 0.750" in text
    assert "No intervals were computed" in text and "Measured at" not in text
    (run / "metrics.json").write_text(json.dumps(metrics | {"threshold": 0.3, "min_component": 100}))
    text = card(run)
    assert "Measured at threshold 0.3, parts below 100 px removed" in text and "carry threshold 0.5" in text

    metrics["intervals"] = {"patient_dice": {"value": 0.75, "low": 0.6, "high": 0.9, "n": 2}}
    (run / "metrics.json").write_text(json.dumps(metrics | {"notes": ["Two patients show little."]}))
    text = card(run)
    assert "mean over patients | 0.750 | 0.600 to 0.900 |" in text and "Two patients show little." in text
    assert "Epoch 1 was tested, not epoch 2" in card(run, 2)

    (run / "metrics.json").write_text("{")
    with pytest.raises(export_model.UserError, match=r"metrics.json: cannot be read"):
        card(run)


def test_the_card_of_a_run_without_test_patients_shows_the_validation(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIG, "patients", {"train": 8, "validation": 2, "test": 0})
    run = make_run(tmp_path / "run")
    path = checkpoints.epoch_path(runs.models_folder(run), 1)
    text = model_card(run, 1, checkpoints.read_checkpoint(path) | {"validation_tumour_iou": 0.25})
    assert "Nobody was left to test on" in text and "Not tested yet" not in text
    assert "empty against empty is 1 | 0.900 |" in text and "tumour slices only | 0.250 |" in text


def test_the_card_of_synthetic_patients_says_so(tmp_path):
    text = card(make_run(tmp_path / "run", synthetic=True))
    assert SYNTHETIC_NOTICE in text and "CC BY-NC-SA" not in text


def test_the_card_of_own_patients_claims_nothing_of_the_published_set(tmp_path):
    text = card(make_run(tmp_path / "run", published=False))
    assert "some or all are the user's own" in text and "TCGA" not in text and "learned from images under" not in text


def test_weights_from_before_it_was_noted_whose_they_are_still_load(tmp_path):
    run = make_run(tmp_path / "run")
    metadata = export_model.texts(
        export_model.preparation(checkpoints.load_network(runs.models_folder(run) / "epoch_1.pt")[1])
    )
    del metadata["published"]
    (tmp_path / "old.safetensors").write_bytes(portable.write(original(run).state_dict(), metadata))
    assert checkpoints.load_network(tmp_path / "old.safetensors")[1]["config"] == {
        "synthetic": False,
        "published": False,
    }


# --- torch.hub -------------------------------------------------------------------------------------------------


def load(monkeypatch, **options) -> torch.nn.Module:
    return torch.hub.load(str(ROOT), "unet", source="local", **options)


def test_hub_gives_the_network_and_no_pretrained_weights_yet(monkeypatch):
    model = load(monkeypatch, width=4, bilinear=True)
    assert not model.training and model(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)
    if not (ROOT / "weights" / "full_bilinear.safetensors").exists():
        with pytest.raises(RuntimeError, match="comes without pretrained weights"):
            load(monkeypatch, pretrained=True)


def test_hub_offers_only_weights_of_published_patients(monkeypatch, tmp_path):
    import hubconf

    for synthetic, published in ((True, True), (False, False), (False, True)):
        run = make_run(
            tmp_path / f"{synthetic} {published}", synthetic=synthetic, published=published and not synthetic
        )
        monkeypatch.setattr(hubconf, "PRETRAINED", runs.models_folder(run) / "epoch_1.pt")
        if synthetic or not published:
            with pytest.raises(RuntimeError, match="not offered as pretrained"):
                hubconf.unet(pretrained=True)
        else:
            weights = hubconf.unet(pretrained=True).state_dict()
            assert all(torch.equal(weights[name], value) for name, value in original(run).state_dict().items())


def test_hub_gives_the_network_where_there_is_nothing_but_pytorch():
    code = f"""
import sys, types
sys.modules["utils"] = types.ModuleType("utils")  # of the user's own
for name in ("cv2", "sklearn", "pandas", "PIL", "tqdm"):
    sys.modules[name] = None  # cannot be imported
import torch
print(type(torch.hub.load({str(ROOT)!r}, "unet", source="local", width=2)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("UNet\n", 0), done.stderr
