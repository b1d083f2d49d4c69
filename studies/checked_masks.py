"""How much of radiogenomics do checked masks buy back? Automatic masks, of which the most doubtful become manual.

    python -m studies.checked_masks --run runs/cv

Patients of a cross-validation in the order of their expected Dice, unknown first; the masks of the first 0, 10, 20,
... are replaced by the manual ones, as if a reader had corrected them, or these patients are left out. Prints the AUC
of 1/BEVR and the intraclass correlation of BEVR with manual masks, for the largest component and for all.
"""

import argparse
from pathlib import Path

import pandas as pd

from dataset.folder import find_folder
from dataset.labels import default_label_files, read_labels
from dataset.slices import load_slices
from evaluation import shape
from evaluation.genomics import CONTRASTS, auc, contrast
from evaluation.intervals import intraclass
from storage.run_folder import RunFolder
from utils import existing, parallel_map, run_script, show_number, to_markdown

CHECKED = (0, 10, 20, 30, 50)  # patients
HEADING = ("masks", "doubtful ones", "patients", "ICC of BEVR")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="a tested cross-validation")
    parser.add_argument("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    args = parser.parse_args(argv)
    run = RunFolder(args.run)
    table, predicted = run.read_tested()
    folder = find_folder(args.data, run.tested_runs()[0].read_config()["data"])
    slices = load_slices(folder, {"all": table})["all"]
    stacks = slices.stacks()
    expected = {row["patient"]: row["expected_dice"] or 0 for row in run.read_metrics()["quality"]["patients"]}
    patients = sorted(stacks, key=lambda patient: expected.get(patient, 0))
    labels, _ = read_labels(default_label_files(folder, patients), patients)

    def measure(masks, largest_only: bool) -> pd.DataFrame:
        found = parallel_map(lambda patient: shape.measure(masks[stacks[patient]], largest_only), patients)
        return pd.DataFrame(found, patients)[["bevr"]].astype(float)

    manual = measure(slices.masks.numpy(), False)
    results = []
    for name, largest in (("largest component", True), ("all components", False)):
        automatic = measure(predicted, largest)
        for count in CHECKED:
            checked = pd.concat([manual[:count], automatic[count:]])
            results.append((name, f"{count} checked", *strength(checked, manual, labels)))
            if count:
                results.append((name, f"{count} left out", *strength(automatic[count:], manual, labels)))
    results.append(("manual", "", *strength(manual, manual, labels)))
    contrasts = [f"AUC, {label} {positive}" for label, positive in CONTRASTS.items() if label in labels]
    rows = [[v if isinstance(v, str) else show_number(v, ".3g") for v in result] for result in results]
    print(to_markdown([*HEADING, *contrasts], rows))


def strength(features: pd.DataFrame, manual: pd.DataFrame, labels: pd.DataFrame) -> tuple[float, ...]:
    """Return the number of patients with BEVR, its intraclass correlation with manual masks, and the AUC of 1/BEVR."""
    known = features["bevr"].notna() & manual.loc[features.index, "bevr"].notna()
    features = features[known]
    pair = (features["bevr"].to_numpy(), manual.loc[features.index, "bevr"].to_numpy())
    areas = [float(auc(*contrast(features, labels.loc[features.index], n))) for n in CONTRASTS if n in labels]
    return len(features), float(intraclass(*pair)), *areas


if __name__ == "__main__":
    run_script(main)
