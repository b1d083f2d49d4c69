"""95% confidence intervals over patients, a paired permutation test of two runs, agreement of two measurements.

Slices of one patient are alike, and scans of one person: persons are the sample, known by the ids of their scans (see
dataset.split.person_of). Where each has one scan, persons are the patients. A mean has a Student t interval, with the
jackknife's standard error over them, on a scale on which Dice and the like are less skewed; a median has that of
order statistics, valid for any distribution. An intraclass correlation has the t interval on Fisher's z scale, an area
under the ROC curve the one that inverts Hanley and McNeil's variance (Newcombe 2006, method 5). All were chosen for
their coverage in simulations, which tests/test_intervals.py repeats.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from dataset.split import person_of
from utils import show_number

FEWEST = 6  # patients of the interval of a mean or median, or on each side of a ROC curve; with five, p is above 0.05
FEWEST_ICC = 10  # patients of the interval of an intraclass correlation: with fewer it says nothing (0.4 to 1 wide)
LEVEL = 0.95
ALIKE = 1e-9  # standard error below which all patients have the same value, but for rounding
PERMUTATIONS = 99_999  # more than the 65,536 sign patterns of 16 patients, up to which the test is therefore exact
BATCH = 10_000  # permutations at a time, which bounds the memory
SEED = 2019


class Scale(NamedTuple):
    """The scale on which the interval of a mean is symmetric; its ends have only possible values, such as shares."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]  # the derivative of `to`


SHARE = Scale(special.logit, special.expit, lambda mean: 1 / (mean * (1 - mean)))  # between 0 and 1
AMOUNT = Scale(np.log, np.exp, lambda mean: 1 / mean)  # greater than 0
DIFFERENCE = Scale(np.asarray, np.asarray, np.ones_like)  # of any sign


def estimate(
    patients: pd.Series, sums: pd.Series, numbers: pd.Series | None = None, scale: Scale = SHARE
) -> dict[str, Any]:
    """Return a mean, the sum of `sums` over the sum of `numbers`, with its 95% confidence interval over persons.

    Args:
        patients: the patient of each row.
        sums: NaN where undefined.
        numbers: of values in each sum; None: 1, or 0 where the sum is NaN.

    Returns: value, low and high (NaN where undefined, see `mean_interval`), n (persons with a value), and values (of
        each person, by sorted id, where n is less than FEWEST, instead of an interval).
    """
    names, rows = np.unique(patients.map(person_of).to_numpy(str), return_inverse=True)
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
    error = jackknife_error((total - sums) / (number - numbers))
    mean = np.where(error < ALIKE, np.nan, (total / number)[..., 0])
    reach = stats.t.ppf((1 + LEVEL) / 2, patients - 1) * error * scale.slope(mean)
    return scale.back(scale.to(mean) - reach), scale.back(scale.to(mean) + reach)


def jackknife_error(without_one: np.ndarray) -> np.ndarray:
    """Return the standard error of a statistic from its values without each patient (the last axis)."""
    return np.sqrt(without_one.var(-1) * (without_one.shape[-1] - 1))


def estimate_median(patients: pd.Series, values: pd.Series) -> dict[str, Any]:
    """Return the median of a value of each patient (at least one, no NaN), as `estimate` does.

    Where a person has several scans, it is that of the persons' means.
    """
    means = values.groupby(patients.map(person_of)).mean().to_numpy(float)
    return _estimate(np.median(means), stats.quantile_test(means).confidence_interval(LEVEL), means)


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


# --- Two runs on the same patients -----------------------------------------------------------------------------


def paired_permutation(patients: pd.Series, differences: pd.Series) -> float:
    """Return the two-sided p of a mean paired difference: as likely as random signs of the persons make it, or less.

    Exact up to 16 persons. NaN for fewer than two. differences: of each patient, NaN where undefined.
    """
    of_persons = differences.groupby(patients.map(person_of)).sum(min_count=1).dropna().to_numpy(float)
    if len(of_persons) < 2:
        return float("nan")
    test = stats.permutation_test(
        (of_persons,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, batch=BATCH, rng=SEED
    )
    return float(test.pvalue)


# --- Area under the ROC curve ----------------------------------------------------------------------------------


def auc_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Return the ends of the interval of an area under the ROC curve; NaN with fewer than FEWEST on either side.

    It holds every true area from which the observed one is no more than 1.96 standard errors away. The standard error
    is that of the true area: an observed area of 1 would have none.
    """
    if min(positives, negatives) < FEWEST:
        return np.nan, np.nan

    def excess(true: float, area: float) -> float:
        pairs = 1 + ((positives + negatives) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        error = np.sqrt(true * (1 - true) * pairs / (positives * negatives))
        return area - true - special.ndtri((1 + LEVEL) / 2) * error

    def low(area: float) -> float:
        return optimize.brentq(excess, 0, min(area, 1 - ALIKE), args=(area,)) if area > 0 else 0.0

    return low(area), 1 - low(1 - area)


# --- Agreement of two measurements of the same patients --------------------------------------------------------


def limits_of_agreement(difference: np.ndarray) -> tuple[float, float, float]:
    """Return the mean difference of at least two patients and the limits of agreement, ± 1.96 SD."""
    bias, half = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return bias, bias - half, bias + half


def intraclass(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intraclass correlation of two measurements along the last axis: ICC(A,1) of McGraw and Wong (1996).

    Two-way random effects, absolute agreement, single measurement: a constant shift lowers it. NaN without variation.
    """
    n = first.shape[-1]
    difference, mean = first - second, (first + second) / 2
    between = 2 * mean.var(-1, ddof=1)  # mean squares: between patients, ...
    bias = n * difference.mean(-1) ** 2 / 2  # ... between the two measurements, ...
    error = difference.var(-1, ddof=1) / 2  # ... and residual
    total = between + error + 2 * (bias - error) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        return (between - error) / total


def intraclass_interval(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of the intraclass correlation along the last axis; NaN below FEWEST_ICC."""
    n = first.shape[-1]
    if n < FEWEST_ICC:
        return np.full((2, *first.shape[:-1]), np.nan)
    rows = np.nonzero(~np.eye(n, dtype=bool))[1].reshape(n, n - 1)  # all patients but one
    with np.errstate(divide="ignore", invalid="ignore"):  # of an ICC of 1
        error = jackknife_error(np.arctanh(intraclass(first[..., rows], second[..., rows])))
        reach, z = stats.t.ppf((1 + LEVEL) / 2, n - 1) * error, np.arctanh(intraclass(first, second))
        return np.tanh(z - reach), np.tanh(z + reach)


def compare_measurements(first: pd.Series, second: pd.Series) -> dict[str, Any]:
    """Return the agreement of two measurements of each patient: n, icc with low and high, bias with its limits.

    A patient who lacks one is left out. NaN for fewer than FEWEST.
    """
    both = first.notna() & second.notna()
    a, b = first[both].to_numpy(float), second[both].to_numpy(float)
    names = ("icc", "icc_low", "icc_high", "bias", "lower_limit", "upper_limit")
    values = [math.nan] * len(names)
    if len(a) >= FEWEST:
        values = [intraclass(a, b), *intraclass_interval(a, b), *limits_of_agreement(b - a)]
    return {"n": len(a), **dict(zip(names, map(float, values), strict=True))}
