"""Write the data set in the raw format of nnU-Net 2, to train it on the same patients.

    python -m studies.export_nnunet nnunet_raw
    python -m studies.export_nnunet nnunet_raw --folds 5

OUT/Dataset501_LGG with its splits_final.json: training and validation patients of the published split are fold 0; test
patients are in imagesTs and test_patients.txt. With --folds, the test patients of each fold of cross_validate.py are
nnU-Net's validation patients, all others train. Stacks are NIfTI with 1 mm between voxels (the set does not say their
spacing), one per sequence. score_masks.py scores what nnU-Net predicts.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from constants import SYNTHETIC_NOTICE
from dataset.folder import find_folder, find_slices
from dataset.published import is_published
from dataset.slices import Slices, load_slices
from dataset.split import assign_fold, assign_patients
from dataset.synthetic import any_synthetic
from utils import existing, new_folder, positive, run_script, to_json, write_text

NAME = "Dataset501_LGG"  # nnU-Net asks for a number; those from 500 on are left to users
SEQUENCES = ("pre-contrast", "FLAIR", "post-contrast")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="a new folder")
    add("--data", type=existing, metavar="DIR", help="folder kaggle_3m or its parent")
    add("--folds", type=positive(int), metavar="N", help="the N folds of cross_validate.py, without test patients")
    args = parser.parse_args(argv)
    folder = find_folder(args.data)
    table = find_slices(folder)
    if any_synthetic(table["patient"]):
        print(SYNTHETIC_NOTICE)
    patients = sorted(table["patient"].unique())
    if args.folds:
        splits = [assign_fold(patients, number, args.folds) for number in range(1, args.folds + 1)]
        test, validated = [], "test"  # of each fold; its own validation patients train, too
    else:
        splits = [assign_patients(patients)]
        test, validated = [patient for patient in patients if splits[0][patient] == "test"], "validation"
    fitted = [patient for patient in patients if patient not in test]
    with new_folder(args.out) as work:
        raw = work / NAME
        for patient, rows in table.groupby("patient"):
            slices = load_slices(folder, {patient: rows.reset_index(drop=True)})[patient]
            write_patient(raw, patient, slices, patient in test)
        description = {
            "channel_names": {str(channel): name for channel, name in enumerate(SEQUENCES)},
            "labels": {"background": 0, "FLAIR abnormality": 1},
            "numTraining": len(fitted),
            "file_ending": ".nii.gz",
            **({"licence": "CC BY-NC-SA 4.0"} if is_published(table["patient"]) else {}),
        }
        folds = [
            {
                "train": [patient for patient in fitted if split[patient] != validated],
                "val": [patient for patient in fitted if split[patient] == validated],
            }
            for split in splits
        ]
        write_text(raw / "dataset.json", to_json(description))
        write_text(raw / "splits_final.json", to_json(folds))
        if test:
            write_text(raw / "test_patients.txt", "\n".join(test) + "\n")
    print(f"{args.out / NAME}: {len(fitted)} patients for training and validation, {len(test)} for the test")
    print(f"Copy splits_final.json to nnUNet_preprocessed/{NAME} after nnUNetv2_plan_and_preprocess, before training.")


def write_patient(raw: Path, name: str, slices: Slices, test: bool) -> None:
    """Write the images of a patient and, unless it is a test patient, the masks."""
    folder = raw / ("imagesTs" if test else "imagesTr")
    stacks = {folder / f"{name}_{c:04d}": slices.images[..., c].numpy() for c in range(len(SEQUENCES))}
    if not test:
        stacks[raw / "labelsTr" / name] = slices.masks.numpy()
    for path, stack in stacks.items():  # columns to the left of the patient, rows to the back, slices upwards
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(stack)), f"{path}.nii.gz", useCompression=True)


if __name__ == "__main__":
    run_script(main)
