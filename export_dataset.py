"""Write the data set in the format of another program, to train it on the same patients.

    python export_dataset.py nnunet nnunet_raw
    python export_dataset.py nnunet nnunet_raw --slices --folds 5

nnunet: OUT/Dataset501_LGG in the raw format of nnU-Net 2, with its splits_final.json. The training and the validation
patients of the published split are fold 0, and the test patients are in imagesTs and named in test_patients.txt. With
--folds they are the folds of cross_validate.py: the patients that it tests are nnU-Net's validation patients, all
others train. Stacks are NIfTI, one file per sequence, which needs the package nibabel; --slices are PNG.

score_masks.py scores what nnU-Net predicts.
"""

import argparse
from pathlib import Path

from utils import parse_first, positive


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("format", choices=["nnunet"], metavar="FORMAT", help="nnunet")
    add("out", type=Path, metavar="OUT", help="a new folder")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--slices", action="store_true", help="write single slices as PNG instead of stacks as NIfTI")
    add("--folds", type=positive(int), metavar="N", help="the N folds of cross_validate.py, without test patients")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_arguments)


from collections.abc import Iterator

import numpy as np

from constants import CHANNELS, SYNTHETIC_NOTICE
from dataset.folder import find_folder, find_slices
from dataset.new_folder import new_folder
from dataset.published import is_published
from dataset.slices import Slices, load_slices, slice_number
from dataset.split import SPLITS, Assignment, assign_fold, assign_patients
from dataset.synthetic import any_synthetic
from scans import pictures, volumes
from utils import UserError, run_script, to_json

NAME = "Dataset501_LGG"  # nnU-Net asks for a number; those from 500 on are left to users
SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")
LABELS = {"background": 0, "FLAIR abnormality": 1}
TEST_PATIENTS = "test_patients.txt"
LICENCE = "CC BY-NC-SA 4.0"


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise UserError(f"{args.out}: is there already. Name a new folder.")
    if not args.slices:
        try:
            volumes.need_nibabel()
        except ValueError as error:
            raise UserError(f"{error} Or write single slices with --slices.") from None
    folder = find_folder(args.data)
    table = find_slices(folder)
    if any_synthetic(table):
        print(SYNTHETIC_NOTICE)
    splits = assign(table["patient"], args.folds)
    test = sorted(patient for patient, split in splits[0].items() if split == "test" and not args.folds)
    cases: dict[str, list[str]] = {}
    with new_folder(args.out) as built:
        for name in ("imagesTr", "labelsTr", *(["imagesTs"] if test else [])):
            (built / NAME / name).mkdir(parents=True)
        for patient, rows in table.groupby("patient"):
            slices = load_slices(folder, {patient: rows.reset_index(drop=True)})[patient]
            cases[patient] = write_patient(built / NAME, slices, test=patient in test, single=args.slices)
        training = {patient: names for patient, names in cases.items() if patient not in test}
        about = {
            "channel_names": {str(channel): name for channel, name in enumerate(SEQUENCES)},
            "labels": LABELS,
            "numTraining": sum(map(len, training.values())),
            "file_ending": ending(args.slices),
        }
        if is_published(table):
            about["licence"] = LICENCE
        (built / NAME / "dataset.json").write_text(to_json(about), encoding="utf-8")
        folds = [as_fold(split, cases, bool(args.folds)) for split in splits]
        (built / NAME / "splits_final.json").write_text(to_json(folds), encoding="utf-8")
        if test:
            (built / NAME / TEST_PATIENTS).write_text("\n".join(test) + "\n", encoding="utf-8")
    print(f"{args.out / NAME}: {len(training)} patients for training and validation, {len(test)} for the test")
    print(f"Copy splits_final.json to nnUNet_preprocessed/{NAME} after nnUNetv2_plan_and_preprocess, before training.")


def assign(patients: list[str], folds: int | None) -> list[Assignment]:
    """Return the published split, or the folds of cross_validate.py."""
    if folds is None:
        return [assign_patients(patients)]
    if folds < 2:
        raise UserError("--folds: at least 2 are needed.")
    return [assign_fold(patients, number, folds) for number in range(1, folds + 1)]


def as_fold(split: Assignment, cases: dict[str, list[str]], tested: bool) -> dict[str, list[str]]:
    """Return a fold of splits_final.json: the names of the cases to train and to validate on.

    tested: whether the test patients are validated on, and the validation patients trained on.
    """
    training, validation, _ = SPLITS
    part = {training: "train", validation: "train", "test": "val"} if tested else {training: "train", validation: "val"}
    fold: dict[str, list[str]] = {"train": [], "val": []}
    for patient in sorted(split):
        if split[patient] in part:
            fold[part[split[patient]]] += cases[patient]
    return fold


def ending(single: bool) -> str:
    return ".png" if single else ".nii.gz"


def write_patient(folder: Path, slices: Slices, test: bool, single: bool) -> list[str]:
    """Write the images of a patient and, unless it is a test patient, the masks. Returns the names of the cases."""
    where, names = folder / ("imagesTs" if test else "imagesTr"), []
    for name, images, mask in (as_slices if single else as_stack)(slices):
        for channel, content in enumerate(images):
            (where / f"{name}_{channel:04d}{ending(single)}").write_bytes(content)
        if not test:
            (folder / "labelsTr" / f"{name}{ending(single)}").write_bytes(mask)
        names.append(name)
    return names


def as_slices(slices: Slices) -> Iterator[tuple[str, list[bytes], bytes]]:
    """Yield name, images and mask of each slice as PNG; the image holds all sequences as its colours."""
    for row, image, mask in zip(slices.table.itertuples(), slices.images.numpy(), slices.masks.numpy(), strict=True):
        yield f"{row.patient}_{slice_number(row.image_path)}", [pictures.encode(image)], pictures.encode(mask)


def as_stack(slices: Slices) -> Iterator[tuple[str, list[bytes], bytes]]:
    """Yield name, images (one per sequence) and mask of the whole patient as NIfTI, 1 mm between voxels.

    The files of the data set do not say their spacing.
    """
    order = np.argsort([slice_number(path) for path in slices.table["image_path"]])
    images, masks = slices.images.numpy()[order], slices.masks.numpy()[order]
    grid = volumes.new_grid(masks.shape)
    stacks = [volumes.encode_nifti(images[..., channel], grid, brightest=255) for channel in range(CHANNELS)]
    yield slices.patients[0], stacks, volumes.encode_nifti(masks, grid)


if __name__ == "__main__":
    run_script(main)
