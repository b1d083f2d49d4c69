"""Getting the data set: from a stand-in for kagglehub, from folders and archives; and what may be wrong with them."""

import functools
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import contents, done, refused

from dataset.folder import find_folder, find_slices

SUBSET = ("SYNTH_T_1", "SYNTH_T_3", "SYNTH_T_4")
EVERYONE = {f"SYNTH_T_{n}" for n in range(5)}
OUT = Path("lgg-mri-segmentation/kaggle_3m")


@pytest.fixture
def get(call, kaggle) -> Callable:
    return functools.partial(call, "download_data")


def nothing_made() -> bool:
    return not OUT.parent.exists() or list(OUT.parent.iterdir()) == []


@pytest.mark.parametrize(("options", "patients"), [((), EVERYONE), (("--subset",), {*SUBSET})])
def test_a_download_is_linked_to(get, monkeypatch, kaggle, options, patients):
    hub = Mock(**{"dataset_download.return_value": str(kaggle)})
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    out = done(get(*options))
    assert f"checked: {len(patients)} patients, {3 * len(patients)} slices with masks" in out
    assert "Next: python train_model.py --recipe tuned --run runs/first\n" in out
    assert {path.name for path in OUT.iterdir() if path.is_symlink()} == {*patients, "data.csv"}
    assert set(find_slices(find_folder(None))["patient"]) == patients
    assert "there already" in get(*options)[1]
    hub.dataset_download.assert_called_once_with("mateuszbuda/lgg-mri-segmentation")


@pytest.mark.parametrize("inner", ["..", "kaggle_3m"])
def test_a_folder_on_the_disk_is_linked_to_or_else_copied(get, kaggle, monkeypatch, inner):
    out = done(get("--from", kaggle / inner, "--out", "elsewhere"))
    assert "Next: python train_model.py --data elsewhere" in out
    assert Path("elsewhere/SYNTH_T_0").resolve() == (kaggle / "kaggle_3m" / "SYNTH_T_0").resolve()
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=OSError("A privilege is not held")))
    assert "copied from" in done(get("--from", kaggle / inner)) and (OUT / "data.csv").is_file()
    assert len(list(OUT.rglob("*.tif"))) == 30 and not any(path.is_symlink() for path in OUT.iterdir())


@pytest.mark.parametrize("separator", ["/", "\\"])  # the second as some programs on Windows write
def test_one_copy_of_an_archive_is_unpacked(get, kaggle, tmp_path, separator):
    """Beside resource forks of macOS, thumbnails, and names that lead out."""
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as packed:
        for path in sorted(path for path in kaggle.rglob("*") if path.is_file()):
            name = path.relative_to(kaggle)
            packed.writestr(f"{name.parent}/@eaDir/{name.name}", b"thumbnail")
            packed.writestr(f"__MACOSX/{name.parent}/._{name.name}", b"resource fork")
            packed.writestr(str(name).replace("/", separator), path.read_bytes())
        for hostile in ("../x.tif", "/x.tif", "C:\\x.tif", "kaggle_3m/../x.tif", "kaggle_3m/SYNTH_T_1/../../x.tif"):
            packed.writestr(hostile, b"x")
    assert "unpacked from" in done(get("--from", tmp_path / "archive.zip", "--subset"))
    assert {path.name for path in OUT.iterdir()} == {*SUBSET, "data.csv"}
    assert len(find_slices(OUT)) == 3 * len(SUBSET) and len(list(OUT.rglob("*.tif"))) == 6 * len(SUBSET)
    assert (OUT / "data.csv").read_text() == "Patient;RNASeqCluster\n"
    assert [path.name for path in OUT.parent.iterdir()] == ["kaggle_3m"]  # no temporary folder is left
    assert not list(tmp_path.rglob("x.tif")) and not Path("/x.tif").exists()


def test_without_kagglehub_or_network(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    refused(get(), "pip install kagglehub")
    failing = Mock(**{"dataset_download.side_effect": ConnectionError("www.kaggle.com: no name")})
    monkeypatch.setitem(sys.modules, "kagglehub", failing)
    refused(get(), "failed (ConnectionError: www.kaggle.com: no name)")
    assert nothing_made()


DAMAGE = {
    "SYNTH_T_3: 2 slices, but 3 are expected": lambda path: [each.unlink() for each in path.parent.glob("*_2*.tif")],
    "SYNTH_T_3_2_mask.tif: has no image": Path.unlink,
    "SYNTH_T_3_2.tif: cannot be read as a TIFF": lambda path: path.write_bytes(b"II*\0 but no image"),
    "holds no patient folders": lambda path: shutil.rmtree(path.parents[1]),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_incomplete_and_damaged_sets(get, kaggle, tmp_path, message):
    shutil.rmtree(kaggle / "lgg-mri-segmentation")
    DAMAGE[message](kaggle / "kaggle_3m" / "SYNTH_T_3" / "SYNTH_T_3_2.tif")
    given = shutil.make_archive(str(tmp_path / "wrong"), "zip", kaggle) if "image" in message else kaggle
    code, _, err = get("--from", given)
    assert code == 2 and message in err and nothing_made()
    assert str(given) in err and ".tmp" not in err  # it names what the user knows


def test_what_is_no_set(get, tmp_path):
    (tmp_path / "page.zip").write_bytes(b"<html>Please sign in")
    refused(get("--from", tmp_path / "page.zip"), "page.zip: is damaged, or no zip")
    refused(get("--from", tmp_path / "none.zip"), "none.zip: no such file or folder")
    assert nothing_made()


def test_what_exists_is_never_replaced(get, kaggle):
    OUT.mkdir(parents=True)
    (OUT / "thesis.txt").write_text("my work")
    refused(get("--from", kaggle), "kaggle_3m: ")
    assert contents(OUT.parent) == {"kaggle_3m/thesis.txt": b"my work"}


@pytest.mark.real
def test_real_patients(call, real, tmp_path):
    out = done(call("download_data", "--from", real, "--subset", "--out", tmp_path / "twelve"))
    assert "checked: 12 patients, 336 slices with masks, 140 of them with tumour" in out
