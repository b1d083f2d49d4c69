"""The campaign of benchmarks/faults.py finds what it looks for; test_walk.py runs a small one."""

import os

import pytest
from PIL import Image

pytest.importorskip("resource", reason="needs forks")
from benchmarks import faults_reading
from benchmarks.faults_process import Limit, Watch, forked

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write() -> None:
    with open("new", "wb") as file:
        file.write(b"0123456789")
    os.makedirs(".", exist_ok=True)  # changes nothing
    os.replace("new", "old")


@pytest.mark.parametrize(
    ("operation", "left"),
    [
        (1, {"old": b"x"}),
        (2, {"old": b"x", "new": b"01234"}),  # half of what is written
        (3, {"old": b"x", "new": b"0123456789"}),
        (4, {"old": b"0123456789"}),  # there is no fourth
    ],
)
def test_a_process_is_killed_at_each_of_its_file_operations(tmp_path, operation, left):
    (tmp_path / "old").write_bytes(b"x")
    watch = Watch(operation)
    code, text = forked(tmp_path, lambda: (watch(), write(), print("operations", watch.count)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
    assert (code, text) == (0, "operations 3\n") if operation == 4 else (code == -9 and text.startswith("killed at "))


def test_a_full_disk(tmp_path):
    limit = Limit(4)
    code, text = forked(tmp_path, lambda: (limit(), write()))
    assert code == 70 and "OSError: [Errno 27]" in text and (tmp_path / "new").read_bytes() == b"0123"


@pytest.mark.parametrize(
    ("read", "count"), [(lambda text: text, "accepted wrongly"), (lambda text: text.index(b"\n"), "tracebacks")]
)
def test_damages_that_a_reader_accepts_or_trips_over_are_counted(tmp_path, monkeypatch, read, count):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_bytes(b"-" * 9 + b"\n")
    monkeypatch.setattr(faults_reading, "READERS", {"file": lambda run: read((run.path / "file").read_bytes())})
    counts = faults_reading.damage(tmp_path / "run", "file", 10, seed=1)
    assert counts["faults"] == 10 and counts[count] > 0 and counts["one message"] == 0


def test_a_mutated_picture_has_checksums_that_fit(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("L", (3, 3)).save(picture)
    content = picture.read_bytes()
    assert faults_reading.with_checksums(content) == content
    at = content.index(b"IHDR") + 4 + 4  # the height
    picture.write_bytes(faults_reading.with_checksums(content[:at] + b"\0\0\0\2" + content[at + 4 :]))
    with Image.open(picture) as opened:
        assert opened.size == (3, 2)
