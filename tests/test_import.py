"""Own scans and masks become a data set; training goes on from weights; corrected masks come back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from conftest import QUICK, box, bright_checkpoint, done, draw_patient, make_volume, refused, write_split, write_volume
from PIL import Image

from dataset.folder import find_slices, read_spacing
from dataset.slices import Slices, load_slices
from reporting.model_card import model_card
from scans.cohort import find_patients
from scans.geometry import to_network_size
from scans.masks import check_place, read_training_masks, take_masks
from scans.names import MASK
from scans.read import read_patient
from storage import origin
from storage.checkpoints import load_network
from storage.run_folder import RunFolder

SPACING = (0.5, 0.5, 4.0)  # mm between columns, rows, slices: a pixel is 0.001 ml


def write_patient(folder: Path, number: int, sequences: tuple[str, ...] = ("t1", "flair", "t1ce")) -> None:
    """Write a synthetic patient as P0, P1, ... in NIfTI, with its mask."""
    images, masks = draw_patient(number)
    for channel, name in enumerate(("t1", "flair", "t1ce")):
        if name in sequences:
            write_volume(folder / f"P{number}" / f"{name}.nii.gz", images[..., channel], SPACING)
    write_volume(folder / f"P{number}" / "seg.nii.gz", masks, SPACING)


def imported(folder: Path) -> Slices:
    return load_slices(folder, {"all": find_slices(folder)})["all"]


@pytest.fixture
def cohort(tmp_path) -> Path:
    """Three patients; one has FLAIR alone, one is stored in another order of axes."""
    folder = tmp_path / "cohort"
    for number in range(3):
        write_patient(folder, number, ("flair",) if number == 1 else ("t1", "flair", "t1ce"))
    for path in (folder / "P2").iterdir():
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "PIR"), str(path))
    return folder


@pytest.fixture
def weights(tmp_path) -> Path:
    """A network that marks what is bright in FLAIR."""
    return bright_checkpoint(tmp_path / "network", synthetic=True, published=False)


# --- The same slices, and the same masks ------------------------------------------------------------------------


def test_a_scan_is_predicted_alike_directly_and_imported(cohort, weights, tmp_path, call):
    out = done(call("import_data", cohort, "--out", tmp_path / "own"))
    assert "pre+flair+post" in out and "train_model.py --data" in out
    slices = imported(tmp_path / "own")
    images, masks = (np.concatenate(parts) for parts in zip(*map(draw_patient, range(3)), strict=True))
    images[4:8] = images[4:8, ..., 1:2]  # FLAIR stands in for the others
    assert np.array_equal(slices.images, images) and np.array_equal(slices.masks, masks)

    for source, masks in ((cohort, "direct"), (tmp_path / "own", "by_way")):
        assert call("predict_model", source, "--checkpoint", weights, "--out", tmp_path / masks)[0] == 0
    for name in ("P0", "P1", "P2"):
        direct = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "direct" / name / f"{name}_mask.nii.gz")), "LPS")
        paths = [tmp_path / "by_way" / name / f"{name}_{number}_mask.tif" for number in range(1, 5)]
        by_way = sitk.GetArrayFromImage(sitk.ReadImage([*map(str, paths)])) > 0
        assert by_way.any() and np.array_equal(sitk.GetArrayFromImage(direct), by_way)

    table = pd.read_csv(tmp_path / "own" / "imported.csv").set_index("patient")
    pixels = [int(draw_patient(number)[1].sum()) for number in range(3)]
    assert table["sequences"].tolist() == ["pre+flair+post", "flair", "pre+flair"]  # as drawn
    assert table["ml"].tolist() == [round(n / 1000, 3) for n in pixels] and table["tumour_slices"].tolist() == [2] * 3
    assert set(table["mask_of"]) == {"reader"} and table.loc["P1", "pre"] != table.loc["P1", "pre"]
    volumes = [pd.read_csv(tmp_path / folder / "patients.csv")["volume_ml"].tolist() for folder in ("direct", "by_way")]
    assert volumes[0] == pytest.approx(volumes[1]) and read_spacing(tmp_path / "own" / "P2") == (0.5, 0.5, 4)
    grid = json.loads((tmp_path / "own" / "P2" / "grid.json").read_text())
    assert np.diag(grid["affine"]).tolist() == [0.5, 0.5, 4, 1] and Path(grid["source"]).is_file()

    assert call("import_data", tmp_path / "own", "--out", tmp_path / "again")[0] == 0
    again, columns = pd.read_csv(tmp_path / "again" / "imported.csv"), ["slices", "ml", "spacing", "sequences"]
    pd.testing.assert_frame_equal(again.set_index("patient")[columns], table[columns])
    assert np.array_equal(imported(tmp_path / "again").images, slices.images)
    (tmp_path / "own" / "P0" / "grid.json").write_text("{")
    code, _, err = call("import_data", tmp_path / "own", "--out", tmp_path / "more")
    assert code == 1 and "P0: left out: " in err and "grid.json: is damaged. Restore it, or remove it" in err


def test_slices_of_another_size_become_those_that_the_network_sees(tmp_path, call):
    stack = np.random.default_rng(0).integers(0, 4000, (2, 300, 200)).astype(np.int16)
    mask = np.stack([box((100, 50, 60, 70), size=300)[:, :200]] * 2)
    write_volume(tmp_path / "cohort" / "P" / "flair.nrrd", stack, SPACING)
    write_volume(tmp_path / "cohort" / "P" / "seg.nrrd", mask, SPACING)
    assert call("import_data", tmp_path / "cohort", "--out", tmp_path / "own")[0] == 0
    scan, _ = read_patient(find_patients([tmp_path / "cohort"]).patients[0])
    slices = imported(tmp_path / "own")
    assert np.array_equal(slices.images, [to_network_size(plane) for plane in scan.slices])
    rows, columns = np.nonzero(slices.masks[0].numpy())  # 300 pixels become 256, with 50 before the first column
    assert (rows.min(), rows.max()) == (85, 136) and (columns.min(), columns.max()) == (85, 144)


# --- Corrected masks ----------------------------------------------------------------------------------------------


def test_a_corrected_mask_changes_exactly_its_pixels(cohort, weights, tmp_path, call):
    masks, corrected = tmp_path / "masks", tmp_path / "corrected" / "P0" / "P0_mask.nii.gz"
    assert call("predict_model", cohort / "P0", "--checkpoint", weights, "--out", masks)[0] == 0
    code, out, _ = call("import_data", cohort, "--masks", masks, "--out", tmp_path / "before")
    assert code == 0 and "P0: the network's mask, which nobody corrected, goes before the one beside it, seg.nii" in out
    mask = sitk.ReadImage(str(masks / "P0" / "P0_mask.nii.gz"))
    predicted = sitk.GetArrayFromImage(mask)
    added, removed = np.zeros((2, *predicted.shape), bool)
    added[1, 100:110, 120:140] = removed[2:] = True
    edited = sitk.GetImageFromArray(((predicted > 0) & ~removed | added).astype(np.uint8))
    edited.CopyInformation(mask)
    corrected.parent.mkdir(parents=True)
    sitk.WriteImage(edited, str(corrected))
    assert call("import_data", cohort, "--masks", tmp_path / "corrected", "--out", tmp_path / "after")[0] == 0
    before, after = (imported(tmp_path / folder).masks.numpy() for folder in ("before", "after"))
    changed = (added & (predicted == 0)) | (removed & (predicted > 0))
    assert np.array_equal(before[:4], predicted) and changed[1].any() and changed[2].any()
    assert np.array_equal(before[:4] != after[:4], changed)
    assert np.array_equal(before[4:], after[4:])  # of the others: the reader's
    tables = [pd.read_csv(tmp_path / folder / "imported.csv")["mask_of"].tolist() for folder in ("before", "after")]
    assert tables == [["network", "reader", "reader"], ["corrected", "reader", "reader"]]

    sitk.WriteImage(edited, str(masks / "P0" / "P0_mask.nii.gz"))  # where it was
    assert call("import_data", cohort, "--masks", masks, "--out", tmp_path / "there")[0] == 0
    assert pd.read_csv(tmp_path / "there" / "imported.csv")["mask_of"].tolist() == ["corrected", "reader", "reader"]


@pytest.fixture
def small(tmp_path) -> Path:
    """Three patients without a mask, spaces and umlauts in a name; 2 slices of 40 x 30 pixels."""
    for name in ("A", "B", "C Müller"):
        head = np.zeros((2, 40, 30), np.int16)
        head[:, 5:35, 5:25] = np.arange(20) + 100
        write_volume(tmp_path / "small" / name / "flair.nii.gz", head, SPACING)
    return tmp_path / "small"


TUMOUR = np.zeros((2, 40, 30), np.uint8)
TUMOUR[:, 10:16, 10:18] = 1


@pytest.mark.parametrize(("names", "files"), [
    *(((name, name.replace("A", "C Müller")), [1, 0, 1]) for name in (
        "A.nii.gz", "A_mask.mha", "A_seg.nii.gz", "A_mask.seg.nrrd", "A/Segmentation.seg.nrrd", "A/A_mask.nii.gz")),
    (("A_1_mask.png", "A_2_mask.png", "B/1.png", "B/2.png", "B/B_overlay.png"), [2, 2, 0]),
    (("A.seg.nrrd", "B.nii.gz", "C Müller/x.nii.gz", "C Müller/mask.nii.gz"), [1, 1, 1]),
])  # fmt: skip
def test_names_of_masks_in_a_folder(names, files, small, tmp_path):
    for path in (tmp_path / "masks" / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix == ".png" else write_volume(path, TUMOUR, SPACING)
    cohort = find_patients([small])
    take_masks(cohort, tmp_path / "masks")
    found = [len(patient.items[MASK].paths) if MASK in patient.items else 0 for patient in cohort.patients]
    assert found == files and not cohort.problems


# --- Masks that do not fit ----------------------------------------------------------------------------------------


def read(folder: Path, *labels: int) -> tuple[np.ndarray, list[str]]:
    """Return the masks of the patient in a folder, and notes."""
    patient = find_patients([folder]).patients[0]
    masks, notes = read_training_masks(patient.items[MASK], read_patient(patient)[0], {*labels})
    return masks, notes


# Half of the spacing in each slice, in another order of axes; and the box around the tumour, as 3D Slicer writes it
FINER = sitk.DICOMOrient(make_volume(TUMOUR.repeat(2, 1).repeat(2, 2), (0.25, 0.25, 4), (-0.125, -0.125, 0)), "RAS")
CUT_OUT = make_volume(TUMOUR, SPACING)[8:20, 8:20]


@pytest.mark.parametrize("mask", [FINER, CUT_OUT], ids=["finer", "cut out"])
def test_a_mask_on_another_grid_in_the_same_space_is_resampled(mask, small):
    sitk.WriteImage(mask, str(small / "A" / "seg.nii.gz"))
    masks, notes = read(small / "A")
    assert np.array_equal(masks, TUMOUR) and "resampled by nearest neighbour" in notes[0]


@pytest.mark.parametrize(("mask", "origin", "reason"), [
    (TUMOUR, (9, 0, 0), "has the size of the images but lies elsewhere"),
    (TUMOUR[:, :20], (90, 0, 0), "100% of it lies outside of the images"),
    (TUMOUR + np.float32(0.5), (0, 0, 0), "with the values 0.5, 1.5"),
    (TUMOUR[:, :20], None, "2 slices of 30x20, the images have 2 slices of 30x40. Save it on the grid"),
])  # fmt: skip
def test_a_mask_that_does_not_fit_is_refused(mask, origin, reason, small):
    if origin:
        write_volume(small / "A" / "seg.nii.gz", mask, SPACING, origin)
    else:
        np.save(small / "A" / "seg.npy", mask)
    with pytest.raises(ValueError, match=reason):
        read(small / "A")


def test_masks_that_are_ambiguous_or_of_another_form_leave_a_patient_out(small, tmp_path, call):
    for name in ("A", "B", "C Müller"):
        write_volume(small / name / "seg.nii.gz", TUMOUR, SPACING)  # which is not taken instead
    for name in ("A_mask.nii.gz", "A_seg.nii.gz", "B_1_mask.png", "B_2_mask.png"):
        write_volume(tmp_path / "masks" / name, TUMOUR[: 2 if name[0] == "A" else 1], SPACING)
    _, out, err = call("import_data", small, "--masks", tmp_path / "masks", "--out", tmp_path / "own")
    assert "A_mask.nii.gz and A_seg.nii.gz are both its masks. Remove one" in err and "slices and masks of 1" in out
    assert f"B: left out: {tmp_path / 'masks'}: it is in pictures, but the images are not" in err
    (tmp_path / "P").mkdir()
    for number, mode in ((1, "L"), (2, "RGB")):
        Image.fromarray(TUMOUR[0] * np.uint8(90)).save(tmp_path / "P" / f"s_{number}.png")
        Image.new(mode, (30, 40), 255).save(tmp_path / "P" / f"s_{number}_mask.png")  # 255: red
    err = call("import_data", tmp_path / "P", "--out", tmp_path / "none")[2]
    assert "P: s_2_mask.png: a mask in colours" in err


def test_a_mask_is_doubted_or_refused_by_what_it_marks():
    images, masks = draw_patient(0)
    assert check_place(images, masks) == ""
    assert "is empty" in check_place(images, masks * 0)
    assert "not brighter in FLAIR than the rest of the head" in check_place(images, masks[..., ::-1])
    with pytest.raises(ValueError, match=r"covers 9.% of the head: .* inverted"):
        check_place(images, 1 - masks)


# --- Who is left out ----------------------------------------------------------------------------------------------


def test_patients_without_a_mask_are_left_out_or_healthy(small, tmp_path, call):
    write_volume(small / "A" / "seg.nii.gz", TUMOUR, SPACING)
    write_volume(tmp_path / "masks" / "D.nii.gz", TUMOUR, SPACING)
    assert "left out: B: no mask" in done(call("import_data", small, "--empty", "C Müller", "--out", tmp_path / "own"))
    table = pd.read_csv(tmp_path / "own" / "imported.csv").set_index("patient")
    assert table["tumour_slices"].fillna(-1).tolist() == [2, -1, 0]
    assert find_slices(tmp_path / "own")["patient"].unique().tolist() == ["A", "C Müller"]
    code, _, err = call("import_data", small, "--masks", tmp_path / "masks", "--out", tmp_path / "more")
    assert code == 1 and "D.nii.gz: the mask of no patient by its name" in err


def test_nothing_of_the_user_is_overwritten(small, tmp_path, call):
    for name in ("A/seg.nii.gz", "B/seg_1.nii.gz", "B/seg_2.nii.gz"):
        write_volume(small / name, TUMOUR, SPACING)
    (tmp_path / "cohort").touch()
    for options, message in (
        (["--out", small], f"lies in {small}, among its patients"),
        (["--out", tmp_path / "cohort"], "is there already"),
        (["--empty", "X", "--out", tmp_path / "own"], "--empty X: is no patient"),
        (["--empty", "A", "B", "--out", tmp_path / "own"], "B: left out: --empty names it, but it has a mask, seg_1"),
        (["--labels", "one", "--out", tmp_path / "own"], "one is not all, nor whole numbers"),
        (["--labels", "3", "--out", tmp_path / "own"], "it holds 0 and 1, not a label of --labels"),
        (["--labels", "3", "--out", tmp_path / "own"], "seg_1.nii.gz, seg_2.nii.gz: which one is its mask?"),
    ):
        code, _, err = call("import_data", small, *options)
        assert code == 2 and err.count(message) == 1 and not (tmp_path / "own").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort", "small"]


def test_two_patients_of_one_name_are_named_apart_in_a_table(small, tmp_path, call):
    other = write_volume(tmp_path / "elsewhere" / "A" / "flair.nii.gz", np.arange(2400).reshape(2, 40, 30), SPACING)
    masks = tmp_path / "masks"
    arguments = ("import_data", small, other.parent.parent, "--masks", masks, "--list")
    write_volume(masks / "A.nii.gz", TUMOUR, SPACING)
    refused(call(*arguments, tmp_path / "asked.csv"), "A may mean A_2, too. Name them apart in a table of --list")
    refused(call(*arguments[:3], "--empty", "A", "--out", tmp_path / "own"), "A may mean A_2")
    assert call(*arguments[:3], "--list", tmp_path / "apart.csv")[0] == 0
    assert call("import_data", tmp_path / "apart.csv", *arguments[3:], tmp_path / "both.csv")[0] == 0


# --- Training from weights ----------------------------------------------------------------------------------------

BEGUN_WITH = "the weights that this one began with (epoch_1.pt)"


def test_training_goes_on_from_weights_and_says_whom_they_know(folder, weights, tmp_path, call, undrawn, unreported):
    def train(name: str, begin: Path, *splits: str) -> tuple[int, str, str]:
        split = ["--split", write_split(tmp_path, *splits), "--run", tmp_path / name]
        own = ("--epochs", 1, "--threshold", 0.4)
        return call("train_model", "--data", folder, "--weights", begin, *split, *QUICK[2:], *own)

    wider = ("--data", folder, "--weights", weights, "--width", 4, "--run", tmp_path / "other")
    refused(call("train_model", *wider), "width 2, ", "Leave the options for another out")
    out = done(train("first", weights, *["train"] * 3, "validation", "test"))
    assert f"{BEGUN_WITH} do not say whom they were trained on" in out
    config = RunFolder(tmp_path / "first").read_config()
    assert {"width": 2, "crop": False, "lr": 5e-4, "augment": True}.items() <= config["settings"].items()
    assert config["weights"]["sha256"] == origin.StartingWeights(weights).sha256
    assert config["weights"]["licence"] == "MIT"
    assert len(config["training_patients"]) == 4 and "SYNTH" not in str(config["training_patients"])
    stopped = RunFolder(shutil.copytree(tmp_path / "first", tmp_path / "stopped"))
    shutil.rmtree(stopped.models)  # in its first epoch: it begins again, with the same weights
    again = ("train_model", "--run", stopped, "--resume")
    refused(call(*again), "begins with epoch_1.pt, and no epoch is finished: name it again with --weights")
    assert call(*again, "--weights", weights)[0] == 0
    first, anew = (load_network(run.checkpoint(1))[1] for run in (RunFolder(tmp_path / "first"), stopped))
    assert first["training_loss"] == anew["training_loss"]

    shutil.copytree(folder / "SYNTH_T_0", folder / "SYNTH_T_5")  # another name, the same images
    for path in (folder / "SYNTH_T_5").iterdir():
        path.rename(path.with_name(path.name.replace("T_0", "T_5")))
    for path in folder.iterdir():
        (path / "grid.json").write_text('{"spacing": [0.9, 0.9, 5]}')
    again = tmp_path / "first" / "models" / "epoch_1.pt"
    out = done(train("second", again, "train", "test", "train", "validation", "train", "test"))
    warning = f"2 of the 2 test patients were in the training of {BEGUN_WITH}: SYNTH_T_1, SYNTH_T_5."
    assert f"warning: {warning}" in out
    assert warning in " ".join(call("test_model", "--run", tmp_path / "second", "--device", "cpu")[1].split())
    run = RunFolder(tmp_path / "second")
    assert run.read_metrics()["notes"][0].startswith(warning)  # which the report shows, too
    assert run.read_metrics()["spacing"]["SYNTH_T_5"] == [0.9, 0.9, 5] and "hd95_mm" in run.read_metrics()
    card = model_card(run, load_network(run.checkpoint(1))[1], "")
    scored = tmp_path / "scored"
    assert call("score_masks", run.path, "--data", folder, "--out", scored)[0] == 0
    assert RunFolder(scored).read_metrics()["hd95_mm"] == run.read_metrics()["hd95_mm"]
    assert "Begun with the weights epoch_1.pt" in card and f"**{warning}" in card
    refused(call("train_model", "--run", run, "--resume", "--weights", weights), "other weights to begin with")
