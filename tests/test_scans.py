"""Images of unknown origin: grouped into scans, read within limits, and their masks written back in place."""

import gzip
import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scans import display, overlays, pictures
from scans.cohort import find_sources
from scans.read import read_scan
from scans.resize import fit, unfit
from scans.scan import Scan, Source, safe_name

nibabel = pytest.importorskip("nibabel")


def read(path: Path) -> Scan:
    """Return the scan of one file, which must be readable."""
    scan, problems = read_scan(Source("scan", [path]))
    assert problems == []
    return scan


def refusal(path: Path) -> str:
    """Return the one problem with a file, which must not be readable."""
    scan, problems = read_scan(Source("scan", [path]))
    assert scan is None and len(problems) == 1 and problems[0].startswith(f"{path}: cannot be read: ")
    return problems[0]


def test_files_are_grouped_into_scans(tmp_path):
    for name in ("1_10.png", "1_9.tif", "1_9_mask.tif", "notes.txt", ".hidden.png", "x_overlay.png", "b/1.jpg",
                 ".cache/1.png", "a/x.nii.gz", "a/deep/1.png", "b/X.npy"):  # fmt: skip
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    folder = tmp_path / "all"
    (folder / "loop.png").symlink_to("loop.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")  # opening it would wait for ever
    sources, problems = find_sources([folder, folder / "1_10.png", folder / "notes.txt", folder / "no.png"])
    assert [(source.name, [path.name for path in source.paths]) for source in sources] == [
        ("all", ["1_9.tif", "1_10.png"]), ("a_x", ["x.nii.gz"]), ("a_deep", ["1.png"]),
        ("b", ["1.jpg"]), ("b_X", ["X.npy"]),
    ]  # fmt: skip
    assert [problem.split(": ")[1][:12] for problem in problems] == ["nothing to r", "no such file"]


# --- Limits ----------------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"") -> bytes:
    """Return a PNG file whose header says what the arguments say, whatever its rows hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def npy(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    with io.BytesIO() as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        return file.getvalue()


def nifti(shape: tuple[int, ...], offset: int = 352, extension: bytes = bytes(4)) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = offset, b"n+1"
    return header.binaryblock + extension


@pytest.mark.parametrize(
    ("ending", "content", "message"),
    [
        (".png", png(60000, 60000, 8, 0), "3600000000 pixels"),
        (".png", png(12000, 12000, 8, 0), "12,000 x 12,000"),
        (".png", png(30000, 1, 8, 2, b"\0" + b"\1\2\3" * 30000), "30,000 x 1"),  # as a square, it would take gigabytes
        (".png", png(2, 2, 16, 2), "of more than 8 bits"),
        (".png", png(2, 2, 16, 4), "of more than 8 bits"),
        (".png", png(2, 2, 16, 6), "of more than 8 bits"),
        (".png", b"<svg onload=alert(1)>", "cannot identify"),
        (".npy", npy((4096, 64, 64)), "4,096 slices; at most 1,024"),
        (".npy", npy((9, 4096, 1)), "150,994,944 pixels, each slice padded to a square; at most 134,217,728"),
        (".npy", npy((512, 512, 512), "<f8"), "1,073,741,824 bytes of values; at most 671,088,640"),
        (".npy", npy((1, 30000)), "30,000 x 1"),
        (".npy", npy((2, 3, 4, 5, 6)), "has the shape (2, 3, 4, 5, 6)"),
        (".npy", npy((0, 3, 4)), "has the shape (0, 3, 4)"),
        (".npy", npy((4, 4), "<c8"), "type complex64"),
        (".npy", npy((4, 4), "|O"), "objects"),  # would be unpickled
        (".npy", b"PK\3\4", "magic"),  # a zip file, which np.load would open
        (".npy", b"\x93NUMPY\1\0" + struct.pack("<H", 3001) + b"(" * 3000 + b"\n", "cannot be read"),
        (".nii", nifti((4, 4, 4), 2**31, b"\1\0\0\0" + struct.pack("<ii", 2**30, 6)), "extension"),
        (".nii.gz", gzip.compress(nifti((4, 4, 4)), mtime=0), "Expected 64 bytes, got 0"),  # cut off
        (".nii.gz", gzip.compress(nifti((512, 512, 512)), mtime=0), "is cut off"),  # 128 MB, claimed by 80 bytes
        (".nii.gz", gzip.compress(bytes(999), mtime=0), "neither a NIfTI-1 nor a NIfTI-2"),
        (".nii", nifti((1, 1, 32767)), "32,767 slices"),
        (".nii", nifti((1024, 1024, 512, 1)), "536,870,912 pixels"),
        (".nii", nifti((4, 4)), "has the shape (4, 4)"),
    ],
    ids=str,
)
def test_hostile_files_are_refused_before_they_are_decoded(tmp_path, ending, content, message):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    if ending in (".npy", ".nii"):
        os.truncate(path, 2**37)  # sparse: takes no space
    tracemalloc.start()
    assert message in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_the_pictures_of_a_folder_are_counted_before_one_is_decoded(tmp_path, monkeypatch):
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(png(4096, 9, 8, 2))
    (tmp_path / "words.png").write_text("no picture")
    monkeypatch.setattr(pictures, "read_picture", None)
    scan, problems = read_scan(find_sources([tmp_path])[0][0])
    assert scan is None and len(problems) == 2 and "words.png: cannot be read" in problems[0]
    assert f"{tmp_path}: cannot be read: 150,994,944 pixels, each slice padded to a square" in problems[1]
    for number in range(9, 1025):
        (tmp_path / f"{number}.png").touch()
    assert "1,026 slices; at most 1,024" in read_scan(find_sources([tmp_path])[0][0])[1][0]


def float_tiff(bits: int) -> bytes:
    """Return a TIFF of one floating point pixel."""
    fields = {256: 1, 257: 1, 258: bits, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: bits // 8, 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return (b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries).ljust(200, b"\0") + bytes(bits // 8)


def test_pictures_that_pillow_reads_but_not_as_one_slice(tmp_path):
    image = Image.new("RGB", (9, 9))
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    Image.new("CMYK", (9, 9)).save(tmp_path / "ink.tif")
    image.save(tmp_path / "gif.png", format="GIF")
    cv2.imwrite(str(tmp_path / "deep.tif"), np.full((8, 8, 3), 4000, np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    together, apart = (struct.pack("<HHIH", 284, 3, 1, planes) for planes in (1, 2))  # the channels of a pixel
    (tmp_path / "planes.tif").write_bytes((tmp_path / "deep.tif").read_bytes().replace(together, apart))
    (tmp_path / "double.tif").write_bytes(float_tiff(64))
    (tmp_path / "single.tif").write_bytes(float_tiff(32))
    assert pictures.read_picture(tmp_path / "single.tif").dtype == np.float32
    for name, message in {
        "double.tif": "a TIFF of a kind that is not read, such as floating point or whole numbers of 64 bits. Save",
        "pages.tif": "more than one page",
        "ink.tif": "pixel format CMYK",
        "gif.png": "cannot identify",
        "deep.tif": "of more than 8 bits",
        "planes.tif": "of more than 8 bits",
    }.items():
        assert message in refusal(tmp_path / name)


# --- Intensities and channels ----------------------------------------------------------------------------------


def test_arrays_of_every_shape(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = np.repeat(image[..., 1:2], 3, axis=2)
    stack = np.stack([image[..., 1]] * 4)
    for array, expected in ((image[..., 1], [grey]), (image, [image]), (stack, [grey] * 4), (image[None], [image])):
        np.save(tmp_path / "x.npy", array)
        scan = read(tmp_path / "x.npy")
        assert np.array_equal(scan.slices, expected) and scan.notes == [] and scan.grey == (expected[0] is grey)


def test_more_than_eight_bits_are_scaled_by_the_percentiles_of_the_whole_stack(tmp_path):
    stack = np.zeros((2, 20, 50), np.uint16)
    stack[0] = 50  # a faint slice: scaled by itself, it would be as bright as a lesion
    stack[1].flat = np.arange(1000) * 4
    np.save(tmp_path / "x.npy", stack)
    scan = read(tmp_path / "x.npy")
    low, high = np.percentile(stack, (0.5, 99.5))
    expected = ((stack - low) / (high - low) * 255).clip(0, 255).round()
    assert np.array_equal([plane[..., 0] for plane in scan.slices], expected) and len(scan.notes) == 1


def test_a_large_stack_is_scaled_by_the_percentiles_of_some_of_its_pixels(tmp_path, monkeypatch):
    stack = np.random.default_rng(0).gamma(2, 400, (2, 100, 101, 3)).astype(np.uint16)
    np.save(tmp_path / "x.npy", stack)
    exact = np.array(read(tmp_path / "x.npy").slices)
    monkeypatch.setattr("scans.read.MOST_SORTED", 10_000)
    few = np.array(read(tmp_path / "x.npy").slices)
    assert not np.array_equal(few, exact) and np.abs(few.astype(int) - exact).max() < 20


def test_values_that_are_not_finite_and_stacks_of_almost_nothing(tmp_path):
    stack = np.zeros((2, 64, 64), np.float32)
    np.save(tmp_path / "x.npy", stack)
    assert not np.any(read(tmp_path / "x.npy").slices)
    stack[1, 20:24, 20:24] = 1e30  # fewer pixels than the percentiles leave out
    stack[0, 0, :3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "x.npy", stack)
    scan = read(tmp_path / "x.npy")
    assert "3 values that are not finite are black" in scan.notes
    assert not scan.slices[0].any() and np.array_equal(scan.slices[1][..., 0] == 255, stack[1] > 0)
    np.save(tmp_path / "x.npy", np.full((2, 8, 8), np.nan))
    assert "holds no finite value" in refusal(tmp_path / "x.npy")


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 1, 2, 4), (0.0, 1.0)])
def test_what_holds_the_values_of_a_mask_alone_is_not_segmented_whatever_it_is_called(tmp_path, values):
    stack = np.zeros((3, 8, 8), type(values[1]))
    stack[1, 2 : 2 + len(values) - 1, 3] = values[1:]
    np.save(tmp_path / "tumour.npy", stack)
    shown = ", ".join(f"{value:g}" for value in values)
    assert f"holds only {shown}: a mask, and no image. Name it like one" in refusal(tmp_path / "tumour.npy")
    stack[2, 0, 0] = 100
    np.save(tmp_path / "tumour.npy", stack)
    assert read(tmp_path / "tumour.npy").slices


def test_nan_outside_of_the_brain_is_black_and_no_percentile_counts_it(tmp_path):
    stack = np.full((2, 30, 40), np.nan, np.float32)
    stack[:, 5:25, 5:35] = np.linspace(-500, 700, 1200).reshape(2, 20, 30)
    low, high = np.percentile(np.linspace(-500, 700, 1200), (0.5, 99.5))  # of the brain alone
    np.save(tmp_path / "x.npy", stack)
    nibabel.save(nibabel.Nifti1Image(stack.swapaxes(0, 2), np.diag([-1, -1, 1, 1])), tmp_path / "x.nii")
    for name in ("x.npy", "x.nii"):
        shown = np.array(read(tmp_path / name).slices)[..., 1]
        assert not shown[np.isnan(stack)].any()
        expected = ((stack - low) / (high - low) * 255).clip(0, 255).round()
        assert np.array_equal(shown[np.isfinite(stack)], expected[np.isfinite(stack)])
    stack = np.where(np.isnan(stack), np.nan, -10)
    stack[0, 10, 10] = -500
    np.save(tmp_path / "x.npy", stack)
    assert not np.any(read(tmp_path / "x.npy").slices)  # nothing differs but one dark voxel
    sequences = np.repeat(np.where(np.isnan(stack), np.nan, 90.0)[..., None], 3, axis=3)
    sequences[:, 6:9, 6:9, 1], sequences[..., 2] = 200, np.nan
    np.save(tmp_path / "x.npy", sequences)
    shown = np.array(read(tmp_path / "x.npy").slices)
    assert not shown[..., 2].any() and np.array_equal(shown[..., 1] == 255, sequences[..., 1] == 200)


def test_pictures_of_different_bits_channels_and_endings_in_one_folder(tmp_path):
    image = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "1.png")
    Image.fromarray(image[..., 1]).save(tmp_path / "1.tif")
    Image.fromarray(image[..., 1].astype(np.uint16) * 200).save(tmp_path / "2.png")
    for mode in ("1", "P", "LA", "RGBA"):
        Image.new(mode, (6, 6)).save(tmp_path / f"mode_{mode}.png")
    scan, problems = read_scan(find_sources([tmp_path])[0][0])
    assert problems == [] and scan.names[:3] == ["1.png", "1.tif", "2.png"]  # 1 alone would name two masks
    assert all(plane.dtype == np.uint8 and plane.shape == (6, 6, 3) for plane in scan.slices) and not scan.grey
    assert "2 of 7 slices hold one sequence only, used for all three channels" in scan.notes


# --- Orientation and size --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 256), (256, 131), (384, 512)])
def test_fit_and_unfit_are_inverse_in_place(height, width):
    factor = max(height, width) // 256  # blocks of this size: resampling by it is exact on their centres
    blocks = np.random.default_rng(0).integers(0, 2, (height // factor, width // factor), dtype=np.uint8)
    blocks = blocks.repeat(factor, 0).repeat(factor, 1)
    small = fit(np.repeat(blocks[..., None], 3, axis=2), 256)
    assert small.shape == (256, 256, 3) and not small[:, : (256 - width // factor) // 2].any()  # black on the left
    assert np.array_equal(unfit(small[..., 0].astype(np.float32), height, width) > 0.5, blocks)


def test_a_dark_stack_is_brightened_as_a_whole():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    bright, dark = image[..., 1] // 8, image[:20, :, 1] // 16  # of two sizes
    shown = display.brightness([bright, dark])
    every = np.concatenate([bright.ravel(), dark.ravel()])
    assert np.array_equal(shown, (np.arange(256) * 255 / np.percentile(every[every > 0], 99.5)).clip(0, 255).round())
    assert shown[bright].max() == 255 and shown[dark].max() == pytest.approx(128, abs=8)
    assert np.array_equal(display.stretch(image * 0), image * 0)


@pytest.mark.parametrize(("side", "shown"), [(1, 512), (300, 600), (512, 512), (1024, 1024), (1025, 513), (4096, 1024)])
def test_overlays_are_neither_small_nor_huge(side, shown):
    flair, mask = np.zeros((side, 1), np.uint8), np.ones((side, 1), np.uint8)
    assert overlays.overlay(flair, mask).shape[0] == shown


def test_names_that_cannot_be_printed_or_written_in_utf8():
    assert safe_name("caf\udce9 \x1b[31m\n=1+1 $x$ 001 ü") == "caf%E9 %1B[31m%0A=1+1 $x$ 001 ü"
