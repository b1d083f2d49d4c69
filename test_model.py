"""Evaluate one epoch of a run, the one with the best validation IoU, on the test patients.

    python test_model.py --run runs/first

Prints what the model is worth and how sure that is; writes test_results.csv (a row a slice), test_patients.csv,
test_lesions.csv, metrics.json, plots/*.png and report.html, which shows it all.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import calibration
import checkpoints
import constants
import data
import evaluation
import lesions
import plots
import runs
import scorecard
import tuning
from engine import evaluate
from losses import LOSSES
from report import write_report
from utils import UserError, choose_hardware, keep_freed_memory, positive, repeat_exactly, run_script, whole_file

# How --select-by can choose the epoch: validation figures, and what to call them
CRITERIA = {
    "iou": "the best validation IoU",
    "tumour_iou": "the best validation IoU over tumour slices",
    "patient_dice": "the best volumetric Dice of the validation patients",
    "loss": "the lowest validation loss",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=Path, default=Path(constants.RUN_DIR), metavar="DIR", help="folder of the run (%(default)s)")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent (default: what training used)")
    add("--select-by", choices=CRITERIA, default="iou", help="validation figure that chooses the epoch (%(default)s)")
    add("--tune", action="store_true", help="choose threshold and smallest part on the validation patients")
    add("--batch-size", type=positive(int), default=constants.BATCH_SIZE, help="slices at a time (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    keep_freed_memory()
    hardware = choose_hardware(args.device)
    repeat_exactly(True)

    epochs = checkpoints.read_figures(runs.models_folder(args.run))
    best = checkpoints.best_epoch(epochs, args.select_by)
    model, checkpoint = checkpoints.load_network(checkpoints.epoch_path(runs.models_folder(args.run), best))
    model = model.to(hardware.device, memory_format=hardware.memory_format)
    loss_function = LOSSES[checkpoint["config"]["settings"]["loss"]]

    def score(split: str) -> tuple[float, np.ndarray]:
        """Loss and probabilities of all slices of a split."""
        probabilities = np.empty(slices[split].masks.shape, np.float32)
        there = slices[split].to(hardware.device)
        how = {"title": split, "probabilities_out": probabilities}
        return evaluate(model, there, args.batch_size, loss_function, hardware, **how)[0]["loss"], probabilities

    slices = load(args.run, args.data, ("validation", "test") if args.tune else ("test",))
    choice, tuned = tuning.tune(slices["validation"], score("validation")[1]) if args.tune else (tuning.Choice(), None)
    loss, probabilities = score("test")
    predicted = tuning.predict(probabilities, choice)
    tables = evaluation.make_tables(slices["test"], predicted)
    calibrated = calibration.count(slices["test"], probabilities)
    tables = replace(
        tables, patients=tables.patients.merge(calibration.per_patient(calibrated, slices["test"].patients))
    )

    synthetic = data.is_synthetic(slices["test"].table)
    about = {"split": "test", "epoch": best, "selected_by": args.select_by, "synthetic": synthetic}
    about |= {**choice._asdict(), "tuned": tuned, "loss": loss}
    warning = runs.selection_warning(epochs, best)
    card = scorecard.make(tables, calibration.summarise(calibrated), about, [warning] if warning else [])
    scorecard.write(args.run, tables, card)
    notice = runs.SYNTHETIC_NOTICE if synthetic else ""
    draw_panels(slices["test"], predicted, tables.slices, args.run / "plots", notice)
    with whole_file(args.run / runs.PREDICTIONS) as file:
        np.savez_compressed(file, predicted=predicted)
    plots.plot_test(tables.patients, tables.slices, args.run / "plots", notice)
    write_report(args.run, slices["test"].images.numpy(), slices["test"].masks.numpy(), predicted, tables.slices)

    if synthetic:
        print(notice)
    print(f"test        {slices['test'].describe()}")
    print(f"epoch {best} of {len(epochs)}, {CRITERIA[args.select_by]}; {describe_choice(choice, tuned)}")
    print(scorecard.describe(card, tables.patients))
    print(
        f"written to {args.run}: {', '.join(scorecard.FILES.values())}, metrics.json, {runs.PREDICTIONS}, "
        "plots/*.png, report.html"
    )


def load(run: Path, folder: str | None, splits: tuple[str, ...]) -> dict[str, data.Slices]:
    """The slices of the splits of a run, decoded."""
    tables = {split: data.read_table(run, split) for split in splits}
    for split, table in tables.items():
        if table.empty:
            raise UserError(f"{run / f'{split}.csv'}: names no patients, so that there is nothing to test on.")
    there = data.find_folder(runs.data_folder(run, folder))
    if folder is not None:
        refuse_other_patients(run, there, tables)
    return data.load(there, tables)


def refuse_other_patients(run: Path, folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Raise UserError if the folder, another than the one of training, lacks patients of the tables."""
    trained = runs.read_config(run)["data"]
    patients = sorted({patient for table in tables.values() for patient in table["patient"]})
    lacking = [patient for patient in patients if not (folder / patient).is_dir()]
    if not lacking or folder.resolve() == Path(trained):
        return
    few = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
    lacks = "holds none" if lacking == patients else f"lacks {len(lacking)} ({few})"
    raise UserError(
        f"{folder}: {lacks} of the {len(patients)} {' and '.join(tables)} patients of {run}. "
        f"Training used {trained}: leave out --data, or name that folder."
    )


def describe_choice(choice: tuning.Choice, tuned: dict | None) -> str:
    small = f", parts below {choice.min_component} px removed" if choice.min_component else ""
    how = f" (tuned on {tuned['patients']} validation patients)" if tuned else ""
    return f"threshold {choice.threshold:g}{small}{how}"


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
