"""Masks of any origin are scored as those of a network are: to the last digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import box, save_checkpoint
from PIL import Image
from test_predict import bright_network

from dataset.folder import find_slices
from dataset.slices import read_mask
from scans.masks import foreground
from storage.run_folder import RunFolder
from training.recipes import REFERENCE

nibabel = pytest.importorskip("nibabel")

UNMEASURED = (
    "split",
    "epoch",
    "selected_by",
    "loss",
    "command",
    "commit",
    "threshold",
    "min_component",
    "tuned",
    "brier",
    "ece",
    "calibration",
    "intervals",
    "masks",
    "reference",
    "notes",
)  # of a network, or of its probabilities


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out pictures and report, which take most of the time."""
    for name in ("panels.write_panels", "plots.write_plots", "write_report"):
        monkeypatch.setattr(f"reporting.report.{name}", lambda *_: None)


@pytest.fixture
def score(call, tmp_path, undrawn):
    """Run score_masks.py into tmp_path/scores -> (exit code, stdout, stderr, the result)."""

    def run(*arguments) -> tuple[int, str, str, RunFolder]:
        out = tmp_path / "scores"
        return *call("score_masks", *arguments, "--out", out, "--overwrite"), RunFolder(out)

    return run


def stacks(folder: Path) -> dict[str, np.ndarray]:
    """Return the reference masks of a data folder by patient, uint8 [S, H, W]."""
    rows = find_slices(folder, fewest=1)
    return {p: np.stack([read_mask(folder / path) for path in own["mask_path"]]) for p, own in rows.groupby("patient")}


def write_pictures(folder: Path, masks: dict[str, np.ndarray], form: str = "{}_{}_mask.png", bright: int = 255) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for patient, stack in masks.items():
        for number, mask in enumerate(stack, start=1):
            Image.fromarray(mask * np.uint8(bright)).save(folder / form.format(patient, number))
    return folder


def write_volumes(folder: Path, masks: dict[str, np.ndarray], ending: str, affine: np.ndarray | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for patient, stack in masks.items():
        if ending.endswith(".npy"):
            np.save(folder / f"{patient}{ending}", stack)
            continue
        affine = np.diag([-1, -1, 1, 1]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(stack.swapaxes(0, 2), affine), folder / f"{patient}{ending}")
    return folder


def write_run(path: Path, folder: Path) -> RunFolder:
    """Write a run whose network marks what is bright in FLAIR, and whose test patients are three of the folder's."""
    rows = find_slices(folder)
    test = rows[rows["patient"] > "SYNTH_T_1"].reset_index(drop=True)
    settings = {**REFERENCE, "width": 2, "precision": "fp32", "seed": 1}
    about = {"synthetic": True, "data": str(folder), "hardware": "cpu", "versions": {"torch": "2"}}
    config = {"settings": settings, "patients": {"train": 1}, **about}
    run = RunFolder(path)
    run.begin(config, {"train": rows[:3], "validation": rows[3:6], "test": test})
    names = ("loss", "iou", "empty_prediction", "tumour_iou", "tumour_found", "patient_dice")
    metrics = {f"validation_{name}": 0.5 for name in names}
    save_checkpoint(run, bright_network(), {"epoch": 1, "training_loss": 0.1, "training_iou": 0.5, **metrics}, config)
    return run


def test_a_runs_own_masks_score_the_same_both_ways(call, folder, tmp_path, monkeypatch):
    for name in ("panels.write_panels", "plots.write_plots"):  # take most of the time
        monkeypatch.setattr(f"reporting.report.{name}", lambda *_: None)
    run, scored = write_run(tmp_path / "run", folder), RunFolder(tmp_path / "scores")
    assert call("test_model", "--run", run, "--device", "cpu")[0] == 0
    code, out, err = call("score_masks", run, "--data", folder, "--out", scored)
    assert (code, err) == (0, "") and "SYNTHETIC" in out and "Brier" not in out
    tested, found = run.read_metrics(), scored.read_metrics()
    assert 0.5 < found["patient_dice"] < 1 and found["patients"] == 3 and found["brier"] is None
    assert {k: v for k, v in found.items() if k not in UNMEASURED} == {
        k: v for k, v in tested.items() if k not in UNMEASURED
    }
    assert all(found["intervals"][k] == v for k, v in tested["intervals"].items() if k != "brier")
    for name, table in run.read_test_tables().items():
        measured = [column for column in table if column not in ("head_pixels", "brier")]
        pd.testing.assert_frame_equal(scored.read_test_tables()[name][measured], table[measured], check_exact=True)
    assert np.array_equal(scored.read_predictions(), run.read_predictions())
    page = (scored.path / "report.html").read_text()
    assert "<dt>Masks</dt>" in page and "<dt>Command</dt>" in page and f"score_masks.py {run}" in page
    assert 'id="calibration"' not in page and "Loss, mean" not in page and "Brier" not in page


@pytest.mark.parametrize("write", [
    lambda folder, masks: write_pictures(folder, masks),
    lambda folder, masks: write_pictures(folder, masks, "{}_{}.tif", bright=1),  # nnU-Net's label of slices
    lambda folder, masks: write_volumes(folder, masks, ".nii.gz"),
    lambda folder, masks: write_volumes(folder, masks, "_mask.npy"),
])  # fmt: skip
def test_masks_in_every_form_are_compared_pixel_by_pixel(score, folder, tmp_path, write):
    masks = {patient: stack.copy() for patient, stack in stacks(folder).items()}
    half = masks["SYNTH_T_1"][0]
    half[: np.argwhere(half)[0, 0] + 25] = 0  # the upper half of 50 x 60 px, of which another slice has as many
    masks["SYNTH_T_2"][1, :5, :8] = 1  # 40 px where nothing is
    code, _, err, scored = score(write(tmp_path / "masks", masks), "--data", folder)
    assert (code, err) == (0, "")
    dice = scored.read_test_tables()["patients"].set_index("patient")["dice"]
    assert dice.to_dict() == pytest.approx(
        {"SYNTH_T_0": 1, "SYNTH_T_1": 2 * 4500 / (4500 + 6000), "SYNTH_T_2": 2 * 6000 / (6000 + 6040),
         "SYNTH_T_3": 1, "SYNTH_T_4": 1}, abs=1e-6
    )  # fmt: skip
    slices = scored.read_test_tables()["slices"].set_index(["patient", "slice"])
    assert slices.loc[("SYNTH_T_1", 1), "offset_y"] == 12.5 and slices.loc[("SYNTH_T_2", 2), "false_positive"] == 40


def test_slices_that_the_data_lacks_and_a_result_among_the_masks_are_refused(call, score, folder, tmp_path):
    masks = write_pictures(tmp_path / "masks", stacks(folder))
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(masks / "SYNTH_T_1_7_mask.png")
    code, _, err, _ = score(masks, "--data", folder)
    assert code == 2 and "SYNTH_T_1, slices 7: no such slices in the data, which has 1 to 3. Renumber or" in err
    (masks / "SYNTH_T_1_7_mask.png").unlink()
    code, _, err = call("score_masks", masks, "--data", folder, "--out", masks / "scores")
    assert code == 2 and f"{masks / 'scores'}: is in {masks}, whose masks are scored. Name another folder" in err


def test_what_predict_model_writes_is_taken_as_it_is(score, folder, tmp_path):
    masks = stacks(folder)
    for patient, stack in masks.items():
        out = write_pictures(tmp_path / "out" / patient, {patient: stack})
        Image.new("RGB", (512, 550)).save(out / f"{patient}_1_overlay.png")
    (tmp_path / "out" / "slices.csv").touch()
    code, _, err, scored = score(tmp_path / "out", "--data", folder)
    assert (code, err) == (0, "") and scored.read_metrics()["patient_dice"] == 1
    for patient, stack in masks.items():
        write_volumes(tmp_path / "volumes", {patient: stack}, "_mask.npy")
        np.save(tmp_path / "volumes" / f"{patient}_probability.npy", stack * np.float32(0.9))
    code, _, err, scored = score(tmp_path / "volumes", "--data", folder)
    assert (code, err) == (0, "") and scored.read_metrics()["patient_dice"] == 1


def test_two_readers_are_measured_against_each_other(score, call, tmp_path):
    """In volumes of different sizes, and without any image."""
    a = {"p": np.stack([box((2, 2, 8, 8), size=20)] * 3), "q": np.stack([box((5, 5, 10, 10), size=32)[:24]] * 2)}
    b = {"p": np.stack([box((2, 2, 8, 4), size=20)] * 3), "q": a["q"]}
    first = write_volumes(tmp_path / "a", a, ".nii.gz")
    turned = np.diag([1.0, 1, 1, 1])
    turned[:2, 3] = -19, -19
    second = write_volumes(tmp_path / "b", {"p": b["p"][:, ::-1, ::-1]}, ".nii.gz", turned)  # the same place in space
    write_volumes(second, {"q": b["q"]}, ".npy")
    code, _, err, scored = score(second, "--reference", first)
    assert (code, err) == (0, "")
    table = scored.read_test_tables()["patients"].set_index("patient")
    assert table["dice"].to_dict() == pytest.approx({"p": 2 * 96 / (96 + 192), "q": 1}, abs=1e-6)
    assert table["sequences"].tolist() == ["unknown", "unknown"] and table["slices"].tolist() == [3, 2]
    assert call("compare_runs", scored, scored)[0] == 0
    shifted = turned.copy()
    shifted[2, 3] = 3
    write_volumes(second, {"p": b["p"]}, ".nii.gz", shifted)
    code, _, err, _ = score(second, "--reference", first)
    assert code == 2 and "p lies elsewhere in space than its reference" in err


def test_a_reader_of_some_slices_on_the_images_of_the_data(score, folder, tmp_path):
    masks = {patient: stack for patient, stack in stacks(folder).items() if patient < "SYNTH_T_2"}
    readers = [write_pictures(tmp_path / name, masks) for name in "ab"]
    (readers[0] / "SYNTH_T_0_2_mask.png").unlink()
    code, _, err, scored = score(readers[1], "--reference", readers[0], "--data", folder)
    assert (code, err) == (0, "")
    assert scored.read_test_tables()["slices"]["image_path"].tolist() == [
        f"SYNTH_T_{p}/SYNTH_T_{p}_{n}.tif" for p, n in ((0, 1), (0, 3), (1, 1), (1, 2), (1, 3))
    ]
    assert scored.read_test_tables()["patients"]["sequences"].tolist() == ["all three"] * 2


# --- What is missing or does not fit ---------------------------------------------------------------------------


def test_missing_patients_and_slices_are_named_and_refused_or_count_as_empty(score, folder, tmp_path):
    masks = stacks(folder)
    del masks["SYNTH_T_4"]
    pictures = write_pictures(tmp_path / "masks", masks)
    for number in (1, 3):
        (pictures / f"SYNTH_T_1_{number}_mask.png").unlink()
    code, _, err, scored = score(pictures, "--data", folder)
    assert code == 2 and "no mask of SYNTH_T_1, slices 1, 3; SYNTH_T_4. Add" in err and "--missing-as-empty" in err
    assert not scored.path.exists()
    code, out, err, scored = score(pictures, "--data", folder, "--missing-as-empty")
    assert (code, err) == (0, "") and "Counted as empty" in out
    dice = scored.read_test_tables()["patients"]["dice"].tolist()
    assert dice == [1, 0, 1, 1, 0] and "SYNTH_T_1, slices 1, 3; SYNTH_T_4" in scored.read_metrics()["notes"][0]
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
    (tmp_path / "empty").mkdir()
    for source, message in ((tmp_path / "empty", "holds no masks"), (tmp_path / "no", "no such folder")):
        code, _, err, _ = score(source, "--data", folder)
        assert code == 2 and message in err
    assert score(tmp_path / "empty")[0] == 2  # no reference


def test_a_run_is_never_overwritten(call, undrawn, folder, tmp_path):
    run = write_run(tmp_path / "run", folder)
    masks = write_volumes(tmp_path / "masks", stacks(folder), ".npy")
    code, _, err = call("score_masks", masks, "--data", folder, "--out", run, "--overwrite")
    assert code == 2 and "holds a run, or another result" in err and run.checkpoints()
    pooled = RunFolder(tmp_path / "pooled")  # by cross_validate.py
    pooled.write_test(dict.fromkeys(("slices", "patients", "lesions"), pd.DataFrame({"patient": ["p"]})), {}, None)
    code, _, err = call("score_masks", masks, "--data", folder, "--out", pooled, "--overwrite")
    assert code == 2 and "another result" in err and pooled.is_tested()
    assert call("score_masks", masks, "--data", folder, "--out", tmp_path / "s")[0] == 0
    code, _, err = call("score_masks", masks, "--data", folder, "--out", tmp_path / "s")
    assert code == 2 and "holds a result already" in err


def test_values_of_masks():
    for values, marked in (
        ([0, 255], [0, 1]),
        ([0, 1, 2, 4], [0, 1, 1, 1]),
        ([0, 0], [0, 0]),
        ([0, 0.5], [0, 1]),
        ([True, False], [1, 0]),
    ):
        assert foreground(np.array(values)).tolist() == marked
    for values in ([0, 10, 255], [-1, 0], [0, 0.2, 0.7], [0, np.nan], [0, 3, 80]):
        with pytest.raises(ValueError, match="a mask with the values"):
            foreground(np.array(values))
