"""Whole cohorts: which files are one patient's, how patients are named, and what is taken for which sequence."""

import json
from pathlib import Path

import pytest
from PIL import Image

from constants import POST, PRE
from scans.cohort import find_sources
from scans.names import kind_of
from scans.scan import Source

nibabel = pytest.importorskip("nibabel")
STANDS_IN = "; FLAIR stands in for post-contrast"


def touch(folder: Path, *names: str) -> Path:
    """Make empty files, and return the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(*inputs: Path, **options: str) -> dict[str, Source]:
    """Return the patients of inputs in which nothing is wrong."""
    sources, problems = find_sources(inputs, **options)
    assert problems == []
    return {source.name: source for source in sources}


def test_the_folder_above_by_two_dots(tmp_path, monkeypatch):
    (tmp_path / "p1" / "sub").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "p1" / "1.png")
    monkeypatch.chdir(tmp_path / "p1" / "sub")
    assert list(found(Path(".."))) == ["p1"]


def of(source: Source) -> tuple[list[str], dict[int, list[str]], list[str]]:
    """Return the names of a patient's files: of the stack to segment, of other sequences, of masks."""
    others = {channel: [path.name for path in paths] for channel, paths in source.others.items()}
    return [path.name for path in source.paths], others, [path.name for path in source.masks]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/flair.nii.gz", "b/flair.nii.gz"], ["a", "b"]),
        (["P1/FLAIR/1.png", "P1/FLAIR/2.png", "P2/FLAIR/1.png"], ["P1", "P2"]),
        (["sub-01/anat/sub-01_FLAIR.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz"], ["sub-01", "sub-02"]),
        (["sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz"],
         ["sub-01_ses-1", "sub-01_ses-2"]),
        (["BraTS20_001/BraTS20_001_flair.nii", "BraTS20_002/BraTS20_002_flair.nii"], ["BraTS20_001", "BraTS20_002"]),
        (["flair/p1.nii.gz", "flair/p2.nii.gz", "t1/p1.nii.gz"], ["p1", "p2"]),
        (["site_1/p/flair.npy", "site_2/p/flair.npy"], ["site_1_p", "site_2_p"]),
        (["a/x.npy", "a/x.nii.gz"], ["a_x.npy", "a_x.nii.gz"]),
        (["p1.npy", "p10.npy", "P1/p10.npy"], ["p1", "p10", "P1_p10"]),
    ],
    ids=lambda value: value[0],
)  # fmt: skip
def test_patients_are_named_by_their_place(tmp_path, files, names):
    folder = touch(tmp_path / "coh", *files)
    assert set(found(folder)) == set(names)
    if "x.npy" not in files[0]:
        alone = touch(tmp_path / "other" / "coh", files[0])
        assert list(found(alone)) == names[:1]  # whoever else is there


def test_names_that_say_little_name_a_patient_only_where_nothing_else_does(tmp_path):
    folder = touch(tmp_path / "coh", "a/scan.nii", "b/nifti/scan.nii", "c/images/1.png", "scan.nii", "anat/t1.nii")
    assert list(found(folder)) == ["scan", "a", "coh", "b", "c"]
    assert list(found(folder / "a" / "scan.nii", folder / "scan.nii")) == ["a_scan", "coh_scan"]
    assert list(found(folder / "c" / "images" / "1.png")) == list(found(folder / "c" / "images")) == ["images"]


def test_files_that_are_named_one_by_one_are_named_alike(tmp_path):
    folder = touch(tmp_path, "a/flair.nii.gz", "b/flair.nii.gz", "b/t1.nii.gz", "a/x.npy", "b/x.npy")
    assert list(found(folder / "b" / "flair.nii.gz")) == list(found(folder / "b" / "t1.nii.gz")) == ["b"]
    both = found(*sorted(folder.glob("*/*.nii.gz")))
    assert {name: of(source) for name, source in both.items()} == {
        "a": (["flair.nii.gz"], {}, []),
        "b": (["flair.nii.gz"], {PRE: ["t1.nii.gz"]}, []),
    }
    assert list(found(*sorted(folder.glob("*/x.npy")))) == ["a_x", "b_x"]


@pytest.mark.parametrize(
    ("flair", "pre", "post", "seg", "unused"),
    [
        ("x_flair.nii", "x_t1.nii", "x_t1ce.nii", "x_seg.nii", "x_t2.nii"),  # BraTS to 2021
        ("x-t2f.nii", "x-t1n.nii", "x-t1c.nii", "x-seg.nii", "x-t2w.nii"),  # BraTS from 2023
        ("x_FLAIR.nii", "x_T1w.nii", "x_ce-GAD_T1w.nii", "x_dseg.nii", "x_T2w.nii"),  # BIDS
        ("FLAIR.npy", "T1.npy", "T1_post.npy", "FLAIR_mask.npy", "T2.npy"),
        ("flair.npy", "pre.npy", "post.npy", "mask.npy", "dwi.npy"),
        ("T2_FLAIR_x.npy", "T1_x.npy", "T1_post_x.npy", "seg-x_flair.npy", "T2_x.npy"),
        ("x_flair.npy", "x_t1.npy", "x_t1ce.npy", "x_segmentation.npy", "x_dwi.npy"),
        ("x_flair.npy", "x_pre-contrast.npy", "x_post-contrast.npy", "x_GT.npy", "x_pd.npy"),
    ],
)
def test_the_sequences_of_a_patient_belong_together_and_no_mask_is_segmented(tmp_path, flair, pre, post, seg, unused):
    folder = touch(tmp_path / "coh", *(f"x/{name}" for name in (flair, pre, post, seg, unused)))
    (source,) = found(folder).values()
    assert source.name == "x" and of(source) == ([flair], {PRE: [pre], POST: [post]}, [seg])
    assert source.notes == [
        f"sequences: pre-contrast {pre} (by its name), FLAIR {flair}, post-contrast {post} (by its name)",
        f"not used: {unused}",
    ]


def test_of_a_bids_data_set_the_scans_as_taken_are_read(tmp_path):
    scans = ["sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_T1w.nii.gz"]
    others = ["derivatives/prep/sub-1/anat/sub-1_desc-x_FLAIR.nii.gz", "sourcedata/sub-1/flair.nii.gz", "code/logo.png"]
    folder = touch(tmp_path / "set", *scans, *others)
    assert len(found(folder)) == 4  # no such data set: they may be names of anything
    (folder / "dataset_description.json").write_text("{}")
    assert list(found(folder)) == ["sub-1"] and list(found(folder / "derivatives")) == ["prep_sub-1_desc-x"]


def test_names_that_say_no_sequence():
    for name in (
        "scan",
        "p_post",
        "P1_pre",
        "TCGA_CS_4941_19960909",
        "x_1",
        "flair2",
        "reflair",
        "T1b",
        "pre_x",
        "GT_1",
    ):
        assert kind_of(name) == (name, None)


def test_a_set_of_nnunet_says_in_its_dataset_json_which_channel_is_which(tmp_path):
    files = [f"imagesTr/p{n}_000{channel}.nii.gz" for n in (1, 2) for channel in range(4)]
    folder = touch(tmp_path / "Dataset1_x", *files, "labelsTr/p1.nii.gz", "labelsTr/p2.nii.gz")
    assert len(found(folder / "imagesTr")) == 8  # numbers alone may be those of patients
    names = {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"}
    other = touch(tmp_path / "Dataset2_x", *files, "labelsTr/p1.nii.gz")
    (other / "dataset.json").write_text(json.dumps({"channel_names": names}))
    sources = found(other)
    files = ["p1_0003.nii.gz"], {PRE: ["p1_0000.nii.gz"], POST: ["p1_0001.nii.gz"]}, ["p1.nii.gz"]
    assert list(sources) == ["p1", "p2"] and of(sources["p1"]) == files and of(sources["p2"])[2] == []


def test_masks_and_what_other_programs_leave_are_passed_over(tmp_path):
    folder = touch(tmp_path / "P1", "P1_1.tif", "P1_1_mask.tif", "P1_2.tif", "P1_2_overlay.png", "@eaDir/P1_1.tif",
                   "lost+found/P1_1.tif", "__MACOSX/P1_1.tif", "Thumbs.db")  # fmt: skip
    (source,) = found(folder).values()
    assert of(source) == (["P1_1.tif", "P1_2.tif"], {}, ["P1_1_mask.tif"])
    touch(tmp_path / "only", "a/x_seg.nii", "masks/1.png")
    sources, problems = find_sources([tmp_path / "only"])
    assert sources == [] and len(problems) == 1 and "no image that is not a mask by its name" in problems[0]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path):
    folder = touch(tmp_path / "coh", "a/flair.nii")
    (folder / "a" / "again").symlink_to(folder)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "b").symlink_to(folder / "a")  # as download_data.py links patients
    assert list(found(folder)) == ["a"] and list(found(tmp_path / "linked")) == ["b"]


def test_a_patient_without_flair_is_named_and_the_others_are_read(tmp_path):
    folder = touch(tmp_path, "a/flair.nii", "b/t1.nii", "b/t1ce.nii", "c/t1.nii", "c/t1n.nii", "c/flair.nii")
    sources, problems = find_sources([folder])
    assert [source.name for source in sources] == ["a"]
    assert problems[0].startswith(f"{folder / 'b'}: no FLAIR") and "beside t1.nii, t1ce.nii" in problems[0]
    assert "t1.nii and t1n.nii are both pre-contrast. Name one with --pre" in problems[1]


# --- Patterns and tables ---------------------------------------------------------------------------------------


def test_a_pattern_names_a_sequence_of_each_patient(tmp_path):
    apart = touch(tmp_path / "apart", "a/main.nii", "a/early.nii", "b/main.nii", "b/early.nii", "b/early.json")
    sources = found(apart, pre="early*")
    assert {name: of(source)[1] for name, source in sources.items()} == {
        "a_main": {PRE: ["early.nii"]}, "b_main": {PRE: ["early.nii"]}
    }  # fmt: skip
    assert sources["a_main"].notes == [f"sequences: pre-contrast early.nii (--pre), FLAIR main.nii{STANDS_IN}"]
    flat = touch(tmp_path / "flat", *(f"p{n}_{kind}.nii" for n in (1, 10) for kind in ("flair", "early", "late", "t1")))
    assert {name: of(source)[1] for name, source in found(flat, pre="*_early*", post="*late.nii").items()} == {
        "p1": {PRE: ["p1_early.nii"], POST: ["p1_late.nii"]}, "p10": {PRE: ["p10_early.nii"], POST: ["p10_late.nii"]}
    }  # fmt: skip
    folders = touch(tmp_path / "folders", "P1/FLAIR/1.png", "P1/early/1.png")
    assert of(found(folders, pre="ear*")["P1"]) == (["1.png"], {PRE: ["1.png"]}, [])
    (apart / "b" / "early.nii").unlink()
    sources, problems = find_sources([apart], pre="early*.nii")
    assert [source.name for source in sources] == ["a_main"]
    assert problems == [
        f"{apart / 'b' / 'main.nii'}: no file matches --pre early*.nii beside it. Name a pattern that fits one for "
        "each patient, or list the files of each patient in a table (patient,flair,pre,post)."
    ]
    none = touch(tmp_path / "none", "s1_fl.nii", "s1_a.nii", "s2_fl.nii", "s2_a.nii")
    assert {n: of(source)[1] for n, source in found(none, pre="*_a.nii").items()} == {
        "s1_fl": {PRE: ["s1_a.nii"]}, "s2_fl": {PRE: ["s2_a.nii"]}
    }  # fmt: skip
    none = touch(tmp_path / "none more", "one.nii", "x_a.nii", "y_a.nii")
    _, problems = find_sources([none], pre="*_a.nii")
    assert "one.nii: 2 files match --pre *_a.nii beside it, none of them named one. Name a pattern" in problems[0]


@pytest.mark.parametrize(("mark", "comma", "end"), [("", ",", "\n"), ("\ufeff", ";", "\r\n"), ("", ";", "\n")])
def test_a_table_lists_the_files_of_each_patient(tmp_path, mark, comma, end):
    touch(tmp_path, "in/1.nii", "in/2.nii", "in/3.nii", "in/4.nii", "in/3_late.nii", "slices/1.png", "slices/2.png")
    rows = ["patient,flair,pre,post,mask", "one,in/1.nii,in/2.nii,,in/4.nii", "two,in/3.nii,,,", "$x,slices,,,"]
    table = tmp_path / "cohort.csv"
    table.write_text(mark + end.join(row.replace(",", comma) for row in rows) + end, newline="", encoding="utf-8")
    sources = found(table)
    assert {name: of(source) for name, source in sources.items()} == {
        "one": (["1.nii"], {PRE: ["2.nii"]}, ["4.nii"]),
        "two": (["3.nii"], {}, []),
        "$x": (["1.png", "2.png"], {}, []),
    }
    assert sources["one"].notes == [f"sequences: pre-contrast 2.nii (in the table), FLAIR 1.nii{STANDS_IN}"]
    table.write_text("patient,flair,t1\none,in/1.nii,in/2.nii\n")
    assert found(table)["one"].notes == ["not used: column t1"]


def test_a_pattern_fills_the_empty_cells_of_a_table(tmp_path):
    touch(tmp_path, "1_flair.nii", "1_early.nii", "2_flair.nii", "2_early.nii")
    (tmp_path / "cohort.csv").write_text("patient,flair,pre\na,1_flair.nii,2_early.nii\nb,2_flair.nii,\n")
    sources = found(tmp_path / "cohort.csv", pre="*_early.nii")
    assert [source.notes for source in sources.values()] == [
        ["sequences: pre-contrast 2_early.nii (in the table), FLAIR 1_flair.nii" + STANDS_IN],
        ["sequences: pre-contrast 2_early.nii (--pre), FLAIR 2_flair.nii" + STANDS_IN],
    ]


def test_mistakes_in_a_table_are_named_with_their_line(tmp_path):
    touch(tmp_path, "1.nii")
    table = tmp_path / "cohort.csv"
    table.write_text("patient,flair,pre\n../x,1.nii,\na,1.nii,\nA,1.nii,\nb,no.nii,\nc,1.nii,no.nii\n")
    sources, problems = find_sources([table])
    assert [source.name for source in sources] == ["a"]
    starts = [problem.removeprefix(f"{table}, line ") for problem in problems]
    assert [start[:2] for start in starts] == ["2:", "4:", "5:", "6:"] and all(
        "no.nii: no such" in s for s in starts[2:]
    )
    table.write_text("patient,flair\n\n\nb,no.nii\n")
    assert find_sources([table])[1][0].startswith(f"{table}, line 4: ")
    table.write_text("patient,flair\nb,1.nii\n", encoding="utf-16")
    assert "Save it as CSV in UTF-8, with the columns patient, flair." in find_sources([table])[1][0]
    table.write_text("patient,image\na,1.nii\n")
    assert "has no column flair" in find_sources([table])[1][0]
