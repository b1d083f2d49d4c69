"""Prediction on one's own images, with a network whose answer is known: lesion is where FLAIR is brighter than 60%."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_checkpoint
from PIL import Image

from scans import overlays
from scans.pictures import read_picture
from storage.run_folder import RunFolder
from unet import UNet


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
    config = {"settings": {"width": 2, "bilinear": False, "precision": precision}, "synthetic": synthetic}
    metrics = {"training_loss": 0.1, "training_iou": 0.5, "validation_loss": 0.1, "validation_iou": 0.5}
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
    assert "scan,256,256,2400,,\n" in (folder / "slices.csv").read_text()  # no area in mm² without a spacing


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
        "patient,slices,lesion_slices,lesion_pixels,lesion_mm3,largest_slice",
        "SYNTH_P_1,3,3,1260,1260.000000,SYNTH_P_1_10",
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
    mask = np.asarray(nibabel.load(folder / "flair" / "flair_mask.nii.gz").dataobj)
    assert mask.sum() == mask[9:21, 11:23, 2].sum() == pytest.approx(100, abs=20)
    assert pd.read_csv(folder / "patients.csv")["lesion_mm3"].item() == mask.sum()
    code, _, err, _ = predict(flair, "--pre", tmp_path / "no.nii", "--overwrite")
    assert code == 2 and "no.nii: no such file" in err
    code, _, err, _ = predict(flair, pre, "--post", post, "--overwrite")
    assert code == 2 and "belong to one INPUT" in err


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


def test_files_are_not_overwritten_unless_asked(predict, tmp_path, picture):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    code, _, err, folder = predict(picture)
    assert code == 2 and "did not write" in err and [p.name for p in folder.iterdir()] == ["mine.txt"]
    assert predict(picture, "--overwrite")[0] == 0 and (folder / "mine.txt").read_text() == "kept"


def test_a_network_trained_on_synthetic_patients_says_so_on_every_picture(predict, tmp_path, picture):
    code, out, _, folder = predict(picture, model=save(tmp_path / "run", synthetic=True))
    assert code == 0 and "trained on SYNTHETIC patients" in out
    overlay = read_picture(folder / tmp_path.name / "scan_overlay.png")
    assert len(overlay) == 512 + 3 * 17 + 4  # area, notice, research use


def test_a_checkpoint_of_another_preparation(predict, tmp_path, picture):
    path = save(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    content["input"]["mean"] = [0.4, 0.4, 0.4]
    torch.save(content, path)
    code, _, err, _ = predict(picture, model=path)
    assert code == 2 and "prepared as" in err
