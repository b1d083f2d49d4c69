"""Variants with equal budgets, compared on the validation patients."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

import ablate

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
    expected = found.loc["with a stem", "patient_dice"] - found.loc["base", "patient_dice"]
    assert found.loc["with a stem", "difference"] == pytest.approx(expected)


def test_an_unknown_variant_is_one_error(call, calls):
    code, _, err = call("ablate", "screen", "--only", "nothing")
    assert code == 2 and "screen has no nothing (base, with a stem)" in err and calls == []
