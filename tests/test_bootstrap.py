"""Intervals and permutations: by hand, and against SciPy's."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation import bootstrap
from evaluation.bootstrap import Mean, estimate


def figure(patients, values, numbers=None):
    numbers = None if numbers is None else pd.Series(numbers)
    return estimate({"x": Mean(pd.Series(patients), pd.Series(values, dtype=float), numbers)})["x"]


def test_two_patients_by_hand():
    """The resamples are (a, a), (a, b), (b, a), (b, b): a quarter is 0, a quarter is 1."""
    assert figure(["a", "b"], [0, 1]) == {"value": 0.5, "low": 0, "high": 1, "n": 2}


def test_patients_not_slices_are_drawn():
    """Nine slices of a and one of b: a resample holds 18, 10 or 2 slices."""
    assert figure([*"aaaaaaaaab"], [0] * 9 + [1]) == {"value": 0.1, "low": 0, "high": 1, "n": 2}


def test_a_constant_is_certain():
    assert figure([*"abcd"], [0.7] * 4) == pytest.approx({"value": 0.7, "low": 0.7, "high": 0.7, "n": 4})


def test_nan_is_left_out_and_a_patient_without_values_does_not_count():
    assert figure([*"aabbc"], [1, np.nan, 3, 3, np.nan]) == {"value": 7 / 3, "low": 1, "high": 3, "n": 2}


def test_ratios_of_counts():
    """Lesions found of lesions: 1 of 1 and 0 of 3."""
    assert figure([*"ab"], [1, 0], [1, 3]) == {"value": 0.25, "low": 0, "high": 1, "n": 2}


def test_one_patient_or_none_has_no_interval():
    one = figure(["a", "b"], [0.5, np.nan])
    assert (one["value"], one["n"]) == (0.5, 1) and np.isnan([one["low"], one["high"]]).all()
    none = figure(["a", "b"], [np.nan, np.nan])
    assert none["n"] == 0 and np.isnan([none["value"], none["low"], none["high"]]).all()
    assert estimate({}) == {} and np.isnan(figure([], [])["value"])


def test_intervals_agree_with_scipy():
    values = np.random.default_rng(3).beta(8, 2, 11)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    mine = figure([f"p{n}" for n in range(11)], values)
    assert [mine["low"], mine["high"]] == pytest.approx(list(theirs), abs=0.01)
    theirs = stats.bootstrap((values,), np.median, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert bootstrap.median_interval(values) == pytest.approx(tuple(theirs), abs=0.02)


def test_intervals_repeat_and_are_quick():
    patients = pd.Series(np.repeat([f"p{n:03d}" for n in range(110)], 36))
    values = pd.Series(np.random.default_rng(0).random(len(patients)))
    means = {k: Mean(patients, values + k) for k in range(30)}
    started = time.perf_counter()
    first = estimate(means)
    assert time.perf_counter() - started < 5  # a tenth of a second where nothing else runs
    assert first == estimate(means)
    assert first[0]["low"] < first[0]["value"] < first[0]["high"]


def test_median_of_one_patient_has_no_interval():
    assert np.isnan(bootstrap.median_interval(np.array([0.3]))).all()


def test_permutation_by_hand():
    assert bootstrap.paired_permutation(np.array([1.0, 1, 1])) == 2 / 8  # all up and all down
    assert bootstrap.paired_permutation(np.array([1.0, -1])) == 1
    assert bootstrap.paired_permutation(np.array([3.0, 1, 1])) == 2 / 8
    assert bootstrap.paired_permutation(np.array([3.0, 1, -1])) == 6 / 8  # sums 3, 3, 5, 1 and their negatives
    assert bootstrap.paired_permutation(np.zeros(4)) == 1
    assert np.isnan(bootstrap.paired_permutation(np.zeros(0)))
    assert [bootstrap.smallest_p(n) for n in (1, 2, 6)] == [1, 0.5, 2 / 64]


@pytest.mark.parametrize("patients", [8, 12, 25])
def test_permutations_agree_with_scipy(patients):
    differences = np.random.default_rng(patients).normal(0.3, 1, patients)
    how = {"permutation_type": "samples", "n_resamples": 20_000, "rng": 1}
    theirs = stats.permutation_test(
        (differences, np.zeros(patients)), lambda a, b: np.mean(a - b), **how, vectorized=False
    )
    assert bootstrap.paired_permutation(differences) == pytest.approx(theirs.pvalue, abs=0.015)


def test_the_caveat():
    said = bootstrap.caveat(11, 0.70, 0.90)
    assert said.startswith("11 test patients cannot show a difference of 0.02: the 95% interval")
    assert said.endswith("reaches 0.100 to each side.")
    assert bootstrap.caveat(11, 0.80, 0.81).startswith("11 test patients cannot show a difference of 0.02")
    assert bootstrap.caveat(1, np.nan, np.nan).startswith("1 test patient cannot show")
    assert bootstrap.caveat(110, 0.80, 0.83) == ""
    assert "0.050" in bootstrap.caveat(110, 0.75, 0.85)
