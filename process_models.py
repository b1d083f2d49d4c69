"""Checkpoints -> results.csv (loss and IoU of each epoch) and the curves in plots/.

    python process_models.py --run runs/first

Works while training still runs.
"""

import argparse
from pathlib import Path

import checkpoints
import constants
import plots
import runs
from utils import run_script, write_text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, default=Path(constants.RUN_DIR), metavar="DIR", help="folder of the run (%(default)s)")
    add("--data", metavar="DIR", help="taken so that the three scripts can be called alike; this step reads no slice")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    epochs = checkpoints.read_figures(runs.models_folder(args.run))
    best = checkpoints.best_epoch(epochs)

    write_text(args.run / "results.csv", runs.to_csv(epochs[checkpoints.RESULT_COLUMNS]))
    write_text(args.run / "epochs.csv", runs.to_csv(epochs))
    note = runs.SYNTHETIC_NOTICE if runs.is_synthetic(args.run) else ""
    plots.plot_loss(epochs, best, args.run / "plots" / "loss.png", note)
    plots.plot_iou(epochs, best, args.run / "plots" / "iou.png", note)

    if note:
        print(note)
    chosen = epochs.loc[epochs["epoch"] == best].iloc[0]
    print(f"{len(epochs)} epochs; the best validation IoU is that of epoch {best}:")
    print(f"  validation loss {chosen['validation_loss']:.4f}")
    print(runs.describe_iou({name.removeprefix("validation_"): value for name, value in chosen.items()}))
    if warning := runs.selection_warning(epochs, best):
        print(warning)
    print(f"written to {args.run}: results.csv, epochs.csv (more figures), plots/loss.png, plots/iou.png")


if __name__ == "__main__":
    run_script(main)
