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
    "surface_dice_2": "surface_dice_2",
    "hd95": "hd95",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=existing, nargs=2, metavar="RUN", help="folder of a tested run")
    args = parser.parse_args(argv)
    import textwrap

    from constants import SYNTHETIC_NOTICE
    from dataset.synthetic import any_synthetic
    from evaluation import intervals
    from evaluation.summary import METRICS
    from storage.run_folder import RunFolder

    first, second = map(RunFolder, args.runs)
    pairs = pair(first, second)
    if any_synthetic(pairs["patient"]):
        print(SYNTHETIC_NOTICE)
    who = f"{counted(len(pairs), 'patient')}, {(pairs['tumour_pixels_a'] == 0).sum()} of them without tumour"
    print(f"A: {first}\nB: {second}\n{who}; each metric over those that have it in both\n")
    few = f"below {intervals.FEWEST} patients, each"
    print(f"{'':36}patients       A       B   B - A       p   95% confidence interval; {few}")
    for column, metric in COMPARED.items():
        difference = pairs[f"{column}_b"] - pairs[f"{column}_a"]
        means = pairs.loc[difference.notna(), [f"{column}_a", f"{column}_b"]].mean()
        estimate = intervals.estimate(pairs["patient"], difference, scale=intervals.DIFFERENCE)
        p = intervals.paired_permutation(pairs["patient"], difference)
        if column == "dice":
            said = verdict(estimate, p)
        forms = zip((*means, estimate["value"], p), (".3f", ".3f", "+.3f", ".4f"), strict=True)
        numbers = "".join(f"{show_number(value, form):>8}" for value, form in forms)
        label = METRICS[metric].label
        print(f"{label:<36}{estimate['n']:8d}{numbers}   {intervals.show_interval(estimate, '+.3f')}".rstrip())
    print(f"\n{textwrap.fill(said, 118)}")


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


def verdict(dice: dict[str, Any], p: float) -> str:
    """Return what the paired comparison of the volumetric Dice, the main metric, shows and cannot show.

    dice: see intervals.estimate.
    """
    from evaluation.intervals import FEWEST

    if dice["n"] < FEWEST:
        return f"{counted(dice['n'], 'patient')} cannot show any difference: p is above 0.05 whatever they are."
    text = f"No difference in volumetric Dice is shown (p {p:.3g})."
    if p <= 0.05:
        text = f"{'B' if dice['value'] > 0 else 'A'} has the higher volumetric Dice (p {p:.2g})."
    half = (dice["high"] - dice["low"]) / 2
    if half > 0:  # NaN where all patients differ by the same
        text += f" The paired comparison is precise to ± {half:.3f} in mean Dice: it cannot show smaller differences."
    return f"{text} {len(COMPARED)} metrics compared: one of them alone below 0.05 says little."


if __name__ == "__main__":
    run_script(main)
