"""Repeat a run by its name: train, process and test it, and keep what may be published in results/.

    python reproduce.py full_bilinear
    python reproduce.py full_bilinear --split split.csv     # a set that lacks the test patients
    python reproduce.py full_bilinear --width 4 --epochs 2  # a quick trial
    python reproduce.py cv_tuned                            # a cross-validation: every patient is tested
    python reproduce.py table                               # the table of docs/results.md from results/*/run.json

The same command goes on where it was cut off, and never replaces a run of other settings, other data, or files of the
user. The run itself is in runs/RUN. Kept in results/RUN are results.csv, epochs.csv, metrics.json, the tables of
patients and lesions, the plots that show no patient, config.json, and run.json with metrics, seconds, memory and the
network's size; of a cross-validation, masks.npz with the predicted mask of every slice too. A run on other data, or
with --epochs or --width, is marked as a trial in run.json and never enters the table.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from utils import parse_first, positive

FULL = {"train": 2769, "validation": 756, "test": 404}  # slices
SUBSET = {"train": 178, "validation": 45, "test": 113}


class Published(NamedTuple):
    """A run that can be repeated by its name."""

    title: str
    slices: dict[str, int]  # of each split of the published set
    options: tuple[str, ...]  # of train_model.py that are not the defaults
    test_options: tuple[str, ...] = ()  # of test_model.py
    folds: int = 0  # of a cross-validation, whose patients are all test patients in turn


TUNED = ("--recipe", "tuned")
CHOSEN = ("--select-by", "patient_dice", "--tune")  # on the validation patients
RUNS = {
    "tuned": Published("tuned recipe, full set", FULL, TUNED, CHOSEN),
    **{
        f"tuned_seed_{seed}": Published(
            f"tuned recipe, full set, seed {seed}", FULL, (*TUNED, "--seed", str(seed)), CHOSEN
        )
        for seed in (1, 2)
    },
    "cv_tuned": Published("tuned recipe, cross-validation", FULL, TUNED, CHOSEN, 5),
    "reference_w16": Published("published recipe at width 16, full set", FULL, ("--width", "16")),
    "full_bilinear": Published("published recipe, full set, bilinear, fast", FULL, ("--bilinear", "--mode", "fast")),
    "full_transposed_exact": Published("published recipe, full set, exact", FULL, ("--mode", "exact")),
    "full_transposed_fast": Published("published recipe, full set, fast", FULL, ("--mode", "fast")),
    **{
        f"twelve_{name}seed_{seed}": Published(
            f"{title}, 12 patients, seed {seed}",
            SUBSET,
            (*options, "--epochs", "94", "--seed", str(seed)),
            test_options,
        )
        for name, title, options, test_options in (
            ("", "published recipe", (), ()),
            ("w16_", "published recipe at width 16", ("--width", "16"), ()),
            ("tuned_", "tuned recipe", TUNED, CHOSEN),
        )
        for seed in (1, 2, 3)
    },
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", choices=(*RUNS, "table"), metavar="RUN", help=f"{', '.join(RUNS)}; or table")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent, as of train_model.py")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, instead of the own split")
    add("--epochs", type=positive(int), help="for a quick trial")
    add("--width", type=positive(int), help="for a quick trial")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs themselves go (%(default)s)")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where what is kept goes (%(default)s)")
    args = parser.parse_args(argv)
    if args.split and args.run in RUNS and RUNS[args.run].folds:
        parser.error(f"--split: {args.run} makes its folds itself")
    return args


if __name__ == "__main__":
    parse_first(parse_arguments)


import io
import json

import numpy as np
import pandas as pd
import torch

from constants import IMAGE_SIZE
from dataset.folder import find_folder, find_slices
from dataset.published import is_published, published_patients
from dataset.split import assign, split_tables
from dataset.synthetic import any_synthetic
from evaluation.intervals import show_interval
from evaluation.summary import METRICS
from storage.checkpoints import describe_network, read_epochs
from storage.owned_folder import OwnedFolder
from storage.run_folder import PRIVATE, RunFolder
from training.engine import count_flop
from training.options import SETTINGS, fill_in, make_parser
from training.recipes import REFERENCE
from unet import UNet
from utils import UserError, call_script, run_script, show_number, to_json, write_text

PAGE = Path(__file__).resolve().parent / "docs" / "results.md"  # holds the table
KEEP = ("--keep", 3)  # weights of the best epochs; 94 of them would fill 12 GB
TEXTS = ("results.csv", "epochs.csv", "metrics.json", "test_patients.csv", "test_lesions.csv")
PLOTS = ("loss.png", "iou.png", "bland_altman.png", "dice_area.png")  # those that show no patient
KEPT = (*TEXTS, *PLOTS, "config.json", "run.json", "masks.npz")
SHOWN = ("patient_dice", "patient_dice_median", "tumour_iou", "iou", "empty_prediction")  # metrics in the table
BEGIN, END = "<!-- written by: python reproduce.py table -->", "<!-- end of the table -->"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.run == "table":
        write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), make_table(args.results)))
        print(f"{PAGE}: its table is that of {args.results}")
        return
    published, run, kept = RUNS[args.run], RunFolder(args.runs / args.run), OwnedFolder(args.results / args.run)
    trial = [f"--{name} {getattr(args, name)}" for name in ("epochs", "width") if getattr(args, name)]
    options = [*published.options, *(word for option in trial for word in option.split())]

    folder = find_folder(args.data)
    subset = published_patients(subset=True) if published.slices == SUBSET else {}
    only = sorted(subset) if all((folder / patient).is_dir() for patient in subset) else []
    wanted = describe_wanted(options, folder, only, args.split, published.folds)
    run.refuse_used(overwrite=True)  # files of the user
    kept.refuse_foreign(*KEPT)
    for place in (run, kept):
        refuse_other(place, wanted)
    if args.split:
        options += ["--split", args.split]
    if only:
        run.write("patients.txt", "\n".join([*only, ""]).encode())
        options += ["--patients", run.path / "patients.txt"]
    where = ["--run", run, "--data", folder, "--device", args.device]
    if published.folds:
        call_script("cross_validate.py", *where, "--folds", published.folds, *KEEP, *options, *published.test_options)
    else:
        if run.complete_epochs() < wanted["epochs"]:
            call_script("train_model.py", *where, *KEEP, *(["--resume"] if run.newest_epoch() else options))
        call_script("process_models.py", "--run", run)
        call_script("test_model.py", *where, *published.test_options)

    if not wanted["published"]:
        trial.append("synthetic patients" if wanted["synthetic"] else "patients of another set")
    whole = [published.slices, published.slices | {"test": 0}]  # a set that lacks the test patients counts as the same
    if published.folds:
        whole = [{pooled(published.folds): sum(slices.values())} for slices in whole]
    if wanted["slices"] not in whole:
        trial.append(f"{' + '.join(map(str, wanted['slices'].values()))} slices")
    keep(run, kept, {"run": args.run, "title": published.title, "trial": trial, **describe(run)})
    print(f"written to {kept}: run.json and what may be published of the run")
    if trial:
        print(f"a trial and not the published run: {', '.join(trial)}")


def pooled(folds: int) -> str:
    """Return how metrics.json of a cross-validation names what was tested: the test patients of all folds."""
    return f"cross-validation, {folds} folds"


def describe_wanted(options: list[str], folder: Path, only: list[str], split: Path | None, folds: int = 0) -> dict:
    """Return the settings and the data that config.json of this run has to hold.

    Without the precision: it depends on the hardware, and no published run sets it.
    """
    settings = fill_in(make_parser().parse_args(list(map(str, options))))
    table = find_slices(folder, only or None)
    patients = table["patient"]
    if folds:
        slices = {pooled(folds): len(table)}
    else:
        assignment = assign(patients, split, folder)
        slices = {split: len(part) for split, part in split_tables(table, assignment).items()}
    return {
        **{name: getattr(settings, name) for name in SETTINGS if name != "precision"},
        "synthetic": any_synthetic(table),
        "published": is_published(table),
        "slices": slices,
    }


def refuse_other(place: OwnedFolder, wanted: dict) -> None:
    """Raise UserError if the run in a folder, or what is kept of one, has other settings or other data."""
    if not (place.path / "config.json").exists():
        return
    config = read_json(place, "config.json")
    found = REFERENCE | config | config["settings"]
    different = [f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if different:
        raise UserError(
            f"{place}: holds a run with {'; '.join(different)}. Remove that folder, or name others with --runs "
            "and --results."
        )


def read_json(place: OwnedFolder, name: str) -> dict:
    """Return the content of a file that this project wrote. Raises: UserError when it is missing or was changed."""
    return json.loads(place.read(name, f"Restore it, or remove {place}."))


def describe(run: RunFolder) -> dict:
    """Return what came out of a finished run: metrics of its chosen epoch, seconds, memory and the network's size."""
    runs, metrics = run.tested_runs(), run.read_metrics()
    epochs = pd.concat([read_epochs(each) for each in runs])
    network = describe_network(REFERENCE | runs[0].read_config()["settings"])
    with torch.device("meta"):
        parameters = sum(weights.numel() for weights in UNet(**network).parameters())
    return {
        "judged_on": metrics["split"],
        "epoch": metrics["epoch"],
        "metrics": {name: metrics["intervals"][name] for name in SHOWN},
        "epochs": len(epochs) // len(runs),
        "seconds": epochs["seconds"].sum(),
        "seconds_counted": "training and validation, sum over epochs and folds",
        "seconds_per_epoch": epochs["seconds"].median(),
        "peak_memory_gib": epochs["peak_memory_gib"].max(),
        "parameters": parameters,
        "gflop": count_flop(network, IMAGE_SIZE, IMAGE_SIZE) / 1e9,
    }


def keep(run: RunFolder, kept: OwnedFolder, record: dict) -> None:
    """Copy what shows no patient and names no folder of this machine."""
    kept.remove_temporaries()  # of a process that was killed
    runs, metrics = run.tested_runs(), run.read_metrics()
    config = runs[0].read_config()
    config = {name: value for name, value in config.items() if name not in PRIVATE}
    del config["versions"]["platform"]
    if len(runs) > 1:
        table, predicted = run.read_tested()
        config |= {name: {metrics["split"]: metrics[name]} for name in ("patients", "slices")}
        kept.write("masks.npz", pack(table, predicted))
    kept.write("config.json", to_json(config).encode())
    for name in (*TEXTS, *(f"plots/{name}" for name in PLOTS)):
        if (run.path / name).is_file():
            kept.write(Path(name).name, run.read(name, "Run reproduce.py again."))
    kept.write("run.json", to_json(record).encode())


def pack(table: pd.DataFrame, predicted: np.ndarray) -> bytes:
    """Return an archive of masks (uint8 0 or 1, [N, H, W]), eight pixels a byte, and of the path of each slice."""
    with io.BytesIO() as file:
        np.savez_compressed(file, masks=np.packbits(predicted, axis=2), image_path=table["image_path"].to_numpy(str))
        return file.getvalue()


def make_table(results: Path) -> str:
    """Return the runs of a folder as a table in Markdown, without trials."""
    labels = (METRICS[name].label for name in SHOWN)
    titles = ["run", "judged on (patients / slices)", *labels, "parameters", "GFLOP a slice", "minutes", "hardware"]
    rows = [titles, ["---"] * len(titles)]
    for folder in (OwnedFolder(results / name) for name in RUNS if (results / name / "run.json").is_file()):
        r = read_json(folder, "config.json") | read_json(folder, "run.json")
        if r["trial"]:
            continue
        split = r["judged_on"]
        epoch = f"epoch {r['epoch']} of {r['epochs']}" if r["epoch"] else f"{r['epochs']} epochs"
        judged = f"{split}, {r['patients'][split]} / {r['slices'][split]}, {epoch}"
        metrics = [show_estimate(r["metrics"][name]) for name in SHOWN]
        cost = [f"{r['parameters'] / 1e6:.2f} M", f"{r['gflop']:.1f}", f"{r['seconds'] / 60:.0f}"]
        rows.append([r["title"], judged, *metrics, *cost, f"{r['hardware']}, torch {r['versions']['torch']}"])
    if len(rows) == 2:
        return "No run has been repeated on the published data with this version yet."
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def show_estimate(estimate: dict) -> str:
    """Return a metric with its interval, or with the patients' values where they are too few for one."""
    interval = show_interval(estimate, ".3f")
    return show_number(estimate["value"]) + (f" ({interval})" if interval else "")


def fill(page: str, content: str) -> str:
    """Return the text with what is between the two marks replaced. Raises: UserError when they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE}: lacks the lines {BEGIN} and {END}. Restore them.")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    run_script(main)
