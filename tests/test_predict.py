"""Prediction on one's own images, with a network whose answer is known: lesion is where FLAIR is brighter than 60%."""

import io
import json
import platform
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import PLAIN, save_checkpoint
from PIL import Image

import hubconf
from scans import overlays
from scans.pictures import read_picture
from storage.checkpoints import load_network
from storage.run_folder import RunFolder
from training.hardware import choose_hardware
from training.recipes import REFERENCE
from unet import UNet, weights_digest
from utils import UserError, read_csv

OF_AN_EPOCH = ("loss", "iou", "tumour_iou", "tumour_found", "patient_dice", "empty_prediction")


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


def save(folder: Path, synthetic: bool = False, precision: str = "fp32") -> Path:
    config = {"settings": {**REFERENCE, "width": 2, "precision": precision}, "synthetic": synthetic}
    metrics = dict.fromkeys(("training_loss", "training_iou", *(f"validation_{name}" for name in OF_AN_EPOCH)), 0.5)
    return save_checkpoint(RunFolder(folder), bright_network(), {"epoch": 1, **metrics}, config)


@pytest.fixture
def predict(call, tmp_path):
    """Run predict_model.py into tmp_path/out -> (exit code, stdout, stderr, out folder)."""

    def run(*arguments, model: Path | None = None) -> tuple[int, str, str, Path]:
        model, out = model or save(tmp_path / "run"), tmp_path / "out"
        return *call("predict_model", *arguments, "--checkpoint", model, "--out", out, "--device", "cpu"), out

    return run


def blob(bottom: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return a dark slice (uint8 [256, 256, 3]) with FLAIR bright in a box that starts in row 60, and its mask."""
    image = np.random.default_rng(0).integers(0, 90, (256, 256, 3), dtype=np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[60:bottom, 80:140] = 1
    image[mask > 0, 1] = 220
    return image, mask


def test_the_network_of_a_run_is_the_one_that_was_chosen(call, tmp_path, picture, monkeypatch):
    """FLAIR is 220 in 2,400 pixels: the logit is 0.525, the probability 0.628; see bright_network."""
    save(tmp_path / "run")
    run, out = RunFolder(tmp_path / "run"), tmp_path / "out"

    def pixels(*options) -> tuple[int, str]:
        code, said, err = call("predict_model", picture, *options, "--out", out, "--overwrite", "--device", "cpu")
        assert (code, err) == (0, "")
        return int(pd.read_csv(out / "slices.csv")["lesion_pixels"].sum()), said

    found, said = pixels("--run", run)
    assert found == 2400 and f"epoch 1 of {run} (not tested)" in said
    chosen = {"epoch": 1, "selected_by": "loss", "tuned": {"patients": 2}, "threshold": 0.6, "min_component": 2401}
    run.write("metrics.json", json.dumps(chosen).encode())
    found, said = pixels("--run", run)
    assert found == 0 and "(as tested), the lowest validation loss; threshold 0.6, components below 2401 px" in said
    run.write("metrics.json", json.dumps(chosen | {"min_component": 0}).encode())
    assert pixels("--run", run)[0] == 2400
    found, said = pixels("--run", run, "--threshold", 0.65)
    assert found == 0 and "threshold 0.65 instead" in said

    monkeypatch.setattr("constants.WEIGHTS", run.checkpoint(1))
    found, said = pixels()
    assert found == 2400 and "epoch_1.pt (they come with the project): epoch 1; threshold 0.5" in said
    code, _, err = call("predict_model", picture, "--out", out, "--run", run, "--checkpoint", "x.pt")
    assert code == 2 and "not allowed with argument --run" in err


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(blob()[0]).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def read_mask(path: Path) -> np.ndarray:
    pixels = read_picture(path)
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) <= {0, 255}
    return pixels // 255


@pytest.mark.parametrize("ending", [".tif", ".bmp"])
def test_a_picture_of_the_networks_size_is_mapped_back_to_the_pixel(predict, tmp_path, ending):
    image, mask = blob()
    Image.fromarray(image).save(tmp_path / f"scan{ending}")
    code, out, err, folder = predict(tmp_path / f"scan{ending}")
    assert (code, err) == (0, "") and "1 of 1 slices with lesion, 2,400 px" in out and "slices/s" in out
    case = folder / tmp_path.name
    assert np.array_equal(read_mask(case / f"scan_mask{'.tif' if ending == '.tif' else '.png'}"), mask)
    pixels = read_picture(case / "scan_overlay.png")
    assert pixels.shape[:2] == (512 + 2 * 17 + 4, 512) and not list(case.glob("*.gif"))  # two lines of text
    rows, columns = np.nonzero((pixels == overlays.COLOR).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (120, 199, 160, 279)  # twice the box, its rim
    assert (
        f"scan,256,256,2400,,,{tmp_path / f'scan{ending}'}\n" in (folder / "slices.csv").read_text()
    )  # no area in mm² without a spacing


def test_a_patient_folder_gives_tables_with_volumes_and_an_animation(predict, tmp_path):
    patient = tmp_path / "SYNTH_P_1"
    patient.mkdir()
    for number in (10, 9, 2):
        image, mask = blob(60 + number)
        Image.fromarray(image).save(patient / f"SYNTH_P_1_{number}.tif")
        Image.fromarray(mask * 255).save(patient / f"SYNTH_P_1_{number}_mask.tif")
    code, _, err, folder = predict(patient, "--spacing", 0.5, 0.5, 4)
    assert (code, err) == (0, "")
    table = pd.read_csv(folder / "slices.csv")
    assert table["slice"].tolist() == [f"SYNTH_P_1_{n}" for n in (2, 9, 10)]  # the masks are not taken for images
    assert table["lesion_pixels"].tolist() == [120, 540, 600] and table["lesion_mm2"].tolist() == [30, 135, 150]
    assert (folder / "patients.csv").read_text().splitlines() == [
        "patient,slices,lesion_slices,lesion_pixels,lesion_mm3,largest_slice,reference_pixels,true_positive,dice,source",
        f"SYNTH_P_1,3,3,1260,1260.000000,SYNTH_P_1_10,1260,1260,1.000000,{patient}",
    ]
    with Image.open(folder / "SYNTH_P_1" / "SYNTH_P_1.gif") as gif:
        assert gif.n_frames == 3 and gif.width == 512 and gif.info["loop"] == 0
        gif.seek(2)
        pixels = np.asarray(gif.convert("RGB"))
    outline = (pixels == overlays.COLOR).all(2)
    assert outline[60, 256 + 80 : 256 + 140].all() and not outline[:, :256].any()


def test_three_sequences_from_three_files(predict, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    sequences = np.random.default_rng(3).integers(0, 90, (3, 32, 32, 4), dtype=np.uint8)
    sequences[1, 10:20, 12:22, 2] = 250
    pre, flair, post = (tmp_path / f"{name}.nii.gz" for name in ("t1", "flair", "t1c"))
    for path, voxels in zip((pre, flair, post), sequences, strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.5, 0.5, 4, 1])), path)
    code, out, err, folder = predict(flair, "--pre", pre, "--post", post)
    assert (code, err) == (0, "") and "one sequence only" not in out
    name = tmp_path.name  # a name that says only the sequence is nobody's
    mask = np.asarray(nibabel.load(folder / name / f"{name}_mask.nii.gz").dataobj)
    assert mask.sum() == mask[9:21, 11:23, 2].sum() == pytest.approx(100, abs=20)
    assert pd.read_csv(folder / "patients.csv")["lesion_mm3"].item() == mask.sum()
    code, _, err, _ = predict(flair, "--pre", tmp_path / "no.nii", "--overwrite")
    assert code == 2 and "no.nii: no such file" in err
    code, out, _, _ = predict(flair, pre, "--post", post, "--overwrite")
    assert (
        code == 0
        and "pre-contrast t1.nii.gz (by its name), FLAIR flair.nii.gz, post-contrast t1c.nii.gz (--post)" in out
    )
    np.save(tmp_path / "another.npy", sequences[1])
    code, _, err, _ = predict(flair, tmp_path / "another.npy", "--post", post, "--overwrite")
    assert code == 2 and "there are 2" in err


def test_one_bad_file_does_not_stop_the_others(predict, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    deep = np.zeros((64, 48), np.uint16)
    deep[10:20, 10:20] = 4000
    Image.fromarray(deep).save(case / "deep.tif")
    Image.fromarray(deep * 0).save(case / "empty.png")
    (case / "cut.png").write_bytes((case / "empty.png").read_bytes()[:50])
    (tmp_path / "words.npy").write_bytes(b"no array")
    code, out, err, folder = predict(case, tmp_path / "words.npy", tmp_path / "no.png")
    assert code == 1 and "Traceback" not in out + err
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["error", str(path)] for path in (tmp_path / "no.png", case / "cut.png", tmp_path / "words.npy")
    ]
    assert "note: intensities scaled to 8 bits" in out and "warning: one sequence only" in out
    assert pd.read_csv(folder / "slices.csv")["slice"].tolist() == ["deep", "empty"]
    assert np.array_equal(read_mask(folder / "case" / "deep_mask.tif"), deep // 4000)
    assert not read_mask(folder / "case" / "empty_mask.png").any()


def test_a_name_too_long_for_the_outputs_is_one_error_of_its_scan(predict, tmp_path, picture):
    long = tmp_path / "long" / f"{'n' * 240}.png"
    long.parent.mkdir()
    long.write_bytes(picture.read_bytes())
    code, _, err, folder = predict(long)
    assert code == 2 and err.count("error: ") == 1 and "a name too long for this file system." in err
    assert not folder.exists()
    code, _, err, folder = predict(long, picture)
    assert code == 1 and err.count("error: ") == 1
    assert pd.read_csv(folder / "slices.csv")["slice"].tolist() == ["scan"]


def test_files_are_not_overwritten_unless_asked(predict, tmp_path, picture):
    assert predict(picture)[0] == 0
    code, _, err, folder = predict(picture)
    assert code == 2 and "holds files already" in err
    (folder / "mine.txt").write_text("kept")
    (folder / "slices.csv").write_text("damaged by a crash")
    assert predict(picture, "--overwrite")[0] == 2  # it may as well have been edited
    (folder / "slices.csv").unlink()
    overlay = folder / tmp_path.name / "scan_overlay.png"
    before, content = overlay.stat().st_mtime_ns, overlay.read_bytes()
    assert predict(picture, "--overwrite")[0] == 0 and (folder / "mine.txt").read_text() == "kept"
    assert overlay.read_bytes() == content and overlay.stat().st_mtime_ns > before


def test_masks_of_an_earlier_prediction_never_lie_beside_new_ones(predict, tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.stack([blob()[0], blob()[0]]))
    assert predict(tmp_path / "a.npy", tmp_path / "b.npy", "--probabilities")[0] == 0
    folder = tmp_path / "out"
    (folder / "b" / "b_1_overlay.png").write_text("mine now")
    assert predict(tmp_path / "a.npy", "--overwrite")[0] == 0
    assert [path.name for path in (folder / "b").iterdir()] == ["b_1_overlay.png"]
    assert not (folder / "a" / "a_probability.npy").exists() and (folder / "a" / "a_mask.npy").exists()


def test_a_folder_of_the_user_is_never_written_to(predict, tmp_path, picture):
    folder = tmp_path / "out" / "case"
    folder.mkdir(parents=True)
    Image.fromarray(blob()[1]).save(folder / "case_1_mask.tif")  # a reference mask
    for more in ((), ("--overwrite",)):
        code, _, err, _ = predict(picture, *more)
        assert code == 2 and "did not write" in err
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [folder / "case_1_mask.tif"]


def test_a_scan_with_one_foreign_file_is_left_out_before_anything_of_it_is_written(predict, tmp_path):
    scans = [tmp_path / f"{name}.npy" for name in "abc"]
    for path in scans:
        np.save(path, np.stack([blob()[0], blob()[0]]))
    assert predict(scans[0])[0] == 0
    foreign = tmp_path / "out" / "b" / "b_2_overlay.png"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    code, _, err, folder = predict(*scans, "--overwrite")
    assert code == 1 and f"{foreign}: is there already" in err and err.count("\n") == 1
    assert list(foreign.parent.iterdir()) == [foreign] and foreign.read_text() == "mine"
    assert pd.read_csv(folder / "patients.csv")["patient"].tolist() == ["a", "c"]
    assert {path.name for path in (folder / "c").iterdir()} >= {"c_mask.npy", "c.gif", "c_1_overlay.png"}


# --- Names, and where text goes --------------------------------------------------------------------------------


NAMES = ["$x_1$", "NA", "001", "=1+1", 'a, "b"', "caf\udce9"]  # the last one is no UTF-8


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_every_kind_are_read_back_as_they_are(predict, tmp_path):
    for name in NAMES:
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(blob()[0]).save(tmp_path / "in" / name / f"{name}.png")
    code, _, err, folder = predict(tmp_path / "in")
    assert (code, err) == (0, "")
    expected = sorted([*NAMES[:-1], "caf%E9"])
    for table, columns in (("slices.csv", ["patient", "slice"]), ("patients.csv", ["patient", "largest_slice"])):
        for column in columns:
            assert sorted(read_csv(folder / table, columns)[column]) == expected
    assert all((folder / name / f"{name}_mask.png").is_file() for name in expected)


def test_tables_are_written_whatever_the_terminal_can_show(predict, tmp_path, picture, monkeypatch):
    picture = picture.rename(tmp_path / "Ω.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    monkeypatch.setattr(sys, "stderr", None)  # pythonw, or 2>&-
    code, *_, folder = predict(picture, tmp_path / "no.png")
    assert code == 1 and read_csv(folder / "slices.csv", ["slice"])["slice"].tolist() == ["Ω"]


# --- Networks --------------------------------------------------------------------------------------------------


def test_precision_is_that_of_training_where_the_hardware_has_it(predict, tmp_path, picture, monkeypatch):
    model = save(tmp_path / "run", precision="bf16")
    for has, shown in ((False, "fp32"), (True, "bf16 autocast")):
        monkeypatch.setattr("training.hardware.computes_bf16", lambda device, has=has: has)
        code, out, _, _ = predict(picture, "--overwrite", model=model)
        assert code == 0 and f"slices/s on cpu ({platform.machine()}), {shown}" in out
        assert ("note: trained in bf16" in out) is not has
    assert choose_hardware("cpu", "bf16").bf16  # what training is asked for


def save_safetensors(folder: Path, changes: dict, without: tuple[str, ...] = (), **network) -> Path:
    """Write a file whose checksum is right and whose metadata is changed; `network` is what the weights are of."""
    about = {"network": {"channels": 3, "classes": 1, "width": 2, "bilinear": False, "stem": 1} | network, "epoch": 1}
    about |= {"size": 256, **PLAIN, "threshold": 0.5, "min_component": 0, "precision": "fp32"}
    about |= {"synthetic": False, "published": True} | changes
    text = {name: json.dumps(value) for name, value in about.items() if name not in without}
    weights = UNet(**({"width": 2} | network)).state_dict()
    path = folder / "unet.safetensors"
    safetensors.torch.save_file(weights, path, text | {"sha256": weights_digest(weights, text) if changes else "0"})
    return path


NETWORK = {"channels": 3, "classes": 1, "width": 2, "bilinear": False, "stem": 1}
DEEP: list = []
for _ in range(60):
    DEEP = [DEEP, DEEP]  # as text, 2**60 brackets


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("input", "size", value) for value in (0, "256", 256.0, None)),
        *(("input", "threshold", value) for value in ("x", 1, 2.0, None)),
        *(("input", "normalisation", value) for value in ("other", 1, None)),
        *(("input", "neighbours", value) for value in (1, -1, 10**9, True, "0")),
        *(("input", name, 1) for name in ("crop", "flips")),
        *(("input", "min_component", value) for value in (-1, 0.5, 10**9)),
        *(("network", "stem", value) for value in (0, 2, 3, True, "1")),
        ("input", "precision", ["bf16"]),
        ("network", "channels", 1),
        ("network", "classes", 10**12),
        *(("network", "width", value) for value in (True, -2, 2.0, 10**12, 4096, "2", [])),
        *(("network", name, 1) for name in ("bilinear", "more")),
        ("config", "synthetic", "no"),
    ],
)
def test_a_network_of_another_kind_is_one_error(tmp_path, part, name, value):
    def refused(path: Path) -> None:
        with pytest.raises(UserError) as error:
            load_network(path)
        assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 1000

    refused(save_safetensors(tmp_path, {"network": NETWORK | {name: value}} if part == "network" else {name: value}))
    path = save(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    for spoilt in (value, DEEP, torch.zeros(2)):
        torch.save(content | {part: content[part] | {name: spoilt}}, path)
        refused(path)


def test_safetensors_without_the_metadata_of_this_project(predict, tmp_path, picture, monkeypatch):
    def refused(path: Path, message: str, hub: str) -> None:
        code, _, err, _ = predict(picture, model=path)
        assert code == 2 and message in err and err.startswith(f"error: {path}: ")
        monkeypatch.setattr(hubconf, "WEIGHTS", path)
        with pytest.raises(RuntimeError, match=hub) as error:
            hubconf.unet(pretrained=True)
        assert type(error.value) is RuntimeError

    refused(save_safetensors(tmp_path, {}), "checksum", "checksum")
    for changes in ({"network": []}, {"network": None}, {"network": NETWORK | {"width": 4096}}):
        refused(save_safetensors(tmp_path, changes), "damaged or no weights", "Restore the file")
    refused(save_safetensors(tmp_path, {"x": 1}, without=("size",)), "'size'", "'size'")
    refused(save_safetensors(tmp_path, {"size": 128}), "wrong: size", "256 pixels square")
    refused(save_safetensors(tmp_path, {"x": 1}, channels=1), "wrong: channels", "three sequences")
    path = tmp_path / "unet.safetensors"
    safetensors.torch.save_file(UNet(width=2).state_dict(), path)  # no metadata
    refused(path, "checksum", "checksum")
    path.write_bytes(b"\xff" * 8 + b"{}")
    refused(path, "damaged or no weights", "Restore the file")


def test_weights_of_another_kind_are_one_error(predict, tmp_path, picture):
    path = save(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    with torch.device("meta"):
        huge = UNet(width=4096).state_dict()
    for weights, width, message in (
        ({name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in huge.items()}, 4096,
         "claims more weights than it holds"),  # half a terabyte of one value
        ({name: tensor.double() for name, tensor in content["weights"].items()}, 2, "do not fit"),
        (content["weights"] | {"head.weight": torch.zeros(1, 2, 1, 1).to_sparse()}, 2, "do not fit"),
        (content["weights"] | {"head.weight": [1]}, 2, "do not fit"),
        ({1: 2}, 2, "do not fit"),
        (content["weights"] | {"head.bias": torch.tensor([torch.nan])}, 2, "not finite"),
    ):  # fmt: skip
        torch.save(content | {"weights": weights, "network": NETWORK | {"width": width}}, path)
        code, _, err, _ = predict(picture, model=path)
        assert code == 2 and message in err


def test_a_network_trained_on_synthetic_patients_says_so_on_every_picture(predict, tmp_path, picture):
    code, out, _, folder = predict(picture, model=save(tmp_path / "run", synthetic=True))
    assert code == 0 and "trained on SYNTHETIC patients" in out
    overlay = read_picture(folder / tmp_path.name / "scan_overlay.png")
    assert len(overlay) == 512 + 3 * 17 + 4  # area, notice, research use
