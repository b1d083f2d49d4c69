"""95% confidence intervals over patients, a paired permutation test of two runs, agreement of two measurements.

Slices of one patient are alike, so the sample is the patients, not the slices. Below FEWEST patients there is no
interval: the values of the patients say more.

A mean has a Student t interval, with the jackknife's standard error over patients (for one value per patient it is the
usual one; it holds for a mean over slices or lesions too, where patients have different numbers of them). Dice and the
like are skewed, which t does not allow for; the interval is therefore taken on a scale on which they are less so. Its
simulated coverage stands in docs/evaluation.md. A median has the interval of order statistics, which is valid for any
distribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from utils import show_number

FEWEST = 6  # patients of an interval; the median has none with fewer either
LEVEL = 0.95
ALIKE = 1e-9  # standard error below which all patients have the same value, but for rounding
PERMUTATIONS = 99_999  # more than the 65,536 sign patterns of 16 patients, up to which the test is therefore exact
BATCH = 10_000  # permutations at a time, which bounds the memory
SEED = 2019
RESAMPLES = 5_000  # of a bootstrap
SMALL_DIFFERENCE = 0.02  # of a Dice; what people like to report as progress
FEW_PATIENTS = 30


class Scale(NamedTuple):
    """Where the interval of a mean is symmetric, and therefore which values its ends can have."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]  # the derivative of `to`


SHARE = Scale(special.logit, special.expit, lambda mean: 1 / (mean * (1 - mean)))  # between 0 and 1
AMOUNT = Scale(np.log, np.exp, lambda mean: 1 / mean)  # greater than 0
DIFFERENCE = Scale(np.asarray, np.asarray, np.ones_like)  # of any sign


def estimate(
    patients: pd.Series, sums: pd.Series, numbers: pd.Series | None = None, scale: Scale = SHARE
) -> dict[str, Any]:
    """Return a mean, the sum of `sums` over the sum of `numbers`, with its 95% confidence interval over patients.

    Args:
        patients: the patient of each row.
        sums: NaN where undefined.
        numbers: of values in each sum; None: 1, or 0 where the sum is NaN.

    Returns: value, low and high (NaN where undefined, see `mean_interval`), n (patients with a value), and values (of
        each patient, by sorted id, where n is less than FEWEST, instead of an interval).
    """
    names, rows = np.unique(patients.to_numpy(str), return_inverse=True)
    numbers = sums.notna() if numbers is None else numbers
    sums = np.bincount(rows, np.nan_to_num(sums.to_numpy(float)), len(names))
    numbers = np.bincount(rows, numbers, len(names))
    sums, numbers = sums[numbers > 0], numbers[numbers > 0]
    value = sums.sum() / numbers.sum() if len(sums) else np.nan
    return _estimate(value, mean_interval(sums, numbers, scale), sums / numbers)


def mean_interval(sums: np.ndarray, numbers: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of sum(sums) / sum(numbers) over patients (the last axis, float [..., P]).

    NaN for fewer than FEWEST patients, and where all have the same value: nothing says then how much others differ.
    """
    patients = sums.shape[-1]
    if patients < FEWEST:
        return np.full((2, *sums.shape[:-1]), np.nan)
    total, number = sums.sum(-1, keepdims=True), numbers.sum(-1, keepdims=True)
    without_one = (total - sums) / (number - numbers)
    error = np.sqrt(without_one.var(-1) * (patients - 1))
    mean = np.where(error < ALIKE, np.nan, (total / number)[..., 0])
    reach = stats.t.ppf((1 + LEVEL) / 2, patients - 1) * error * scale.slope(mean)
    return scale.back(scale.to(mean) - reach), scale.back(scale.to(mean) + reach)


def estimate_median(values: np.ndarray) -> dict[str, Any]:
    """Return the median over patients (float [P], no NaN), as `estimate` does."""
    if not len(values):
        return _estimate(np.nan, (np.nan, np.nan), values)
    return _estimate(np.median(values), stats.quantile_test(values).confidence_interval(LEVEL), values)


def _estimate(value: float, interval: tuple[float, float], values: np.ndarray) -> dict[str, Any]:
    low, high = map(float, interval)
    few = values.tolist() if len(values) < FEWEST else []
    return {"value": float(value), "low": low, "high": high, "n": len(values), "values": few}


def show_interval(estimate: dict[str, Any], form: str) -> str:
    """Return the interval as text, or the values of two to five patients; otherwise empty."""
    low, high, *values = (show_number(v, form) for v in (estimate["low"], estimate["high"], *estimate["values"]))
    if low != "-":
        return f"{low} to {high}"
    return ", ".join(values) if len(values) > 1 else ""


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
    narrow = not half > SMALL_DIFFERENCE  # or without an interval
    if narrow and patients >= FEW_PATIENTS:
        return ""
    reason = f"the 95% confidence interval of their mean Dice is {high - low:.3f} wide"
    return (
        f"{patients} patient{'s' * (patients != 1)} cannot show a difference of {SMALL_DIFFERENCE} in Dice: "
        f"{'they are too few' if narrow else reason}."
    )


# --- Agreement of two measurements of the same patients ------------------------------------------------------------


def limits_of_agreement(difference: pd.Series) -> tuple[float, tuple[float, ...]]:
    """Return the mean difference and the limits of agreement, ± 1.96 SD; no limits for fewer than three patients."""
    bias, half = difference.mean(), 1.96 * difference.std()
    return bias, (bias - half, bias + half) if len(difference) > 2 else ()


def intraclass(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the intraclass correlation of two measurements along an axis: ICC(A,1) of McGraw and Wong (1996).

    Two-way random effects, absolute agreement, single measurement: a constant shift lowers it. NaN without variation.
    """
    n = first.shape[axis]
    difference, mean = first - second, (first + second) / 2
    between = 2 * mean.var(axis, ddof=1)  # mean squares: between patients, ...
    bias = n * difference.mean(axis) ** 2 / 2  # ... between the two measurements, ...
    error = difference.var(axis, ddof=1) / 2  # ... and what is left
    total = between + error + 2 * (bias - error) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return (between - error) / total


def compare_measurements(first: pd.Series, second: pd.Series) -> dict[str, Any]:
    """Return the agreement of two measurements of each patient: n, icc with low and high, bias with its limits.

    A patient who lacks one is left out. The interval is a percentile bootstrap over patients: NaN below FEWEST, and
    where all patients of a resample have the same value.
    """
    both = first.notna() & second.notna()
    a, b = first[both].to_numpy(float), second[both].to_numpy(float)
    low = high = np.nan
    if len(a) >= FEWEST:
        rows = np.random.default_rng(SEED).integers(len(a), size=(RESAMPLES, len(a)))
        low, high = np.quantile(intraclass(a[rows], b[rows]), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    bias, limits = limits_of_agreement(pd.Series(b - a)) if len(a) else (np.nan, ())
    lower, upper = limits or (np.nan, np.nan)
    icc = float(intraclass(a, b)) if len(a) > 1 else np.nan
    return {
        "n": len(a), "icc": icc, "icc_low": float(low), "icc_high": float(high),
        "bias": float(bias), "lower_limit": float(lower), "upper_limit": float(upper),
    }  # fmt: skip
