"""Variants with equal budgets, compared on the validation patients."""

import pandas as pd
import pytest
from conftest import box, make_slices, run_here

from studies import ablate
from studies.speed import count_flop
from training.recipe import Recipe, make_parser, make_settings

QUICK = ("--epochs", "2", "--width", "2", "--batch-size", "4")
TWO = {"base": QUICK, "half resolution": (*QUICK, "--pixel-unshuffle", "2", "--tta-flip")}


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """Run other scripts in this process; the calls, in order."""
    called = []
    monkeypatch.setattr(ablate, "run_python", lambda *arguments: called.append(arguments) or run_here(*arguments))
    monkeypatch.setitem(ablate.STUDIES, "screen", TWO)
    return called


def test_a_study_trains_scores_and_goes_on(call, folder, tmp_path, calls, capsys):
    options = ("screen", "--data", folder, "--run", tmp_path / "runs")
    assert call("studies.ablate", *options, "--only", "base")[0] == 0
    first = pd.read_csv(tmp_path / "runs" / "ablation.csv").set_index("variant")
    assert len(calls) == 1 and first.index.tolist() == ["base"] and first["epochs"].tolist() == [2]

    code, out, _ = call("studies.ablate", *options)
    table = pd.read_csv(tmp_path / "runs" / "ablation.csv").set_index("variant")
    assert code == 0 and "half resolution" in out and "nothing is left to do" in out  # the base is not trained again
    pd.testing.assert_frame_equal(table.loc[["base"]], first)
    assert table.loc["base", "difference"] == 0
    assert table["slices"].tolist() == [2 * 9, 2 * 9]  # three patients of five with three slices each
    assert table.loc["base", "tflop"] > 3 * table.loc["half resolution", "tflop"] > 0
    assert (tmp_path / "runs" / "recall.png").read_bytes().startswith(b"\x89PNG")
    expected = table.loc["half resolution", "patient_dice"] - table.loc["base", "patient_dice"]
    assert table.loc["half resolution", "difference"] == pytest.approx(expected)


def test_the_options_of_every_variant_are_understood():
    variants = [variant for study in ablate.STUDIES.values() for variant in study.items()]
    recipes = {name: Recipe.of(make_settings(make_parser().parse_args(options))) for name, options in variants}
    assert len(set(recipes.values())) == len(recipes) - 1  # "without Dice of each slice" is "bce+dice"
    assert recipes["base"].width == 16 and recipes["false negatives 0.9"].false_negative_weight == 0.9


def test_the_cost_of_training_by_hand():
    """Of 10 slices 4 have tumour, and half of the others are drawn: 7 are seen, ten times."""
    settings = vars(Recipe(width=4, epochs=10, negative_fraction=0.5)) | {"seed": 1}
    slices = make_slices({"A": [box((0, 0, 9, 9))] * 4 + [box()] * 6})
    epochs = pd.DataFrame({"epoch": range(1, 11)})
    plain = ablate.training_cost(settings, epochs, slices)
    network = {"channels": 3, "classes": 1, "width": 4, "bilinear": False, "pixel_unshuffle": 1}
    assert plain == {"slices": 70, "tflop": pytest.approx(3 * 70 * count_flop(network, 256, 256) / 1e12)}
    assert ablate.training_cost(settings | {"patient_balanced": 0.1}, epochs, slices) == plain
    growing = ablate.training_cost(settings | {"progressive_resolution": True}, epochs, slices)
    assert growing["tflop"] / plain["tflop"] == pytest.approx((3 / 4 + 3 * 9 / 16 + 4) / 10)  # of the pixels
