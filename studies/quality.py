"""What the expected Dice of a cross-validation is worth: for all patients, for kinds of them, and in other forms.

    python -m studies.quality --run runs/cv --forms runs/robustness_cv/robustness.csv

Each patient is judged by a regression on other patients: ten groups at random, or all other institutions. In other
forms (studies/robustness.py) the regression knows the other patients as they are. Prints the table and the worst
over-estimates.
"""

import argparse
from pathlib import Path

import pandas as pd

from evaluation import quality
from storage.run_folder import RunFolder
from utils import UserError, existing, run_script, show_number, to_markdown

COLUMNS = ("patients", "unknown", "mean_error", "r", "coverage", "bad", "auc", "bad_in_worst_10", "bad_in_worst_20",
           "dice_all", "kept_dice")  # fmt: skip
THIRDS = ("smallest third", "middle third", "largest third")  # by the volume of the reference mask
WORST = 5  # over-estimates that are listed


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a tested run or cross-validation")
    parser.add_argument("--forms", type=existing, metavar="FILE", help="robustness.csv of the same cross-validation")
    args = parser.parse_args(argv)
    run = RunFolder(args.run)
    patients = run.read_test_table("patients").set_index("patient")
    rows = quality.to_table(run.read_metrics().get("quality", {}).get("patients", []))
    if len(rows) < quality.FEWEST:
        raise UserError(f"{run}: {len(rows)} patients with probabilities are too few. Name a larger cross-validation.")
    judged = quality.predict_held_out(rows, rows)
    institution = rows["patient"].map(patients["institution"])
    apart = quality.predict_held_out(rows, rows, dict(zip(rows["patient"], institution, strict=True)))
    third = pd.qcut(rows["patient"].map(patients["tumour_pixels"]).rank(method="first"), 3, labels=THIRDS)
    groups = {"all": judged}
    groups |= {name: judged[third == name] for name in THIRDS}
    groups["all, institution left out"] = apart
    groups |= {f"{name} left out": own for name, own in apart.groupby(institution)}
    if args.forms:
        table = pd.read_csv(args.forms, dtype={"patient": str})
        groups |= {f: quality.predict_held_out(rows, own) for f, own in table.groupby("form", sort=False)}
    print(describe(groups))
    over = (judged["expected_dice"] - judged["dice"]).nlargest(WORST)
    for row in judged.loc[over.index].itertuples():
        print(f"over-estimated: {row.patient}, Dice {row.dice:.3f}, expected {row.expected_dice:.3f}")


def describe(groups: dict[str, pd.DataFrame]) -> str:
    """Return the table of quality.judge, one group a row."""
    rows = []
    for name, own in groups.items():
        judged = quality.judge(own)
        rows.append([name, *(v if isinstance(v := judged[column], int) else show_number(v) for column in COLUMNS)])
    return to_markdown(["group", *(column.replace("_", " ") for column in COLUMNS)], rows)


if __name__ == "__main__":
    run_script(main)
