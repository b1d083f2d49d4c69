"""Agreement of two measurements of the same patients: bias, limits of agreement, intraclass correlation."""

from typing import Any

import numpy as np
import pandas as pd

from evaluation.intervals import FEWEST, LEVEL, SEED

RESAMPLES = 5_000


def agreement(difference: pd.Series) -> tuple[float, tuple[float, ...]]:
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


def compare(first: pd.Series, second: pd.Series) -> dict[str, Any]:
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
    bias, limits = agreement(pd.Series(b - a)) if len(a) else (np.nan, ())
    lower, upper = limits or (np.nan, np.nan)
    icc = float(intraclass(a, b)) if len(a) > 1 else np.nan
    return {
        "n": len(a), "icc": icc, "icc_low": float(low), "icc_high": float(high),
        "bias": float(bias), "lower_limit": float(lower), "upper_limit": float(upper),
    }  # fmt: skip
