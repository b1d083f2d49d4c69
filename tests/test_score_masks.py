"""Masks of any origin are scored as those of a network are: to the last digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from conftest import EPOCH, blob, box, bright_network, make_patients, save_checkpoint, write_volume
from PIL import Image

from dataset.folder import find_slices
from dataset.slices import read_mask
from storage.run_folder import TEST_TABLES, RunFolder
from training.recipe import Recipe

UNMEASURED = {"split", "epoch", "epochs", "selected_by", "loss", "command", "commit", "threshold", "min_component",
              "tuned", "brier", "ece", "calibration", "intervals", "masks", "reference", "notes",
              "quality"}  # fmt: skip


@pytest.fixture
def score(call, tmp_path, unreported):
    """Run score_masks.py into tmp_path/scores -> (exit code, stdout, stderr, the result)."""

    def run(*arguments) -> tuple[int, str, str, RunFolder]:
        out = tmp_path / "scores"
        return *call("score_masks", *arguments, "--out", out, "--overwrite"), RunFolder(out)

    return run


def stacks(folder: Path) -> dict[str, np.ndarray]:
    """Return the reference masks of a data folder by patient, uint8 [S, H, W]."""
    rows = find_slices(folder)
    return {p: np.stack([read_mask(folder / path) for path in own["mask_path"]]) for p, own in rows.groupby("patient")}


def write_pictures(folder: Path, masks: dict[str, np.ndarray], form: str = "{}_{}_mask.png", bright: int = 255) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for patient, stack in masks.items():
        for number, mask in enumerate(stack, start=1):
            Image.fromarray(mask * np.uint8(bright)).save(folder / form.format(patient, number))
    return folder


def write_volumes(folder: Path, masks: dict[str, np.ndarray], ending: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for patient, stack in masks.items():
        path = folder / f"{patient}{ending}"
        path.parent.mkdir(exist_ok=True)
        np.save(path, stack) if ending.endswith(".npy") else write_volume(path, stack)
    return folder


def write_run(path: Path, folder: Path) -> RunFolder:
    """Write a run whose network marks what is bright in FLAIR, and whose test patients are three of the folder's."""
    rows = find_slices(folder)
    test = rows[rows["patient"] > "SYNTH_T_1"].reset_index(drop=True)
    settings = {**vars(Recipe(width=2)), "precision": "fp32", "seed": 1}
    about = {"synthetic": True, "data": str(folder), "hardware": "cpu", "versions": {"torch": "2"}}
    config = {"settings": settings, "patients": {"train": 1}, **about}
    run = RunFolder(path)
    run.begin(config, {"train": rows[:3], "validation": rows[3:6], "test": test})
    save_checkpoint(run, bright_network(), EPOCH, config)
    return run


def test_a_runs_own_masks_score_the_same_both_ways(call, undrawn, folder, tmp_path):
    run, scored = write_run(tmp_path / "run", folder), RunFolder(tmp_path / "scores")
    assert call("test_model", "--run", run, "--device", "cpu")[0] == 0
    code, out, err = call("score_masks", run, "--data", folder, "--out", scored)
    assert (code, err) == (0, "") and "SYNTHETIC" in out and "Brier" not in out
    tested, found = run.read_metrics(), scored.read_metrics()
    assert 0.1 < found["patient_dice"] < 1 and found["patients"] == 3 and "brier" not in found
    assert {k: v for k, v in found.items() if k not in UNMEASURED} == {
        k: v for k, v in tested.items() if k not in UNMEASURED
    }
    assert all(found["intervals"].get(k) == v for k, v in tested["intervals"].items() if k != "brier")
    for name, table in run.read_test_tables().items():
        measured = [column for column in table if column not in ("head_pixels", "brier")]
        pd.testing.assert_frame_equal(scored.read_test_tables()[name][measured], table[measured], check_exact=True)
    assert np.array_equal(scored.read_predictions(), run.read_predictions())
    page = (scored.path / "report.html").read_text(encoding="utf-8")
    assert "<dt>Masks</dt>" in page and "<dt>Command</dt>" in page and f"score_masks.py {run}" in page
    assert 'id="calibration"' not in page and "Loss, mean" not in page and "Brier" not in page


def test_a_cross_validation_is_scored_as_its_folds_are(score, folder, tmp_path):
    """Each fold has tested one patient: one misses the first slice of three, the other nothing."""
    cv, rows, references = RunFolder(tmp_path / "cv"), find_slices(folder), stacks(folder)
    cv.write("metrics.json", {"folds": [{"fold": 1}, {"fold": 2}]})
    for number, patient in ((1, "SYNTH_T_3"), (2, "SYNTH_T_0")):
        masks = references[patient].copy()
        masks[0] *= np.uint8(number == 1)
        fold = RunFolder(cv.path / f"fold_{number}")
        table = rows[rows["patient"] == patient].assign(institution="", slice=range(1, 4))
        table["predicted_pixels"] = masks.sum((1, 2))
        fold.write_test(dict.fromkeys(TEST_TABLES, table[::-1]), {}, masks[::-1])  # the last slice first
    code, _, err, scored = score(cv, "--data", folder)
    assert (code, err) == (0, "")
    first, *others = (int(mask.sum()) for mask in references["SYNTH_T_0"])
    dice = scored.read_test_table("patients").set_index("patient")["dice"].to_dict()
    assert dice == pytest.approx({"SYNTH_T_0": 2 * sum(others) / (first + 2 * sum(others)), "SYNTH_T_3": 1}, abs=1e-6)
    fold.write("test_results.csv", table)  # sorted by a spreadsheet, unlike the masks
    code, _, err, _ = score(cv, "--data", folder)
    assert code == 2 and "fold_2: test_results.csv was sorted or changed since the test" in err


@pytest.mark.parametrize("form", ["slice_{}", "P_{}"])
def test_pictures_are_scored_as_predict_model_wrote_them(predict, score, tmp_path, form):
    """Slices 9 and 10, whose masks sort the other way by their letters; and no spacing."""
    image, mask = blob()
    folder = tmp_path / "scans" / "P"
    folder.mkdir(parents=True)
    for number, marked in ((9, 0), (10, 1)):
        Image.fromarray(image * np.uint8(marked)).save(folder / f"{form.format(number)}.png")
        Image.fromarray(mask * np.uint8(255 * marked)).save(folder / f"{form.format(number)}_mask.png")
    masks = predict(tmp_path / "scans")[3]
    code, out, err, scored = score(masks, "--scans", tmp_path / "scans")
    assert (code, err) == (0, "") and "in pixels alone, since the spacing of P is unknown" in out
    assert scored.read_test_table("patients")[["patient", "dice"]].to_numpy().tolist() == [["P", 1]]


def test_a_volume_beside_pictures_is_not_passed_over_in_silence(score, folder, tmp_path):
    masks = write_pictures(tmp_path / "masks", stacks(folder))
    write_volumes(masks, {"SYNTH_T_2": stacks(folder)["SYNTH_T_2"]}, ".nii.gz")
    code, out, err, _ = score(masks, "--data", folder)
    assert (code, err) == (0, "") and f"no masks in {masks}, as others are called so: SYNTH_T_2.nii.gz" in out
    (masks / "SYNTH_T_2.nii.gz").rename(masks / "SYNTH_T_2_mask.nii.gz")
    code, _, err, _ = score(masks, "--data", folder)
    assert code == 2 and "SYNTH_T_2_1_mask.png: SYNTH_T_2_mask.nii.gz holds masks of the patient, too. Remove" in err


@pytest.mark.parametrize("write", [
    lambda folder, masks: write_pictures(folder, masks),
    lambda folder, masks: write_pictures(folder, masks, "{}_{}.tif", bright=1),  # nnU-Net's label of slices
    lambda folder, masks: write_volumes(folder, masks, ".nii.gz"),
    lambda folder, masks: write_volumes(folder, masks, "_mask.seg.nrrd"),  # of a mask that 3D Slicer had opened
    lambda folder, masks: write_volumes(folder, masks, "/Segmentation.seg.nrrd"),
    lambda folder, masks: write_volumes(folder, masks, ".npy"),
])  # fmt: skip
def test_masks_in_every_form_are_compared_pixel_by_pixel(score, folder, tmp_path, write):
    references = stacks(folder)
    masks = {patient: stack.copy() for patient, stack in references.items()}
    whole, other = references["SYNTH_T_1"].sum(), references["SYNTH_T_2"].sum()
    masks["SYNTH_T_1"][0] = 0
    left = masks["SYNTH_T_1"].sum()
    masks["SYNTH_T_2"][1, :5, :8] = 1  # 40 px where nothing is
    code, _, err, scored = score(write(tmp_path / "masks", masks), "--data", folder)
    assert (code, err) == (0, "") and 0 < left < whole
    dice = scored.read_test_tables()["patients"].set_index("patient")["dice"]
    assert dice.to_dict() == pytest.approx(
        {"SYNTH_T_0": 1, "SYNTH_T_1": 2 * left / (left + whole), "SYNTH_T_2": 2 * other / (2 * other + 40),
         "SYNTH_T_3": 1, "SYNTH_T_4": 1}, abs=1e-6
    )  # fmt: skip
    slices = scored.read_test_tables()["slices"].set_index(["patient", "slice"])
    assert slices.loc[("SYNTH_T_1", 1), "false_negative"] == whole - left
    assert slices.loc[("SYNTH_T_2", 2), "false_positive"] == 40


def test_two_readers_are_measured_against_each_other(score, call, tmp_path):
    """In volumes of different sizes, and without any image."""
    a = {"p": np.stack([box((2, 2, 8, 8), size=20)] * 3), "q": np.stack([box((5, 5, 10, 10), size=32)[:24]] * 2)}
    b = {"p": np.stack([box((2, 2, 8, 4), size=20)] * 3), "q": a["q"]}
    first, second = write_volumes(tmp_path / "a", a, ".nii.gz"), write_volumes(tmp_path / "b", {"q": b["q"]}, ".npy")
    turned = sitk.DICOMOrient(sitk.GetImageFromArray(b["p"]), "RAS")  # rows and columns in the other order
    sitk.WriteImage(turned, str(second / "p.nii.gz"))
    code, _, err, scored = score(second, "--reference", first)
    assert (code, err) == (0, "")
    table = scored.read_test_tables()["patients"].set_index("patient")
    assert table["dice"].to_dict() == pytest.approx({"p": 2 * 96 / (96 + 192), "q": 1}, abs=1e-6)
    assert table["sequences"].tolist() == ["unknown", "unknown"] and table["slices"].tolist() == [3, 2]
    assert call("compare_runs", scored, scored)[0] == 0
    turned.SetOrigin((*turned.GetOrigin()[:2], 3))
    sitk.WriteImage(turned, str(second / "p.nii.gz"))
    code, _, err, _ = score(second, "--reference", first)
    assert code == 2 and "p lies elsewhere in space than its reference" in err


@pytest.mark.parametrize("with_data", [True, False])
def test_a_slice_of_which_a_reader_saved_no_file_is_empty_in_both_directions(score, tmp_path, with_data):
    """A marks 4,000 px in slices 1 and 2; B the same, and 6,000 px in 3 others: 2 * 4000 / (4000 + 10000)."""
    data = make_patients(tmp_path / "kaggle_3m", patients=1, slices=8)
    marks = np.pad(np.full((100, 20), 255, np.uint8), ((0, 156), (0, 236)))
    for reader, numbers in (("a", (1, 2)), ("b", (1, 2, 4, 5, 7))):
        (tmp_path / reader).mkdir()
        for n in numbers:
            Image.fromarray(marks).save(tmp_path / reader / f"SYNTH_T_0_{n}_mask.png")
    for predicted, reference in (("b", "a"), ("a", "b")):
        more = ("--data", data) if with_data else ()
        code, out, err, scored = score(tmp_path / predicted, "--reference", tmp_path / reference, *more)
        assert (code, err) == (0, "") and "Counted as empty" in out and "SYNTH_T_0 (slices" in out
        table = scored.read_test_tables()["patients"]
        assert table["dice"].item() == pytest.approx(2 * 4000 / 14000, abs=1e-6)
        assert table["slices"].item() == (8 if with_data else 5)


# --- What is missing or does not fit ---------------------------------------------------------------------------


def test_missing_patients_and_slices_are_named_and_refused_or_count_as_empty(score, folder, tmp_path):
    masks = stacks(folder)
    del masks["SYNTH_T_4"]
    pictures = write_pictures(tmp_path / "masks", masks)
    for number in (1, 3):
        (pictures / f"SYNTH_T_1_{number}_mask.png").unlink()
    code, _, err, scored = score(pictures, "--data", folder)
    assert code == 2 and "no mask of SYNTH_T_1 (slices 1, 3), SYNTH_T_4. Add" in err and "--missing-as-empty" in err
    assert not scored.path.exists()
    code, out, err, scored = score(pictures, "--data", folder, "--missing-as-empty")
    assert (code, err) == (0, "") and "Counted as empty" in out
    dice = scored.read_test_tables()["patients"]["dice"].tolist()
    assert dice == [1, 0, 1, 1, 0] and "SYNTH_T_1 (slices 1, 3), SYNTH_T_4" in scored.read_metrics()["notes"][0]
    (tmp_path / "list.txt").write_text("SYNTH_T_0\nSYNTH_T_3\n")
    code, _, err, scored = score(pictures, "--data", folder, "--patients", tmp_path / "list.txt")
    assert (code, err) == (0, "") and scored.read_metrics()["patients"] == 2


def test_what_does_not_fit_is_one_error_that_names_it(score, folder, tmp_path):
    masks = stacks(folder)

    def refused(wrong: dict[str, np.ndarray], message: str) -> None:
        source = write_volumes(tmp_path / message[:9].replace(" ", ""), masks | wrong, ".npy")
        code, _, err, _ = score(source, "--data", folder)
        assert code == 2 and message in err and "Traceback" not in err

    refused({"SYNTH_T_2": masks["SYNTH_T_2"][:2]}, "SYNTH_T_2 has 2 masks, but 3 slices")
    refused({"SYNTH_T_2": masks["SYNTH_T_2"][:, 9:]}, "has masks of 256x247 pixels, but 256x256 are needed")
    refused({"typo": masks["SYNTH_T_2"]}, "typo: no such patient in the reference")
    refused({"SYNTH_T_2": masks["SYNTH_T_2"] * 77 + 3}, "a mask with the values 3, 80. Save it with 0 and one")
    write_pictures(tmp_path / "beyond", {"SYNTH_T_2": np.zeros((4, 256, 256), np.uint8)})
    code, _, err, _ = score(tmp_path / "beyond", "--data", folder)
    assert code == 2 and "SYNTH_T_2, slices 4: no such slices in the data, which has 1 to 3. Renumber or" in err
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").mkdir()
    for name in ("SYNTH_T_2.nii.gz", "SYNTH_T_3"):
        (tmp_path / "gone" / name).symlink_to(tmp_path / "never fetched")
    code, _, err, _ = score(tmp_path / "gone", "--data", folder)
    assert code == 2 and "SYNTH_T_3: cannot be opened" in err and "SYNTH_T_2.nii.gz: cannot be read" in err
    for source, message in ((tmp_path / "empty", "holds no masks"), (tmp_path / "no", "no such file or folder")):
        code, _, err, _ = score(source, "--data", folder)
        assert code == 2 and message in err
    assert score(tmp_path / "empty")[0] == 2  # no reference


def test_a_run_is_never_overwritten_and_a_result_only_if_asked(call, unreported, folder, tmp_path):
    run = write_run(tmp_path / "run", folder)
    masks = write_volumes(tmp_path / "masks", stacks(folder), ".npy")
    code, _, err = call("score_masks", masks, "--data", folder, "--out", run, "--overwrite")
    assert code == 2 and "holds a run. Name another folder" in err and run.checkpoints()
    assert call("score_masks", masks, "--data", folder, "--out", tmp_path / "s")[0] == 0
    code, _, err = call("score_masks", masks, "--data", folder, "--out", tmp_path / "s")
    assert code == 2 and "is not empty. Name another folder with --out, or add --overwrite" in err
    (tmp_path / "s" / "mine.txt").write_text("kept")
    RunFolder(tmp_path / "s").write("plots/bland_altman.png", b"of an earlier result with more patients")
    assert call("score_masks", masks, "--data", folder, "--out", tmp_path / "s", "--overwrite")[0] == 0
    assert (tmp_path / "s" / "mine.txt").read_text() == "kept"
    assert not (tmp_path / "s" / "plots" / "bland_altman.png").exists()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_masks_are_scored_over_their_own_scans_in_mm(call, undrawn, tmp_path, elsewhere):
    """Two scans of two sizes; masks as predict_model.py writes them; references beside the scans, or in a folder."""
    for name, side in (("a", 64), ("b", 48)):
        flair = np.random.default_rng(0).integers(0, 90, (4, side, side), dtype=np.uint8)
        reference, predicted = (np.zeros((4, side, side), np.uint8) for _ in range(2))
        reference[1:3, 20:30, 20:30] = 1
        predicted[1:3, 20:30, 24:34] = 1  # 2 mm aside
        write_volume(tmp_path / "scans" / name / f"{name}_flair.nii.gz", flair, (0.5, 0.5, 4))
        where = tmp_path / "readers" if elsewhere else tmp_path / "scans" / name
        write_volume(where / f"{name}_seg.nii.gz", reference, (0.5, 0.5, 4))
        write_volume(tmp_path / "masks" / name / f"{name}_mask.nii.gz", predicted, (0.5, 0.5, 4))
        Image.fromarray(flair[0]).save(tmp_path / "masks" / name / f"{name}_overlay.png")
    more = ("--reference", tmp_path / "readers") if elsewhere else ()
    arguments = (tmp_path / "masks", "--scans", tmp_path / "scans", *more, "--out", tmp_path / "scores")
    code, text, err = call("score_masks", *arguments)
    assert (code, err) == (0, "") and "HD95, mm" in text
    run = RunFolder(tmp_path / "scores")
    patients = run.read_test_tables()["patients"]
    assert patients["dice"].tolist() == [0.6, 0.6] and patients["hd95_mm"].tolist() == [2, 2]
    assert patients["surface_dice_2mm"].tolist() == [1, 1]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert '"millimetres":0.5' in page and "There are no millimetres" not in page
    left_out = (tmp_path / "masks" / "b").rename(tmp_path / "b")  # of a patient whom the program has not segmented
    code, _, err = call("score_masks", *arguments, "--overwrite")
    assert code == 2 and "no mask of b. Add what is missing" in err
    assert call("score_masks", *arguments, "--overwrite", "--missing-as-empty")[0] == 0
    assert run.read_test_tables()["patients"]["dice"].tolist() == [0.6, 0]
    left_out.rename(tmp_path / "masks" / "b")
    (tmp_path / "scans" / "b" / "b_flair.nii.gz").unlink()
    code, _, err = call("score_masks", *arguments, "--overwrite")
    assert code == 2 and "no scan of b" in err
