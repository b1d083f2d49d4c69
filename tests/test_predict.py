"""Prediction on one's own images, with a network whose answer is known: lesion is where FLAIR is brighter than 60%."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import blob, bright_checkpoint, done, refused, write_volume
from PIL import Image, ImageColor

from scans.read import read_picture
from scans.show import MASK_COLOR, PREDICTION_COLOR
from storage.run_folder import RunFolder
from utils import read_csv


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(blob()[0]).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def read_mask(path: Path) -> np.ndarray:
    pixels = read_picture(path)
    assert pixels.dtype == np.uint8 and set(np.unique(pixels)) <= {0, 255}
    return pixels // 255


# --- Masks, overlays and tables --------------------------------------------------------------------------------


def test_a_picture_of_the_networks_size_is_mapped_back_to_the_pixel(predict, picture):
    code, out, err, folder = predict(picture)
    assert (code, err) == (0, "") and "1 of 1 slices with lesion, 2,400 px" in out
    assert np.array_equal(read_mask(folder / picture.parent.name / "scan_mask.png"), blob()[1])
    assert f"scan,256,256,2400,,,,,,{picture}\n" in (folder / "slices.csv").read_text()  # no mm²


def test_a_patient_folder_gives_tables_with_volumes_and_one_sheet_with_both_outlines(predict, tmp_path):
    patient = tmp_path / "SYNTH_P_1"
    patient.mkdir()
    for number, rows in ((10, 10), (9, 9), (8, 2)):
        image, mask = blob(60 + rows)
        Image.fromarray(image).save(patient / f"SYNTH_P_1_{number}.tif")
        reference = np.roll(mask, 20, 0) if number == 8 else mask
        Image.fromarray(reference * 255).save(patient / f"SYNTH_P_1_{number}_mask.tif")
    code, out, err, folder = predict(patient, "--spacing", 0.5, 0.5, 4)
    assert (code, err) == (0, "") and "1,260 px = 1.3 ml; Dice 0.905 with the reference mask of 1,260 px" in out
    table = pd.read_csv(folder / "slices.csv")
    assert table["slice"].tolist() == [f"SYNTH_P_1_{n}" for n in (8, 9, 10)]  # the masks are not taken for images
    assert table["lesion_pixels"].tolist() == [120, 540, 600] and table["lesion_mm2"].tolist() == [30, 135, 150]
    (row,) = pd.read_csv(folder / "patients.csv").to_dict("records")
    assert (row["origin"], row["largest_slice"], row["source"]) == ("network", "SYNTH_P_1_10", str(patient))
    written = {path.name.removeprefix("SYNTH_P_1_") for path in (folder / "SYNTH_P_1").iterdir()}
    assert written == {*(f"{n}_mask.tif" for n in (8, 9, 10)), "mask.json", "overlay.png", "report.html"}
    sheet = read_picture(folder / "SYNTH_P_1" / "SYNTH_P_1_overlay.png")
    for color in (PREDICTION_COLOR, MASK_COLOR):
        assert (sheet == ImageColor.getrgb(color)).all(2).any()


def test_probabilities_are_written_in_the_form_of_the_input(predict, tmp_path):
    """The logit of this network is FLAIR from -1 to 1, from 0 on, minus 0.2."""
    np.save(tmp_path / "a.npy", image := blob()[0][None])
    assert predict(tmp_path / "a.npy", "--probabilities")[0] == 0
    logit = np.maximum(2.0 * image[..., 1] / 255 - 1, 0) - 0.2
    found = np.load(tmp_path / "out" / "a" / "a_probability.npy")
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), atol=3e-3)


# --- Cohorts and what goes wrong -------------------------------------------------------------------------------


def write_cohort(folder: Path) -> Path:
    """Write two patients with FLAIR, T1 and T1ce as NIfTI, of 0.5 x 0.5 x 4 mm; b has a reference mask beside it."""
    image, mask = blob()
    for patient in "ab":
        volumes = dict(zip(("t1", "flair", "t1ce"), np.moveaxis(np.stack([image, image * 0]), -1, 0), strict=True))
        if patient == "b":
            volumes["seg"] = np.stack([mask * 4, mask * 0])  # BraTS: label 4
            volumes["seg"][0, 60:70] = 0  # 600 of 2,400 px
        for kind, stack in volumes.items():
            write_volume(folder / patient / f"{kind}.nii.gz", stack, (0.5, 0.5, 4))
    return folder


def test_a_cohort_is_scored_against_masks_beside_it_and_its_own_output_is_not_read(predict, call, tmp_path):
    cohort = write_cohort(tmp_path / "coh")
    options = ("--checkpoint", bright_checkpoint(tmp_path / "run"), "--out", cohort / "masks", "--device", "cpu")
    assert call("predict_model", cohort, *options)[0] == 0
    code, _, err, folder = predict(cohort)
    assert (code, err) == (0, "")
    table = pd.read_csv(folder / "patients.csv").set_index("patient")
    assert table["source"].to_dict() == {name: str(cohort / name / "flair.nii.gz") for name in "ab"}
    assert table["lesion_pixels"].tolist() == [2400, 2400] and table["lesion_mm3"].tolist() == [2400, 2400]
    assert np.isnan(table.loc["a", "dice"]) and table.loc["b", "reference_pixels"] == 1800
    assert table.loc["b", "dice"] == pytest.approx(2 * 1800 / (2400 + 1800), abs=1e-6)
    assert (folder / "b" / "b_mask.nii.gz").is_file() and pd.read_csv(folder / "slices.csv")["source"].nunique() == 2
    (cohort / "b" / "seg.nii.gz").write_bytes(b"no volume")
    code, out, _, folder = predict(cohort, "--overwrite")
    assert code == 0 and "not scored against the reference mask seg.nii.gz" in out
    assert pd.read_csv(folder / "patients.csv")["dice"].isna().all()


def test_a_table_is_written_edited_and_taken_and_lies_beside_the_masks(predict, call, tmp_path):
    cohort, table = write_cohort(tmp_path / "coh"), tmp_path / "cohort.csv"
    write_volume(cohort / "b" / "t1_second.nii.gz", np.zeros((2, 8, 8), np.uint8))
    assert "  a: FLAIR flair.nii.gz, pre-contrast t1.nii.gz" in done(call("predict_model", cohort, "--list", table))
    assert call("predict_model", cohort, "--list", table)[0] == 2  # edits are not lost
    rows = read_csv(table, [])
    rows.loc[1, ["patient", "post", "pre"]] = ["renamed", "", "coh/b/t1_second.nii.gz"]
    rows.to_csv(table, index=False)
    code, out, err, folder = predict(table)
    assert code == 1 and "its head and that of FLAIR overlap by 0% only" in err  # FLAIR is segmented all the same
    assert "note: pre-contrast is not used" in out and "one sequence only" in out
    assert pd.read_csv(folder / "patients.csv")["patient"].tolist() == ["a", "renamed"]
    assert read_csv(folder / "cohort.csv", [])["flair"].tolist() == [str(cohort / f"{n}/flair.nii.gz") for n in "ab"]


def test_what_holds_for_several_patients_is_printed_once(predict, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "coh" / name).mkdir(parents=True)
        stack = rng.integers(0, 900, (2, 40, 40)).astype(np.int16)
        np.save(tmp_path / "coh" / name / "flair.npy", stack if name != "c" else stack > 450)
    code, out, err, folder = predict(tmp_path / "coh")
    assert code == 1 and len(err.splitlines()) == 1 and "c/flair.npy: cannot be read: holds only 0, 1: a mask" in err
    assert out.count("note: intensities scaled to 8 bits") == 1 and "(a and 1 more)" in out
    assert all("intensities scaled" in note for note in read_csv(folder / "cohort.csv", [])["notes"][:2])
    assert out.count("one sequence only") == 1 and "warning: 2 of 2 scans: one sequence only" in out
    assert "2 of 2 scans: one sequence only" in (folder / "report.html").read_text(encoding="utf-8")
    assert out.splitlines()[-1].startswith("2 scans: 2 with lesion, 2 to check, 0 corrected")  # noise


def test_one_bad_file_does_not_stop_the_others(predict, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    deep = np.zeros((64, 48), np.uint16)
    deep[10:20, 10:20] = 4000
    Image.fromarray(deep).save(case / "deep.tif")
    Image.fromarray(deep[:32] * 0).save(case / "empty.png")  # of another size
    (case / "cut.png").write_bytes((case / "empty.png").read_bytes()[:50])
    (tmp_path / "words.npy").write_bytes(b"no array")
    code, _, err, folder = predict(case, tmp_path / "words.npy", tmp_path / "no.png")
    named = [line.split(": ")[1] for line in err.splitlines()]
    assert code == 1 and named == [str(tmp_path / "no.png"), str(case / "cut.png"), str(tmp_path / "words.npy")]
    assert pd.read_csv(folder / "slices.csv")["slice"].tolist() == ["deep", "empty"]
    assert np.array_equal(read_mask(folder / "case" / "deep_mask.tif"), deep // 4000)
    empty = read_mask(folder / "case" / "empty_mask.png")
    assert empty.shape == (32, 48) and not empty.any()


def test_an_earlier_prediction_is_replaced_only_if_asked_and_no_masks_of_two_lie_side_by_side(predict, tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.stack([blob()[0], blob()[0]]))
    assert predict(tmp_path / "a.npy", tmp_path / "b.npy", "--probabilities")[0] == 0
    code, _, err, folder = predict(tmp_path / "a.npy")
    assert code == 2 and "out: holds masks of b, who is not named now." in err
    (folder / "b" / "mine.txt").touch()
    assert predict(tmp_path / "a.npy", "--overwrite")[0] == 0
    assert [path.name for path in (folder / "b").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in (folder / "a").glob("*.npy")) == ["a_mask.npy"]  # no probabilities
    assert pd.read_csv(folder / "patients.csv")["patient"].tolist() == ["a"]


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_folder_of_the_user_is_never_written_to(predict, tmp_path, picture, more):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    refused(predict(picture, *more), "is not empty, and holds no earlier prediction")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_every_kind_are_read_back_whatever_the_terminal_can_show(predict, tmp_path, monkeypatch):
    names = ["$x_1$", "NA", "001", "=1+1", 'a, "b"', "Ω", "caf\udce9"]  # the last one is no UTF-8
    for name in names:
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(blob()[0]).save(tmp_path / "in" / name / f"{name}.png")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)  # pythonw, or 2>&-
    code, *_, folder = predict(tmp_path / "in")
    expected = sorted([*names[:-1], "caf%E9"])
    for table, column in (("slices.csv", "slice"), ("patients.csv", "largest_slice")):
        rows = read_csv(folder / table, ["patient", column])
        assert code == 0 and sorted(rows["patient"]) == sorted(rows[column]) == expected
    assert all((folder / name / f"{name}_mask.png").is_file() for name in expected)


def test_what_options_and_headers_say_of_the_spacing(predict, tmp_path):
    stack = np.stack([blob()[0][..., 1]] * 2)
    out = done(predict(write_volume(tmp_path / "x.nii", stack, (1, 5, 1)), "--spacing", 1, 1, 1))
    assert "pixels of 5 x 1 mm, as of slices taken in another plane, are made square" in out
    assert "--spacing is not used: the file says it" in out
    np.save(tmp_path / "x.npy", stack)
    assert "areas are in pixels only" in predict(tmp_path / "x.npy", "--overwrite")[1]
    code, _, _, folder = predict(tmp_path / "x.npy", "--spacing", 0.5, 0.5, 4, "--overwrite")
    assert code == 0 and pd.read_csv(folder / "patients.csv")["lesion_mm3"].item() == 4800


# --- Networks --------------------------------------------------------------------------------------------------


def test_the_network_of_a_run_is_the_one_that_was_chosen(call, tmp_path, picture, monkeypatch):
    """FLAIR is 220 in 2,400 pixels: the logit is 0.525, the probability 0.628; see bright_network."""
    bright_checkpoint(tmp_path / "run", precision="bf16")
    run, out = RunFolder(tmp_path / "run"), tmp_path / "out"
    monkeypatch.setattr("constants.WEIGHTS", run.checkpoint(1))
    chosen = dict(epoch=1, epochs=1, selected_by="loss", tuned={"patients": 2}, threshold=0.6, min_component=2401)
    tested = "(as tested), the lowest validation loss; threshold 0.6, components below 2401 px"
    for metrics, options, pixels, words in (
        (None, ("--run", run), 2400, f"epoch 1 of {run} (not tested)"),
        (chosen, ("--run", run), 0, tested),
        (chosen | {"min_component": 0}, ("--run", run), 2400, "threshold 0.6"),
        (chosen | {"min_component": 0}, ("--run", run, "--threshold", 0.65), 0, "threshold 0.65 instead"),
        (chosen, (), 2400, "epoch_1.pt (they come with the project): epoch 1; threshold 0.5"),
    ):
        if metrics:
            run.write("metrics.json", json.dumps(metrics).encode())
        code, said, err = call("predict_model", picture, *options, "--out", out, "--overwrite", "--device", "cpu")
        assert (code, err) == (0, "") and words in said and "fp32" in said  # whatever it was trained in
        assert pd.read_csv(out / "slices.csv")["lesion_pixels"].sum() == pixels
    both = ("--run", run, "--checkpoint", run.checkpoint(1))
    refused(call("predict_model", picture, "--out", out, *both), "not allowed with argument --run")


def test_a_network_trained_on_synthetic_patients_says_so(predict, tmp_path, picture):
    code, out, _, folder = predict(picture, model=bright_checkpoint(tmp_path / "run", synthetic=True))
    for text in (out, (folder / "report.html").read_text(encoding="utf-8")):
        assert code == 0 and "trained on SYNTHETIC patients" in text
