"""A data folder that appears complete or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from utils import UserError, file_lock

LOCK = "in-use.lock"


class FolderInUse(UserError):
    """Another process is making the same folder."""


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` at the end of the block; after a failure nothing is left of it.

    It is built in a hidden folder beside `folder`. The system releases the lock in there when the process ends,
    however it ends: what a killed process left is told from a folder in use, and the next call removes it.

    Raises: FolderInUse if another process is making the same folder; OSError that names `folder` if the disk is full or
        read-only, or `folder` is not empty at the end.
    """
    folder = Path(os.path.abspath(folder))  # has a name, as "." has not
    work = folder.with_name(f".{folder.name}-unfinished")
    built = work / folder.name
    missing = [parent for parent in work.parents if not parent.exists()]
    try:
        with contextlib.ExitStack() as stack:
            work.mkdir(parents=True, exist_ok=True)
            if (found := os.listdir(work)) and LOCK not in found:
                raise UserError(f"{work}: is in the way, and was not made by this project. Move it.")
            try:
                lock = stack.enter_context(file_lock(work / LOCK, wait=False))
                if not os.path.samestat(os.fstat(lock.fileno()), os.stat(work / LOCK)):
                    raise BlockingIOError  # it has just removed its lock
            except (BlockingIOError, FileNotFoundError):
                raise FolderInUse(f"{folder}: another process is making it. Wait for it.") from None
            for each in (work, built):  # the last is called first: the lock goes last
                stack.callback(shutil.rmtree, each, ignore_errors=True)
            shutil.rmtree(built, ignore_errors=True)
            built.mkdir()
            yield built
            if folder.exists():
                folder.rmdir()  # not every system renames onto an empty folder
            built.rename(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            for parent in missing:
                parent.rmdir()
        if not isinstance(error, OSError) or error.errno is None:
            raise
        place = str(error.filename2 or error.filename or work)
        raise OSError(error.errno, error.strerror, str(folder) if place.startswith(str(work)) else place) from None
