"""Repeat a published run: train, process and test it, and keep what may be published in results/.

    python reproduce.py full_bilinear
    python reproduce.py full_bilinear --split split.csv     # a set that lacks the test patients
    python reproduce.py full_bilinear --width 4 --epochs 2  # a quick trial
    python reproduce.py table                               # the table of docs/reproduction.md from results/*/run.json

The same command goes on where it was cut off, and never replaces a run of other settings, other data, or files of the
user. The run itself is in runs/RUN. Kept in results/RUN are results.csv,
epochs.csv, metrics.json (if there were patients to test on), the plots that show no patient, config.json, and run.json
with seconds, memory and metrics. A run on other data, or with --epochs or --width, is marked as a trial in run.json and
never enters the table.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import train_model
from dataset.folder import find_folder, find_slices
from dataset.published import is_published, published_patients
from dataset.split import assign_patients, read_assignment, split_tables
from dataset.synthetic import any_synthetic
from evaluation.names import METRICS
from evaluation.selection import best_epoch
from storage.checkpoints import read_epochs
from storage.owned_folder import OwnedFolder
from storage.run_folder import RunFolder
from utils import UserError, call_script, positive, run_script, show_number, to_json, write_text

PAGE = Path(__file__).resolve().parent / "docs" / "reproduction.md"  # holds the table
FULL = {"train": 2769, "validation": 756, "test": 404}  # slices
SUBSET = {"train": 178, "validation": 45, "test": 113}
KEEP = ("--keep", 3)  # weights of the best epochs; 94 of them would fill 12 GB
TEXTS = ("results.csv", "epochs.csv", "metrics.json")
PLOTS = ("loss.png", "iou.png", "bland_altman.png", "dice_area.png")  # those that show no patient
KEPT = (*TEXTS, *PLOTS, "config.json", "run.json")
SHOWN = ("iou", "empty_prediction", "tumour_iou", "patient_dice")  # metrics in the table
BEGIN, END = "<!-- written by: python reproduce.py table -->", "<!-- end of the table -->"


class Published(NamedTuple):
    """A run as it is published."""

    title: str
    slices: dict[str, int]  # of each split; a set that lacks the test patients counts as the same
    options: tuple[str, ...]  # that are not the defaults


RUNS = {
    "full_bilinear": Published("full set, bilinear, fast", FULL, ("--bilinear", "--mode", "fast")),
    "full_transposed_exact": Published("full set, transposed, exact", FULL, ("--mode", "exact")),
    "full_transposed_fast": Published("full set, transposed, fast", FULL, ("--mode", "fast")),
    **{
        f"twelve_seed_{seed}": Published(f"12 patients, transposed, seed {seed}", SUBSET, ("--seed", str(seed)))
        for seed in (1, 2, 3)
    },
}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
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
    return parser.parse_args(argv)


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
    wanted = describe_wanted(options, folder, only, args.split)
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
    if run.complete_epochs() < wanted["epochs"]:
        call_script("train_model.py", *where, *KEEP, *(["--resume"] if run.newest_epoch() else options))
    call_script("process_models.py", "--run", run)
    if wanted["slices"]["test"]:
        call_script("test_model.py", *where)

    if not wanted["published"]:
        trial.append("synthetic patients" if wanted["synthetic"] else "patients of another set")
    if wanted["slices"] not in (published.slices, published.slices | {"test": 0}):
        trial.append(f"{' + '.join(map(str, wanted['slices'].values()))} slices")
    keep(run, kept, {"run": args.run, "title": published.title, "trial": trial, **describe(run)})
    print(f"written to {kept}: run.json and what may be published of the run")
    if trial:
        print(f"a trial and not the published run: {', '.join(trial)}")


def describe_wanted(options: list[str], folder: Path, only: list[str], split: Path | None) -> dict:
    """Return the settings and the data that config.json of this run has to hold.

    Without the precision: it depends on the hardware, and no published run sets it.
    """
    settings = train_model.parse_arguments(options)
    table = find_slices(folder, only or None)
    patients = table["patient"]
    assignment = read_assignment(split, patients, folder)[0] if split else assign_patients(patients)
    return {
        **{name: getattr(settings, name) for name in train_model.SETTINGS if name != "precision"},
        "synthetic": any_synthetic(table),
        "published": is_published(table),
        "slices": {split: len(part) for split, part in split_tables(table, assignment).items()},
    }


def refuse_other(place: OwnedFolder, wanted: dict) -> None:
    """Raise UserError if the run in a folder, or what is kept of one, has other settings or other data."""
    if not (place.path / "config.json").exists():
        return
    config = read_json(place, "config.json")
    found = {**config, **config["settings"]}
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
    """Return what came out of a finished run: seconds, memory, and metrics of its best epoch."""
    epochs = read_epochs(run)
    best = best_epoch(epochs)
    chosen = epochs.set_index("epoch").loc[best]
    metrics = run.read_metrics() if run.read_config()["slices"]["test"] else None
    return {
        "epochs": len(epochs),
        "seconds": epochs["seconds"].sum(),
        "seconds_counted": "training and validation, sum over epochs",
        "seconds_per_epoch": epochs["seconds"].median(),
        "peak_memory_gib": epochs["peak_memory_gib"].max(),
        "best_epoch": best,
        "validation": {name: chosen[f"validation_{name}"] for name in SHOWN},
        "test": metrics and {name: metrics[name] for name in SHOWN},
    }


def keep(run: RunFolder, kept: OwnedFolder, record: dict) -> None:
    """Copy what shows no patient and names no folder of this machine."""
    kept.remove_temporaries()  # of a process that was killed
    config = run.read_config()
    del config["data"], config["versions"]["platform"]
    kept.write("config.json", to_json(config).encode())
    for name in (*TEXTS, *(f"plots/{name}" for name in PLOTS)):
        if (run.path / name).is_file():
            kept.write(Path(name).name, run.read(name, "Run reproduce.py again."))
    kept.write("run.json", to_json(record).encode())


def make_table(results: Path) -> str:
    """Return the published runs of a folder as a table in Markdown, without trials.

    Test metrics, or those of the validation where nobody was left to test on.
    """
    labels = (METRICS[name].label for name in SHOWN)
    costs = ("training and validation", "per epoch", "peak memory", "hardware")
    titles = ["run", "judged on (patients / slices)", *labels, *costs]
    rows = [titles, ["---"] * len(titles)]
    for folder in (OwnedFolder(results / name) for name in RUNS if (results / name / "run.json").is_file()):
        r = read_json(folder, "config.json") | read_json(folder, "run.json")
        if r["trial"]:
            continue
        split = "test" if r["test"] else "validation"
        judged = f"{split}, {r['patients'][split]} / {r['slices'][split]}, epoch {r['best_epoch']}"
        metrics = [show_number(r[split][name]) for name in SHOWN]
        cost = [f"{r['seconds']:.0f} s", f"{r['seconds_per_epoch']:.2f} s", f"{r['peak_memory_gib']:.1f} GiB"]
        rows.append([r["title"], judged, *metrics, *cost, f"{r['hardware']}, torch {r['versions']['torch']}"])
    if len(rows) == 2:
        return "No run has been reproduced on the published data with this version yet."
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
