"""Get the real data set, check it, and put it where the scripts look for it (lgg-mri-segmentation/kaggle_3m).

    python download_data.py                        # all 110 patients, from Kaggle: 700 MB, no account needed
    python download_data.py --subset               # the same download, but only the 12 patients of the 100 MB run
    python download_data.py --from archive.zip     # a zip or a folder that is on the disk already

The download needs the package kagglehub (pip install kagglehub). Folders are linked to, not copied. A download that
fails or is stopped leaves nothing behind. Nothing is replaced but links that this script made itself.
"""

import argparse
from pathlib import Path

import constants
from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--subset", action="store_true", help="only the 12 patients of the 100 MB run (336 slices)")
    add("--from", dest="source", type=Path, metavar="PATH", help="a zip or folder on the disk; no network is used")
    add("--out", type=Path, default=constants.DATA_DIR, metavar="DIR", help="where to put it (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_arguments)


import errno
import json
import os
import re
import shutil
import signal
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath

from tqdm import tqdm

from dataset.folder import find_slices
from dataset.new_folder import new_folder
from dataset.published import LABEL_FILE, NESTED_COPIES, published_patients, sequences
from dataset.slices import load_slices
from utils import SIGNALLED, UserError, leaves_folder, list_problems, run_script

HANDLE = "mateuszbuda/lgg-mri-segmentation"  # on Kaggle
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"
LINKS = "links.json"  # beside the links that this script made: {name: target}
DEEPEST = 3  # levels of folders above the patient folders that are searched
LARGEST_FILE = 4 * 2**20  # bytes; the largest file of the set has 0.2 million
BY_HAND = f"Download {PAGE} in a browser and name the zip: download_data.py --from archive.zip."


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, lambda number, _: sys.exit(SIGNALLED + number))  # new_folder cleans up
    patients = published_patients(args.subset)
    if is_complete(args.out, patients):
        print(f"{args.out}: there already")
        return
    source = args.source or download()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder. {BY_HAND}")
    how = (link_folder if source.is_dir() else unpack_archive)(source, args.out, patients)
    print(f"{args.out}: {how}")
    if not (args.out / LABEL_FILE).is_file():
        print(f"note: {source} has no {LABEL_FILE}, the genomic labels: name them to radiogenomics.py with --labels")
    print(f"Licence of the images: CC BY-NC-SA 4.0. What to cite: {constants.DATA_DIR.with_name('README.md')}")
    print("Next: python train_model.py" + ("" if args.out.absolute() == constants.DATA_DIR else f" --data {args.out}"))


def is_complete(out: Path, patients: dict[str, int]) -> bool:
    """Return whether `out` holds these patients and no others.

    Raises: UserError if it holds anything else but links that this script made, which are replaced without loss.
    """
    entries = list(out.iterdir()) if out.exists() else []
    if not entries and not out.is_symlink():
        return False
    try:
        if not out.exists():
            raise UserError("It is a link to a folder that is gone.")
        folders = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
        if others := folders - patients.keys() - NESTED_COPIES - {*constants.JUNK_FOLDERS}:
            raise UserError(f"It holds {min(others)}.")
        print(verify(out, patients))
        return True
    except UserError as error:
        if entries and own_links(out) == set(entries):
            return False
        raise UserError(
            f"{out}: holds something other than the {len(patients)} patients, and is left as it is. Move it away, or "
            f"name another folder with --out. {error}"
        ) from None


def own_links(out: Path) -> set[Path]:
    """Return the links in `out` that this script made and nobody changed, and the file that proves it."""
    if out.is_symlink() or (out / LINKS).is_symlink():
        return set()
    try:
        made = dict(json.loads((out / LINKS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return set()
    links = {entry for entry in out.iterdir() if entry.is_symlink() and os.readlink(entry) == made.get(entry.name)}
    return {*links, out / LINKS}


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` at the end of the block, in place of links that this script made."""
    with new_folder(out) as built:
        yield built
        for path in sorted(own_links(out), key=lambda path: path.name == LINKS):  # the proof goes last
            path.unlink()


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
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the download from Kaggle failed ({type(error).__name__}: {reason}). Nothing was changed here. "
            f"Run it again: it goes on where it stopped. Or: {BY_HAND}"
        ) from None


def verify(folder: Path, patients: dict[str, int]) -> str:
    """Check every slice, image and mask of these patients; others are ignored. Returns one line with what was found.

    patients: {patient: number of slices} as published.
    Raises: UserError that lists what is missing, too many, or not an image or mask.
    """
    subset = published_patients(subset=True)
    if {patient for patient in patients if (folder / patient).is_dir()} == subset.keys() != patients.keys():
        raise UserError(f"{folder}: holds the {len(subset)} patients of the subset, not all. Add --subset.")
    table = find_slices(folder, patients)
    problems, kinds, tumour = [], Counter(), 0
    for patient, rows in tqdm(table.groupby("patient"), desc="checking", unit="patient", leave=False, disable=None):
        if len(rows) != patients[patient]:
            problems.append(f"{folder / patient}: {len(rows)} slices, but {patients[patient]} are published.")
        try:
            slices = load_slices(folder, {patient: rows})[patient]
        except UserError as error:
            problems.append(str(error))
            continue
        tumour += int(slices.masks.flatten(1).any(1).sum())
        kinds[sequences(slices.images.numpy())] += 1
    if problems:
        raise UserError(f"{folder}: is not the published data set.\n{list_problems(problems)}\nGet it again. {BY_HAND}")
    acquired = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return (
        f"checked: {len(patients)} patients, {len(table):,} slices with masks, {tumour:,} of them with tumour; "
        f"patients by their sequences: {acquired}"
    )


def link_folder(source: Path, out: Path, patients: dict[str, int]) -> str:
    """Make `out` a folder of links to the patients in `source`, of copies where links cannot be made. Returns which."""
    below = (path for depth in range(DEEPEST + 1) for path in source.glob("*/" * depth + "*"))
    folder = find_copy(below, patients, source).resolve()
    print(verify(folder, patients))
    clinical = [LABEL_FILE] if (folder / LABEL_FILE).is_file() else []
    with replaced(out) as built:
        try:
            for name in (*patients, *clinical):
                (built / name).symlink_to((folder / name).resolve(), target_is_directory=name in patients)
        except (OSError, NotImplementedError) as error:  # Windows without the right to, and some file systems
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            for name in clinical:
                shutil.copyfile(folder / name, built / name)
            for patient in patients:
                (built / patient).mkdir()
                for path in filter(Path.is_file, (folder / patient).iterdir()):
                    shutil.copyfile(path, built / patient / path.name)
            return f"copied from {folder}"
        made = {link.name: os.readlink(link) for link in built.iterdir()}
        (built / LINKS).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return f"linked to {folder}, which must stay where it is"


def unpack_archive(archive: Path, out: Path, patients: dict[str, int]) -> str:
    """Unpack one of the two copies of the set in a zip, check it, then name it `out`. Returns what was done.

    Raises: UserError when it is damaged, not the data set, or could write outside of its folder.
    """
    with replaced(out) as built:
        try:
            with zipfile.ZipFile(archive) as packed:
                members = find_members(packed, patients, archive)
                needed = sum(info.file_size for info in members.values())
                if shutil.disk_usage(built).free < needed:
                    raise UserError(f"{out}: needs {needed / 1e6:,.0f} MB. Make room, or name another disk with --out.")
                for name, info in tqdm(members.items(), desc="unpacking", unit="file", leave=False, disable=None):
                    (built / name).parent.mkdir(exist_ok=True)
                    with packed.open(info) as file:
                        (built / name).write_bytes(file.read(LARGEST_FILE))  # bounded, whatever the zip says
            print(verify(built, patients))
        except UserError as error:
            raise UserError(str(error).replace(str(built), str(archive))) from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{archive}: is damaged, or no zip of the set ({error}). Get it again. {BY_HAND}") from None
    return f"unpacked from {archive}"


def find_members(packed: zipfile.ZipFile, patients: dict[str, int], archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the files of the patients, and data.csv, in one copy of the set: {path below its folder: member}.

    Raises: ValueError when a name leaves the folder or a file is too large, UserError when there are no patients.
    """
    files = {PurePosixPath(info.filename.replace("\\", "/")): info for info in packed.infolist()}  # made on Windows
    if unsafe := [name for name in packed.namelist() if leaves_folder(name)]:
        raise ValueError(f"{unsafe[0]!r} leads out of its folder")
    folder = find_copy({path.parent for path in files}, patients, archive)
    wanted = re.compile(rf"({'|'.join(map(re.escape, patients))})/\1_\d+(_mask)?\.tif|{re.escape(LABEL_FILE)}")
    below = {str(path.relative_to(folder)): info for path, info in files.items() if folder in path.parents}
    members = {name: info for name, info in below.items() if wanted.fullmatch(name)}
    for name, info in members.items():
        if info.file_size > LARGEST_FILE or info.compress_type > zipfile.ZIP_DEFLATED:  # others expand without bound
            raise ValueError(f"{name} is too large, or packed by an unusual method")
    return members


def find_copy(folders: Iterable[PurePath], patients: dict[str, int], source: Path) -> PurePath:
    """Return the folder with the most patient folders; of equals, the least deep. Raises: UserError if none has any."""
    by_depth = sorted(folders, key=lambda folder: (len(folder.parts), folder))
    around = Counter(folder.parent for folder in by_depth if folder.name in patients)
    if not around:
        raise UserError(f"{source}: holds none of the patient folders (TCGA_...). {BY_HAND}")
    return around.most_common(1)[0][0]


if __name__ == "__main__":
    run_script(main)
