"""Plots and tables of text of radiogenomics.py: features by label, ROC curves, automatic against manual masks."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from dataset.labels import GENES, LABELS
from evaluation.genomics import CAVEAT, FEWEST_PAIRED, MANUAL, SIGNIFICANT, Study, contrast, split_masks
from evaluation.intervals import FEWEST, FEWEST_ICC
from evaluation.shape import FEATURES, PUBLISHED
from reporting.plots import GREY, STEPS, Plot, finished, new_axes
from scans.show import BLUE, GREEN, ORANGE
from storage.run_folder import GENOMICS
from utils import counted, show_number

WIDTH = 5.2  # inches, as the other plots
SHOWN_P = 1e-4  # a smaller p is shown as <0.0001


# --- Plots -----------------------------------------------------------------------------------------------------


def study_plots(study: Study) -> dict[str, Plot]:
    """Return the plots of a study by file name."""
    plots = {f"boxes_{name}": draw_boxes(study, name) for name in PUBLISHED}
    if any(pd.notna(row["auc"]) for row in study.result["auc"]):
        plots["roc"] = draw_roc(study)
    return plots


def draw_boxes(study: Study, name: str) -> Plot:
    """Draw a feature on manual masks by label: a dot per patient; boxes from quartile to quartile of FEWEST or more."""
    values = split_masks(study.features)[MANUAL][name]
    tests = study.associations[study.associations["masks"] == MANUAL].set_index(["feature", "label"])
    groups, headings, line = {}, {}, 0.0  # by their line, counted downwards
    for label in study.result["labels"]:
        test = tests.loc[(name, label)]
        p, kind = (test["fisher_p"], "unadjusted") if label in GENES else (test["holm_p"], "adjusted")
        headings[line] = f"{LABELS[label]}, {kind} p {show_p(p)}"
        for group, patients in values.dropna().groupby(study.features[label]):
            line += 1
            groups[line] = (f"{group} ({len(patients)})", patients.to_numpy(float))
        line += 1.6
    figure, axes = new_axes(FEATURES[name].label, "", (WIDTH, 1.4 + 0.21 * line))
    boxes = {at: patients for at, (_, patients) in groups.items() if len(patients) >= FEWEST}  # others are dots alone
    if boxes:
        axes.boxplot(list(boxes.values()), positions=list(boxes), orientation="horizontal", widths=0.62, whis=(0, 100),
                     boxprops={"color": BLUE}, medianprops={"color": ORANGE, "lw": 2})  # fmt: skip
    jitter = np.random.default_rng(0)
    for at, (_, patients) in groups.items():
        axes.plot(patients, at + jitter.uniform(-0.18, 0.18, len(patients)), "o", color=GREY, ms=2.5, alpha=0.6)
    for at, heading in headings.items():
        axes.text(0.01, at, heading, transform=axes.get_yaxis_transform(), fontsize=8, va="center", color="black")
    axes.set_yticks(list(groups), [text for text, _ in groups.values()], fontsize=8, parse_math=False)
    axes.set_ylim(line - 0.8, -0.7)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    for color, style, label in ((ORANGE, "-", "median"), (BLUE, "-", "quartiles"), (GREY, ".", "patient")):
        axes.plot([], [], style, color=color, label=label)
    return finished(figure, f"{FEATURES[name].label}, manual masks")


def draw_roc(study: Study) -> Plot:
    """Draw the ROC curves of 1/BEVR for each contrast and each kind of masks."""
    by_masks = split_masks(study.features)
    figure, axes = new_axes("1 − specificity", "sensitivity", (WIDTH, 4.2 + 0.6 * len(by_masks)))
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="chance")
    colors = dict(zip(dict.fromkeys(row["label"] for row in study.result["auc"]), (BLUE, ORANGE, GREEN), strict=False))
    for row in study.result["auc"]:
        if pd.isna(row["auc"]):
            continue
        score, truth = contrast(by_masks[row["masks"]], study.features, row["label"])
        x, y, _ = roc_curve(truth, score)
        masks = f", {row['masks']}" if len(by_masks) > 1 else ""
        label = f"{LABELS[row['label']]} {row['positive']} ({row['positives']} of {row['n']}){masks}: {row['auc']:.2f}"
        axes.plot(x, y, color=colors[row["label"]], ls="-" if row["masks"] == MANUAL else ":", lw=1.8, label=label)
    axes.set_aspect("equal")
    return finished(figure, "1/BEVR: ROC curves and their areas", columns=1)


# --- Text ------------------------------------------------------------------------------------------------------


def show_p(p: float | None) -> str:
    return f"<{SHOWN_P:.4f}" if p is not None and p < SHOWN_P else show_number(p, ".4f" if (p or 0) < 0.1 else ".2f")


def show_range(low: float | None, high: float | None, form: str) -> str:
    return "-" if pd.isna(low) else f"{low:{form}} to {high:{form}}"


def show_difference(row: dict[str, Any], form: str) -> dict[str, str]:
    """Return the difference of automatic from manual masks; empty in the row of manual masks alone."""
    if "difference" not in row:
        return {"automatic − manual": "", "its 95% interval": ""}
    interval = show_range(row["difference_low"], row["difference_high"], form)
    return {"automatic − manual": show_number(row["difference"], form), "its 95% interval": interval}


def text_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Return the tables that are printed and stand on the page, {title: table of text}, without empty ones.

    study: as computed, or read from its files, where null stands for NaN.
    """
    result, tests = study.result, study.associations
    manual, paired = tests[tests["masks"] == MANUAL], bool(result["agreement"])
    differences = {(row["label"], row["feature"]): row for row in result["effect_difference"]}
    genes = manual[manual["label"].isin(GENES) & manual["feature"].isin(PUBLISHED)]
    tables = {
        "1/BEVR: one label against the rest": [
            {
                "label": f"{LABELS[row['label']]} {row['positive']}",
                "masks": row["masks"],
                "patients": f"{row['positives']} of {row['n']}",
                "AUC": show_number(row["auc"]),
                "95% interval": show_range(row["low"], row["high"], ".3f"),
                **(show_difference(row, "+.3f") if paired else {}),
            }
            for row in result["auc"]
        ],
        f"Associations, {' and '.join(result['masks'])} masks": [
            {
                "label": LABELS[label],
                "feature": FEATURES[feature].short,
                "n": str(own["n"].iloc[0]),
                **{f"p, {row.masks}": show_p(row.holm_p) for row in own.itertuples()},
                **{f"effect, {row.masks}": show_number(row.effect, ".2f") for row in own.itertuples()},
                **(show_difference(differences[label, feature], "+.2f") if paired else {}),
            }
            for (label, feature), own in tests[tests["family"] == 1].groupby(["label", "feature"], sort=False)
        ],
        "Mutations, manual masks, p not adjusted": [
            {
                "label": LABELS[row["label"]],
                "feature": FEATURES[row["feature"]].short,
                "groups": row["groups"],
                "p": show_p(row["fisher_p"]),
                "effect": show_number(row["effect"], ".2f"),
            }
            for row in genes.to_dict("records")
        ],
        "Features on automatic against manual masks": [show_agreement(row) for row in result["agreement"]],
    }
    return {title: pd.DataFrame(rows) for title, rows in tables.items() if rows}


def show_agreement(row: dict[str, Any]) -> dict[str, str]:
    feature = FEATURES[row["feature"]]
    form = feature.form.replace(".0f", ".1f")  # of a mean of whole numbers
    return {
        "feature": feature.short,
        "n": str(row["n"]),
        "ICC": show_number(row["icc"], ".2f"),
        "95% interval": show_range(row["icc_low"], row["icc_high"], ".2f"),
        "bias": show_number(row["bias"], form),
        "limits of agreement": show_range(row["lower_limit"], row["upper_limit"], form),
    }


def sentences(study: Study) -> list[str]:
    """Return what must be read with the tables."""
    result = study.result
    features = ", ".join(FEATURES[name].short for name in PUBLISHED)
    tests = len(PUBLISHED) * len(result["labels"].keys() - GENES.keys())
    notes = [
        f"p: Fisher's exact test on the split at the median, adjusted for the {tests} tests of the family ({features}, "
        "each label; Holm). Effect: share of the variance of ranks that lies between the groups.",
        CAVEAT,
    ]
    if result["agreement"]:
        significant = study.associations[study.associations["holm_p"] < SIGNIFICANT]
        manual, automatic = (
            {*zip(own["label"], own["feature"], strict=True)}
            for own in (significant[significant["masks"] == masks] for masks in result["masks"])
        )
        ends = [
            row["difference_high"] for row in result["effect_difference"] if (row["label"], row["feature"]) in manual
        ]
        tested = pd.Series(ends, dtype=float).dropna()
        notes.insert(
            0,
            f"Statistically significant associations: {len(manual)} on manual masks, "
            f"{len(manual & automatic)} of them on automatic masks, too. Being significant on "
            "one and not on the other is no difference by itself. The difference of the effects, with a paired "
            f"bootstrap over at least {FEWEST_PAIRED} patients, was tested for {len(tested)} of them: the effect is "
            f"weaker on automatic masks in {(tested < 0).sum()} (95% interval below 0).",
        )
        notes.append(
            "Of an automatic mask, only the largest component in 3D is measured: a false one far away would stretch "
            "the ellipsoid. Of a manual mask, all are. ICC: intraclass correlation of absolute agreement, with an "
            f"interval from {FEWEST_ICC} patients on. Bias and difference: automatic minus manual mask."
        )
    if undefined := int((study.features.filter(like="reason") != "").to_numpy().sum()):
        notes.append(f"Features undefined: of {counted(undefined, 'mask')}, see the column reason of {GENOMICS[0]}.")
    return notes
