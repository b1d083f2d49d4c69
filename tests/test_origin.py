"""What a run says about itself at its start and in config.json: disk, command, commit, recipe."""

import re
import subprocess
from types import SimpleNamespace

import pytest
from conftest import QUICK, make_patients

import train_model
from storage import checkpoints, origin
from storage.run_folder import RunFolder
from training.recipes import TUNED, name_recipe


@pytest.fixture
def folder(tmp_path):
    return make_patients(tmp_path / "kaggle_3m")


def test_what_will_not_fit_on_the_disk_is_said_at_the_start(call, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_model.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    run = tmp_path / "my run"
    code, out, err = call("train_model", "--data", folder, "--run", run, *QUICK, "--epochs", 1)
    assert (code, err) == (0, "") and f"disk        up to 0.0 GB in {run}/models: 1 epochs of 0 MB each" in out
    assert "warning: 0.0 GB are free there. Free some, or keep the best epochs only with --keep 3" in out
    assert f"Next: python process_models.py --run '{run}'" in out  # can be pasted
    config = RunFolder(run).read_config()
    assert config["command"] == f"python train_model.py --data {folder} --run '{run}' " + " ".join(map(str, QUICK)) + (
        " --epochs 1"
    )
    assert config["recipe"] == "reference, with width 2, epochs 1, batch_size 4"
    saved = checkpoints.read_checkpoint(RunFolder(run).checkpoint(1))["config"]
    assert "command" not in saved and saved["recipe"] == config["recipe"]


def test_a_recipe_is_named_by_what_differs_from_it():
    assert name_recipe(TUNED | {"seed": 3}) == "tuned"
    assert name_recipe(TUNED | {"width": 16, "epochs": 6}) == "tuned, with width 16, epochs 6"


@pytest.mark.parametrize("git", [True, False])
def test_the_commit_is_that_of_this_project_alone(monkeypatch, tmp_path, git):
    monkeypatch.setattr(origin, "PROJECT", tmp_path)
    if not git:  # a copy within somebody else's repository, which may be any folder above
        assert origin.commit() == ""
        return
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first", "--allow-empty"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        (tmp_path / "file").write_text("one")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True)
    assert re.fullmatch("[0-9a-f]{12}", origin.commit())
    (tmp_path / "file").write_text("two")
    assert origin.commit().endswith(" changed")


def test_a_resumed_run_keeps_its_command_and_names_every_commit(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    given = ["--width", 2]
    for number, (commit, expected) in enumerate([("a", "a"), ("a", "a"), ("", "a"), ("b", "a, b")]):
        monkeypatch.setattr(origin, "commit", lambda commit=commit: commit)
        found = origin.describe_origin(run, given, resumed=number > 0)
        assert found == {"command": "python train_model.py --width 2", "commit": expected}
        run.write_config(found)
        given = ["--resume"]
