"""Measure the shape of each tumour, and test its association with genomic subtypes, IDH status and grade.

    python radiogenomics.py --data lgg-mri-segmentation/kaggle_3m      # on manual masks
    python radiogenomics.py --run runs/cv                              # on the predicted masks of a test, too

The second also tests whether each association is weaker on automatic masks. Writes shape_features.csv,
associations.csv, auc.csv, agreement.csv and plots/*.png, and a section of the run's report.html.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import constants
from utils import counted, existing, parallel_map, refuse_used, run_script

if TYPE_CHECKING:
    import numpy as np

P_COLUMNS = ("fisher_p", "holm_p", "kruskal_p")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent (as for training)")
    add("--labels", type=existing, nargs="+", metavar="FILE", help="tables of labels (data.csv there)")
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--run", type=existing, metavar="DIR", help="a tested run, or a cross-validation")
    folder.add_argument("--out", type=Path, default=Path(constants.GENOMICS_DIR), metavar="DIR",
                        help="folder of the results without a run (%(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace earlier results in --out")
    args = parser.parse_args(argv)
    import textwrap

    from dataset.folder import find_folder, find_slices
    from dataset.labels import LABELS, default_label_files, read_labels
    from dataset.slices import load_slices
    from dataset.split import describe_persons, group_scans
    from dataset.synthetic import any_synthetic
    from evaluation import genomics, shape
    from reporting.genomics import draw_boxes, sentences, text_tables
    from reporting.plots import write_plots
    from reporting.report import write_report
    from storage.run_folder import GENOMICS, RunFolder

    run, predicted = (RunFolder(args.run) if args.run else None), None
    if run:
        table, predicted = run.read_tested()
        folder = find_folder(args.data, run.tested_runs()[0].read_config()["data"])
    else:
        refuse_used(args.out, args.overwrite)
        folder = find_folder(args.data)
        table = find_slices(folder)
    out = run or RunFolder(args.out)
    patients = list(group_scans(table["patient"]))  # of several scans of a person the first: persons are the sample
    labels, notes = read_labels(args.labels or default_label_files(folder, patients), patients)
    if several := describe_persons(table["patient"]):
        notes.append(f"{several}: the first scan of each is analysed")
    slices = load_slices(folder, {"all": table})["all"]
    stacks = slices.stacks()

    def measure(masks: np.ndarray, largest_only: bool = False) -> list[dict[str, Any]]:
        return parallel_map(lambda patient: shape.measure(masks[stacks[patient]], largest_only), patients)

    automatic = None if predicted is None else measure(predicted, largest_only=True)
    study = genomics.study(measure(slices.masks.numpy()), automatic, labels)
    notice = constants.SYNTHETIC_NOTICE if any_synthetic(table["patient"]) else ""
    tests = study["associations"]
    small = {name: tests[name].map("{:.3g}".format, na_action="ignore") for name in P_COLUMNS}  # 3.1e-07
    written = {f"{name}.csv": table for name, table in study.items() if len(table)}
    for name in GENOMICS:  # of an earlier study, with other labels
        (out.path / name).unlink(missing_ok=True)
    for name, content in (written | {"associations.csv": tests.assign(**small)}).items():
        out.write(name, content)
    boxes = {f"boxes_{name}": draw_boxes(study["shape_features"], name) for name in shape.PUBLISHED}
    write_plots(out, boxes, notice)
    if run:
        write_report(run, slices, predicted, study)

    if notice:
        print(notice)
    known = ", ".join(f"{LABELS[name]} {n}" for name, n in labels.count().items())
    print(f"{counted(len(patients), 'patient')} of {folder}; with a label: {known}")
    for note in notes:
        print(f"note: {note}")
    for title, text in text_tables(study).items():
        print(f"\n{title}\n{textwrap.indent(text.to_string(index=False), '  ')}")
    print()
    for sentence in sentences(study):
        print(textwrap.fill(sentence, 118, initial_indent="  ! ", subsequent_indent="    "))
    print(f"written to {out}: {', '.join(written)}, plots/*.png{', report.html' if run else ''}")


if __name__ == "__main__":
    run_script(main)
