"""Radiogenomics: association of shape features with labels of the same patients, on manual and on automatic masks.

The family of tests is stated before any is made: each of the published features against each label, by Fisher's exact
test on the split at the feature's median. Its p values are adjusted for the size of the family (Holm). The
Kruskal-Wallis test beside it, which needs no split, the other features and GENES are not part of the family.

With predicted masks, every number is computed on the same patients for both kinds of masks: a feature that is undefined
on one is left out on the other. Whether an association is weaker on automatic masks is the difference of its strength
on both, with a paired bootstrap over patients: two p values on two sides of 0.05 show no difference.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from dataset.labels import GENES, SYNTHETIC_LABEL
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
PREFIX = {MANUAL: "", AUTOMATIC: "predicted_"}  # before the name of a feature, in shape_features.csv
CAVEAT = (
    "These are associations in the sample at hand, not a test of genomic status: the clusters were found in tumours of "
    "the same collection, and no other patients were looked at."
)


# --- Tests of association --------------------------------------------------------------------------------------


def associate(by_masks: dict[str, pd.DataFrame], labels: pd.DataFrame) -> pd.DataFrame:
    """Test each of FEATURES on each kind of masks ({masks: features}) against each label, patients in the same order.

    Returns a row per label, feature and masks: n (patients with both) and missing, the patients and the median in each
    group, whether the test is part of the family, fisher_p, holm_p (of the family), kruskal_p, effect (see
    rank_effect), and the reason where nothing can be tested. The family's rows of automatic masks have the difference
    of the effect from that on manual masks, see `paired_difference`.
    """
    rows = []
    for label, name, masks in itertools.product(labels, FEATURES, by_masks):
        family, feature = name in PUBLISHED and label not in GENES, by_masks[masks][name]
        row = {"label": label, "feature": name, "masks": masks, "family": int(family)}
        row |= associate_one(feature, labels[label]) | UNDEFINED
        if family and masks == AUTOMATIC and not row["reason"]:
            known = feature.notna() & labels[label].notna()
            values = (table.loc[known, name].to_numpy(float) for table in by_masks.values())
            row |= paired_difference(rank_effect, *values, pd.factorize(labels.loc[known, label])[0])
        rows.append(row)
    table = pd.DataFrame(rows)
    adjusted = table[table["family"] == 1].groupby("masks")["fisher_p"].transform(holm)
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
    by_masks: as of `associate`.
    """
    rows, scores = [], []
    for masks, features in by_masks.items():
        score, truth = contrast(features, labels, label)
        scores.append(score)
        positives, negatives = int(truth.sum()), int((~truth).sum())
        area = float(auc(score, truth)) if min(positives, negatives) >= FEWEST else math.nan
        row = {"label": label, "positive": CONTRASTS[label], "masks": masks, "n": len(truth), "positives": positives}
        row |= dict(zip(("auc", "low", "high"), (area, *auc_interval(area, positives, negatives)), strict=True))
        paired = len(scores) > 1 and not math.isnan(area)
        rows.append(row | (paired_difference(auc, *scores, truth) if paired else UNDEFINED))
    return rows


def contrast(features: pd.DataFrame, labels: pd.DataFrame, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 1/BEVR (float [n]) and whether a patient is positive (bool [n]) of the patients who have both."""
    known = labels[label].notna() & features["bevr"].notna()
    positive = labels.loc[known, label] == CONTRASTS[label]
    return 1 / features.loc[known, "bevr"].to_numpy(float), positive.to_numpy(bool)


# --- The whole study -------------------------------------------------------------------------------------------


def study(manual: list[dict], automatic: list[dict] | None, labels: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of GENOMICS: features per patient, tests, areas under ROC curves, agreement of both masks.

    manual, automatic: features of each patient of `labels` (their index), as shape.measure returns them. With two kinds
    of masks, only values that both have are tested.
    """
    tables = {MANUAL: pd.DataFrame(manual, labels.index)}
    if automatic:
        tables[AUTOMATIC] = pd.DataFrame(automatic, labels.index)
    known = np.logical_and.reduce([table[list(FEATURES)].notna() for table in tables.values()])
    by_masks = {masks: table[list(FEATURES)].where(known) for masks, table in tables.items()}
    prefixed = [table.add_prefix(PREFIX[masks]) for masks, table in tables.items()]
    pairs = by_masks[MANUAL].items() if automatic else ()
    agreement = [{"feature": name} | compare_measurements(own, by_masks[AUTOMATIC][name]) for name, own in pairs]
    areas = [row for name in CONTRASTS if name in labels for row in auc_of_bevr(by_masks, labels, name)]
    return {
        "shape_features": pd.concat([*prefixed, labels], axis=1).rename_axis("patient").reset_index(),
        "associations": associate(by_masks, labels),
        "auc": pd.DataFrame(areas),
        "agreement": pd.DataFrame(agreement),
    }
