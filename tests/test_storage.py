"""The folder of a run and its checkpoints."""

import errno
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from conftest import PLAIN, contents, save_checkpoint

from dataset.folder import find_slices
from dataset.split import assign_patients, split_tables
from evaluation.selection import best_epoch
from storage import checkpoints
from storage.run_folder import RunFolder
from training.recipe import Recipe
from unet import UNet
from utils import UserError, atomic_write, new_folder

METRICS = {"training_loss": 0.5, "training_iou": 0.25, "validation_loss": 0.75, "validation_iou": 0.125}
METRICS |= {"resolution": 1.0}
SETTINGS = {**vars(Recipe(width=2)), "precision": "fp32"}
CONFIG = {"settings": SETTINGS, "versions": {"torch": "x"}, "synthetic": True}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def make_writer(run: RunFolder, **options) -> checkpoints.Writer:
    model = UNet(width=2)
    return checkpoints.Writer(run, model, torch.optim.Adam(model.parameters()), CONFIG, **options)


def save(run: RunFolder, epoch: int = 1, **metrics) -> UNet:
    torch.manual_seed(epoch)
    model = UNet(width=2)
    save_checkpoint(run, model, {"epoch": epoch, **METRICS, **metrics}, CONFIG)
    return model


def test_a_checkpoint_holds_metrics_network_input_and_settings_and_rebuilds_its_network(run):
    model = save(run, epoch=7, resolution=0.5).eval()
    content = torch.load(run.checkpoint(7), weights_only=True)  # with nothing allowed beyond PyTorch's own list
    assert content["epoch"] == 7 and {name: content[name] for name in METRICS} == METRICS | {"resolution": 0.5}
    assert content["network"] == {"channels": 3, "classes": 1, "width": 2, "bilinear": False, "pixel_unshuffle": 1}
    assert content["input"] == {"size": 256, **PLAIN, "resolution": 0.5, "threshold": 0.5, "min_component": 0}
    assert content["config"] == CONFIG
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(image), checkpoints.load_network(run.checkpoint(7))[0](image))


def test_keep_deletes_checkpoints_and_their_metrics_stay_and_other_files_are_ignored(run):
    writer = make_writer(run, choose_kept=lambda epochs: {int(epochs["validation_iou"].idxmax()) + 1})
    for epoch, score in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.1)):
        writer.save_epoch({"epoch": epoch, **METRICS, "validation_iou": score})
    for name in ("epoch_x.pt", "epoch_03.pt", "epoch_3.pt.bak", "notes.txt", ".epoch_11.pt.1.tmp", "best.pt"):
        (run.models / name).write_bytes(b"not a checkpoint")
    assert list(run.checkpoints()) == [2, 4]  # the best and the newest
    epochs, table = checkpoints.read_epochs(run), pd.read_csv(run.path / "epochs.csv")
    assert table.equals(epochs[list(table)]) and epochs["epoch"].tolist() == [1, 2, 3, 4]
    assert epochs["validation_iou"].tolist() == [0.5, 0.7, 0.6, 0.1]
    assert epochs["saved"].tolist() == [False, True, False, True]
    run.checkpoint(2).unlink()  # by hand
    assert best_epoch(checkpoints.read_epochs(run)) == 4


def test_an_epoch_without_its_optimiser_state_is_trained_again(run):
    save(run)
    state_after_1 = run.resume.read_bytes()
    save(run, epoch=2)
    run.resume.write_bytes(state_after_1)  # killed between epoch_2.pt and resume.pt
    resumed = make_writer(run)
    assert resumed.resume() == 1 and resumed.epochs["epoch"].tolist() == [1]
    run.checkpoint(2).unlink()
    run.resume.unlink()  # killed between epoch_1.pt and resume.pt
    assert make_writer(run).resume() == 0
    run.checkpoint(1).rename(run.checkpoint(3))
    with pytest.raises(UserError, match=r"resume.pt: no such file"):
        make_writer(run).resume()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("code of the file was run",)


def rewrite(path: Path, change) -> None:
    content = checkpoints.read_checkpoint(path)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda p: p.write_bytes(p.read_bytes()[:2000]), "damaged or no checkpoint"),
    (lambda p: torch.save({"format": checkpoints.FORMAT, "epoch": 1}, p), "is no checkpoint of this version"),
    (lambda p: torch.save(Evil(), p), "damaged or no checkpoint"),
    (lambda p: shutil.move(p, p.with_name("epoch_4.pt")), "damaged or no checkpoint .*No such file"),
    (lambda p: rewrite(p, lambda content: content["weights"].pop("head.bias")), "do not fit its network"),
    (lambda p: rewrite(p, lambda content: content["weights"]["head.bias"].fill_(float("nan"))), "not finite"),
])  # fmt: skip
def test_a_damaged_checkpoint_is_one_error_and_runs_nothing(run, tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    save(run)
    spoil(run.checkpoint(1))
    with pytest.raises(UserError, match=message):
        checkpoints.load_network(run.checkpoint(checkpoints.read_epochs(run)["epoch"].iloc[0]))
    assert list(tmp_path.iterdir()) == [run.path]


def test_a_full_disk_names_the_file_and_half_a_write_changes_nothing(run, monkeypatch):
    writer = make_writer(run)
    writer.save_epoch({"epoch": 1, **METRICS})
    before = contents(run.path)

    def full(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"could not be written: No space left.*epoch_2.pt"):
        writer.save_epoch({"epoch": 2, **METRICS})
    with pytest.raises(KeyboardInterrupt), atomic_write(run.checkpoint(1)) as file:
        file.write(b"half of another")
        raise KeyboardInterrupt
    assert contents(run.path) == before


def test_a_new_folder_appears_complete_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "set") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "set") as folder:
        (folder / "file").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "set", tmp_path / "set" / "file"]
    with pytest.raises(UserError, match="is there already"), new_folder(tmp_path / "set"):
        pass


def test_split_tables_survive_the_round_trip_and_an_edit(folder, run):
    table = find_slices(folder)
    tables = split_tables(table, assign_patients(table["patient"]))
    run.begin(CONFIG, tables)
    for split, rows in tables.items():
        assert run.read_split_table(split).equals(rows)
    path = run.path / "train.csv"
    assert b"\r" not in path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b",", b";").replace(b"\n", b"\r\n"))
    assert run.read_split_table("train").equals(tables["train"])  # saved by a spreadsheet
    run.write("train.csv", tables["train"].sort_values("image_path", ascending=False))
    assert run.read_split_table("train").equals(tables["train"])  # sorted by it: neighbours stand together


def test_tables_of_numbers_are_read_as_a_spreadsheet_saves_them(run):
    table = pd.DataFrame({"patient": ["001", "NA"], "dice": [0.5, -12.25], "hd95": [1.5, None], "sequences": "all"})
    text = table.to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n")
    run.write("test_patients.csv", b"\xef\xbb\xbf" + text.encode())
    pd.testing.assert_frame_equal(run.read_test_table("patients"), table)
    run.write("epochs.csv", b"epoch;training_loss\n1;0,25\n2;\n")
    assert run.read_epochs_table()["training_loss"].tolist()[0] == 0.25


def test_a_folder_that_is_no_run_is_told_what_helps(tmp_path):
    cv = RunFolder(tmp_path / "cv")
    cv.write("metrics.json", {})
    (cv.path / "fold_1").mkdir()
    for read in (cv.read_config, lambda: checkpoints.read_epochs(cv)):
        with pytest.raises(UserError, match="holds the folds of a cross-validation"):
            read()
    with pytest.raises(UserError, match="with --run, or replace it with --overwrite"):  # nothing to --resume
        cv.refuse_used()


def test_a_run_killed_as_it_begins_is_none_to_go_on_with(tmp_path, monkeypatch):
    run, tables = RunFolder(tmp_path / "run"), {"train": pd.DataFrame({"patient": ["P"]})}
    monkeypatch.setattr("storage.run_folder.to_csv", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.begin({}, tables)
    assert not run.exists()
