"""Get the Kaggle LGG set, check it, and put it where the scripts look for it (lgg-mri-segmentation/kaggle_3m).

    python download_data.py                        # all 110 patients, from Kaggle: 700 MB, no account needed
    python download_data.py --subset               # the same download, but only the 12 patients of the 100 MB run
    python download_data.py --from archive.zip     # a zip or a folder on the disk

The download needs the package kagglehub (pip install kagglehub). Folders are linked to, not copied. Nothing that
exists is replaced, and a download that fails leaves nothing behind.
"""

import argparse
import re
import shlex
import shutil
import zipfile
import zlib
from pathlib import Path

import constants
from utils import UserError, describe_problems, existing, new_folder, run_script

HANDLE = "mateuszbuda/lgg-mri-segmentation"  # on Kaggle
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"
LABELS = "data.csv"  # beside the patient folders
BY_HAND = f"Download {PAGE} in a browser and name the zip: download_data.py --from archive.zip."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--subset", action="store_true", help="only the 12 patients of the 100 MB run (336 slices)")
    add("--from", dest="source", type=existing, metavar="PATH", help="a zip or folder on the disk; no network is used")
    add("--out", type=Path, default=constants.DATA_DIR, metavar="DIR", help="folder of the patients (%(default)s)")
    args = parser.parse_args(argv)
    from dataset.published import published_patients

    patients = published_patients(args.subset)
    if args.out.is_dir() and any(args.out.iterdir()):
        print(f"{args.out}: there already; {verify(args.out, patients)}")
        return
    source = args.source or download()
    with new_folder(args.out) as folder:
        try:
            action = (link_folder if source.is_dir() else unpack_archive)(source, folder, patients)
            print(verify(folder, patients))
        except UserError as error:  # names what the user knows
            raise UserError(str(error).replace(str(folder), str(source))) from None
    print(f"{args.out}: {action} {source}")
    if not (args.out / LABELS).is_file():
        print(f"note: {source} has no {LABELS}, the genomic labels: name them to radiogenomics.py with --labels")
    print(f"Licence of the images: CC BY-NC-SA 4.0. What to cite: {constants.DATA_DIR.with_name('README.md')}")
    where = "" if args.out.absolute() == constants.DATA_DIR else f" --data {shlex.quote(str(args.out))}"
    print(f"Next: python train_model.py{where} --recipe tuned --run runs/first")


def download() -> Path:
    """Fetch the set with kagglehub. Returns its folder: a cache or, on Colab and Kaggle, a read-only mount."""
    import kagglehub

    print(f"fetching {PAGE}: 700 MB packed, 1 GB on the disk", flush=True)
    try:
        return Path(kagglehub.dataset_download(HANDLE))
    except Exception as error:  # offline, refused, damaged, no space: of a dozen kinds
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"the download from Kaggle failed ({reason}). Run it again to continue. Or: {BY_HAND}"
        ) from None


def verify(folder: Path, patients: dict[str, int]) -> str:
    """Check that a folder holds these patients ({patient: number of slices}) and no others; decode every slice.

    Returns: a one-line summary. Raises: UserError that lists what is missing, too much, or damaged.
    """
    from dataset.folder import find_slices
    from dataset.slices import load_slices

    table = find_slices(folder)
    counts = table["patient"].value_counts().to_dict()
    problems = [
        f"{folder / patient}: {counts.get(patient, 0)} slices, but {patients.get(patient, 0)} are expected."
        for patient in sorted(counts.keys() | patients.keys())
        if counts.get(patient) != patients.get(patient)
    ]
    if problems:
        raise UserError(
            f"{describe_problems(folder, problems)}\nThis is not the published set of {len(patients)} patients. Get it "
            f"again, name another folder with --out, or add --subset for 12 patients. {BY_HAND}"
        )
    tumour = sum(int(load_slices(folder, {"": own})[""].masks.any((1, 2)).sum()) for _, own in table.groupby("patient"))
    return f"checked: {len(patients)} patients, {len(table):,} slices with masks, {tumour:,} of them with tumour"


def link_folder(source: Path, folder: Path, patients: dict[str, int]) -> str:
    """Link the patients and data.csv into `folder`, from `source` or at most three folders below.

    They are copied where links cannot be made.
    """
    action, present = "linked to", {}
    for depth in range(4):
        for path in source.glob("*/" * depth + "*"):
            present.setdefault(path.name, path)  # the set lies twice in what Kaggle gives
    for name in (name for name in (*patients, LABELS) if name in present):
        path = present[name].resolve()
        try:
            (folder / name).symlink_to(path, target_is_directory=path.is_dir())
        except (OSError, NotImplementedError):  # Windows without the right to, and some file systems
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / name)
            action = "copied from"
    return action


def unpack_archive(archive: Path, folder: Path, patients: dict[str, int]) -> str:
    """Unpack the patients and data.csv from a zip, at whatever depth, into `folder`.

    Only names of the set's own files are written: no member can lead out of the folder.
    """
    names = "|".join(map(re.escape, patients))
    wanted = re.compile(rf"(?:.*/)?(({names})/\2_\d+(_mask)?\.tif|{re.escape(LABELS)})")
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                name = member.replace("\\", "/")  # of Windows
                match = wanted.fullmatch(name)
                if not match or constants.JUNK_FOLDERS & {*name.split("/")}:
                    continue
                path = folder / match[1]
                if not path.exists():  # the set lies twice in Kaggle's zip
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(packed.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: is damaged, or no zip of the set ({error}). Get it again. {BY_HAND}") from None
    return "unpacked from"


if __name__ == "__main__":
    run_script(main)
