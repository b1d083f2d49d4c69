"""Synthetic patients: the files are laid out like the real set, and what is in them is neither trivial nor hopeless."""

import contextlib
import errno
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from scipy import ndimage

from constants import CHANNELS, FLAIR, IMAGE_SIZE, PRE, SYNTHETIC_PATIENTS, SYNTHETIC_SEED, SYNTHETIC_SLICES
from dataset import synthetic
from dataset.labels import default_label_files, read_labels
from dataset.new_folder import new_folder
from dataset.phantom import choose_kind, make_patient
from dataset.published import LABEL_FILE
from dataset.synthetic import is_synthetic, patient_name, write_patients
from evaluation import shape
from utils import UserError


@pytest.fixture(scope="module")
def patients():
    """The default set in memory: (images uint8 [S, 256, 256, 3], masks bool [S, 256, 256]) of each patient."""
    made = (make_patient(SYNTHETIC_SEED, number) for number in range(1, SYNTHETIC_PATIENTS + 1))
    return [(images, masks > 0) for images, masks in made]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patients on disk; do not change them."""
    folder = tmp_path_factory.mktemp("data") / "missing parent" / "synthetic"
    assert write_patients(folder, patients=2, seed=5)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- Files -----------------------------------------------------------------------------------------------------


def test_layout_and_names_are_those_of_the_real_set(folder):
    names = ["SYNTH_XX_0001_20000101", "SYNTH_XX_0002_20000101"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", *names, LABEL_FILE, synthetic.STAMP]
    for name in names:
        assert is_synthetic(name)
        files = {path.name for path in (folder / name).iterdir()}
        slices = len(files) // 2
        assert SYNTHETIC_SLICES[0] <= slices <= SYNTHETIC_SLICES[1]
        assert files == {f"{name}_{n}{kind}.tif" for n in range(1, slices + 1) for kind in ("", "_mask")}


def test_no_real_patient_passes_for_synthetic():
    assert not any(map(is_synthetic, ("TCGA_CS_4942_19970222", "TCGA_SYNTH_1", "SYNTHETIC", "")))


def test_files_hold_what_make_patient_returns(folder):
    images, masks = make_patient(5, 2)
    assert images.dtype == masks.dtype == np.uint8
    assert images.shape == (*masks.shape, CHANNELS) and masks.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
    assert set(np.unique(masks)) == {0, 1}
    name = "SYNTH_XX_0002_20000101"
    for n, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        with Image.open(folder / name / f"{name}_{n}.tif") as file:
            assert (file.format, file.mode, file.info["compression"]) == ("TIFF", "RGB", "raw")
            np.testing.assert_array_equal(np.asarray(file), image)
        with Image.open(folder / name / f"{name}_{n}_mask.tif") as file:
            assert (file.format, file.mode, file.info["compression"]) == ("TIFF", "L", "raw")
            np.testing.assert_array_equal(np.asarray(file), mask * 255)


def test_readme_says_that_these_are_no_patients(folder):
    readme = (folder / "README.txt").read_text()
    assert "SYNTHETIC DATA - NOT PATIENTS" in readme and "seed 5" in readme


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    write_patients(tmp_path / "again", patients=2, seed=5)
    assert contents(tmp_path / "again") == contents(folder)


def test_seed_and_number_both_change_the_patient():
    def beginning(seed, number):
        return make_patient(seed, number)[0][: SYNTHETIC_SLICES[0]]

    first = beginning(5, 1)
    assert (first != beginning(6, 1)).mean() > 0.3 and (first != beginning(5, 2)).mean() > 0.3


def test_a_set_that_is_there_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(synthetic, "make_patient", lambda *_: pytest.fail("drew a patient again"))
    (folder / ".DS_Store").touch()
    assert not write_patients(folder, patients=2, seed=5)
    (folder / ".DS_Store").unlink()


@pytest.fixture
def tiny_set(tmp_path, monkeypatch):
    """Three patients of one slice each, quick to make, in tmp_path / "set"."""
    empty = np.zeros((1, 8, 8, CHANNELS), np.uint8), np.zeros((1, 8, 8), np.uint8)
    monkeypatch.setattr(synthetic, "make_patient", lambda seed, number: empty)
    folder = tmp_path / "set"
    assert write_patients(folder, 3, 1) and not write_patients(folder, 3, 1)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "TCGA_CS_4942_19970222").mkdir(),
        lambda folder: (folder / "notes.txt").touch(),
        lambda folder: (folder / synthetic.STAMP).unlink(),
        lambda folder: (folder / synthetic.STAMP).write_text("{"),
        lambda folder: (folder / patient_name(2) / f"{patient_name(2)}_1.tif").unlink(),
        lambda folder: (folder / patient_name(4)).mkdir(),
    ],
    ids=["real patient", "other file", "no stamp", "broken stamp", "lost slice", "one patient more"],
)
def test_a_folder_with_anything_else_is_refused(tiny_set, change):
    change(tiny_set)
    before = contents(tiny_set)
    with pytest.raises(UserError, match=re.escape(str(tiny_set))):
        write_patients(tiny_set, 3, 1)
    assert contents(tiny_set) == before


def test_another_set_is_refused(tiny_set, monkeypatch):
    for patients, seed in ((2, 1), (3, 2)):
        with pytest.raises(UserError, match=f"the {patients} synthetic patients of seed {seed}"):
            write_patients(tiny_set, patients, seed)
    monkeypatch.setattr(synthetic, "FORMAT", synthetic.FORMAT + 1)
    with pytest.raises(UserError, match="something other"):
        write_patients(tiny_set, 3, 1)


def test_a_file_is_refused_and_an_empty_folder_is_not(tiny_set, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: holds"):
        write_patients(tmp_path / "file", 3, 1)
    (tmp_path / "empty").mkdir()
    assert write_patients(tmp_path / "empty", 3, 1)
    assert contents(tmp_path / "empty") == contents(tiny_set)


@pytest.mark.parametrize(("patients", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_impossible_sets_are_refused(tmp_path, patients, seed):
    with pytest.raises(UserError, match="need at least 1 patient"):
        write_patients(tmp_path / "set", patients, seed)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: {}: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["disk full", "Ctrl-C"],
)
def test_a_run_that_dies_half_way_leaves_nothing(tiny_set, call, tmp_path, monkeypatch, error, code, message):
    original, saved, folder = synthetic.to_tiff, [], tmp_path / "a" / "b" / "killed"

    def fail_at_the_fourth(pixels):
        saved.append(pixels)
        assert not folder.exists(), "half a set under the final name"
        if len(saved) == 4:
            raise error
        return original(pixels)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "to_tiff", fail_at_the_fourth)
        found, _, err = call("make_phantoms", folder, "--patients", 3)
        assert found == code and message.format(folder) in err
    assert len(saved) == 4 and sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert write_patients(folder, 3, 1)


@pytest.mark.parametrize("finishes", [True, False])
def test_a_set_that_another_process_is_making_is_waited_for(tiny_set, tmp_path, monkeypatch, finishes):
    made = tmp_path / "made"
    with contextlib.ExitStack() as other:
        other.enter_context(new_folder(made))

        def finish(_) -> None:
            other.close()
            if finishes:
                made.rmdir()
                tiny_set.rename(made)

        monkeypatch.setattr(synthetic.time, "sleep", finish)
        assert write_patients(made, 3, 1) is not finishes
    assert not write_patients(made, 3, 1)


def test_processes_that_make_the_same_set_at_the_same_time(tmp_path):
    program = "import sys; from dataset.synthetic import write_patients; print(write_patients(sys.argv[1], 1, 1))"
    command = [sys.executable, "-c", program, tmp_path / "set"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in started) == ["False\n", "True\n"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_disk_that_is_full_or_read_only_is_one_message(tiny_set, call, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 50, 300):  # bytes of a file: in the first image, in an image, in README.txt
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            code, _, err = call("make_phantoms", tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (code, err) == (1, f"error: {tmp_path / 'new'}: File too large\n")
    monkeypatch.setattr(os, "mkdir", lambda path, *_: fail(OSError(errno.EROFS, "Read-only file system", str(path))))
    code, _, err = call("make_phantoms", tmp_path / "new")
    assert (code, err) == (1, f"error: {tmp_path / 'new'}: Read-only file system\n")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def fail(error: BaseException) -> None:
    raise error


def test_command_line(tiny_set, call, tmp_path):
    options = (tmp_path / "new", "--patients", 2, "--seed", 9)
    code, out, _ = call("make_phantoms", *options)
    assert code == 0 and "2 patients, 2 slices, written" in out and "SYNTHETIC" in out
    stamp = json.loads((tmp_path / "new" / synthetic.STAMP).read_text())
    assert stamp == {"format": synthetic.FORMAT, "patients": 2, "seed": 9, "slices": 2}
    assert "there already" in call("make_phantoms", *options)[1]
    code, _, err = call("make_phantoms", tmp_path / "new", "--patients", 3)
    assert code == 2 and "holds something other" in err


# --- Content of the default set --------------------------------------------------------------------------------


def test_share_of_tumour_slices(patients):
    tumour = [masks.any((1, 2)) for _, masks in patients]
    assert all(slices.any() and not slices.all() for slices in tumour)
    assert 0.3 < np.concatenate(tumour).mean() < 0.5


def test_share_of_background(patients):
    flair = np.concatenate([images[..., FLAIR] for images, _ in patients])
    assert 0.5 < (flair < 12).mean() < 0.7
    corners = flair[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() < 8


def test_tumours_are_one_object_through_the_stack(patients):
    """Slices without tumour between others would be a sign of noise instead of a body; neighbours must overlap."""
    for _, masks in patients:
        present = np.flatnonzero(masks.any((1, 2)))
        assert (np.diff(present) == 1).all()
        assert all((masks[n] & masks[n + 1]).any() for n in present[:-1])


def test_every_kind_occurs_in_any_seven_patients():
    for seed in (0, SYNTHETIC_SEED):
        for first in (1, 8, 15):
            kinds = [choose_kind(seed, number) for number in range(first, first + 7)]
            assert sum(kind.missing is not None for kind in kinds) == 1  # 14 %, in the real set 15 of 110 patients
            assert sum(kind.tiny for kind in kinds) == 1
            assert sum(kind.components == 2 for kind in kinds) == sum(kind.faint for kind in kinds) == 2
            assert 0 < sum(kind.enhancing for kind in kinds) < 4


def test_the_subtype_drives_the_outline(patients):
    """Half of the patients have either; an irregular tumour fluctuates more at its margin, but for a few."""
    subtypes = np.array([choose_kind(SYNTHETIC_SEED, number).subtype for number in range(1, SYNTHETIC_PATIENTS + 1)])
    fluctuation = np.array([shape.measure(np.uint8(masks)).features["margin_fluctuation"] for _, masks in patients])
    irregular, smooth = (fluctuation[subtypes == name] for name in ("irregular", "smooth"))
    assert len(irregular) == len(smooth) == SYNTHETIC_PATIENTS / 2
    assert (irregular[:, None] > smooth).mean() > 0.85


def test_the_table_of_labels_names_the_subtype_of_each_patient(folder):
    patients = [patient_name(1), patient_name(2)]
    labels = read_labels(default_label_files(folder, patients), patients)
    assert labels["SyntheticSubtype"].tolist() == [choose_kind(5, number).subtype for number in (1, 2)]
    assert sorted(labels["SyntheticSubtype"]) == ["irregular", "smooth"]


def test_flair_stands_in_for_a_missing_sequence(patients):
    for number, (images, _) in enumerate(patients, start=1):
        missing = choose_kind(SYNTHETIC_SEED, number).missing
        copies = [c for c in range(CHANNELS) if c != FLAIR and (images[..., c] == images[..., FLAIR]).all()]
        assert copies == ([] if missing is None else [missing])


def test_tiny_and_two_component_tumours_are_what_they_are_called(patients):
    for number, (_, masks) in enumerate(patients, start=1):
        kind = choose_kind(SYNTHETIC_SEED, number)
        largest = masks.sum((1, 2)).max()
        assert largest < 600 if kind.tiny else largest > 800  # pixels
        if kind.components == 2:
            sizes = [np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:]) for mask in masks]
            assert any(len(parts) > 1 and parts[-2] > 80 for parts in sizes), f"patient {number} has one component only"


def test_tumour_is_brighter_than_brain_in_flair_and_darker_before_contrast(patients):
    for number, (images, masks) in enumerate(patients, start=1):
        wider = np.stack([cv2.dilate(mask, np.ones((25, 25), np.uint8)) for mask in masks.astype(np.uint8)]) > 0
        inside, around = images[masks].mean(0), images[wider & ~masks].mean(0)
        assert inside[FLAIR] > 1.2 * around[FLAIR], f"patient {number}"
        if choose_kind(SYNTHETIC_SEED, number).missing != PRE:
            assert inside[PRE] < inside[FLAIR], f"patient {number}"


def test_no_flair_threshold_finds_the_tumours(patients):
    """IoU over all pixels of the tumour slices, with the threshold that suits them best: scalp and caps are bright."""
    flair = np.concatenate([images[masks.any((1, 2)), :, :, FLAIR] for images, masks in patients])
    masks = np.concatenate([masks[masks.any((1, 2))] for _, masks in patients])
    inside, outside = (np.bincount(flair[where], minlength=256) for where in (masks, ~masks))
    found, wrong = (np.cumsum(counts[::-1])[::-1] for counts in (inside, outside))  # at or above each threshold
    assert 0.02 < (found / (masks.sum() + wrong)).max() < 0.4


@pytest.mark.parametrize("seed", [1, 2])
def test_every_patient_of_other_seeds_has_tumour_and_empty_slices(seed):
    """Also the tiny ones: these are the likeliest to fall between two slices."""
    number = next(n for n in range(1, 8) if choose_kind(seed, n).tiny)
    tumour = make_patient(seed, number)[1].any((1, 2))
    assert tumour.any() and not tumour.all()
