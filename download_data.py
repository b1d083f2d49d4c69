"""Get the real data set, check it, and put it where the scripts look for it (lgg-mri-segmentation/kaggle_3m).

    python download_data.py                        # all 110 patients, from Kaggle: 700 MB, no account needed
    python download_data.py --subset               # the same download, but only the 12 patients of the 100 MB run
    python download_data.py --from archive.zip     # a zip or a folder that is here already

The download needs the package kagglehub (pip install kagglehub). What is on the disk already is linked to, not copied.
Nothing is left behind by a download that fails, and a folder that holds anything else is never touched.
"""

import argparse
import errno
import re
import shutil
import signal
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from tqdm import tqdm

import constants
from dataset.folder import find_slices
from dataset.published import NESTED_COPIES, published_patients
from dataset.slices import load_slices
from utils import SIGNALLED, UserError, leaves_folder, list_problems, run_script

HANDLE = "mateuszbuda/lgg-mri-segmentation"  # on Kaggle
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"
CLINICAL = "data.csv"  # genomic clusters and clinical codes; lies among the patient folders
DEEPEST = 3  # levels of folders around the patient folders, the two copies in the archive included
LARGEST_FILE = 4 * 2**20  # bytes; the largest of the set has 0.2 million
STALE = 3600  # seconds; unpacking takes a minute or two
BY_HAND = f"Download {PAGE} in a browser and name the zip: download_data.py --from archive.zip."


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--subset", action="store_true", help="only the 12 patients of the 100 MB run (336 slices)")
    add("--from", dest="source", type=Path, metavar="PATH", help="a zip or folder downloaded already; no network used")
    add("--out", type=Path, default=Path(constants.DATA_DIR), metavar="DIR", help="where to put it (%(default)s)")
    return parser.parse_args()


def stop(number: int, _frame: object) -> None:
    """End on a signal as on Ctrl-C: what is half made is removed on the way out."""
    signal.signal(number, signal.SIG_IGN)  # a second one must not keep it from being removed
    sys.exit(SIGNALLED + number)


def main() -> None:
    args = parse_arguments()
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows lacks the second
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, stop)
    expected = published_patients(args.subset)
    if is_there(args.out, expected, args.subset):
        return
    source = args.source or download()
    if source.is_dir():
        folder = find_copy(source, set(published_patients()))
        print(verify(folder, expected, args.subset))
        with writing(args.out):
            how = place_folder(folder, args.out, expected if args.subset else None)
    else:
        with writing(args.out):
            how = place_archive(source, args.out, expected, args.subset)
    print(f"{args.out}: {how}")
    print("Licence of the images: CC BY-NC-SA 4.0. What to cite: lgg-mri-segmentation/README.md")
    print("Next: python train_model.py" + ("" if args.out == Path(constants.DATA_DIR) else f" --data {args.out}"))


# --- What is there, and where to get it ------------------------------------------------------------------------


def is_there(out: Path, expected: dict[str, int], subset: bool) -> bool:
    """Whether `out` holds these patients and no others. Raises: UserError if it holds anything that is not a link."""
    if not out.is_dir() or not any(out.iterdir()):
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file. Remove it, or name another folder with --out.")
        return False
    try:
        others = sorted(set(_folders(out)) - expected.keys() - NESTED_COPIES)
        if others:
            raise UserError(f"it holds {others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else ""))
        print(verify(out, expected, subset))
    except UserError as error:
        if is_made_of_links(out):
            return False  # replacing it loses nothing
        wanted = f"the {len(expected)} patients" if subset else f"all {len(expected)} patients"
        raise UserError(
            f"{out}: holds something other than {wanted}, and is left as it is. Remove it, or name another folder "
            f"with --out. {error}"
        ) from None
    print(f"{out}: there already")
    return True


def is_made_of_links(out: Path) -> bool:
    """Whether this script made `out`: a link, or a folder with nothing but links."""
    return out.is_symlink() or (out.is_dir() and all(entry.is_symlink() for entry in out.iterdir()))


def download() -> Path:
    """Fetch the set with kagglehub. Returns its folder: a cache or, on Colab and Kaggle, a read-only mount."""
    try:
        import kagglehub
    except ImportError:
        raise UserError(f"the package kagglehub is missing. Run: pip install kagglehub. Or: {BY_HAND}") from None
    print(f"fetching {PAGE}: 700 MB packed, 1 GB on the disk", flush=True)
    try:
        return Path(kagglehub.dataset_download(HANDLE))
    except Exception as error:  # offline, refused, damaged, no space: of a dozen kinds
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise UserError(
            f"the download from Kaggle failed ({type(error).__name__}: {reason}). Nothing was changed here. "
            f"Run it again: it goes on where it stopped. Or: {BY_HAND}"
        ) from None


def find_copy(source: Path, known: set[str]) -> Path:
    """The folder with the patient folders: the one with the most of them and, of equals, the least deep."""
    counts = {folder: len(known.intersection(_folders(folder))) for folder in _around_patients(source, known)}
    best = max(counts, key=lambda folder: (counts[folder], -len(folder.parts)))
    if not counts[best]:
        raise UserError(f"{source}: holds none of the patient folders (TCGA_...). {BY_HAND}")
    return best


def _around_patients(folder: Path, known: set[str], depth: int = DEEPEST) -> Iterator[Path]:
    """`folder` and the folders below it, patient folders excepted."""
    yield folder
    for name in _folders(folder) if depth else ():
        if name not in known:
            yield from _around_patients(folder / name, known, depth - 1)


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


# --- Check -----------------------------------------------------------------------------------------------------


def verify(folder: Path, expected: dict[str, int], subset: bool) -> str:
    """Check patients, slices, and every image and mask of a folder; returns what was found, for people.

    With `subset`, other patients in the folder are passed over.
    Raises: UserError with what is missing, too many, or not an image or mask of the set.
    """
    table = find_slices(folder, expected if subset else None)
    slices = table.groupby("patient").size().to_dict()
    if not subset and slices == published_patients(subset=True):
        raise UserError(
            f"{folder}: holds the {len(slices)} patients of the subset, not all {len(expected)}. Add --subset."
        )
    problems = [
        f"{folder / patient}: {slices.get(patient, 0)} slices, but the set as published has {expected.get(patient, 0)}."
        for patient in sorted(slices.keys() | expected.keys())
        if slices.get(patient, 0) != expected.get(patient, 0)
    ]
    tumour, missing = 0, {"pre-contrast": 0, "post-contrast": 0}
    for patient, rows in tqdm(table.groupby("patient"), desc="checking", unit="patient", leave=False, disable=None):
        try:
            loaded = load_slices(folder, {patient: rows})[patient]
        except UserError as error:
            problems.append(str(error))
            continue
        tumour += int(loaded.masks.flatten(1).any(1).sum())
        flair = loaded.images[..., constants.FLAIR]
        missing["pre-contrast"] += torch.equal(loaded.images[..., 0], flair)
        missing["post-contrast"] += torch.equal(loaded.images[..., 2], flair)
    if problems:
        raise UserError(
            f"{folder}: is not the data set as published.\n{list_problems(problems)}\nGet it again. {BY_HAND}"
        )
    stands_in = ", ".join(f"{name} in {count}" for name, count in missing.items())
    return (
        f"checked: {len(expected)} patients, {len(table):,} slices with masks, {tumour:,} of them with tumour; "
        f"FLAIR stands in for {stands_in} patients"
    )


# --- Put in place ----------------------------------------------------------------------------------------------


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Say what to do when `out` cannot be written."""
    try:
        yield
    except OSError as error:
        reasons = {errno.ENOSPC: "no space left on the disk", errno.EROFS: "the disk is read-only"}
        reason = reasons.get(error.errno, error.strerror or str(error))
        raise UserError(
            f"{error.filename or out}: {reason}. Nothing was left behind. Name a folder elsewhere with --out."
        ) from None


def place_folder(folder: Path, out: Path, patients: Iterable[str] | None) -> str:
    """Link `out` to a folder, or to the named patients in it; copy where links cannot be made. Returns which."""
    clinical = [CLINICAL] if (folder / CLINICAL).is_file() else []
    with _building(out) as built:
        try:
            if patients is None:
                built.symlink_to(folder.resolve(), target_is_directory=True)
            else:
                built.mkdir()
                for name in (*patients, *clinical):
                    (built / name).symlink_to(folder.resolve() / name, target_is_directory=name != CLINICAL)
            return f"linked to {folder.resolve()}, which must stay where it is"
        except (OSError, NotImplementedError):  # Windows without the right to, and some file systems
            shutil.rmtree(built, ignore_errors=True)
        names = [name for name in _folders(folder) if name not in NESTED_COPIES] if patients is None else patients
        files = [path for name in names for path in (folder / name).iterdir()] + [folder / name for name in clinical]
        _check_space(built.parent, sum(path.stat().st_size for path in files))
        for path in files:
            target = built / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return f"copied from {folder}"


def place_archive(path: Path, out: Path, expected: dict[str, int], subset: bool) -> str:
    """Unpack one of the two copies in the Kaggle archive, check it, then name it `out`.

    Raises: UserError when it is no zip, damaged, not the data set, or names a file outside of its folder.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder. {BY_HAND}")
    with _building(out) as built:
        try:
            with zipfile.ZipFile(path) as archive:
                members = find_members(archive, path, expected)
                _check_space(built.parent, sum(member.info.file_size for member in members))
                for member in tqdm(members, desc="unpacking", unit="file", leave=False, disable=None):
                    target = built.joinpath(*member.parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member.info) as file:  # bounded, though its length in the list were a lie
                        target.write_bytes(file.read(LARGEST_FILE))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{path}: is damaged or no zip ({reason}). Get it again. {BY_HAND}") from None
        try:
            print(verify(built, expected, subset))
        except UserError as error:
            raise UserError(str(error).replace(str(built), str(path))) from None
    return f"unpacked from {path}"


class Member(NamedTuple):
    """A file of an archive, and where it goes below the patient folders."""

    info: zipfile.ZipInfo
    parts: tuple[str, ...]


def find_members(archive: zipfile.ZipFile, path: Path, expected: dict[str, int]) -> list[Member]:
    """The slices and masks of the expected patients in one copy of the set, and its data.csv.

    Raises: UserError when any name leaves the folder, a file is far too large, or there are no patients.
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    for info in infos:
        if leaves_folder(info.filename):
            raise UserError(f"{path}: {info.filename!r} in it leads out of its folder. Do not use this file. {BY_HAND}")
    copies: dict[tuple[str, ...], set[str]] = {}  # folders around the patient folders: patients in there
    for info in infos:
        *around, patient, _ = ("", "", *PurePosixPath(info.filename).parts)
        if patient in expected:
            copies.setdefault(tuple(around), set()).add(patient)
    if not copies:
        raise UserError(f"{path}: holds none of the patient folders (TCGA_...). {BY_HAND}")
    best = max(copies, key=lambda around: (len(copies[around]), -len(around)))
    members = []
    for info in infos:
        *around, patient, name = ("", "", *PurePosixPath(info.filename).parts)
        if tuple(around) == best and patient in expected and re.fullmatch(rf"{patient}_\d+(_mask)?\.tif", name):
            members.append(Member(info, (patient, name)))
        elif (*around, patient) == best and name == CLINICAL:
            members.append(Member(info, (CLINICAL,)))
        else:
            continue
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others inflate without a bound
            raise UserError(f"{path}: {info.filename} in it is packed neither plainly nor by deflate. {BY_HAND}")
        if info.file_size > LARGEST_FILE:
            raise UserError(f"{path}: {info.filename} in it has {info.file_size:,} bytes. Do not use it. {BY_HAND}")
    return members


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A path beside `out` to build at; it becomes `out` at the end, and nothing of it is left after a failure.

    What a process that was killed left there is removed, once it is so old that none can be at it still.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}-unfinished-"  # a name that nobody else gives
    for left in out.parent.glob(f"{prefix}*/{out.name}"):
        with suppress(OSError):  # another process may be at it
            if time.time() - left.lstat().st_mtime > STALE:
                shutil.rmtree(left.parent)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as temporary:
        built = Path(temporary, out.name)
        yield built
        if out.is_symlink():
            out.unlink()
        elif out.is_dir():
            for link in out.iterdir():
                link.unlink()  # nothing but links: see is_there
            out.rmdir()
        built.rename(out)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free. Make room, or name a folder "
            "on another disk with --out."
        )


if __name__ == "__main__":
    run_script(main)
