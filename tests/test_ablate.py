"""Variants with equal budgets, compared on the validation patients."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
from conftest import box, make_slices

import ablate
from constants import SEED
from training.engine import count_flop
from training.recipes import REFERENCE

TWO = {
    "base": ("--epochs", "2", "--width", "2", "--batch-size", "4"),
    "with a stem": ("--epochs", "2", "--width", "2", "--batch-size", "4", "--stem", "2", "--flips"),
}


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Run other scripts in this process, and keep what they were called with."""
    called = []

    def run(script: str, *arguments) -> None:
        called.append([script, *map(str, arguments)])
        importlib.import_module(script.removesuffix(".py")).main([str(argument) for argument in arguments])

    monkeypatch.setattr(ablate, "call_script", run)
    monkeypatch.setitem(ablate.STUDIES, "screen", TWO)
    return called


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path / "ablation.csv").set_index("variant")


def test_a_study_trains_scores_and_goes_on(call, folder, tmp_path, calls):
    options = ("screen", "--data", folder, "--run", tmp_path / "runs")
    assert call("ablate", *options, "--only", "base")[0] == 0
    first = table(tmp_path / "runs")
    assert len(calls) == 1 and first.index.tolist() == ["base"] and first["epochs"].tolist() == [2]

    code, out, _ = call("ablate", *options)
    found = table(tmp_path / "runs")
    assert code == 0 and "with a stem" in out and len(calls) == 2  # the base was not trained again
    pd.testing.assert_frame_equal(found.loc[["base"]], first)
    assert found.loc["base", "difference"] == 0
    assert found["slices"].tolist() == [2 * 9, 2 * 9]  # three patients of five with three slices each
    assert found.loc["base", "tflop"] > 3 * found.loc["with a stem", "tflop"] > 0
    assert (tmp_path / "runs" / "recall.png").read_bytes().startswith(b"\x89PNG")
    expected = found.loc["with a stem", "patient_dice"] - found.loc["base", "patient_dice"]
    assert found.loc["with a stem", "difference"] == pytest.approx(expected)


def test_runs_of_other_settings_or_patients_are_no_part_of_a_study(call, folder, tmp_path, calls):
    options = ("screen", "--data", folder, "--run", tmp_path / "runs", "--only", "base")
    assert call("ablate", *options, "--epochs", 1)[0] == 0  # a quick trial
    code, _, err = call("ablate", *options)
    assert code == 2 and f"base_{SEED}: holds a run with epochs 1, not 2. Name another folder" in err
    split = tmp_path / "split.csv"
    parts = ("train", "test", "validation", "train", "train")
    split.write_text("patient,split\n" + "".join(f"SYNTH_T_{n},{part}\n" for n, part in enumerate(parts)))
    code, _, err = call("ablate", *options, "--epochs", 1, "--split", split)
    assert code == 2 and "other train patients" in err and len(calls) == 1


def test_the_time_to_a_quality():
    epochs = pd.DataFrame({"seconds": [60.0, 120, 60, 60], "validation_patient_dice": [0.2, 0.71, 0.69, 0.75]})
    assert [ablate.minutes_to(dice, epochs) for dice in (0.7, 0.75)] == [3, 5]
    assert pd.isna(ablate.minutes_to(0.8, epochs))


def test_the_cost_of_training_by_hand():
    """Of 10 slices 4 have tumour, and half of the others are drawn: 7 are seen, ten times."""
    settings = REFERENCE | {"width": 4, "epochs": 10, "empty_share": 0.5, "seed": 1}
    slices = make_slices({"A": [box((0, 0, 9, 9))] * 4 + [box()] * 6})
    epochs = pd.DataFrame({"epoch": range(1, 11)})
    plain = ablate.training_cost(settings, epochs, slices)
    network = {"channels": 3, "classes": 1, "width": 4, "bilinear": False, "stem": 1}
    assert plain == {"slices": 70, "tflop": pytest.approx(3 * 70 * count_flop(network, 256, 256) / 1e12)}
    assert ablate.training_cost(settings | {"by_patient": 0.1}, epochs, slices) == plain
    growing = ablate.training_cost(settings | {"growing": True}, epochs, slices)
    assert growing["tflop"] / plain["tflop"] == pytest.approx((3 / 4 + 3 * 9 / 16 + 4) / 10)  # of the pixels


def test_an_unknown_variant_is_one_error(call, calls):
    code, _, err = call("ablate", "screen", "--only", "nothing")
    assert code == 2 and "screen has no nothing (base, with a stem)" in err and calls == []
