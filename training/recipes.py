"""Recipes: everything that decides what a training learns, as one table of named values each.

`reference` is the published run. `tuned` is what earned its place in the ablation (see docs/recipe.md). Options of
train_model.py override single values.
"""

from collections.abc import Mapping
from typing import Any

from constants import BATCH_SIZE, EPOCHS, LEARNING_RATE, LOSS, WIDTH

REFERENCE: dict[str, Any] = {
    # network
    "width": WIDTH,  # channels of the first level; they double down to 16 x width
    "bilinear": False,  # interpolate on the way up
    "stem": 1,  # 2: compute at half of the resolution (pixel unshuffle)
    # input
    "normalisation": "plain",  # of intensities: dataset/preprocess.py
    "neighbours": 0,  # slices before and after, whose FLAIR is seen too
    "crop": False,  # compute the head's window only
    "augment": False,  # training/augment.py
    "empty_share": 1.0,  # of the slices without tumour, drawn anew each epoch
    "by_patient": 0.0,  # draw patients evenly, then slices by tumour pixels + this times their mean; 0: slices evenly
    "prior": False,  # begin with the logit of the share of tumour pixels, not with 0
    # optimisation
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,  # slices
    "loss": LOSS,  # training/losses.py
    "optimiser": "adam",
    "lr": LEARNING_RATE,
    "weight_decay": 0.0,
    "warm_up": 0.0,  # share of all steps in which the learning rate rises
    "cosine": False,  # then it falls to 0 as a cosine
    "ema": 0.0,  # decay per step of an average of the weights, which is what is saved and scored; 0: none
    "growing": False,  # resolution: half, then three quarters, then full
    # prediction
    "flips": False,  # average over the slice and its mirror image
}
TUNED = REFERENCE | {
    "width": 24,
    "bilinear": True,
    "stem": 2,
    "normalisation": "head",
    "neighbours": 1,
    "crop": True,
    "augment": True,
    "empty_share": 0.35,
    "by_patient": 0.5,
    "epochs": 40,
    "batch_size": 16,
    "loss": "bce+slice-dice",
    "optimiser": "adamw",
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "warm_up": 0.03,
    "cosine": True,
    "ema": 0.99,
    "growing": True,
    "flips": True,
}
RECIPES = {"reference": REFERENCE, "tuned": TUNED}
CHOICES: dict[str, tuple] = {  # what can be chosen for a value; a test compares them with the tables of functions
    "stem": (1, 2),
    "normalisation": ("plain", "head", "published"),
    "loss": ("bce", "weighted-bce", "dice", "bce+dice", "bce+slice-dice", "tversky", "focal-tversky",
             "bce+tversky-0.3", "bce+tversky", "bce+tversky-0.9"),
    "optimiser": ("adam", "adamw"),
}  # fmt: skip


def is_planned(settings: Mapping[str, Any]) -> bool:
    """Return whether a training is planned over its epochs, so that more of them would be another training."""
    return bool(settings["cosine"] or settings["growing"] or settings["warm_up"])


def name_recipe(settings: Mapping[str, Any]) -> str:
    """Return the recipe that settings are nearest to, and what differs from it: tuned, with width 16."""

    def changes(name: str) -> list[str]:
        return [f"{key} {settings[key]}" for key, value in RECIPES[name].items() if settings[key] != value]

    name = min(RECIPES, key=lambda name: len(changes(name)))
    return name + (f", with {', '.join(changes(name))}" if changes(name) else "")
