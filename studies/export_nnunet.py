"""Write the data set in the raw format of nnU-Net 2, to train it on the same patients.

    python -m studies.export_nnunet nnunet_raw
    python -m studies.export_nnunet nnunet_raw --slices --folds 5

OUT/Dataset501_LGG with its splits_final.json: training and validation patients of the published split are fold 0; test
patients are in imagesTs and test_patients.txt. With --folds, the test patients of each fold of cross_validate.py are
nnU-Net's validation patients, all others train. Stacks are NIfTI with 1 mm between voxels (the set does not say their
spacing), one per sequence; --slices are PNG, sequences as colours. score_masks.py scores what nnU-Net predicts.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from constants import SYNTHETIC_NOTICE
from dataset.folder import find_folder, find_slices
from dataset.published import is_published
from dataset.slices import Slices, load_slices, slice_number
from dataset.split import Assignment, assign_fold, assign_patients
from dataset.synthetic import any_synthetic
from utils import new_folder, positive, run_script, to_json

NAME = "Dataset501_LGG"  # nnU-Net asks for a number; those from 500 on are left to users
SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="a new folder")
    add("--data", metavar="DIR", help="folder kaggle_3m or its parent")
    add("--slices", action="store_true", help="write single slices as PNG instead of stacks as NIfTI")
    add("--folds", type=positive(int), metavar="N", help="the N folds of cross_validate.py, without test patients")
    args = parser.parse_args(argv)
    if args.folds == 1:
        parser.error("--folds: at least 2 are needed")
    folder = find_folder(args.data)
    table = find_slices(folder)
    if any_synthetic(table):
        print(SYNTHETIC_NOTICE)
    if args.folds:
        splits = [assign_fold(table["patient"], number, args.folds) for number in range(1, args.folds + 1)]
    else:
        splits = [assign_patients(table["patient"])]
    test = [] if args.folds else sorted(patient for patient, split in splits[0].items() if split == "test")
    cases: dict[str, list[str]] = {}
    with new_folder(args.out) as work:
        raw = work / NAME
        for patient, rows in table.groupby("patient"):
            slices = load_slices(folder, {patient: rows.reset_index(drop=True)})[patient]
            cases[patient] = write_patient(raw, slices, patient in test, args.slices)
        training = [name for patient, names in cases.items() if patient not in test for name in names]
        description = {
            "channel_names": {str(channel): name for channel, name in enumerate(SEQUENCES)},
            "labels": {"background": 0, "FLAIR abnormality": 1},
            "numTraining": len(training),
            "file_ending": ".png" if args.slices else ".nii.gz",
        }
        if is_published(table):
            description["licence"] = "CC BY-NC-SA 4.0"
        (raw / "dataset.json").write_text(to_json(description), encoding="utf-8")
        folds = [list_fold(split, cases, bool(args.folds)) for split in splits]
        (raw / "splits_final.json").write_text(to_json(folds), encoding="utf-8")
        if test:
            (raw / "test_patients.txt").write_text("\n".join(test) + "\n", encoding="utf-8")
    print(f"{args.out / NAME}: {len(cases) - len(test)} patients for training and validation, {len(test)} for the test")
    print(f"Copy splits_final.json to nnUNet_preprocessed/{NAME} after nnUNetv2_plan_and_preprocess, before training.")


def list_fold(split: Assignment, cases: dict[str, list[str]], cross_validated: bool) -> dict[str, list[str]]:
    """Return a fold of splits_final.json: the cases to train on, and those to validate on.

    cross_validated: the test patients are validated on, and the validation patients trained on.
    """
    val, unused = ("test", "") if cross_validated else ("validation", "test")
    return {
        "train": [case for patient in sorted(split) if split[patient] not in (val, unused) for case in cases[patient]],
        "val": [case for patient in sorted(split) if split[patient] == val for case in cases[patient]],
    }


def write_patient(raw: Path, slices: Slices, test: bool, single: bool) -> list[str]:
    """Write the images of a patient and, unless it is a test patient, the masks. Returns the names of the cases."""
    images, masks = slices.images.numpy(), slices.masks.numpy()
    folder, labels = raw / ("imagesTs" if test else "imagesTr"), raw / "labelsTr"
    for path in (folder, labels):
        path.mkdir(parents=True, exist_ok=True)
    if not single:  # columns to the left of the patient, rows to the back, slices upwards

        def write(stack: np.ndarray, path: Path) -> None:
            sitk.WriteImage(sitk.GetImageFromArray(stack), str(path), useCompression=True)

        name = slices.patients[0]
        for channel in range(len(SEQUENCES)):
            write(images[..., channel], folder / f"{name}_{channel:04d}.nii.gz")
        if not test:
            write(masks, labels / f"{name}.nii.gz")
        return [name]
    names = [f"{slices.patients[0]}_{slice_number(path)}" for path in slices.table["image_path"]]
    for name, image, mask in zip(names, images, masks, strict=True):
        (folder / f"{name}_0000.png").write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        if not test:
            (labels / f"{name}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    return names


if __name__ == "__main__":
    run_script(main)
