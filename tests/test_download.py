"""Getting the data from a stand-in of kagglehub, folders and archives made here; and all that can go wrong."""

import errno
import os
import shutil
import signal
import struct
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import data
import pytest
from conftest import make_patients, write_slice

import download_data
from dataset.folder import find_folder, find_slices
from dataset.published import published_patients

SUBSET = ("SYNTH_T_1", "SYNTH_T_3", "SYNTH_T_4")


@pytest.fixture(autouse=True)
def published(tmp_path, monkeypatch) -> None:
    """The set "as published" is that of conftest: five synthetic patients with three slices, three in the subset."""
    rows = [f"SYNTH_T_{n},3,{int(f'SYNTH_T_{n}' in SUBSET)}\n" for n in range(5)]
    (tmp_path / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    monkeypatch.setattr(data, "PATIENTS_FILE", tmp_path / "patients.csv")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path) -> Path:
    """What Kaggle gives: the set twice, one copy inside the other, data.csv among the patients."""
    top = tmp_path / "cache" / "versions" / "2"
    make_patients(top / "kaggle_3m")
    (top / "kaggle_3m" / "data.csv").write_text("Patient;RNASeqCluster\n")
    shutil.copytree(top / "kaggle_3m", top / "lgg-mri-segmentation" / "kaggle_3m")
    return top


@pytest.fixture
def archive(source, tmp_path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", source))


@pytest.fixture
def get(call):
    """Run download_data.py -> (exit code, stdout, stderr)."""
    return partial(call, "download_data")


def stand_in(monkeypatch, answer) -> list[str]:
    """A kagglehub whose dataset_download calls `answer`; returns the list of handles it was asked for."""
    asked = []

    def dataset_download(handle: str) -> str:
        asked.append(handle)
        return answer()

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download))
    return asked


OUT = Path("lgg-mri-segmentation/kaggle_3m")


def nothing_made() -> bool:
    folder = OUT.parent
    return not os.path.lexists(OUT) and (not folder.exists() or list(folder.iterdir()) == [])


# --- What it makes ---------------------------------------------------------------------------------------------


def test_the_whole_set_becomes_the_default_folder_without_a_copy(get, monkeypatch, source):
    asked = stand_in(monkeypatch, lambda: str(source))
    code, out, err = get()
    assert (code, err) == (0, "") and asked == ["mateuszbuda/lgg-mri-segmentation"]
    assert "checked: 5 patients, 15 slices with masks, 10 of them with tumour" in out
    assert OUT.is_symlink() and OUT.resolve() == (source / "kaggle_3m").resolve()
    found = find_slices(find_folder(None))
    assert found["patient"].nunique() == 5 and (OUT / "data.csv").is_file()

    code, out, _ = get()
    assert code == 0 and "there already" in out and len(asked) == 1  # no second download


def test_the_subset_is_a_folder_of_links_to_its_patients_and_gives_way_to_the_whole_set(get, monkeypatch, source):
    stand_in(monkeypatch, lambda: str(source))
    code, out, _ = get("--subset")
    assert code == 0 and "checked: 3 patients, 9 slices" in out and "Next: python train_model.py\n" in out
    assert {p.name for p in OUT.iterdir()} == {*SUBSET, "data.csv"} and all(p.is_symlink() for p in OUT.iterdir())
    assert get("--subset")[1].count("there already") == 1
    assert get()[0] == 0 and find_slices(OUT)["patient"].nunique() == 5
    assert get("--subset")[0] == 0 and {p.name for p in OUT.iterdir()} == {*SUBSET, "data.csv"}
    assert (source / "kaggle_3m" / "SYNTH_T_0" / "SYNTH_T_0_1.tif").is_file()  # replacing links lost nothing


@pytest.mark.parametrize("inner", [".", "kaggle_3m", "lgg-mri-segmentation"])
def test_a_folder_that_is_here_already(get, source, inner):
    code, _, err = get("--from", source / inner, "--out", "elsewhere")
    assert (code, err) == (0, "")
    expected = source / {"lgg-mri-segmentation": "lgg-mri-segmentation/kaggle_3m"}.get(inner, "kaggle_3m")
    assert Path("elsewhere").resolve() == expected.resolve()


def test_a_set_unpacked_by_hand_is_checked_in_its_place(get, source):
    shutil.copytree(source / "kaggle_3m", OUT)
    shutil.copytree(source / "lgg-mri-segmentation", OUT / "lgg-mri-segmentation")  # with the second copy inside
    code, out, _ = get("--from", OUT)
    assert code == 0 and "there already" in out and not OUT.is_symlink()


@pytest.mark.parametrize("options", [(), ("--subset",)])
def test_an_archive_is_unpacked_once(get, archive, options):
    code, out, err = get("--from", archive, *options)
    assert (code, err) == (0, "") and "unpacked from" in out
    names = SUBSET if options else [f"SYNTH_T_{n}" for n in range(5)]
    assert sorted(p.name for p in OUT.iterdir()) == sorted([*names, "data.csv"])
    assert len(list(OUT.rglob("*.tif"))) == 6 * len(names)
    assert [p.name for p in OUT.parent.iterdir()] == ["kaggle_3m"]  # no temporary folder left
    code, _, err = get(*(() if options else ("--subset",)))  # real files are never replaced
    assert code == 2 and "left as it is" in err and len(list(OUT.rglob("*.tif"))) == 6 * len(names)


def test_an_archive_with_a_folder_around_it_and_one_with_the_inner_copy_only(get, source, tmp_path):
    for name, root in (("around", source.parent.parent), ("inner", source / "lgg-mri-segmentation")):
        packed = shutil.make_archive(str(tmp_path / name), "zip", root)
        assert get("--from", packed, "--out", f"out_{name}")[0] == 0
        assert len(list(Path(f"out_{name}").rglob("*.tif"))) == 30


def test_where_links_cannot_be_made_it_copies(get, monkeypatch, source):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    code, out, _ = get("--from", source)
    assert code == 0 and "copied from" in out and not OUT.is_symlink()
    assert len(list(OUT.rglob("*.tif"))) == 30 and (OUT / "data.csv").is_file()
    shutil.rmtree(OUT)
    assert get("--from", source, "--subset")[0] == 0 and len(list(OUT.rglob("*.tif"))) == 18


def test_a_read_only_source_is_linked_to(get, monkeypatch, source):
    for path in (source, source / "kaggle_3m"):
        path.chmod(0o555)
    try:
        stand_in(monkeypatch, lambda: str(source))
        assert get()[0] == 0 and OUT.is_symlink()
    finally:
        for path in (source, source / "kaggle_3m"):
            path.chmod(0o755)


# --- What goes wrong -------------------------------------------------------------------------------------------


def test_without_kagglehub_it_says_what_to_install_and_how_to_do_without(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    code, _, err = get()
    assert code == 2 and "pip install kagglehub" in err and "--from archive.zip" in err and nothing_made()


def test_offline_and_interrupted(get, monkeypatch):
    def offline():
        raise ConnectionError("HTTPSConnectionPool(host='www.kaggle.com'): name resolution failed")

    stand_in(monkeypatch, offline)
    code, _, err = get()
    assert code == 2 and "the download from Kaggle failed (ConnectionError: HTTPS" in err and "Traceback" not in err
    assert nothing_made()

    def interrupt():
        raise KeyboardInterrupt

    stand_in(monkeypatch, interrupt)
    code, _, err = get()
    assert code == 130 and "interrupted" in err and nothing_made()


def no_patient(folder: Path) -> None:
    shutil.rmtree(folder / "SYNTH_T_2")


def too_few_slices(folder: Path) -> None:
    for name in ("SYNTH_T_2_3.tif", "SYNTH_T_2_3_mask.tif"):
        (folder / "SYNTH_T_2" / name).unlink()


def too_many_patients(folder: Path) -> None:
    write_slice(folder, "SYNTH_T_77", 1, tumour=True)


def damaged_image(folder: Path) -> None:
    (folder / "SYNTH_T_2" / "SYNTH_T_2_2.tif").write_bytes(b"II*\0 but no image")


def no_mask(folder: Path) -> None:
    (folder / "SYNTH_T_2" / "SYNTH_T_2_2_mask.tif").unlink()


def grey_image(folder: Path) -> None:
    shutil.copy(folder / "SYNTH_T_2" / "SYNTH_T_2_2_mask.tif", folder / "SYNTH_T_2" / "SYNTH_T_2_2.tif")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_patient, "SYNTH_T_2: 0 slices, but the set as published has 3"),
        (too_few_slices, "SYNTH_T_2: 2 slices, but the set as published has 3"),
        (damaged_image, "SYNTH_T_2_2.tif: cannot be read as a TIFF"),
        (no_mask, "SYNTH_T_2_2.tif: has no mask"),
        (grey_image, "SYNTH_T_2_2.tif: has the mode L, but an image must have RGB"),
        (too_many_patients, "SYNTH_T_77: 1 slices, but the set as published has 0"),
    ],
)
def test_wrong_and_changed_data(get, source, tmp_path, damage, message, packed):
    shutil.rmtree(source / "lgg-mri-segmentation")
    damage(source / "kaggle_3m")
    given = shutil.make_archive(str(tmp_path / "wrong"), "zip", source) if packed else source
    code, out, err = get("--from", given)
    if packed and damage is too_many_patients:
        assert code == 0 and not (OUT / "SYNTH_T_77").exists()  # what is not of the set stays packed
        return
    assert code == 2 and message in err and "Traceback" not in out + err and nothing_made()
    assert str(given) in err and ".kaggle_3m-" not in err  # it names what the user knows


def test_the_subset_alone_is_told_from_a_set_with_gaps(get, source):
    for patient in ("SYNTH_T_0", "SYNTH_T_2"):
        shutil.rmtree(source / "kaggle_3m" / patient)
    folder = source / "kaggle_3m"
    shutil.rmtree(source / "lgg-mri-segmentation")
    code, _, err = get("--from", folder)
    assert code == 2 and nothing_made()
    assert err == f"error: {folder}: holds the 3 patients of the subset, not all 5. Add --subset.\n"
    assert get("--from", folder, "--subset")[0] == 0


def test_the_subset_does_not_mind_what_is_wrong_elsewhere(get, source):
    damaged_image(source / "kaggle_3m")
    assert get("--from", source, "--subset")[0] == 0


def test_what_is_no_data_set_at_all(get, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.zip").write_text("<html>Please sign in")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as other:
        other.writestr("holiday/1.tif", b"")
    for given, message in (
        ("empty", "holds none of the patient folders"),
        ("page.zip", "is damaged or no zip"),
        ("photos.zip", "holds none of the patient folders"),
        ("nowhere.zip", "no such file or folder"),
    ):
        code, _, err = get("--from", tmp_path / given)
        assert code == 2 and message in err and given in err and nothing_made()


def test_a_damaged_archive(get, archive):
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        inside = next(info for info in opened.infolist() if info.filename == "kaggle_3m/SYNTH_T_2/SYNTH_T_2_2.tif")
    for at in range(inside.header_offset + 80, inside.header_offset + 120):
        content[at] ^= 0xFF
    archive.write_bytes(content)
    code, _, err = get("--from", archive)
    assert code == 2 and "is damaged or no zip" in err and nothing_made()
    archive.write_bytes(content[: len(content) // 2])  # an interrupted download
    code, _, err = get("--from", archive)
    assert code == 2 and "is damaged or no zip" in err and nothing_made()


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.tif",
        "kaggle_3m/SYNTH_T_1/../../../escaped.tif",
        "/escaped.tif",
        "C:\\escaped.tif",
        "kaggle_3m\\..\\..\\escaped.tif",
    ],
)
def test_members_that_try_to_leave_the_folder(get, archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"caught")
    code, _, err = get("--from", archive)
    assert code == 2 and "leads out of its folder" in err and nothing_made()
    assert not list(tmp_path.rglob("*escaped*")) and not Path("/escaped.tif").exists()


def test_a_link_in_an_archive_is_not_followed(get, archive, tmp_path):
    (tmp_path / "secret.tif").write_bytes(b"do not touch")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("kaggle_3m/SYNTH_T_1/SYNTH_T_1_9.tif", "kaggle_3m/SYNTH_T_1/SYNTH_T_1_9_mask.tif"):
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16  # a symbolic link
            opened.writestr(link, str(tmp_path / "secret.tif"))
    code, _, err = get("--from", archive)
    assert code == 2 and "SYNTH_T_1_9.tif: cannot be read as a TIFF" in err and nothing_made()
    assert (tmp_path / "secret.tif").read_bytes() == b"do not touch"


def test_a_member_that_unpacks_to_far_too_much(get, archive):
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("kaggle_3m/SYNTH_T_1/SYNTH_T_1_9.tif", bytes(5 * 2**20))
    code, _, err = get("--from", archive)
    assert code == 2 and "SYNTH_T_1_9.tif in it has 5,242,880 bytes" in err and nothing_made()


def test_a_member_that_lies_about_its_length(get, archive):
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("kaggle_3m/SYNTH_T_1/SYNTH_T_1_9.tif", bytes(5 * 2**20))
    content = archive.read_bytes()
    assert content.count(struct.pack("<I", 5 * 2**20)) == 2  # in its own header, and in the list at the end
    archive.write_bytes(content.replace(struct.pack("<I", 5 * 2**20), struct.pack("<I", 1000)))
    code, _, err = get("--from", archive)
    assert code == 2 and "is damaged or no zip" in err and nothing_made()


def test_an_archive_of_another_compression(get, source, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as opened:
        for path in sorted(source.rglob("*.tif")):
            opened.write(path, path.relative_to(source))
    code, _, err = get("--from", tmp_path / "x.zip")
    assert code == 2 and "neither plainly nor by deflate" in err and nothing_made()


def test_a_signal_leaves_nothing_and_what_a_killed_process_left_is_removed(get, monkeypatch, archive):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with monkeypatch.context() as patch:
        patch.setattr(download_data, "verify", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert get("--from", archive)[0] == 128 + signal.SIGTERM
    assert nothing_made()

    ages = {"unfinished-old": 2 * download_data.STALE, "unfinished-new": 0, "backup": 2 * download_data.STALE}
    for name, age in ages.items():
        left = Path("lgg-mri-segmentation", f".kaggle_3m-{name}", "kaggle_3m")
        left.mkdir(parents=True)
        for folder in (left, left.parent):
            os.utime(folder, (time.time() - age,) * 2)
    get("--from", archive)
    there = sorted(left.name for left in Path("lgg-mri-segmentation").glob(".kaggle_3m-*"))
    assert there == [".kaggle_3m-backup", ".kaggle_3m-unfinished-new"]  # the first is somebody's own


def test_no_space(get, monkeypatch, archive):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    assert get("--from", archive, "--out", "fits")[0] == 0  # 30 files of at most 0.2 MB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    code, _, err = get("--from", archive)
    assert code == 2 and "MB are needed, 0 MB are free" in err and nothing_made()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left on the disk"), (errno.EROFS, "the disk is read-only"), (errno.EACCES, "Permission")],
)
def test_the_disk_fills_up_or_refuses_while_unpacking(get, monkeypatch, archive, number, message):
    write, written = Path.write_bytes, []

    def fail_in_the_middle(self, content):
        written.append(self)
        if len(written) == 7:
            raise OSError(number, os.strerror(number), str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", fail_in_the_middle)
    code, _, err = get("--from", archive)
    assert code == 2 and message in err and "--out" in err and nothing_made()


def test_a_place_that_is_taken(get, source):
    OUT.mkdir(parents=True)
    assert get("--from", source)[0] == 0  # an empty folder is no obstacle
    OUT.unlink()
    OUT.mkdir()
    (OUT / "thesis.txt").write_text("three years of work")
    code, _, err = get("--from", source)
    assert code == 2 and "left as it is" in err and (OUT / "thesis.txt").read_text() == "three years of work"
    Path("file").write_text("")
    code, _, err = get("--from", source, "--out", "file")
    assert code == 2 and "file: is a file" in err


def test_a_link_to_a_cache_that_is_gone(get, monkeypatch, source):
    assert get("--from", source)[0] == 0
    moved = source.rename(source.with_name("moved"))
    with pytest.raises(data.UserError, match="a link to a folder that is gone"):
        find_folder(None)  # and not synthetic patients without a word
    stand_in(monkeypatch, lambda: str(moved))
    assert get()[0] == 0 and OUT.resolve() == (moved / "kaggle_3m").resolve()


# --- The real list ---------------------------------------------------------------------------------------------


def test_the_published_facts(monkeypatch):
    monkeypatch.undo()
    everyone, subset = published_patients(), published_patients(subset=True)
    assert len(everyone) == 110 and sum(everyone.values()) == 3929
    assert len(subset) == 12 and sum(subset.values()) == 336 and subset.items() <= everyone.items()
    assert (min(everyone.values()), max(everyone.values())) == (20, 88)


@pytest.mark.real
def test_real_patients(get, monkeypatch, real, tmp_path):
    monkeypatch.setattr(data, "PATIENTS_FILE", Path(data.__file__).parent / "lgg-mri-segmentation" / "patients.csv")
    code, out, err = get("--from", real, "--subset")
    assert (code, err) == (0, "") and "checked: 12 patients, 336 slices with masks, 140 of them with tumour" in out


def test_help_shows_an_example(get):
    code, out, _ = get("--help")
    assert code == 0 and "python download_data.py --subset" in out
