"""The options of train_model.py, which cross_validate.py and reproduce.py take too: every knob on one screen."""

import argparse
import contextlib
import re
from pathlib import Path

import constants
from training.recipes import CHOICES, RECIPES, REFERENCE
from utils import positive, whole_number

# The options that decide the result of a run. A resumed run must have the same, except that it may have more epochs.
SETTINGS = (*REFERENCE, "seed", "mode", "precision")
OPTIONS = ("device", "compile", "keep")  # recorded too, but a resumed run may have others


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR",
        help="folder kaggle_3m or its parent (that of download_data.py, else synthetic patients)",
    )
    add("--run", type=Path, default=constants.RUN_DIR, metavar="DIR",
        help="where models/, CSV files and plots/ go (%(default)s)")  # fmt: skip
    add("--recipe", choices=RECIPES, help="values of the options below, from training/recipes.py (reference)")
    recipe = parser.add_argument_group("recipe", "each option overrides one value of --recipe").add_argument
    recipe("--epochs", type=positive(int))
    recipe("--batch-size", type=positive(int), help="slices per step")
    recipe("--lr", type=positive(float), help="learning rate, the largest if it changes")
    recipe("--width", type=positive(int), help="channels of the first level")
    recipe("--bilinear", action=argparse.BooleanOptionalAction,
           help="interpolate on the way up, 17.26 M instead of 31.04 M parameters")  # fmt: skip
    recipe("--stem", type=int, choices=CHOICES["stem"], help="2: compute at half of the resolution (pixel unshuffle)")
    recipe("--normalisation", choices=CHOICES["normalisation"], help="of intensities")
    recipe("--neighbours", type=whole_number, metavar="N", help="slices before and after, whose FLAIR is seen too")
    recipe("--crop", action=argparse.BooleanOptionalAction, help="compute the head's window only")
    recipe("--augment", action=argparse.BooleanOptionalAction, help="change the slices at random")
    recipe("--empty-share", type=share, help="share of the slices without tumour that an epoch draws")
    recipe("--by-patient", type=share, metavar="M",
           help="draw patients alike, then slices by tumour pixels + M times the mean; 0: all alike")  # fmt: skip
    recipe("--prior", action=argparse.BooleanOptionalAction,
           help="begin with the share of tumour pixels as probability, not with 1/2")  # fmt: skip
    recipe("--loss", choices=CHOICES["loss"])
    recipe("--optimiser", choices=CHOICES["optimiser"])
    recipe("--weight-decay", type=share)
    recipe("--warm-up", type=share, help="share of all steps in which the learning rate rises")
    recipe("--cosine", action=argparse.BooleanOptionalAction, help="let the learning rate fall to 0 as a cosine")
    recipe("--ema", type=share, metavar="DECAY", help="score and save an average of the weights; 0: the weights")
    recipe("--growing", action=argparse.BooleanOptionalAction, help="resolution: half, three quarters, full")
    recipe("--flips", action=argparse.BooleanOptionalAction,
           help="tests and predictions average over the mirror image")  # fmt: skip
    add("--seed", type=whole_number, default=constants.SEED,
        help="seed of the initial weights and batch order; does not affect the split (%(default)s)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="(auto: bf16 where the hardware computes in it)")  # fmt: skip
    add("--mode", choices=("exact", "fast"), default="exact",
        help="exact repeats bit for bit on the same machine; fast may not (%(default)s)")  # fmt: skip
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    add("--fold", type=fold, metavar="K/N", help="test on the K-th of N folds of the patients; see cross_validate.py")
    add("--patients", type=Path, metavar="FILE", help="use only the patients listed, one per line")
    add("--compile", action="store_true", help="let torch.compile build the network: slow to start, needs a compiler")
    add("--keep", type=positive(int), default=0, metavar="K",
        help="weights of the newest epoch and of the K best by each criterion of test_model.py only (all)")  # fmt: skip
    add("--tensorboard", action="store_true", help="log each epoch to DIR/tensorboard too; needs its package")
    add("--resume", action="store_true", help="go on after the last finished epoch of --run, with its options")
    add("--overwrite", action="store_true", help="replace the run that is in --run")
    return parser


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
