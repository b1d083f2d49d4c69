"""Checkpoints -> results.csv (loss and IoU of each epoch) and the learning curves in plots/.

    python process_models.py --run runs/first

The curves mark the epoch that was tested, or before any test the one with the best validation IoU (without
validation patients, the last one). Works while training is still running.
"""

import argparse

import constants
from utils import counted, existing, run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=existing, default=constants.RUN_DIR, metavar="DIR", help="folder of the run (%(default)s)")
    args = parser.parse_args(argv)
    from evaluation.selection import best_epoch, selection_warning, usual_criterion
    from evaluation.summary import HEADLINES, metric_rows
    from reporting import plots
    from storage import checkpoints
    from storage.run_folder import RESULT_COLUMNS, RunFolder

    run = RunFolder(args.run)
    epochs = checkpoints.read_epochs(run)
    best, by = best_epoch(epochs), usual_criterion(epochs)
    notice = constants.SYNTHETIC_NOTICE if run.read_config()["synthetic"] else ""
    run.write("results.csv", epochs[RESULT_COLUMNS])
    if run.is_tested():
        best, by = (run.read_metrics()[name] for name in ("epoch", "selected_by"))
    plots.write_plots(run, plots.training_plots(epochs, best, by), notice)

    if notice:
        print(notice)
    chosen = epochs.loc[epochs["epoch"] == best].iloc[0]
    print(f"{counted(len(epochs), 'epoch')}; chosen: epoch {best}, {constants.CRITERIA[by]}")
    if by != "last":
        validated = {name.removeprefix("validation_"): value for name, value in chosen.items()}
        for row in metric_rows(validated, HEADLINES):
            print(f"  {row['label']:<46}{row['text']:>7}")
    if warning := selection_warning(epochs, best):
        print(warning)
    print(f"written to {run}: results.csv, plots/loss.png, plots/iou.png; further metrics in epochs.csv")


if __name__ == "__main__":
    run_script(main)
