"""Radiogenomics: association of shape features with labels of the same patients, on manual and on automatic masks.

The family of tests is stated before any is made: each of the published features against each label, by Fisher's exact
test on the split at the feature's median. Its p values are adjusted for the size of the family (Holm). The
Kruskal-Wallis test beside it, which needs no split, the other features and GENES are not part of the family.

With predicted masks, every number is computed on the same patients for both kinds of masks: a feature that is undefined
on one is left out on the other. Whether an association is weaker on automatic masks is the difference of its strength
on both, with a paired bootstrap over patients: two p values on two sides of 0.05 show no difference.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from dataset.labels import GENES, LABELS, SYNTHETIC_LABEL
from evaluation.intervals import FEWEST, LEVEL, SEED, auc_interval, compare_measurements
from evaluation.shape import FEATURES, PUBLISHED

SIGNIFICANT = 0.05
MOST_TABLES = 2_000_000  # that are enumerated; more, and p is simulated
SIMULATED = 99_999
ALIKE = 1e-7  # relative difference of two probabilities that are equal but for rounding
RESAMPLES = 2_000  # of the paired bootstrap
FEWEST_PAIRED = 20  # patients of the paired bootstrap: with twelve, simulated intervals hold 75% instead of 95%
UNDEFINED = dict.fromkeys(("difference", "difference_low", "difference_high"), math.nan)
CONTRASTS = {  # the positive label, against the rest: the one published as irregular
    "RNASeqCluster": "2",
    "COCCluster": "2",
    "IDH": "wildtype",
    SYNTHETIC_LABEL: "irregular",
}
MANUAL, AUTOMATIC = "manual", "automatic"  # masks
PREDICTED = "predicted_"  # before the name of a feature of automatic masks, in shape_features.csv
CAVEAT = (
    "These are associations in the sample at hand, not a test of genomic status: the clusters were found in tumours of "
    "the same collection, and no other patients were looked at."
)


# --- Tests of association --------------------------------------------------------------------------------------


def associate(features: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Test each of FEATURES against each label; both tables have one row per patient, in the same order.

    Returns a row per feature and label: n (patients with both) and missing, the patients and the median in each group,
    whether the test is part of the family, fisher_p, holm_p (of the family), kruskal_p, effect (see rank_effect), and
    the reason where nothing can be tested.
    """
    rows = [
        {"feature": name, "label": label, "family": int(name in PUBLISHED and label not in GENES)}
        | associate_one(features[name], labels[label])
        for label in labels
        for name in FEATURES
    ]
    table = pd.DataFrame(rows)
    adjusted = holm(table.loc[table["family"] == 1, "fisher_p"])
    table.insert(table.columns.get_loc("fisher_p") + 1, "holm_p", adjusted)
    return table


def associate_one(feature: pd.Series, label: pd.Series) -> dict[str, Any]:
    """Test one feature against one label."""
    both = feature.notna() & label.notna()
    values, groups = feature[both].astype(float), label[both]
    by_group = {name: values[groups == name] for name in sorted(groups.unique())}
    median = values.median()
    counts = np.array([((group > median).sum(), (group <= median).sum()) for group in by_group.values()])
    reason = ""
    if len(values) < FEWEST:
        reason = f"fewer than {FEWEST} patients have both"
    elif len(by_group) < 2:
        reason = "fewer than two groups"
    elif not counts.any(0).all():
        reason = "no value above the median"
    row = {
        "n": len(values),
        "missing": len(feature) - len(values),
        "groups": "; ".join(f"{name}: {len(group)}" for name, group in by_group.items()),
        "medians": "; ".join(f"{name}: {group.median():.4g}" for name, group in by_group.items()),
        **dict.fromkeys(("fisher_p", "kruskal_p", "effect"), math.nan),
        "reason": reason,
    }
    if not reason:
        row["fisher_p"], row["kruskal_p"] = fisher_exact(counts), float(stats.kruskal(*by_group.values()).pvalue)
        row["effect"] = float(rank_effect(values.to_numpy(), pd.factorize(groups)[0]))
    return row


def fisher_exact(counts: np.ndarray) -> float:
    """Return p of Fisher's exact test of counts (int [G, 2]), by enumeration of the tables with these sums.

    SciPy's own only simulates p for more than two groups: it stands in where there are too many tables.
    """
    sizes, above = counts.sum(1), int(counts[:, 0].sum())
    if np.prod(sizes[1:] + 1.0) > MOST_TABLES:
        simulated = stats.MonteCarloMethod(n_resamples=SIMULATED, rng=np.random.default_rng(SEED))
        return float(stats.fisher_exact(counts, method=simulated).pvalue)
    others = np.indices(sizes[1:] + 1).reshape(len(sizes) - 1, -1).T
    tables = np.column_stack([above - others.sum(1), others])  # of each group, how many are above
    hypergeometric = stats.multivariate_hypergeom(sizes, above)
    likelihood, observed = hypergeometric.logpmf(tables), hypergeometric.logpmf(counts[:, 0])
    return float(min(np.exp(special.logsumexp(likelihood[likelihood <= observed + ALIKE])), 1))


def holm(p: pd.Series) -> pd.Series:
    """Return p values adjusted for their number by Holm's method. NaN, a test that cannot be computed, counts too."""
    ordered = p.dropna().sort_values()
    adjusted = (ordered * (len(p) - np.arange(len(ordered)))).cummax().clip(upper=1)
    return adjusted.reindex(p.index)


# --- Strength of an association: values float [..., n], groups [..., n] or [n], both along the last axis ---------


def rank_effect(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the share of the variance of ranks that lies between groups (int, from 0), H / (n - 1) of Kruskal-Wallis.

    NaN where all values are equal.
    """
    ranks = stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    members = [groups == group for group in range(groups.max() + 1)]
    between = sum((ranks * own).sum(-1) ** 2 / np.maximum(own.sum(-1), 1) for own in members)
    with np.errstate(invalid="ignore"):
        return between / (ranks**2).sum(-1)


def auc(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve: how often a positive score is above a negative one; a tie counts half.

    truth: bool. NaN without a positive or a negative one.
    """
    positives = truth.sum(-1)
    pairs = positives * (truth.shape[-1] - positives)
    above = (stats.rankdata(scores, axis=-1) * truth).sum(-1) - positives * (positives + 1) / 2
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def paired_difference(
    statistic: Callable, manual: np.ndarray, automatic: np.ndarray, groups: np.ndarray
) -> dict[str, float]:
    """Return the difference of a statistic of (values, groups), automatic minus manual mask, with low and high.

    The 95% confidence interval is that of a basic bootstrap over patients (float [n] each); NaN below FEWEST_PAIRED.
    """
    difference = float(statistic(automatic, groups) - statistic(manual, groups))
    low = high = math.nan
    if len(groups) >= FEWEST_PAIRED:
        rows = np.random.default_rng(SEED).integers(len(groups), size=(RESAMPLES, len(groups)))
        resampled = statistic(automatic[rows], groups[rows]) - statistic(manual[rows], groups[rows])
        low, high = 2 * difference - np.nanquantile(resampled, ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return dict(zip(UNDEFINED, (difference, float(low), float(high)), strict=True))


# --- 1/BEVR, one label against the rest ------------------------------------------------------------------------


def auc_of_bevr(by_masks: dict[str, pd.DataFrame], labels: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    """Return a row per kind of masks: AUC of 1/BEVR for the positive one of CONTRASTS against the rest, its interval.

    The row of automatic masks has the difference from manual ones. NaN below FEWEST patients on either side.
    by_masks: of `split_masks`.
    """
    rows, scores = [], []
    for masks, features in by_masks.items():
        score, truth = contrast(features, labels, label)
        positives, negatives = int(truth.sum()), int((~truth).sum())
        area = float(auc(score, truth)) if min(positives, negatives) >= FEWEST else math.nan
        row = {"masks": masks, "label": label, "positive": CONTRASTS[label], "n": len(truth), "positives": positives}
        row |= dict(zip(("auc", "low", "high"), (area, *auc_interval(area, positives, negatives)), strict=True))
        rows.append(row)
        scores.append(score)
    if len(rows) > 1:
        rows[1] |= UNDEFINED if math.isnan(area) else paired_difference(auc, *scores, truth)
    return rows


def contrast(features: pd.DataFrame, labels: pd.DataFrame, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 1/BEVR (float [n]) and whether a patient is positive (bool [n]) of the patients who have both."""
    known = labels[label].notna() & features["bevr"].notna()
    positive = labels.loc[known, label] == CONTRASTS[label]
    return 1 / features.loc[known, "bevr"].to_numpy(float), positive.to_numpy(bool)


# --- The whole study -------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """shape_features.csv, associations.csv and the content of radiogenomics.json."""

    features: pd.DataFrame
    associations: pd.DataFrame
    result: dict[str, Any]


def feature_table(manual: list[dict], automatic: list[dict] | None, labels: pd.DataFrame) -> pd.DataFrame:
    """Return one row per patient of `labels` (their index): features and reasons on each kind of masks, labels."""
    tables = [pd.DataFrame(manual, labels.index)]
    if automatic:
        tables.append(pd.DataFrame(automatic, labels.index).add_prefix(PREDICTED))
    return pd.concat([*tables, labels], axis=1).rename_axis("patient").reset_index()


def study(features: pd.DataFrame) -> Study:
    """Analyse a table of `feature_table`."""
    labels = features[[name for name in LABELS if name in features]]
    by_masks = split_masks(features)
    tests = {masks: associate(values, labels) for masks, values in by_masks.items()}
    tests = pd.concat(tests, names=["masks", None]).reset_index("masks").reset_index(drop=True)
    paired = AUTOMATIC in by_masks
    pairs = [(name, features[name], features[f"{PREDICTED}{name}"]) for name in FEATURES if paired]
    result = {
        "patients": len(features),
        "labels": {name: int(labels[name].notna().sum()) for name in labels},
        "masks": list(by_masks),
        "auc": [row for label in CONTRASTS if label in labels for row in auc_of_bevr(by_masks, labels, label)],
        "agreement": [{"feature": name} | compare_measurements(*pair) for name, *pair in pairs],
        "effect_difference": effect_differences(by_masks, tests, labels) if paired else [],
    }
    return Study(features, tests, result)


def split_masks(features: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the features on each kind of masks, {masks: table}; with two kinds, only values that both have."""
    manual = features[list(FEATURES)]
    if f"{PREDICTED}{PUBLISHED[0]}" not in features:
        return {MANUAL: manual}
    automatic = features[[f"{PREDICTED}{name}" for name in FEATURES]].set_axis(list(FEATURES), axis=1)
    both = manual.notna() & automatic.notna()
    return {MANUAL: manual.where(both), AUTOMATIC: automatic.where(both)}


def effect_differences(
    by_masks: dict[str, pd.DataFrame], tests: pd.DataFrame, labels: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the difference of the effects on both kinds of masks for the family of tests: label, feature, difference.

    by_masks: of `split_masks`; tests: of `associate`, on both.
    """
    rows = []
    for (label, feature), own in tests[tests["family"] == 1].groupby(["label", "feature"], sort=False):
        known = by_masks[MANUAL][feature].notna() & labels[label].notna()
        values = (features.loc[known, feature].to_numpy(float) for features in by_masks.values())
        groups = pd.factorize(labels.loc[known, label])[0]
        tested = (own["reason"] == "").all()
        difference = paired_difference(rank_effect, *values, groups) if tested else UNDEFINED
        rows.append({"label": label, "feature": feature} | difference)
    return rows
