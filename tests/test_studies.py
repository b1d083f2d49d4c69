"""What authors run: published runs, own patients that are few, other forms, speed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from conftest import ROOT, done, draw_patient, make_patients, make_slices, run_here, write_slice, write_split

import cross_validate
from dataset.slices import Slices
from storage import checkpoints
from storage.run_folder import RunFolder
from studies import few_patients, reproduce, robustness, speed
from training.hardware import choose_hardware
from training.recipe import Recipe, make_parser, make_settings

COPIED = {
    "results.csv", "epochs.csv", "config.json", "run.json", "metrics.json", "test_patients.csv", "test_lesions.csv",
    "loss.png", "iou.png", "dice_area.png",
}  # fmt: skip
QUICK = ("--width", 2, "--epochs", 2)


@pytest.fixture
def again(call, monkeypatch, tmp_path, undrawn):
    """Run the study with folders of its own, its scripts within this process -> (exit code, stdout, stderr)."""
    for module in (reproduce, cross_validate):
        monkeypatch.setattr(module, "run_python", run_here)
    return lambda name, *options: call("studies.reproduce", name, "--runs", tmp_path / "my runs", *QUICK, *options)


def read(results: Path) -> list[dict]:
    return [json.loads((results / name).read_text()) for name in ("run.json", "config.json", "metrics.json")]


def test_a_run_is_continued_and_copied(again, tmp_path, monkeypatch):
    folder = make_patients(tmp_path / "of a person" / "kaggle_3m")
    options = ("twelve_w16", "--seed", 2, "--data", folder)
    run = RunFolder(tmp_path / "my runs" / "twelve_w16_seed_2")
    results = run.path.parent / "reproduce" / run.path.name
    save = checkpoints.Writer.save_epoch

    def cut_off(writer, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt
        save(writer, record)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Writer, "save_epoch", cut_off)
        assert again(*options)[0] == 130
    assert not results.exists() and list(run.checkpoints()) == [1]
    assert "resumed after epoch 1" in done(again(*options))

    files = {path.name: path.read_bytes() for path in results.iterdir()}
    assert set(files) == COPIED  # too few patients for a plot of volumes
    for name, content in files.items():
        assert str(tmp_path).encode() not in content and b"of a person" not in content, name
    record, config, metrics = read(results)
    assert config["settings"]["seed"] == 2 and "platform" not in config["versions"]
    assert record["title"] == "published recipe at width 16, 12 patients, seed 2"
    epochs = checkpoints.read_epochs(run).set_index("epoch")
    assert epochs.loc[metrics["epoch"], "validation_iou"] == epochs["validation_iou"].max()
    assert record["epochs"] == 2 and record["seconds"] == pytest.approx(epochs["seconds"].sum())


def test_of_a_cross_validation_the_masks_are_copied(again, folder, unreported, tmp_path, monkeypatch):
    monkeypatch.setitem(reproduce.RUNS, "cv_tuned", reproduce.RUNS["cv_tuned"]._replace(folds=2))
    done(again("cv_tuned", "--data", folder, "--epochs", 1))
    results = tmp_path / "my runs" / "reproduce" / "cv_tuned"
    record, config, metrics = read(results)
    split = "cross-validation, 2 folds"
    assert (metrics["split"], record["epochs"], metrics["epoch"]) == (split, 1, None)
    assert (config["patients"], config["slices"]) == ({split: 5}, {split: 15})
    with np.load(results / "masks.npz") as archive:
        masks, paths = archive["masks"], archive["image_path"].tolist()
    table, predicted = RunFolder(tmp_path / "my runs" / "cv_tuned").read_tested()
    assert np.array_equal(np.unpackbits(masks, axis=2), predicted) and masks.shape == (15, 256, 32)
    assert paths == table["image_path"].tolist() and len(set(paths)) == 15


def test_the_page_is_that_of_the_results():
    page = reproduce.PAGE.read_text(encoding="utf-8")
    table = reproduce.make_table(ROOT / "results")
    assert reproduce.fill(page, table) == page, "run: python -m studies.reproduce table"
    assert reproduce.fill(reproduce.fill(page, "new"), table) == page


def test_the_options_of_every_run_are_understood():
    recipes = [
        Recipe.of(make_settings(make_parser().parse_args(run.options)))
        for name, run in reproduce.RUNS.items()
        if name.startswith("ablation_")
    ]
    assert len(set(recipes)) == len(recipes) and recipes[1].width == 16


def test_an_institution_is_left_out_and_learned_from_few(call, monkeypatch, undrawn, unreported, tmp_path):
    """Who trains, who is tested, and that the same command trains nothing again."""
    monkeypatch.setattr(few_patients, "run_python", run_here)
    monkeypatch.setattr(few_patients, "FEW", (2,))
    folder, out = tmp_path / "kaggle_3m", tmp_path / "few"
    for seed, name in enumerate(("CS_0001", "CS_0002", "CS_0003", "CS_0004", "DU_0001")):
        for number in (1, 2):
            write_slice(folder, f"TCGA_{name}_20000101", number, tumour=number == 1, seed=seed)
    options = ("--institutions", "CS", "--draws", 1, "--epochs", 1, "--width", 2)
    arguments = ("studies.few_patients", "--data", folder, "--out", out, *options)
    printed = done(call(*arguments))
    table = pd.read_csv(out / "few.csv")
    assert table["network"].value_counts().to_dict() == dict.fromkeys(few_patients.COLORS, 2)  # two test patients
    split = pd.read_csv(out / "CS" / "went_on_2_0" / "split.csv").groupby("split")["patient"]
    assert set(split.get_group("test")) == set(table["patient"]) and len(split.get_group("train")) == 2
    assert not set(split.get_group("train")) & set(table["patient"])
    others = pd.read_csv(out / "CS" / "others" / "train.csv")["patient"]
    assert set(others) == {"TCGA_DU_0001_20000101"}
    assert (out / "few.png").is_file()
    runs = [RunFolder(path.parent) for path in out.rglob("config.json")]
    assert len(runs) == 3 and {run.read_config()["settings"]["epochs"] for run in runs} == {1}  # all are a quick trial
    assert "| CS | 2 | " in printed and "| all | 2 | " in printed
    assert done(call(*arguments)).count("nothing is left to do") == 3


@pytest.mark.parametrize("form", robustness.FORMS)
def test_forms_hold_the_same_patient(form, tmp_path):
    images, masks = draw_patient(0)
    robustness.write_patient(tmp_path, make_slices({"a": list(masks)}, images), form)
    read = {path.name.split(".")[0]: sitk.ReadImage(str(path)) for path in (tmp_path / "a").iterdir()}
    assert set(read) == ({"flair", "seg"} if "alone" in form else {"t1", "flair", "t1ce", "seg"})
    mask, flair = (sitk.DICOMOrient(read[name], "LPS") for name in ("seg", "flair"))
    depth, width = 5 if form in robustness.THIN else 1, robustness.THICK if form == "sagittal" else 1
    voxels = int(sitk.GetArrayFromImage(mask).sum()) * width
    assert voxels == pytest.approx(depth * int(masks.sum()), rel=0.02 if width > 1 else 0)
    assert mask.GetSpacing() == pytest.approx((0.9 * width, 0.9, 5 / depth))
    assert mask.GetSize() == (256 // width, 256, 4 * depth)
    if width > 1:
        return
    pixels = sitk.GetArrayFromImage(flair)[depth // 2 :: depth]
    inside = masks > 0
    assert np.corrcoef(pixels[inside], images[..., 1][inside])[0, 1] > (0.8 if "half" in form else 0.95)
    if "stripped" in form:
        assert (pixels > 0).sum() < (images[..., 1] > 0).sum()


def test_dice_of_a_form(call, tmp_path):
    data = make_patients(tmp_path / "kaggle_3m", patients=3, slices=2)
    split = write_split(tmp_path, "train", "validation", "test")
    arguments = ["--data", data, "--split", split, "--out", tmp_path / "out", "--forms", "as they are", "FLAIR alone"]
    printed = done(call("studies.robustness", *arguments))
    table = pd.read_csv(tmp_path / "out" / "robustness.csv")
    assert table["patient"].tolist() == ["SYNTH_T_1"] * 2 and table["form"].tolist() == ["as they are", "FLAIR alone"]
    assert table["dice"].between(0, 1).all() and "| FLAIR alone | 1 |" in printed


def test_operations_are_those_of_the_convolutions():
    # of 256x256 pixels at the first level: 3x3 from 3 to 64 channels, then from 64 to 64; 2 for each multiply-add
    first = 2 * 256**2 * 9 * (3 * 64 + 64 * 64)
    recipes = (Recipe(), Recipe(bilinear=True), Recipe(width=128))
    networks = [checkpoints.describe_network(vars(recipe)) for recipe in recipes]
    plain, bilinear, wide = (speed.count_flop(network, 256, 256) for network in networks)
    assert first < bilinear < plain and wide / plain == pytest.approx(4, 0.01)


def test_both_loops_take_the_same_steps():
    images, masks = torch.randint(0, 256, (2, 256, 256, 3)).byte(), torch.randint(0, 2, (2, 256, 256)).byte()
    slices, recipe = Slices(images, masks, pd.DataFrame({"patient": ["noise"] * 2})), Recipe(width=2, batch_size=2)
    hardware = choose_hardware("cpu", "fp32")
    ours, plain = speed.make_step(recipe, slices, hardware), speed.make_plain_step(recipe, slices, hardware)
    assert [ours() for _ in range(3)] == pytest.approx([plain() for _ in range(3)], abs=1e-4)


def test_a_step_is_timed(call, monkeypatch):
    monkeypatch.setattr(speed, "STEPS", 1)
    out = done(call("studies.speed", "--recipe", "tuned", "--width", 2, "--batch-size", 1, "--device", "cpu"))
    assert "matrix products reach" in out
