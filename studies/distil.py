"""Train as the default weights were: `tuned`, three networks that go on from it, and one that learns from all four.

    python -m studies.distil --data kaggle_3m --no-validation --run runs/student
    python -m studies.distil --data kaggle_3m --fold 1/5 --no-validation --run runs/cv/fold_1

Other options go to train_model.py. The last network is in RUN, the others are in RUN_first, RUN_on_1, ... beside it. It
begins with the first, and its target is 0.3 of the mask and 0.7 of the mean probability of the four. The same command
goes on where it stopped. A quick trial of all: --epochs 1 --width 2.
"""

import argparse
from pathlib import Path

from storage.run_folder import RunFolder
from utils import positive, run_python, run_script

FIRST = ("--recipe", "tuned")
GO_ON = (*FIRST, "--no-progressive-resolution")
ON = {  # epochs are 10
    "on_1": (*GO_ON, "--seed", 1),
    "on_2": (*GO_ON, "--seed", 2),
    "on_3": (*GO_ON, "--seed", 4, "--no-cosine", "--lr", 0.001, "--ema", 0.998),
}
LEARN = (*GO_ON, "--seed", 5, "--lr", 0.001)


def main(argv: list[str] | None = None) -> None:
    layout = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**layout, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of the network that learns")
    parser.add_argument("--epochs", type=positive(int), metavar="N", help="of every training (40, 10 and 8)")
    args, given = parser.parse_known_args(argv)

    def train(name: str, epochs: int, *options: object) -> Path:
        """Train a network, unless that is done. Returns its last checkpoint."""
        run = RunFolder(args.run.with_name(f"{args.run.name}{name}"))
        run_python(
            "train_model.py", "--run", run, "--keep", 1, "--epochs", args.epochs or epochs, *options, *given, "--resume"
        )
        return run.checkpoint(max(run.checkpoints()))

    first = train("_first", 40, *FIRST)
    others = [train(f"_{name}", 10, "--weights", first, *options) for name, options in ON.items()]
    train("", 8, "--weights", first, *LEARN, "--teachers", first, *others)


if __name__ == "__main__":
    run_script(main)
