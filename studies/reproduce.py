"""Repeat a run by its name: train, process and test it, and copy what may be published to runs/reproduce/.

    python -m studies.reproduce tuned                               # the run of weights/tuned, without --robust
    python -m studies.reproduce tuned --seed 1 --split split.csv    # a set that lacks the test patients
    python -m studies.reproduce tuned --width 4 --epochs 2          # a quick trial
    python -m studies.reproduce cv_tuned                            # a cross-validation: every patient is tested
    python -m studies.reproduce ablation_no_crop --split split.csv  # against ablation_base: compare_runs.py
    python -m studies.reproduce table                               # fill the table of docs/results.md from results/

Options that are not listed here go to train_model.py. The same command goes on where it stopped; a run of other
settings or on other patients is refused. The run itself is in runs/RUN. runs/reproduce/RUN receives its tables, the
plots that show no patient, config.json, and run.json with metrics, seconds and the network's size; of a
cross-validation the predicted masks, too. To publish it, copy it to results/.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from constants import IMAGE_SIZE, SEED
from dataset.folder import find_folder
from dataset.published import published_patients
from evaluation.summary import METRICS, metric_rows
from storage.checkpoints import describe_network, read_epochs
from storage.run_folder import PRIVATE, RunFolder
from studies.speed import count_flop
from unet import UNet
from utils import PROJECT, existing, run_python, run_script, to_markdown, write_text

PAGE = PROJECT / "docs" / "results.md"  # holds the table
BEGIN, END = "<!-- written by: python -m studies.reproduce table -->", "<!-- end of the table -->"
KEPT = 3  # weights of the best epochs; 94 of them would fill 12 GB
COPIED = (
    "results.csv", "epochs.csv", "metrics.json", "test_patients.csv", "test_lesions.csv",
    "plots/loss.png", "plots/iou.png", "plots/bland_altman.png", "plots/dice_area.png",  # those that show no patient
)  # fmt: skip
SHOWN = ("patient_dice", "patient_dice_median", "tumour_iou", "iou", "empty_prediction")  # metrics in the table


class Published(NamedTuple):
    """A run that can be repeated by its name."""

    title: str
    options: tuple[str, ...]  # of train_model.py that are not the defaults
    test_options: tuple[str, ...] = ()  # of test_model.py
    folds: int = 0  # of a cross-validation, whose patients are all test patients in turn
    subset: bool = False  # only the 12 patients of the 100 MB run


TUNED = ("--recipe", "tuned")
NOT_ROBUST = (*TUNED, "--normalisation", "head", "--no-robust")
CHOSEN = ("--select-by", "patient_dice", "--tune")  # on the validation patients
# Ablation: narrow, and so few epochs that many variants can be tried; the last epoch is tested, nothing is chosen
BASE = (*NOT_ROBUST, "--patient-balanced", "0", "--width", "16", "--epochs", "6", "--threshold", "0.5",
        "--min-component", "0")  # fmt: skip
VARIANTS = {  # what each changes in BASE, at about equal cost
    "base": (),
    "plain_intensities": ("--normalisation", "plain"),
    "no_neighbours": ("--neighbours", "0"),
    "no_augment": ("--no-augment",),
    "no_average": ("--ema", "0"),
    "no_progressive_resolution": ("--no-progressive-resolution", "--epochs", "5"),
    "all_slices": ("--negative-fraction", "1", "--epochs", "4"),
    "no_pixel_unshuffle": ("--pixel-unshuffle", "1", "--width", "8"),
    "no_crop": ("--no-crop", "--epochs", "4"),
    "no_slice_dice": ("--loss", "bce+dice"),
    "bce": ("--loss", "bce"),
    **{f"balanced_{m}": ("--patient-balanced", m) for m in ("0.1", "0.5", "1")},
    **{f"misses_{w}": ("--loss", "bce+tversky", "--false-negative-weight", w) for w in ("0.3", "0.7", "0.9")},
}
RUNS = {
    "cv_robust": Published("tuned recipe, cross-validation", (*TUNED, "--no-validation"), folds=5),
    "tuned": Published("without `--robust`, full set", NOT_ROBUST, CHOSEN),
    "cv_tuned": Published("without `--robust`, cross-validation", NOT_ROBUST, CHOSEN, folds=5),
    "reference": Published("published recipe, full set", ()),
    "full_bilinear": Published("published recipe, full set, bilinear, fast", ("--bilinear", "--mode", "fast")),
    "reference_w16": Published("published recipe at width 16, full set", ("--width", "16")),
    "twelve_w16": Published("published recipe at width 16, 12 patients", ("--width", "16"), subset=True),
    "twelve_tuned": Published(
        "without `--robust`, 12 patients", (*NOT_ROBUST, "--epochs", "94"), CHOSEN, subset=True
    ),
    "ablation_reference": Published("ablation: reference", ("--width", "8", "--epochs", "3"), ("--select-by", "last")),
    **{
        f"ablation_{name}": Published(f"ablation: {name}", (*BASE, *changes), ("--select-by", "last"))
        for name, changes in VARIANTS.items()
    },
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    layout = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**layout, allow_abbrev=False)
    add = parser.add_argument
    add("run", choices=(*RUNS, "table"), metavar="RUN", help=f"{', '.join(RUNS)}; or table")
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--seed", type=int, default=SEED, help="another seed; the run is in RUN_seed_SEED")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs go (%(default)s)")
    args, given = parser.parse_known_args(argv)
    if args.run == "table":
        write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), make_table(PROJECT / "results")))
        return
    published, seeded = RUNS[args.run], "" if args.seed == SEED else f"_seed_{args.seed}"
    run, results = RunFolder(args.runs / (args.run + seeded)), args.runs / "reproduce" / (args.run + seeded)
    folder, subset = find_folder(args.data), published_patients(subset=True)
    where = ["--run", run, "--data", folder]
    options = ["--keep", KEPT, *published.options, "--seed", args.seed, *given]
    if published.subset and all((folder / patient).is_dir() for patient in subset):
        write_text(run.path / "patients.txt", "\n".join(subset))
        options += ["--patients", run.path / "patients.txt"]
    if published.folds:
        run_python("cross_validate.py", *where, "--folds", published.folds, *published.test_options, *options)
    else:
        run_python("train_model.py", *where, *options, "--resume")  # begins, goes on, or is done
        run_python("process_models.py", "--run", run)
        run_python("test_model.py", *where, *published.test_options)
    publish(run, results, published.title + seeded.replace("_seed_", ", seed "))
    print(f"written to {results}: run.json and what may be published of the run")


def publish(run: RunFolder, results: Path, title: str) -> None:
    """Write what shows no patient and names no folder of this machine, with settings, metrics, seconds and size."""
    runs, metrics = run.tested_runs(), run.read_metrics()
    epochs = pd.concat([read_epochs(fold) for fold in runs])
    config = {name: value for name, value in runs[0].read_config().items() if name not in PRIVATE}
    del config["versions"]["platform"]
    network = describe_network(config["settings"])
    with torch.device("meta"):
        parameters = sum(weights.numel() for weights in UNet(**network).parameters())
    record = {
        "run": run.path.name,
        "title": title,
        "epochs": len(epochs) // len(runs),
        "seconds": epochs["seconds"].sum(),
        "parameters": parameters,
        "gflop": count_flop(network, IMAGE_SIZE, IMAGE_SIZE) / 1e9,
    }
    copy = RunFolder(results)
    if len(runs) > 1:
        config |= {name: {metrics["split"]: metrics[name]} for name in ("patients", "slices")}
        table, predicted = run.read_tested()
        packed = np.packbits(predicted, axis=2)  # eight pixels a byte
        results.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(results / "masks.npz", masks=packed, image_path=table["image_path"].to_numpy(str))
    for name in COPIED:
        if (run.path / name).is_file():
            copy.write(Path(name).name, (run.path / name).read_bytes())
    copy.write("config.json", config)
    copy.write("run.json", record)


def make_table(results: Path) -> str:
    """Return the runs of a folder as a table in Markdown."""
    labels = (METRICS[name].label for name in SHOWN)
    titles = ["run", "judged on (patients / slices)", *labels, "parameters", "GFLOP a slice", "minutes", "hardware"]
    rows = []
    folders = [path for name in RUNS for path in (results / name, *sorted(results.glob(f"{name}_seed_*")))]
    for folder in (path for path in folders if (path / "run.json").is_file()):
        names = ("config.json", "metrics.json", "run.json")
        config, metrics, r = (json.loads((folder / name).read_text(encoding="utf-8")) for name in names)
        split, without = metrics["split"], metrics.get("patients_without_tumour")
        epoch = f"epoch {metrics['epoch']} of {r['epochs']}" if metrics["epoch"] else f"{r['epochs']} epochs"
        without = f" ({without} without tumour)" if without else ""
        judged = f"{split}, {config['patients'][split]}{without} / {config['slices'][split]}, {epoch}"
        values = [f"{row['text']} ({row['interval']})".removesuffix(" ()") for row in metric_rows(metrics, SHOWN)]
        cost = [f"{r['parameters'] / 1e6:.2f} M", f"{r['gflop']:.1f}", f"{r['seconds'] / 60:.0f}"]
        rows.append([r["title"], judged, *values, *cost, f"{config['hardware']}, torch {config['versions']['torch']}"])
    return to_markdown(titles, rows)


def fill(page: str, content: str) -> str:
    """Return the text with what is between the two marks replaced."""
    return f"{page.partition(BEGIN)[0]}{BEGIN}\n\n{content}\n\n{END}{page.partition(END)[2]}"


if __name__ == "__main__":
    run_script(main)
