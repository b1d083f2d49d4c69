"""Published runs by name: continued, copied without patients or paths, never replaced; and the table of the results."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_patients, run_here

import cross_validate
from storage import checkpoints
from storage.run_folder import RunFolder
from studies import reproduce
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
    code, out, err = again(*options)
    assert (code, err) == (0, "") and "resumed after epoch 1" in out

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


def test_of_a_cross_validation_the_masks_are_copied(again, folder, unreported, tmp_path):
    code, _, err = again("cv_tuned", "--data", folder, "--epochs", 1)
    assert (code, err) == (0, "")
    results = tmp_path / "my runs" / "reproduce" / "cv_tuned"
    record, config, metrics = read(results)
    split = "cross-validation, 5 folds"
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
