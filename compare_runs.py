"""Compare two tested runs on the same patients: which is better, and is the difference statistically significant?

    python compare_runs.py runs/first runs/second

Reads test_patients.csv of both, written by test_model.py, cross_validate.py or score_masks.py. Each patient is compared
with itself: p is that of a paired permutation test over patients, and the interval is that of the paired difference,
which is narrower than the intervals of both means.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from utils import UserError, counted, existing, list_few, run_script, show_number

if TYPE_CHECKING:
    import pandas as pd

    from storage.run_folder import RunFolder

COMPARED = {  # column of test_patients.csv: metric
    **{name: f"patient_{name}" for name in ("dice", "iou", "sensitivity", "precision")},
    **{name: name for name in ("surface_dice_1", "surface_dice_2", "surface_dice_3", "hd95")},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=existing, nargs=2, metavar="RUN", help="folder of a tested run")
    args = parser.parse_args(argv)
    import textwrap

    from constants import SYNTHETIC_NOTICE
    from dataset.synthetic import any_synthetic
    from evaluation.intervals import FEWEST, show_interval
    from evaluation.summary import METRICS
    from storage.run_folder import RunFolder

    first, second = map(RunFolder, args.runs)
    pairs = pair(first, second)
    results = compare(pairs)
    if any_synthetic(pairs):
        print(SYNTHETIC_NOTICE)
    who = f"{counted(len(pairs), 'patient')}, {(pairs['tumour_pixels_a'] == 0).sum()} of them without tumour"
    print(f"A: {first}\nB: {second}\n{who}; each metric over those that have it in both\n")
    print(f"{'':36}patients       A       B   B - A       p   95% confidence interval; below {FEWEST} patients, each")
    for column, row in results.items():
        forms = {"a": ".3f", "b": ".3f", "value": "+.3f", "p": ".4f"}
        numbers = "".join(f"{show_number(row[name], form):>8}" for name, form in forms.items())
        label = METRICS[COMPARED[column]].label
        print(f"{label:<36}{row['n']:8d}{numbers}   {show_interval(row, '+.3f')}".rstrip())
    print(f"\n{textwrap.fill(verdict(results['dice'], len(results)), 118)}")


def pair(first: RunFolder, second: RunFolder) -> pd.DataFrame:
    """Return one row per patient with the columns of both runs, ending in _a and _b.

    Raises: UserError unless both runs were tested on the same patients, with the same reference masks.
    """
    a, b = (run.read_test_table("patients") for run in (first, second))
    for run, table in ((first, a), (second, b)):
        if missing := [name for name in ("patient", "slices", "tumour_pixels", *COMPARED) if name not in table]:
            raise UserError(f"{run.path / 'test_patients.csv'}: has no column {', '.join(missing)}. Test it again.")
    if only_one := sorted(set(a["patient"]) ^ set(b["patient"])):
        raise UserError(
            f"{first} and {second}: tested on different patients; {len(only_one)} are in only one of them "
            f"({list_few(only_one)}). Test or score both on the same patients (--split of train_model.py, --patients "
            "of score_masks.py)."
        )
    pairs = a.merge(b, on="patient", suffixes=("_a", "_b"), validate="one_to_one")
    same = (pairs["slices_a"] == pairs["slices_b"]) & (pairs["tumour_pixels_a"] == pairs["tumour_pixels_b"])
    if not same.all():
        raise UserError(
            f"{first} and {second}: scored against different reference masks of {(~same).sum()} patients, such as "
            f"{pairs['patient'][~same].iloc[0]}. Score both against the same ones, at the same size of the slices."
        )
    return pairs


def compare(pairs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return for each metric: means a and b, the mean of b - a (see intervals.estimate), and its p."""
    from evaluation import intervals

    results = {}
    for column in COMPARED:
        difference = pairs[f"{column}_b"] - pairs[f"{column}_a"]
        both = pairs[difference.notna()]
        results[column] = intervals.estimate(pairs["patient"], difference, scale=intervals.DIFFERENCE) | {
            "a": float(both[f"{column}_a"].mean()),
            "b": float(both[f"{column}_b"].mean()),
            "p": intervals.paired_permutation(pairs["patient"], difference),
        }
    return results


def verdict(dice: dict[str, Any], metrics: int) -> str:
    """Return what the paired comparison of the volumetric Dice, the main one of the metrics, shows and cannot show."""
    from evaluation.intervals import FEWEST

    p, half = dice["p"], (dice["high"] - dice["low"]) / 2
    if dice["n"] < FEWEST:
        return f"{counted(dice['n'], 'patient')} cannot show any difference: p is above 0.05 whatever they are."
    text = f"No difference in volumetric Dice is shown (p {p:.3g})."
    if p <= 0.05:
        text = f"{'B' if dice['value'] > 0 else 'A'} has the higher volumetric Dice (p {p:.2g})."
    if half > 0:  # NaN where all patients differ by the same
        text += f" The paired comparison is precise to ± {half:.3f} in mean Dice: it cannot show smaller differences."
    return f"{text} {metrics} metrics compared: one of them alone below 0.05 says little."


if __name__ == "__main__":
    run_script(main)
