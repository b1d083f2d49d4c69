"""The folder of a run and its checkpoints."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import PLAIN, save_checkpoint

from dataset.folder import find_slices
from dataset.split import assign_patients, split_tables
from evaluation.selection import best_epoch
from storage import checkpoints, owned_folder
from storage.run_folder import REPLACED, RunFolder
from training.recipes import REFERENCE
from unet import UNet
from utils import UserError, atomic_write

METRICS = {"training_loss": 0.5, "training_iou": 0.25, "validation_loss": 0.75, "validation_iou": 0.125}
METRICS |= {"resolution": 1.0}
SETTINGS = {**REFERENCE, "width": 2, "precision": "fp32"}
CONFIG = {"settings": SETTINGS, "versions": {"torch": "x"}, "synthetic": True}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def save(run: RunFolder, epoch: int = 1, **metrics) -> UNet:
    torch.manual_seed(epoch)
    model = UNet(width=2)
    save_checkpoint(run, model, {"epoch": epoch, **METRICS, **metrics}, CONFIG)
    return model


def test_a_checkpoint_rebuilds_its_network(run):
    model = save(run).eval()
    rebuilt = checkpoints.load_network(run.checkpoint(1))[0]
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(image), rebuilt(image))


def test_a_checkpoint_holds_metrics_network_input_and_settings(run):
    save(run, epoch=7)
    content = torch.load(run.checkpoint(7), weights_only=True)  # with nothing allowed beyond PyTorch's own list
    assert content["epoch"] == 7 and {name: content[name] for name in METRICS} == METRICS
    assert content["network"] == {"channels": 3, "classes": 1, "width": 2, "bilinear": False, "stem": 1}
    assert content["input"] == {"size": 256, **PLAIN, "threshold": 0.5, "min_component": 0, "precision": "fp32"}
    assert content["config"] == CONFIG


def test_epochs_are_sorted_and_other_files_ignored(run):
    for epoch, score in ((10, 0.6), (9, 0.6), (2, 0.1)):
        save(run, epoch=epoch, validation_iou=score)
    for name in ("epoch_x.pt", "epoch_03.pt", "epoch_3.pt.bak", "notes.txt", ".epoch_11.pt.1.tmp", "best.pt"):
        (run.models / name).write_bytes(b"not a checkpoint")
    epochs = checkpoints.read_epochs(run)
    assert epochs["epoch"].tolist() == [2, 9, 10]
    assert epochs["validation_iou"].tolist() == [0.1, 0.6, 0.6]
    assert best_epoch(epochs) == 9  # the earliest of equals


def test_each_epoch_appends_a_line_to_epochs_csv(run):
    for epoch in (1, 2, 3):
        save(run, epoch=epoch)
    appended = pd.read_csv(run.path / "epochs.csv")
    assert appended["epoch"].tolist() == [1, 2, 3]
    assert appended.equals(checkpoints.read_epochs(run)[list(appended)])
    model = UNet(width=2)
    checkpoints.Writer(run, model, torch.optim.Adam(model.parameters()), CONFIG).resume_after(2)
    assert pd.read_csv(run.path / "epochs.csv")["epoch"].tolist() == [1, 2]


def test_resuming_does_what_a_killed_process_left_undone(run):
    for epoch in (1, 2, 3):
        model = save(run, epoch=epoch)
    (run.path / "epochs.csv").unlink()
    run.previous.write(REPLACED, b"")
    run.previous.write("config.json", b"{}")
    optimiser = torch.optim.Adam(model.parameters())
    checkpoints.Writer(run, model, optimiser, CONFIG, kept=lambda epochs: set()).resume_after(2)
    with_weights = [n for n, path in run.checkpoints().items() if checkpoints.read_checkpoint(path)["weights"]]
    assert with_weights == [2, 3]  # epoch 3, which has no optimiser's state yet, is no reason to drop epoch 2
    assert pd.read_csv(run.path / "epochs.csv")["epoch"].tolist() == [1, 2] and not run.previous.path.exists()


def test_resuming_restores_weights_and_optimiser(run):
    model = UNet(width=2)
    optimiser = torch.optim.Adam(model.parameters())
    for epoch in (1, 2):
        model(torch.randn(2, 3, 16, 16)).mean().backward()
        optimiser.step()
        with run.locked():
            checkpoints.Writer(run, model, optimiser, CONFIG).save_epoch({"epoch": epoch, **METRICS})
    other = UNet(width=2)
    other_optimiser = torch.optim.Adam(other.parameters())
    assert checkpoints.restore(run, other, other_optimiser) == 2
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    state, other_state = optimiser.state_dict()["state"], other_optimiser.state_dict()["state"]
    assert all(torch.equal(state[k]["exp_avg_sq"], other_state[k]["exp_avg_sq"]) for k in state)


def test_an_epoch_without_its_optimiser_state_is_trained_again(run):
    model = save(run)
    optimiser = torch.optim.Adam(model.parameters())
    state_after_1 = run.resume.read_bytes()
    save(run, epoch=2)
    run.resume.write_bytes(state_after_1)  # killed between epoch_2.pt and resume.pt
    assert checkpoints.restore(run, model, optimiser) == 1
    run.checkpoint(2).unlink()
    run.resume.unlink()  # killed between epoch_1.pt and resume.pt
    assert checkpoints.restore(run, model, optimiser) == 0
    run.checkpoint(1).rename(run.checkpoint(3))
    with pytest.raises(UserError, match=r"resume.pt: no such file"):
        checkpoints.restore(run, model, optimiser)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_MARK"],)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:2000]), "damaged or no checkpoint"),
        (lambda p: p.write_bytes(b""), "damaged or no checkpoint"),
        (lambda p: p.write_bytes(b"<html>404</html>" * 100), "damaged or no checkpoint"),
        (lambda p: torch.save({"weights": {}}, p), "no checkpoint of this project"),
        (lambda p: torch.save([1, 2], p), "no checkpoint of this project"),
        (lambda p: torch.save({"format": checkpoints.FORMAT, "epoch": 1}, p), "lacks network"),
        (lambda p: torch.save(Evil(), p), "damaged or no checkpoint"),
        (lambda p: shutil.move(p, p.with_name("epoch_4.pt")), "holds epoch 1"),
    ],
)
def test_a_damaged_checkpoint_is_one_error_and_runs_nothing(run, tmp_path, monkeypatch, spoil, message):
    mark = tmp_path / "code of the file was run"
    monkeypatch.setenv("EVIL_MARK", str(mark))
    save(run)
    spoil(run.checkpoint(1))
    with pytest.raises(UserError, match=message):
        checkpoints.read_epochs(run)
    assert not mark.exists()


def test_a_checkpoint_of_an_earlier_version_was_at_the_whole_resolution(run):
    save(run, resolution=0.5)
    assert checkpoints.load_network(run.checkpoint(1))[1]["input"]["resolution"] == 0.5
    content = torch.load(run.checkpoint(1), weights_only=True)
    del content["resolution"], content["input"]["resolution"]
    torch.save(content, run.checkpoint(1))
    assert checkpoints.load_network(run.checkpoint(1))[1]["input"]["resolution"] == 1.0
    assert checkpoints.read_epochs(run)["resolution"].tolist() == [1.0]


def test_weights_of_another_network_are_refused(run):
    save(run)
    content = checkpoints.read_checkpoint(run.checkpoint(1))
    content["network"]["width"] = 4
    torch.save(content, run.checkpoint(1))
    with pytest.raises(UserError, match="do not fit its network"):
        checkpoints.load_network(run.checkpoint(1))


def test_files_that_are_no_network(run):
    with pytest.raises(UserError, match="holds no checkpoints"):
        checkpoints.read_epochs(run)
    save(run)
    with pytest.raises(UserError, match=r"resume.pt: holds the optimiser's state.*Name an epoch_N.pt"):
        checkpoints.load_network(run.resume)
    with pytest.raises(UserError, match=r"models: is a folder. Name one of its files epoch_N.pt"):
        checkpoints.load_network(run.models)
    with pytest.raises(UserError, match=r"epoch_9.pt: no such file. Name another"):
        checkpoints.load_network(run.checkpoint(9))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# --- Tables of a run -------------------------------------------------------------------------------------------


def test_split_tables_survive_the_round_trip(folder, run):
    table = find_slices(folder)
    tables = split_tables(table, assign_patients(table["patient"]))
    run.begin(CONFIG, tables)
    for split, part in tables.items():
        assert run.read_split_table(split).equals(part)
    assert b"\r" not in (run.path / "train.csv").read_bytes()
    content = (run.path / "train.csv").read_bytes()
    (run.path / "train.csv").write_bytes(content[: content.rindex(b"SYNTH")])  # cut at a line
    with pytest.raises(UserError, match=r"train.csv: is damaged, or has been changed"):
        run.read_split_table("train")


@pytest.mark.parametrize(
    "path", ["../secret.tif", "P/../../secret.tif", "/etc/passwd", "C:\\x.tif", "P\\..\\..\\x.tif"]
)
def test_paths_that_leave_the_data_folder_are_refused(run, path):
    run.write("test.csv", f"patient,image_path,mask_path\nP,P/P_1.tif,{path}\n".encode())
    with pytest.raises(UserError, match="leaves the data folder"):
        run.read_split_table("test")


# --- Nobody's files --------------------------------------------------------------------------------------------


DIGEST = "0" * 64


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["config.json", "results.csv", "plots/loss.png", "models/epoch_1.pt", "train.csv"])
def test_a_folder_with_files_of_the_user_under_our_names_is_refused(run, name):
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=f"{name}: is there already, and was not written by this project"):
            run.refuse_used(overwrite)
    with pytest.raises(UserError, match="is there already"):
        run.write(name, b"ours")
    assert (run.path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.json", "ablation.csv", "shape_features.csv"])
def test_results_of_other_commands_are_replaced_only_when_asked(run, name):
    run.write("config.json", b"{}")
    run.write("patients.txt", b"p")
    run.refuse_used()  # a run that did not finish an epoch
    run.write(name, b"of a cross-validation, or of others' masks")
    with pytest.raises(UserError, match=f"holds results, such as {name}. Name another folder"):
        run.refuse_used()
    run.refuse_used(overwrite=True)


def test_a_file_stays_ours_however_often_writing_the_next_fails(run, monkeypatch):
    @contextlib.contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, "full")
        yield

    run.write("report.html", b"first")
    with monkeypatch.context() as disk:
        disk.setattr(owned_folder, "atomic_write", full)
        for content in (b"second", b"third", b"fourth"):
            with pytest.raises(OSError, match="full"):
                run.write("report.html", content)
    assert run.read("report.html", "") == b"first"
    run.write("report.html", b"fifth")
    assert run.files() == ["report.html"] and run.read("report.html", "") == b"fifth"


@pytest.mark.skipif(os.name == "nt", reason="locks in another way")
def test_a_file_system_without_locks_is_not_taken_for_another_process(run, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", missing)
    with (
        pytest.raises(UserError, match=r"cannot lock files \(Function not implemented\), .* on another disk"),
        run.locked(),
    ):
        pass


def test_a_file_of_ours_that_the_user_has_changed_is_the_users(run):
    run.write("results.csv", b"ours")
    run.write("results.csv", b"ours, newer")
    (run.path / "results.csv").write_text("mine")
    for action in (lambda: run.write("results.csv", b"x"), lambda: run.read("results.csv", ""), run.refuse_used):
        with pytest.raises(UserError, match=r"results.csv: is (there already|damaged)"):
            action()
    run.remove()
    assert (run.path / "results.csv").read_text() == "mine"


def test_a_replaced_run_stays_in_previous_until_the_first_new_epoch(run):
    run.begin({"old": 1}, {"train": pd.DataFrame({"patient": ["a"]})})
    save(run)
    (run.path / "notes.txt").write_text("mine")
    (run.models / "epoch_7.pt.bak").write_text("mine")
    old = run.checkpoint(1).read_bytes()
    run.refuse_used(overwrite=True)
    run.begin(CONFIG, {})
    assert run.checkpoints() == {} and run.read_config() == CONFIG
    assert (run.path / "previous" / "models" / "epoch_1.pt").read_bytes() == old
    assert (run.path / "previous" / "train.csv").is_file()
    save(run)
    left = set(contents(run.path)) - {"models/.lock"}
    assert left == {
        *("manifest.json", ".manifest.lock", "config.json", "epochs.csv", "models/epoch_1.pt", "models/resume.pt"),
        *("notes.txt", "models/epoch_7.pt.bak"),
    }


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_folder_previous_of_the_user_is_left_alone(run, tmp_path, with_manifest):
    run.begin({"old": 1}, {})
    save(run)
    shutil.copytree(run.path, tmp_path / "copy")  # kept by the user, with or without the list of our files
    (tmp_path / "copy").rename(run.previous.path)
    if not with_manifest:
        (run.previous.path / "manifest.json").unlink()
    before, theirs = contents(run.path), contents(run.previous.path)
    with pytest.raises(UserError, match=r"previous(/config.json)?.*: (holds a run that|is there already)"):
        run.begin(CONFIG, {})
    assert contents(run.path) == before
    save(run, epoch=2)
    assert contents(run.previous.path) == theirs


@pytest.mark.parametrize(
    "files",
    [
        ["results.csv"],
        {"results.csv": DIGEST},
        {"results.csv": [1]},
        {"results.csv": [DIGEST[1:]]},
        {"../mine": [DIGEST]},
    ],
)
def test_a_manifest_of_another_form_is_refused(run, files):
    run.path.mkdir()
    (run.path / "manifest.json").write_text(json.dumps({"format": owned_folder.FORMAT, "files": files}))
    for action in (run.files, run.remove, lambda: run.write("results.csv", b"")):
        with pytest.raises(UserError, match=r"manifest.json: cannot be read .it is no list of files below it"):
            action()


@pytest.mark.parametrize("clean", [lambda run: run.remove_temporaries(), lambda run: run.write("results.csv", b"new")])
def test_half_written_files_of_a_killed_process_are_removed_and_others_are_not(run, clean):
    run.write("results.csv", b"ours")
    for name in (".manifest.json.12.tmp", ".results.csv.12.tmp", ".mine.csv.12.tmp", "results.csv.tmp"):
        (run.path / name).write_text("half")
    clean(run)
    assert set(contents(run.path)) == {
        "manifest.json",
        ".manifest.lock",
        "results.csv",
        ".mine.csv.12.tmp",
        "results.csv.tmp",
    }


def test_a_folder_that_was_removed_is_not_written_to_by_the_process_that_locked_it(run):
    with run.locked():
        shutil.rmtree(run.path)
        run.models.mkdir(parents=True)
        with pytest.raises(UserError, match="was removed or replaced"):
            run.refuse_replaced()
