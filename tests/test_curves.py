"""The learning curves that are drawn while a run is trained."""

import threading

import pandas as pd
import pytest

from reporting import curves
from reporting.curves import Curves, need_tensorboard
from storage.run_folder import RunFolder
from utils import UserError


def record(epoch):
    metrics = ("loss", "iou", "tumour_iou", "empty_prediction")
    names = (f"{split}_{name}" for split in ("training", "validation") for name in metrics)
    return {"epoch": epoch, **dict.fromkeys(names, 1 / epoch)}


@pytest.fixture
def drawn(monkeypatch):
    """Return the numbers of epochs that were drawn, and what a drawing waits for."""
    counts, ready = [], threading.Event()

    def draw(epochs, chosen):
        ready.wait()
        counts.append((len(epochs), chosen))
        return {}

    monkeypatch.setattr(curves, "training_plots", draw)
    return counts, ready


def test_training_does_not_wait_for_a_drawing_and_the_last_shows_all(tmp_path, drawn):
    counts, ready = drawn
    live = Curves(RunFolder(tmp_path), pd.DataFrame([record(1)]))
    for epoch in (2, 3, 4):
        live.add(record(epoch))  # the first is still being drawn
    ready.set()
    live.finish()
    assert counts == [(2, 1), (4, 1)]


def test_a_drawing_that_took_long_is_not_repeated_soon(tmp_path, drawn, monkeypatch):
    counts, ready = drawn
    ready.set()
    now = iter([0.0, 0.0, 3.0, 3.0, 62.9, 63.0])  # add; begin, end, end; add, add
    live = Curves(RunFolder(tmp_path), pd.DataFrame())
    monkeypatch.setattr(curves.time, "monotonic", lambda: next(now, 63.0))
    live.add(record(1))
    live.drawing.result()
    live.add(record(2))  # 59.9 s after a drawing of 3 s
    live.add(record(3))  # 60 s after it
    live.drawing.result()
    assert counts == [(1, 1), (3, 1)]


def test_plots_are_those_of_process_models(tmp_path):
    live = Curves(RunFolder(tmp_path), pd.DataFrame(), "a note")
    live.add(record(1))
    live.finish()
    assert sorted(RunFolder(tmp_path).files()) == [
        f"plots/{name}.{end}" for name in ("iou", "loss") for end in ("png", "svg")
    ]


def test_what_goes_wrong_in_a_drawing_is_raised(tmp_path, monkeypatch):
    (tmp_path / "plots").write_text("a file")
    live = Curves(RunFolder(tmp_path), pd.DataFrame())
    live.add(record(1))
    with pytest.raises(OSError, match="plots"):
        live.finish()


def test_without_its_package_tensorboard_is_refused(monkeypatch):
    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package tensorboard"):
        need_tensorboard()


def test_tensorboard_gets_each_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    live = Curves(RunFolder(tmp_path), pd.DataFrame(), tensorboard=True)
    for epoch in (1, 2):
        live.add(record(epoch))
    live.finish()
    [folder] = (tmp_path / "tensorboard").iterdir()
    log = EventAccumulator(str(folder)).Reload()
    assert [(event.step, event.value) for event in log.Scalars("validation/loss")] == [(1, 1.0), (2, 0.5)]
