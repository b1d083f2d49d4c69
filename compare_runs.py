"""Compare two tested runs on the same patients: which is better, and is the difference more than chance?

    python compare_runs.py runs/first runs/second

Reads test_patients.csv of both, written by test_model.py, cross_validate.py or score_masks.py. Each patient is compared
with itself: p is that of a paired permutation test over patients.
"""

import argparse
from pathlib import Path

from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="folder of a tested run")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_arguments)


import textwrap

import pandas as pd

from constants import SYNTHETIC_NOTICE
from dataset.synthetic import any_synthetic
from evaluation import intervals
from evaluation.summary import METRICS
from evaluation.tables import PATIENT_METRICS, SURFACE_DICE
from storage.run_folder import RunFolder
from utils import UserError, run_script, show_number

COMPARED = (*PATIENT_METRICS, *SURFACE_DICE, "hd95")  # columns of test_patients.csv


def main(argv: list[str] | None = None) -> None:
    first, second = map(RunFolder, parse_arguments(argv).runs)
    pairs = pair(first, second)
    if any_synthetic(pairs):
        print(SYNTHETIC_NOTICE)
    print(f"A: {first}\nB: {second}\n{len(pairs)} patients; each metric over those that have it in both runs\n")
    few = f"below {intervals.FEWEST} patients, each"
    print(f"{'':36}patients       A       B   B - A       p   95% confidence interval; {few}")
    results = compare(pairs)
    for column, row in results.items():
        metric = METRICS[f"patient_{column}" if column in PATIENT_METRICS else column]
        forms = {"a": ".3f", "b": ".3f", "value": "+.3f", "p": ".4f"}
        numbers = "".join(f"{show_number(row[name], form):>8}" for name, form in forms.items())
        print(f"{metric.label:<36}{row['n']:8d}{numbers}   {intervals.show_interval(row, '+.3f')}".rstrip())
    print(f"\n{textwrap.fill(verdict(results['dice']), 118)}")


def pair(first: RunFolder, second: RunFolder) -> pd.DataFrame:
    """Return one row per patient with the columns of both runs, ending in _a and _b.

    Raises: UserError unless both runs were tested on the same patients, with the same reference masks.
    """
    a, b = (run.read_test_tables()["patients"] for run in (first, second))
    only_one = sorted(set(a["patient"]) ^ set(b["patient"]))
    if only_one:
        shown = ", ".join(only_one[:5]) + (", ..." if len(only_one) > 5 else "")
        raise UserError(
            f"{first} and {second}: tested on different patients; {len(only_one)} are in only one of them ({shown}). "
            "Test or score both on the same patients: --split of train_model.py, --patients of score_masks.py."
        )
    pairs = a.merge(b, on="patient", suffixes=("_a", "_b"), validate="one_to_one")
    same = (pairs["slices_a"] == pairs["slices_b"]) & (pairs["tumour_pixels_a"] == pairs["tumour_pixels_b"])
    if not same.all():
        raise UserError(
            f"{first} and {second}: judged by different reference masks of {(~same).sum()} patients, such as "
            f"{pairs['patient'][~same].iloc[0]}. Score both against the same ones, at the same size of the slices."
        )
    return pairs


def compare(pairs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return for each of COMPARED: means a and b, the mean of b - a as of intervals.estimate, and its p."""
    results = {}
    for column in COMPARED:
        difference = pairs[f"{column}_b"] - pairs[f"{column}_a"]
        both = pairs[difference.notna()]
        results[column] = intervals.estimate(pairs["patient"], difference, scale=intervals.DIFFERENCE) | {
            "a": float(both[f"{column}_a"].mean()),
            "b": float(both[f"{column}_b"].mean()),
            "p": intervals.paired_permutation(difference.dropna().to_numpy(float)),
        }
    return results


def verdict(dice: dict[str, float]) -> str:
    """Return what the comparison of the volumetric Dice, the main metric, shows and cannot show."""
    patients, p = dice["n"], dice["p"]
    smallest = intervals.smallest_p(patients)
    if smallest > 0.05:
        return f"{patients} patient(s) cannot show any difference: the smallest possible p is {smallest:.3g}."
    said = f"No difference in volumetric Dice is shown (p {p:.3g})."
    if p <= 0.05:
        said = f"{'B' if dice['value'] > 0 else 'A'} has the higher volumetric Dice (p {p:.2g})."
    half = (dice["high"] - dice["low"]) / 2  # NaN where all patients differ by the same
    if half > intervals.SMALL_DIFFERENCE:
        said += (
            f" The 95% confidence interval extends {half:.3f} to each side: a difference of "
            f"{intervals.SMALL_DIFFERENCE} cannot be shown."
        )
    return f"{said} {len(COMPARED)} metrics were compared: one of them alone below 0.05 says little."


if __name__ == "__main__":
    run_script(main)
