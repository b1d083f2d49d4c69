"""Getting the data from a stand-in of kagglehub, folders and archives made here; and all that can go wrong."""

import errno
import functools
import os
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import make_patients

import constants
import download_data
from dataset import new_folder, published
from dataset.folder import find_folder, find_slices
from utils import file_lock

SUBSET = ("SYNTH_T_1", "SYNTH_T_3", "SYNTH_T_4")
OUT = Path("lgg-mri-segmentation/kaggle_3m")
BEHIND = "kaggle_3m/SYNTH_T_1/SYNTH_T_1_9.tif"  # a member that an archive of the set lacks


@pytest.fixture(autouse=True)
def published_set(tmp_path, monkeypatch) -> None:
    """The published set is five synthetic patients with three slices each, three of them in the subset."""
    rows = [f"SYNTH_T_{n},3,{int(f'SYNTH_T_{n}' in SUBSET)}\n" for n in range(5)]
    (tmp_path / "patients.csv").write_text("patient,slices,in_subset\n" + "".join(rows))
    monkeypatch.setattr(published, "PATIENTS_FILE", tmp_path / "patients.csv")
    monkeypatch.setattr(constants, "DATA_DIR", tmp_path / OUT)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path) -> Path:
    """What Kaggle gives: the set twice, one copy inside the other folder, data.csv among the patients."""
    top = tmp_path / "cache" / "versions" / "2"
    make_patients(top / "kaggle_3m")
    (top / "kaggle_3m" / "data.csv").write_text("Patient;RNASeqCluster\n")
    shutil.copytree(top / "kaggle_3m", top / "lgg-mri-segmentation" / "kaggle_3m")
    return top


@pytest.fixture
def archive(source, tmp_path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", source))


@pytest.fixture
def get(call) -> Callable:
    return functools.partial(call, "download_data")


def stand_in(monkeypatch, answer: Callable) -> list[str]:
    """Put a kagglehub in place whose dataset_download calls `answer`. Returns the handles that it was asked for."""
    asked = []
    hub = SimpleNamespace(dataset_download=lambda handle: asked.append(handle) or answer())
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    return asked


def fail(error: BaseException) -> None:
    raise error


def nothing_made() -> bool:
    return not os.path.lexists(OUT) and (not OUT.parent.exists() or list(OUT.parent.iterdir()) == [])


def test_a_download_is_linked_to(get, monkeypatch, source):
    asked = stand_in(monkeypatch, lambda: str(source))
    everyone = {f"SYNTH_T_{n}" for n in range(5)}
    for options, patients in (((), everyone), (("--subset",), {*SUBSET}), ((), everyone)):
        code, out, err = get(*options)
        assert (code, err) == (0, "") and "Next: python train_model.py\n" in out
        assert f"checked: {len(patients)} patients, {3 * len(patients)} slices with masks" in out
        assert {path.name for path in OUT.iterdir() if path.is_symlink()} == {*patients, "data.csv"}
        assert {path.name for path in OUT.iterdir() if not path.is_symlink()} == {download_data.LINKS}
        assert set(find_slices(find_folder(None))["patient"]) == patients
        assert "there already" in get(*options)[1]
    assert asked == ["mateuszbuda/lgg-mri-segmentation"] * 3  # and none when it is there already
    assert len(list(source.rglob("*.tif"))) == 60  # replacing links lost nothing

    moved = source.rename(source.with_name("moved"))  # the links lead nowhere
    stand_in(monkeypatch, lambda: str(moved))
    assert get()[0] == 0 and (OUT / "SYNTH_T_0").resolve() == (moved / "kaggle_3m" / "SYNTH_T_0").resolve()


@pytest.mark.parametrize("inner", ["..", ".", "kaggle_3m", "lgg-mri-segmentation"])
def test_a_folder_on_the_disk(get, source, inner):
    code, out, err = get("--from", source / inner, "--out", "elsewhere")
    assert (code, err) == (0, "") and "Next: python train_model.py --data elsewhere" in out
    copy = source / {"lgg-mri-segmentation": "lgg-mri-segmentation/kaggle_3m"}.get(inner, "kaggle_3m")
    assert Path("elsewhere/SYNTH_T_0").resolve() == (copy / "SYNTH_T_0").resolve()


@pytest.mark.parametrize(("root", "options"), [("../..", ()), (".", ("--subset",)), ("lgg-mri-segmentation", ())])
def test_one_copy_of_an_archive_is_unpacked(get, source, tmp_path, root, options):
    packed = shutil.make_archive(str(tmp_path / "archive"), "zip", source / root)
    code, out, err = get("--from", packed, *options)
    assert (code, err) == (0, "") and "unpacked from" in out
    names = SUBSET if options else [f"SYNTH_T_{n}" for n in range(5)]
    assert {path.name for path in OUT.iterdir()} == {*names, "data.csv"}
    assert len(list(OUT.rglob("*.tif"))) == 6 * len(names)
    assert [path.name for path in OUT.parent.iterdir()] == ["kaggle_3m"]  # no temporary folder is left
    (OUT / "lgg-mri-segmentation").mkdir()  # unpacked by hand, the second copy is inside
    assert "there already" in get(*options)[1]
    code, _, err = get(*(() if options else ("--subset",)))  # real files are never replaced
    assert code == 2 and "left as it is" in err and len(list(OUT.rglob("*.tif"))) == 6 * len(names)


def test_files_are_copied_where_links_cannot_be_made(get, monkeypatch, source):
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: fail(OSError(errno.EPERM, "A privilege is not held")))
    code, out, _ = get("--from", source)
    assert code == 0 and "copied from" in out and not any(path.is_symlink() for path in OUT.iterdir())
    assert len(list(OUT.rglob("*.tif"))) == 30 and (OUT / "data.csv").is_file()


def test_no_download(get, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    code, _, err = get()
    assert code == 2 and "pip install kagglehub" in err and "--from archive.zip" in err and nothing_made()
    stand_in(monkeypatch, lambda: fail(ConnectionError("www.kaggle.com: no name")))
    code, _, err = get()
    assert code == 2 and "failed (ConnectionError: www.kaggle.com: no name)" in err and nothing_made()
    stand_in(monkeypatch, lambda: fail(KeyboardInterrupt()))
    assert get()[0] == 130 and nothing_made()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("SYNTH_T_3/*", "SYNTH_T_3: "),
        ("SYNTH_T_3/SYNTH_T_3_3*.tif", "SYNTH_T_3: 2 slices, but 3 are published"),
        ("SYNTH_T_3/SYNTH_T_3_2_mask.tif", "SYNTH_T_3_2.tif: has no mask"),
        ("*/*", "holds none of the patient folders"),
        ("SYNTH_T_3/SYNTH_T_3_2.tif", "SYNTH_T_3_2.tif: cannot be read as a TIFF"),
    ],
)
def test_incomplete_and_damaged_sets(get, source, tmp_path, damaged, message, packed):
    shutil.rmtree(source / "lgg-mri-segmentation")
    for path in (source / "kaggle_3m").glob(damaged):
        path.unlink()
        if "cannot be read" in message:
            path.write_bytes(b"II*\0 but no image")
        elif not any(path.parent.iterdir()):
            path.parent.rmdir()
    given = shutil.make_archive(str(tmp_path / "wrong"), "zip", source) if packed else source
    code, out, err = get("--from", given)
    assert code == 2 and message in err and "Traceback" not in out + err and nothing_made()
    assert str(given) in err and "-unfinished" not in err  # it names what the user knows


def test_only_the_expected_patients_matter(get, source):
    for path in (source / "lgg-mri-segmentation", source / "kaggle_3m" / "SYNTH_T_0"):
        shutil.rmtree(path)
    (source / "kaggle_3m" / "SYNTH_T_2" / "SYNTH_T_2_1.tif").write_bytes(b"damaged, and not of the subset")
    assert get("--from", source, "--subset")[0] == 0
    shutil.rmtree(source / "kaggle_3m" / "SYNTH_T_2")
    code, _, err = get("--from", source, "--out", "elsewhere")
    assert code == 2 and "kaggle_3m: holds the 3 patients of the subset, not all. Add --subset.\n" in err


def test_an_archive_of_another_system(get, source, tmp_path):
    """Backslashes, as some programs of Windows write; a second tree of resource forks, as macOS does; thumbnails."""
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        for path in sorted((source / "kaggle_3m").rglob("*.tif")):
            name = path.relative_to(source)
            packed.writestr(str(name).replace("/", "\\"), path.read_bytes())
            packed.writestr(f"__MACOSX/{name.parent}/._{name.name}", b"resource fork")
            packed.writestr(f"{name.parent}/@eaDir/{name.name}", b"thumbnail")
    code, _, err = get("--from", tmp_path / "other.zip")
    assert (code, err) == (0, "") and len(find_slices(OUT)) == 15 and len(list(OUT.rglob("*.tif"))) == 30
    (OUT / "@eaDir").mkdir()
    assert "there already" in get("--from", tmp_path / "other.zip")[1]


def test_damaged_archives(get, archive, tmp_path):
    content = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        begin = opened.getinfo("kaggle_3m/SYNTH_T_2/SYNTH_T_2_2.tif").header_offset + 80
    flipped = bytes(byte ^ 0xFF for byte in content[begin : begin + 40])
    damaged = content[:begin] + flipped + content[begin + 40 :]
    for wrong in (b"<html>Please sign in", content[: len(content) // 2], damaged):
        archive.write_bytes(wrong)
        code, _, err = get("--from", archive)
        assert code == 2 and f"{archive}: is damaged, or no zip" in err and nothing_made()
    code, _, err = get("--from", tmp_path / "nowhere.zip")
    assert code == 2 and "nowhere.zip: no such file or folder" in err and nothing_made()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        *((name, 1, "leads out of its folder") for name in ("../x.tif", "/x.tif", "C:\\x.tif", "a\\..\\..\\x.tif")),
        (BEHIND, 1, "SYNTH_T_1_9.tif: has no mask"),  # a symbolic link, which becomes a file
        (BEHIND, 5 * 2**20, "is too large"),
        (BEHIND, 5 * 2**20, "is damaged"),  # it says that it has one byte
        (BEHIND, 1000, "packed by an unusual method"),
    ],
)
def test_hostile_members(get, archive, tmp_path, name, size, message):
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    member.compress_type = zipfile.ZIP_LZMA if "method" in message else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(member, bytes(size))
    if message == "is damaged":
        archive.write_bytes(archive.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1)))
    code, _, err = get("--from", archive)
    assert code == 2 and message in err and nothing_made()
    assert not list(tmp_path.rglob("*x.tif")) and not Path("/x.tif").exists()


def test_what_stops_a_download_leaves_nothing_behind(get, monkeypatch, archive):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with monkeypatch.context() as patch:
        patch.setattr(download_data, "verify", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert get("--from", archive)[0] == 128 + signal.SIGTERM and nothing_made()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        code, _, err = get("--from", archive)
        assert code == 2 and "kaggle_3m: needs 4 MB" in err and nothing_made()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda path, _: fail(OSError(errno.ENOSPC, "No space left", str(path))))
        code, _, err = get("--from", archive)
        assert code == 1 and "No space left" in err and nothing_made()


def test_a_killed_download_is_told_from_one_that_runs(get, archive):
    unfinished = OUT.parent / ".kaggle_3m-unfinished"
    half = unfinished / "kaggle_3m" / "SYNTH_T_0" / "half.tif"
    half.parent.mkdir(parents=True)
    half.touch()
    code, _, err = get("--from", archive)
    assert code == 2 and "-unfinished: is in the way, and was not made by this project. Move it." in err
    with file_lock(unfinished / new_folder.LOCK):
        code, _, err = get("--from", archive)
        assert code == 2 and "kaggle_3m: another process is making it. Wait for it." in err and half.exists()
    assert get("--from", archive)[0] == 0  # the lock is that of nobody any more
    assert [path.name for path in OUT.parent.iterdir()] == ["kaggle_3m"] and not list(OUT.rglob("half.tif"))


def test_other_content_is_never_touched(get, source):
    OUT.mkdir(parents=True)
    assert get("--from", source)[0] == 0  # an empty folder is no obstacle
    (OUT / "thesis.txt").write_text("three years of work")
    code, _, err = get("--from", source, "--subset")
    assert code == 2 and "left as it is" in err and (OUT / "thesis.txt").read_text() == "three years of work"
    Path("file").write_text("")
    code, _, err = get("--from", source, "--out", "file")
    assert code == 2 and "file: Not a directory" in err


def link_elsewhere(source: Path) -> None:
    """A folder of links, one of which the user has pointed to another place."""
    (OUT / "SYNTH_T_0").unlink()
    (OUT / "SYNTH_T_0").symlink_to(source)


OWN_LINKS = {
    "a folder of the user's links": lambda source: [(OUT / n).symlink_to(source / "kaggle_3m" / n) for n in SUBSET],
    "a link to the user's folder": lambda source: [OUT.rmdir(), OUT.symlink_to(source / "kaggle_3m")],
    "a link that leads nowhere": lambda source: [OUT.rmdir(), OUT.symlink_to(source / "gone")],
    "a link of ours that the user changed": link_elsewhere,
    "a link beside ours": lambda source: (OUT / "mine").symlink_to(source),
    "links of ours without the proof": lambda source: (OUT / download_data.LINKS).unlink(),
}


@pytest.mark.parametrize("kind", OWN_LINKS)
def test_links_of_the_user_are_never_replaced(get, source, kind):
    OUT.mkdir(parents=True)
    if "ours" in kind:
        assert get("--from", source)[0] == 0
    OWN_LINKS[kind](source)

    def state() -> list:
        return [(path, os.readlink(path)) for path in (OUT, *sorted(OUT.glob("*"))) if path.is_symlink()]

    before = state()
    code, _, err = get("--from", source, *([] if kind.startswith("a folder of") else ["--subset"]))
    assert code == 2 and "left as it is. Move it away, or name another folder with --out." in err
    assert before and state() == before and OUT.parent.exists() and len(list(OUT.parent.iterdir())) == 1


def test_links_of_ours_are_replaced_also_after_a_kill_half_way(get, source, archive, monkeypatch):
    assert get("--from", source)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            Path,
            "unlink",
            lambda path, **_: fail(KeyboardInterrupt()) if path.name == "links.json" else os.unlink(path),
        )
        assert get("--from", archive, "--subset")[0] == 130
    assert [path.name for path in OUT.iterdir()] == ["links.json"]
    assert get("--from", archive, "--subset")[0] == 0
    assert {path.name for path in OUT.iterdir()} == {*SUBSET, "data.csv"} and (OUT / "data.csv").is_file()


def test_the_published_list(monkeypatch):
    monkeypatch.undo()
    everyone, subset = published.published_patients(), published.published_patients(subset=True)
    assert (len(everyone), sum(everyone.values())) == (110, 3929) and (len(subset), sum(subset.values())) == (12, 336)
    assert subset.items() <= everyone.items() and (min(everyone.values()), max(everyone.values())) == (20, 88)


@pytest.mark.real
def test_real_patients(call, monkeypatch, real, tmp_path):
    monkeypatch.undo()
    code, out, err = call("download_data", "--from", real, "--subset", "--out", tmp_path / "twelve")
    assert (code, err) == (0, "") and "checked: 12 patients, 336 slices with masks, 140 of them with tumour" in out
