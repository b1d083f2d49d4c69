"""radiogenomics.py: on manual masks, on the predicted masks of a test, and what it says where something is missing."""

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import done, refused

from dataset.folder import find_slices
from dataset.slices import load_slices
from dataset.synthetic import write_slice
from evaluation import summary
from evaluation.shape import PUBLISHED
from storage.run_folder import GENOMICS, RunFolder

PATIENTS = 16
PLOTS = [f"boxes_{name}" for name in PUBLISHED]
KERNEL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))


def draw_tumour(number: int) -> np.ndarray:
    """A tumour in two of three slices, round in even patients, a star in odd ones: uint8 [3, 256, 256]."""
    y, x = np.mgrid[-128:128, -128:128]
    waves = (0.25 if number % 2 else 0.03) * np.cos((5 + number % 3) * np.arctan2(y, x))
    tumour = np.hypot(x - number, y) <= (24 + number) * (1 + waves)
    return np.uint8([tumour, tumour * 0, tumour])[[1, 0, 2]]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Patients SYNTH_T_0 ... with two tables of labels; the last one has no tumour."""
    folder = tmp_path_factory.mktemp("data")
    flair = np.random.default_rng(0).integers(20, 90, (256, 256, 3), dtype=np.uint8)
    for number in range(PATIENTS):
        for n, mask in enumerate(draw_tumour(number) * (number < PATIENTS - 1), start=1):
            write_slice(folder, f"SYNTH_T_{number}", n, flair, mask)
    rows = [f"SYNTH_T_{n};{('smooth', 'irregular')[n % 2]};" for n in range(PATIENTS)]
    (folder / "data.csv").write_text("\n".join(["Patient;SyntheticSubtype;IDH", *rows, "SYNTH_T_99;smooth;"]))
    rows = [f"SYNTH_T_{n};{('mutant', 'wt')[n % 2]}" for n in range(PATIENTS)]
    (folder / "atrx.csv").write_text("\n".join(["Patient;ATRX", *rows]))
    return folder


def read(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(folder / name) for name in GENOMICS if (folder / name).exists()]


def write_tested(folder: Path, data: Path, predicted: np.ndarray) -> RunFolder:
    """Write the files of a cross-validation, all of whose patients one fold has tested with these predictions."""
    table = find_slices(data)
    slices = load_slices(data, {"all": table})["all"]
    known = {"split": "test", "epoch": None, "selected_by": "iou", "synthetic": True, "loss": 0.25}
    known["folds"] = [{"fold": 1, "threshold": 0.5, "min_component": 0}]
    tables, metrics = summary.evaluate_masks(slices, predicted, None, known, [])
    about = {"settings": {"width": 2, "seed": 1}, "hardware": "cpu", "versions": {"torch": "2"}}
    run, fold = RunFolder(folder), RunFolder(folder / "fold_1")
    fold.begin({"data": str(data), "synthetic": True, **about}, {"test": table})
    fold.write_test(tables, metrics, predicted)
    run.write_test(tables, metrics, predicted)
    return run


@pytest.fixture(scope="module")
def predicted(data) -> np.ndarray:
    """The masks of the folder, a little smaller, with a speck far away in the first patient; the second is missed."""
    masks = load_slices(data, {"all": find_slices(data)})["all"].masks.numpy()
    eroded = np.stack([cv2.erode(plane, KERNEL) for plane in masks])
    eroded[2, :3, :3] = 1
    eroded[3:6] = 0
    return eroded


def test_manual_masks_from_the_command_line(call, undrawn, data, tmp_path):
    out, data = tmp_path / "out", shutil.copytree(data, tmp_path / "data")
    for n, mask in enumerate(draw_tumour(1), start=1):  # a second scan of the first patient changes nothing
        write_slice(data, "SYNTH_T_0_20200101", n, np.zeros((256, 256, 3), np.uint8), mask)
    text = done(call("radiogenomics", "--data", data, "--out", out))
    assert "SYNTHETIC PATIENTS" in text
    assert "1 of 16 persons have several scans by their ids, such as SYNTH_T_0" in text
    features, associations, areas = read(out)
    assert features["patient"].nunique() == PATIENTS and features["SyntheticSubtype"].notna().all()
    assert features.set_index("patient").loc["SYNTH_T_15", ["bevr", "reason"]].tolist()[1] == "the mask is empty"
    rows = associations.set_index(["feature", "label"])
    test = rows.loc[("angular_sd", "SyntheticSubtype")]
    assert test["n"] == 15 and test["missing"] == 1 and test["groups"] == "irregular: 7; smooth: 8"
    assert test["fisher_p"] == pytest.approx(1 / 6435, rel=0.01)  # all irregular ones above the median, no other
    assert test["holm_p"] == pytest.approx(6 * test["fisher_p"], rel=0.01) and (rows["masks"] == "manual").all()
    assert (rows["family"] == 1).sum() == 6 and rows.loc[rows["family"] == 0, "holm_p"].isna().all()
    assert rows.loc[("bevr", "IDH"), "reason"] == "fewer than 6 patients have both"
    area = areas.set_index("label").loc["SyntheticSubtype"]
    assert area["auc"] == 1 and (area["positives"], area["n"]) == (7, 15)
    assert sorted(path.stem for path in (out / "plots").glob("*.png")) == sorted(PLOTS)
    refused(call("radiogenomics", "--data", data, "--out", out), f"{out}: is not empty")
    arguments = ("--data", data, "--labels", data / "atrx.csv", "--out", out, "--overwrite")
    assert call("radiogenomics", *arguments)[0] == 0 and len(read(out)) == 2  # no area of the labels before


def test_predicted_masks_of_a_cross_validation(call, undrawn, data, predicted, tmp_path):
    run = write_tested(tmp_path / "cv", data, predicted)
    done(call("radiogenomics", "--run", run.path))
    features, associations, areas, agreement = read(run.path)
    assert set(associations["masks"]) == {"manual", "automatic"}
    table = features.set_index("patient")
    assert table.loc["SYNTH_T_1", "predicted_reason"] == "the mask is empty"
    assert table.loc["SYNTH_T_0", "predicted_components"] == 2  # the speck is counted, but not measured
    assert table.loc["SYNTH_T_0", "predicted_bevr"] == pytest.approx(table.loc["SYNTH_T_0", "bevr"], rel=0.05)
    tests = associations.set_index(["masks", "feature", "label"])
    assert tests["n"]["manual", "bevr", "SyntheticSubtype"] == tests["n"]["automatic", "bevr", "SyntheticSubtype"] == 14
    agreement = agreement.set_index("feature")
    assert agreement["n"]["bevr"] == 14 and agreement["icc"]["bevr"] > 0.95
    assert agreement["bias"]["volume"] < 0
    key = ("angular_sd", "SyntheticSubtype")
    row = tests.loc["automatic", *key]
    assert (tests.loc[:, *key]["holm_p"] < 0.05).all() and math.isnan(tests.loc["manual", "bevr", "IDH"]["holm_p"])
    effect = tests["effect"]
    assert row["difference"] == pytest.approx(effect["automatic", *key] - effect["manual", *key], abs=1e-6)
    assert math.isnan(row["difference_low"])  # 14 patients
    areas = areas[areas["label"] == "SyntheticSubtype"].set_index("masks")
    assert areas["n"]["automatic"] == 14
    assert areas["difference"]["automatic"] == areas["auc"]["automatic"] - areas["auc"]["manual"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert ">Genomics</h2>" in page and "<td>Synthetic subtype</td>" in page
    done(call("radiogenomics", "--run", run.path, "--labels", data / "atrx.csv"))  # no test is adjusted
    assert len(read(run.path)) == 3


def test_mistakes_end_with_one_message(call, folder, tmp_path):
    refused(call("radiogenomics", "--data", folder, "--out", tmp_path / "out"), "data.csv: no such file")
    assert not (tmp_path / "out").exists()
    RunFolder(tmp_path / "run").write("metrics.json", b'{"masks": "theirs"}')
    no_run = "holds scored masks, not a run. Name a run that test_model.py has tested"
    refused(call("radiogenomics", "--run", tmp_path / "run"), no_run)
