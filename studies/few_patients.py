"""How many patients of one's own are needed? Each institution is left out, and then learned from few of its patients.

    python -m studies.few_patients --data kaggle_3m --out runs/few

For each institution, a network learns from the patients of all others (--recipe tuned, 20 epochs). It is tested as it
is, and after it went on with 3, 6 and 12 patients of the institution (--recipe finetune); beside it, a network that
learned from these alone (tuned, 94 epochs). At most half of the institution's patients are trained on, and up to 12 of
the others are tested, the same ones for all networks of a draw. A quick trial of all: --epochs 1 --width 4. The same
command goes on where it stopped.
Writes OUT/few.csv, one row per network and test patient, and OUT/few.png, and prints the means.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from constants import SEED
from dataset.folder import find_folder, find_slices
from dataset.published import institution
from evaluation.intervals import DIFFERENCE, estimate, show_interval
from reporting import plots
from scans.show import BLUE, ORANGE
from storage.run_folder import RunFolder
from utils import UserError, existing, positive, run_python, run_script, to_csv, to_markdown, write_text

FEW = (3, 6, 12)  # patients of an institution, at most half of its patients
DRAWS = 3  # of the few
TESTED = 12  # patients per draw, at most
OTHERS_EPOCHS = 20  # of the networks that learn from the other institutions
ALONE_EPOCHS = 94  # of those that learn from few patients alone: those of the run of 12 patients
OTHERS, WENT_ON, ALONE = "others", "others, then few", "few alone"
COLORS = {OTHERS: plots.GREY, WENT_ON: BLUE, ALONE: ORANGE}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--institutions", nargs="+", default=["CS", "DU", "FG", "HT"], metavar="CODE", help="(%(default)s)")
    add("--draws", type=positive(int), default=DRAWS, metavar="N", help="of the few patients (%(default)s)")
    add("--epochs", type=positive(int), metavar="N", help="of every training, for a quick trial")
    add("--width", type=positive(int), help="of all networks (that of the recipe)")
    add("--out", type=Path, required=True, metavar="DIR", help="where the runs and the results go")
    args = parser.parse_args(argv)
    tuned = ["--recipe", "tuned", *(["--width", args.width] if args.width else [])]
    finetune = ["--recipe", "finetune", *(["--epochs", args.epochs] if args.epochs else [])]
    folder = find_folder(args.data)
    patients = sorted(set(find_slices(folder)["patient"]))
    tables = []
    for code in args.institutions:
        own = [patient for patient in patients if institution(patient) == code]
        if len(own) < 2 * min(FEW):
            raise UserError(f"{code}: has {len(own)} patients, too few to train and to test. Leave it out.")
        rest = [patient for patient in patients if patient not in own]
        run = args.out / code
        tested = score(run / "others", folder, rest, own, *tuned, "--epochs", args.epochs or OTHERS_EPOCHS)
        others = RunFolder(run / "others")
        go_on = ("--weights", others.checkpoint(max(others.checkpoints())), *finetune)
        for draw in range(args.draws):
            order = np.random.default_rng((SEED, draw)).permutation(own).tolist()
            counts = [count for count in FEW if count <= len(own) // 2]
            few, test = order[: max(counts)], order[max(counts) :][:TESTED]
            for count in counts:
                went_on = score(run / f"went_on_{count}_{draw}", folder, few[:count], test, *go_on)
                begin_anew = (*tuned, "--epochs", args.epochs or ALONE_EPOCHS)
                alone = score(run / f"alone_{count}_{draw}", folder, few[:count], test, *begin_anew)
                scores = {OTHERS: tested[tested["patient"].isin(test)], WENT_ON: went_on, ALONE: alone}
                shared = {"institution": code, "draw": draw, "few": count}
                tables += [scored.assign(**shared, network=network) for network, scored in scores.items()]
    table = pd.concat(tables)
    write_text(args.out / "few.csv", to_csv(table))
    print(describe(table))
    (args.out / "few.png").write_bytes(plots.to_png(draw_means(table)))


def score(run: Path, folder: Path, train: list[str], test: list[str], *options: object) -> pd.DataFrame:
    """Train on some patients and test on others, unless that is done. Returns patient and Dice."""
    rows = [f"{name},{split}\n" for split, names in (("train", train), ("test", test)) for name in names]
    write_text(run / "split.csv", "patient,split\n" + "".join(rows))
    write_text(run / "patients.txt", "\n".join([*train, *test]))
    of_split = ("--split", run / "split.csv", "--patients", run / "patients.txt", "--no-validation", "--keep", 1)
    run_python("train_model.py", "--run", run, "--data", folder, *of_split, *options, "--resume")
    if not RunFolder(run).is_tested():
        run_python("test_model.py", "--run", run, "--data", folder)
    return RunFolder(run).read_test_table("patients")[["patient", "dice"]]


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Dice over the draws; rows are institution, few and patient, columns are networks."""
    return table.pivot_table("dice", ["institution", "few", "patient"], "network")[list(COLORS)]


def with_all_sizes(dice: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `means` of the patients who were tested with every number of own patients."""
    sizes = dice.index.unique("few")
    return dice.groupby("patient").filter(lambda of: len(of) == len(sizes))


def describe(table: pd.DataFrame) -> str:
    """Return the mean Dice, and what the own patients gained, with its 95% interval; all: of `with_all_sizes`."""
    dice, rows = means(table), []
    of_all = with_all_sizes(dice).groupby("few")
    groups = [*dice.groupby(["institution", "few"]), *((("all", few), of) for few, of in of_all)]
    for (code, few), of in groups:
        patients = of.index.get_level_values("patient").to_series()
        gained = estimate(patients, of[WENT_ON] - of[OTHERS], scale=DIFFERENCE)
        interval = f"{gained['value']:+.3f} ({show_interval(gained, '+.3f')})"
        rows.append([code, few, len(of), *(f"{value:.3f}" for value in of.mean()), interval])
    return to_markdown(["institution", "own patients", "tested", *COLORS, "gained (95% interval)"], rows)


def draw_means(table: pd.DataFrame) -> Figure:
    """Draw the mean Dice against the number of own patients."""
    figure, axes = plots.new_axes("own patients in training", "mean Dice of others of the institution")
    averages = with_all_sizes(means(table)).groupby("few").mean()
    for network, color in COLORS.items():
        axes.plot(averages[network], "o-", color=color, label=network)
    axes.set_xticks(averages.index)
    return plots.finished(figure, "")


if __name__ == "__main__":
    run_script(main)
