"""Exported networks give the masks of the original; the model card; torch.hub."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EPOCH, PLAIN, ROOT, contents, done, draw_patient, refused, save_checkpoint

import constants
import export_model
import hubconf
from dataset.published import published_patients
from dataset.slices import name_digest
from inference.segment import segment
from reporting.model_card import model_card
from storage import checkpoints, origin
from storage.run_folder import RunFolder
from training.recipe import RECIPES
from unet import UNet, weights_digest
from utils import UserError

CONFIG = {"data": "/data", "synthetic": False, "published": True, "hardware": "cpu", "versions": {"torch": "2"}} | {
    "patients": {"train": 8, "validation": 2, "test": 2}, "slices": {"train": 178, "validation": 45, "test": 113}
}  # fmt: skip
SAFETENSORS = ("--formats", "safetensors")
KEEP_ALL = {"threshold": 0.5, "min_component": 0}  # random weights mark small spots


def make_run(path: Path, recipe: str = "reference", **config) -> RunFolder:
    """Write two epochs, the first the better one, with random weights and batch norms that have seen data."""
    run = RunFolder(path)
    settings = {**vars(RECIPES[recipe]), "epochs": 1, "width": 2, "precision": "fp32"} | KEEP_ALL
    config = CONFIG | {"settings": settings} | config
    run.write("config.json", config)
    for epoch, iou in ((1, 0.9), (2, 0.8)):
        torch.manual_seed(epoch)
        network = checkpoints.describe_network(settings)
        model = UNet(**network).to(memory_format=torch.channels_last)  # as training in bf16 saves it
        model.head.bias.data -= model(torch.randn(2, network["channels"], 64, 64)).median()  # some of both classes
        save_checkpoint(run, model, EPOCH | {"epoch": epoch, "validation_iou": iou}, config)
    return run


@pytest.fixture
def export(call):
    return partial(call, "export_model")


def write_metrics(run: RunFolder, **changes) -> None:
    """Write what test_model.py writes, as far as it is needed here."""
    dice = {"value": 0.75, "low": 0.6, "high": 0.9, "values": []}
    empty = {"value": 0.6195, "low": None, "high": None, "values": [0.6, 0.639]}
    metrics = {"epoch": 1, "epochs": 1, "selected_by": "iou", "split": "test", "slices": 113, "threshold": 0.5}
    metrics |= {"min_component": 0, "tuned": None, "intervals": {"patient_dice": dice, "empty_prediction": empty}}
    metrics |= {"patient_dice": 0.75, "empty_prediction": 0.6195, "patients": 2, "patients_without_tumour": 0}
    metrics |= {"notes": ["Few."]}
    run.write("metrics.json", json.dumps(metrics | changes).encode())


def test_every_way_to_segment_gives_the_mask_of_predict_model(call, export, tmp_path):
    onnxruntime, _ = (pytest.importorskip(name) for name in ("onnxruntime", "onnx"))
    run, images = make_run(tmp_path / "run", "tuned", synthetic=True), draw_patient(0)[0]
    code, out, _ = export("--run", run, "--formats", "onnx", "safetensors", "--name", "x", "--out", tmp_path)
    assert code == 0 and "SYNTHETIC" in out
    for name, stack in {"eight_bits": images, "narrow": images[:, :230, :180] / 1e3}.items():
        np.save(tmp_path / f"{name}.npy", stack)
        options = ("--checkpoint", run.checkpoint(1), "--out", tmp_path / name, "--device", "cpu")
        assert call("predict_model", tmp_path / f"{name}.npy", *options)[0] == 0
        expected = np.load(tmp_path / name / name / f"{name}_mask.npy")
        assert expected.shape == stack.shape[:3] and 0 < expected.mean() < 1
        assert np.array_equal(segment(stack, run.checkpoint(1)), expected)
        assert np.array_equal(segment(stack, tmp_path / "x.onnx"), expected)
    np.save(tmp_path / "thin.npy", thin := np.repeat(images, 2, axis=0))
    options = ("--spacing", 0.9, 0.9, 1.2, "--checkpoint", run.checkpoint(1), "--out", tmp_path / "slabs")
    assert call("predict_model", tmp_path / "thin.npy", *options, "--device", "cpu")[0] == 0
    by_hub = torch.hub.load(str(ROOT), "segment", thin, run.checkpoint(1), spacing=(0.9, 0.9, 1.2), source="local")
    assert np.array_equal(by_hub, np.load(tmp_path / "slabs" / "thin" / "thin_mask.npy"))
    assert not np.array_equal(by_hub, segment(thin, run.checkpoint(1)))
    by_hub = torch.hub.load(str(ROOT), "segment", stack, tmp_path / "x.safetensors", source="local")
    assert np.array_equal(by_hub, expected)

    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    shapes = {"slices": "uint8 [N, H, W, 3]", "levels": "float32 [3, 256]", "mask": "uint8 [N, H, W]"}
    assert all(metadata[name].startswith(text) for name, text in shapes.items()) and "medical" in metadata["use"]


@pytest.mark.parametrize("tta_flip", [False, True])
def test_the_graph_looks_up_intensities_and_neighbours_and_applies_the_threshold(tta_flip, monkeypatch):
    onnxruntime, onnx_graph = pytest.importorskip("onnxruntime"), pytest.importorskip("storage.onnx_graph")

    def digits(graph, _, images) -> str:
        """The five channels as decimal digits, on the left half of the slice alone."""
        weighted = graph.add("Mul", images, graph.number([[[10000]], [[1000]], [[100]], [[10]], [[1]]]))
        total = graph.add("ReduceSum", weighted, graph.number([1], np.int64))
        return graph.add("Mul", total, graph.number([1, 0]))

    monkeypatch.setattr(onnx_graph, "add_network", digits)
    content = onnx_graph.slices_graph(UNet(width=2), 1, tta_flip, 0.75, {})
    slices = np.tile(np.array([[7, 1, 8], [7, 2, 8], [7, 3, 8]], np.uint8)[:, None, None], (1, 1, 2, 1))
    levels = np.tile(np.arange(256, dtype=np.float32), (3, 1))
    levels[2] -= 4  # post-contrast 8 becomes 4
    logits, mask = onnxruntime.InferenceSession(content).run(["logits", "mask"], {"slices": slices, "levels": levels})
    share = 0.5 if tta_flip else 1  # the mirror image has its logits on the right
    expected = share * np.array([71412, 72413, 73423])
    assert np.array_equal(logits[:, 0, 0], expected) and np.array_equal(logits[:, 0, 1], expected * tta_flip)
    assert mask.dtype == np.uint8 and np.array_equal(mask, logits > 0)


def test_what_segment_refuses_and_onnx_is_no_network_of_a_script():
    for stack, problem in (
        (np.zeros((4, 3, 64, 64), np.uint8), "has the shape"),
        (np.full((4, 64, 64, 3), "x"), "holds values of the type"),
        (np.eye(64, dtype=np.uint8)[None], "a mask, and no image"),
    ):
        with pytest.raises(ValueError, match=problem):
            segment(stack)
    with pytest.raises(UserError, match=r"x\.onnx: ONNX is for segment .* Export safetensors"):
        checkpoints.load_network(Path("x.onnx"))


def test_safetensors_halved_or_not_and_damaged_ones_are_refused(export, tmp_path):
    run = make_run(tmp_path / "run", "tuned")
    whole = checkpoints.load_network(run.checkpoint(1))[0].state_dict()
    path = tmp_path / "x.safetensors"
    for half in ((), ("--half",)):
        done(export("--run", run, *SAFETENSORS, *half, "--out", tmp_path, "--name", "x", "--overwrite"))
        model, about = checkpoints.load_network(path)
        for name, tensor in model.state_dict().items():
            expected = whole[name].half().float() if half and tensor.ndim == 4 else whole[name]
            assert torch.equal(tensor, expected)
        assert f": {weights_digest(model.state_dict(), {})}\n" in (tmp_path / "x.md").read_text()
    assert about["epoch"] == 1 and about["config"] == {"synthetic": False, "published": True}
    tuned = {"normalisation": "median", "neighbours": 1, "crop": True, "tta_flip": True}
    assert about["input"] == {"size": 256, **PLAIN, **tuned, "threshold": 0.5, "min_component": 0}
    content = path.read_bytes()
    assert len(content) < 0.75 * sum(tensor.nbytes for tensor in whole.values())
    crafted = content.replace(b'\\"width\\": 2', b'\\"width\\":-2')
    assert crafted != content
    for broken in (content[:-1], crafted):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged or no weights"):
            checkpoints.load_network(path)


def test_the_committed_cards_have_the_digest_of_their_weights():
    networks = {path: checkpoints.load_network(path)[0] for path in sorted((ROOT / "weights").glob("*.safetensors"))}
    for path, model in [*networks.items(), (constants.WEIGHTS, hubconf.unet(pretrained=True))]:
        assert f": {weights_digest(model.state_dict(), {})}\n" in path.with_suffix(".md").read_text()


def test_existing_files_are_replaced_only_on_demand_and_no_others(export, tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "weights"
    options = ("--run", run, *SAFETENSORS, "--out", out)
    assert export(*options)[0] == export(*options, "--name", "first")[0] == 0
    before = contents(out)
    write_metrics(run, epoch=2)
    refused(export(*options), f"{out / 'MODEL_CARD.md'}: exists already", "--overwrite")
    (out / "unet.onnx").write_bytes(b"of another epoch")  # the card would not describe it
    assert export(*options, "--overwrite")[0] == 0
    after = contents(out)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"unet.safetensors", "MODEL_CARD.md"}


@pytest.mark.parametrize(("format", "problem"), [("onnx", "pip install"), ("web", "npm ci")])
def test_nothing_is_written_without_a_package(export, tmp_path, monkeypatch, format, problem):
    run = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    refused(export("--run", run, "--formats", format), problem)
    assert not (run.path / "export").exists()


def test_a_network_of_lower_resolution_is_no_graph():
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match="at 50% of the resolution"):
        export_model.to_onnx(None, {"epoch": 1, "resolution": 0.5})


def test_weights_know_their_choice_and_their_patients_and_are_exported_again_as_they_are(export, tmp_path, monkeypatch):
    public, own = next(iter(published_patients())), name_digest("own")
    source = {"file": "x", "sha256": "0", "licence": "MIT", "recorded": False}
    came_from = {"weights": source | {"seen": {"test": ["somebody"]}}}
    known = {name_digest(public): "sha256:0", own: "sha256:1"}
    run = make_run(tmp_path / "run", training_patients=known, **came_from)
    write_metrics(run, epoch=2, threshold=0.35, min_component=20, quality={"model": {"intercept": 0.5}})
    out = done(export("--run", run, *SAFETENSORS, "--half", "--out", tmp_path, "--name", "given"))
    assert f"epoch 2 of {run} (as tested)" in out
    card = (tmp_path / "given.md").read_text()
    assert "components below 20 px, or in one slice alone, removed; threshold 0.35" in card

    monkeypatch.setattr("constants.WEIGHTS", tmp_path / "given.safetensors")
    monkeypatch.chdir(tmp_path)
    assert export(*SAFETENSORS)[0] == 0
    _, about = checkpoints.load_network(tmp_path / "export" / "unet.safetensors")
    assert (about["epoch"], about["input"]["threshold"], about["input"]["min_component"]) == (2, 0.35, 20)
    assert about["quality"] == {"intercept": 0.5}
    assert about["training_patients"] == {public: "sha256:0", own: "sha256:1"}
    assert about["config"]["weights"] == source
    assert not origin.is_recorded(about["config"])
    assert (tmp_path / "export" / "MODEL_CARD.md").read_text() == card


@pytest.mark.parametrize(("tested", "config", "texts"), [
    (False, {}, ("not a medical device", "8 patients with 178 slices for train", "Not tested yet")),
    (True, {}, ("2 patients, 113 slices that were in neither training nor validation", "Few.",
                   "| 0.750 | 0.600 to 0.900; 0 of 2 patients without tumour |", "| 0.620 | 0.600, 0.639 |")),
    (False, {"synthetic": True}, (constants.SYNTHETIC_NOTICE, "license: mit", "never seen a real image")),
    (False, {"published": False}, ("some or all of whom are the user's own", "in pixels of this size")),
])  # fmt: skip
def test_the_card(tmp_path, tested, config, texts):
    run = make_run(tmp_path / "run", **config)
    if tested:
        write_metrics(run)
    card = model_card(run, checkpoints.load_network(run.checkpoint(1))[1], "0" * 64)
    assert [text for text in texts if text not in card] == []
    assert ("SYNTHETIC" in card) == ("CC BY-NC-SA" not in card) == ("synthetic" in config)


def test_the_card_of_a_network_that_went_on_with_synthetic_patients(tmp_path):
    begun = {"file": "x", "sha256": "0", "licence": origin.LICENCE, "recorded": True, "seen": {}}
    run = make_run(tmp_path / "run", synthetic=True, published=False, weights=begun)
    card = model_card(run, checkpoints.load_network(run.checkpoint(1))[1], "0" * 64)
    assert "license: other" in card and "never seen a real image" not in card
    assert origin.licence(run.read_config()).endswith(f"and by that of the weights it began with: {origin.LICENCE}")


def test_hub_leaves_the_modules_of_the_caller_alone(tmp_path):
    """Also two entries called unet; and the network alone needs no other package than torch."""
    (tmp_path / "hubconf.py").write_text("from unet import Net\n\ndef unet():\n    return Net()\n")
    (tmp_path / "unet.py").write_text("import torch\n\nclass Net(torch.nn.Module):\n    pass\n")
    (tmp_path / "utils.py").write_text("mine = True")
    program = f"""
import sys
names = ("cv2", "sklearn", "pandas", "PIL", "tqdm", "safetensors")
sys.modules.update(dict.fromkeys(names))  # cannot be imported
import torch
for folder, options in (({str(ROOT)!r}, dict(width=2)), ({str(tmp_path)!r}, {{}})):
    print(type(torch.hub.load(folder, "unet", source="local", **options)).__name__)
for name in names:
    del sys.modules[name]
import numpy, utils
for _ in range(2):
    print(torch.hub.load({str(ROOT)!r}, "segment", numpy.full((1, 64, 64, 3), 9, "uint8"), source="local").shape)
    print(utils.mine, sys.modules["utils"] is utils, "scans" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["UNet", "Net", *2 * ["(1, 64, 64)", "True True False"]], done.stderr
