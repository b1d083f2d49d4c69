"""Synthetic patients: files laid out as in the real set, whose tumours are neither trivial nor hopeless to find."""

import numpy as np
import pandas as pd
import pytest
from conftest import contents, done, refused
from scipy import ndimage

from constants import SYNTHETIC_PATIENTS, SYNTHETIC_SEED, SYNTHETIC_SLICES
from dataset.labels import default_label_files, read_labels
from dataset.published import sequences
from dataset.synthetic import any_synthetic, describe_patient, make_patient, write_patients
from utils import parallel_map

NUMBERS = range(1, SYNTHETIC_PATIENTS + 1)


@pytest.fixture(scope="module")
def patients():
    """The default set in memory: (images uint8 [S, 256, 256, 3], masks bool [S, 256, 256]) of each patient."""
    made = parallel_map(lambda number: make_patient(SYNTHETIC_SEED, number), NUMBERS)
    return [(images, masks > 0) for images, masks in made]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patients on disk; do not change them."""
    folder = tmp_path_factory.mktemp("data") / "missing parent" / "synthetic"
    assert write_patients(folder, patients=2, seed=5)
    return folder


def test_layout_and_names_are_those_of_the_real_set(folder):
    names = ["SYNTH_XX_0001_20000101", "SYNTH_XX_0002_20000101"]
    published = ["TCGA_CS_4942_19970222"]
    assert [any_synthetic(pd.DataFrame({"patient": who})) for who in (names, published)] == [True, False]
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", *names, "data.csv"]
    for name in names:
        files = {path.name for path in (folder / name).iterdir()}
        slices = len(files) // 2
        assert SYNTHETIC_SLICES[0] <= slices <= SYNTHETIC_SLICES[1]
        assert files == {f"{name}_{n}{kind}.tif" for n in range(1, slices + 1) for kind in ("", "_mask")}
    readme = (folder / "README.txt").read_text()
    assert "SYNTHETIC DATA - NOT PATIENTS" in readme and "seed 5" in readme
    labels, _ = read_labels(default_label_files(folder, names), names)
    assert labels["SyntheticSubtype"].tolist() == ["irregular", "smooth"]


def test_command_line(call, tmp_path):
    options = (tmp_path / "set", "--patients", 1, "--seed", 9)
    out = done(call("dataset.synthetic", *options))
    assert "1 patients, written" in out and "SYNTHETIC" in out
    before = contents(tmp_path / "set")
    assert "there already" in call("dataset.synthetic", *options)[1]
    refused(call("dataset.synthetic", *options, "--seed", 8), f"{tmp_path / 'set'}: is there already")
    assert contents(tmp_path / "set") == before


def test_kinds_are_what_they_are_called(patients):
    for number, (images, masks) in zip(NUMBERS, patients, strict=True):
        kind = describe_patient(number)[0]
        largest = masks.sum((1, 2)).max()
        assert largest < 600 if kind == "tiny" else largest > 800  # pixels
        assert (sequences(images) == "all three") == (kind != "one sequence missing")
        if "two components" in kind:
            sizes = [np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:]) for mask in masks]
            assert any(len(components) > 1 and components[-2] > 80 for components in sizes), number
