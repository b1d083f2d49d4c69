"""Cross-validation: its folds, what it hands on and refuses, and pooling."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import QUICK, bright_checkpoint, done, make_patients, refused, run_here

import cross_validate
from dataset.split import SPLITS, assign_fold
from storage.run_folder import RunFolder
from training.recipe import make_parser, make_settings
from utils import UserError, run_python


def test_folds_cover_each_patient_once():
    patients = [f"P{n:03d}" for n in range(110)]
    folds = [assign_fold(patients[::-1], k, 5) for k in range(1, 6)]
    assert sorted(p for fold in folds for p, split in fold.items() if split == "test") == patients
    assert all([list(fold.values()).count(split) for split in SPLITS] == [70, 18, 22] for fold in folds)
    assert assign_fold(patients, 2, 5) == folds[1]  # the order in which they are found plays no part
    assert set(assign_fold("abc", 1, 3).values()) == set(SPLITS)
    for few, count in (("abc", 4), ("ab", 2), ("abc", 2)):
        with pytest.raises(UserError, match="too few"):
            assign_fold(few, 1, count)


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, ...]]:
    """Run nothing; return what would be called."""
    recorded = []

    def record(script, *arguments, log):
        recorded.append((Path(script).name, *map(str, arguments), *([">", log.name] if log else [])))

    monkeypatch.setattr(cross_validate, "run_python", record)
    monkeypatch.setattr(cross_validate, "pool", lambda *_: None)
    return recorded


def test_two_folds_from_end_to_end(call, monkeypatch, undrawn, tmp_path):
    """All scripts in this process; then once more, which trains nothing; then with other settings and patients."""
    monkeypatch.setattr(cross_validate, "run_python", run_here)
    folder = make_patients(tmp_path / "kaggle_3m", patients=4, slices=2)
    run = RunFolder(tmp_path / "cv")
    options = ("--folds", 2, "--run", run, "--data", folder, *QUICK)
    folds = [RunFolder(run.path / f"fold_{k}") for k in (1, 2)]
    one = ("--fold", "1/2", "--run", folds[0], "--data", folder, *QUICK, "--resume")  # elsewhere, as in a job array
    assert call("train_model", *one, "--epochs", 2)[0] == 0
    out = done(call("cross_validate", *options, "--epochs", 2, "--select-by", "loss", "--tune"))
    assert "all 2 folds together" in out and "SYNTHETIC" in out and out.count("nothing is left to do") == 1
    patients = run.read_test_tables()["patients"]
    assert sorted(patients["patient"]) == [f"SYNTH_T_{n}" for n in range(4)]
    of_folds = pd.concat([fold.read_test_tables()["patients"] for fold in folds], ignore_index=True)
    pd.testing.assert_frame_equal(patients.drop(columns="fold"), of_folds)
    metrics, results = run.read_metrics(), [fold.read_metrics() for fold in folds]
    assert all(result["selected_by"] == "loss" and result["tuned"] for result in results)
    assert sorted(row["patient"] for row in metrics["quality"]["patients"]) == sorted(patients["patient"])
    assert (metrics["patients"], metrics["slices"], metrics["synthetic"]) == (4, 8, True)
    assert metrics["patient_dice"] == pytest.approx(patients["dice"].mean(), abs=1e-6)
    assert metrics["loss"] == pytest.approx(sum(r["loss"] * r["slices"] for r in results) / 8)
    assert metrics["intervals"]["patient_dice"]["n"] == 4 and [f["fold"] for f in metrics["folds"]] == [1, 2]
    assert all(patient in (run.path / "report.html").read_text() for patient in patients["patient"])

    weights = folds[0].checkpoint(2).read_bytes()
    assert done(call("cross_validate", *options, "--epochs", 2)).count("nothing is left to do") == 2
    assert folds[0].checkpoint(2).read_bytes() == weights
    refused(call("cross_validate", "--folds", 2, "--run", folds[1], "--data", folder), "holds a run of its own")
    make_patients(folder, patients=6)
    refused(call("cross_validate", *options, "--epochs", 2), "holds a run with other train")


def test_workers_share_the_gpus(call, calls, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "listed.txt").write_text("SYNTH_T_0")
    options = ("--run", tmp_path, "--data", folder, "--patients", tmp_path / "listed.txt")
    assert call("cross_validate", "--folds", 3, *options, "--workers", 3)[0] == 0
    assert {arguments[0] for arguments in calls if "--patients" in arguments} == {"train_model.py"}
    devices = {(arguments[2][-1], arguments[6], arguments[-1]) for arguments in calls if len(arguments) > 6}
    assert devices == {("1", "cuda:0", "fold_1.log"), ("2", "cuda:1", "fold_2.log"), ("3", "cuda:0", "fold_3.log")}


@pytest.mark.parametrize("choice", [("--tune",), ("--select-by", "loss")])
def test_nothing_is_chosen_without_validation_patients(choice, call, calls, folder, tmp_path):
    code, _, err = call("cross_validate", "--run", tmp_path / "cv", "--data", folder, *choice, "--no-validation")
    assert code == 2 and "need the validation patients" in err and calls == []


def test_folds_of_other_recipes_are_refused_before_any_is_trained(call, calls, folder, tmp_path):
    first = RunFolder(tmp_path / "cv" / "fold_1")
    first.write("config.json", {"settings": make_settings(make_parser().parse_args(["--recipe", "tuned"]))})
    arguments = ("cross_validate", "--run", tmp_path / "cv", "--data", folder, "--folds", 2)
    refused(call(*arguments), "not of one recipe", "fold_1: tuned; a fold of these options: reference")
    assert calls == []
    second = RunFolder(tmp_path / "cv" / "fold_2")
    second.write("config.json", {"settings": make_settings(make_parser().parse_args([]))})
    refused(call(*arguments, "--recipe", "tuned"), "fold_1: tuned; ", "fold_2: reference)")


def test_after_a_fold_that_fails_no_other_is_begun(call, calls, monkeypatch, folder, tmp_path):
    def fail(script, *_, **__):
        calls.append(script)
        raise SystemExit(3)

    monkeypatch.setattr(cross_validate, "run_python", fail)
    assert call("cross_validate", "--run", tmp_path / "cv", "--data", folder, "--folds", 3)[0] == 3 and len(calls) == 1


def test_a_script_that_fails_ends_it_with_its_exit_code(capfd, monkeypatch, tmp_path):
    monkeypatch.setattr("utils.PROJECT", tmp_path)
    (tmp_path / "child.py").write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    run_python("child.py", 0)
    with pytest.raises(SystemExit) as stop:
        run_python("child.py", 2)
    assert stop.value.code == 2 and "child.py stopped with exit code 2" in capfd.readouterr().err


def test_final_weights_have_the_metrics_of_their_cross_validation(call, monkeypatch, undrawn, unreported, tmp_path):
    """Without validation patients the last epoch is taken, with the rules of the recipe; nothing is chosen.

    All begin with weights that have seen a patient, which the notes of its fold say.
    """
    monkeypatch.setattr(cross_validate, "run_python", run_here)
    folder = make_patients(tmp_path / "kaggle_3m", patients=4, slices=2)
    cv, final = RunFolder(tmp_path / "cv"), RunFolder(tmp_path / "final")
    known = {"training_patients": {"SYNTH_T_1": ""}, "published": False, "synthetic": True}
    weights = ("--weights", bright_checkpoint(tmp_path / "begin", **known))
    rules = ("--epochs", 2, "--threshold", 0.3, "--min-component", 7, "--keep", 1)
    recipe = ("--no-validation", *weights, *QUICK, *rules)
    out = done(call("cross_validate", "--folds", 2, "--run", cv, "--data", folder, *recipe))
    assert "2 epochs; chosen: epoch 2, the last one" in out
    fold = RunFolder(cv.path / "fold_1")
    assert [fold.read_split_table(split)["patient"].nunique() for split in SPLITS] == [2, 0, 2]
    assert fold.checkpoints().keys() == {2} and fold.read_epochs_table()["validation_loss"].isna().all()
    chosen = {"split": "test", "epoch": 2, "selected_by": "last", "threshold": 0.3, "min_component": 7, "tuned": None}
    assert chosen.items() <= fold.read_metrics().items()
    tested = cv.read_test_table("patients").set_index("patient")["fold"]
    (seen,) = (note for note in cv.read_metrics()["notes"] if "SYNTH_T_1" in note)
    start = f"fold {tested['SYNTH_T_1']}: 1 of the 2 test patients were in the training of the weights"
    assert seen.startswith(start) and start in " ".join(out.split("all 2 folds together")[1].split())

    (tmp_path / "all.csv").write_text("patient,split\n" + "".join(f"SYNTH_T_{n},train\n" for n in range(4)))
    options = ("--run", final, "--data", folder, "--split", tmp_path / "all.csv")
    refused(call("train_model", *options, *recipe[1:]), "all.csv: leaves no patient with a folder for validation")
    assert call("train_model", *options, *recipe)[0] == call("process_models", "--run", final)[0] == 0
    refused(call("test_model", "--run", final), "validation.csv: names no patients to test or tune on")
    export = ("--run", final, "--formats", "safetensors", "--metrics-of", cv)
    out = done(call("export_model", *export))
    assert "epoch 2 of" in out and "threshold 0.3, components below 7 px" in out
    metrics = cv.read_metrics()
    metrics["folds"][1]["threshold"] = 0.4
    cv.write("metrics.json", metrics)
    refused(call("export_model", *export, "--overwrite"), "its folds have another threshold than the weights")
    card = (final.path / "export" / "MODEL_CARD.md").read_text()
    assert "## Cross-validation" in card and "cross-validation, 2 folds, 4 patients, 8 slices" in card
    fold.write("config.json", (config := fold.read_config()) | {"settings": config["settings"] | {"lr": 0.5}})
    refused(call("export_model", *export, "--overwrite"), "fold_1: was trained by another recipe")
