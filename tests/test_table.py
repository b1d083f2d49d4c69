"""The table of a cohort: every file is in it, used or with a reason, and what it says is taken when it is the input."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_volume
from PIL import Image
from test_cohort import files, found, touch

from constants import FLAIR
from scans.cohort import find_patients
from scans.items import Cohort
from scans.masks import read_reference
from scans.names import MASK
from scans.read import read_patient, read_scan
from scans.table import to_table


def write_table(folder: Path, cohort) -> list[dict[str, str]]:
    """Write the table of a cohort into a folder, and return its rows."""
    (folder / "cohort.csv").write_text(to_table(cohort, folder)[0], encoding="utf-8")
    return list(csv.DictReader((folder / "cohort.csv").read_text(encoding="utf-8").splitlines()))


def test_the_table_says_of_every_file_whose_it_is_or_why_it_is_not_used_and_is_read_back(tmp_path):
    """A folder with all kinds: what the table says is taken again when the table is the input."""
    names = ["P1/flair.npy", "P1/t1.npy", "P1/t2.npy", "P1/seg.npy", "P1/notes.txt", "P2/scan.nrrd", "P3/1.png",
             "P3/2.png", "P3/1_mask.png", "P3/2_mask.png", "P4/t1.nii", "readme.md", "P1/.hidden.npy",
             "gone/x_seg.nii"]  # fmt: skip
    folder = touch(tmp_path / "coh", *names)
    np.save(folder / "P1" / "flair.npy", np.ones((3, 4, 5)))
    write_volume(folder / "P2" / "scan.nrrd", np.ones((2, 4, 5), np.int16), (0.5, 0.75, 4))
    cohort = find_patients([folder])
    rows = {row["patient"] or row["unused"]: row for row in write_table(tmp_path, cohort)}
    assert rows["P1"] | {"notes": ""} == {
        "patient": "P1", "flair": "coh/P1/flair.npy", "pre": "coh/P1/t1.npy", "post": "", "mask": "coh/P1/seg.npy",
        "mask_of": "reader", "slices": "3", "spacing": "", "notes": "",
        "unused": "coh/P1/t2.npy (no sequence that is used); coh/P1/notes.txt (no image)",
    }  # fmt: skip
    assert (rows["P2"]["slices"], rows["P2"]["spacing"]) == ("2", "0.75 x 0.5 x 4")
    assert (rows["P3"]["flair"], rows["P3"]["mask"], rows["P3"]["slices"]) == ("coh/P3", "coh/P3/*_mask.png", "2")
    assert rows["P4"]["flair"] == "" and rows["P4"]["pre"] == "coh/P4/t1.nii" and "no FLAIR" in rows["P4"]["notes"]
    assert {"coh/readme.md (no image)", "coh/gone/x_seg.nii (a mask that fits no image)"} < rows.keys()
    again = find_patients([tmp_path / "cohort.csv"])
    with_flair = [files(patient) for patient in cohort.patients if FLAIR in patient.items]
    assert [files(patient) for patient in again.patients] == with_flair
    assert len(again.problems) == 1 and "P4 has no FLAIR. Write its file into flair" in again.problems[0]


def test_files_that_are_gone_or_must_not_be_read_are_named_and_the_others_are_done(tmp_path, monkeypatch):
    folder = touch(tmp_path / "coh", "a/flair.nii", "b/t1.nii", "c/1.png", "d/flair.nii")
    for name in ("b/flair.nii", "c/2.png", "c/extra"):
        (folder / name).symlink_to(tmp_path / "never fetched")
    usual = Path.iterdir

    def iterdir(path: Path):
        if path.name == "d":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    cohort = find_patients([folder])
    expected = {"a": ["flair.nii"], "b": ["flair.nii"], "c": ["1.png", "2.png"]}
    assert {patient.name: files(patient)["flair"] for patient in cohort.patients} == expected
    assert sorted(cohort.problems) == [
        f"{folder / 'c' / 'extra'}: cannot be opened (No such file or directory). Restore it, or leave it out.",
        f"{folder / 'd'}: cannot be opened (Permission denied). Restore it, or leave it out.",
    ]
    rows = write_table(tmp_path, cohort)
    assert [row["notes"] for row in rows[1:3]] == ["gone: flair.nii", "gone: 2.png"]
    unused = "".join(row["unused"] for row in rows)
    assert all(text in unused for text in ("coh/c/extra (cannot", "coh/d (cannot"))


IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize("ending", ["_m", "_lesion", "_annotation", "_mask_1"])
def test_masks_beside_pictures_are_judged_by_their_values_whatever_they_are_called(tmp_path, ending):
    folder = touch(tmp_path / "P1")
    for number in range(6):
        Image.fromarray(IMAGE + np.uint8(number)).save(folder / f"s_{number}.png")
        mask = np.greater(IMAGE, 40 + 8 * number).astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / f"s_{number}{ending}.png")
    (patient,) = found(folder).values()
    assert files(patient)["flair"] == [f"s_{n}.png" for n in range(6)]
    masks = read_reference(patient, read_patient(patient)[0])
    assert [int(mask.sum()) for mask in masks] == [max(0, 23 - 8 * n) for n in range(6)]
    for number in range(6):
        Image.new("L", (8, 8)).save(folder / f"s_{number}_mask_reader2.png")
    (patient,) = found(folder).values()
    assert list(patient.items) == [FLAIR] and len(patient.unused) == 2
    (row,) = write_table(tmp_path, Cohort([patient], [], []))
    assert f"P1/s_*{ending}.png (one of 2 that may be reference mask" in row["unused"]


def test_pictures_of_masks_alone_are_no_patient(tmp_path):
    for kind, plane in (("images", IMAGE), ("annotations", np.eye(8, dtype=np.uint8) * 255)):
        for n in (1, 2):
            Image.fromarray(plane).save(touch(tmp_path / "set" / kind / "P1") / f"{n}.png")
    cohort = find_patients([tmp_path / "set"])
    assert [patient.name for patient in cohort.patients] == ["P1"] and cohort.unused[0].kind == MASK


def test_a_set_of_the_decathlon_holds_its_sequences_in_one_file_as_its_dataset_json_says(tmp_path):
    folder = touch(tmp_path / "Task01_BrainTumour", "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")
    sequences = [np.arange(60, dtype=np.int16).reshape(3, 4, 5) * (5 * n + 3) % 47 for n in range(4)]
    image = sitk.JoinSeries([sitk.GetImageFromArray(stack) for stack in sequences])
    sitk.WriteImage(image, str(folder / "imagesTr" / "BRATS_001.nii.gz"))
    names = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
    (folder / "dataset.json").write_text(json.dumps(names))
    cohort = find_patients([folder])
    row, _ = write_table(tmp_path, cohort)
    file = "Task01_BrainTumour/imagesTr/BRATS_001.nii.gz"
    assert (row["patient"], row["flair"], row["mask"]) == ("BRATS_001", file, file.replace("images", "labels"))
    assert row["notes"].endswith("as dataset.json says: pre-contrast 1, FLAIR 0, post-contrast 2")
    for patient in (*cohort.patients, *find_patients([tmp_path / "cohort.csv"]).patients):
        scan, problems = read_patient(patient)
        assert problems == [] and not scan.grey
        alone = [read_scan("x", [write_volume(tmp_path / "x.nii", sequences[n])])[0].slices for n in (1, 0, 2)]
        assert np.array_equal(scan.slices, np.stack([np.array(stack)[..., 0] for stack in alone], axis=3))


def test_a_mask_of_somebody_else_is_nobodys(tmp_path):
    """P1 of another site, and P3, have lost their FLAIR; a mask called nothing lies above two scans."""
    names = ["site_1/P1_flair.nii", "site_2/P1_seg.nii", "site_2/P2_flair.nii", "masks/P3.nii", "P4/flair.nii",
             "P4/later/flair.nii", "P4/later/seg.nii", "P5/t1_seg.nii", "P5/flair.nii", "P6/a/flair.nii", "P6/seg.nii",
             "P6/b/flair.nii"]  # fmt: skip
    cohort = find_patients([touch(tmp_path / "coh", *names)])
    masks = {patient.name: patient.items[MASK].place for patient in cohort.patients if MASK in patient.items}
    assert masks == {"P4_later": tmp_path / "coh" / "P4" / "later" / "seg.nii"} and cohort.problems == []
    assert {item.place.name: item.reason for item in cohort.unused} == {
        "P1_seg.nii": "a mask that fits no image", "P3.nii": "a mask that fits no image",
        "seg.nii": "fits several scans: write it into the table",
    }  # fmt: skip
    assert [item.place.name for own in cohort.patients for item in own.unused] == ["t1_seg.nii"]


def test_a_gap_in_the_numbers_of_pictures_is_named(tmp_path):
    folder = touch(tmp_path / "coh", *(f"P1/s_{n}.png" for n in (1, 2, 3, 6, 7)), *(f"P2/{n}.png" for n in (0, 2, 4)))
    cohort = find_patients([folder])
    assert [len(patient.items[FLAIR].paths) for patient in cohort.patients] == [5, 3]
    assert len(cohort.problems) == 1 and "slices between s_3.png and s_6.png are missing" in cohort.problems[0]
    assert "s_3.png and s_6.png" in write_table(tmp_path, cohort)[0]["notes"]
    cohort = find_patients(sorted((folder / "P1").iterdir())[1:])  # as the user chose them
    assert cohort.problems == [] and write_table(tmp_path, cohort)[0]["flair"].count("|") == 3
    assert files(find_patients([tmp_path / "cohort.csv"])[0][0]) == files(cohort.patients[0])
