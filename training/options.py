"""The options of train_model.py, which cross_validate.py and reproduce.py take too: every knob on one screen."""

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any

import constants
from training.recipes import CHOICES, RECIPES, REFERENCE
from utils import positive, whole_number

# The options that decide the result of a run. A resumed run must have the same, except that it may have more epochs.
SETTINGS = (*REFERENCE, "seed", "mode", "precision")
OPTIONS = ("device", "compile", "keep")  # recorded too, but a resumed run may have others


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_off = {"action": argparse.BooleanOptionalAction}

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent (what download_data.py made, or synthetic)")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    add("--fold", type=fold, metavar="K/N", help="test on the K-th of N folds of the patients; see cross_validate.py")
    add("--patients", type=Path, metavar="FILE", help="use only the patients listed, one per line (all)")

    add = parser.add_argument_group("folder of the run").add_argument
    add("--run", type=Path, default=constants.RUN_DIR, metavar="DIR",
        help="where models/, CSV files and plots/ go (%(default)s)")  # fmt: skip
    add("--resume", action="store_true", help="go on after the last finished epoch of --run, with its options")
    add("--overwrite", action="store_true", help="replace the run that is in --run")
    add("--keep", type=positive(int), default=0, metavar="K",
        help="weights of the newest epoch and of the K best by each criterion of test_model.py only (all)")  # fmt: skip
    add("--tensorboard", action="store_true", help="log each epoch to DIR/tensorboard too; needs its package")

    add = parser.add_argument_group("computing").add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="(auto: bf16 where the hardware computes in it)")  # fmt: skip
    add("--mode", choices=("exact", "fast"), default="exact",
        help="exact repeats bit for bit on the same machine; fast may not (%(default)s)")  # fmt: skip
    add("--seed", type=whole_number, default=constants.SEED,
        help="of the initial weights and the order of slices; does not affect the split (%(default)s)")  # fmt: skip
    add("--compile", action="store_true", help="let torch.compile build the network: slow to start, needs a compiler")

    group = parser.add_argument_group("recipe", "each option overrides one value of --recipe, in brackets")
    group.add_argument("--recipe", choices=RECIPES, help="values of all options below (reference)")

    def add(option: str, help: str = "", **keywords: Any) -> None:
        group.add_argument(option, help=f"{help} ({values(option[2:].replace('-', '_'))})".lstrip(), **keywords)

    add("--epochs", type=positive(int), metavar="N")
    add("--batch-size", "slices per step", type=positive(int), metavar="N")
    add("--lr", "learning rate, the largest if it changes", type=positive(float), metavar="RATE")
    add("--width", "channels of the first level", type=positive(int), metavar="N")
    add("--bilinear", "interpolate on the way up, which needs 44%% fewer parameters", **on_off)
    add("--stem", "2: compute at half of the resolution (pixel unshuffle)", type=int, choices=CHOICES["stem"])
    add("--normalisation", "of intensities", choices=CHOICES["normalisation"])
    add("--neighbours", "slices before and after, whose FLAIR is seen too", type=whole_number, metavar="N",
        choices=range(constants.MOST_NEIGHBOURS + 1))  # fmt: skip
    add("--crop", "compute the head's window only", **on_off)
    add("--augment", "change the slices at random", **on_off)
    add("--empty-share", "of the slices without tumour, how many an epoch draws", type=share, metavar="SHARE")
    add("--by-patient", "draw patients evenly, then slices by tumour pixels + M times the mean; 0: all slices evenly",
        type=share, metavar="M")  # fmt: skip
    add("--prior", "begin with the share of tumour pixels as probability, not with 1/2", **on_off)
    add("--loss", choices=CHOICES["loss"], metavar="LOSS", help=", ".join(CHOICES["loss"]))
    add("--optimiser", choices=CHOICES["optimiser"])
    add("--weight-decay", type=share, metavar="SHARE")
    add("--warm-up", "share of all steps in which the learning rate rises", type=share, metavar="SHARE")
    add("--cosine", "let the learning rate fall to 0 as a cosine", **on_off)
    add("--ema", "score and save an average of the weights; 0: the weights", type=share, metavar="DECAY")
    add("--growing", "resolution: half, three quarters, full", **on_off)
    add("--flips", "tests and predictions average over the mirror image", **on_off)
    return parser


def values(name: str) -> str:
    """Return a value of the recipes in words: 94, tuned 40."""
    reference, tuned = (
        ("off", "on")[value] if type(value) is bool else f"{value:g}" if type(value) is float else str(value)
        for value in (RECIPES["reference"][name], RECIPES["tuned"][name])
    )
    return reference if tuned == reference else f"{reference}, tuned {tuned}"


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")


def fold(text: str) -> tuple[int, int]:
    """An argparse type: the text "2/5", the second of five folds, as numbers."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or not int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not K/N with 1 <= K <= N and N >= 2, such as 2/5")
    return int(match[1]), int(match[2])


def fill_in(args: argparse.Namespace) -> argparse.Namespace:
    """Give the options of the recipe that were not set the values of --recipe."""
    for name, value in RECIPES[args.recipe or "reference"].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args
