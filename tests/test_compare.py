"""Comparing runs, choosing epochs, and cross-validation, as from the command line."""

import argparse
import importlib
import json
import sys

import data
import pandas as pd
import pytest
import runs
from conftest import make_patients

import cross_validate
import train_model
from dataset.split import SPLITS, assign_fold
from evaluation import summary
from utils import UserError, to_csv

QUICK = ("--width", 2, "--batch-size", 8, "--device", "cpu")


def write_run(folder, dice: dict[str, float]) -> None:
    """The files of a tested run, with the given Dice and made-up other figures of each patient."""
    folder.mkdir(parents=True)
    patients = pd.DataFrame({"patient": list(dice), "dice": list(dice.values())})
    for name in ("iou", "sensitivity", "precision", "surface_dice_1", "surface_dice_2", "surface_dice_3", "hd95"):
        patients[name] = patients["dice"] / 2
    patients.loc[0, "hd95"] = float("nan")
    for name in summary.FILES.values():
        (folder / name).write_text(to_csv(patients))


def test_a_difference_is_found_and_the_p_is_exact(call, tmp_path):
    names = [f"TCGA_AA_{n}_1" for n in range(8)]
    write_run(tmp_path / "a", {name: 0.5 + 0.01 * n for n, name in enumerate(names)})
    write_run(tmp_path / "b", {name: 0.6 + 0.012 * n for n, name in enumerate(names)})
    code, out, err = call("compare_runs", tmp_path / "a", tmp_path / "b")
    assert (code, err) == (0, "") and "SYNTHETIC" not in out
    dice = next(line.split() for line in out.splitlines() if line.startswith("dice"))
    assert dice[1:5] == ["8", "0.535", "0.642", "+0.107"] and dice[-1] == "0.0078"  # 2 / 2**8: all differ one way
    assert next(line.split() for line in out.splitlines() if line.startswith("hd95"))[1] == "7"  # one has none
    assert "B has the higher volumetric Dice (p 0.0078)" in out
    code, out, _ = call("compare_runs", tmp_path / "a", tmp_path / "a")
    assert code == 0 and "No difference in volumetric Dice is shown (p 1)" in out


def test_two_patients_cannot_show_anything(call, tmp_path):
    for run, dice in (("a", 0.1), ("b", 0.9)):
        write_run(tmp_path / run, {"SYNTH_XX_1_1": dice, "SYNTH_XX_2_1": dice})
    code, out, _ = call("compare_runs", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "With 2 patient(s) no difference at all can be shown" in out and "SYNTHETIC" in out


def test_runs_that_cannot_be_compared(call, tmp_path):
    write_run(tmp_path / "a", {"p": 0.1, "q": 0.2})
    write_run(tmp_path / "b", {"p": 0.1, "r": 0.2})
    code, _, err = call("compare_runs", tmp_path / "a", tmp_path / "b")
    assert code == 2 and "tested on different patients; 2 are in one of them only (q, r)" in err
    code, _, err = call("compare_runs", tmp_path / "a", tmp_path / "c")
    assert code == 2 and "test_results.csv: no such file. Run test_model.py" in err
    (tmp_path / "b" / "test_patients.csv").write_text("x,y\n1,2\n")
    code, _, err = call("compare_runs", tmp_path / "a", tmp_path / "b")
    assert code == 2 and "has no columns patient and dice" in err
    (tmp_path / "b" / "test_patients.csv").write_bytes(b"\xff\xfe\x00")
    assert call("compare_runs", tmp_path / "a", tmp_path / "b")[0] == 2


# --- Choosing the epoch ------------------------------------------------------------------------------------------


def epochs(found, tumour_iou) -> pd.DataFrame:
    numbers = range(1, len(found) + 1)
    return pd.DataFrame(
        {"epoch": numbers, "validation_tumour_found": found, "validation_tumour_iou": tumour_iou}, index=[7, 8, 9]
    )


def test_warnings_name_the_better_epoch():
    table = epochs([0.2, 0.9, 0.8], [0.1, 0.5, 0.56])
    said = runs.selection_warning(table, 1)
    assert said.startswith("warning: epoch 1 finds only 20% of the validation tumour slices")
    assert "epoch 3 is better on the validation tumour slices: IoU 0.560, epoch 1 has 0.100" in said
    assert runs.selection_warning(table, 2) == "warning: " + said[said.index("epoch 3") :].replace(
        "epoch 1 has 0.100", "epoch 2 has 0.500"
    )
    assert runs.selection_warning(table, 3) == ""
    assert runs.selection_warning(epochs([0.9] * 3, [0.5, 0.55, 0.54]), 1) == ""  # not clearly better
    assert runs.selection_warning(epochs([float("nan")] * 3, [float("nan")] * 3), 1) == ""  # no tumour in validation


def test_select_by_and_tune(call, undrawn, folder, tmp_path):
    run = tmp_path / "run"
    assert call("train_model", "--data", folder, "--run", run, "--epochs", 3, *QUICK)[0] == 0
    assert call("process_models", "--run", run)[0] == 0
    table = pd.read_csv(run / "epochs.csv")
    for by, best in (("loss", "idxmin"), ("tumour_iou", "idxmax"), ("patient_dice", "idxmax")):
        code, out, err = call("test_model", "--run", run, "--select-by", by, "--device", "cpu")
        card = json.loads((run / "metrics.json").read_text())
        expected = table.loc[getattr(table[f"validation_{by}"], best)(), "epoch"]
        assert (code, err) == (0, "") and card["selected_by"] == by
        assert card["epoch"] == expected and f"epoch {expected} of 3" in out
        assert (card["threshold"], card["min_component"], card["tuned"]) == (0.5, 0, None)

    before = (run / "test.csv").read_bytes()
    code, out, err = call("test_model", "--run", run, "--select-by", "patient_dice", "--tune", "--device", "cpu")
    card = json.loads((run / "metrics.json").read_text())
    assert (
        (code, err) == (0, "") and "tuned on 1 validation patients" in out and f"threshold {card['threshold']:g}" in out
    )
    assert card["tuned"]["split"] == "validation" and card["tuned"]["tuned"] >= card["tuned"]["untuned"]
    assert card["tuned"]["untuned"] == pytest.approx(table["validation_patient_dice"].max(), abs=1e-6)
    assert (run / "test.csv").read_bytes() == before
    slices = pd.read_csv(run / "test_results.csv")
    assert card["iou"] == pytest.approx(slices["iou"].mean(), abs=1e-6)


def test_a_figure_that_no_epoch_has_cannot_choose(call, undrawn, tmp_path):
    make_patients(tmp_path / "data", patients=4, slices=1)
    for path in (tmp_path / "data").glob("*/*_mask.tif"):  # no tumour in anyone
        data.Image.new("L", (256, 256)).save(path)
    run = tmp_path / "run"
    assert call("train_model", "--data", tmp_path / "data", "--run", run, "--epochs", 1, *QUICK)[0] == 0
    code, _, err = call("test_model", "--run", run, "--select-by", "tumour_iou")
    assert code == 2 and "--select-by tumour_iou: no epoch has this figure" in err
    assert call("test_model", "--run", run, "--device", "cpu")[0] == 0
    assert json.loads((run / "metrics.json").read_text())["tumour_iou"] is None


# --- Cross-validation --------------------------------------------------------------------------------------------


def test_folds_cover_each_patient_once():
    patients = [f"P{n:03d}" for n in range(110)]
    folds = [assign_fold(patients[::-1], k, 5) for k in range(1, 6)]
    tested = [p for fold in folds for p, split in fold.items() if split == "test"]
    assert sorted(tested) == patients
    for fold in folds:
        sizes = [list(fold.values()).count(split) for split in SPLITS]
        assert sorted(fold) == patients and sizes == [70, 18, 22]
    assert assign_fold(patients, 2, 5) == folds[1]  # the order in which they are found plays no part


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "1", "a/b", "-1/5", "1/5/2", "1.0/5"])
def test_what_is_no_fold(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not K/N"):
        train_model.fold(text)
    assert train_model.fold("5/5") == (5, 5)


def test_too_few_patients_for_the_folds():
    assert set(assign_fold("abc", 1, 3).values()) == set(SPLITS)
    for patients, folds in (("abc", 4), ("ab", 2), ("abc", 2)):
        with pytest.raises(UserError, match="too few"):
            assign_fold(patients, 1, folds)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are laid out but not drawn, which takes most of the time of a test run; other tests look at them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)


@pytest.fixture
def inside(monkeypatch, undrawn):
    """Run the scripts of the folds in this process, and write down which were called."""
    mains = {"train_model.py": "train_model", "process_models.py": "process_models", "test_model.py": "test_model"}
    calls = []

    def run(script, *arguments):
        calls.append((script, *map(str, arguments)))
        monkeypatch.setattr(sys, "argv", list(calls[-1]))
        importlib.import_module(mains[script]).main()

    monkeypatch.setattr(cross_validate, "call", run)
    return calls


def trainings(calls: list) -> list[str]:
    return ["resume" if "--resume" in c else c[c.index("--fold") + 1] for c in calls if c[0] == "train_model.py"]


def test_cross_validation_pools_resumes_and_refuses(call, inside, folder, tmp_path):
    run = tmp_path / "cv"
    options = ("--folds", 2, "--run", run, "--data", folder, *QUICK)
    code, out, err = call("cross_validate", *options, "--epochs", 1)
    assert (code, err) == (0, "") and "all 2 folds together" in out and "SYNTHETIC" in out
    assert trainings(inside) == ["1/2", "2/2"]
    patients = pd.read_csv(run / "test_patients.csv")
    assert sorted(patients["patient"]) == [f"SYNTH_T_{n}" for n in range(5)]
    each = pd.concat([pd.read_csv(run / f"fold_{k}" / "test_patients.csv") for k in (1, 2)], ignore_index=True)
    pd.testing.assert_frame_equal(patients.drop(columns="fold"), each)
    card = json.loads((run / "metrics.json").read_text())
    assert card["patients"] == 5 and card["slices"] == 15 and card["synthetic"] is True
    assert card["patient_dice"] == pytest.approx(patients["dice"].mean(), abs=1e-6)
    cards = [json.loads((run / f"fold_{k}" / "metrics.json").read_text()) for k in (1, 2)]
    assert card["loss"] == pytest.approx(sum(c["loss"] * c["slices"] for c in cards) / 15)
    assert card["intervals"]["patient_dice"]["n"] == 5
    assert all(patient in (run / "report.html").read_text() for patient in patients["patient"])

    inside.clear()  # again: nothing is left to train; more epochs: both go on
    code, out, _ = call("cross_validate", *options)
    assert code == 0 and trainings(inside) == [] and out.count("trained already, 1 epochs") == 2
    assert json.loads((run / "metrics.json").read_text()) == card
    (run / "fold_2" / "test_patients.csv").unlink()
    assert call("cross_validate", *options, "--epochs", 2)[0] == 0 and trainings(inside) == ["resume"] * 2
    assert sorted(p.name for p in (run / "fold_2" / "models").glob("epoch_*")) == ["epoch_1.pt", "epoch_2.pt"]

    inside.clear()
    code, _, err = call("cross_validate", *options, "--lr", 0.5)
    assert code == 2 and "lr 0.001, not 0.5" in err
    make_patients(folder, patients=6)
    code, _, err = call("cross_validate", *options)
    assert code == 2 and "other" in err and "patients" in err
    code, _, err = call("cross_validate", "--folds", 2, "--run", run / "fold_1", "--data", folder)
    assert code == 2 and "holds a run of its own" in err
    assert inside == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "at least 2 are needed"),
        (["--fold", "1/5"], "--fold: set for each fold"),
        (["--split", "x.csv"], "--split: set for each fold"),
        (["--resume"], "--resume: set for each fold"),
        (["--epochs", "none"], "invalid positive int value"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--epochs", "none"], "[--select-by"),  # its own usage, not that of train_model.py
    ],
)
def test_mistakes_of_cross_validation_are_found_before_anything_runs(
    call, inside, folder, tmp_path, arguments, message
):
    code, _, err = call("cross_validate", "--run", tmp_path / "cv", "--data", folder, *arguments)
    assert code == 2 and message in err and inside == [] and not (tmp_path / "cv").exists()


def test_a_script_that_fails_stops_the_cross_validation(tmp_path):
    with pytest.raises(UserError, match=r"process_models\.py stopped \(exit code 2, see above\)"):
        cross_validate.call("process_models.py", "--run", tmp_path)


def test_train_model_takes_a_fold(call, folder, tmp_path):
    run = tmp_path / "run"
    assert call("train_model", "--data", folder, "--run", run, "--fold", "2/5", "--epochs", 1, *QUICK)[0] == 0
    expected = assign_fold([f"SYNTH_T_{n}" for n in range(5)], 2, 5)
    for split in SPLITS:
        assert set(data.read_table(run, split)["patient"]) == {p for p, s in expected.items() if s == split}
    code, _, err = call("train_model", "--run", run, "--resume", "--fold", "2/5")
    assert code == 2 and "--fold (the split is the one it began with)" in err
    code, _, err = call("train_model", "--data", folder, "--run", run, "--fold", "2/5", "--split", "x.csv")
    assert code == 2 and "exclude each other" in err
    code, _, err = call("train_model", "--data", folder, "--run", run, "--fold", "6/5")
    assert code == 2 and "--fold: 6/5 is not K/N with 1 <= K <= N and N >= 2, such as 2/5" in err
