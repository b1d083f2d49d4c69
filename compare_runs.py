"""Compare two tested runs on the patients they share: which is better, and is that more than chance?

    python compare_runs.py runs/first runs/second

Reads test_patients.csv of both (test_model.py or cross_validate.py wrote them). Patients are compared with themselves:
p is that of a paired permutation test over patients.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from constants import SYNTHETIC_NOTICE
from dataset.synthetic import any_synthetic
from evaluation import bootstrap, summary
from evaluation.bootstrap import Mean
from evaluation.tables import PATIENT_MEANS, SURFACE_DICE
from utils import UserError, run_script, show_number

FIGURES = (*PATIENT_MEANS, *SURFACE_DICE, "hd95")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="folder of a tested run")
    return parser.parse_args()


def main() -> None:
    first, second = parse_arguments().runs
    pairs = pair(first, second)
    if any_synthetic(pairs):
        print(SYNTHETIC_NOTICE)
    print(f"A: {first}\nB: {second}\n{len(pairs)} patients; means over those that have the figure in both runs\n")
    print(f"{'':16} patients       A       B   B - A   95% interval        p")
    results = compare(pairs)
    for row in results:
        low, high = (show_number(row[end], "+.3f") for end in ("low", "high"))
        values = "".join(f"{show_number(row[name]):>8}" for name in ("a", "b"))
        difference, p = show_number(row["difference"], "+.3f"), show_number(row["p"], ".4f")
        print(f"{row['figure']:<16} {row['patients']:8d}{values}{difference:>8}   {low} to {high:<9} {p:>6}")
    print("\n" + verdict(results[0]))


def pair(first: Path, second: Path) -> pd.DataFrame:
    """A row a patient, the columns of both runs with _a and _b. Raises: UserError unless the patients are the same."""
    a, b = (summary.read_tables(run).patients for run in (first, second))
    only_one = sorted(set(a["patient"]) ^ set(b["patient"]))
    if only_one:
        shown = ", ".join(only_one[:5]) + (", ..." if len(only_one) > 5 else "")
        raise UserError(
            f"{first} and {second}: tested on different patients; {len(only_one)} are in one of them only ({shown}). "
            "Train both with the same --split, or compare two cross-validations."
        )
    return a.merge(b, on="patient", suffixes=("_a", "_b"), validate="one_to_one")


def compare(pairs: pd.DataFrame) -> list[dict]:
    """A row a figure: patients, mean of a and b, difference (b - a) with low and high (95%), and p."""
    rows = []
    for figure in FIGURES:
        both = pairs[["patient", f"{figure}_a", f"{figure}_b"]].dropna().set_axis(["patient", "a", "b"], axis=1)
        differences = both["b"] - both["a"]
        estimate = bootstrap.estimate({"difference": Mean(both["patient"], differences)})["difference"]
        rows.append(
            {
                "figure": figure,
                "patients": len(both),
                "a": float(both["a"].mean()),
                "b": float(both["b"].mean()),
                "difference": estimate["value"],
                "low": estimate["low"],
                "high": estimate["high"],
                "p": bootstrap.paired_permutation(differences.to_numpy(float)),
            }
        )
    return rows


def verdict(dice: dict) -> str:
    """What may be said about the volumetric Dice, the headline."""
    patients, p = dice["patients"], dice["p"]
    smallest = bootstrap.smallest_p(patients)
    if smallest > 0.05:
        return (
            f"With {patients} patient(s) no difference at all can be shown: "
            f"the smallest p that is possible is {smallest:.3g}."
        )
    if np.isnan(p) or p > 0.05:
        said = f"No difference in volumetric Dice is shown (p {p:.3g})."
    else:
        said = f"{'B' if dice['difference'] > 0 else 'A'} has the higher volumetric Dice (p {p:.2g})."
    half = (dice["high"] - dice["low"]) / 2
    return said + (
        f" {patients} patients pin the difference down to about {half:.3f} to each side"
        + (
            f"; a difference of {bootstrap.SMALL_DIFFERENCE} cannot be shown."
            if half > bootstrap.SMALL_DIFFERENCE
            else "."
        )
        + f" {len(FIGURES)} figures were compared, so that one of them below 0.05 alone says little."
    )


if __name__ == "__main__":
    run_script(main)
