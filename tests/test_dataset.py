"""Find, check, decode and split slices."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, write_slice
from PIL import Image

import constants
from dataset import split
from dataset.folder import find_folder, find_slices
from dataset.preprocess import Preprocessing, preprocess
from dataset.published import PATIENTS_FILE, institution, published_patients
from dataset.slices import Slices, load_slices, read_image
from dataset.split import SPLITS, assign_fold, assign_patients, person_of, read_assignment, split_tables
from storage.run_folder import RunFolder
from utils import UserError, to_csv

# --- Find ------------------------------------------------------------------------------------------------------


def test_patients_are_sorted_by_name_and_slices_by_number(tmp_path):
    for patient in ("SYNTH_B", "SYNTH_A", "SYNTH_C"):
        for number in (10, 9, 2):
            write_slice(tmp_path, patient, number, tumour=False)
    table = find_slices(tmp_path)
    assert list(table.columns) == ["patient", "image_path", "mask_path"]
    images = [f"SYNTH_{patient}/SYNTH_{patient}_{number}.tif" for patient in "ABC" for number in (2, 9, 10)]
    assert table["image_path"].tolist() == images
    assert table["mask_path"].str.replace("_mask", "").equals(table["image_path"])


def test_a_nested_second_copy_and_the_files_of_other_programs_are_ignored(folder):
    before = find_slices(folder)
    assert find_folder(str(folder)) == find_folder(str(folder.parent)) == folder
    shutil.copytree(folder, folder / "lgg-mri-segmentation" / "kaggle_3m")
    for junk in ("__MACOSX", "@eaDir", "SYNTH_T_0/@eaDir", ".hidden"):
        (folder / junk).mkdir()
        (folder / junk / "SYNTH_T_0_1.tif").write_bytes(b"thumbnail")
    for name in ("data.csv", "Thumbs.db", "SYNTH_T_0/notes.txt", "SYNTH_T_0/._SYNTH_T_0_1.tif"):
        (folder / name).write_bytes(b"junk")
    assert find_slices(folder).equals(before)


def test_only_the_listed_patients(folder, tmp_path):
    names = ["SYNTH_T_3", "SYNTH_T_1", "SYNTH_T_0"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + ";\r\n".join(names).encode())  # of a spreadsheet
    assert split.read_patient_list(tmp_path / "list.txt") == sorted(names)
    assert find_slices(folder, names)["patient"].unique().tolist() == sorted(names)
    with pytest.raises(UserError, match=r"SYNTH_T_9: cannot be read \(No such file"):
        find_slices(folder, [*names, "SYNTH_T_9"])


def test_without_a_path_the_data_are_those_beside_the_code(folder, tmp_path, monkeypatch):
    assert ROOT / "lgg-mri-segmentation" / "kaggle_3m" == constants.DATA_DIR
    assert ROOT / "lgg-mri-segmentation" / "synthetic" == constants.SYNTHETIC_DIR
    monkeypatch.setattr(constants, "DATA_DIR", tmp_path / "real")
    monkeypatch.setattr(constants, "SYNTHETIC_DIR", tmp_path / "synthetic")
    monkeypatch.setattr("dataset.folder.write_patients", Path.mkdir)
    monkeypatch.chdir(folder)
    assert find_folder(None) == tmp_path / "synthetic" and (tmp_path / "synthetic").is_dir()
    (tmp_path / "real").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"real: a link to a folder that is gone. Restore"):
        find_folder(None)
    (tmp_path / "gone").mkdir()
    assert find_folder(None) == tmp_path / "real"


def test_unusual_ids_are_text_and_stay_unchanged(tmp_path):
    unusual = sorted(("=1+1", "001", "1e5", "NA", "true", "a,b", 'say "yes"', "äö ü", " blank "))
    for patient in unusual:
        write_slice(tmp_path / "set", patient, 1, tumour=False)
    table = find_slices(tmp_path / "set")
    assert table["patient"].tolist() == unusual
    run = RunFolder(tmp_path / "run")
    run.write("test.csv", to_csv(table).encode())
    assert run.read_split_table("test").equals(table)
    rows = pd.DataFrame(assign_patients(table["patient"]).items(), columns=["patient", "split"])
    (tmp_path / "split.csv").write_text(to_csv(rows), encoding="utf-8")
    assert sorted(read_assignment(tmp_path / "split.csv", table["patient"], tmp_path)[0]) == unusual


IMAGE, MASK = "SYNTH_T_1/SYNTH_T_1_2.tif", "SYNTH_T_1/SYNTH_T_1_2_mask.tif"


def save(path: Path, pixels: np.ndarray, **options) -> None:
    Image.fromarray(pixels).save(path, format="TIFF", **options)


def flip(path: Path) -> None:
    """Save a mask compressed, and change one byte of its pixels."""
    save(path, np.kron(np.eye(8, dtype=np.uint8) * 255, np.ones((32, 32), np.uint8)), compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x55
    path.write_bytes(content)


BLANK = np.zeros((256, 256, 3), np.uint8)
DAMAGE = (  # what is spoiled, how, and the error
    (MASK, Path.unlink, r"SYNTH_T_1_2\.tif: has no mask"),
    (IMAGE, Path.unlink, r"SYNTH_T_1_2_mask\.tif: has no image"),
    (MASK, flip, r"SYNTH_T_1_2_mask\.tif: cannot be read as a TIFF"),
    (IMAGE, lambda p: save(p, BLANK[:128]), "256x128 pixels, but an image must have 1 of RGB"),
    (MASK, lambda p: save(p, np.zeros((256, 256), np.uint16)), "of the mode I;16 and"),
    (MASK, lambda p: save(p, BLANK[..., 0] + np.arange(256, dtype=np.uint8)), r"the values 0, 1, 2, 3, 4, \.\.\."),
    (MASK, lambda p: save(p, BLANK[..., 0] + np.uint8(255)), "a mask of all four corners"),
    (IMAGE, lambda p: shutil.copy(p, p.with_name("SYNTH_T_1_02.tif")), "same slice as"),
    (IMAGE, lambda p: shutil.copy(p, p.with_name("SYNTH_T_9_9.tif")), "not named like a slice"),
    (IMAGE, lambda p: (p.parents[1] / "SYNTH_T_7").mkdir(), "SYNTH_T_7: holds no slices"),
    (IMAGE, lambda p: (p.parents[1] / "SYNTH_T_7").symlink_to("gone"), r"SYNTH_T_7: cannot be read \(No such file"),
)


def load_all(folder: Path) -> dict[str, Slices]:
    table = find_slices(folder)
    return load_slices(folder, split_tables(table, assign_patients(table["patient"])))


@pytest.mark.parametrize(("path", "spoil", "message"), DAMAGE)
def test_damage_is_one_error_that_names_the_file(folder, path, spoil, message):
    spoil(folder / path)
    with pytest.raises(UserError, match=message) as error:
        load_all(folder)
    assert "problems" not in str(error.value)  # one damage, one message


def test_what_a_folder_looks_like_that_is_not_one_of_patients(folder, tmp_path, monkeypatch):
    """One sentence with the folder or the script to take, and never to remove anything."""
    monkeypatch.chdir(folder / "SYNTH_T_1")
    for name in ("cohort/P1/flair.nii.gz", "dicom/P1/series/IM0001", "readme/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for wrong, message in (
        (tmp_path / "cohort", r"holds scans such as P1/flair\.nii\.gz, .* import_data\.py makes these of scans"),
        (tmp_path, rf"holds no patient folders; they are in {folder}\. Name it with --data"),
        (Path(), rf"holds no patient folders; they are in {folder}\. Name it with --data"),
        (tmp_path / "readme", r"holds no patient folders.*download_data.py"),
    ):
        with pytest.raises(UserError, match=message) as error:
            find_slices(wrong)
        assert len(str(error.value).splitlines()) == 1 and "emove" not in str(error.value)


def test_all_problems_in_one_report(folder):
    for name in ("SYNTH_T_0/SYNTH_T_0_1.tif", "SYNTH_T_4/SYNTH_T_4_2_mask.tif"):
        (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    with pytest.raises(UserError, match="2 problems") as error:
        load_all(folder)
    assert all(name in str(error.value) for name in ("T_0_1.tif", "T_4_2_mask.tif"))


def test_decoded_slices_are_the_pixels_of_the_files(folder):
    for patient, options in enumerate(({"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"})):
        path = folder / f"SYNTH_T_{patient}" / f"SYNTH_T_{patient}_2.tif"
        save(path, read_image(path), **options)
    loaded = load_slices(folder, {"all": find_slices(folder)})["all"]
    assert loaded.images.shape == (15, 256, 256, 3) and loaded.masks.shape == (15, 256, 256)
    for row in loaded.table.itertuples():
        assert np.array_equal(loaded.images[row.Index], np.asarray(Image.open(folder / row.image_path)))
        assert np.array_equal(loaded.masks[row.Index] * 255, np.asarray(Image.open(folder / row.mask_path)))


@pytest.mark.real
def test_the_12_real_patients(real):
    table = find_slices(real, published_patients(subset=True))
    loaded = load_slices(real, split_tables(table, assign_patients(table["patient"])))
    assert [len(loaded[split]) for split in SPLITS] == [178, 45, 113]
    empty = 1 - loaded["test"].masks.flatten(1).any(1).float().mean()
    assert round(float(empty) * 113) == 70  # an empty prediction scores 70/113 = 0.619, the published test IoU
    cropped = preprocess(loaded["train"], Preprocessing(crop=True))
    for rows, seen in cropped.batches(32):  # no tumour is outside of the head's window
        assert loaded["train"].masks[rows][(slice(None), *seen)].sum() == loaded["train"].masks[rows].sum()


# --- Split by patient -------------------------------------------------------------------------------------------------

FACTS = pd.read_csv(PATIENTS_FILE)  # all 110 patients of the set, and how many slices each


def sizes(facts: pd.DataFrame, assignment: dict[str, str]) -> list[tuple[int, int]]:
    of_patient = facts["patient"].map(assignment)
    return [(int((of_patient == s).sum()), int(facts["slices"][of_patient == s].sum())) for s in SPLITS]


def test_the_published_composition_of_all_110_and_of_the_12_patients():
    patients = FACTS["patient"].tolist()
    assert len(patients) == 110 and FACTS["slices"].sum() == 3929
    assert sizes(FACTS, assign_patients(patients)) == [(79, 2769), (20, 756), (11, 404)]
    assert assign_patients(patients) == assign_patients(patients[::-1] + patients)  # in whatever order
    subset = FACTS[FACTS["in_subset"] == 1]
    assert len(subset) == 12 and subset["slices"].sum() == 336
    assignment = assign_patients(subset["patient"])
    assert sizes(subset, assignment) == [(8, 178), (2, 45), (2, 113)]
    assert sorted(p for p, s in assignment.items() if s == "test") == ["TCGA_CS_6186_20000601", "TCGA_HT_A61A_20000127"]


@pytest.mark.parametrize(("patient", "person"), [
    ("PAT_02_20190101", "PAT_02"), ("TCGA_CS_4942_19970222", "TCGA_CS_4942"),
    ("sub-01_ses-preop", "sub-01"), ("sub-01_2019-01-31", "sub-01"),
    ("Patient-001_week-000-1", "Patient-001"), ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
    ("RHUH-0001_2", "RHUH-0001"), ("images_structural_UPENN-GBM-00001_11", "images_structural_UPENN-GBM-00001"),
    ("100002_time1", "100002"), ("P001_Time_1", "P001"), ("P1_pre", "P1"), ("P1_T2", "P1"), ("P1-followup2", "P1"),
    *((own, own) for own in ("LGG_10000001", "P_12", "20190101", "UCSF-PDGM-0004", "A-week", "RHUH_12", "A_1")),
])  # fmt: skip
def test_ids_of_one_person(patient, person):
    assert person_of(patient) == person


def test_only_ids_of_tcga_name_an_institution():
    assert [institution(patient) for patient in ("TCGA_CS_4942_19970222", "TCGA-HT-A61A")] == ["CS", "HT"]
    own = ("UKE_0001_ses1", "SYNTH_XX_0001_20000101", "TCGAX_AB_1", "P_1_2")
    assert {institution(patient) for patient in own} == {"unknown"}


def test_a_person_is_on_one_side_of_any_split_or_fold():
    """15 of 20 persons have two scans, a year apart."""
    patients = [f"PAT_{n:02d}_{year}0101" for n in range(20) for year in (2019, 2020)[: 1 + (n < 15)]]
    for assignment in (assign_patients(patients), *(assign_fold(patients, k, 4) for k in (1, 2, 3, 4))):
        assert sorted(assignment) == patients
        assert len({(person_of(patient), split) for patient, split in assignment.items()}) == 20
    several = "15 of 20 persons have several scans by their ids, such as PAT_00 (PAT_00_20190101, PAT_00_20200101)"
    assert split.describe_persons(patients) == several
    with pytest.raises(UserError, match=r"2 persons, too few for .* columns patient, person and split"):
        assign_patients([*patients[:3], patients[0]])


def test_persons_of_a_saved_assignment(folder, tmp_path):
    """By their ids, or where ids do not say it by a column."""
    path, rows = tmp_path / "split.csv", ["A_20190101,train", "A_20200101,test", "B,validation"]
    patients = [row.split(",")[0] for row in rows]
    path.write_text("\n".join(["patient,split", *rows]))
    with pytest.raises(UserError, match=r"scans of A are in several splits \(A_20190101 in train, A_20200101 in"):
        read_assignment(path, patients, folder)
    path.write_text("\n".join(["patient,split,person", *(f"{row},{n}" for n, row in enumerate(rows))]))
    assert read_assignment(path, patients, folder)[0]["A_20200101"] == "test"
    path.write_text("\n".join(["patient,split,person", *(f"{row}," for row in rows)]))  # nothing said: by their ids
    with pytest.raises(UserError, match="scans of A are in several splits"):
        read_assignment(path, patients, folder)
    rows = ["A_20190101,test,A", "A_20200101,test,A", "B,train,D", "C,train,D", "E,validation,E"]
    path.write_text("\n".join(["patient,split,person", *rows]))
    (warning,) = read_assignment(path, ["A_20190101", "A_20200101", "B", "C", "E"], folder)[1]
    assert warning.startswith("the ids of D do not say that their scans are of one person")


@pytest.mark.parametrize(("content", "message"), [
    ("patient,split\nSYNTH_T_0,train\nSYNTH_T_1,validation\n", "SYNTH_T_2: is not named in"),
    ("patient,split\nSYNTH_T_0,train\nSYNTH_T_0,test\n", "line 3: SYNTH_T_0 is named twice"),
    ("patient\tsplit\nSYNTH_T_0\ttrain\n", "has no column patient, split"),
    ("patient,split\nSYNTH_T_0,train,seen\n", "its lines hold more values than its first one names columns"),
    ("patient,split\n\n\nSYNTH_T_1,trian\n", "line 4: 'trian' is no split"),
])  # fmt: skip
def test_a_bad_assignment_is_refused(folder, tmp_path, content, message):
    path = tmp_path / "split.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_assignment(path, find_slices(folder)["patient"], folder)
