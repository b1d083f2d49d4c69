"""Kill, fill, cut and falsify: is anything lost, taken for what it is not, or a traceback; is a user's file touched?

    python -m benchmarks.faults [--every 1] [--limits 30] [--kills 200] [--damages 1500] [--scans 2000] [--jobs 2]

Runs the scripts on a few tiny slices in a temporary folder, each in a forked process: killed before each operation that
changes a file, and half-way through what it writes; with limits on a file's size, as on a full disk; at random times.
Then damages every file that is read back (faults_reading.py). Prints a table; exit code 1 if anything is wrong.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

import cross_validate
import train_model
from benchmarks import faults_reading
from benchmarks.faults_process import Limit, Watch, forked
from dataset import published
from reporting import panels
from scans.scan import file_ending
from storage.run_folder import RunFolder
from utils import TEMPORARY, run_script

PATIENTS, SLICES = 4, 2
USER_FILES = [
    f"{folder}/{name}"
    for folder in ("run", "run/models", "run/plots", "run/export", "run/previous", "run/fold_1", "run/fold_1/models")
    for name in ("mine.txt", "best.bin", ".mine.1.tmp")
]
BAD = ("lost", "accepted wrongly", "tracebacks", "touched")  # the last: files of the user
COLUMNS = ("faults", "went on", "one message", *BAD)
NETWORKS = {".pt": lambda path: torch.load(path, weights_only=True), ".safetensors": faults_reading.load_network}
TINY = ("--data", "../patients", "--device", "cpu", "--width", "1", "--batch-size", "4")


class Scenario(NamedTuple):
    """A command, and those that prepare the folder `run` for it; paths are relative to the folder of a case."""

    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    replaces: bool = False  # the run that is there, once a new epoch is finished


def train(*options: str, epochs: int = 2) -> tuple[str, ...]:
    return ("train_model", "--run", "run", *TINY, "--epochs", str(epochs), *options)


PROCESS = ("process_models", "--run", "run")
TEST = ("test_model", "--run", "run", "--device", "cpu")
EXPORT = ("export_model", "--run", "run", "--formats", "safetensors", "torch_export")
SCENARIOS = {
    "train": Scenario(train()),
    "train --keep 1": Scenario(train("--keep", "1", epochs=3)),
    "train --overwrite": Scenario(train("--overwrite", "--seed", "2"), (train(), PROCESS), replaces=True),
    "train --resume": Scenario(("train_model", "--run", "run", "--resume", "--epochs", "2"), (train(epochs=1),)),
    "process": Scenario(PROCESS, (train(),)),
    "test": Scenario(TEST, (train(), PROCESS)),
    "export": Scenario(EXPORT, (train(),)),
    "download": Scenario(("download_data", "--from", "../archive.zip", "--out", "run/kaggle_3m")),
    "cross-validation": Scenario(("cross_validate", "--folds", "2", "--run", "run", *TINY, "--epochs", "1")),
}
KILLED = ("train", "train --keep 1", "train --overwrite", "process", "test", "export", "download", "cross-validation")
LIMITED = ("train", "train --resume", "process", "test")


def call(command: Iterable[str], fault: Callable[[], None] = lambda: None) -> None:
    """Run a script in this process: without clocks, so that its files are the same each time, and without drawing."""
    script, *arguments = command
    torch.set_num_threads(1)
    train_model.time = SimpleNamespace(monotonic=lambda: 0.0)
    train_model.peak_memory = lambda device: 0
    panels.draw_panel = lambda *_: Figure()
    Figure.savefig = lambda figure, file, format, **options: file.write("<svg/>" if format == "svg" else b"drawing")
    cross_validate.call_script = lambda name, *given: importlib.import_module(name.removesuffix(".py")).main(
        [str(argument) for argument in given]
    )
    if script == "download_data":
        published.PATIENTS_FILE = Path("../patients.csv").resolve()
    fault()
    run_script(lambda: importlib.import_module(script).main(arguments))


# --- Folders ---------------------------------------------------------------------------------------------------


def write_data(home: Path) -> None:
    """Write a few patients of noise with a rectangle of tumour, a zip of them, and the list that describes them."""
    random_numbers = np.random.default_rng(0)
    for patient in (f"SYNTH_T_{number}" for number in range(PATIENTS)):
        folder = home / "patients" / patient
        folder.mkdir(parents=True)
        for number in range(SLICES):
            image = random_numbers.integers(0, 60, (256, 256, 3), dtype=np.uint8)
            mask = np.zeros((256, 256), np.uint8)
            mask[60:120, 80:150] = 255 * (number > 0)
            image[mask > 0] += 150
            Image.fromarray(image).save(folder / f"{patient}_{number}.tif")
            Image.fromarray(mask).save(folder / f"{patient}_{number}_mask.tif")
    rows = [f"SYNTH_T_{number},{SLICES},{int(number < 3)}\n" for number in range(PATIENTS)]
    (home / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    shutil.make_archive(str(home / "archive"), "zip", home, "patients")


def prepare(home: Path, name: str) -> tuple[Path, dict[str, str], int]:
    """Return the folder before a scenario, made when first needed; the files after it without a fault; operations."""
    template, result = home / f"{name} before", home / f"{name} after.json"
    if not result.exists():
        for file in USER_FILES:
            (template / file).parent.mkdir(parents=True, exist_ok=True)
            (template / file).write_text(f"work of the user in {file}")
        run_all(template, *SCENARIOS[name].before)
        case, watch = copy(template, home), Watch(0)

        def count() -> None:
            call(SCENARIOS[name].command, watch)
            print("operations", watch.count, *sys.modules)

        code, text = forked(case, count)
        if code:
            sys.exit(f"{name} failed without any fault\n{text}")
        operations, *modules = text.partition("\noperations ")[2].split()
        for module in modules:  # so that no later process has to import what the scripts import on the way
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        result.write_text(json.dumps([contents(case), int(operations)]))
    return template, *json.loads(result.read_text())


def run_all(folder: Path, *commands: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    for command in commands:
        code, text = forked(folder, lambda command=command: call(command))
        if code:
            sys.exit(f"{command} failed\n{text}")


def copy(template: Path, home: Path) -> Path:
    case = home / f"case {os.getpid()}"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(template, case)
    return case


def contents(case: Path) -> dict[str, str]:
    """Return the digest of every file, without locks.

    Of a manifest only the names count, since it may remember an earlier try; of a network its tensors and values, since
    the bytes depend on which values are one object, and on the order in which safetensors writes its metadata.
    """
    found = {}
    for path in sorted(path for path in case.rglob("*") if path.is_file() and not path.name.endswith("lock")):
        content = path.read_bytes()
        if path.name == "manifest.json":
            content = json.dumps(sorted(json.loads(content)["files"])).encode()
        elif path.suffix in NETWORKS:
            with contextlib.suppress(Exception):  # damaged: then it differs in any case
                content = repr(faults_reading.plain(NETWORKS[path.suffix](path))).encode()
        found[path.relative_to(case).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def epochs(found: dict[str, str]) -> set[str]:
    return {digest for name, digest in found.items() if Path(name).match("epoch_[0-9]*.pt")}


# --- Campaigns -------------------------------------------------------------------------------------------------


def strike(home: Path, name: str, fault: Callable[[], None]) -> Counter:
    """Let a fault happen in a scenario, then call the command again; with --resume where its message says so."""
    scenario = SCENARIOS[name]
    template, expected, _ = prepare(home, name)
    case, before = copy(template, home), contents(template)
    code, text = forked(case, lambda: call(scenario.command, fault))
    after = contents(case)
    first, count = text.strip().rpartition("\n")[2], Counter(faults=1)
    clear = code in (0, -signal.SIGKILL) or (code == 1 and text.count("error: ") == 1)
    new_epoch = bool(epochs(after) - epochs(before))
    count["lost"] += not (epochs(before) <= epochs(after) or (scenario.replaces and new_epoch))

    code, text = forked(case, lambda: call(scenario.command))
    if code == 2 and "--resume" in text:
        code, text = forked(case, lambda: call(("train_model", "--run", "run", "--resume")))
    end = contents(case)
    clear = clear and (code == 0 or (code in (1, 2) and text.count("error: ") == 1))
    count["went on"] += code == 0 and end == expected
    count["one message"] += code != 0 and clear
    count["lost"] += code == 0 and end != expected
    count["tracebacks"] += not clear
    count["touched"] += any(each.get(file) != before[file] for file in USER_FILES for each in (after, end))
    if count["went on"] != 1 or any(count[kind] for kind in BAD):
        differs = sorted(file for file in end.keys() | expected.keys() if end.get(file) != expected.get(file))
        print(f"{name}, {fault}: {first}\n  {differs[:8]} {dict(count)}, exit code {code}\n{text[-600:]}", flush=True)
    return count


def kill_at_random(home: Path, kills: int, seed: int) -> Counter:
    """Kill one training again and again; the weights after it must be those of a training without interruption."""
    chance, count, known = random.Random(seed), Counter(faults=kills), {}
    case = home / f"random {seed}"
    (case / "run").mkdir(parents=True)
    (case / "run" / "mine.txt").write_text("mine")
    for _ in range(kills):
        resume = ("train_model", "--run", "run", "--resume", "--epochs", "100000")
        command = resume if epochs(contents(case)) else train(epochs=100000)
        code, text = forked(case, lambda command=command: call(command), kill_after=chance.uniform(0.05, 1.5))
        found = {name: digest for name, digest in contents(case).items() if Path(name).match("epoch_*.pt")}
        count["tracebacks"] += code != -signal.SIGKILL
        count["lost"] += bool(known.items() - found.items())
        count["in a write"] += any(case.rglob(f".*{TEMPORARY}"))
        known = found
        if code != -signal.SIGKILL:
            print(f"random kill: exit code {code}\n{text}")
    last = RunFolder(case / "run").newest_epoch() + 1
    whole = case / "without"
    whole.mkdir()
    resume = ("train_model", "--run", "run", "--resume", "--epochs", str(last))
    forked(case, lambda: call(resume if known else train(epochs=last)))
    forked(whole, lambda: call((*train(epochs=last), "--data", "../../patients")))
    same = [torch.load(each / "run" / "models" / f"epoch_{last}.pt")["weights"] for each in (case, whole)]
    equal = all(torch.equal(one, other) for one, other in zip(*(weights.values() for weights in same), strict=True))
    count["went on"] += kills * equal
    count["lost"] += not equal
    count["touched"] += (case / "run" / "mine.txt").read_text() != "mine"
    return count


def apart(home: Path, work: Callable[..., Counter], *given: Any) -> Counter:
    """Return what some work in a process of its own counts; a crash counts as a traceback."""
    code, text = forked(home, lambda: print(json.dumps(work(*given))))
    *notes, last = text.strip().splitlines() or [""]
    print("\n".join(notes) if code == 0 else f"{given}: exit code {code}\n{text}", flush=True)
    return Counter(json.loads(last)) if code == 0 else Counter(faults=1, tracebacks=1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="kill at each N-th file operation only")
    parser.add_argument("--scripts", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="(all)")
    parser.add_argument("--limits", type=int, default=30, help="sizes of a full disk (%(default)s)")
    parser.add_argument("--kills", type=int, default=200, help="at random times (%(default)s)")
    parser.add_argument("--damages", type=int, default=1500, help="of files that are read back (%(default)s)")
    parser.add_argument("--scans", type=int, default=2000, help="mutated (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        write_data(home)
        tasks = list(plan(home, args))
        table: dict[str, Counter] = {}
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
            for row, count in [(row, pool.submit(work, home, *given)) for row, work, *given in tasks]:
                table.setdefault(row, Counter()).update(count.result())
                print(f"{sum(count['faults'] for count in table.values())} faults", end="\r", flush=True)
    print(f"{'':30}" + "".join(f"{column:>18}" for column in COLUMNS))
    for row, count in (table | {"all": sum(table.values(), Counter())}).items():
        print(f"{row:30}" + "".join(f"{count[column]:18,}" for column in COLUMNS))
    if any(count[kind] for count in table.values() for kind in BAD):
        sys.exit("not all is as it should be")


def plan(home: Path, args: argparse.Namespace) -> Iterable[tuple]:
    """Yield (row of the table, function, its arguments)."""
    for name in (name for name in KILLED if name in args.scripts):
        for operation in range(1, prepare(home, name)[2] + 1, args.every):
            yield f"SIGKILL, {name}", strike, name, Watch(operation)
    for name in (name for name in LIMITED if name in args.scripts and args.limits):
        prepare(home, name)
        for size in np.geomspace(100, 2_000_000, args.limits):
            yield f"full disk, {name}", strike, name, Limit(int(size))
    for seed in range(0, args.kills, 25):
        yield "SIGKILL at random", kill_at_random, min(25, args.kills - seed), args.seed + seed
    if args.damages:
        run = home / "finished" / "run"
        run_all(run.parent, train(), PROCESS, TEST, EXPORT)
        for name, count in share(args.damages, faults_reading.READERS):
            yield f"damaged {name}", apart, faults_reading.damage, run, name, count, args.seed
    if args.scans:
        scans = faults_reading.write_scans(home / "scans")
        for ending, count in share(args.scans, sorted({file_ending(path) for path in scans})):
            yield f"mutated {ending}", apart, faults_reading.read_mutated, scans, ending, count, args.seed


def share(total: int, names: Collection[str]) -> Iterable[tuple[str, int]]:
    """Yield each name with its share of the total."""
    return ((name, (total + number) // len(names)) for number, name in enumerate(names))


if __name__ == "__main__":
    main()
