"""Prediction on one's own images, with a network whose answer is known: lesion is where FLAIR is brighter than 60%."""

import io
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_checkpoint
from PIL import Image

from scans import scan as scans
from scans.scan import overlays
from unet import UNet


def bright_network() -> UNet:
    """A U-Net with weights set by hand: FLAIR passes the first level, and the logit is FLAIR - 0.2 (of -1..1)."""
    model = UNet(width=2)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        first, last = model.down[0], model.up[-1].convolve
        for block, channel in ((first, 1), (last, 0)):
            block[0].weight[0, channel, 1, 1] = 1
            block[3].weight[0, 0, 1, 1] = 1
            block[1].weight[0] = block[4].weight[0] = 1  # of the batch norms
        model.head.weight[0, 0] = 1
        model.head.bias[0] = -0.2
    return model


def save(folder: Path, synthetic: bool = False) -> Path:
    config = {"settings": {"width": 2, "bilinear": False}, "synthetic": synthetic}
    figures = {"training_loss": 0.1, "training_iou": 0.5, "validation_loss": 0.1, "validation_iou": 0.5}
    return save_checkpoint(folder, 1, bright_network(), figures, config)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models"))


@pytest.fixture
def predict(call, tmp_path, checkpoint):
    """Run predict_model.py into tmp_path/out -> (exit code, stdout, stderr, out folder)."""

    def run(*arguments, model: Path = checkpoint) -> tuple[int, str, str, Path]:
        out = tmp_path / "out"
        return *call("predict_model", *arguments, "--checkpoint", model, "--out", out, "--device", "cpu"), out

    return run


def blob(height: int = 256, width: int = 256, box=(60, 100, 80, 140)) -> tuple[np.ndarray, np.ndarray]:
    """A dark slice (uint8 [H, W, 3]) whose FLAIR is bright in a box (top, bottom, left, right), and that mask."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    image[mask > 0, 1] = 220
    return image, mask


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) <= {0, 255}
    return (pixels > 0).astype(np.uint8)


# --- Pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_a_picture_of_the_networks_size_is_mapped_back_to_the_pixel(predict, tmp_path, ending):
    image, mask = blob()
    Image.fromarray(image).save(tmp_path / f"scan{ending}")
    code, out, err, folder = predict(tmp_path / f"scan{ending}")
    assert (code, err) == (0, "") and "1 of 1 slices with lesion, 2,400 px" in out and "slices/s" in out
    case = folder / tmp_path.name
    assert np.array_equal(read_mask(case / f"scan_mask{'.tif' if ending == '.tif' else '.png'}"), mask)
    with Image.open(case / "scan_overlay.png") as overlay:
        pixels = np.asarray(overlay)
    assert pixels.shape[:2] == (512 + 38, 512) and not list(case.glob("*.gif"))
    outline = (pixels == overlays.COLOR).all(2)
    rows, columns = np.nonzero(outline)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (120, 199, 160, 279)  # twice the box, its rim
    table = pd.read_csv(folder / "slices.csv")
    assert table["lesion_pixels"].tolist() == [2400] and table["lesion_mm2"].isna().all()


@pytest.mark.parametrize(("height", "width"), [(512, 512), (512, 320), (300, 1024), (100, 64), (256, 17), (1, 1)])
def test_any_size_comes_back_where_it_was(predict, tmp_path, height, width):
    box = (height // 4, height // 2, width // 4, width // 2)
    image, mask = blob(height, width, box)
    np.save(tmp_path / "scan.npy", image)
    code, _, err, folder = predict(tmp_path / "scan.npy")
    assert (code, err) == (0, "")
    found = np.load(folder / "scan" / "scan_mask.npy")[0]
    assert found.shape == mask.shape and found.dtype == np.uint8
    if height * width > 1000:
        rim = max(1, round(max(height, width) / 256))  # resizing may move an edge by the share of one network pixel
        wrong = np.argwhere(found != mask)
        edges = [min(abs(r - e) for e in (*box[:2], box[0] - 1, box[1] - 1)) <= rim
                 or min(abs(c - e) for e in (*box[2:], box[2] - 1, box[3] - 1)) <= rim for r, c in wrong]  # fmt: skip
        assert all(edges) and int(found.sum()) == pytest.approx(int(mask.sum()), rel=0.12)


def test_fit_and_unfit_are_inverse_in_place():
    for height, width in ((256, 256), (200, 256), (256, 131), (512, 512), (384, 512)):
        logits = np.zeros((height, width, 3), np.float32)
        logits[height // 2 :: 2, ::2] = 1  # blocks of 2x2 after doubling: resampling by 2 is exact on their centres
        image = (logits * 255).astype(np.uint8)
        if max(height, width) == 256:
            assert np.array_equal(
                scans.unfit(scans.fit(image, 256)[..., 0].astype(np.float32), height, width), image[..., 0]
            )
        else:
            blocks = np.kron(image[::2, ::2, 0], np.ones((2, 2), np.uint8))
            back = scans.unfit(
                scans.fit(np.repeat(blocks[..., None], 3, 2), 256)[..., 0].astype(np.float32), height, width
            )
            assert np.array_equal(back > 127.5, blocks > 127.5)
    assert not scans.fit(np.full((100, 256, 3), 255, np.uint8), 256)[:78].any()  # black above


def test_a_patient_folder_in_the_order_of_its_numbers_with_animation(predict, tmp_path):
    patient = tmp_path / "SYNTH_P_1"
    patient.mkdir()
    for number in (10, 9, 2):
        image, mask = blob(box=(60, 60 + number, 80, 90))
        Image.fromarray(image).save(patient / f"SYNTH_P_1_{number}.tif")
        Image.fromarray(mask * 255).save(patient / f"SYNTH_P_1_{number}_mask.tif")
    (patient / "notes.txt").write_text("")
    code, _, err, folder = predict(patient, "--spacing", 0.5, 0.5, 4)
    assert (code, err) == (0, "")
    table = pd.read_csv(folder / "slices.csv")
    assert table["slice"].tolist() == [f"SYNTH_P_1_{n}" for n in (2, 9, 10)]  # the masks are not taken for images
    assert table["lesion_pixels"].tolist() == [20, 90, 100] and table["lesion_mm2"].tolist() == [5, 22.5, 25]
    patients = pd.read_csv(folder / "patients.csv")
    assert patients.iloc[0].to_dict() == {
        "patient": "SYNTH_P_1",
        "slices": 3,
        "lesion_slices": 3,
        "lesion_pixels": 210,
        "lesion_mm3": 210.0,
        "largest_slice": "SYNTH_P_1_10",
    }
    with Image.open(folder / "SYNTH_P_1" / "SYNTH_P_1.gif") as gif:
        assert gif.n_frames == 3 and gif.width == 512 and gif.info["loop"] == 0
        gif.seek(2)
        pixels = np.asarray(gif.convert("RGB"))
    outline = (pixels == overlays.COLOR).all(2)
    assert outline[60, 256 + 80 : 256 + 90].all() and not outline[:, :256].any()


def test_a_folder_of_patient_folders_is_one_case_each(predict, tmp_path):
    for patient in ("b", "a"):
        (tmp_path / "all" / patient).mkdir(parents=True)
        Image.fromarray(blob()[0]).save(tmp_path / "all" / patient / "1.png")
    np.save(tmp_path / "a.npy", blob()[0])  # a third case of the same name
    code, _, _, folder = predict(tmp_path / "all", tmp_path / "a.npy")
    assert code == 0 and pd.read_csv(folder / "patients.csv")["patient"].tolist() == ["a", "b", "a_2"]
    assert (folder / "a_2" / "a_2_mask.npy").is_file()


def test_one_channel_is_accepted_with_a_warning(predict, tmp_path):
    image, mask = blob()
    Image.fromarray(np.ascontiguousarray(image[..., 1])).save(tmp_path / "grey.png")
    code, out, _, folder = predict(tmp_path / "grey.png")
    assert code == 0 and "warning: one sequence only" in out
    assert np.array_equal(read_mask(folder / tmp_path.name / "grey_mask.png"), mask)


@pytest.mark.parametrize("kind", ["png", "tif", "npy", "float"])
def test_sixteen_bits_are_scaled_by_percentiles_with_a_note(predict, tmp_path, kind):
    image, mask = blob(box=(60, 160, 80, 180))
    deep = image[..., 1].astype(np.uint16) * 14 + 100  # as of a 12-bit scanner
    path = tmp_path / f"deep.{'npy' if kind in ('npy', 'float') else kind}"
    if kind == "npy":
        np.save(path, deep)
    elif kind == "float":
        np.save(path, np.where(np.arange(256) == 3, np.nan, deep / 4000.0))
    else:
        Image.fromarray(deep).save(path)
    code, out, _, folder = predict(path)
    assert code == 0 and "note: intensities scaled to 8 bits" in out and "percentiles 0.5 and 99.5" in out
    assert ("256 values that are not finite count as 0" in out) == (kind == "float")
    case = folder / ("deep" if path.suffix == ".npy" else tmp_path.name)
    found = np.load(case / "deep_mask.npy")[0] if path.suffix == ".npy" else read_mask(case / f"deep_mask.{kind}")
    assert np.array_equal(found, mask)


def test_a_stack_is_scaled_as_a_whole_so_that_dark_slices_stay_dark(predict, tmp_path):
    stack = np.zeros((3, 64, 64), np.uint16)
    stack[0] = 50  # faint noise of an empty slice: scaled by itself it would be as bright as a lesion
    stack[2, 10:40, 10:40] = 3000
    np.save(tmp_path / "stack.npy", stack)
    code, _, _, folder = predict(tmp_path / "stack.npy")
    masks = np.load(folder / "stack" / "stack_mask.npy")
    assert code == 0 and not masks[:2].any() and masks[2].sum() == pytest.approx(900, rel=0.1)


def test_a_stack_of_almost_nothing_and_one_of_nothing(predict, tmp_path):
    stack = np.zeros((2, 64, 64), np.float32)
    np.save(tmp_path / "nothing.npy", stack)
    stack[1, 20:24, 20:24] = 1e30  # fewer pixels than the percentiles leave out
    np.save(tmp_path / "almost.npy", stack)
    code, _, err, folder = predict(tmp_path / "nothing.npy", tmp_path / "almost.npy")
    assert (code, err) == (0, "") and not np.load(folder / "nothing" / "nothing_mask.npy").any()
    found = np.load(folder / "almost" / "almost_mask.npy")
    assert not found[0].any() and found[1, 21:23, 21:23].all() and found.sum() < 36


def test_a_stack_without_a_finite_value_is_no_finding(predict, tmp_path):
    np.save(tmp_path / "nan.npy", np.full((2, 32, 32), np.nan, np.float32))
    code, out, err, folder = predict(tmp_path / "nan.npy")
    assert code == 2 and "nan.npy: holds no finite value" in err and "lesion" not in out and not folder.exists()


def test_pictures_of_eight_and_of_more_bits_together(predict, tmp_path):
    image, mask = blob()
    case = tmp_path / "case"
    case.mkdir()
    Image.fromarray(image).save(case / "1.png")
    Image.fromarray(image[..., 1].astype(np.uint16) * 200).save(case / "2.png")
    Image.fromarray(image[..., 1]).save(case / "2.tif")
    code, _, err, folder = predict(case)
    assert (code, err) == (0, "")
    for name in ("1_mask.png", "2.png_mask.png", "2.tif_mask.tif"):  # what has one name but for its ending keeps that
        assert np.array_equal(read_mask(folder / "case" / name), mask)


def test_a_dark_stack_can_be_seen(predict, tmp_path):
    image, _ = blob()
    case = tmp_path / "dark"
    case.mkdir()
    for number, picture in enumerate((image // 8, image[:100] // 16), 1):  # of two sizes
        Image.fromarray(picture).save(case / f"{number}.png")
    code, _, _, folder = predict(case)
    assert code == 0
    brightest = [np.asarray(Image.open(folder / "dark" / f"{n}_overlay.png"))[:180].max() for n in (1, 2)]
    assert brightest[0] == 255 and brightest[1] == pytest.approx(128, abs=8)  # one scale for the stack


# --- Arrays and NIfTI ------------------------------------------------------------------------------------------


def test_arrays_of_every_shape(predict, tmp_path):
    image, mask = blob()
    for shape, array in {
        "hw": image[..., 1],
        "hw3": image,
        "shw": np.stack([image[..., 1]] * 4),
        "shw3": image[None],
    }.items():
        np.save(tmp_path / f"{shape}.npy", array)
    names = ("hw", "hw3", "shw", "shw3")
    code, _, err, folder = predict(*(tmp_path / f"{name}.npy" for name in names))
    assert (code, err) == (0, "")
    for name, slices in zip(names, (1, 1, 4, 1), strict=True):
        found = np.load(folder / name / f"{name}_mask.npy")
        assert np.array_equal(found, np.stack([mask] * slices))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_nifti_comes_back_in_its_own_axes_with_its_affine(predict, tmp_path, axes):
    nibabel = pytest.importorskip("nibabel")
    voxels = np.zeros((40, 48, 6), np.int16)  # right, front, up
    voxels[8:20, 30:42, 1:4] = 900  # right of the midline, in front: the upper left of the picture
    plain = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.5, 5.0, 1.0]) @ np.diag([-1, -1, 1, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    volume = plain.as_reoriented(turn)
    assert nibabel.aff2axcodes(volume.affine) == tuple(axes)
    nibabel.save(volume, tmp_path / "scan.nii.gz")
    code, out, err, folder = predict(tmp_path / "scan.nii.gz")
    assert (code, err) == (0, "") and "one sequence only" in out and "scaled to 8 bits" in out

    mask = nibabel.load(folder / "scan" / "scan_mask.nii.gz")
    assert np.array_equal(mask.affine, volume.affine) and mask.shape == volume.shape
    assert mask.get_data_dtype() == np.uint8 and mask.header.get_slope_inter() == (None, None)
    found, truth = np.asarray(mask.dataobj) > 0, np.asarray(volume.dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97
    table = pd.read_csv(folder / "slices.csv")
    assert (
        len(table) == 6
        and (table["height"] == 48).all()
        and (table["lesion_pixels"] > 0).tolist() == [0, 1, 1, 1, 0, 0]
    )
    assert table["lesion_mm2"].tolist() == pytest.approx((table["lesion_pixels"] * 1.5).tolist())
    assert table["lesion_mm3"].sum() == pytest.approx(found.sum() * 7.5)


def test_nifti_slices_look_as_radiologists_expect(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    voxels = np.zeros((10, 12, 3), np.uint8)
    voxels[8, 11, 2] = 255  # far to the right, in front, on top
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii")
    scan, problems = scans.read_scan(scans.Source("scan", (tmp_path / "scan.nii",)))
    assert problems == [] and len(scan.slices) == 3 and scan.slices[2].shape == (12, 10, 3)
    assert np.argwhere(scan.slices[2][..., 1]).tolist() == [[0, 1]]  # the patient's right is on the left, front on top


def test_three_sequences_from_three_files(predict, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(3)
    sequences = {name: rng.integers(0, 90, (32, 32, 4), dtype=np.uint8) for name in ("t1", "flair", "t1c")}
    sequences["flair"][10:20, 12:22, 2] = 250
    for name, voxels in sequences.items():
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    t1, flair, t1c = (tmp_path / f"{name}.nii.gz" for name in sequences)
    code, out, err, folder = predict(flair, "--pre", t1, "--post", t1c)
    assert (code, err) == (0, "") and "one sequence only" not in out
    assert np.asarray(nibabel.load(folder / "flair" / "flair_mask.nii.gz").dataobj).sum() == pytest.approx(100, abs=20)

    parts = [scans.read_scan(scans.Source("x", (path,)))[0] for path in (flair, t1, t1c)]
    whole = scans.combine(*parts)
    turned = np.stack([sequences[name] for name in ("t1", "flair", "t1c")], -1)[::-1, ::-1].transpose(2, 1, 0, 3)
    assert np.array_equal(np.stack(whole.slices), turned)

    nibabel.save(nibabel.Nifti1Image(sequences["t1"], np.diag([2, 2, 2, 1])), t1)
    code, _, err, _ = predict(flair, "--pre", t1, "--overwrite")
    assert code == 2 and "lies elsewhere in space" in err
    nibabel.save(nibabel.Nifti1Image(sequences["t1"][:, :, 1:], np.eye(4)), t1)
    code, _, err, _ = predict(flair, "--pre", t1, "--overwrite")
    assert code == 2 and "3 slices of 32x32" in err and "has 4 slices of 32x32" in err
    code, _, err, _ = predict(flair, t1c, "--pre", t1, "--overwrite")
    assert code == 2 and "belong to one INPUT" in err


# --- Mistakes, and images that mean harm -----------------------------------------------------------------------


def bomb(path: Path) -> None:
    """A PNG of a few hundred bytes that says it is 60000 x 60000."""
    with io.BytesIO() as small:
        Image.new("L", (1, 1)).save(small, format="PNG")
        content = bytearray(small.getvalue())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def test_one_bad_file_does_not_stop_the_others(predict, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    image, mask = blob()
    Image.fromarray(image).save(case / "good_1.png")
    Image.fromarray(image).save(case / "good_2.png")
    bomb(case / "bomb.png")
    (case / "text.png").write_text("<svg onload=alert(1)>")
    (case / "cut.png").write_bytes((case / "good_1.png").read_bytes()[:2000])
    (case / "empty.png").write_bytes(b"")
    Image.fromarray(image).save(case / "gif.png", format="GIF")  # a format that is not on the list
    Image.new("CMYK", (9, 9)).save(case / "ink.tif")
    Image.fromarray(image).save(case / "pages.tif", save_all=True, append_images=[Image.fromarray(image)])
    np.save(tmp_path / "object.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    np.save(tmp_path / "shape.npy", np.zeros((2, 3, 4, 5, 6)))
    (tmp_path / "words.npy").write_bytes(b"no array")
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b no volume")
    given = [tmp_path / name for name in ("object.npy", "shape.npy", "words.npy", "report.pdf", "bad.nii.gz", "no.png")]
    code, out, err, folder = predict(case, *given)
    assert code == 1 and "Traceback" not in out + err
    assert pd.read_csv(folder / "slices.csv")["slice"].tolist() == ["good_1", "good_2"]
    assert np.array_equal(read_mask(folder / "case" / "good_2_mask.png"), mask)
    lines = err.splitlines()
    expected = {
        "bomb.png": "more than 16,777,216 pixels",
        "text.png": "is no BMP, JPEG, PNG, TIFF file",
        "cut.png": "damaged",
        "empty.png": "is no BMP",
        "gif.png": "is no BMP",
        "ink.tif": "pixel format CMYK",
        "pages.tif": "has 2 pages",
        "object.npy": "cannot be read as a NumPy array",
        "shape.npy": "has the shape (2, 3, 4, 5, 6)",
        "words.npy": "cannot be read as a NumPy array",
        "report.pdf": "is none of the formats",
        "bad.nii.gz": "nii.gz",
        "no.png": "no such file or folder",
    }
    for name, message in expected.items():
        about = [line for line in lines if f"/{name}: " in line]
        assert len(about) == 1 and about[0].startswith("error: ") and message in about[0], (name, err)
    assert len(lines) == len(expected)


def test_an_array_that_says_it_is_huge_is_not_read(predict, tmp_path):
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (4096, 4096, 4096)}
        )
        file.truncate(file.tell() + 4096**3 * 8)  # sparse: takes no space
    code, _, err, folder = predict(tmp_path / "huge.npy")
    assert code == 2 and "68,719,476,736 values" in err and not folder.exists()


def test_sixteen_bit_colours_are_refused_rather_than_cut(tmp_path):
    deep = np.full((8, 8, 4), 4000, np.uint16)
    for name, channels in (("deep.png", 3), ("deep.tif", 3), ("clear.png", 4)):
        assert cv2.imwrite(str(tmp_path / name), deep[..., :channels])
        with pytest.raises(ValueError, match=r"more than 8 bits|pixel format|damaged"):
            scans.read_picture(tmp_path / name)


def test_nothing_is_unpickled(predict, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npy", "w") as archive:  # np.load would open a zip, and pickles in it, by content
        archive.writestr("x.npy", b"")
    code, _, err, folder = predict(tmp_path / "x.npy")
    assert code == 2 and "x.npy" in err and "Traceback" not in err and not folder.exists()


@pytest.mark.filterwarnings("ignore")  # of the libraries, about damaged headers
@pytest.mark.parametrize("ending", [".npy", ".nii", ".nii.gz", "2.nii"])
def test_damaged_arrays_and_volumes_are_one_error_each(tmp_path, ending):
    path, rng = tmp_path / f"x{ending}", np.random.default_rng(0)
    voxels = rng.integers(0, 9, (4, 5, 6), dtype=np.int16)
    if ending == ".npy":
        np.save(path, voxels)
    else:
        nibabel = pytest.importorskip("nibabel")
        kind = nibabel.Nifti2Image if ending == "2.nii" else nibabel.Nifti1Image
        nibabel.save(kind(voxels, np.eye(4)), path)
    content, refused = path.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(content)
        for at in rng.integers(0, min(len(broken), 350), 3):
            broken[at] = rng.integers(0, 256)
        path.write_bytes(broken)
        scan, problems = scans.read_scan(scans.Source("x", (path,)))
        assert (scan is None) == (len(problems) == 1)
        refused += scan is None
    assert refused > 10


def test_a_header_of_python_brackets_is_one_error(predict, tmp_path):
    Image.fromarray(blob()[0]).save(tmp_path / "good.png")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * 3000 + b"}\n"
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    code, _, err, folder = predict(tmp_path / "bad.npy", tmp_path / "good.png")
    assert code == 1 and err.count("error:") == 1 and "bad.npy: cannot be read" in err
    assert len(pd.read_csv(folder / "slices.csv")) == 1


def test_small_files_that_would_fill_the_memory_are_refused(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((1, 1, 32767), np.uint8), np.eye(4)), path)
    assert "has 32,767 slices" in scans.read_scan(scans.Source("x", (path,)))[1][0]

    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    for place, kind, value, message in (
        (108, "<f", 2.0**31, "2,147,483,648 bytes before its voxels"),
        (352, "<i", 2**30, "extension of its header"),
    ):
        broken = bytearray(path.read_bytes())
        struct.pack_into("<f", broken, 108, 400)
        broken[348] = 1
        struct.pack_into(kind, broken, place, value)
        (tmp_path / "y.nii").write_bytes(broken)
        assert message in scans.read_scan(scans.Source("y", (tmp_path / "y.nii",)))[1][0]


def test_spacing_in_the_units_of_the_header(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.diag([1000, 2000, 3000, 1]))
    volume.header.set_xyzt_units("micron")
    nibabel.save(volume, tmp_path / "x.nii")
    assert scans.read_scan(scans.Source("x", (tmp_path / "x.nii",)))[0].spacing == pytest.approx((2, 1, 3))


def test_a_grey_picture_among_colours_is_noted_and_patients_beside_pictures_are_read(predict, tmp_path):
    image, mask = blob()
    (tmp_path / "all" / "patient").mkdir(parents=True)
    Image.fromarray(image).save(tmp_path / "all" / "1.png")
    Image.fromarray(image[..., 1]).save(tmp_path / "all" / "2.png")
    Image.fromarray(image).save(tmp_path / "all" / "patient" / "1.png")
    code, out, err, folder = predict(tmp_path / "all")
    assert (code, err) == (0, "") and "1 of 2 slices hold one sequence only" in out
    assert np.array_equal(read_mask(folder / "patient" / "1_mask.png"), mask)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_links_and_pipes(predict, tmp_path):
    (tmp_path / "case").mkdir()
    os.mkfifo(tmp_path / "case" / "pipe.png")  # opening it would wait for ever
    (tmp_path / "case" / "loop.png").symlink_to("loop.png")
    code, _, err, _ = predict(tmp_path / "case")
    assert code == 2 and "holds nothing that can be read" in err


def test_without_nibabel(predict, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "x.nii").write_bytes(b"")
    code, _, err, _ = predict(tmp_path / "x.nii")
    assert code == 2 and "pip install nibabel" in err


def test_what_is_there_is_not_overwritten(predict, tmp_path):
    Image.fromarray(blob()[0]).save(tmp_path / "scan.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    code, _, err, folder = predict(tmp_path / "scan.png")
    assert code == 2 and "holds files already" in err and [p.name for p in folder.iterdir()] == ["mine.txt"]
    assert predict(tmp_path / "scan.png", "--overwrite")[0] == 0 and (folder / "mine.txt").read_text() == "kept"


def test_a_network_trained_on_synthetic_patients_says_so_on_every_picture(predict, tmp_path):
    Image.fromarray(blob()[0]).save(tmp_path / "scan.png")
    code, out, _, folder = predict(tmp_path / "scan.png", model=save(tmp_path / "models", synthetic=True))
    assert code == 0 and "trained on SYNTHETIC patients" in out
    with Image.open(folder / tmp_path.name / "scan_overlay.png") as picture:
        assert picture.height == 512 + 3 * 17 + 4  # area, notice, research use


def test_a_checkpoint_of_another_preparation_or_none(predict, tmp_path):
    Image.fromarray(blob()[0]).save(tmp_path / "scan.png")
    code, _, err, _ = predict(tmp_path / "scan.png", model=tmp_path / "no.pt")
    assert code == 2 and "no.pt: no such file" in err
    path = save(tmp_path / "models")
    content = torch.load(path, weights_only=True)
    content["input"]["mean"] = [0.4, 0.4, 0.4]
    torch.save(content, path)
    code, _, err, _ = predict(tmp_path / "scan.png", model=path)
    assert code == 2 and "prepared as" in err


def test_help_shows_an_example_and_the_purpose(predict):
    code, out, _, _ = predict("--help")
    assert code == 0 and "python predict_model.py flair.nii.gz" in out and "not a medical device" in out
