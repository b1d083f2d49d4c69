"""A folder in which a command replaces, moves and removes only the files that it can prove to have written itself.

manifest.json lists each file with the SHA-256 of its content. A file that is not in it, or whose content is another,
belongs to the user: it is never replaced, and never read as if it were ours.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils import TEMPORARY, UserError, atomic_write, file_lock, leaves_folder, temporary_path, write_text

MANIFEST = "manifest.json"
LOCK = ".manifest.lock"
FORMAT = "lgg-files-1"
DIGEST = re.compile(r"[0-9a-f]{64}")
UNVERIFIED = "verified elsewhere"  # of checkpoints, which carry checksums of their own and are too large to hash twice


def _is_entry(name: str, digests: Any) -> bool:
    """Return whether an entry of a manifest is as this module writes it; a crafted one may lead out of the folder."""
    if leaves_folder(name) or not isinstance(digests, list):
        return False
    return all(isinstance(each, str) and (each == UNVERIFIED or DIGEST.fullmatch(each)) for each in digests)


def _refuse_long(path: Path) -> None:
    """Raise UserError if the file system has no names as long as that of a file, or of a folder that it needs."""
    path = path.absolute()
    there = next((parent for parent in path.parents if os.path.exists(parent)), path.parents[-1])
    missing = path.relative_to(there).parts
    for name in (*missing, temporary_path(path).name):  # under which it is written: longer than its own
        try:
            os.lstat(there / name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{path}: a name too long for this file system. Use a shorter one.") from None


class OwnedFolder:
    """The files below `path` that this project wrote. Names are relative, with forward slashes."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def files(self) -> list[str]:
        """Return the names of our files that exist and are unchanged, in the order in which they were first written."""
        return [name for name in self._read_manifest() if self._is_ours(name)]

    def lists(self, name: str) -> bool:
        """Return whether the manifest lists a file, which may be gone or changed."""
        return name in self._read_manifest()

    def refuse_foreign(self, *names: str) -> None:
        """Raise UserError if a file of one of these names exists and is not ours, or if a name is too long."""
        foreign = [str(self.path / name) for name in names if self._exists(name) and not self._is_ours(name)]
        if foreign:
            few = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
            raise UserError(
                f"{few}: is there already, and was not written by this project or has been changed since. "
                "Move it, or name another folder."
            )

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically. Raises: UserError if it would replace a file that is not ours."""
        with self._locked():
            self._record(name, hashlib.sha256(content).hexdigest())
            self._remove_temporaries(name)
            with atomic_write(self.path / name) as file:
                file.write(content)

    def claim(self, name: str) -> Path:
        """Return the path of a file that the caller writes atomically and verifies itself, recorded as ours."""
        with self._locked():
            self._record(name, UNVERIFIED)
        return self.path / name

    def read(self, name: str, remedy: str) -> bytes:
        """Return the content of one of our files. Raises: UserError if it is missing, damaged or has been changed."""
        path = self.path / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. {remedy}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}). {remedy}") from None
        if hashlib.sha256(content).hexdigest() not in self._read_manifest().get(name, []):
            raise UserError(f"{path}: is damaged, or has been changed since it was written. {remedy}")
        return content

    def remove(self) -> None:
        """Remove all our files, the last written first, the manifest, and folders that are empty then."""
        manifest = self._read_manifest()
        for name in reversed(manifest):
            if self._is_ours(name):
                (self.path / name).unlink()
        self._forget(manifest)

    def _forget(self, names: Iterable[str]) -> None:
        """Remove the manifest, and the folders of these files as far as they are empty."""
        self._remove_temporaries(MANIFEST)
        for name in (MANIFEST, LOCK):
            (self.path / name).unlink(missing_ok=True)
        for folder in sorted({(self.path / name).parent for name in names}, reverse=True):
            with contextlib.suppress(OSError):  # not empty, or gone
                folder.rmdir()

    def move_to(self, other: "OwnedFolder") -> None:
        """Move all our files into another folder, which owns them then. Can be repeated if it was interrupted."""
        manifest = self._read_manifest()
        names = self.files()
        with other._locked():
            other._write_manifest(other._read_manifest() | {name: manifest[name] for name in names})
        for name in names:
            target = other.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path / name, target)
        self._forget(manifest)

    def remove_temporaries(self) -> None:
        """Remove the half-written files of a process that was killed; claimed files must not be written meanwhile."""
        if (self.path / MANIFEST).exists():
            with self._locked():
                for name in self._read_manifest():
                    self._remove_temporaries(name)

    def _remove_temporaries(self, name: str) -> None:
        path = self.path / name
        pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+{re.escape(TEMPORARY)}")
        if path.parent.is_dir():
            for entry in path.parent.iterdir():
                if pattern.fullmatch(entry.name):
                    entry.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing here: training and process_models.py may run at the same time.

        What is half-written inside of the block is therefore of a process that was killed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with file_lock(self.path / LOCK):
            self._remove_temporaries(MANIFEST)
            yield

    def _record(self, name: str, digest: str) -> None:
        """Add a file to the manifest before it is written: whether or not it then is, what lies there is ours."""
        self.refuse_foreign(name)
        manifest = self._read_manifest()
        known = manifest.get(name, [])
        there = [] if digest == UNVERIFIED or not self._exists(name) else [self._digest(name)]
        if known[-1:] != [digest]:
            self._write_manifest(manifest | {name: [*there, digest]})

    def _exists(self, name: str) -> bool:
        path = self.path / name
        _refuse_long(path)
        return path.is_symlink() or path.exists()

    def _is_ours(self, name: str) -> bool:
        path = self.path / name
        digests = self._read_manifest().get(name)
        if not digests or path.is_symlink() or not path.is_file():
            return False
        return UNVERIFIED in digests or self._digest(name) in digests

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self.path / name).read_bytes()).hexdigest()

    def _read_manifest(self) -> dict[str, list[str]]:
        path = self.path / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            files = content["files"]
            if not isinstance(files, dict) or not all(map(_is_entry, files, files.values())):
                raise ValueError("it is no list of files below it with their SHA-256")
            return files
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}). It lists the files that this project wrote. Restore it, or name "
                "another folder."
            ) from None

    def _write_manifest(self, files: dict[str, list[str]]) -> None:
        write_text(self.path / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=1) + "\n")
