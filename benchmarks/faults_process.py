"""Forked processes, and the faults that befall them: a kill at a file operation, a limit on the size of a file."""

import builtins
import functools
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPERATIONS = ("replace", "rename", "remove", "unlink", "mkdir", "rmdir", "symlink", "truncate")  # of `os`
WRITES = (1, 4, 16, 64, 256, 1024)  # that count, of those of a file; a checkpoint has a thousand


def forked(folder: Path, work: Callable[[], Any], kill_after: float = 0) -> tuple[int, str]:
    """Do some work in a forked process in this folder. Returns its exit code, -9 if it was killed, and its output."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.close(reader)
        code = 70
        try:
            os.chdir(folder)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115, for the rest of the process
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.dont_write_bytecode = True
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writer)
    with open(reader, errors="replace") as output:
        if kill_after:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@dataclass
class Watch:
    """Counts the operations of this process that change files or folders, and kills it at one of them; 0 only counts.

    What is killed while it writes has written half of it.
    """

    at: int
    count: int = 0

    def __call__(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self.watched(getattr(os, name)))
        builtins.open = io.open = functools.partial(self.open, io.open)

    def watched(self, function: Callable) -> Callable:
        def counted(*arguments: Any, **options: Any) -> Any:
            if function.__name__ != "mkdir" or not os.path.isdir(arguments[0]):
                self.step(f"{function.__name__} {arguments}")
            return function(*arguments, **options)

        return counted

    def open(self, original: Callable, path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, int) or not set(mode) & set("wax+"):
            return original(path, mode, *arguments, **options)
        if "a" not in mode or not os.path.exists(path):
            self.step(f"open {path}")
        file = original(path, mode, *arguments, **options)
        write, calls = file.write, 0

        def counted(content: Any) -> int:
            nonlocal calls
            calls += 1
            if calls in WRITES:
                self.step(f"write {path}", lambda: (write(content[: len(content) // 2]), file.flush()))
            return write(content)

        file.write = counted
        return file

    def step(self, what: str, half: Callable[[], Any] = lambda: None) -> None:
        self.count += 1
        if self.count == self.at:
            half()
            os.write(2, f"killed at {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Limit:
    """Lets no file of this process grow beyond `size` bytes, as on a full disk."""

    size: int

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))
