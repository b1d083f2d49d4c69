"""Tables of text and plots of radiogenomics.py: features by label, ROC curves, automatic against manual masks."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from dataset.labels import LABELS
from evaluation.genomics import AUTOMATIC, MANUAL, PREDICTED, Study, contrast, split_masks
from evaluation.shape import FEATURES, PUBLISHED, Ellipsoid
from reporting.plots import GREY, STEPS, Plot, finished, new_axes
from scans.display import BLUE, GREEN, MASK_COLOR, ORANGE, PREDICTION_COLOR
from utils import show_number

WIDTH = 5.2  # inches, as the other plots
MARGIN = 20  # pixels around a tumour and its ellipse
SHOWN_P = 1e-4  # smaller ones are only said to be so


def study_plots(study: Study) -> dict[str, Plot]:
    """Return the plots of a study by file name."""
    plots = {f"boxes_{name}": draw_boxes(study, name) for name in PUBLISHED}
    if any(row["auc"] is not None and row["auc"] == row["auc"] for row in study.result["auc"]):
        plots["roc"] = draw_roc(study)
    drawn = [row for row in study.result["agreement"] if row["feature"] in PUBLISHED and row["n"]]
    return plots | {f"agreement_{row['feature']}": draw_agreement(study.features, row) for row in drawn}


def draw_boxes(study: Study, name: str) -> Plot:
    """Draw a feature on manual masks by label: boxes from quartile to quartile, and a dot per patient."""
    values = split_masks(study.features)[MANUAL][name]
    tests = study.associations[study.associations["masks"] == MANUAL].set_index(["feature", "label"])
    places, groups, names, headings = [], [], [], []
    place = 0.0
    for label in study.result["labels"]:
        known = study.features[label].notna() & values.notna()
        headings.append((place, f"{LABELS[label]}, adjusted p {show_p(tests.at[(name, label), 'holm_p'])}"))
        for group, part in values[known].groupby(study.features.loc[known, label]):
            place += 1
            places.append(place)
            groups.append(part.to_numpy(float))
            names.append(f"{group} ({len(part)})")
        place += 1.6
    figure, axes = new_axes(FEATURES[name].label, "", (WIDTH, 1.4 + 0.21 * place))
    jitter = np.random.default_rng(0)
    line = {"color": BLUE, "lw": 1.2}
    if groups:
        axes.boxplot(
            groups, positions=places, orientation="horizontal", widths=0.62, showfliers=False, whis=(0, 100),
            boxprops=line, whiskerprops={"color": GREY, "lw": 0.8}, capprops={"color": GREY, "lw": 0.8},
            medianprops={"color": ORANGE, "lw": 2},
        )  # fmt: skip
    for at, group in zip(places, groups, strict=True):
        axes.plot(group, at + jitter.uniform(-0.18, 0.18, len(group)), "o", color=GREY, ms=2.5, alpha=0.6)
    for at, heading in headings:
        axes.text(0.01, at, heading, transform=axes.get_yaxis_transform(), fontsize=8, va="center", color="black")
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_ylim(place - 0.8, -0.7)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    for handle, label in ((ORANGE, "median"), (BLUE, "quartiles")):
        axes.plot([], [], color=handle, label=label)
    axes.plot([], [], "o", color=GREY, ms=3, label="patient")
    words = f"{FEATURES[name].meaning} {'; '.join(heading for _, heading in headings)}."
    return finished(figure, f"{FEATURES[name].label}, manual masks", words)


def draw_roc(study: Study) -> Plot:
    """Draw the ROC curves of 1/BEVR, for each label that is told from the rest and each kind of masks."""
    by_masks = split_masks(study.features)
    figure, axes = new_axes("1 − specificity", "sensitivity", (WIDTH, 4.2 + 0.6 * len(by_masks)))
    axes.plot((0, 1), (0, 1), color=GREY, ls="--", lw=1, label="chance")
    colors = dict(zip(dict.fromkeys(row["label"] for row in study.result["auc"]), (BLUE, ORANGE, GREEN), strict=False))
    words = []
    for row in study.result["auc"]:
        if row["auc"] is None or row["auc"] != row["auc"]:
            continue
        score, truth = contrast(by_masks[row["masks"]], study.features, row["label"])
        x, y, _ = roc_curve(truth, score)
        dashes = "-" if row["masks"] == MANUAL else ":"
        masks = f", {row['masks']}" if len(by_masks) > 1 else ""
        label = f"{LABELS[row['label']]} {row['positive']} ({row['positives']} of {row['n']}){masks}: {row['auc']:.2f}"
        axes.plot(x, y, color=colors[row["label"]], ls=dashes, lw=1.8, label=label)
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
    words = f"{FEATURES[name].short}: ICC {show_number(row['icc'], '.2f')}, bias {show_number(row['bias'], form)}"
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.set_aspect("equal", adjustable="datalim")
    return finished(figure, words, f"{row['n']} patients; automatic against manual masks.")


# --- Pictures of patients --------------------------------------------------------------------------------------


class Example(NamedTuple):
    """The largest slice of a patient's tumour: FLAIR for display and mask (uint8 [H, W]), and the ellipse around it."""

    title: str
    flair: np.ndarray
    mask: np.ndarray
    ellipse: Ellipsoid


def draw_examples(examples: list[Example], note: str) -> Figure:
    """Draw the outline of the tumour and the section of its enclosing ellipsoid on FLAIR, one picture per patient."""
    figure = Figure(figsize=(2.9 * len(examples), 3.8), layout="constrained")
    if note:
        figure.suptitle(note, fontsize=9)
    reach = max(example.ellipse.radii[0] for example in examples) + MARGIN  # of all: one scale
    for axes, example in zip(figure.subplots(1, len(examples), squeeze=False)[0], examples, strict=True):
        axes.set_facecolor("black")  # beyond the image
        axes.imshow(example.flair, cmap="gray", vmin=0, vmax=255)
        axes.contour(example.mask, levels=[0.5], colors=MASK_COLOR, linewidths=1.2)
        row, column = example.ellipse.centre - 0.5  # voxel corners are whole numbers there, pixel centres here
        width, height = 2 * example.ellipse.radii
        ellipse = Ellipse((column, row), width, height, angle=example.ellipse.angle)
        ellipse.set(fill=False, edgecolor=PREDICTION_COLOR, lw=1.4, ls="--")
        axes.add_patch(ellipse)
        axes.set(xlim=(column - reach, column + reach), ylim=(row + reach, row - reach), xticks=[], yticks=[])
        axes.set_title(example.title, fontsize=9, parse_math=False)
    figure.legend(
        handles=[
            Line2D([], [], color=MASK_COLOR, label="outline of the mask, largest slice"),
            Line2D([], [], color=PREDICTION_COLOR, ls="--", label="section of the enclosing ellipsoid"),
        ],
        loc="outside lower center", ncols=2, fontsize=9, frameon=False,
    )  # fmt: skip
    return figure


# --- Text ----------------------------------------------------------------------------------------------------------


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
