"""A recipe: every setting that decides what a network learns. The options of train_model.py are generated from it.

`reference` is the published run. `tuned` holds what gained in the ablation (docs/results.md). `finetune` goes on from
trained weights, on as few as three patients: `tuned` with FINETUNE.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import constants
from utils import UserError, existing, fraction, k_of_n, positive, whole_number

LOSSES = ("bce", "bce+dice", "bce+slice-dice", "bce+tversky")
FINETUNE = {"epochs": 8, "lr": 5e-4, "progressive_resolution": False}  # network and input are those of the weights
# Settings beside the recipe that a resumed run must share
COMPUTING = {"seed": constants.SEED, "mode": "exact", "precision": "auto"}


def _setting(
    reference: Any, tuned: Any, help: str, type: Callable[[str], Any] | None = None, choices: Any = None
) -> Any:
    metadata = {"tuned": tuned, "help": help, "type": type, "choices": choices}
    return dataclasses.field(default=reference, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings with their values in the published run, in the tuned recipe, and their meaning.

    A new kind of value needs no more than a line here and the code that reads it.
    """

    # Network
    width: int = _setting(64, 24, "channels of the first level, doubled at each of four levels", positive(int))
    bilinear: bool = _setting(False, True, "bilinear upsampling instead of up-convolutions: 44%% fewer parameters")
    pixel_unshuffle: int = _setting(1, 2, "2: compute at half of the resolution, pixels in channels", int, (1, 2))
    # Input
    normalisation: str = _setting("plain", "median", "of intensities, see dataset/preprocess.py", str,
                                  ("plain", "head", "median"))  # fmt: skip
    neighbours: int = _setting(0, 1, "FLAIR of so many slices before and after as further channels", whole_number,
                               range(constants.MOST_NEIGHBOURS + 1))  # fmt: skip
    crop: bool = _setting(False, True, "compute a window around the head only")
    augment: bool = _setting(False, True, "random augmentation, see training/augment.py")
    robust: bool = _setting(False, True, "augment with removed skulls and other contrasts of tumours, too")
    negative_fraction: float = _setting(1.0, 0.35, "fraction of the slices without tumour drawn in an epoch", fraction)
    patient_balanced: float = _setting(0.0, 0.5, "M > 0: draw patients evenly, then slices by tumour pixels + M x "
                                       "their mean; 0: slices evenly", fraction)  # fmt: skip
    # Optimisation
    epochs: int = _setting(94, 40, "", positive(int))
    batch_size: int = _setting(32, 16, "slices per step", positive(int))
    loss: str = _setting("bce", "bce+slice-dice", "see training/losses.py", str, LOSSES)
    false_negative_weight: float = _setting(0.7, 0.7, "of bce+tversky: weight of missed against false pixels", fraction)
    optimiser: str = _setting("adam", "adamw", "", str, ("adam", "adamw"))
    lr: float = _setting(1e-3, 2e-3, "learning rate, at its highest", positive(float))
    weight_decay: float = _setting(0.0, 0.01, "", fraction)
    warm_up: float = _setting(0.0, 0.03, "fraction of all steps with a rising learning rate", fraction)
    cosine: bool = _setting(False, True, "cosine decay of the learning rate to 0")
    ema: float = _setting(0.0, 0.99, "decay per step of the average of the weights, which is saved; 0: none", fraction)
    progressive_resolution: bool = _setting(False, True, "train at half, then three quarters, then full resolution")
    # Prediction
    tta_flip: bool = _setting(False, True, "average predictions of the slice and of its mirror image")
    threshold: float = _setting(constants.THRESHOLD, 0.6, "probability from which a pixel is tumour", fraction)
    min_component: int = _setting(0, 300, "remove components with fewer pixels in their largest section, or in a "
                                  "single slice", whole_number)  # fmt: skip

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Return the recipe among the settings of a run (config.json)."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})

    @property
    def has_schedule(self) -> bool:
        """Whether training is planned over its epochs: more of them would be another training."""
        return self.cosine or self.progressive_resolution or self.warm_up > 0

    def __str__(self) -> str:
        """Return the nearest recipe and the differences from it: tuned, with width 16."""
        values = dataclasses.asdict(self)
        changes = {
            name: [f"{key} {values[key]}" for key, value in dataclasses.asdict(recipe).items() if values[key] != value]
            for name, recipe in RECIPES.items()
        }
        name = min(changes, key=lambda name: len(changes[name]))
        return name + (f", with {', '.join(changes[name])}" if changes[name] else "")


RECIPES = {
    "reference": Recipe(),
    "tuned": (_TUNED := Recipe(**{field.name: field.metadata["tuned"] for field in dataclasses.fields(Recipe)})),
    "finetune": dataclasses.replace(_TUNED, **FINETUNE),
}
SETTINGS = dataclasses.asdict(RECIPES["reference"]) | COMPUTING


# --- Options ---------------------------------------------------------------------------------------------------


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of train_model.py. Settings of the recipe and COMPUTING that are not given stay unset."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("data")
    add, exclusive = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add("--data", type=existing, metavar="DIR",
        help="folder kaggle_3m or its parent (the downloaded set, or synthetic patients)")  # fmt: skip
    exclusive("--split", type=existing, metavar="FILE",
              help="CSV: patient, split and, if ids do not say it, person (the published split)")  # fmt: skip
    exclusive("--fold", type=k_of_n, metavar="K/N", help="test on the K-th of N folds of the patients")
    add("--no-validation", action="store_true",
        help="train on the validation patients, too: the last epoch is taken, and nothing is chosen")  # fmt: skip
    add("--patients", type=existing, metavar="FILE", help="use only the patients listed, one per line (all)")

    group = parser.add_argument_group("run")
    add, exclusive = group.add_argument, group.add_mutually_exclusive_group().add_argument
    add("--run", type=Path, default=Path(constants.RUN_DIR), metavar="DIR",
        help="folder of models/, tables and plots (%(default)s)")  # fmt: skip
    exclusive("--resume", action="store_true", help="go on with the run in --run, or begin it if there is none")
    exclusive("--overwrite", action="store_true", help="replace the run in --run")
    add("--weights", type=existing, metavar="FILE",
        help="begin with these weights, and with their settings of network and input")  # fmt: skip
    add("--keep", type=positive(int), default=0, metavar="K",
        help="keep the newest checkpoint and the K best by each criterion of test_model.py (all)")  # fmt: skip

    add = parser.add_argument_group("computing").add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--precision", choices=("auto", "fp32", "bf16"), default=argparse.SUPPRESS,
        help="of training (auto: bf16 where the hardware computes in it)")  # fmt: skip
    add("--mode", choices=("exact", "fast"), default=argparse.SUPPRESS,
        help="repeat bit for bit on the same machine, or not (exact)")  # fmt: skip
    add("--seed", type=whole_number, default=argparse.SUPPRESS,
        help=f"of initial weights, order and augmentation, not of the split ({constants.SEED})")  # fmt: skip

    group = parser.add_argument_group("recipe", "each option overrides one value of --recipe; values in brackets")
    group.add_argument("--recipe", choices=RECIPES, help="preset of all (reference; finetune with --weights)")
    for field in dataclasses.fields(Recipe):
        option, about = f"--{field.name.replace('_', '-')}", field.metadata
        values = {name: _show(getattr(recipe, field.name)) for name, recipe in RECIPES.items()}
        other = {"tuned": values["tuned"] != values["reference"], "finetune": field.name in FINETUNE}
        shown = [values["reference"], *(f"{name} {values[name]}" for name in other if other[name])]
        help = f"{about['help']} ({', '.join(shown)})".lstrip()
        if field.type is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help)
        else:
            metavar = None if about["type"] in (int, str) else "N" if field.type is int else "X"
            kind = {"type": about["type"], "choices": about["choices"], "metavar": metavar}
            group.add_argument(option, default=argparse.SUPPRESS, help=help, **kind)
    return parser


def _show(value: Any) -> str:
    return ("off", "on")[value] if type(value) is bool else f"{value:g}" if type(value) is float else str(value)


def chosen_settings(args: argparse.Namespace, needed: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were asked for on the command line: those of --recipe, and single options.

    needed: settings of --weights, which go before the recipe.
    """
    preset = dataclasses.asdict(RECIPES[args.recipe]) if args.recipe else {}
    given = {name: value for name, value in vars(args).items() if name in SETTINGS and value != "auto"}
    return preset | needed | given


def make_settings(args: argparse.Namespace, needed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return all settings of a new run. Raises: UserError for --robust where it has no effect, or a wrong one."""
    usual = dataclasses.asdict(RECIPES["finetune"]) if args.weights and not args.recipe else {}
    settings = SETTINGS | chosen_settings(args, usual | dict(needed or {}))
    if settings["robust"] and (settings["normalisation"] == "plain" or not settings["augment"]):
        if "robust" in vars(args) or args.recipe:
            raise UserError("--robust needs --augment, and --normalisation median or head. Add --no-robust.")
        settings["robust"] = False  # of `finetune`, with weights for plain intensities
    return settings
