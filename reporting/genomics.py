"""Plots and tables of text of radiogenomics.py: features by label, associations, automatic against manual masks."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dataset.labels import LABELS
from evaluation.genomics import AUTOMATIC, CAVEAT, FEWEST_PAIRED, MANUAL, SIGNIFICANT
from evaluation.intervals import FEWEST, FEWEST_ICC
from evaluation.shape import FEATURES, PUBLISHED
from reporting.plots import GREY, SIZE, STEPS, finished, new_axes
from scans.show import BLUE, ORANGE
from utils import show_number

SHOWN_P = 1e-4  # a smaller p is shown as <0.0001


def draw_boxes(features: pd.DataFrame, name: str) -> Figure:
    """Draw a feature by label: a dot per patient; boxes from quartile to quartile of FEWEST or more."""
    groups = {
        f"{title}: {group} ({len(values)})": values.to_numpy(float)
        for label, title in LABELS.items()
        if label in features
        for group, values in features[name].dropna().groupby(features[label])
    }
    figure, axes = new_axes(FEATURES[name], "", (SIZE[0], 1.4 + 0.21 * len(groups)))
    jitter = np.random.default_rng(0)
    for at, values in enumerate(groups.values()):
        axes.plot(values, at + jitter.uniform(-0.18, 0.18, len(values)), "o", color=GREY, ms=2.5, alpha=0.6)
        if len(values) >= FEWEST:
            axes.boxplot(values, positions=[at], orientation="horizontal", widths=0.62, whis=(0, 100),
                         boxprops={"color": BLUE}, medianprops={"color": ORANGE, "lw": 2})  # fmt: skip
    axes.set_yticks(range(len(groups)), list(groups), fontsize=8, parse_math=False)
    axes.set_ylim(len(groups) - 0.3, -0.7)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    for color, style, label in ((ORANGE, "-", "median"), (BLUE, "-", "quartiles"), (GREY, ".", "patient")):
        axes.plot([], [], style, color=color, label=label)
    return finished(figure, f"{FEATURES[name]}, manual masks")


# --- Text ------------------------------------------------------------------------------------------------------


def text_tables(study: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the tables that are printed and stand on the page, {title: table of text}."""
    areas, agreement, tests = study["auc"], study["agreement"], study["associations"]
    tests = tests[tests["feature"].isin(PUBLISHED)]
    tables = {}
    if len(areas):
        tables["1/BEVR: one label against the rest"] = pd.DataFrame({
            "label": areas["label"].map(LABELS) + " " + areas["positive"],
            "masks": areas["masks"],
            "patients": areas["positives"].astype(str) + " of " + areas["n"].astype(str),
            "AUC": show(areas["auc"], ".3f"),
            "95% interval": show_ranges(areas["low"], areas["high"], ".3f"),
            **show_differences(areas, "+.3f"),
        })  # fmt: skip
    tables["Associations, p adjusted but for mutations"] = pd.DataFrame({
        "label": tests["label"].map(LABELS),
        "feature": tests["feature"].map(FEATURES),
        **tests[["masks", "n"]],
        "p": tests["holm_p"].where(tests["family"] == 1, tests["fisher_p"]).map(show_p),
        "effect": show(tests["effect"], ".2f"),
        **show_differences(tests, "+.2f"),
    })  # fmt: skip
    if len(agreement):
        tables["Features on automatic against manual masks"] = pd.DataFrame({
            "feature": agreement["feature"].map(FEATURES),
            "n": agreement["n"],
            "ICC": show(agreement["icc"], ".2f"),
            "95% interval": show_ranges(agreement["icc_low"], agreement["icc_high"], ".2f"),
            "bias": show(agreement["bias"], ".4g"),
            "limits of agreement": show_ranges(agreement["lower_limit"], agreement["upper_limit"], ".4g"),
        })  # fmt: skip
    return tables


def show_p(p: float) -> str:
    return f"<{SHOWN_P:.4f}" if p < SHOWN_P else show_number(p, ".4f" if p < 0.1 else ".2f")


def show(values: pd.Series, form: str) -> list[str]:
    return [show_number(value, form) for value in values]


def show_ranges(lows: pd.Series, highs: pd.Series, form: str) -> list[str]:
    return ["-" if pd.isna(low) else f"{low:{form}} to {high:{form}}" for low, high in zip(lows, highs, strict=True)]


def show_differences(rows: pd.DataFrame, form: str) -> dict[str, list[str]]:
    """Return the columns of the difference of automatic from manual masks, unless there are manual masks alone."""
    if AUTOMATIC not in set(rows["masks"]):
        return {}
    intervals = show_ranges(rows["difference_low"], rows["difference_high"], form)
    return {"automatic − manual": show(rows["difference"], form), "its 95% interval": intervals}


def sentences(study: dict[str, pd.DataFrame]) -> list[str]:
    """Return what must be read with the tables."""
    tests = study["associations"].query("family == 1").pivot(index=["label", "feature"], columns="masks")
    notes = [
        f"p: Fisher's exact test on the split at the median, adjusted for the {len(tests)} tests of the family "
        f"({', '.join(PUBLISHED.values())}, each label; Holm). Effect: share of the variance of ranks that lies "
        "between the groups.",
        CAVEAT,
    ]
    if len(study["agreement"]) and len(tests):  # none with labels of mutations alone
        significant = tests["holm_p"] < SIGNIFICANT
        manual = significant[MANUAL]
        tested = tests["difference_high"].loc[manual, AUTOMATIC].dropna()
        notes.insert(
            0,
            f"Statistically significant associations: {manual.sum()} on manual masks, "
            f"{significant.all(axis=1).sum()} of them on automatic masks, too. Being significant on "
            "one and not on the other is no difference by itself. The difference of the effects, with a paired "
            f"bootstrap over at least {FEWEST_PAIRED} patients, was tested for {len(tested)} of them: the effect is "
            f"weaker on automatic masks in {(tested < 0).sum()} (95% interval below 0).",
        )
    if len(study["agreement"]):
        notes.append(
            "Of an automatic mask, only the largest component in 3D is measured: a false one far away would stretch "
            "the ellipsoid. Of a manual mask, all are. ICC: intraclass correlation of absolute agreement, with an "
            f"interval from {FEWEST_ICC} patients on. Bias and difference: automatic minus manual mask."
        )
    return notes
