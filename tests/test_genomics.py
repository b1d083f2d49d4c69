"""Tests of association and areas under ROC curves, against calculations by hand and SciPy's own."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluation import genomics
from evaluation.genomics import associate_one, auc, auc_of_bevr, fisher_exact, holm
from evaluation.shape import FEATURES
from reporting.genomics import draw_boxes, text_tables
from reporting.plots import GREY

RNG = np.random.default_rng(18)


def feature_table(patients: int, **columns) -> pd.DataFrame:
    """All features of some patients: random, but for the columns that are given."""
    return pd.DataFrame({name: RNG.uniform(1, 2, patients) for name in FEATURES}).assign(**columns)


def test_fisher_of_two_groups_is_that_of_scipy_of_three_by_hand_and_of_many_simulated(monkeypatch):
    for counts in ([[8, 2], [1, 5]], [[5, 5], [5, 5]]):
        assert fisher_exact(np.array(counts)) == pytest.approx(stats.fisher_exact(counts).pvalue)
    # Two patients in each group, three above the median: 20 equally likely ways
    assert fisher_exact(np.array([[2, 0], [1, 1], [0, 2]])) == pytest.approx(12 / 20)  # in the others, each has one
    assert fisher_exact(np.array([[3, 0], [0, 3], [0, 3]])) == pytest.approx(3 / 84)  # each group could be the one
    assert fisher_exact(np.array([[3, 0], [0, 3], [0, 0]])) == pytest.approx(2 / 20)  # an empty group adds nothing
    counts = np.array([[9, 3], [2, 8], [5, 6], [4, 3]])
    exact = fisher_exact(counts)
    monkeypatch.setattr(genomics, "MOST_TABLES", 100)
    assert fisher_exact(counts) == pytest.approx(exact, abs=0.005)


def test_holm_by_hand():
    adjusted = holm(pd.Series([0.01, 0.04, 0.03, 0.5]))
    assert adjusted.tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])  # never less than a smaller p
    adjusted = holm(pd.Series([0.01, math.nan, 0.4]))  # a test that cannot be computed is one of the family
    assert adjusted.tolist() == pytest.approx([0.03, math.nan, 0.8], nan_ok=True)  # times 3, then times 2


def test_one_association_by_hand():
    feature = pd.Series([1, 2, 3, 4, 5, 6, math.nan, 8])
    label = pd.Series(["a", "a", "a", "b", "b", "b", "b", None])
    row = associate_one(feature, label)
    assert (row["n"], row["missing"], row["reason"]) == (6, 2, "")
    assert (row["groups"], row["medians"]) == ("a: 3; b: 3", "a: 2; b: 5")
    assert row["fisher_p"] == pytest.approx(0.1)  # 2 of the 20 ways
    statistic, p = stats.kruskal([1, 2, 3], [4, 5, 6])
    assert row["kruskal_p"] == pytest.approx(p) and row["effect"] == pytest.approx(statistic / 5)


@pytest.mark.parametrize(("feature", "label", "reason"), [
    ([1.0, 2, 3, 4, 5, 6], ["a", "a", "a", "b", "b", None], "fewer than 6 patients have both"),
    ([1.0, 2, 3, 4, 5, 6], ["a"] * 6, "fewer than two groups"),
    ([2.0] * 6, ["a", "a", "b"] * 2, "no value above the median"),
])  # fmt: skip
def test_what_cannot_be_tested_has_a_reason(feature, label, reason):
    row = associate_one(pd.Series(feature), pd.Series(label, dtype=object))
    assert row["reason"] == reason and all(math.isnan(row[name]) for name in ("fisher_p", "kruskal_p", "effect"))


def test_the_difference_between_masks_has_an_interval_of_its_own():
    """p below and above 0.05 on two kinds of masks is no difference; noise that hides the label is one."""
    rng = np.random.default_rng(4)
    groups = np.arange(60) % 2
    manual = groups + 0.5 * rng.normal(size=60)
    same, noise = manual + 0.02 * rng.normal(size=60), rng.normal(size=60)
    for automatic, shown in ((same, False), (noise, True)):
        row = genomics.paired_difference(genomics.rank_effect, manual, automatic, groups)
        effects = (genomics.rank_effect(values, groups) for values in (automatic, manual))
        assert row["difference"] == pytest.approx(np.subtract(*effects))
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert (row["difference_high"] < 0) is shown
    few = genomics.paired_difference(auc, manual[:19], noise[:19], groups[:19] > 0)
    assert math.isnan(few["difference_low"]) and few["difference"] < 0


def test_area_by_hand():
    truth = np.array([True, True, False, False, False])
    assert auc(np.array([3.0, 1, 2, 0, 1]), truth) == pytest.approx(4.5 / 6)  # a tie counts half
    assert auc(np.array([[3.0, 1, 2, 0, 1], [1, 3, 2, 0, 1]]), truth).tolist() == pytest.approx([4.5 / 6] * 2)
    assert math.isnan(auc(np.array([1.0, 2]), np.array([True, True])))


def test_a_label_that_bevr_tells_apart():
    label = np.array(["2"] * 10 + ["1"] * 30 + [None] * 5, dtype=object)
    bevr = np.r_[RNG.uniform(0.1, 0.4, 10), RNG.uniform(0.3, 0.6, 30), [math.nan] * 3, 0.3, 0.4]
    features, labels = feature_table(45, bevr=bevr), pd.DataFrame({"RNASeqCluster": label})
    manual, automatic = auc_of_bevr({"manual": features, "automatic": features * 2}, labels, "RNASeqCluster")
    assert (manual["n"], manual["positives"], manual["positive"]) == (40, 10, "2")
    above = (bevr[:10, None] < bevr[10:40]).mean() + (bevr[:10, None] == bevr[10:40]).mean() / 2
    assert manual["auc"] == automatic["auc"] == pytest.approx(above)
    assert 0.5 < manual["low"] < manual["auc"] < manual["high"] <= 1
    assert [automatic[name] for name in genomics.UNDEFINED] == [0, 0, 0] and math.isnan(manual["difference"])
    (few,) = auc_of_bevr({"manual": features[6:]}, labels[6:], "RNASeqCluster")
    assert few["positives"] == 4 and math.isnan(few["auc"]) and math.isnan(few["low"])


def test_no_value_of_fewer_than_six_patients_is_shown():
    features = feature_table(5)
    labels = pd.DataFrame({"IDH": ["wildtype", "mutant", "mutant", "wildtype", "mutant"]})
    automatic = (features * 1.1).assign(reason="").to_dict("records")
    table = features.assign(reason="").to_dict("records")
    labels.index = [f"p{n}" for n in range(5)]
    study = genomics.study(table, automatic, labels)
    for title, shown in text_tables(study).items():
        words = {"label", "feature", "masks", "patients", "n"}
        assert set(shown.drop(columns=[*words & {*shown}]).to_numpy().ravel()) == {"-"}, title
    lines = draw_boxes(study["shape_features"], "bevr").axes[0].lines
    assert {line.get_color() for line in lines if len(line.get_xdata()) > 1} == {GREY}  # dots, no boxes
