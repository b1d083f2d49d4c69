"""Measure the shape of each tumour, and test its association with genomic subtypes, IDH status and grade.

    python radiogenomics.py --data lgg-mri-segmentation/kaggle_3m      # on manual masks
    python radiogenomics.py --run runs/cv                              # on the predicted masks of a test, too

The second also tests whether each association is weaker on automatic masks. Writes shape_features.csv,
associations.csv, radiogenomics.json and plots/*.png, and a section of the run's report.html.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import constants
from utils import parallel_map, refuse_used, run_script, show_number, to_csv

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from dataset.slices import Slices
    from evaluation.shape import Shape
    from reporting.genomics import Example

EXAMPLES = 4  # patients that are drawn, from the lowest BEVR to the highest
DPI = 150
P_COLUMNS = ("fisher_p", "holm_p", "kruskal_p")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent (as for training)")
    add("--labels", type=Path, nargs="+", metavar="FILE", help="tables of labels (data.csv there)")
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--run", type=Path, metavar="DIR", help="a tested run, or a cross-validation")
    folder.add_argument("--out", type=Path, default=Path(constants.GENOMICS_DIR), metavar="DIR",
                        help="folder of the results without a run (%(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace earlier results in --out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    import textwrap

    from dataset.folder import find_folder, find_slices
    from dataset.labels import LABELS, default_label_files, read_labels
    from dataset.slices import load_slices
    from dataset.synthetic import any_synthetic
    from evaluation import genomics, shape
    from evaluation.metrics import rows_of_patients
    from reporting.genomics import draw_examples, sentences, study_plots, text_tables
    from reporting.plots import to_png, write_plots
    from reporting.report import write_report
    from storage import checkpoints
    from storage.run_folder import GENOMICS, RunFolder, masks_digest

    run, predicted = (RunFolder(args.run) if args.run else None), None
    if run:
        table, predicted = run.read_tested()
        folder = find_folder(args.data, run.tested_runs()[0].read_config()["data"])
    else:
        refuse_used(args.out, args.overwrite)
        folder = find_folder(args.data)
        table = find_slices(folder, fewest=1)
    out = run or RunFolder(args.out)
    patients = sorted(set(table["patient"]))
    labels, notes = read_labels(args.labels or default_label_files(folder, patients), patients)
    slices = load_slices(folder, {"all": table})["all"]

    rows = rows_of_patients(slices.patients)
    masks = slices.masks.numpy()

    def measure(masks: np.ndarray, largest_only: bool = False) -> dict[str, shape.Shape]:
        measured = parallel_map(lambda patient: shape.measure(masks[rows[patient]], largest_only), patients)
        return dict(zip(patients, measured, strict=True))

    shapes = measure(masks)
    choices = {genomics.MANUAL: columns(lambda p: shape.variants(masks[rows[p]], shapes[p].features), patients)}
    automatic = None
    if predicted is not None:
        automatic = measure(predicted, largest_only=True)
        choices[genomics.AUTOMATIC] = columns(lambda p: shape.all_components(predicted[rows[p]]), patients)
    study = genomics.study(genomics.feature_table(labels, shapes, automatic), choices)
    synthetic = any_synthetic(table)
    notice = constants.SYNTHETIC_NOTICE if synthetic else ""
    study.result["synthetic"] = synthetic
    study.result["predictions"] = "" if predicted is None else masks_digest(predicted)

    out.write_genomics(to_csv(study.features), to_csv(with_small_p(study.associations)), study.result)
    write_plots(out, study_plots(study), notice)
    if examples := choose_examples(study.features, shapes, slices, rows):
        out.write("plots/ellipsoids.png", to_png(draw_examples(examples, notice), DPI))
    if run:
        epochs = None if run.read_metrics().get("folds") else checkpoints.read_epochs(run)
        write_report(run, slices, predicted, epochs)

    if synthetic:
        print(notice)
    known = ", ".join(f"{LABELS[name]} {n}" for name, n in study.result["labels"].items())
    print(f"{len(patients)} patients of {folder}; with a label: {known}")
    for note in notes:
        print(f"note: {note}")
    for title, text in text_tables(study).items():
        print(f"\n{title}\n{textwrap.indent(text.to_string(index=False), '  ')}")
    print()
    for sentence in sentences(study):
        print(textwrap.fill(sentence, 118, initial_indent="  ! ", subsequent_indent="    "))
    print(f"written to {out}: {', '.join(GENOMICS)}, plots/*.png{', report.html' if run else ''}")


def columns(work: Callable[[str], dict], patients: Iterable[str]) -> dict[tuple[str, str], pd.Series]:
    """Return the results of some work on each patient as columns, NaN where a patient has none."""
    import pandas as pd

    table = pd.DataFrame(parallel_map(work, patients))
    return {name: table[name] for name in table}


def with_small_p(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its p values as text that shows small ones, too: 3.1e-07."""
    return table.assign(**{name: table[name].map(lambda p: show_number(p, ".3g").strip("-")) for name in P_COLUMNS})


def choose_examples(
    features: pd.DataFrame, shapes: dict[str, Shape], slices: Slices, rows: dict[str, np.ndarray]
) -> list[Example]:
    """Return patients at even steps from the lowest BEVR to the highest, each with the largest slice of the tumour."""
    import numpy as np

    from reporting.genomics import Example
    from scans.show import stretch

    ordered = features.dropna(subset="bevr").sort_values("bevr")["patient"].tolist()
    steps = np.unique(np.linspace(0, len(ordered) - 1, min(EXAMPLES, len(ordered))).round().astype(int))
    examples = []
    for patient in (ordered[step] for step in steps):
        measured = shapes[patient]
        row = int(rows[patient][measured.largest_slice])
        flair, mask = stretch(slices.images[row].numpy()[..., constants.FLAIR]), slices.masks[row].numpy()
        ellipse = measured.ellipsoid.section(measured.largest_slice + 0.5)
        examples.append(Example(f"{patient}\nBEVR {measured.features['bevr']:.3f}", flair, mask, ellipse))
    return examples


if __name__ == "__main__":
    run_script(main)
