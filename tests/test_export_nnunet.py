"""The data set in nnU-Net's raw format: whole patients, the same pixels, and a way back to our scores."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from conftest import done

from constants import FLAIR, SYNTHETIC_NOTICE
from dataset.folder import find_slices
from dataset.slices import read_image
from dataset.split import assign_fold, assign_patients
from storage.run_folder import RunFolder

DATASET = "Dataset501_LGG"


def read_json(path: Path):
    return json.loads(path.read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_stacks_hold_the_pixels_of_the_slices_and_test_patients_train_nothing(call, folder, tmp_path):
    for number in (2, 3):  # a tenth slice, so that 10 comes before 2 as text
        name = f"SYNTH_T_0_{number}"
        for ending in (".tif", "_mask.tif"):
            (folder / "SYNTH_T_0" / f"{name}{ending}").rename(folder / "SYNTH_T_0" / f"SYNTH_T_0_{number * 5}{ending}")
    out = done(call("studies.export_nnunet", tmp_path / "raw", "--data", folder))
    assert "4 patients for training and validation, 1 for the test" in out and SYNTHETIC_NOTICE in out
    raw, split = tmp_path / "raw" / DATASET, assign_patients(find_slices(folder)["patient"])
    of = {name: sorted(p for p, assigned in split.items() if assigned == name) for name in set(split.values())}
    assert read_json(raw / "splits_final.json") == [{"train": of["train"], "val": of["validation"]}]
    assert (raw / "test_patients.txt").read_text().split() == of["test"]
    fitted = sorted(of["train"] + of["validation"])
    assert names(raw / "labelsTr") == [f"{patient}.nii.gz" for patient in fitted]
    assert names(raw / "imagesTr") == [f"{patient}_000{c}.nii.gz" for patient in fitted for c in range(3)]
    assert names(raw / "imagesTs") == [f"{patient}_000{c}.nii.gz" for patient in of["test"] for c in range(3)]
    description = read_json(raw / "dataset.json")
    assert "licence" not in description  # these are not the published patients
    assert description["numTraining"] == 4 and description["file_ending"] == ".nii.gz"
    assert description["labels"]["background"] == 0 and description["channel_names"]["1"] == "FLAIR"
    images = raw / ("imagesTr" if "SYNTH_T_0" in fitted else "imagesTs")
    flair = sitk.GetArrayFromImage(sitk.ReadImage(str(images / "SYNTH_T_0_0001.nii.gz")))
    slices = [read_image(folder / "SYNTH_T_0" / f"SYNTH_T_0_{number}.tif") for number in (1, 10, 15)]
    assert np.array_equal(flair, np.stack(slices)[..., FLAIR])


def test_folds_of_a_cross_validation_whose_labels_score_as_masks(call, folder, tmp_path, unreported):
    done(call("studies.export_nnunet", tmp_path / "raw", "--data", folder, "--folds", 2))
    raw, patients = tmp_path / "raw" / DATASET, find_slices(folder)["patient"]
    for number, fold in enumerate(read_json(raw / "splits_final.json"), start=1):
        assignment = assign_fold(patients, number, 2)
        assert fold["val"] == sorted(patient for patient, split in assignment.items() if split == "test")
        assert sorted(fold["train"] + fold["val"]) == sorted(assignment)
    assert not (raw / "imagesTs").exists() and read_json(raw / "dataset.json")["numTraining"] == 5
    done(call("score_masks", raw / "labelsTr", "--data", folder, "--out", tmp_path / "scores"))
    assert RunFolder(tmp_path / "scores").read_metrics()["patient_dice"] == 1
