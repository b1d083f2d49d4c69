"""What several rooms share and none owns: errors the user can fix, atomic writing, text of tables.

It imports no package, so that --help and a mistake in the options answer at once.
"""

import argparse
import contextlib
import csv
import errno
import importlib.util
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pandas as pd

USER_ERROR = 2  # exit codes: an error the user can fix, as argparse has it;
SYSTEM_ERROR = 1  # a disk that is full, a file that may not be written;
SIGNALLED = 128  # plus the number of the signal: stopped by Ctrl-C (130) or by SIGTERM (143), after saving
PASSED_ON = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
TEMPORARY = ".tmp"  # ends the name of a file that is being written
IMPORTED_AS = {"opencv-python": "cv2", "Pillow": "PIL", "scikit-learn": "sklearn"}  # other packages by their own names
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
SHOWN_PROBLEMS = 10  # of one folder or file


class UserError(Exception):
    """An error the user can fix. The message names the file, what is wrong with it, and the remedy."""


def run_script(main: Callable[[], None]) -> None:
    """Run the main function of a script. An error the user can fix ends it with one message and exit code 2.

    Characters that the terminal cannot show are printed as escapes, such as \\xfc: a name must not end the program.
    """
    if signal.getsignal(signal.SIGINT) is _interrupted:  # of parse_first
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # it is another class in a notebook, None without a terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        print(f"error: {error.filename}: {error.strerror}. Name another place to write to.", file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"error: {error.filename or 'input/output'}: {error.strerror}", file=sys.stderr)
        sys.exit(USER_ERROR if error.errno == errno.ENAMETOOLONG else SYSTEM_ERROR)
    except (MemoryError, RuntimeError) as error:  # of NumPy; of PyTorch on each kind of hardware
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        print("error: out of memory. Take a smaller --batch-size or --width, or other hardware.", file=sys.stderr)
        sys.exit(SYSTEM_ERROR)
    except KeyboardInterrupt:
        _interrupted()


def _interrupted(number: int = signal.SIGINT, frame: object = None) -> None:
    print("\ninterrupted", file=sys.stderr)
    sys.exit(SIGNALLED + number)


def parse_first(parse: Callable[[], Any]) -> None:
    """Parse the options of a script: before it imports PyTorch, so that --help and mistakes answer at once.

    Packages that are missing end it here too, with one message.
    """
    run_script(parse)
    listed = Path(__file__).with_name("requirements.txt")
    packages = re.findall(r"^[\w-]+", listed.read_text(encoding="utf-8"), re.MULTILINE)
    if missing := [name for name in packages if not importlib.util.find_spec(IMPORTED_AS.get(name, name.lower()))]:
        install = shlex.join([sys.executable, "-m", "pip", "install", "-r", str(listed)])
        lacks = f"error: {sys.executable}: has no {', '.join(missing)}. Activate the environment, or: {install}"
        print(lacks, file=sys.stderr)
        sys.exit(USER_ERROR)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Ctrl-C while the packages are imported
        signal.signal(signal.SIGINT, _interrupted)


def call_script(script: str, *arguments: object) -> None:
    """Run a script of this folder in a process of its own, which gives its memory back; exit if it fails.

    SIGINT, SIGTERM and SIGHUP are passed on to it, and it is waited for. Its exit code is kept.
    """
    child, received = None, []

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        if child and os.name == "posix":  # the console of Windows interrupts both by itself
            child.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in PASSED_ON if signal.getsignal(n) != signal.SIG_IGN}  # as by nohup
    # A process group of its own, so that Ctrl-C in a terminal does not reach it twice, which would abort it
    child = subprocess.Popen([sys.executable, Path(__file__).with_name(script), *map(str, arguments)], process_group=0)
    if received:  # before there was a child
        child.terminate()
    code = child.wait() or (SIGNALLED + received[0] if received else 0)
    code = code if code >= 0 else SIGNALLED - code
    for number, handler in before.items():
        signal.signal(number, handler)
    if code:
        goes_on = " The same command goes on from there." if code > SIGNALLED else ""  # after an error, who knows
        print(f"{script} stopped (exit code {code}, see above).{goes_on}", file=sys.stderr)
        sys.exit(code)


class StopRequest:
    """Remembers the first SIGINT or SIGTERM inside a `with` block, so that a loop can end after a complete step.

    A second signal aborts. The earlier handlers are restored at the end of the block. Calling it returns whether a
    signal has come; `signal` is its number, 0 while there is none.
    """

    def __init__(self):
        self.signal = 0
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        return self.signal != 0

    def _remember(self, number: int, frame: object) -> None:
        self.signal = number
        self._restore()
        print("\nstopping after this step; finished epochs are kept; once more aborts", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def whole_number(text: str) -> int:
    """An argparse type: an integer from 0 up to what PyTorch takes as a seed."""
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


def temporary_path(path: Path) -> Path:
    """Return the name that a file of this process has while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears at `path` complete or not at all.

    It is written under a temporary name in the same folder, forced to the disk, then renamed. A failure leaves
    what was at `path` before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not be written: {error.strerror}", str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def new_folder(path: Path, remedy: str = "Name another folder.") -> Iterator[Path]:
    """Yield an empty folder that becomes `path` at the end of the block; a failure leaves nothing at `path`.

    Raises: UserError if `path` is a file, a link or a folder that is not empty.
    """
    path = Path(os.path.abspath(path))  # has a name, as "." has not
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{path}: is there already, with other content. {remedy}")
    work = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    work.mkdir(parents=True)
    try:
        yield work
        if path.exists():
            path.rmdir()  # not every system renames onto an empty folder
        work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[IO]:
    """Hold a lock for as long as the block lasts; the system releases it when the process ends, however it ends.

    Raises: BlockingIOError if another process holds it and `wait` is not set.
    """
    with open(path, "a+b") as file:
        try:
            if os.name == "nt":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if os.name != "nt" and error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"{path.parent}: its file system cannot lock files ({error.strerror}), so that two processes could "
                    "write there at once. Name a folder on another disk."
                ) from None
            raise BlockingIOError(*error.args) from None  # Windows has another kind
        yield file


# --- Text of tables --------------------------------------------------------------------------------------------


def read_csv(path: Path, columns: list[str]) -> "pd.DataFrame":
    """Read a CSV file as text, nothing guessed.

    Raises: UserError if it cannot be read, or one of `columns` is missing or has an empty cell.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Name a CSV file.") from None
    return parse_csv(content, path, columns)


def parse_csv(content: bytes, path: Path, columns: list[str]) -> "pd.DataFrame":
    """Return the content of a CSV file as `read_csv` does, also of a spreadsheet; `path` is for its messages.

    A row of index i stands in line i + 2.
    """
    import pandas as pd

    comma = ";" if b";" in content.split(b"\n", 1)[0] else ","
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            sep=comma,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,
        ).fillna("")  # of lines that are too short
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much in front for an index
            raise ValueError("its lines hold more values than its first one names columns")
        table = table[table.ne("").any(axis=1)]  # its index counts blank lines
    except (ValueError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as CSV ({reason}). Save it as CSV in UTF-8, with the columns {', '.join(columns)}."
        ) from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)}. Expected columns {', '.join(columns)}.")
    empty = table[columns].eq("").any(axis=1)
    if empty.any():
        raise UserError(f"{path}, line {empty.idxmax() + 2}: an empty cell. Fill in {', '.join(columns)}.")
    return table


def to_csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV; six decimals are more than any metric here carries."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def to_json(content: Any) -> str:
    """Return nested dicts and lists as JSON. NaN, which JSON does not know, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def show_number(value: float | None, form: str = ".3f") -> str:
    """Return a number as text; a dash if it is undefined."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def describe_problems(source: Path, problems: list[str]) -> str:
    """Return one problem as it is; several as a list with one line each."""
    several = f"{source}: {len(problems)} problems\n{list_problems(problems)}"
    return problems[0] if len(problems) == 1 else several


def list_problems(problems: list[str]) -> str:
    """Return the first problems, one per line, and how many more there are."""
    more = [f"  and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
    return "\n".join([*(f"  - {problem}" for problem in problems[:SHOWN_PROBLEMS]), *more])


def leaves_folder(text: str) -> bool:
    """Return whether a relative path of a table or an archive could point outside of its folder, on any system."""
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    return posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts or "\0" in text


is_unsafe_path = leaves_folder


def parallel_map(work: Callable[[Any], Any], items: Iterable[Any]) -> list:
    """Return the result of each call, in order, computed on all cores.

    The work runs in threads: it gains where OpenCV, SciPy, NumPy or Pillow release Python's lock.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))
