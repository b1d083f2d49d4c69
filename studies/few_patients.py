"""How many patients of one's own are needed? Each institution is left out, and then learned from few of its patients.

    python -m studies.few_patients --data kaggle_3m --out runs/few

For each institution, a network learns from the patients of all others (--recipe tuned). It is tested as it is, and
after it went on with 3, 6 and 12 patients of the institution (--recipe finetune); beside it, a network that learned
from these alone. The test patients are the others of the institution; each draw has its own. A quick trial: --epochs 2
--width 4. The same command goes on where it stopped. Writes OUT/few.csv, one row per network and test patient, and
OUT/few.png, and prints the means.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from constants import SEED
from dataset.folder import find_folder, find_slices
from dataset.published import institution
from evaluation.intervals import estimate, show_interval
from reporting import plots
from storage.run_folder import RunFolder
from utils import UserError, existing, positive, run_python, run_script, to_csv, write_text

PROJECT = Path(__file__).resolve().parents[1]
OTHERS, WENT_ON, ALONE = "others", "others, then few", "few alone"
COLORS = {OTHERS: plots.GREY, WENT_ON: plots.BLUE, ALONE: plots.ORANGE}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--institutions", nargs="+", default=["CS", "DU", "FG", "HT"], metavar="CODE", help="(%(default)s)")
    add("--patients", type=positive(int), nargs="+", default=[3, 6, 12], metavar="N", help="(%(default)s)")
    add("--draws", type=positive(int), default=3, metavar="N", help="of the few patients (%(default)s)")
    add("--epochs", type=positive(int), help="of all networks, for a quick trial")
    add("--width", type=positive(int), help="of all networks, for a quick trial")
    add("--out", type=Path, required=True, metavar="DIR", help="where the runs and the results go")
    args = parser.parse_args(argv)
    trial = [text for name in ("epochs", "width") if (v := getattr(args, name)) for text in (f"--{name}", str(v))]
    folder = find_folder(args.data)
    patients = sorted(set(find_slices(folder)["patient"]))
    tables = []
    for code in args.institutions:
        own = [patient for patient in patients if institution(patient) == code]
        if len(own) <= max(args.patients):
            raise UserError(f"{code}: has {len(own)} patients. Leave it out, or ask for fewer with --patients.")
        rest = [patient for patient in patients if patient not in own]
        run = args.out / code
        tested = score(run / "others", folder, rest, own, "--recipe", "tuned", *trial)
        weights = newest(run / "others")
        for draw in range(args.draws):
            order = np.random.default_rng((SEED, draw)).permutation(own).tolist()
            test, few = order[max(args.patients) :], order[: max(args.patients)]
            about = {"institution": code, "draw": draw}
            tables.append(tested[tested["patient"].isin(test)].assign(**about, few=0, network=OTHERS))
            for count in args.patients:
                names = {WENT_ON: ("--weights", weights, "--recipe", "finetune"), ALONE: ("--recipe", "tuned")}
                for network, options in names.items():
                    name = f"{'went_on' if network == WENT_ON else 'alone'}_{count}_{draw}"
                    scored = score(run / name, folder, few[:count], test, *options, *trial)
                    tables.append(scored.assign(**about, few=count, network=network))
            write_text(args.out / "few.csv", to_csv(pd.concat(tables)))
    table = pd.concat(tables)
    print(describe(table))
    (args.out / "few.png").write_bytes(plots.to_png(draw_means(table).figure, plots.DPI))


def score(run: Path, folder: Path, train: list[str], test: list[str], *options: object) -> pd.DataFrame:
    """Train on some patients and test on others, unless that is done. Returns patient and Dice."""
    rows = [f"{name},{split}\n" for split, names in (("train", train), ("test", test)) for name in names]
    write_text(run / "split.csv", "patient,split\n" + "".join(rows))
    write_text(run / "patients.txt", "\n".join([*train, *test]))
    of_split = ("--split", run / "split.csv", "--patients", run / "patients.txt", "--no-validation", "--keep", 1)
    run_python(PROJECT / "train_model.py", "--run", run, "--data", folder, *of_split, *options, "--resume")
    if not RunFolder(run).is_tested():
        run_python(PROJECT / "test_model.py", "--run", run, "--data", folder)
    return RunFolder(run).read_test_table("patients")[["patient", "dice"]]


def newest(run: Path) -> Path:
    return RunFolder(run).checkpoint(max(RunFolder(run).checkpoints()))


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return network, few and the mean Dice of each patient over its draws."""
    return table.groupby(["network", "few", "patient"], as_index=False)["dice"].mean()


def describe(table: pd.DataFrame) -> str:
    """Return the mean Dice over patients with its 95% interval, one row per network and number of patients."""
    lines = ["| network | own patients | test patients | mean Dice (95% interval) |", "| --- | --- | --- | --- |"]
    for (network, few), own in means(table).groupby(["network", "few"]):
        result = estimate(own["patient"], own["dice"])
        lines.append(f"| {network} | {few} | {len(own)} | {result['value']:.3f} ({show_interval(result, '.3f')}) |")
    return "\n".join(lines)


def draw_means(table: pd.DataFrame) -> plots.Plot:
    """Draw the mean Dice against the number of own patients."""
    figure, axes = plots.new_axes("own patients in training", "mean Dice of the others")
    averages = means(table).groupby(["network", "few"])["dice"].mean()
    for network, color in COLORS.items():
        if network == OTHERS:
            axes.axhline(averages[OTHERS, 0], color=color, ls="--", label=network)
        else:
            axes.plot(averages[network], "o-", color=color, label=network)
    return plots.finished(figure, "", "")


if __name__ == "__main__":
    run_script(main)
