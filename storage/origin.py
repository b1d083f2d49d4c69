"""Where a run comes from: the command that started it, and the commits of this project that trained it."""

import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from storage.run_folder import RunFolder

PROJECT = Path(__file__).resolve().parents[1]


def describe_origin(run: RunFolder, given: Iterable[object], resumed: bool) -> dict[str, str]:
    """Return `command`, as it can be pasted, and `commit`, several separated by commas; both go into config.json.

    Args:
        given: the arguments of train_model.py.
        resumed: keep the command that the run was started with, and the commits before this one.
    """
    before = run.read_config() if resumed else {}
    command = shlex.join(["python", "train_model.py", *map(str, given)])
    commits = [*before.get("commit", "").split(", "), commit()]
    return {"command": before.get("command", command), "commit": ", ".join(filter(None, dict.fromkeys(commits)))}


def commit() -> str:
    """Return the commit of this checkout, with "changed" behind it if its files were; "" if it is none, or without git.

    A copy of the project inside of another checkout has no commit of its own.
    """
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", PROJECT, *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + (" changed" if changed else "")
