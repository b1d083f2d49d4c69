"""Tests of association, areas under ROC curves and agreement, against calculations by hand and SciPy's own."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation import genomics
from evaluation.genomics import associate, associate_one, auc, auc_of_bevr, fisher_exact, holm, nested_auc, survival
from evaluation.intervals import compare_measurements, intraclass
from evaluation.shape import FEATURES, PUBLISHED

RNG = np.random.default_rng(18)


def feature_table(patients: int, **columns) -> pd.DataFrame:
    """All features of some patients: random, but for the columns that are given."""
    return pd.DataFrame({name: RNG.uniform(1, 2, patients) for name in FEATURES}).assign(**columns)


# --- Tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[[8, 2], [1, 5]], [[3, 0], [0, 3]], [[5, 5], [5, 5]], [[1, 9], [11, 3]]])
def test_fisher_of_two_groups_is_that_of_scipy(counts):
    assert fisher_exact(np.array(counts)) == pytest.approx(stats.fisher_exact(counts).pvalue)


def test_fisher_of_three_groups_by_hand():
    """Two patients in each group, three above the median: 20 equally likely ways."""
    assert fisher_exact(np.array([[2, 0], [1, 1], [0, 2]])) == pytest.approx(12 / 20)  # in the others, each has one
    assert fisher_exact(np.array([[1, 1], [1, 1], [1, 1]])) == pytest.approx(1)
    assert fisher_exact(np.array([[3, 0], [0, 3], [0, 3]])) == pytest.approx(3 / 84)  # each group could be the one
    assert fisher_exact(np.array([[3, 0], [0, 3], [0, 0]])) == pytest.approx(2 / 20)  # an empty group adds nothing


def test_fisher_of_four_groups_agrees_with_a_simulation():
    counts = np.array([[9, 3], [2, 8], [5, 6], [4, 3]])
    simulated = stats.fisher_exact(counts, method=stats.MonteCarloMethod(n_resamples=20_000, rng=RNG)).pvalue
    assert fisher_exact(counts) == pytest.approx(simulated, abs=0.01)


def test_too_many_tables_are_simulated(monkeypatch):
    counts = np.array([[9, 3], [2, 8], [5, 6], [4, 3]])
    exact = fisher_exact(counts)
    monkeypatch.setattr(genomics, "MOST_TABLES", 100)
    assert fisher_exact(counts) == fisher_exact(counts) == pytest.approx(exact, abs=0.005)


def test_holm_by_hand():
    adjusted = holm(pd.Series([0.01, math.nan, 0.04, 0.03, 0.5]))
    assert adjusted.tolist()[0] == pytest.approx(0.04) and math.isnan(adjusted[1])
    assert adjusted.tolist()[2:] == pytest.approx([0.09, 0.09, 0.5])  # never less than a smaller p
    assert holm(pd.Series([0.9, 0.8])).tolist() == [1, 1]


def test_one_association_by_hand():
    feature = pd.Series([1, 2, 3, 4, 5, 6, math.nan, 8])
    label = pd.Series(["a", "a", "a", "b", "b", "b", "b", None])
    row = associate_one(feature, label)
    assert (row["n"], row["missing"], row["reason"]) == (6, 2, "")
    assert (row["groups"], row["medians"]) == ("a: 3; b: 3", "a: 2; b: 5")
    assert row["fisher_p"] == pytest.approx(0.1)  # 2 of the 20 ways
    statistic, p = stats.kruskal([1, 2, 3], [4, 5, 6])
    assert row["kruskal_p"] == pytest.approx(p) and row["effect"] == pytest.approx(statistic / 5)


@pytest.mark.parametrize(
    ("feature", "label", "reason"),
    [
        ([1.0, 2, 3], [None, None, None], "no patient has both"),
        ([1.0, 2, 3], ["a", "a", None], "fewer than two groups"),
        ([2.0, 2, 2], ["a", "a", "b"], "no value above the median"),
        ([math.nan] * 3, ["a", "a", "b"], "no patient has both"),
    ],
)
def test_what_cannot_be_tested_has_a_reason(feature, label, reason):
    row = associate_one(pd.Series(feature), pd.Series(label, dtype=object))
    assert row["reason"] == reason and all(math.isnan(row[name]) for name in ("fisher_p", "kruskal_p", "effect"))


def test_the_family_is_the_published_features_with_every_label():
    label = pd.Series(["a", "b"] * 20)
    features = feature_table(40, bevr=np.where(label == "a", 1, 2) + RNG.uniform(0, 0.1, 40))
    table = associate(
        features, pd.DataFrame({"RNASeqCluster": label, "IDH": label.sample(frac=1, random_state=1).values})
    )
    family = table[table["family"] == 1]
    assert len(table) == 2 * len(FEATURES) and len(family) == 2 * len(PUBLISHED)
    assert table.loc[table["family"] == 0, "holm_p"].isna().all()
    first = family.set_index(["feature", "label"]).loc[("bevr", "RNASeqCluster")]
    assert first["holm_p"] == pytest.approx(6 * first["fisher_p"]) and first["holm_p"] < 1e-6


def test_what_survives_is_what_is_significant_twice():
    def table(*p: float) -> pd.DataFrame:
        rows = {"feature": PUBLISHED, "label": "IDH", "family": 1, "n": 9, "fisher_p": 0.01, "effect": 0.5}
        return pd.DataFrame(rows).assign(holm_p=p)

    assert survival(table(0.01, 0.04, 0.2), table(0.04, 0.06, 0.01))["survives"].tolist() == ["yes", "no", ""]


# --- Areas -----------------------------------------------------------------------------------------------------


def test_area_by_hand():
    assert auc(np.array([3.0, 1]), np.array([2.0, 0, 1])) == pytest.approx(4.5 / 6)  # a tie counts half
    both = auc(np.array([[3.0, 1], [1, 3]]), np.array([[2.0, 0, 1], [2.0, 0, 1]]))
    assert both.tolist() == pytest.approx([4.5 / 6, 4.5 / 6])


def test_a_label_that_bevr_tells_apart():
    label = np.array(["2"] * 10 + ["1"] * 30 + [None] * 5, dtype=object)
    bevr = np.r_[RNG.uniform(0.1, 0.4, 10), RNG.uniform(0.3, 0.6, 30), [math.nan] * 3, 0.3, 0.4]
    features, labels = feature_table(45, bevr=bevr), pd.DataFrame({"RNASeqCluster": label})
    row = auc_of_bevr(features, labels, "RNASeqCluster")
    assert (row["n"], row["positives"], row["positive"]) == (40, 10, "2")
    assert row["auc"] == pytest.approx(float(auc(1 / bevr[:10], 1 / bevr[10:40])))
    assert 0.5 < row["low"] < row["auc"] < row["high"] <= 1 and 0.6 < row["nested_auc"] < 1
    assert auc_of_bevr(features, labels, "RNASeqCluster") == row  # the resamples are always the same
    few = auc_of_bevr(features[6:], labels[6:], "RNASeqCluster")
    assert few["positives"] == 4 and math.isnan(few["auc"]) and math.isnan(few["low"])


def test_nested_area_has_no_gain_from_the_choice_of_a_feature():
    """Of many meaningless features one always looks good; patients who had no say in the choice show that it is not."""
    truth = pd.Series([True] * 20 + [False] * 30)
    noise = pd.DataFrame(RNG.normal(size=(50, 30)))
    best = max(abs(float(auc(noise[c][truth].to_numpy(), noise[c][~truth].to_numpy())) - 0.5) for c in noise)
    assert best > 0.15 and abs(nested_auc(noise, truth) - 0.5) < 0.13
    assert nested_auc(pd.DataFrame({"a": -truth.astype(float)}), truth) == 1  # whatever its direction
    assert math.isnan(nested_auc(noise, pd.Series([True] * 4 + [False] * 46)))


# --- Agreement -------------------------------------------------------------------------------------------------


def test_intraclass_correlation_by_sums_of_squares():
    first, second = np.array([9.0, 6, 8, 7, 10, 6]), np.array([2.0, 1, 4, 1, 5, 2])
    both = np.stack([first, second], axis=1)
    rows, columns, grand = both.mean(1), both.mean(0), both.mean()
    between = 2 * ((rows - grand) ** 2).sum() / 5
    raters = 6 * ((columns - grand) ** 2).sum()
    error = ((both - rows[:, None] - columns + grand) ** 2).sum() / 5
    expected = (between - error) / (between + error + 2 / 6 * (raters - error))
    assert intraclass(first, second) == pytest.approx(expected)
    assert intraclass(first, first) == pytest.approx(1) and math.isnan(intraclass(np.ones(3), np.ones(3)))
    assert intraclass(first, first + 3) < 0.5  # perfectly correlated, but not in agreement


def test_agreement_leaves_out_who_lacks_one():
    first = pd.Series([1.0, 2, 3, 4, 5, 6, 7, math.nan, 9])
    row = compare_measurements(first, first + np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.6, 1, math.nan]))
    assert row["n"] == 7 and row["bias"] == pytest.approx(0.6 / 7)
    assert row["icc_low"] < row["icc"] < 1 and row["lower_limit"] < 0 < row["upper_limit"]
    few = compare_measurements(first[:2], first[:2])
    assert few["n"] == 2 and few["icc"] == pytest.approx(1) and math.isnan(few["icc_low"])
    nobody = compare_measurements(first * math.nan, first)
    assert nobody["n"] == 0 and math.isnan(nobody["icc"]) and math.isnan(nobody["bias"])
