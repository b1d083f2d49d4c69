"""Confidence intervals by hand, their coverage by simulation, and permutation tests."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation import intervals
from evaluation.intervals import AMOUNT, DIFFERENCE, SHARE, estimate, mean_interval, show_interval

NAN = float("nan")
SIX = [0.2, 0.4, 0.5, 0.6, 0.8, 0.5]


def drawn_slices(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and numbers of 10 to 59 tumour slices per patient, with a mean of Beta(4, 1) in each patient."""
    numbers = rng.integers(10, 60, shape)
    return numbers * rng.beta(4, 1, shape), numbers


def drawn_with_misses(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return rng.beta(8, 2, shape) * (rng.random(shape) > 0.1), np.ones(shape)


DRAWN = {  # name: draws sums and numbers of patients, their expected ratio, scale
    "Dice, Beta(4, 1)": (lambda rng, shape: (rng.beta(4, 1, shape), np.ones(shape)), 0.8, SHARE),
    "Dice, Beta(8, 2)": (lambda rng, shape: (rng.beta(8, 2, shape), np.ones(shape)), 0.8, SHARE),
    "mean over slices": (drawn_slices, 0.8, SHARE),
    "one patient in ten missed": (drawn_with_misses, 0.72, SHARE),
    "HD95, gamma": (lambda rng, shape: (rng.gamma(3, 2, shape), np.ones(shape)), 6, AMOUNT),
    "difference, normal": (lambda rng, shape: (rng.normal(0.1, 1, shape), np.ones(shape)), 0.1, DIFFERENCE),
}


@pytest.mark.parametrize(
    ("patients", "values", "numbers", "value", "each"),
    [
        ("ab", [0, 1], None, 0.5, [0, 1]),  # below six patients: their values instead of an interval
        ("bbbbbbbbba", [0] * 9 + [1], None, 0.1, [1, 0]),  # a mean over slices; one value per patient, by name
        ("aabbc", [1, NAN, 3, 3, NAN], None, 7 / 3, [1, 3]),  # NaN is left out, c does not count
        ("ab", [1, 0], [1, 3], 0.25, [1, 0]),  # lesions found of lesions: 1 of 1 and 0 of 3
        ("ab", [NAN, NAN], None, NAN, []),
        ("abcdef", [0.7] * 6, None, 0.7, []),  # all equal: neither values nor an interval
    ],
)
def test_means_without_an_interval(patients, values, numbers, value, each):
    numbers = None if numbers is None else pd.Series(numbers)
    found = estimate(pd.Series([*patients]), pd.Series(values, dtype=float), numbers)
    expected = {"value": value, "low": NAN, "high": NAN, "n": len(each) or 6 * (patients == "abcdef"), "values": each}
    assert {name: pytest.approx(part, nan_ok=True) for name, part in expected.items()} == found


def test_the_interval_of_six_patients_by_hand():
    """On the scale of the differences it is SciPy's t interval; for shares it is the same around the logit."""
    patients = pd.Series([*"abcdef"])
    expected = stats.ttest_1samp(SIX, 0).confidence_interval()
    found = estimate(patients, pd.Series(SIX), scale=DIFFERENCE)
    assert (found["low"], found["high"], found["n"], found["values"]) == (*map(pytest.approx, expected), 6, [])
    reach = stats.t.ppf(0.975, 5) * 0.2 / 6**0.5  # the standard deviation is 0.2; the slope of the logit at 0.5 is 4
    found = estimate(patients, pd.Series(SIX))
    assert found["low"] == pytest.approx(1 / (1 + np.exp(4 * reach))) and found["low"] + found["high"] == 1
    found = estimate(patients, 3 * pd.Series(SIX), scale=AMOUNT)
    assert found["low"] == pytest.approx(1.5 * np.exp(-2 * reach)) and found["high"] * found["low"] == 1.5**2


def test_more_slices_of_the_same_patients_make_no_interval_narrower():
    patients, values = pd.Series([*"abcdef"]), pd.Series(SIX)
    of_one, of_four = (estimate(pd.concat([patients] * n), pd.concat([values] * n)) for n in (1, 4))
    assert [of_four[name] for name in ("value", "low", "high", "n")] == pytest.approx([*of_one.values()][:4])


@pytest.mark.parametrize("name", DRAWN)
def test_the_simulated_coverage_is_within_two_points_of_95(name):
    """pytest -k coverage -s prints the table of docs/evaluation.md."""
    draw, expected, scale = DRAWN[name]
    coverage = {}
    for patients in (6, 8, 11, 20, 22, 50, 99):
        low, high = mean_interval(*draw(np.random.default_rng(patients), (20_000, patients)), scale)
        coverage[patients] = np.mean((low <= expected) & (expected <= high))
    print(f"\n| {name} |", *(f"{share:.1%} |" for share in coverage.values()))
    few_show_no_miss = 0.1 if "missed" in name else 0.02  # no method can tell from patients who were all found
    assert max(abs(share - 0.95) for share in coverage.values()) <= few_show_no_miss


@pytest.mark.parametrize(
    ("values", "value", "low", "high"),
    [
        ([0.1, 0.8, 0.9], 0.8, NAN, NAN),
        ([0.1, 0.3, 0.2, 0.9, 0.8, 0.7], 0.5, 0.1, 0.9),  # misses the median with probability 2 / 2**6
        ([*range(11)], 5, 1, 9),  # 2 * (1 + 11) / 2**11 miss it
        ([], NAN, NAN, NAN),
    ],
)
def test_medians(values, value, low, high):
    found = intervals.estimate_median(np.array(values, float))
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx([value, low, high], nan_ok=True)
    assert (found["n"], found["values"]) == (len(values), values if len(values) < 6 else [])


def test_an_interval_as_text():
    assert show_interval({"low": None, "high": None, "values": [0.79, 0.0]}, ".3f") == "0.790, 0.000"
    assert show_interval({"low": 0.1, "high": 0.25, "values": []}, ".1%") == "10.0% to 25.0%"
    for values in ([], [0.3]):  # the mean of one patient is its value
        assert show_interval({"low": NAN, "high": NAN, "values": values}, ".3f") == ""


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
    assert intervals.paired_permutation(np.array(differences, float)) == pytest.approx(p, nan_ok=True)


def test_permutations_are_exact_up_to_16_patients_then_drawn():
    assert [intervals.smallest_p(n) for n in (1, 2, 6, 16)] == [1, 0.5, 2 / 64, 2**-15]
    assert intervals.paired_permutation(np.ones(16)) == intervals.smallest_p(16)
    assert intervals.paired_permutation(np.ones(17)) in (2 / 100_000, 4 / 100_000)
    assert intervals.smallest_p(17) == 2 / 100_000
    differences = np.random.default_rng(0).normal(0.15, 1, 110)
    p = intervals.paired_permutation(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert intervals.paired_permutation(differences[:17]) == intervals.paired_permutation(differences[:17])


@pytest.mark.parametrize(
    ("patients", "low", "high", "reason"),
    [
        (11, 0.70, 0.90, "the 95% confidence interval of their mean Dice is 0.200 wide."),
        (11, 0.80, 0.81, "they are too few."),
        (1, NAN, NAN, "they are too few."),
    ],
)
def test_the_caveat(patients, low, high, reason):
    plural = "s" if patients > 1 else ""
    said = f"{patients} patient{plural} cannot show a difference of 0.02 in Dice: {reason}"
    assert intervals.caveat(patients, low, high) == said and intervals.caveat(110, 0.80, 0.83) == ""
