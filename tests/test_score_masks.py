"""Masks of any origin are scored as those of a network are: to the last digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from conftest import EPOCH, blob, box, bright_network, done, make_patients, refused, save_checkpoint, write_volume
from PIL import Image

from dataset.folder import find_slices
from dataset.slices import read_mask
from storage.run_folder import TEST_TABLES, RunFolder
from training.recipe import Recipe

UNMEASURED = {"split", "epoch", "epochs", "selected_by", "loss", "command", "commit", "threshold", "min_component",
              "tuned", "brier", "ece", "calibration", "intervals", "masks", "reference", "notes",
              "quality"}  # fmt: skip


@pytest.fixture
def scored(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "scores")


@pytest.fixture
def score(call, scored, unreported):
    """Run score_masks.py into the folder `scored` -> (exit code, stdout, stderr)."""
    return lambda *arguments: call("score_masks", *arguments, "--out", scored, "--overwrite")


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


def test_a_runs_own_masks_score_the_same_both_ways(call, undrawn, scored, folder, tmp_path):
    run = write_run(tmp_path / "run", folder)
    assert call("test_model", "--run", run, "--device", "cpu")[0] == 0
    out = done(call("score_masks", run, "--data", folder, "--out", scored))
    assert "SYNTHETIC" in out and "Brier" not in out
    tested, found = run.read_metrics(), scored.read_metrics()
    assert 0.1 < found["patient_dice"] < 1 and found["patients"] == 3 and "brier" not in found
    one, other = ({k: v for k, v in each.items() if k not in UNMEASURED} for each in (tested, found))
    assert one == other
    assert all(found["intervals"].get(k) == v for k, v in tested["intervals"].items() if k != "brier")
    for name, table in run.read_test_tables().items():
        measured = [column for column in table if column not in ("head_pixels", "brier")]
        pd.testing.assert_frame_equal(scored.read_test_tables()[name][measured], table[measured], check_exact=True)
    assert np.array_equal(scored.read_predictions(), run.read_predictions())
    page = (scored.path / "report.html").read_text(encoding="utf-8")
    assert "<dt>Masks</dt>" in page and "<dt>Command</dt>" in page and f"score_masks.py {run}" in page
    assert 'id="calibration"' not in page and "Loss, mean" not in page and "Brier" not in page


def test_a_cross_validation_is_scored_as_its_folds_are(score, scored, folder, tmp_path):
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
    done(score(cv, "--data", folder))
    first, *others = (int(mask.sum()) for mask in references["SYNTH_T_0"])
    dice = scored.read_test_table("patients").set_index("patient")["dice"].to_dict()
    assert dice == pytest.approx({"SYNTH_T_0": 2 * sum(others) / (first + 2 * sum(others)), "SYNTH_T_3": 1}, abs=1e-6)
    fold.write("test_results.csv", table)  # sorted by a spreadsheet, unlike the masks
    refused(score(cv, "--data", folder), "fold_2: test_results.csv was sorted or changed since the test")


@pytest.mark.parametrize("form", ["slice_{}", "P_{}"])
def test_pictures_are_scored_as_predict_model_wrote_them(predict, score, scored, tmp_path, form):
    """Slices 9 and 10, whose masks sort the other way by their letters; and no spacing."""
    image, mask = blob()
    folder = tmp_path / "scans" / "P"
    folder.mkdir(parents=True)
    for number, marked in ((9, 0), (10, 1)):
        Image.fromarray(image * np.uint8(marked)).save(folder / f"{form.format(number)}.png")
        Image.fromarray(mask * np.uint8(255 * marked)).save(folder / f"{form.format(number)}_mask.png")
    masks = predict(tmp_path / "scans")[3]
    said = "in pixels alone, since the spacing of P is unknown"
    assert said in done(score(masks, "--scans", tmp_path / "scans"))
    assert scored.read_test_table("patients")[["patient", "dice"]].to_numpy().tolist() == [["P", 1]]
    (masks / "P" / f"{form.format(9)}_mask.png").unlink()
    words = "no mask of P (slices 9). Add what is missing" if form == "P_{}" else "P has 1 mask, but 2 slices"
    refused(score(masks, "--scans", tmp_path / "scans", "--overwrite"), words)


def test_a_volume_beside_pictures_is_not_passed_over_in_silence(score, folder, tmp_path):
    masks = write_pictures(tmp_path / "masks", stacks(folder))
    write_volumes(masks, {"SYNTH_T_2": stacks(folder)["SYNTH_T_2"]}, ".nii.gz")
    out = done(score(masks, "--data", folder))
    assert f"no masks in {masks}, as others are called so: SYNTH_T_2.nii.gz" in out
    (masks / "SYNTH_T_2.nii.gz").rename(masks / "SYNTH_T_2_mask.nii.gz")
    both = "SYNTH_T_2_1_mask.png: SYNTH_T_2_mask.nii.gz holds masks of the patient, too. Remove"
    refused(score(masks, "--data", folder), both)


@pytest.mark.parametrize("write", [
    lambda folder, masks: write_pictures(folder, masks),
    lambda folder, masks: write_pictures(folder, masks, "{}_{}.tif", bright=1),  # nnU-Net's label of slices
    lambda folder, masks: write_volumes(folder, masks, ".nii.gz"),
    lambda folder, masks: write_volumes(folder, masks, "_mask.seg.nrrd"),  # of a mask that 3D Slicer had opened
    lambda folder, masks: write_volumes(folder, masks, "/Segmentation.seg.nrrd"),
    lambda folder, masks: write_volumes(folder, masks, ".npy"),
])  # fmt: skip
def test_masks_in_every_form_are_compared_pixel_by_pixel(score, scored, folder, tmp_path, write):
    references = stacks(folder)
    masks = {patient: stack.copy() for patient, stack in references.items()}
    whole, other = references["SYNTH_T_1"].sum(), references["SYNTH_T_2"].sum()
    masks["SYNTH_T_1"][0] = 0
    left = masks["SYNTH_T_1"].sum()
    masks["SYNTH_T_2"][1, :5, :8] = 1  # 40 px where nothing is
    assert 0 < left < whole
    done(score(write(tmp_path / "masks", masks), "--data", folder))
    dice = scored.read_test_tables()["patients"].set_index("patient")["dice"]
    assert dice.to_dict() == pytest.approx(
        {"SYNTH_T_0": 1, "SYNTH_T_1": 2 * left / (left + whole), "SYNTH_T_2": 2 * other / (2 * other + 40),
         "SYNTH_T_3": 1, "SYNTH_T_4": 1}, abs=1e-6
    )  # fmt: skip
    slices = scored.read_test_tables()["slices"].set_index(["patient", "slice"])
    assert slices.loc[("SYNTH_T_1", 1), "false_negative"] == whole - left
    assert slices.loc[("SYNTH_T_2", 2), "false_positive"] == 40


def test_two_readers_are_measured_against_each_other(score, scored, call, tmp_path):
    """In volumes of different sizes, and without any image."""
    a = {"p": np.stack([box((2, 2, 8, 8), size=20)] * 3), "q": np.stack([box((5, 5, 10, 10), size=32)[:24]] * 2)}
    b = {"p": np.stack([box((2, 2, 8, 4), size=20)] * 3), "q": a["q"]}
    first, second = write_volumes(tmp_path / "a", a, ".nii.gz"), write_volumes(tmp_path / "b", {"q": b["q"]}, ".npy")
    turned = sitk.DICOMOrient(sitk.GetImageFromArray(b["p"]), "RAS")  # rows and columns in the other order
    sitk.WriteImage(turned, str(second / "p.nii.gz"))
    done(score(second, "--reference", first))
    table = scored.read_test_tables()["patients"].set_index("patient")
    assert table["dice"].to_dict() == pytest.approx({"p": 2 * 96 / (96 + 192), "q": 1}, abs=1e-6)
    assert table["sequences"].tolist() == ["unknown", "unknown"] and table["slices"].tolist() == [3, 2]
    assert call("compare_runs", scored, scored)[0] == 0
    turned.SetOrigin((*turned.GetOrigin()[:2], 3))
    sitk.WriteImage(turned, str(second / "p.nii.gz"))
    refused(score(second, "--reference", first), "p lies elsewhere in space than its reference")


@pytest.mark.parametrize("with_data", [True, False])
def test_a_slice_of_which_a_reader_saved_no_file_is_empty_in_both_directions(score, scored, tmp_path, with_data):
    """A marks 4,000 px in slices 1 and 2; B the same, and 6,000 px in 3 others: 2 * 4000 / (4000 + 10000)."""
    data = make_patients(tmp_path / "kaggle_3m", patients=1, slices=8)
    marks = np.pad(np.full((100, 20), 255, np.uint8), ((0, 156), (0, 236)))
    for reader, numbers in (("a", (1, 2)), ("b", (1, 2, 4, 5, 7))):
        (tmp_path / reader).mkdir()
        for n in numbers:
            Image.fromarray(marks).save(tmp_path / reader / f"SYNTH_T_0_{n}_mask.png")
    for predicted, reference in (("b", "a"), ("a", "b")):
        more = ("--data", data) if with_data else ()
        out = done(score(tmp_path / predicted, "--reference", tmp_path / reference, *more))
        assert "Counted as empty" in out and "SYNTH_T_0 (slices" in out
        table = scored.read_test_tables()["patients"]
        assert table["dice"].item() == pytest.approx(2 * 4000 / 14000, abs=1e-6)
        assert table["slices"].item() == (8 if with_data else 5)


# --- What is missing or does not fit ---------------------------------------------------------------------------


def test_missing_patients_and_slices_are_named_and_refused_or_count_as_empty(score, scored, folder, tmp_path):
    masks = stacks(folder)
    del masks["SYNTH_T_4"]
    pictures = write_pictures(tmp_path / "masks", masks)
    for number in (1, 3):
        (pictures / f"SYNTH_T_1_{number}_mask.png").unlink()
    missing = "no mask of SYNTH_T_1 (slices 1, 3), SYNTH_T_4. Add"
    refused(score(pictures, "--data", folder), missing, "--missing-as-empty")
    assert not scored.path.exists()
    assert "Counted as empty" in done(score(pictures, "--data", folder, "--missing-as-empty"))
    dice = scored.read_test_tables()["patients"]["dice"].tolist()
    assert dice == [1, 0, 1, 1, 0] and "SYNTH_T_1 (slices 1, 3), SYNTH_T_4" in scored.read_metrics()["notes"][0]
    (tmp_path / "list.txt").write_text("SYNTH_T_0\nSYNTH_T_3\n")
    done(score(pictures, "--data", folder, "--patients", tmp_path / "list.txt"))
    assert scored.read_metrics()["patients"] == 2


def test_what_does_not_fit_is_one_error_that_names_it(score, folder, tmp_path):
    masks = stacks(folder)
    for number, (name, wrong, message) in enumerate((
        ("SYNTH_T_2", masks["SYNTH_T_2"][:2], "SYNTH_T_2 has 2 masks, but 3 slices"),
        ("SYNTH_T_2", masks["SYNTH_T_2"][:, 9:], "has masks of 256x247 pixels, but 256x256 are needed"),
        ("typo", masks["SYNTH_T_2"], "typo: no such patient in the reference"),
        ("SYNTH_T_2", masks["SYNTH_T_2"] * 77 + 3, "a mask with the values 3, 80. Save it with 0 and one"),
    )):  # fmt: skip
        refused(score(write_volumes(tmp_path / f"{number}", masks | {name: wrong}, ".npy"), "--data", folder), message)
    beyond = write_pictures(tmp_path / "beyond", {"SYNTH_T_2": np.zeros((4, 256, 256), np.uint8)})
    no_such = "SYNTH_T_2, slices 4: no such slices in the data, which has 1 to 3. Renumber or"
    refused(score(beyond, "--data", folder), no_such)
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").mkdir()
    for name in ("SYNTH_T_2.nii.gz", "SYNTH_T_3"):
        (tmp_path / "gone" / name).symlink_to(tmp_path / "never fetched")
    unread = ("SYNTH_T_3: cannot be opened", "SYNTH_T_2.nii.gz: cannot be read")
    refused(score(tmp_path / "gone", "--data", folder), *unread)
    refused(score(tmp_path / "empty", "--data", folder), "holds no masks")
    refused(score(tmp_path / "no", "--data", folder), "no such file or folder")
    refused(score(tmp_path / "empty"))  # no reference


def test_a_run_is_never_overwritten_and_a_result_only_if_asked(call, unreported, scored, folder, tmp_path):
    run = write_run(tmp_path / "run", folder)
    again = ("score_masks", write_volumes(tmp_path / "masks", stacks(folder), ".npy"), "--data", folder, "--out")
    refused(call(*again, run, "--overwrite"), "holds a run. Name another folder")
    assert run.checkpoints() and call(*again, scored)[0] == 0
    refused(call(*again, scored), "is not empty. Name another folder with --out, or add --overwrite")
    scored.write("mine.txt", b"kept")
    scored.write("plots/bland_altman.png", b"of an earlier result with more patients")
    assert call(*again, scored, "--overwrite")[0] == 0 and (scored.path / "mine.txt").read_text() == "kept"
    assert not (scored.path / "plots" / "bland_altman.png").exists()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_masks_are_scored_over_their_own_scans_in_mm(call, undrawn, scored, tmp_path, elsewhere):
    """Two scans of two sizes; masks as predict_model.py writes them; references beside the scans, or in a folder."""
    for name, side in (("a", 64), ("b", 48)):
        flair = np.random.default_rng(0).integers(0, 90, (4, side, side), dtype=np.uint8)
        reference, predicted = (np.zeros((4, side, side), np.uint8) for _ in range(2))
        reference[1:3, 20:30, 20:30] = 1
        predicted[1:3, 20:30, 24:34] = 1  # 2 mm aside
        write_volume(tmp_path / "scans" / name / f"{name}_flair.nii.gz", flair, (0.5, 0.5, 4))
        where = tmp_path / "readers" if elsewhere else tmp_path / "scans" / name
        write_volume(where / f"{name}_seg.nii.gz", reference, (0.5, 0.5, 4))
        cut, origin = (np.s_[1:, 15:40, 18:48], (9, 7.5, 4)) if name == "b" else (..., (0, 0, 0))  # as 3D Slicer saves
        write_volume(tmp_path / "masks" / name / f"{name}_mask.nii.gz", predicted[cut], (0.5, 0.5, 4), origin)
        Image.fromarray(flair[0]).save(tmp_path / "masks" / name / f"{name}_overlay.png")
    more = ("--reference", tmp_path / "readers") if elsewhere else ()
    arguments = ("score_masks", tmp_path / "masks", "--scans", tmp_path / "scans", *more, "--out", scored)
    assert "HD95, mm" in done(call(*arguments))
    patients = scored.read_test_tables()["patients"]
    assert patients["dice"].tolist() == [0.6, 0.6] and patients["hd95_mm"].tolist() == [2, 2]
    assert patients["surface_dice_2mm"].tolist() == [1, 1]
    page = (scored.path / "report.html").read_text(encoding="utf-8")
    assert '"millimetres":0.5' in page and "There are no millimetres" not in page
    left_out = (tmp_path / "masks" / "b").rename(tmp_path / "b")  # of a patient whom the program has not segmented
    refused(call(*arguments, "--overwrite"), "no mask of b. Add what is missing")
    assert call(*arguments, "--overwrite", "--missing-as-empty")[0] == 0
    assert scored.read_test_tables()["patients"]["dice"].tolist() == [0.6, 0]
    left_out.rename(tmp_path / "masks" / "b")
    (tmp_path / "scans" / "b" / "b_flair.nii.gz").unlink()
    refused(call(*arguments, "--overwrite"), "no scan of b")
