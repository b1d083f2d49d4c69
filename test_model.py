"""Evaluate one epoch of a run, the one with the best validation IoU, on the test patients.

    python test_model.py --run runs/first

Prints the metrics with their confidence intervals; writes test_results.csv (per slice), test_patients.csv,
test_lesions.csv, metrics.json, plots/*.png and report.html, which shows it all. Where a split leaves no patients to
test on, it says so and takes the validation patients.

This is where the network of a run is chosen: predict_model.py, export_model.py and the model card take the epoch, the
threshold and the smallest component of metrics.json.
"""

import argparse

import constants
from utils import UserError, existing, positive, run_script

ON_VALIDATION = (
    "No patients were left to test on: these are the validation patients, on whom the network was chosen. Expect less "
    "on others."
)
UNFINISHED = "warning: training has done {} of {} epochs: test again when it has finished."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=existing, default=constants.RUN_DIR, metavar="DIR", help="folder of the run (%(default)s)")
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent (the one used for training)")
    add("--select-by", choices=constants.CRITERIA,
        help="what selects the epoch (iou of the validation; without validation patients, last)")  # fmt: skip
    add("--tune", action="store_true", help="choose threshold and smallest component on the validation patients")
    add("--batch-size", type=positive(int), help="slices at a time, on which a Dice loss depends (that of training)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    args = parser.parse_args(argv)
    from dataset.folder import find_folder, read_spacings
    from dataset.slices import describe_changes, load_slices
    from dataset.synthetic import any_synthetic
    from evaluation import summary
    from evaluation.selection import Postprocessing, best_epoch, postprocess, selection_warning, tune, usual_criterion
    from reporting.report import write_result
    from storage import checkpoints
    from storage.origin import origin_warning
    from storage.run_folder import RunFolder
    from training.engine import score
    from training.hardware import choose_hardware, keep_freed_memory, repeat_exactly

    run = RunFolder(args.run)
    epochs = checkpoints.read_epochs(run)
    by = args.select_by or usual_criterion(epochs)
    best = best_epoch(epochs, by)
    model, checkpoint = checkpoints.load_network(run.checkpoint(best))
    hardware = choose_hardware(args.device, "fp32")  # the same masks on every machine
    keep_freed_memory()
    repeat_exactly(True, hardware.device)

    split = "validation" if run.read_split_table("test").empty else "test"
    config = run.read_config()
    folder = find_folder(args.data, config["data"])
    tables = {name: run.read_split_table(name) for name in sorted({split, "validation"} if args.tune else {split})}
    if empty := [name for name, table in tables.items() if table.empty]:
        raise UserError(f"{run.path / f'{empty[0]}.csv'}: names no patients to test or tune on.")
    slices = load_slices(folder, tables)
    predicted = {name: score(model, checkpoint, slices[name], hardware, name, args.batch_size) for name in slices}
    test, (loss, probabilities) = slices[split], predicted[split]
    postprocessing, tuned = Postprocessing.of(checkpoint["input"]), None
    if args.tune:
        postprocessing, tuned = tune(slices["validation"], predicted["validation"][1], postprocessing)
    masks = postprocess(probabilities, postprocessing, test.stacks())

    trained, planned, synthetic = int(epochs["epoch"].max()), config["settings"]["epochs"], any_synthetic(test.patients)
    details = {"split": split, "epoch": best, "selected_by": by, "synthetic": synthetic, "loss": loss}
    details |= {**postprocessing._asdict(), "tuned": tuned, "epochs": trained}
    notes = [
        origin_warning(config, split),
        selection_warning(epochs, best),
        UNFINISHED.format(trained, planned) if trained < planned else "",
        *map(describe_changes, slices.values()),
        ON_VALIDATION if split == "validation" else "",
    ]
    spacing = read_spacings(folder, test.patients)
    tables, metrics = summary.evaluate_masks(test, masks, probabilities, details, list(filter(None, notes)), spacing)
    write_result(run, test, masks, tables, metrics, epochs)

    if synthetic:
        print(constants.SYNTHETIC_NOTICE)
    print(f"{split:<12}{test.describe()}")
    print(f"epoch {best} of {len(epochs)}, {constants.CRITERIA[by]}; {postprocessing.describe(tuned)}")
    print(summary.describe(metrics, tables["patients"]))
    print(f"written to {run}: test_*.csv, metrics.json, test_predictions.npz, plots/*.png, report.html")


if __name__ == "__main__":
    run_script(main)
