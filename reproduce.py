"""Repeat a published run: train, process and test it, and keep what may be published in results/.

    python reproduce.py full_bilinear
    python reproduce.py full_bilinear --split split.csv     # a set that lacks the test patients
    python reproduce.py full_bilinear --width 4 --epochs 2  # a quick proof that it would work
    python reproduce.py table                               # README's table from results/*/run.json

Called again after it was cut off, a run goes on after its last checkpoint (the plain loop begins anew); a finished one
is only collected again. What train_model.py and the others write is in runs/RUN. In results/RUN are: results.csv and
epochs.csv, metrics.json (if there were patients to test on), loss.png, iou.png and the other plots that show no
patient, config.json, log.txt, and run.json with times, memory, versions and figures; without paths of this machine.

A run on another set, or with --epochs or --width, is marked as a proof in run.json and never enters the table.
The weights of its best epoch in half the bytes, for which only the folder of the run is needed:

    python export_model.py --run runs/full_bilinear --formats safetensors --half --out weights --name full_bilinear
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import data
import pandas as pd
import runs

from dataset.folder import find_folder
from dataset.published import published_patients
from reporting.model_card import FIGURES
from storage import checkpoints
from utils import UserError, positive, run_script, to_json, write_text

HERE = Path(__file__).resolve().parent
FULL = {"train": 2769, "validation": 756, "test": 404}  # slices
SUBSET = {"train": 178, "validation": 45, "test": 113}
KEEP = ("--keep", "3")  # weights of the best epochs; 94 of them would fill 12 GB
TEXTS = ("results.csv", "epochs.csv", "metrics.json", "config.json", "log.txt")
PLOTS = ("loss.png", "iou.png", "bland_altman.png", "dice_area.png")  # those of plots/ that show no patient
STATE = "reproduce.json"  # in the folder of a run: its options, and when each process that trained it began and ended
WALL = "from the start of each training process to its last checkpoint on the disk"
OUTSIDE = re.compile(r"(?<![\w.:/-])(?:\.\.)?/(?:[\w.@+-]+/)*(?=[\w.@+-])")  # of paths with / or ../, all but the end
BEGIN, END = "<!-- written by: python reproduce.py table -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Published:
    """A run as it is published.

    Attributes:
        title: what the table calls it.
        slices: of each split. A set from which the test patients are missing counts as the same.
        options: of train_model.py, or of benchmarks/naive.py, that are not the defaults.
    """

    title: str
    slices: dict[str, int]
    options: tuple[str, ...]
    naive: bool = False


RUNS = {
    "full_bilinear": Published("full set, bilinear, fast", FULL, ("--bilinear", "--mode", "fast")),
    "full_transposed_exact": Published("full set, transposed, exact", FULL, ("--mode", "exact")),
    "full_transposed_fast": Published("full set, transposed, fast", FULL, ("--mode", "fast")),
    "naive_full": Published("full set, bilinear, plain loop", FULL, ("--bilinear", "--epochs", "3"), naive=True),
    **{
        f"twelve_seed_{seed}": Published(f"12 patients, transposed, seed {seed}", SUBSET, ("--seed", str(seed)))
        for seed in (1, 2, 3)
    },
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", choices=(*RUNS, "table"), metavar="RUN", help=f"{', '.join(RUNS)}; or table")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent, as of train_model.py")
    add("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split, when a run is begun")
    add("--epochs", type=positive(int), help="for a quick proof")
    add("--width", type=positive(int), help="for a quick proof")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (auto: CUDA, else MPS, else the CPU)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs themselves go (%(default)s)")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where what is kept goes (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.run == "table":
        readme = HERE / "README.md"
        write_text(readme, fill(readme.read_text(encoding="utf-8"), table(args.results)))
        print(f"{readme.name}: the table is that of {args.results}")
        return
    published, run, target = RUNS[args.run], args.runs / args.run, args.results / args.run
    changed = [f"--{name} {getattr(args, name)}" for name in ("epochs", "width") if getattr(args, name)]
    options = [*published.options, *(word for change in changed for word in change.split())]
    refuse_other(target / "run.json", options)
    folder = find_folder(args.data)

    if published.naive:
        record = run_naive(run, folder, args, options)
    else:
        train(run, folder, args, options)
        call("process_models.py", "--run", run)
        tested = not data.read_table(run, "test").empty
        if tested:
            call("test_model.py", "--run", run, "--data", folder, "--device", args.device)
        record = describe(run, tested)
    changed += differences(published, record)
    about = {"run": args.run, "title": published.title, "proof": changed, "options": options}
    words = (word if OUTSIDE.sub("", word) == word else Path(word).name for word in sys.argv[1:])
    about["command"] = shlex.join(["python", "reproduce.py", *words])
    collect(run, target, about | record, [folder.resolve(), run.resolve(), run])
    print(f"written to {target}: run.json and what is kept of the run")
    if changed:
        print(f"a proof and not the published run: {', '.join(changed)}")


def refuse_other(path: Path, options: list[str]) -> None:
    """Raise UserError if a run that was begun, or what was kept of one, has other options."""
    if not path.is_file():
        return
    found = read_json(path)["options"]
    if found != options:
        raise UserError(
            f"{path.parent}: holds a run with {' '.join(found) or 'no options'}, not with "
            f"{' '.join(options) or 'none'}. Remove that folder, or name others with --runs and --results."
        )


def read_json(path: Path) -> dict:
    """A record of this script. Raises: UserError when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["options"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Restore it, or remove {path.parent}.") from None
    return content


def differences(published: Published, record: dict) -> list[str]:
    """What else makes this another run than the published one: its data."""
    changed = ["synthetic patients"] * record["synthetic"]
    if record["slices"] not in (published.slices, published.slices | {"test": 0}):
        changed.append(f"{' + '.join(map(str, record['slices'].values()))} slices")
    return changed


# --- Run -------------------------------------------------------------------------------------------------------


def call(script: str, *arguments, log: Path | None = None) -> None:
    """Run a script in a process of its own; what it prints is shown, and appended to `log`. Stop if it fails."""
    command = [sys.executable, HERE / script, *arguments]
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (
        open(log or os.devnull, "a", encoding="utf-8") as file,
        subprocess.Popen(list(map(str, command)), env=os.environ | {"PYTHONPATH": paths}, **how) as process,
    ):
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    if process.returncode:
        raise UserError(f"{script} stopped (exit code {process.returncode}, see above). Called again, this goes on.")


def train(run: Path, folder: Path, args: argparse.Namespace, options: list[str]) -> None:
    """Begin the training, go on with it, or pass over it when it is finished."""
    models = runs.models_folder(run)
    where = ["--run", run, "--data", folder, "--device", args.device, *KEEP]
    if (models / checkpoints.RESUME).is_file():
        if not (run / STATE).is_file():
            raise UserError(f"{run}: holds a run that was not begun here. Remove it, or name another --runs.")
        refuse_other(run / STATE, options)
        state = close(run)
        if max(checkpoints.epoch_files(models)) == runs.read_config(run)["settings"]["epochs"]:
            print(f"trained already: {run}")
            return
        more = ["--resume"]
    else:
        state = {"options": options, "sessions": []}
        (run / "log.txt").unlink(missing_ok=True)
        more = [*options, *(["--split", args.split] if args.split else []), *only_subset(args.run, folder, run)]
        more.append("--overwrite")
    state["sessions"].append({"began": time.time(), "ended": None})
    write_text(run / STATE, to_json(state))
    call("train_model.py", *where, *more, log=run / "log.txt")
    close(run)


def close(run: Path) -> dict:
    """The state of a run, its last session ended: with the last checkpoint that was written, whatever came then."""
    state = read_json(run / STATE)
    last = state["sessions"][-1]
    if last["ended"] is None:
        saved = runs.models_folder(run) / checkpoints.RESUME
        last["ended"] = max(last["began"], saved.stat().st_mtime)
        write_text(run / STATE, to_json(state))
    return state


def only_subset(name: str, folder: Path, run: Path) -> list:
    """The option that takes the 12 patients alone, for a run on them in a folder that holds others too."""
    twelve = set(published_patients(subset=True))
    if RUNS[name].slices != SUBSET or not twelve < {path.name for path in folder.iterdir() if path.is_dir()}:
        return []
    write_text(run / "patients.txt", "\n".join(sorted(twelve)) + "\n")
    return ["--patients", run / "patients.txt"]


def run_naive(run: Path, folder: Path, args: argparse.Namespace, options: list[str]) -> dict:
    """Run the plain loop from the beginning; the record of it."""
    log = run / "log.txt"
    write_text(run / STATE, to_json({"options": options}))
    log.unlink(missing_ok=True)
    split = ["--split", args.split] if args.split else []
    began = time.monotonic()
    call("benchmarks/naive.py", "--data", folder, "--run", run, "--device", args.device, *split, *options, log=log)
    wall = time.monotonic() - began
    found = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    record = {name: found[name] for name in ("synthetic", "patients", "slices", "hardware", "versions")}
    return record | times([wall], "the whole process", found["epochs"], [found["peak_memory_gib"]])


# --- Describe --------------------------------------------------------------------------------------------------


def describe(run: Path, tested: bool) -> dict:
    """The record of a finished run."""
    config, epochs = runs.read_config(run), pd.read_csv(run / "epochs.csv")
    best = checkpoints.best_epoch(epochs)
    chosen = epochs.loc[epochs["epoch"] == best].iloc[0]
    names = ("loss", *FIGURES)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8")) if tested else {}
    sessions = close(run)["sessions"]
    spent = [session["ended"] - session["began"] for session in sessions]
    return {
        **{name: config[name] for name in ("synthetic", "patients", "slices", "hardware", "versions", "settings")},
        **times(spent, WALL, epochs["seconds"], epochs["peak_memory_gib"]),
        "best_epoch": best,
        "validation": {name: float(chosen[f"validation_{name}"]) for name in names},
        "test": {name: metrics[name] for name in names} if tested else None,
    }


def times(sessions: list[float], counted: str, epochs: list[float], peaks: list[float]) -> dict:
    """Seconds and memory, and what they count."""
    return {
        "wall_seconds": sum(sessions),
        "wall_counts": counted,
        "sessions": len(sessions),
        "interrupted": len(sessions) > 1,
        "epochs": len(epochs),
        "seconds_an_epoch": float(pd.Series(epochs).median()),
        "peak_memory_gib": max(peaks),
        "peak_memory_counts": "tensors on the CUDA device; elsewhere what was resident of the process",
    }


def collect(run: Path, target: Path, record: dict, folders: list[Path]) -> None:
    """Copy what may be published, without paths of this machine."""
    for name in TEXTS:
        if (run / name).is_file():
            write_text(target / name, anonymous((run / name).read_text(encoding="utf-8"), folders))
    for name in PLOTS:
        if (run / "plots" / name).is_file():
            shutil.copyfile(run / "plots" / name, target / name)
    write_text(target / "run.json", anonymous(to_json(record), folders))


def anonymous(text: str, folders: list[Path]) -> str:
    """The text without the build of this machine's system, and with paths outside of the project cut to their ends."""
    text = text.replace(platform.platform(), f"{platform.system()} {platform.machine()}")
    for folder in folders:  # whose names may hold anything
        text = text.replace(str(folder), folder.name)
    return OUTSIDE.sub("", text)


# --- README ----------------------------------------------------------------------------------------------------


def table(results: Path) -> str:
    """The published runs of a folder as a table in Markdown; proofs are passed over."""
    records = [read_json(results / name / "run.json") for name in RUNS if (results / name / "run.json").is_file()]
    rows = [row(record) for record in records if not record["proof"]]
    if not rows:
        return "No run has been reproduced on the published data with this version yet."
    titles = (
        "run", "judged on (patients / slices)", "IoU over slices, empty = 1", "predicting nothing",
        "IoU over tumour slices", "Dice per patient", "training", "an epoch", "peak memory", "on",
    )  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows))


def row(record: dict) -> list[str]:
    """A line of the table: test figures, or those of the validation where there was nobody to test on."""
    split = "test" if record.get("test") else "validation"
    figures = record.get(split)
    shown = ["not judged", "", "", "", ""]
    if figures:
        judged = f"{split}, {record['patients'][split]} / {record['slices'][split]}, epoch {record['best_epoch']}"
        names = ("iou", "all_empty", "tumour_iou", "patient_dice")
        shown = [judged, *("undefined" if figures[name] is None else f"{figures[name]:.3f}" for name in names)]
    parts = f" in {record['sessions']} parts" if record["interrupted"] else ""
    return [
        record["title"],
        *shown,
        f"{record['wall_seconds']:.0f} s{parts}",
        f"{record['seconds_an_epoch']:.2f} s",
        f"{record['peak_memory_gib']:.1f} GiB",
        f"{record['hardware']}, torch {record['versions']['torch']}",
    ]


def fill(readme: str, content: str) -> str:
    """The text with what is between the two marks replaced. Raises: UserError when they are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md: lacks the lines {BEGIN} and {END}. Restore them.")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    run_script(main)
