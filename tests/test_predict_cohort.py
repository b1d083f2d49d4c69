"""Prediction of whole cohorts, its doubts, and probabilities, with the network of test_predict.py."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_predict import blob, save

nibabel = pytest.importorskip("nibabel")


@pytest.fixture
def predict(call, tmp_path):
    """Run predict_model.py into tmp_path/out -> (exit code, stdout, stderr, out folder)."""
    model, out = save(tmp_path / "run"), tmp_path / "out"
    options = ("--checkpoint", model, "--out", out, "--device", "cpu")
    return lambda *arguments: (*call("predict_model", *arguments, *options), out)


def write_cohort(folder: Path) -> Path:
    """Write two patients with FLAIR, T1 and T1ce as NIfTI, of 0.5 x 0.5 x 4 mm; b has a reference mask beside it."""
    image, mask = blob()
    for patient in "ab":
        (folder / patient).mkdir(parents=True)
        volumes = dict(zip(("t1", "flair", "t1ce"), np.moveaxis(np.stack([image, image * 0]), -1, 0), strict=True))
        if patient == "b":
            volumes["seg"] = np.stack([mask * 4, mask * 0])  # BraTS: label 4
            volumes["seg"][0, 60:70] = 0  # 600 of 2,400 px
        for kind, stack in volumes.items():
            volume = nibabel.Nifti1Image(stack.swapaxes(0, 2), np.diag([-0.5, -0.5, 4, 1]))
            nibabel.save(volume, folder / patient / f"{kind}.nii.gz")
    return folder


def test_a_cohort_keeps_names_and_sources_and_is_scored_against_masks_beside_it(predict, tmp_path):
    cohort = write_cohort(tmp_path / "coh")
    code, out, err, folder = predict(cohort)
    assert (code, err) == (0, "") and "one sequence only" not in out
    assert "sequences: pre-contrast t1.nii.gz (by its name), FLAIR flair.nii.gz, post-contrast t1ce.nii.gz" in out
    table = pd.read_csv(folder / "patients.csv").set_index("patient")
    assert table["source"].to_dict() == {name: str(cohort / name / "flair.nii.gz") for name in "ab"}
    assert table["lesion_pixels"].tolist() == [2400, 2400] and table["lesion_mm3"].tolist() == [2400, 2400]
    assert np.isnan(table.loc["a", "dice"]) and table.loc["b", "reference_pixels"] == 1800
    assert table.loc["b", "dice"] == pytest.approx(2 * 1800 / (2400 + 1800), abs=1e-6)
    assert (folder / "b" / "b_mask.nii.gz").is_file() and pd.read_csv(folder / "slices.csv")["source"].nunique() == 2
    (cohort / "b" / "seg.nii.gz").write_bytes(b"no volume")
    code, out, _, folder = predict(cohort, "--overwrite")
    assert code == 0 and "not scored against the reference mask seg.nii.gz" in out
    assert "dice" not in (folder / "patients.csv").read_text()


def test_what_this_project_wrote_is_neither_input_nor_reference_until_it_is_edited(call, tmp_path):
    cohort, model = write_cohort(tmp_path / "coh"), save(tmp_path / "run")
    options = (cohort, "--checkpoint", model, "--device", "cpu", "--out")
    assert call("predict_model", *options, cohort / "masks")[0] == 0
    assert call("predict_model", *options, tmp_path / "again")[0] == 0
    table = pd.read_csv(tmp_path / "again" / "patients.csv").set_index("patient")
    assert list(table.index) == ["a", "b"] and np.isnan(table.loc["a", "dice"])
    assert (tmp_path / "again" / "patients.csv").read_text().splitlines()[2].split(",")[-4:-2] == ["1800", "1800"]
    mask = nibabel.load(cohort / "masks" / "a" / "a_mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(mask.dataobj) * 0, mask.affine), tmp_path / "edited.nii.gz")
    (tmp_path / "edited.nii.gz").replace(cohort / "masks" / "a" / "a_mask.nii.gz")
    assert call("predict_model", *options, tmp_path / "last")[0] == 0
    assert pd.read_csv(tmp_path / "last" / "patients.csv").set_index("patient").loc["a", "dice"] == 0


def test_pixels_of_another_plane_and_options_that_are_not_used_are_noted(predict, tmp_path):
    volume = nibabel.Nifti1Image(np.stack([blob()[0][..., 1]] * 2).swapaxes(0, 2), np.diag([-1, -5, 1, 1]))
    nibabel.save(volume, tmp_path / "x.nii")
    code, out, _, _ = predict(tmp_path / "x.nii", "--spacing", 1, 1, 1, "--series", "FLAIR")
    words = " ".join(out.split())
    assert code == 0 and "pixels of 5 x 1 mm, as of slices that were taken in another plane" in words
    assert "--spacing is not used: the file says it" in words and "--series is not used: no DICOM" in words


def test_spacing_counts_where_a_volume_does_not_say_its_own(predict, tmp_path):
    volume = nibabel.Nifti1Image(np.stack([blob()[0][..., 1]] * 2).swapaxes(0, 2), np.diag([-1, -1, 1, 1]))
    volume.header["sform_code"] = volume.header["qform_code"] = 0
    (tmp_path / "x.nii").write_bytes(volume.header.binaryblock + bytes(4) + np.asarray(volume.dataobj).tobytes("F"))
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[108:112] = np.float32(352).tobytes()  # vox_offset
    (tmp_path / "x.nii").write_bytes(content)
    code, out, _, folder = predict(tmp_path / "x.nii")
    assert code == 0 and "areas are in pixels only" in out
    code, _, _, folder = predict(tmp_path / "x.nii", "--spacing", 0.5, 0.5, 4, "--overwrite")
    assert code == 0 and pd.read_csv(folder / "patients.csv")["lesion_mm3"].item() == 4800


def test_a_photograph_and_a_mask_of_half_the_head_are_doubted(predict, tmp_path):
    ramp = np.linspace(0, 255, 256, dtype=np.uint8)
    photograph = np.stack(
        [ramp[None] + 0 * ramp[:, None], 0 * ramp[None] + ramp[:, None], ramp[::-1][None] + 0 * ramp[:, None]]
    )
    Image.fromarray(np.moveaxis(photograph, 0, 2)).save(tmp_path / "holiday.jpg", quality=95)
    code, out, _, _ = predict(tmp_path / "holiday.jpg")
    words = " ".join(out.split())
    assert code == 0 and "warning: this does not look like MR of one head" in words
    assert "covers more than a third of the head in 1 of 1 slices" in words
    page = np.full((256, 256, 3), 250, np.uint8)
    page[60:200, 60:200] = np.arange(140, dtype=np.uint8)[:, None]
    Image.fromarray(page).save(tmp_path / "page.png")
    assert "the corners, where MR shows air, are as bright as the rest" in " ".join(
        predict(tmp_path / "page.png", "--overwrite")[1].split()
    )
    head = np.zeros((256, 256, 3), np.uint8)
    head[40:220, 60:200] = 90
    for rows, doubted in ((50, False), (70, True)):  # of 180: a third are 60
        head[40:220, 60:200, 1] = 90
        head[40 : 40 + rows, 60:200, 1] = 220
        Image.fromarray(head).save(tmp_path / "head.png")
        code, out, _, _ = predict(tmp_path / "head.png", "--overwrite")
        assert code == 0 and "MR of one head" not in out and ("more than a third" in out) is doubted


@pytest.mark.parametrize("kind", ["png", "npy", "nii.gz"])
def test_probabilities_are_written_in_the_format_of_the_input(predict, tmp_path, kind):
    image, _ = blob()
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        Image.fromarray(image).save(path)
    elif kind == "npy":
        np.save(path, image[None])
    else:
        nibabel.save(nibabel.Nifti1Image(image[..., 1].T[..., None], np.diag([-1.0, -1, 1, 1])), path)
    code, _, err, folder = predict(path, "--probabilities")
    assert (code, err) == (0, "")
    (written,) = folder.glob(f"*/*_probability.{kind}")
    if kind == "png":
        with Image.open(written) as picture:
            found = np.asarray(picture) / 255
    elif kind == "npy":
        (found,) = np.load(written)
    else:
        found = np.asarray(nibabel.load(written).dataobj)[..., 0].T
    assert found.shape == (256, 256) and (kind == "png" or found.dtype == np.float32)
    inside, outside = found[60:100, 80:140], np.delete(found, np.s_[59:101], axis=0)
    flair = image[..., 1].astype(float)
    if kind == "nii.gz":
        assert inside.min() > 0.5 > outside.max()  # a volume is scaled by its percentiles
        return
    # The logit of this network is FLAIR from -1 to 1, from 0 on, minus 0.2
    logit = np.maximum(2 * flair / 255 - 1, 0) - 0.2
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), atol=3e-3)
