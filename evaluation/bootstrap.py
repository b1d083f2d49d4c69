"""How sure a figure is: bootstrap over patients, and paired permutation between two runs.

Slices of one patient are alike, so that patients, not slices, are drawn: with replacement, as many as there are.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

RESAMPLES = 10_000
PERMUTATIONS = 100_000  # drawn where there are too many to go through all
ALL_SIGNS = 16  # patients up to which all sign patterns, 65,536 of them, are gone through
SEED = 2019
LEVEL = 95  # per cent
SMALL_DIFFERENCE = 0.02  # of a Dice; what people like to report as progress
FEW_PATIENTS = 30


class Mean(NamedTuple):
    """A figure that is a mean, as columns of one table: the sum of `sums` over the sum of `numbers`.

    patients: whose row it is. Where `numbers` is left out, it is 1 where `sums` has a value and 0 where that is NaN.
    """

    patients: pd.Series
    sums: pd.Series
    numbers: pd.Series | None = None


def estimate(means: Mapping[Hashable, Mean]) -> dict[Hashable, dict[str, float]]:
    """value, low and high of each figure (95% interval), and n, the number of patients that it rests on."""
    if not means:
        return {}
    patients = pd.Index(sorted(set().union(*(mean.patients for mean in means.values()))))
    sums, numbers = np.zeros((2, len(patients), len(means)))
    for k, (of_row, values, counts) in enumerate(means.values()):
        rows = patients.get_indexer(of_row)
        values = values.to_numpy(float)
        counts = (~np.isnan(values)).astype(float) if counts is None else counts.to_numpy(float)
        sums[:, k] = np.bincount(rows, np.nan_to_num(values), len(patients))
        numbers[:, k] = np.bincount(rows, counts, len(patients))
    total = numbers.sum(0)
    value = np.divide(sums.sum(0), total, out=np.full(len(total), np.nan), where=total > 0)
    low, high = mean_intervals(sums, numbers)
    return {
        name: {"value": float(v), "low": float(a), "high": float(b), "n": int(n)}
        for name, v, a, b, n in zip(means, value, low, high, (numbers > 0).sum(0), strict=True)
    }


def mean_intervals(sums: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile intervals of K means over all values of P patients.

    Args:
        sums: float [P, K], the sum of each patient's values of each figure.
        numbers: float [P, K], how many values that is; a figure's mean is the sum of sums over the sum of numbers.

    Returns: low and high, float [K]; NaN where fewer than two patients have a value. Resamples without any value
        are passed over.
    """
    weights = _draws(len(sums))
    total = weights @ numbers
    means = np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    usable = (numbers > 0).sum(0) >= 2
    low, high = np.full((2, sums.shape[1]), np.nan)
    complete = usable & (total > 0).all(0)
    low[complete], high[complete] = _percentiles(means[:, complete])
    for k in np.flatnonzero(usable & ~complete):
        low[k], high[k] = _percentiles(means[total[:, k] > 0, k])
    return low, high


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of the median over patients (float [P]); NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = _percentiles(np.median(values[drawn], axis=1))
    return float(low), float(high)


def paired_permutation(differences: np.ndarray) -> float:
    """Two-sided p of a mean paired difference (float [P]): how often random signs make a mean at least as large.

    Exact up to 16 patients. NaN without any.
    """
    patients = len(differences)
    if not patients:
        return float("nan")
    if patients <= ALL_SIGNS:
        signs = (np.arange(2**patients)[:, None] >> np.arange(patients) & 1) * 2 - 1
    else:
        signs = np.random.default_rng(SEED).integers(0, 2, (PERMUTATIONS, patients), np.int8) * 2 - 1
        signs[0] = 1  # the observed one is one of them, so that p is never 0
    reached = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12  # rounding does not break a tie
    return float(reached.mean())


def smallest_p(patients: int) -> float:
    """The smallest p that a paired permutation of so many patients can give."""
    return 2.0 ** (1 - patients) if patients <= ALL_SIGNS else 1 / PERMUTATIONS


def caveat(patients: int, low: float, high: float) -> str:
    """What so many test patients cannot show, given the interval of their mean Dice; empty if they can."""
    half = (high - low) / 2
    if half <= SMALL_DIFFERENCE and patients >= FEW_PATIENTS:
        return ""
    said = f"{patients} test patient{'s' if patients != 1 else ''} cannot show a difference of {SMALL_DIFFERENCE}"
    if half > SMALL_DIFFERENCE:
        return f"{said}: the 95% interval of their mean Dice reaches {half:.3f} to each side."
    return f"{said}: they are too few, whatever their interval."


def _draws(patients: int) -> np.ndarray:
    """How often each patient is in each resample: float [RESAMPLES, P]."""
    if not patients:
        return np.zeros((RESAMPLES, 0))
    generator = np.random.default_rng(SEED)
    return generator.multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(float)


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Lower and upper end along axis 0."""
    return np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
