"""Radiogenomics: association of shape features with labels of the same patients, on manual and on automatic masks.

The family of tests is stated before any is made: each of the published features against each label, by Fisher's exact
test on the split at the feature's median. Its p values are adjusted for their number (Holm). The Kruskal-Wallis test
beside it, which needs no split, and the other features are not part of the family.

With predicted masks, every number is computed on the same patients for both kinds of masks: a feature that is undefined
on one is left out on the other.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats
from sklearn.model_selection import RepeatedStratifiedKFold

from dataset.labels import LABELS, SYNTHETIC_LABEL
from evaluation.intervals import FEWEST, LEVEL, RESAMPLES, SEED, compare_measurements
from evaluation.shape import FEATURES, PUBLISHED, Shape

SIGNIFICANT = 0.05
MOST_TABLES = 2_000_000  # that are enumerated; more, and p is simulated
SIMULATED = 99_999
ALIKE = 1e-7  # relative difference of two probabilities that are equal but for rounding
FOLDS, REPEATS = 5, 20
CONTRASTS = {  # the label that is told from the rest: the one published as irregular
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


def associate(features: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Test each of FEATURES against each label; both tables have one row per patient, in the same order.

    Returns a row per feature and label: n (patients with both) and missing, the patients and the median in each group,
    whether the test is part of the family, fisher_p, holm_p (of the family), kruskal_p, effect (share of the variance
    of the feature's ranks that lies between the groups, H / (n - 1)), and the reason where nothing can be tested.
    """
    rows = [
        {"feature": name, "label": label, "family": int(name in PUBLISHED)}
        | associate_one(features[name], labels[label])
        for label in labels
        for name in FEATURES
    ]
    table = pd.DataFrame(rows)
    family = table["family"] == 1
    table.insert(table.columns.get_loc("fisher_p") + 1, "holm_p", holm(table["fisher_p"].where(family)))
    return table


def associate_one(feature: pd.Series, label: pd.Series) -> dict[str, Any]:
    """Test one feature against one label."""
    both = feature.notna() & label.notna()
    values, groups = feature[both].astype(float), label[both]
    of_group = {name: values[groups == name] for name in sorted(groups.unique())}
    counts = np.array([((part > values.median()).sum(), (part <= values.median()).sum()) for part in of_group.values()])
    reason = ""
    if len(of_group) < 2:
        reason = "fewer than two groups" if len(of_group) else "no patient has both"
    elif not counts.any(0).all():
        reason = "no value above the median"
    row = {
        "n": len(values),
        "missing": len(feature) - len(values),
        "groups": "; ".join(f"{name}: {len(part)}" for name, part in of_group.items()),
        "medians": "; ".join(f"{name}: {part.median():.4g}" for name, part in of_group.items()),
        "fisher_p": math.nan,
        "kruskal_p": math.nan,
        "effect": math.nan,
        "reason": reason,
    }
    if not reason:
        statistic, row["kruskal_p"] = map(float, stats.kruskal(*of_group.values()))
        row |= {"fisher_p": fisher_exact(counts), "effect": statistic / (len(values) - 1)}
    return row


def fisher_exact(counts: np.ndarray) -> float:
    """Return p of Fisher's exact test of counts (int [G, 2]): of all tables with these sums that are as unlikely.

    SciPy's own only simulates p for more than two groups, which cannot show a small one; it stands in where there are
    too many tables to enumerate.
    """
    sizes, above = counts.sum(1), int(counts[:, 0].sum())
    if np.prod(sizes[1:] + 1.0) > MOST_TABLES:
        simulated = stats.MonteCarloMethod(n_resamples=SIMULATED, rng=np.random.default_rng(SEED))
        return float(stats.fisher_exact(counts, method=simulated).pvalue)
    others = np.stack(np.meshgrid(*(np.arange(size + 1) for size in sizes[1:]), indexing="ij")).reshape(
        len(sizes) - 1, -1
    )
    first = above - others.sum(0)
    possible = (first >= 0) & (first <= sizes[0])
    tables = np.vstack([first[possible], others[:, possible]])
    likelihood = _ways(sizes[:, None], tables).sum(0)
    observed = _ways(sizes, counts[:, 0]).sum()
    log_p = special.logsumexp(likelihood[likelihood <= observed + ALIKE]) - _ways(sizes.sum(), above)
    return float(min(np.exp(log_p), 1))


def _ways(total: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the logarithm of the number of ways to choose some of a total."""
    return special.gammaln(total + 1) - special.gammaln(chosen + 1) - special.gammaln(total - chosen + 1)


def holm(p: pd.Series) -> pd.Series:
    """Return p values adjusted for their number by Holm's method; NaN is no test."""
    ordered = p.dropna().sort_values()
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return adjusted.reindex(p.index)


def survival(manual: pd.DataFrame, automatic: pd.DataFrame) -> pd.DataFrame:
    """Return the family of tests on manual and on automatic masks side by side (tables of `associate`).

    survives: whether an association that is significant on manual masks is so on automatic ones; empty where it is not
    significant on manual masks.
    """
    columns = ["feature", "label", "n", "fisher_p", "holm_p", "effect"]
    pair = manual[manual["family"] == 1][columns].merge(
        automatic[columns], on=["feature", "label"], suffixes=("_manual", "_automatic"), validate="one_to_one"
    )
    first, second = (pair[f"holm_p_{masks}"] < SIGNIFICANT for masks in ("manual", "automatic"))
    return pair.assign(survives=np.where(first, np.where(second, "yes", "no"), ""))


def auc_of_bevr(features: pd.DataFrame, labels: pd.DataFrame, label: str) -> dict[str, Any]:
    """Return how well 1/BEVR tells the patients of one of CONTRASTS from the rest; tables as of `associate`.

    Keys: label, positive, n, positives, auc with low and high (percentile bootstrap over patients of each side), and
    nested_auc (see there). NaN where there are fewer than FEWEST patients on either side.
    """
    score, truth = contrast(features, labels, label)
    row = {"label": label, "positive": CONTRASTS[label], "n": len(truth), "positives": int(truth.sum())}
    if not FEWEST <= truth.sum() <= len(truth) - FEWEST:
        return row | dict.fromkeys(("auc", "low", "high", "nested_auc"), math.nan)
    parts = score[truth], score[~truth]
    interval = stats.bootstrap(
        parts, auc, vectorized=True, n_resamples=RESAMPLES, batch=500, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    known = labels[label].notna() & features[PUBLISHED].notna().all(axis=1)
    return row | {
        "auc": float(auc(*parts)),
        "low": float(interval.low),
        "high": float(interval.high),
        "nested_auc": nested_auc(features.loc[known, PUBLISHED], labels.loc[known, label] == CONTRASTS[label]),
    }


def contrast(features: pd.DataFrame, labels: pd.DataFrame, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 1/BEVR (float [n]) and whether a patient is positive (bool [n]) of the patients who have both."""
    known = labels[label].notna() & features["bevr"].notna()
    return 1 / features.loc[known, "bevr"].to_numpy(float), (labels.loc[known, label] == CONTRASTS[label]).to_numpy(
        bool
    )


def auc(positive: np.ndarray, negative: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the area under the ROC curve of scores along an axis: how often a positive one is the higher."""
    positive, negative = np.moveaxis(positive, axis, -1)[..., :, None], np.moveaxis(negative, axis, -1)[..., None, :]
    return ((positive > negative).mean((-2, -1)) + (positive >= negative).mean((-2, -1))) / 2  # a tie counts half


def nested_auc(features: pd.DataFrame, truth: pd.Series) -> float:
    """Return the mean AUC of patients who had no say in which feature is used, and in which direction.

    In each of 20 x 5 stratified folds, the published feature with the highest AUC among the other patients is taken.
    NaN for fewer than FOLDS patients on either side.
    """
    if min(truth.sum(), (~truth).sum()) < FOLDS:
        return math.nan
    values, positive, found = features.to_numpy(float), truth.to_numpy(bool), []
    for rest, fold in RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=SEED).split(
        values, positive
    ):
        of_rest, of_fold = (
            auc(values[rows][positive[rows]], values[rows][~positive[rows]], 0) for rows in (rest, fold)
        )
        best = np.abs(of_rest - 0.5).argmax()
        found.append(of_fold[best] if of_rest[best] > 0.5 else 1 - of_fold[best])
    return float(np.mean(found))


# --- The whole study -----------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """shape_features.csv, associations.csv and the content of radiogenomics.json."""

    features: pd.DataFrame
    associations: pd.DataFrame
    result: dict[str, Any]


def feature_table(labels: pd.DataFrame, shapes: dict[str, Shape], predicted: dict[str, Shape] | None) -> pd.DataFrame:
    """Return one row per patient: features on manual and, if there are any, on predicted masks, reasons, labels."""
    table = {"patient": list(shapes)}
    for prefix, measured in (("", shapes), (PREDICTED, predicted)):
        if measured:
            table |= {f"{prefix}{name}": [measured[p].features[name] for p in shapes] for name in FEATURES}
            table[f"{prefix}reason"] = [measured[p].reason for p in shapes]
    return pd.DataFrame(table).assign(**{name: labels[name].to_numpy() for name in labels})


def study(features: pd.DataFrame, other_choices: dict[str, dict[tuple[str, str], pd.Series]]) -> Study:
    """Analyse a table of `feature_table`.

    other_choices: published features under other choices, {masks: {(choice, feature): a value per patient}}.
    """
    labels = features[[name for name in LABELS if name in features]]
    by_masks = split_masks(features)
    tested = {masks: associate(values, labels) for masks, values in by_masks.items()}
    result = {
        "patients": len(features),
        "labels": {name: int(labels[name].notna().sum()) for name in labels},
        "masks": list(by_masks),
        "auc": [
            {"masks": masks} | auc_of_bevr(values, labels, label)
            for label in CONTRASTS
            if label in labels
            for masks, values in by_masks.items()
        ],
        "choices": [
            {"masks": masks} | row
            for masks, values in by_masks.items()
            for row in compare_choices(values, other_choices[masks], labels)
        ],
        "agreement": [],
        "survival": [],
        "undefined": [
            {"patient": row["patient"], "masks": masks, "reason": row[column]}
            for masks, column in ((MANUAL, "reason"), (AUTOMATIC, f"{PREDICTED}reason"))
            if column in features
            for _, row in features.iterrows()
            if row[column]
        ],
        "caveat": CAVEAT,
    }
    if AUTOMATIC in by_masks:
        pairs = [(name, features[name], features[f"{PREDICTED}{name}"]) for name in FEATURES]
        result["agreement"] = [{"feature": name} | compare_measurements(*pair) for name, *pair in pairs]
        result["survival"] = survival(*tested.values()).to_dict("records")
    table = pd.concat([part.assign(masks=masks) for masks, part in tested.items()], ignore_index=True)
    return Study(features, table[["masks", *table.columns.drop("masks")]], result)


def split_masks(features: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the features on each kind of masks, {masks: table}; with two kinds, only values that both have."""
    manual = features[list(FEATURES)]
    if f"{PREDICTED}{PUBLISHED[0]}" not in features:
        return {MANUAL: manual}
    automatic = features[[f"{PREDICTED}{name}" for name in FEATURES]].set_axis(list(FEATURES), axis=1)
    both = manual.notna() & automatic.notna()
    return {MANUAL: manual.where(both), AUTOMATIC: automatic.where(both)}


def compare_choices(
    features: pd.DataFrame, other_choices: dict[tuple[str, str], pd.Series], labels: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return what follows from each choice that the published definitions leave open, against the first label.

    Each has choice, feature, n, its rank correlation with the choice that is taken, fisher_p, kruskal_p and the AUC.
    """
    label = labels.columns[0]
    taken = {("as taken", name): features[name] for name in PUBLISHED}
    rows = []
    for (choice, name), values in sorted((taken | other_choices).items(), key=lambda item: PUBLISHED.index(item[0][1])):
        values = values.where(features[name].notna())
        test = associate_one(values, labels[label])
        both = values.notna() & labels[label].notna()
        truth = (labels[label] == CONTRASTS.get(label))[both]
        area = np.nan
        if 0 < truth.sum() < len(truth):
            score = values[both].astype(float)
            area = float(auc(score[truth].to_numpy(), score[~truth].to_numpy()))
            area = 1 - area if name == "bevr" else area  # the lower, the more irregular
        same = values.corr(features[name], "spearman") if len(values.dropna()) > 2 else np.nan
        kept = {key: test[key] for key in ("n", "fisher_p", "kruskal_p")}
        rows.append(
            {"choice": choice, "feature": name, "label": label, "correlation": float(same), **kept, "auc": area}
        )
    return rows
