"""The result of radiogenomics.py from features and labels: its tables, and these as text for the page and the screen.

With predicted masks, every number is computed on the same patients for both kinds of masks: a feature that is undefined
on one is left out on the other.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dataset.labels import LABELS
from evaluation import agreement, associations
from evaluation.associations import CAVEAT, CONTRASTS, associate, associate_one
from evaluation.shape import FEATURES, PUBLISHED, Shape
from utils import show_number

MANUAL, AUTOMATIC = "manual", "automatic"  # masks
PREDICTED = "predicted_"  # before the name of a feature of automatic masks, in shape_features.csv
SHOWN_P = 1e-4  # smaller ones are only said to be so


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
            {"masks": masks} | associations.tell_apart(values, labels, label)
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
        result["agreement"] = [{"feature": name} | agreement.compare(*pair) for name, *pair in pairs]
        result["survival"] = associations.survival(*tested.values()).to_dict("records")
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
            area = float(associations.auc(score[truth].to_numpy(), score[~truth].to_numpy()))
            area = 1 - area if name == "bevr" else area  # the lower, the more irregular
        same = values.corr(features[name], "spearman") if len(values.dropna()) > 2 else np.nan
        kept = {key: test[key] for key in ("n", "fisher_p", "kruskal_p")}
        rows.append(
            {"choice": choice, "feature": name, "label": label, "correlation": float(same), **kept, "auc": area}
        )
    return rows


# --- Text ------------------------------------------------------------------------------------------------------


def show_p(p: float | None) -> str:
    return f"<{SHOWN_P:.4f}" if p is not None and p < SHOWN_P else show_number(p, ".4f" if (p or 0) < 0.1 else ".2f")


def show_range(low: float | None, high: float | None, form: str) -> str:
    shown = show_number(low, form)
    return shown if shown == "-" else f"{shown} to {show_number(high, form)}"


def mean_form(name: str) -> str:
    """Return the format of a mean of a feature: numbers of voxels have one decimal there."""
    return FEATURES[name].form.replace(".0f", ".1f")


def text_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Return the tables that are printed and stand on the page, {title: table of text}, without empty ones.

    study: as computed, or read from its files, where null stands for NaN.
    """
    result = study.result
    tables = {
        "1/BEVR: one label against the rest": [
            {
                "label": f"{LABELS[row['label']]} {row['positive']}",
                "masks": row["masks"],
                "patients": f"{row['positives']} of {row['n']}",
                "AUC": show_number(row["auc"]),
                "95% interval": show_range(row["low"], row["high"], ".3f"),
                "nested AUC": show_number(row["nested_auc"]),
            }
            for row in result["auc"]
        ],
        "Associations, manual masks": [] if result["survival"] else family_rows(study.associations),
        "Does each association survive the automatic mask?": [
            {
                "label": LABELS[row["label"]],
                "feature": FEATURES[row["feature"]].short,
                "n": str(row["n_manual"]),
                **{f"p, {masks}": show_p(row[f"holm_p_{masks}"]) for masks in (MANUAL, AUTOMATIC)},
                **{f"effect, {masks}": show_number(row[f"effect_{masks}"], ".2f") for masks in (MANUAL, AUTOMATIC)},
                "survives": row["survives"] or "not significant",
            }
            for row in result["survival"]
        ],
        "Features on automatic against manual masks": [
            {
                "feature": FEATURES[row["feature"]].short,
                "n": str(row["n"]),
                "ICC": show_number(row["icc"], ".2f"),
                "95% interval": show_range(row["icc_low"], row["icc_high"], ".2f"),
                "bias": show_number(row["bias"], mean_form(row["feature"])),
                "limits of agreement": show_range(row["lower_limit"], row["upper_limit"], mean_form(row["feature"])),
            }
            for row in result["agreement"]
        ],
        "Choices that the published definitions leave open": [
            {
                "masks": row["masks"],
                "feature": FEATURES[row["feature"]].short,
                "choice": row["choice"],
                "rank correlation": show_number(row["correlation"]),
                f"p, {LABELS[row['label']]}": show_p(row["fisher_p"]),
                "p, Kruskal-Wallis": show_p(row["kruskal_p"]),
                "AUC": show_number(row["auc"]),
            }
            for row in result["choices"]
        ],
    }
    return {title: pd.DataFrame(rows) for title, rows in tables.items() if rows}


def family_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    """Return the family of tests with one row per label: the adjusted p values and the effects (see associate)."""
    rows = []
    for label, tests in table[table["family"] == 1].groupby("label", sort=False):
        tests = tests.set_index("feature")
        row = {"label": LABELS[label], "n": str(tests["n"].iloc[0])}
        row |= {f"p, {FEATURES[name].short}": show_p(tests.at[name, "holm_p"]) for name in PUBLISHED}
        row |= {f"effect, {FEATURES[name].short}": show_number(tests.at[name, "effect"], ".2f") for name in PUBLISHED}
        rows.append(row)
    return rows


def sentences(study: Study) -> list[str]:
    """Return what must be read with the tables."""
    result = study.result
    features = ", ".join(FEATURES[name].short for name in PUBLISHED)
    tests = len(PUBLISHED) * len(result["labels"])
    notes = [
        f"p: Fisher's exact test on the split at the median, adjusted for the {tests} tests of the family ({features}, "
        "each label; Holm). Effect: share of the variance of ranks that lies between the groups.",
        "Nested AUC: mean over 20 x 5 folds, in each of which the feature and its direction are chosen on the other "
        "patients.",
        result["caveat"],
    ]
    if result["agreement"]:
        notes.append(
            "Of an automatic mask, only the largest component in 3D is measured: a false one far away would stretch "
            "the ellipsoid. Of a manual mask, all are. ICC: intraclass correlation of absolute agreement. Bias: "
            "automatic minus manual mask."
        )
    if result["survival"]:
        significant = [row for row in result["survival"] if row["survives"]]
        kept = sum(row["survives"] == "yes" for row in significant)
        notes.insert(
            0,
            f"{kept} of {len(significant)} associations that are significant on manual masks are so on automatic ones."
            if significant
            else "No association is significant on manual masks, so that none can survive the automatic ones.",
        )
    if undefined := result["undefined"]:
        few = "; ".join(f"{row['patient']}, {row['masks']} mask: {row['reason']}" for row in undefined[:3])
        more = f"; and {len(undefined) - 3} more" if len(undefined) > 3 else ""
        notes.append(f"Features undefined: {few}{more}.")
    return notes
