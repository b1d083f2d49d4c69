"""Evaluate the epoch with the best validation IoU on the test patients.

    python test_model.py --run runs/first

Prints loss and IoU; writes test_results.csv (a row a slice), test_patients.csv, metrics.json,
plots/*.png and report.html, which shows it all.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

import checkpoints
import constants
import data
import lesions
import metrics
import plots
import runs
from engine import evaluate
from losses import LOSSES
from report import write_report
from utils import UserError, choose_hardware, keep_freed_memory, positive, repeat_exactly, run_script, write_text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, default=Path(constants.RUN_DIR), metavar="DIR", help="folder of the run (%(default)s)")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent (default: what training used)")
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, help="slices at a time (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    keep_freed_memory()
    hardware = choose_hardware(args.device)
    repeat_exactly(True)

    epochs = checkpoints.read_figures(runs.models_folder(args.run))
    best = checkpoints.best_epoch(epochs)
    path = checkpoints.epoch_path(runs.models_folder(args.run), best)
    checkpoint = checkpoints.read_checkpoint(path)
    model = checkpoints.build_network(checkpoint, path).to(hardware.device, memory_format=hardware.memory_format)

    table = data.read_table(args.run, "test")
    if table.empty:
        raise UserError(f"{args.run / 'test.csv'}: names no patients, so that there is nothing to test on.")
    slices = data.load(data.find_folder(runs.data_folder(args.run, args.data)), {"test": table})["test"]
    predicted = np.empty(slices.masks.shape, np.uint8)
    loss_function = LOSSES[checkpoint["config"]["settings"]["loss"]]
    figures, counts = evaluate(
        model, slices.to(hardware.device), args.batch_size, loss_function, hardware, "test", masks_out=predicted
    )

    results = slice_table(slices, counts)
    patients = patient_table(counts, slices.patients)
    synthetic = data.is_synthetic(table)
    write_text(args.run / "test_results.csv", runs.to_csv(results))
    write_text(args.run / "test_patients.csv", runs.to_csv(patients))
    report = {"split": "test", "epoch": best, "synthetic": synthetic, "slices": len(slices), **figures}
    write_text(args.run / "metrics.json", json.dumps(report, indent=2) + "\n")
    draw_panels(slices, predicted, results, args.run / "plots", runs.SYNTHETIC_NOTICE if synthetic else "")
    plots.plot_test(patients, results, args.run / "plots", runs.SYNTHETIC_NOTICE if synthetic else "")
    write_report(args.run, slices.images.cpu().numpy(), slices.masks.cpu().numpy(), predicted, results)

    if synthetic:
        print(runs.SYNTHETIC_NOTICE)
    print(f"test        {slices.describe()}")
    print(f"epoch {best} of {len(epochs)}, the best validation IoU ({checkpoint['validation_iou']:.3f})")
    print(f"  test loss {figures['loss']:.4f}")
    print(runs.describe_iou(figures))
    print("  volumetric Dice of each patient:")
    for row in patients.itertuples():
        details = f"(sensitivity {row.sensitivity:.3f}, precision {row.precision:.3f})"
        print(f"    {row.patient:<28} {row.dice:.3f}  {details}")
    if warning := runs.selection_warning(epochs.loc[epochs["epoch"] == best].iloc[0]):
        print(warning)
    print(f"written to {args.run}: test_results.csv, test_patients.csv, metrics.json, plots/*.png, report.html")


def slice_table(slices: data.Slices, counts: metrics.Counts) -> pd.DataFrame:
    """A row a slice: what was there, what was predicted, and how they overlap."""
    masks = slices.masks.numpy()
    return pd.DataFrame(
        {
            "patient": slices.patients,
            "image_path": slices.table["image_path"],
            "kind": [lesions.kind_of_slice(mask) for mask in masks],
            "tumour_pixels": counts.target,
            "predicted_pixels": counts.predicted,
            "true_positive": counts.true_positive,
            "false_positive": counts.false_positive,
            "false_negative": counts.false_negative,
            "iou": metrics.iou(counts),
            "dice": metrics.dice(counts),
            "parts": [sum(area >= lesions.SPECK for area in lesions.part_areas(mask)) for mask in masks],
            "boundary_complexity": [lesions.boundary_complexity(mask) for mask in masks],
        }
    )


def patient_table(counts: metrics.Counts, patients: list[str]) -> pd.DataFrame:
    """A row a patient: overlap of the whole volume."""
    volumes = metrics.per_patient(counts, patients)
    return pd.DataFrame(
        {
            "patient": patient,
            "slices": patients.count(patient),
            "tumour_pixels": volume.target[0],
            "predicted_pixels": volume.predicted[0],
            "dice": metrics.dice(volume)[0],
            "iou": metrics.iou(volume)[0],
            "sensitivity": metrics.sensitivity(volume)[0],
            "precision": metrics.precision(volume)[0],
        }
        for patient, volume in volumes.items()
    )


def draw_panels(slices: data.Slices, predicted: np.ndarray, results: pd.DataFrame, folder: Path, note: str) -> None:
    """A panel for each kind of slice, and one for the best and the worst tumour slices."""
    tumour = results[results["kind"] != "no tumour"].sort_values(["iou", "image_path"], kind="stable")
    chosen = {kind: best_median_worst(results[results["kind"] == kind]) for kind in lesions.KINDS}
    chosen["best"], chosen["worst"] = tumour.index[::-1][:3].tolist(), tumour.index[:3].tolist()
    for kind, rows in chosen.items():
        if not rows:
            continue
        cases = [
            plots.Case(slices.images[row].numpy(), slices.masks[row].numpy(), predicted[row], caption(results.loc[row]))
            for row in rows
        ]
        of_kind = sum(results["kind"] == kind)
        title = (
            f"{kind.capitalize()}: best, median and worst of {of_kind} slices"
            if of_kind
            else f"The {kind} of {len(tumour)} tumour slices"
        )
        plots.plot_panel(cases, "\n".join(filter(None, (title, note))), folder / f"panel_{kind.replace(' ', '_')}.png")


def best_median_worst(results: pd.DataFrame) -> list[int]:
    """Row labels of the best, the median and the worst slice, by IoU and then by false positive pixels."""
    order = results.sort_values(["iou", "false_positive", "image_path"], ascending=[False, True, True]).index
    return list(dict.fromkeys(order[[0, len(order) // 2, -1]])) if len(order) else []


def caption(row: pd.Series) -> str:
    pixels = f"tumour {row.tumour_pixels} px, predicted {row.predicted_pixels} px"
    return f"{Path(row.image_path).stem}   IoU {row.iou:.3f}   {pixels}"


if __name__ == "__main__":
    run_script(main)
