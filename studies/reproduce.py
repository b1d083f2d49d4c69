"""Repeat a run by its name: train, process and test it, and copy what may be published to runs/reproduce/.

    python -m studies.reproduce tuned
    python -m studies.reproduce tuned --split split.csv     # a set that lacks the test patients
    python -m studies.reproduce tuned --width 4 --epochs 2  # a quick trial, which --results refuses
    python -m studies.reproduce cv_tuned                    # a cross-validation: every patient is tested
    python -m studies.reproduce table                       # the table of docs/results.md

The same command goes on where it stopped; a run of other settings or on other patients is refused. The run itself is in
runs/RUN. runs/reproduce/RUN receives its tables, the plots that show no patient, config.json, and run.json with
metrics, seconds and the network's size; of a cross-validation the predicted masks, too.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from constants import IMAGE_SIZE
from dataset.folder import find_folder
from dataset.published import published_patients
from evaluation.intervals import show_interval
from evaluation.summary import METRICS
from storage.checkpoints import describe_network, read_epochs
from storage.run_folder import PRIVATE, RunFolder
from studies.speed import count_flop
from unet import UNet
from utils import UserError, positive, refuse_used, run_python, run_script, show_number, write_text

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs" / "results.md"  # holds the table
BEGIN, END = "<!-- written by: python -m studies.reproduce table -->", "<!-- end of the table -->"
KEEP = ("--keep", 3)  # weights of the best epochs; 94 of them would fill 12 GB
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
RUNS = {
    "cv_robust": Published("tuned recipe, cross-validation", (*TUNED, "--no-validation"), folds=5),
    "tuned": Published("without `--robust`, full set", NOT_ROBUST, CHOSEN),
    "tuned_seed_1": Published("without `--robust`, full set, seed 1", (*NOT_ROBUST, "--seed", "1"), CHOSEN),
    "tuned_seed_2": Published("without `--robust`, full set, seed 2", (*NOT_ROBUST, "--seed", "2"), CHOSEN),
    "cv_tuned": Published("without `--robust`, cross-validation", NOT_ROBUST, CHOSEN, folds=5),
    "reference": Published("published recipe, full set", ()),
    "full_bilinear": Published("published recipe, full set, bilinear, fast", ("--bilinear", "--mode", "fast")),
    "reference_w16": Published("published recipe at width 16, full set", ("--width", "16")),
    **{
        f"twelve_{name}_seed_{seed}": Published(
            f"{title}, 12 patients, seed {seed}", (*options, "--epochs", "94", "--seed", str(seed)), chosen, subset=True
        )
        for name, title, options, chosen in (
            ("w16", "published recipe at width 16", ("--width", "16"), ()),
            ("tuned", "without `--robust`", NOT_ROBUST, CHOSEN),
        )
        for seed in (1, 2, 3)
    },
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", choices=(*RUNS, "table"), metavar="RUN", help=f"{', '.join(RUNS)}; or table")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    add("--epochs", type=positive(int), help="for a quick trial")
    add("--width", type=positive(int), help="for a quick trial")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs themselves go (%(default)s)")
    add("--results", type=Path, metavar="DIR", help="where the copies go (reproduce/ in --runs); for the table, where "
        "they are (the project's results/)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the files of an earlier copy")
    args = parser.parse_args(argv)
    if args.split and args.run in RUNS and RUNS[args.run].folds:
        parser.error(f"--split: {args.run} makes its folds itself")
    if (args.epochs or args.width) and args.results:
        parser.error("--results is for published runs, not for trials with --epochs or --width")
    if args.run == "table":
        write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), make_table(args.results or PROJECT / "results")))
        return
    published, run = RUNS[args.run], RunFolder(args.runs / args.run)
    results = (args.results or args.runs / "reproduce") / args.run
    refuse_used(results, args.overwrite, "--results")
    folder = find_folder(args.data)
    options = list(published.options)
    for name in ("epochs", "width", "split"):
        options += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    if published.subset and all((folder / patient).is_dir() for patient in published_patients(subset=True)):
        run.write("patients.txt", "\n".join(published_patients(subset=True)).encode())
        options += ["--patients", run.path / "patients.txt"]
    where = ["--run", run, "--data", folder, "--device", args.device]
    if published.folds:
        folds = ["--folds", published.folds, *published.test_options]
        run_python(PROJECT / "cross_validate.py", *where, *folds, *KEEP, *options)
    else:
        run_python(PROJECT / "train_model.py", *where, *KEEP, *options, "--resume")  # begins, goes on, or is done
        run_python(PROJECT / "process_models.py", "--run", run)
        run_python(PROJECT / "test_model.py", *where, *published.test_options)
    config, record = describe(run)
    publish(run, results, config, {"run": args.run, "title": published.title, **record})
    print(f"written to {results}: run.json and what may be published of the run")


def describe(run: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the data of a tested run; and its metrics, seconds and network size."""
    runs, metrics = run.tested_runs(), run.read_metrics()
    epochs = pd.concat([read_epochs(fold) for fold in runs])
    config = runs[0].read_config()
    network = describe_network(config["settings"])
    config = {name: value for name, value in config.items() if name not in PRIVATE}
    del config["versions"]["platform"]
    if len(runs) > 1:
        config |= {name: {metrics["split"]: metrics[name]} for name in ("patients", "slices")}
    with torch.device("meta"):
        parameters = sum(weights.numel() for weights in UNet(**network).parameters())
    return config, {
        "judged_on": metrics["split"],
        "without_tumour": metrics["patients_without_tumour"],
        "epoch": metrics["epoch"],
        "metrics": {name: metrics["intervals"][name] for name in SHOWN},
        "epochs": len(epochs) // len(runs),
        "seconds": epochs["seconds"].sum(),
        "parameters": parameters,
        "gflop": count_flop(network, IMAGE_SIZE, IMAGE_SIZE) / 1e9,
    }


def publish(run: RunFolder, results: Path, config: dict, record: dict) -> None:
    """Write what shows no patient and names no folder of this machine."""
    files = {"config.json": config, "run.json": record}
    files |= {Path(name).name: (run.path / name).read_bytes() for name in COPIED if (run.path / name).is_file()}
    if len(run.tested_runs()) > 1:
        table, predicted = run.read_tested()
        with io.BytesIO() as file:  # eight pixels a byte
            packed = np.packbits(predicted, axis=2)
            np.savez_compressed(file, masks=packed, image_path=table["image_path"].to_numpy(str))
            files["masks.npz"] = file.getvalue()
    for name, content in files.items():
        RunFolder(results).write(name, content)


def make_table(results: Path) -> str:
    """Return the runs of a folder as a table in Markdown."""
    labels = (METRICS[name].label for name in SHOWN)
    titles = ["run", "judged on (patients / slices)", *labels, "parameters", "GFLOP a slice", "minutes", "hardware"]
    rows = [titles, ["---"] * len(titles)]
    for folder in (results / name for name in RUNS if (results / name / "run.json").is_file()):
        config, r = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("config.json", "run.json"))
        split = r["judged_on"]
        epoch = f"epoch {r['epoch']} of {r['epochs']}" if r["epoch"] else f"{r['epochs']} epochs"
        without = f" ({r['without_tumour']} without tumour)" if r.get("without_tumour") else ""
        judged = f"{split}, {config['patients'][split]}{without} / {config['slices'][split]}, {epoch}"
        metrics = [f"{show_number(e['value'])} ({show_interval(e, '.3f')})" for e in map(r["metrics"].get, SHOWN)]
        metrics = [text.removesuffix(" ()") for text in metrics]  # without patients enough for an interval
        cost = [f"{r['parameters'] / 1e6:.2f} M", f"{r['gflop']:.1f}", f"{r['seconds'] / 60:.0f}"]
        rows.append([r["title"], judged, *metrics, *cost, f"{config['hardware']}, torch {config['versions']['torch']}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def fill(page: str, content: str) -> str:
    """Return the text with what is between the two marks replaced. Raises: UserError when they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE}: lacks the lines {BEGIN} and {END}. Restore them.")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    run_script(main)
