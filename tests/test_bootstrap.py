"""Confidence intervals and permutation tests by hand, and their use of SciPy's."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation import bootstrap
from evaluation.bootstrap import Mean, estimate

NAN = float("nan")


@pytest.mark.parametrize(
    ("patients", "values", "numbers", "value", "low", "high", "n"),
    [
        ("ab", [0, 1], None, 0.5, 0, 1, 2),  # resamples (a, a), (a, b), (b, a), (b, b): a quarter is 0, a quarter is 1
        ("aaaaaaaaab", [0] * 9 + [1], None, 0.1, 0, 1, 2),  # patients are drawn: a resample has 18, 10 or 2 slices
        ("abcd", [0.7] * 4, None, 0.7, 0.7, 0.7, 4),
        ("aabbc", [1, NAN, 3, 3, NAN], None, 7 / 3, 1, 3, 2),  # NaN is left out, c does not count
        ("ab", [1, 0], [1, 3], 0.25, 0, 1, 2),  # lesions found of lesions: 1 of 1 and 0 of 3
        ("ab", [0.5, NAN], None, 0.5, NAN, NAN, 1),  # one patient has no interval
        ("ab", [NAN, NAN], None, NAN, NAN, NAN, 0),
    ],
)
def test_means_by_hand(patients, values, numbers, value, low, high, n):
    numbers = None if numbers is None else pd.Series(numbers)
    found = estimate({"x": Mean(pd.Series([*patients]), pd.Series(values, dtype=float), numbers)})["x"]
    assert found == pytest.approx({"value": value, "low": low, "high": high, "n": n}, nan_ok=True)


def test_the_interval_of_a_mean_agrees_with_scipy_and_repeats():
    values = np.random.default_rng(3).beta(8, 2, 11)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    means = {"x": Mean(pd.Series([f"p{n}" for n in range(11)]), pd.Series(values))}
    found = estimate(means)
    assert [found["x"]["low"], found["x"]["high"]] == pytest.approx(list(theirs), abs=0.01)
    assert found == estimate(means) and estimate({}) == {}


@pytest.mark.parametrize(
    ("values", "value", "low", "high"),
    [([0.1, 0.8, 0.9], 0.8, 0.1, 0.9), ([0.3] * 5, 0.3, 0.3, 0.3), ([0.3], 0.3, NAN, NAN), ([], NAN, NAN, NAN)],
)
def test_medians(values, value, low, high):
    expected = {"value": value, "low": low, "high": high, "n": len(values)}
    assert bootstrap.estimate_median(np.array(values)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1], 2 / 8),  # all up and all down
        ([1, -1], 1),
        ([3, 1, 1], 2 / 8),
        ([3, 1, -1], 6 / 8),  # sums 3, 3, 5, 1 and their negatives
        ([0, 0, 0, 0], 1),
        ([0.3], NAN),
        ([], NAN),
    ],
)
def test_permutations_by_hand(differences, p):
    assert bootstrap.paired_permutation(np.array(differences, float)) == pytest.approx(p, nan_ok=True)


def test_permutations_are_exact_up_to_16_patients_then_drawn():
    assert [bootstrap.smallest_p(n) for n in (1, 2, 6, 16)] == [1, 0.5, 2 / 64, 2**-15]
    assert bootstrap.paired_permutation(np.ones(16)) == bootstrap.smallest_p(16)
    assert bootstrap.paired_permutation(np.ones(17)) in (2 / 100_000, 4 / 100_000)
    assert bootstrap.smallest_p(17) == 2 / 100_000
    differences = np.random.default_rng(0).normal(0.15, 1, 110)
    p = bootstrap.paired_permutation(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert bootstrap.paired_permutation(differences[:17]) == bootstrap.paired_permutation(differences[:17])


@pytest.mark.parametrize(
    ("patients", "low", "high", "reason"),
    [
        (11, 0.70, 0.90, "the 95% confidence interval of their mean Dice extends 0.100 to each side."),
        (11, 0.80, 0.81, "they are too few, whatever their confidence interval."),
        (1, NAN, NAN, "they are too few, whatever their confidence interval."),
    ],
)
def test_the_caveat(patients, low, high, reason):
    plural = "s" if patients > 1 else ""
    said = f"{patients} test patient{plural} cannot show a difference of 0.02 in Dice: {reason}"
    assert bootstrap.caveat(patients, low, high) == said and bootstrap.caveat(110, 0.80, 0.83) == ""
