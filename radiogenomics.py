"""Measure the shape of each tumour, and test its association with genomic subtypes, IDH status and grade.

    python radiogenomics.py --data lgg-mri-segmentation/kaggle_3m      # on manual masks
    python radiogenomics.py --run runs/cv                              # on the predicted masks of a test, too

The second says, for each association, whether it survives the automatic mask. Writes shape_features.csv,
associations.csv, radiogenomics.json and plots/*.png, and a section of the run's report.html.
"""

import argparse
from pathlib import Path

import constants
from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent (as for training)")
    add(
        "--labels",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="tables of labels (data.csv there)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--run", type=Path, metavar="DIR", help="a tested run, or a cross-validation")
    where.add_argument(
        "--out",
        type=Path,
        default=constants.GENOMICS_DIR,
        metavar="DIR",
        help="where results without a run go (%(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_arguments)


import textwrap
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from dataset.folder import find_folder, find_slices
from dataset.labels import LABELS, default_label_files, read_labels
from dataset.slices import Slices, load_slices
from dataset.synthetic import any_synthetic
from evaluation import genomics, shape
from reporting.genomics import Example, draw_examples, sentences, study_plots, text_tables
from reporting.plots import to_png, write_plots
from reporting.report import write_report
from scans.display import stretch
from storage import checkpoints
from storage.run_folder import GENOMICS, RunFolder, masks_digest
from utils import parallel_map, run_script, to_csv

EXAMPLES = 4  # patients that are drawn, from the lowest BEVR to the highest
DPI = 150
P_COLUMNS = ("fisher_p", "holm_p", "kruskal_p")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    run = RunFolder(args.run) if args.run else None
    out = run or RunFolder(args.out)
    out.refuse_foreign(*GENOMICS)
    if run:
        table, predicted = run.read_tested()
        folder = find_folder(args.data or run.tested_runs()[0].read_config()["data"])
    else:
        folder, predicted = find_folder(args.data), None
        table = find_slices(folder, fewest=1)
    patients = list(dict.fromkeys(table["patient"]))
    files = args.labels or default_label_files(folder, patients)
    labels = read_labels(files, patients)
    slices = load_slices(folder, {"all": table})["all"]

    stacks = by_patient(slices.masks.numpy(), table)
    shapes, of_predicted, choices = measure(stacks), None, {}
    choices[genomics.MANUAL] = columns(lambda p: shape.variants(stacks[p], shapes[p].features), stacks)
    if predicted is not None:
        found = by_patient(predicted, table)
        of_predicted = measure(found, largest_only=True)
        choices[genomics.AUTOMATIC] = columns(lambda p: whole_mask(found[p]), found)
    study = genomics.study(genomics.feature_table(labels, shapes, of_predicted), choices)
    synthetic = any_synthetic(table)
    notice = constants.SYNTHETIC_NOTICE if synthetic else ""
    study.result["synthetic"] = synthetic
    study.result["predictions"] = "" if predicted is None else masks_digest(predicted)

    out.write_genomics(to_csv(study.features), to_csv(with_small_p(study.associations)), study.result)
    write_plots(out, study_plots(study), notice)
    examples = choose_examples(study.features, shapes, slices, table)
    if examples:
        out.write("plots/ellipsoids.png", to_png(draw_examples(examples, notice), DPI))
    if run:
        epochs = None if run.read_metrics().get("folds") else checkpoints.read_epochs(run)
        write_report(run, slices.images.numpy(), slices.masks.numpy(), predicted, epochs)

    if synthetic:
        print(notice)
    known = ", ".join(f"{LABELS[name]} {n}" for name, n in study.result["labels"].items())
    print(f"{len(patients)} patients of {folder}; with a label: {known}")
    for title, rows in text_tables(study).items():
        print(f"\n{title}\n{textwrap.indent(rows.to_string(index=False), '  ')}")
    print()
    for sentence in sentences(study):
        print(textwrap.fill(sentence, 118, initial_indent="  ! ", subsequent_indent="    "))
    also = ", report.html" if run else ""
    print(f"written to {out}: {', '.join(GENOMICS)}, plots/*.png{also}")


def by_patient(masks: np.ndarray, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the stack of each patient, {patient: uint8 [S, H, W]}; the table has a row per mask."""
    return {patient: masks[rows] for patient, rows in table.groupby("patient", sort=False).indices.items()}


def measure(stacks: dict[str, np.ndarray], largest_only: bool = False) -> dict[str, shape.Shape]:
    shapes = parallel_map(lambda stack: shape.measure(stack, largest_only), stacks.values())
    return dict(zip(stacks, shapes, strict=True))


def whole_mask(stack: np.ndarray) -> dict[tuple[str, str], float]:
    """Return the published features of all components together, as `shape.variants` does those of other choices."""
    features = shape.measure(stack).features
    return {(shape.ALL_COMPONENTS, name): features[name] for name in shape.PUBLISHED}


def columns(work: Callable[[str], dict], patients: Iterable[str]) -> dict[tuple[str, str], pd.Series]:
    """Return the results of some work on each patient as columns, NaN where a patient has none."""
    table = pd.DataFrame(parallel_map(work, patients))
    return {name: table[name] for name in table}


def with_small_p(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its p values as text that shows small ones, too: 3.1e-07."""
    text = {name: table[name].map(lambda p: "" if np.isnan(p) else f"{p:.3g}") for name in P_COLUMNS}
    return table.assign(**text)


def choose_examples(
    features: pd.DataFrame, shapes: dict[str, shape.Shape], slices: Slices, table: pd.DataFrame
) -> list[Example]:
    """Return patients at even steps from the lowest BEVR to the highest, each with the largest slice of the tumour."""
    ordered = features.dropna(subset="bevr").sort_values("bevr", ignore_index=True)
    rows = table.groupby("patient", sort=False).indices
    examples = []
    for place in np.unique(np.linspace(0, len(ordered) - 1, min(EXAMPLES, len(ordered))).round().astype(int)):
        patient = ordered["patient"][place]
        found = shapes[patient]
        row = int(rows[patient][found.largest_slice])
        examples.append(
            Example(
                f"{patient}\nBEVR {found.features['bevr']:.3f}",
                stretch(slices.images[row].numpy()[..., constants.FLAIR]),
                slices.masks[row].numpy(),
                found.ellipsoid.section(found.largest_slice + 0.5),
            )
        )
    return examples


if __name__ == "__main__":
    run_script(main)
