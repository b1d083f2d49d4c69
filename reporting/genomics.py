"""Plots and tables of text of radiogenomics.py: features by label, ROC curves, automatic against manual masks."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from dataset.labels import LABELS
from evaluation.genomics import FEWEST_PAIRED, MANUAL, PREDICTED, SIGNIFICANT, Study, contrast, split_masks
from evaluation.intervals import FEWEST_ICC
from evaluation.shape import FEATURES, PUBLISHED
from reporting.plots import GREY, STEPS, Plot, finished, new_axes
from scans.show import BLUE, GREEN, ORANGE
from utils import show_number

WIDTH = 5.2  # inches, as the other plots
SHOWN_P = 1e-4  # a smaller p is shown as <0.0001


def defined(value: float | None) -> bool:
    """Return whether a number is neither NaN nor null, as files have it."""
    return value is not None and not np.isnan(value)


# --- Plots -----------------------------------------------------------------------------------------------------


def study_plots(study: Study) -> dict[str, Plot]:
    """Return the plots of a study by file name."""
    plots = {f"boxes_{name}": draw_boxes(study, name) for name in PUBLISHED}
    if any(defined(row["auc"]) for row in study.result["auc"]):
        plots["roc"] = draw_roc(study)
    rows = [row for row in study.result["agreement"] if row["feature"] in PUBLISHED and row["n"]]
    return plots | {f"agreement_{row['feature']}": draw_agreement(study.features, row) for row in rows}


def draw_boxes(study: Study, name: str) -> Plot:
    """Draw a feature on manual masks by label: boxes from quartile to quartile, and a dot per patient."""
    values = split_masks(study.features)[MANUAL][name]
    tests = study.associations[study.associations["masks"] == MANUAL].set_index(["feature", "label"])
    boxes, headings, line = [], [], 0.0  # each with its line, counted downwards
    for label in study.result["labels"]:
        known = study.features[label].notna() & values.notna()
        headings.append((line, f"{LABELS[label]}, adjusted p {show_p(tests.at[(name, label), 'holm_p'])}"))
        for group, patients in values[known].groupby(study.features.loc[known, label]):
            line += 1
            boxes.append((line, f"{group} ({len(patients)})", patients.to_numpy(float)))
        line += 1.6
    figure, axes = new_axes(FEATURES[name].label, "", (WIDTH, 1.4 + 0.21 * line))
    jitter = np.random.default_rng(0)
    for at, _, group in boxes:
        axes.boxplot([group], positions=[at], orientation="horizontal", widths=0.62, showfliers=False, whis=(0, 100),
                     boxprops={"color": BLUE}, medianprops={"color": ORANGE, "lw": 2})  # fmt: skip
        axes.plot(group, at + jitter.uniform(-0.18, 0.18, len(group)), "o", color=GREY, ms=2.5, alpha=0.6)
    for at, heading in headings:
        axes.text(0.01, at, heading, transform=axes.get_yaxis_transform(), fontsize=8, va="center", color="black")
    axes.set_yticks([at for at, *_ in boxes], [text for _, text, _ in boxes], fontsize=8, parse_math=False)
    axes.set_ylim(line - 0.8, -0.7)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.plot([], [], color=ORANGE, label="median")
    axes.plot([], [], color=BLUE, label="quartiles")
    axes.plot([], [], "o", color=GREY, ms=3, label="patient")
    words = f"{FEATURES[name].meaning} {'; '.join(heading for _, heading in headings)}."
    return finished(figure, f"{FEATURES[name].label}, manual masks", words)


def draw_roc(study: Study) -> Plot:
    """Draw the ROC curves of 1/BEVR for each contrast and each kind of masks."""
    by_masks = split_masks(study.features)
    figure, axes = new_axes("1 − specificity", "sensitivity", (WIDTH, 4.2 + 0.6 * len(by_masks)))
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="chance")
    colors = dict(zip(dict.fromkeys(row["label"] for row in study.result["auc"]), (BLUE, ORANGE, GREEN), strict=False))
    words = []
    for row in study.result["auc"]:
        if not defined(row["auc"]):
            continue
        score, truth = contrast(by_masks[row["masks"]], study.features, row["label"])
        x, y, _ = roc_curve(truth, score)
        masks = f", {row['masks']}" if len(by_masks) > 1 else ""
        label = f"{LABELS[row['label']]} {row['positive']} ({row['positives']} of {row['n']}){masks}: {row['auc']:.2f}"
        axes.plot(x, y, color=colors[row["label"]], ls="-" if row["masks"] == MANUAL else ":", lw=1.8, label=label)
        words.append(label)
    axes.set_aspect("equal")
    return finished(figure, "1/BEVR: ROC curves and their areas", f"Areas: {'; '.join(words)}.", columns=1)


def draw_agreement(features: pd.DataFrame, row: dict) -> Plot:
    """Draw a feature on automatic against manual masks, one dot per patient; row: its agreement."""
    name = row["feature"]
    figure, axes = new_axes("manual mask", "automatic mask")
    both = features[[name, f"{PREDICTED}{name}"]].dropna()
    ends = both.min().min(), both.max().max()
    axes.plot(ends, ends, color=GREY, ls="--", lw=1, label="equal")
    axes.plot(both[name], both[f"{PREDICTED}{name}"], "o", color=BLUE, alpha=0.7, ms=5, label=f"patient ({len(both)})")
    form = FEATURES[name].form
    title = f"{FEATURES[name].short}: ICC {show_number(row['icc'], '.2f')}, bias {show_number(row['bias'], form)}"
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.set_aspect("equal", adjustable="datalim")
    return finished(figure, title, f"{row['n']} patients; automatic against manual masks.")


# --- Text ------------------------------------------------------------------------------------------------------


def show_p(p: float | None) -> str:
    return f"<{SHOWN_P:.4f}" if p is not None and p < SHOWN_P else show_number(p, ".4f" if (p or 0) < 0.1 else ".2f")


def show_range(low: float | None, high: float | None, form: str) -> str:
    return f"{low:{form}} to {high:{form}}" if defined(low) else "-"


def text_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Return the tables that are printed and stand on the page, {title: table of text}, without empty ones.

    study: as computed, or read from its files, where null stands for NaN.
    """
    result = study.result
    tests = study.associations.rename(columns={name: f"{name}_{MANUAL}" for name in ("holm_p", "effect")})
    family = result["effect_difference"] or tests[tests["family"] == 1].to_dict("records")
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
        "AUC of 1/BEVR, automatic minus manual masks": [
            {"label": LABELS[row["label"]], "patients": str(row["n"]), **_difference(row, "+.3f")}
            for row in result["auc_difference"]
        ],
        f"Associations, {' and '.join(result['masks'])} masks": [
            {
                "label": LABELS[row["label"]],
                "feature": FEATURES[row["feature"]].short,
                "n": str(row["n"]),
                **{f"p, {masks}": show_p(row[f"holm_p_{masks}"]) for masks in result["masks"]},
                **{f"effect, {masks}": show_number(row[f"effect_{masks}"], ".2f") for masks in result["masks"]},
                **(_difference(row, "+.2f") if result["effect_difference"] else {}),
            }
            for row in family
        ],
        "Features on automatic against manual masks": [
            {
                "feature": FEATURES[row["feature"]].short,
                "n": str(row["n"]),
                "ICC": show_number(row["icc"], ".2f"),
                "95% interval": show_range(row["icc_low"], row["icc_high"], ".2f"),
                "bias": show_number(row["bias"], _mean_form(row["feature"])),
                "limits of agreement": show_range(row["lower_limit"], row["upper_limit"], _mean_form(row["feature"])),
            }
            for row in result["agreement"]
        ],
    }
    return {title: pd.DataFrame(rows) for title, rows in tables.items() if rows}


def _mean_form(name: str) -> str:
    """Return the format of a mean of a feature: numbers of voxels have one decimal there."""
    return FEATURES[name].form.replace(".0f", ".1f")


def _difference(row: dict[str, Any], form: str) -> dict[str, str]:
    interval = show_range(row["difference_low"], row["difference_high"], form)
    return {"difference": show_number(row["difference"], form), "95% interval": interval}


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
            "the ellipsoid. Of a manual mask, all are. ICC: intraclass correlation of absolute agreement, with an "
            f"interval from {FEWEST_ICC} patients on. Bias and difference: automatic minus manual mask."
        )
        notes.insert(0, _verdict(result["effect_difference"]))
    if undefined := result["undefined"]:
        few = "; ".join(f"{row['patient']}, {row['masks']} mask: {row['reason']}" for row in undefined[:3])
        more = f"; and {len(undefined) - 3} more" if len(undefined) > 3 else ""
        notes.append(f"Features undefined: {few}{more}.")
    return notes


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Return whether the associations on manual masks are significant, and as strong, on automatic ones."""
    manual = [row for row in rows if defined(row["holm_p_manual"]) and row["holm_p_manual"] < SIGNIFICANT]
    both = sum(defined(row["holm_p_automatic"]) and row["holm_p_automatic"] < SIGNIFICANT for row in manual)
    tested = [row for row in manual if defined(row["difference_high"])]
    weaker = sum(row["difference_high"] < 0 for row in tested)
    return (
        f"Statistically significant associations: {len(manual)} on manual masks, {both} of them on automatic masks, "
        "too. Being significant on one and not on the other is no difference by itself. The difference of the effects, "
        f"with a paired bootstrap over at least {FEWEST_PAIRED} patients, was tested for {len(tested)} of them: the "
        f"effect is weaker on automatic masks in {weaker} (95% interval below 0)."
    )
