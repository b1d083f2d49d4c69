"""Synthetic patients: files laid out as in the real set, whose tumours are neither trivial nor hopeless to find."""

import numpy as np
from conftest import contents, done, refused
from scipy import ndimage

from constants import SYNTHETIC_SEED, SYNTHETIC_SLICES
from dataset.labels import default_label_files, read_labels
from dataset.published import sequences
from dataset.synthetic import KINDS, any_synthetic, describe_patient, make_patient


def test_a_set_of_the_command_line_has_the_layout_and_names_of_the_real_one_and_is_not_replaced(call, tmp_path):
    folder = tmp_path / "missing parent" / "synthetic"
    options = ("dataset.synthetic", folder, "--patients", 2, "--seed", 5)
    out = done(call(*options))
    assert "2 patients, written" in out and "SYNTHETIC" in out
    names = ["SYNTH_XX_0001_20000101", "SYNTH_XX_0002_20000101"]
    published = ["TCGA_CS_4942_19970222"]
    assert [any_synthetic(who) for who in (names, published)] == [True, False]
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
    before = contents(folder)
    assert "there already" in call(*options)[1]
    refused(call(*options, "--seed", 8), f"{folder}: is there already")
    assert contents(folder) == before


def test_kinds_are_what_they_are_called():
    for number in range(1, len(KINDS) + 1):  # one of each
        images, masks = make_patient(SYNTHETIC_SEED, number)
        kind = describe_patient(number)[0]
        largest = masks.sum((1, 2)).max()
        assert largest < 600 if kind == "tiny" else largest > 800  # pixels
        assert (sequences(images) == "all three") == (kind != "one sequence missing")
        if "two components" in kind:
            sizes = [np.sort(np.bincount(ndimage.label(mask)[0].ravel())[1:]) for mask in masks]
            assert any(len(components) > 1 and components[-2] > 80 for components in sizes), number
