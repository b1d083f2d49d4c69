"""What several rooms share and none owns: errors the user can fix, atomic writing, tables as text.

It imports no package, so that --help and a mistake in the options answer at once.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd

PROJECT = Path(__file__).resolve().parent
USER_ERROR = 2  # exit codes: an error the user can fix, as in argparse;
SYSTEM_ERROR = 1  # a full disk, a file without write permission;
INTERRUPTED = 130  # Ctrl-C, as shells report it
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
SHOWN_PROBLEMS = 10  # of one folder or file


class UserError(Exception):
    """An error the user can fix. The message names the file, what is wrong with it, and the remedy."""


MISTAKES = (UserError, ModuleNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def run_script(main: Callable[[], None]) -> None:
    """Run the main function of a script. An error the user can fix ends it with one message and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # another class in a notebook, None without a terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name that the terminal cannot show is no error
    try:
        main()
    except KeyboardInterrupt as interrupt:  # its text says how to go on, where that is possible
        print(f"\ninterrupted{f'. {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not (message := _explain(error)):
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USER_ERROR if isinstance(error, MISTAKES) else SYSTEM_ERROR)


def _explain(error: Exception) -> str:
    """Return what to tell a user; "" for an error of the program itself."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        install = f"pip install -r {PROJECT / 'requirements.txt'}"
        remedy = f"Activate the environment ({install}); an optional package: pip install {error.name}"
        return f"{sys.executable} has no package {error.name}. {remedy}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        return "out of memory. Take a smaller --batch-size or --width, or other hardware."
    if isinstance(error, OSError) and (error.filename or error.errno):
        return f"{error.filename or 'input/output'}: {error.strerror}"
    return ""


def run_python(script: str, *arguments: object, log: Path | None = None) -> None:
    """Run a script of this project in a process of its own. A failure ends this one with its exit code.

    log: file to which its output is appended.
    """
    command = [sys.executable, str(PROJECT / script), *map(str, arguments)]
    with open(log, "ab") if log else contextlib.nullcontext() as output:
        code = subprocess.call(command, stdout=output, stderr=output)
    if code:
        print(f"{script} stopped with exit code {code}, see {log or 'above'}.", file=sys.stderr)
        sys.exit(code)


# --- Options ---------------------------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """An argparse type: an integer from 0 up to the largest seed of PyTorch."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 2^63 - 1")
    return number


def positive(number_type: type) -> Callable[[str], int | float]:
    """An argparse type: a finite number greater than 0."""

    def parse(text: str) -> int | float:
        number = number_type(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return number

    parse.__name__ = f"positive {number_type.__name__}"  # argparse shows it when the text is no number at all
    return parse


def fraction(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def k_of_n(text: str) -> tuple[int, int]:
    """An argparse type: the text "2/5", the second of five parts, as numbers."""
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not match or not int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not K/N with 1 <= K <= N and N >= 2, such as 2/5")
    return int(match[1]), int(match[2])


def existing(text: str) -> Path:
    """An argparse type: the path of a file or folder that exists; a wrong one is answered before packages load."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file or folder")
    return path


# --- Files -----------------------------------------------------------------------------------------------------


def refuse_used(folder: Path, overwrite: bool = False) -> None:
    """Raise UserError if an output folder is a file, or holds anything and may not be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file. Name a folder with --out.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty. Name another folder with --out, or add --overwrite.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` at the end of the block; a failure leaves nothing at `path`.

    Raises: UserError if `path` is a file, a link or a folder that is not empty.
    """
    path = Path(os.path.abspath(path))  # has a name, as "." has not
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path}: is there already, with other content. Name another folder.")
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        yield work
        if path.exists():
            path.rmdir()  # not every system renames onto an empty folder
        work.rename(path)
    except OSError as error:
        if str(error.filename or work) == str(work):  # a full disk has none
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears at `path` complete or not at all.

    It is written under a temporary name in the same folder, then renamed. A failure leaves the file that was at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # processes of other machines have our id
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"could not be written: {error.strerror}", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


# --- Tables as text --------------------------------------------------------------------------------------------


def read_csv(path: Path, columns: list[str]) -> "pd.DataFrame":
    """Read a CSV file as text, nothing guessed, with commas or semicolons. The row of index i stands in line i + 2.

    Raises: UserError if it cannot be read, or one of `columns` is missing or has an empty cell.
    """
    import pandas as pd

    expected = f"Save it as CSV in UTF-8{', with the columns ' * bool(columns)}{', '.join(columns)}."
    try:
        content = path.read_bytes()
        separator = ";" if b";" in content.split(b"\n", 1)[0] else ","
        options = {"sep": separator, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
        table = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig", **options).fillna("")  # of short lines
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus values in front for an index
            raise ValueError("its lines hold more values than its first one names columns")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as CSV ({reason}). {expected}") from None
    table = table[table.ne("").any(axis=1)]  # the index still counts blank lines
    if missing := [column for column in columns if column not in table]:
        raise UserError(f"{path}: has no column {', '.join(missing)}. {expected}")
    empty = table[columns].eq("").any(axis=1)
    if empty.any():
        raise UserError(f"{path}, line {empty.idxmax() + 2}: an empty cell. {expected}")
    return table


def to_csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV with six decimals, more than any metric here carries."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def to_markdown(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    titles = list(titles)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (titles, ["---"] * len(titles), *rows))


def to_json(content: Any) -> str:
    """Return nested dicts and lists as JSON. NaN, which JSON lacks, becomes null."""
    text = json.dumps(content, default=lambda value: value.tolist())  # of NumPy
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2) + "\n"


def show_number(value: float | None, form: str = ".3f") -> str:
    """Return a number as text; a dash if it is undefined."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 mask, 2 masks."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe_problems(source: Path, problems: list[str]) -> str:
    """Return one problem unchanged, of several the first ones, one per line, and the number of further ones."""
    if len(problems) == 1:
        return problems[0]
    more = [f"  and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
    listed = [f"  - {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    return "\n".join([f"{source}: {len(problems)} problems", *listed, *more])


def list_few(names: list, most: int = 3) -> str:
    """Return the first names in one line, with dots for further ones."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def cores(quotas: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: those that it is bound to, its quota, and OMP_NUM_THREADS."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # there is no quota: "max"
        quota, period = map(int, (quotas / "cpu.max").read_text().split())
        bound = min(bound, -(-quota // period))
    with contextlib.suppress(ValueError):
        bound = min(bound, int(os.environ.get("OMP_NUM_THREADS", "")))
    return max(1, bound)


def parallel_map(work: Callable[[Any], Any], items: Iterable[Any]) -> list:
    """Return the results of `work` in order, computed by threads on all cores that it may use.

    It gains where OpenCV, SciPy, NumPy or Pillow release Python's lock.
    """
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))
