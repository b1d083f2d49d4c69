"""95% confidence intervals by bootstrap over patients, and a paired permutation test between two runs.

Slices of one patient are alike, so patients are resampled, not slices: with replacement, as many as there are.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

RESAMPLES = 10_000  # of the bootstrap
PERMUTATIONS = 99_999  # more than the 65,536 sign patterns of 16 patients, up to which the test is therefore exact
BATCH = 10_000  # permutations at a time, which bounds the memory
SEED = 2019
ENDS = (2.5, 97.5)  # per cent, of a 95% interval
SMALL_DIFFERENCE = 0.02  # of a Dice; what people like to report as progress
FEW_PATIENTS = 30


class Mean(NamedTuple):
    """A metric that is a mean: the sum of `sums` over the sum of `numbers`, columns of one table."""

    patients: pd.Series  # the patient of each row
    sums: pd.Series  # NaN where undefined
    numbers: pd.Series | None = None  # of values in each sum; None: 1, or 0 where it is NaN


def estimate(means: Mapping[Hashable, Mean]) -> dict[Hashable, dict[str, float]]:
    """Return value, low and high (95% confidence interval) and n (patients with a value) of each mean.

    All means are computed on the same resamples; those without any value are left out. low and high are NaN where fewer
    than two patients have a value.
    """
    if not means:
        return {}
    patients = pd.Index(sorted(set().union(*(mean.patients for mean in means.values()))))
    shares = np.full(len(patients), 1 / len(patients))
    weights = np.random.default_rng(SEED).multinomial(len(patients), shares, RESAMPLES).T.astype(float)  # [P, resample]
    estimates = {}
    for name, (patient_of_row, values, numbers) in means.items():
        rows = patients.get_indexer(patient_of_row)
        values = values.to_numpy(float)
        numbers = ~np.isnan(values) if numbers is None else numbers
        sums = np.bincount(rows, np.nan_to_num(values), len(patients))
        numbers = np.bincount(rows, numbers, len(patients))
        resampled_sums, resampled_numbers = sums @ weights, numbers @ weights
        usable = resampled_numbers > 0
        n, total = int((numbers > 0).sum()), numbers.sum()
        low, high = np.nan, np.nan
        if n >= 2:
            low, high = np.percentile(resampled_sums[usable] / resampled_numbers[usable], ENDS)
        value = sums.sum() / total if total else np.nan
        estimates[name] = {"value": float(value), "low": float(low), "high": float(high), "n": n}
    return estimates


def estimate_median(values: np.ndarray) -> dict[str, float]:
    """Return value, low, high and n, as `estimate`, of the median over patients (float [P], no NaN)."""
    low, high = np.nan, np.nan
    if len(values) >= 2:
        how = {"n_resamples": RESAMPLES, "method": "percentile", "rng": SEED}
        low, high = stats.bootstrap((values,), np.median, **how).confidence_interval
    value = np.median(values) if len(values) else np.nan
    return {"value": float(value), "low": float(low), "high": float(high), "n": len(values)}


def paired_permutation(differences: np.ndarray) -> float:
    """Return the two-sided p of a mean paired difference (float [P]): as likely as random signs make it, or less.

    Exact up to 16 patients. NaN for fewer than two.
    """
    if len(differences) < 2:
        return float("nan")
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, batch=BATCH, rng=SEED
    )
    return float(test.pvalue)


def smallest_p(patients: int) -> float:
    """Return the smallest p that `paired_permutation` can give for so many patients."""
    return max(2.0 ** (1 - patients), 2 / (PERMUTATIONS + 1))


def caveat(patients: int, low: float, high: float) -> str:
    """Return which difference so few test patients, with this interval of their mean Dice, cannot show; or nothing."""
    half = (high - low) / 2
    narrow = half <= SMALL_DIFFERENCE
    if narrow and patients >= FEW_PATIENTS:
        return ""
    reason = f"the 95% confidence interval of their mean Dice extends {half:.3f} to each side"
    return (
        f"{patients} test patient{'s' * (patients != 1)} cannot show a difference of {SMALL_DIFFERENCE} in Dice: "
        f"{'they are too few, whatever their confidence interval' if narrow or np.isnan(half) else reason}."
    )
