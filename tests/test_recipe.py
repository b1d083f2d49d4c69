"""The recipe: its options, their values on the command line, and its description."""

import argparse
import dataclasses

import pytest

from training.recipe import RECIPES, Recipe, make_parser, make_settings
from utils import UserError, k_of_n

REFERENCE, TUNED = RECIPES["reference"], RECIPES["tuned"]


def parse(*words: str) -> Recipe:
    return Recipe.of(make_settings(make_parser().parse_args(words)))


def test_the_reference_recipe_is_the_published_run():
    assert parse() == REFERENCE
    published = {"width": 64, "epochs": 94, "batch_size": 32, "lr": 1e-3, "loss": "bce", "optimiser": "adam"}
    assert published.items() <= dataclasses.asdict(REFERENCE).items()
    assert not any(value is True for value in dataclasses.asdict(REFERENCE).values())  # every switch is off


def test_an_option_overrides_one_value_of_the_preset():
    assert parse("--recipe", "tuned") == TUNED
    asked = parse("--recipe", "tuned", "--no-crop", "--lr", "0.5", "--pixel-unshuffle", "1", "--loss", "bce")
    assert asked == dataclasses.replace(TUNED, crop=False, lr=0.5, pixel_unshuffle=1, loss="bce")


def test_settings_of_weights_go_between_recipe_and_options():
    args = make_parser().parse_args(["--weights", __file__, "--crop", "--epochs", "3"])
    needed = {"width": 16, "crop": False, "normalisation": "plain"}
    expected = dataclasses.replace(RECIPES["finetune"], width=16, normalisation="plain", epochs=3, robust=False)
    assert Recipe.of(make_settings(args, needed)) == expected and expected.crop and expected.lr == 5e-4
    args.recipe = "tuned"
    assert Recipe.of(make_settings(args, needed | {"normalisation": "head"})).lr == TUNED.lr


@pytest.mark.parametrize("options", ["--robust", "--augment --robust", "--recipe tuned --normalisation plain",
                                     "--recipe tuned --no-augment"])  # fmt: skip
def test_robust_without_what_it_needs(options):
    """Air is 0 in its images, as it is not with plain intensities; and it is a part of the augmentation."""
    with pytest.raises(UserError, match="--robust needs --augment, and --normalisation median or head"):
        make_settings(make_parser().parse_args(options.split()))


def test_every_value_of_a_recipe_has_an_option_that_takes_it():
    for recipe in RECIPES.values():
        words = []
        for name, value in dataclasses.asdict(recipe).items():
            option = name.replace("_", "-")
            words += [f"--{'' if value else 'no-'}{option}"] if type(value) is bool else [f"--{option}", str(value)]
        assert parse(*words) == recipe


def test_a_recipe_in_words():
    assert str(TUNED) == "tuned"
    assert str(dataclasses.replace(TUNED, width=16, crop=False)) == "tuned, with width 16, crop False"
    assert str(Recipe(width=16)) == "reference, with width 16"
    assert Recipe.of(dataclasses.asdict(TUNED) | {"seed": 1, "precision": "fp32"}) == TUNED


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "1", "1.0/5"])
def test_texts_that_are_no_fold(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not K/N"):
        k_of_n(text)
    assert k_of_n("5/5") == (5, 5)
