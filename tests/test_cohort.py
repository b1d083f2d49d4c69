"""Whole cohorts: which files are one patient's, how patients are named, and which file is taken for which sequence."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_volume

from constants import FLAIR, POST, PRE
from scans.cohort import find_patients
from scans.items import Patient
from scans.names import MASK, OTHER, channels_of_set, kind_of
from utils import UserError


def touch(folder: Path, *names: str) -> Path:
    """Make empty files, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*inputs: Path, **patterns: str) -> dict[str, Patient]:
    """Return the patients of inputs in which nothing is wrong."""
    kinds = {"pre": PRE, "post": POST, "mask": MASK}
    patients, problems, _ = find_patients(inputs, {kinds[name]: pattern for name, pattern in patterns.items()})
    assert problems == []
    return {patient.name: patient for patient in patients if FLAIR in patient.items}


def files(patient: Patient) -> dict[str, list[str]]:
    """Return the names of a patient's files."""
    names = {FLAIR: "flair", PRE: "pre", POST: "post", MASK: "mask"}
    return {names[kind]: [path.name for path in item.paths] for kind, item in patient.items.items()}


def test_files_are_grouped_into_patients(tmp_path):
    """What other programs leave, and an earlier prediction of ours, are passed over."""
    folder = touch(tmp_path / "all", "1_10.png", "1_9.tif", "1_9_mask.tif", "notes.txt", ".hidden.png", "x_overlay.png",
                   "b/1.jpg", ".cache/1.png", "a/x.nii.gz", "a/deep/1.png", "b/X.npy", "c/s.nrrd", "Thumbs.db",
                   "@eaDir/1_9.tif", "out/prediction.json", "out/all/all_mask.npy")  # fmt: skip
    (folder / "loop.txt").symlink_to("loop.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    patients, problems, _ = find_patients([folder, folder / "1_10.png", folder / "notes.txt", folder / "no.png"])
    assert [(patient.name, files(patient)) for patient in patients] == [
        ("all", {"flair": ["1_9.tif", "1_10.png"], "mask": ["1_9_mask.tif"]}), ("a_x", {"flair": ["x.nii.gz"]}),
        ("a_deep", {"flair": ["1.png"]}), ("b", {"flair": ["1.jpg"]}), ("b_X", {"flair": ["X.npy"]}),
        ("c_s", {"flair": ["s.nrrd"]}),
    ]  # fmt: skip
    assert [problem.split(": ")[1][:12] for problem in problems] == ["cannot be op", "nothing to r", "no such file"]
    lesions = touch(tmp_path / "groups", "lesion/P1/flair.nii", "control/P2/flair.nii")
    patients, problems, _ = find_patients([lesions])
    assert len(patients) == 1 and "flair.nii: FLAIR by its name, a mask by its folder. Rename one" in problems[0]
    patients, problems, _ = find_patients([touch(tmp_path / "only", "a/x_seg.nii", "masks/1.png")])
    assert patients == [] and len(problems) == 1 and "nothing is FLAIR by its name or its values" in problems[0]


# --- Names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "whose", "kind"), [
    ("x_T2_FLAIR", "x", FLAIR), ("113-02-FLAIR_processed_reg", "113-02_processed_reg", FLAIR),
    ("T1_to_FLAIR", "", PRE), ("sub-1_space-FLAIR_T1w", "sub-1", PRE),
    ("t1-gd", "", POST), ("x_post-contrast", "x", POST), ("x_pd", "x", OTHER),
    ("P 1 T1 post", "P 1", POST), ("T2 FLAIR", "", FLAIR), ("t2_tirm_tra_dark-fluid", "t2_tirm_tra", FLAIR),
    ("BrainTumor_1_seg", "BrainTumor_1", MASK), ("x_brain_tumor_seg", "x_brain_tumor", MASK),
    ("Betty_seg", "Betty", MASK), ("flair_bet_mask", "flair_bet", OTHER), ("bet_flair_mask", "bet_flair", OTHER),
    ("x_T1brainMask", "x_T1brain", OTHER), ("mask_brain", "brain", OTHER),
    ("skull-stripped_mask", "skull-stripped", OTHER),
    ("mask_x_flair", "x_flair", MASK), ("x_flair_mask_reader2", "x_flair", MASK), ("labelsTr", "", MASK),
    *((name, name, None) for name in ("scan", "p_post", "P1_pre", "TCGA_CS_4941_19960909", "flair2", "reflair",
                                      "T1b", "pre_x", "PD_12", "GT_003", "unmasked", "segment")),
])  # fmt: skip
def test_names_say_a_sequence_or_a_mask_or_neither(name, whose, kind):
    assert kind_of(name) == (whose, kind)


@pytest.mark.parametrize(("names", "patients"), [
    (["a/flair.nii.gz", "b/flair.nii.gz"], ["a", "b"]),
    (["P1/FLAIR/1.png", "P1/FLAIR/2.png", "P2/FLAIR/1.png"], ["P1", "P2"]),
    (["flair/p1.nii.gz", "flair/p2.nii.gz", "t1/p1.nii.gz"], ["p1", "p2"]),
    (["wmh/1_FLAIR.nii", "wmh/2_FLAIR.nii", "wmh/1_wmh.nii"], ["wmh_1", "wmh_2"]),
    (["site_1/p/flair.npy", "site_2/p/flair.npy"], ["site_1_p", "site_2_p"]),
    (["p1.npy", "p10.npy", "P1/p10.npy"], ["p1", "p10", "P1_p10"]),
    (["P1/pre/flair.nii", "P1/post/flair.nii", "P1/pre/t1.nii", "P1/post/t1.nii"], ["P1_pre", "P1_post"]),
    (["P2/DICOM/flair.nii", "P2/NIFTI/flair.nii"], ["P2", "P2_2"]),
    (["P3/flair.nii", "P3/pre/t1.nii"], ["P3"]),
    (["kaggle_3m/TCGA_1/TCGA_1_1.tif", "kaggle_3m/TCGA_1/TCGA_1_1_mask.tif"], ["kaggle_3m_TCGA_1"]),
    (["001_FLAIR/x.nii.gz", "002_FLAIR/x.nii.gz"], ["001_x", "002_x"]),
    (["FLAIR_1/x.nii.gz", "FLAIR_2/x.nii.gz", "T1_1/x.nii.gz", "T1_2/x.nii.gz"], ["1_x", "2_x"]),
], ids=lambda value: value[0])  # fmt: skip
def test_patients_are_named_by_their_place(tmp_path, names, patients):
    own = found(touch(tmp_path / "coh", *names))
    assert set(own) == set(patients)
    assert sum(len(paths) for patient in own.values() for paths in files(patient).values()) == len(names)  # all is used
    alone = touch(tmp_path / "other" / "coh", names[0])
    assert list(found(alone)) == patients[:1]  # whoever else is there
    (patient,) = found(touch(tmp_path / "TumorSegmentation", "flair.nii") / "flair.nii").values()
    assert list(patient.items) == [FLAIR]


def test_files_that_are_named_one_by_one_are_named_alike(tmp_path):
    folder = touch(tmp_path, "b/flair.nii.gz", "b/t1.nii.gz", "a/x.npy", "b/x.npy", "b/x.nii")
    both = found(*sorted(folder.glob("*/*.nii.gz")))["b"]
    assert files(both) == {"flair": ["flair.nii.gz"], "pre": ["t1.nii.gz"]}
    numbered = found(*sorted(folder.glob("*/x.n*")))
    assert list(numbered) == ["x", "x_2", "x_3"] and numbered["x_2"].notes == ["another one is called x, too"]


def test_of_a_bids_data_set_the_scans_as_taken_are_read(tmp_path):
    scans = ["sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_T1w.nii.gz"]
    others = ["derivatives/prep/sub-1/anat/sub-1_desc-x_FLAIR.nii.gz", "sourcedata/sub-1/flair.nii.gz", "code/logo.png"]
    folder = touch(tmp_path / "set", *scans, *others)
    assert len(found(folder)) == 4  # no such data set: they may be names of anything
    (folder / "dataset_description.json").write_text("{}")
    assert list(found(folder)) == ["sub-1"] and list(found(folder / "derivatives")) == ["prep_sub-1_desc-x"]


def test_a_set_of_nnunet_says_in_its_dataset_json_which_channel_is_which(tmp_path):
    names = [f"imagesTr/p{n}_000{channel}.nii.gz" for n in (1, 2) for channel in range(4)]
    folder = touch(tmp_path / "Dataset1_x", *names, "labelsTr/p1.nii.gz")
    unclear = find_patients([folder])  # without it none is guessed
    assert unclear.patients == [] and len(unclear.problems) == 1 and len(unclear.unused) == 9
    channels = {"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}}
    (folder / "dataset.json").write_text(json.dumps(channels))
    channels_of_set.cache_clear()
    patients = found(folder)
    expected = {"flair": ["p1_0003.nii.gz"], "pre": ["p1_0000.nii.gz"], "post": ["p1_0001.nii.gz"]}
    assert list(patients) == ["p1", "p2"] and files(patients["p1"]) == expected | {"mask": ["p1.nii.gz"]}
    assert "mask" not in files(patients["p2"])


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    folder = touch(tmp_path / "coh", "a/flair.nii")
    (folder / "a" / "again").symlink_to(folder)
    (folder / "a" / "far").symlink_to(tmp_path)
    (touch(tmp_path / "linked") / "b").symlink_to(folder / "a")
    assert list(found(folder)) == ["a"] and list(found(tmp_path / "linked")) == ["b"]


def test_a_patient_without_flair_is_named_and_the_others_are_read(tmp_path):
    """As in IXI and BraTS-MEN-RT."""
    folder = touch(tmp_path, "a/flair.nii", "b/t1.nii", "b/t1ce.nii", "c/t1.nii", "c/t1n.nii", "c/flair.nii",
                   "IXI002-Guys-T1.nii", "IXI002-Guys-PD.nii", "MEN-RT-1/MEN-RT-1_t1c.nii")  # fmt: skip
    patients, problems, _ = find_patients([folder])
    assert [patient.name for patient in patients if FLAIR not in patient.items] == ["IXI002-Guys", "MEN-RT-1", "b"]
    assert ["no FLAIR" in problem for problem in problems] == [True] * 3 + [False]
    assert problems[2].startswith(f"{folder / 'b'}: no FLAIR") and "beside t1.nii, t1ce.nii" in problems[2]
    assert "t1.nii and t1n.nii are both pre-contrast. Name one with --pre" in problems[3]


# --- Patterns and tables ---------------------------------------------------------------------------------------


def test_a_pattern_names_a_sequence_or_the_mask_of_each_patient(tmp_path):
    apart = touch(tmp_path / "apart", "a/main.nii", "a/early.nii", "b/main.nii", "b/early.nii", "b/early.json")
    assert [files(patient)["pre"] for patient in found(apart, pre="early*").values()] == [["early.nii"]] * 2
    kinds = ("flair", "early", "late", "t1", "drawn")
    flat = touch(tmp_path / "flat", *(f"p{n}_{kind}.nii" for n in (1, 10) for kind in kinds))
    for n, patient in found(flat, pre="*_early*", post="*late.nii", mask="*_drawn.nii").items():
        expected = {"flair": "flair", "pre": "early", "post": "late", "mask": "drawn"}
        assert files(patient) == {kind: [f"{n}_{name}.nii"] for kind, name in expected.items()}
    (apart / "b" / "early.nii").unlink()
    patients, problems, _ = find_patients([apart], {PRE: "early*.nii"})
    assert [(patient.name, PRE in patient.items) for patient in patients] == [("a_main", True), ("b_main", False)]
    assert len(problems) == 1 and problems[0].startswith("b_main: no file matches early*.nii beside it. Name another")
    (flat / "p10_early.nii").unlink()  # p10 takes none of p1
    assert [PRE in patient.items for patient in find_patients([flat], {PRE: "*_early*"}).patients] == [False, True]


def test_one_patient_takes_the_files_that_options_name(tmp_path):
    folder = touch(tmp_path, "P1/scan.nii", "other/early.nii", "P2/scan.nii")
    pre = str(folder / "other" / "early.nii")
    assert files(found(folder / "P1", pre=pre)["P1"]) == {"flair": ["scan.nii"], "pre": ["early.nii"]}
    with pytest.raises(UserError, match=r"no.nii: no such file or folder. Name another."):
        find_patients([folder / "P1"], {PRE: "no.nii"})
    with pytest.raises(UserError, match="is one file for 2 patients"):
        find_patients([folder / "P1", folder / "P2"], {PRE: pre})


def test_mistakes_in_a_table_are_named_with_their_line(tmp_path):
    touch(tmp_path, "1.nii")
    table = tmp_path / "cohort.csv"
    table.write_text("patient,flair,pre\n../x,1.nii,\na,1.nii,\nA,1.nii,\nb,no.nii,\nc,1.nii,no.nii\n")
    patients, problems, _ = find_patients([table])
    assert [patient.name for patient in patients] == ["a"]
    starts = [problem.removeprefix(f"{table}, line ") for problem in problems]
    assert [start[:2] for start in starts] == ["2:", "4:", "5:", "6:"]
    assert all("no.nii: no such" in start for start in starts[2:])
    table.write_text("patient,image\na,1.nii\n")
    with pytest.raises(UserError, match="has no column flair"):
        find_patients([table])


# --- Public sets -----------------------------------------------------------------------------------------------

SETS = {  # by scan (@): folder, then FLAIR, pre-contrast, post-contrast and mask (- for none), then what is not used
    "BraTS to 2021": {"x{n}": "@ @_flair @_t1 @_t1ce @_seg @_t2"},
    "BraTS from 2023": {"x{n}": "@ @-t2f @-t1n @-t1c @-seg @-t2w"},
    "BIDS": {"sub-{n}_ses-1": "sub-{n}/ses-1/anat @_FLAIR @_T1w @_ce-GAD_T1w @_dseg @_T2w"},
    "numbered": {"P1": "@ 4_FLAIR/4_FLAIR 1_T1/1_T1"},  # of one patient: folders of sequences name nobody
    "3D Slicer": {"P{n}": "@ fla pre post Segmentation.seg dwi"},
    "sequence first": {"P{n}": "@ T2_FLAIR_@ T1_@ T1_post_@ seg-@_flair flair_brain_mask"},
    **{name: {"P{n}": f"@ flair - - {name}"} for name in ("wmh", "tumorMask", "lesion", "Consensus", "x_ROI", "gtv")},
    **{name: {"P{n}": f"images @ - - ../{name}/@"} for name in ("masks", "seg", "annotations", "labelsTr")},
    "RHUH-GBM": {"RHUH-{n}_0": "RHUH-{n}/0 @_flair @_t1 @_t1ce @_segmentations @_adc"},
    "MU-Glioma-Post": {"P{n}_Time_1": "P{n}/Time_1 @_brain_t2f @_brain_t1n @_brain_t1c @_tumorMask @_brain_t2w"},
    "LUMIERE": {"P{n}_week-1": "Imaging/P{n}/week-1 FLAIR T1 CT1 - T2 X-segmentation/atlas/segmentation/seg_mask "
                "X-segmentation/atlas/skull_strip/flair_skull_strip Y-AUTO-segmentation/registered/segmentation"},
    "UPENN-GBM": {"images_structural_GBM-{n}_11": "images_structural/GBM-{n}_11 GBM-{n}_11_FLAIR GBM-{n}_11_T1 "
                  "GBM-{n}_11_T1GD ../../images_segm/GBM-{n}_11_segm ../../automated_segm/GBM-{n}_11_automated_segm "
                  "../../images_DTI/GBM-{n}_11/GBM-{n}_11_DTI_FA"},
    "Erasmus (EGD)": {"EGD-{n}": "@ 4_FLAIR/NIFTI/FLAIR 1_T1/NIFTI/T1 2_T1GD/NIFTI/T1GD 5_MASK/NIFTI/MASK "
                      "3_T2/NIFTI/T2"},
    "UCSF post-operative": {f"10{{n}}_time{t}": "10{n} @_flair @_t1 @_t1ce @_seg @_t1ce-t1 @_t2" for t in (1, 2)},
    "TCGA-LGG as NIfTI": {"TCGA-CS-{n}": "@ @_1997.02.22_flair @_1997.02.22_t1 @_1997.02.22_t1Gd "
                          "@_1997.02.22_GlistrBoost_ManuallyCorrected @_1997.02.22_GlistrBoost"},
    "UCSF-PDGM": {"UCSF-PDGM-{n}": "@_nifti @_FLAIR @_T1 @_T1c @_tumor_segmentation @_brain_segmentation @_FLAIR_bias"},
    "DeepMedic": {"pat{n}": "@ Flair_subtrMean T1_subtrMean T1c_subtrMean OTMultiClass brainmask"},
    "readers": {"P{n}": "@ flair t1 - corrected_mask GOLD_STANDARD auto_seg flair_bet_mask brain_mask"},
    "BraTS 2015": {"HGG_pat{n}_1": "HGG/pat{n}_1 MR_Flair.512/MR_Flair.512 MR_T1.513/MR_T1.513 MR_T1c.514/MR_T1c.514 "
                   "- VSD.Brain_3more.OT.517/VSD.Brain_3more.OT.517"},
    "BraTS 2020, case 355": {"B20_{n}": "@ @_flair @_t1 @_t1ce W39_1998.09.19_Segm @_t2"},
    "Rembrandt": {"case_{n}": "@ flair_LPS_rSRI t1_LPS_rSRI t1Gd_LPS_rSRI GlistrBoost"},
    "ISBI 2015": {"training{n}_preprocessed_training{n}_01_pp": "training{n}/preprocessed training{n}_01_flair_pp - - "
                  "- training{n}_01_mprage_pp training{n}_01_pd_pp"},
    "OpenNeuro ds004199": {"sub-{n}": "@/anat @_acq-T2sel_FLAIR @_acq-iso08_T1w - @_acq-T2sel_FLAIR_roi"},
    "ISLES 2022": {"sub-{n}_ses-1": "sub-{n}/ses-1 anat/@_FLAIR - - ../../derivatives/sub-{n}/ses-1/@_msk dwi/@_dwi"},
    "WMH challenge": {f"GE3T_{{n}}_{stage}": f"GE3T/{{n}}/{stage} FLAIR T1 - - 3DT1 3DT1_mask ../wmh"
                      for stage in ("orig", "pre")},
    "MSSEG 2016": {f"Patient_{{n}}_{folder}": f"Patient_{{n}}/{folder} {names} ../Masks/Consensus ../Masks/Brain_Mask"
                   for folder, names in (("Raw_Data", "3DFLAIR 3DT1 3DT1GADO - DP T2"), (
                       "Preprocessed_Data", "FLAIR_preprocessed T1_preprocessed GADO_preprocessed - DP_preprocessed"))},
}  # fmt: skip


@pytest.mark.parametrize("scans", SETS.values(), ids=SETS)
def test_of_a_public_set_each_file_is_taken_for_whom_it_shows_or_listed_with_a_reason(tmp_path, scans):
    """Names say what shows a tumour, but for some whose values do."""
    labels, expected, every = np.zeros((3, 6, 6), np.uint8), {}, set()
    labels[1, 2, 2:5] = 1, 2, 4
    for name, line in ((scan.format(n=n), line.format(n=n)) for n in ("001", "002") for scan, line in scans.items()):
        folder, *names = line.replace("@", name).split()
        paths = [name == "-" or (tmp_path / "set" / folder / f"{name}.nii.gz").resolve() for name in names]
        for path in set(paths) - {True}:
            drawn = re.search("Boost|OT|Consensus|annotations", str(path.relative_to(tmp_path)))
            write_volume(path, labels if drawn else 99 + labels)
        expected[name] = [path for path in paths[:4] if path is not True]
        every |= {*paths} - {True}
    patients, problems, unused = find_patients([tmp_path / "set"])
    taken = {own.name: [own.items[k].place for k in (FLAIR, PRE, POST, MASK) if k in own.items] for own in patients}
    assert problems == [] and taken == expected
    left = [item for patient in patients for item in patient.unused] + unused
    assert {item.place for item in left} == every - {path for own in taken.values() for path in own}
    assert all(item.reason for item in left)
