"""Cross-validation: its folds, what it hands on and refuses, pooling, and signals."""

import argparse
import importlib
import os
import signal

import pandas as pd
import pytest
from conftest import make_patients

import cross_validate
import utils
from dataset.split import SPLITS, assign_fold
from storage import checkpoints
from storage.run_folder import RunFolder
from training import options
from utils import UserError

QUICK = ("--width", 2, "--batch-size", 8, "--device", "cpu")


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


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "1", "a/b", "-1/5", "1/5/2", "1.0/5"])
def test_what_is_no_fold(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not K/N"):
        options.fold(text)
    assert options.fold("5/5") == (5, 5)


@pytest.fixture
def calls(monkeypatch):
    """Run nothing; return what would be called."""
    recorded = []
    monkeypatch.setattr(cross_validate, "call_script", lambda *arguments: recorded.append(tuple(map(str, arguments))))
    monkeypatch.setattr(cross_validate, "pool", lambda *_: None)
    return recorded


def trainings(calls: list) -> list[str]:
    return ["resume" if "--resume" in c else c[c.index("--fold") + 1] for c in calls if c[0] == "train_model.py"]


def test_two_folds_from_end_to_end(call, request, monkeypatch, tmp_path):
    """All scripts in this process; then what the same and other commands would do."""

    def run_here(script: str, *arguments) -> None:
        importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])

    monkeypatch.setattr(cross_validate, "call_script", run_here)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)  # drawing takes most of the time
    folder = make_patients(tmp_path / "kaggle_3m", patients=4, slices=2)
    run = RunFolder(tmp_path / "cv")
    options = ("--folds", 2, "--run", run, "--data", folder, *QUICK)
    killed, write = [True], checkpoints._write

    def write_and_die(run, path, content) -> None:
        if path.name == "resume.pt" and killed:
            killed.clear()
            raise KeyboardInterrupt
        write(run, path, content)

    monkeypatch.setattr(checkpoints, "_write", write_and_die)
    assert call("cross_validate", *options, "--epochs", 2)[0] == 130
    fold = RunFolder(run.path / "fold_1")
    assert fold.newest_epoch() == 1 and not fold.resume.exists()
    (fold.path / "notes.txt").write_text("of the user")
    code, out, err = call("cross_validate", *options, "--epochs", 2)  # epoch 1 is trained again
    assert (code, err) == (0, "") and "resumed after epoch 0" in out and (fold.path / "notes.txt").exists()
    assert "all 2 folds together" in out and "SYNTHETIC" in out
    folds = [RunFolder(run.path / f"fold_{k}") for k in (1, 2)]
    patients = run.read_test_tables()["patients"]
    assert sorted(patients["patient"]) == [f"SYNTH_T_{n}" for n in range(4)]
    each = pd.concat([fold.read_test_tables()["patients"] for fold in folds], ignore_index=True)
    pd.testing.assert_frame_equal(patients.drop(columns="fold"), each)
    metrics, results = run.read_metrics(), [fold.read_metrics() for fold in folds]
    assert (metrics["patients"], metrics["slices"], metrics["synthetic"]) == (4, 8, True)
    assert metrics["patient_dice"] == pytest.approx(patients["dice"].mean(), abs=1e-6)
    assert metrics["loss"] == pytest.approx(sum(r["loss"] * r["slices"] for r in results) / 8)
    assert metrics["intervals"]["patient_dice"]["n"] == 4 and [f["fold"] for f in metrics["folds"]] == [1, 2]
    assert all(patient in (run.path / "report.html").read_text() for patient in patients["patient"])

    calls = request.getfixturevalue("calls")
    folds[0].resume.unlink()  # all epochs are there
    assert call("cross_validate", *options, "--epochs", 2)[0] == 0 and trainings(calls) == []
    assert call("cross_validate", *options)[0] == 0 and trainings(calls) == ["resume"] * 2
    for epoch in (1, 2):
        folds[0].checkpoint(epoch).unlink()
    calls.clear()
    assert call("cross_validate", *options, "--epochs", 2)[0] == 0 and trainings(calls) == ["1/2"]
    assert not any("--overwrite" in words for words in calls)

    calls.clear()
    code, _, err = call("cross_validate", *options, "--lr", 0.5)
    assert code == 2 and "fold_2: holds a run with lr 0.001, not 0.5. Name another folder with --run." in err
    code, _, err = call("cross_validate", *options, "--epochs", 1)
    assert code == 2 and "fold_2: holds a run with epochs 2, not 1" in err  # folds are trained for as long
    code, _, err = call("cross_validate", "--folds", 2, "--run", folds[1], "--data", folder)
    assert code == 2 and "holds a run of its own" in err
    for own in (run.path / "metrics.json", folds[0].path / "plots" / "loss.png"):
        own.write_bytes(own.read_bytes() + b" changed by the user")
        code, _, err = call("cross_validate", *options)
        assert code == 2 and f"{own}: is there already" in err and own.read_bytes().endswith(b"user")
        own.unlink()
    make_patients(folder, patients=6)
    code, _, err = call("cross_validate", *options)
    assert code == 2 and "other train patients" in err and calls == []


def test_files_of_the_user_are_refused_before_any_fold_is_trained(call, calls, folder, tmp_path):
    for name in ("metrics.json", "report.html", "fold_2/results.csv"):
        own = tmp_path / "cv" / name
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text("mine")
        code, _, err = call("cross_validate", "--folds", 2, "--run", tmp_path / "cv", "--data", folder)
        assert code == 2 and f"{own}: is there already" in err and own.read_text() == "mine" and calls == []
        own.unlink()


def test_what_the_scripts_are_called_with(call, calls, monkeypatch, folder, tmp_path):
    monkeypatch.setattr(cross_validate, "settings_to_find", lambda *_: {})
    monkeypatch.setattr(RunFolder, "refuse_other", lambda *_: None)
    fold = RunFolder(tmp_path / "fold_1")
    fold.models.mkdir(parents=True)
    fold.claim("models/epoch_3.pt").touch()
    listed = tmp_path / "listed.txt"
    listed.write_text("\n".join(f"SYNTH_T_{n}" for n in range(4)))
    options = ("--folds", 2, "--run", tmp_path, "--data", folder, "--patients", listed, "--width", 8, "--epochs")
    assert call("cross_validate", *options, 3)[0] == 0  # the fold was killed before resume.pt of its last epoch
    assert calls[0][-6:] == ("8", "--epochs", "3", "--resume", "--epochs", "3")
    calls.clear()
    fold.append_epoch({"epoch": 3})
    assert call("cross_validate", *options, 3, "--tune", "--select-by", "loss")[0] == 0
    second = ("--run", str(tmp_path / "fold_2"), "--data", str(folder), "--device", "auto")
    training = ("--width", "8", "--epochs", "3", "--patients", str(listed), "--fold", "2/2")
    assert calls[:2] == [
        ("process_models.py", "--run", str(fold)),
        ("test_model.py", "--run", str(fold), *second[2:], "--select-by", "loss", "--tune"),
    ]
    assert calls[2] == ("train_model.py", *second, *training)
    calls.clear()
    assert call("cross_validate", *options, 5)[0] == 0
    assert calls[0][-6:] == ("8", "--epochs", "5", "--resume", "--epochs", "5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "at least 2 are needed"),
        (["--fold", "1/5"], "--fold: set for each fold"),
        (["--split", "x.csv"], "--split: set for each fold"),
        (["--resume"], "--resume: set for each fold"),
        (["--overw"], "--overwrite: set for each fold"),  # abbreviated
        (["--epochs", "none"], "invalid positive int value"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
        (["--epochs", "none"], "[--select-by"),  # its own usage, not that of train_model.py
        (["--folds", "9"], "5 patients are too few for 9 folds"),
    ],
)
def test_mistakes_are_found_before_anything_runs(call, calls, folder, tmp_path, arguments, message):
    code, _, err = call("cross_validate", "--run", tmp_path / "cv", "--data", folder, *arguments)
    assert code == 2 and message in err and calls == [] and not (tmp_path / "cv").exists()


# --- Processes ---------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
received = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: received.append(number))
os.kill(int(sys.argv[1]), int(sys.argv[2]))
while not received:
    time.sleep(0.01)
time.sleep(0.2)  # it finishes its step, while the other waits
print("received", *received)
sys.exit(128 + received[0] if sys.argv[3] == "stops" else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("child", ["stops", "had ended anyway"])
def test_signals_are_passed_on_and_the_child_is_waited_for(monkeypatch, capfd, tmp_path, number, child):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    before = signal.signal(number, signal.SIG_DFL)  # even if whoever runs the tests ignores it, as nohup does
    try:
        with pytest.raises(SystemExit) as stop:
            utils.call_script("child.py", os.getpid(), int(number), child)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    out, err = capfd.readouterr()
    assert stop.value.code == 128 + number and out == f"received {int(number)}\n"
    assert "child.py stopped" in err and "The same command goes on from there." in err


def test_a_signal_that_is_ignored_stays_so(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text(f"import os, signal\nos.kill({os.getpid()}, signal.SIGHUP)\n")
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        utils.call_script("child.py")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("how", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)])
def test_a_script_that_fails_ends_it_with_its_exit_code(monkeypatch, capfd, tmp_path, how, code):
    (tmp_path / "child.py").write_text(f"import os, signal, sys\n{how}\n")
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    with pytest.raises(SystemExit) as stop:
        utils.call_script("child.py")
    err = capfd.readouterr().err
    assert stop.value.code == code and f"child.py stopped (exit code {code}, see above)" in err
    assert ("The same command goes on from there." in err) is (code != 2)  # not after a mistake
