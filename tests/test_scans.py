"""Images of unknown origin: read within limits, scaled to 8 bits, shown, and their masks written back."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageColor

from dataset.preprocess import find_head
from scans import show
from scans.cohort import find_patients
from scans.geometry import to_network_size, to_original_size
from scans.masks import read_mask, select
from scans.read import read_scan
from scans.scan import Scan, natural_order
from scans.write import describe, describe_cohort, encode_stack, measure, record_path, sum_up, write_tables
from utils import to_json, write_text


def read(path: Path) -> Scan:
    """Return the scan of one file, which must be readable."""
    scan, problems = read_scan("scan", [path])
    assert problems == []
    return scan


def refusal(path: Path) -> str:
    """Return the one problem with a file, which must not be readable."""
    scan, problems = read_scan("scan", [path])
    assert scan is None and len(problems) == 1 and problems[0].startswith(f"{path}: cannot be read: ")
    return problems[0]


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


NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9000 9000 9\nencoding: raw\n\n"


@pytest.mark.parametrize(("ending", "content", "message"), [
    (".png", png(12000, 12000, 8, 0), "144,000,000 voxels, slices padded to squares; at most 134,217,728"),
    (".png", png(2, 2, 16, 2), "of more than 8 bits"),
    (".png", b"<svg onload=alert(1)>", "cannot identify"),
    (".npy", npy((4096, 64, 64)), "268,435,456 voxels"),  # each is computed at 256 x 256
    (".npy", npy((2, 3, 4, 5, 6)), "has the shape (2, 3, 4, 5, 6)"),
    (".npy", npy((4, 4), "|O"), "objects"),  # would be unpickled
    (".npy", b"PK\3\4", "magic"),  # a zip file, which np.load would open
    (".nrrd", NRRD, "729,000,000 voxels"),
], ids=str)  # fmt: skip
def test_hostile_files_are_refused_before_they_are_decoded(tmp_path, ending, content, message):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    if ending == ".npy":
        os.truncate(path, 2**37)  # sparse: takes no space
    tracemalloc.start()
    assert message in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()


def test_the_pictures_of_a_folder_are_counted_as_large_as_the_largest(tmp_path):
    for number in range(10):
        Image.new("RGB", (4096 if number == 5 else 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_text("no picture")
    paths = find_patients([tmp_path])[0][0].items[1].paths
    scan, problems = read_scan("x", paths)
    assert scan is None and len(problems) == 2 and "1.png: cannot be read" in problems[0]
    assert f"{tmp_path}: cannot be read: 150,994,944 voxels" in problems[1]


def test_pictures_that_pillow_reads_but_not_as_one_slice(tmp_path):
    image = Image.new("RGB", (9, 9))
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    Image.new("CMYK", (9, 9)).save(tmp_path / "ink.tif")
    image.save(tmp_path / "gif.png", format="GIF")
    cv2.imwrite(str(tmp_path / "deep.tif"), np.full((8, 8, 3), 4000, np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    refused = {"pages.tif": "more than one page", "ink.tif": "pixel format CMYK", "gif.png": "cannot identify",
               "deep.tif": "of more than 8 bits"}  # fmt: skip
    for name, message in refused.items():
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
    high = np.percentile(stack[stack > low + 0.1 * (high - low)], 99.5)
    expected = ((stack - low) / (high - low) * 255).clip(0, 255).round()
    assert np.array_equal([plane[..., 0] for plane in scan.slices], expected) and len(scan.notes) == 1


def test_stacks_of_almost_nothing(tmp_path):
    stack = np.zeros((2, 64, 64), np.float32)
    np.save(tmp_path / "x.npy", stack)
    assert not np.any(read(tmp_path / "x.npy").slices)
    stack[1, 20:24, 20:24] = 1e30  # fewer pixels than the percentiles leave out
    stack[0, 0, :3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "x.npy", stack)
    scan = read(tmp_path / "x.npy")
    assert "3 values that are not finite, or padding, are black" in scan.notes
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
    assert read(tmp_path / "tumour.npy").slices.any()


def test_pictures_of_different_bits_are_refused_and_of_different_channels_and_endings_read(tmp_path):
    image = np.random.default_rng(0).integers(1, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "1.png")
    Image.fromarray(image[..., 1]).save(tmp_path / "1.tif")
    for mode in ("1", "P", "LA", "RGBA"):
        Image.new(mode, (6, 6)).save(tmp_path / f"mode_{mode}.png")
    scan, problems = read_scan("x", find_patients([tmp_path])[0][0].items[1].paths)
    assert problems == [] and scan.names[:2] == ["1.png", "1.tif"]  # 1 alone would name two masks
    assert all(plane.dtype == np.uint8 and plane.shape == (6, 6, 3) for plane in scan.slices) and not scan.grey
    for deep in (np.uint16, np.float32):
        Image.fromarray(image[..., 1].astype(deep)).save(tmp_path / "2.tif")
        scan, problems = read_scan("x", find_patients([tmp_path])[0][0].items[1].paths)
        assert scan is None and "pictures of 8 bits and of more" in problems[0]


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 256), (256, 131), (384, 512)])
def test_the_networks_size_and_the_original_one_are_inverse_in_place(height, width):
    factor = max(height, width) // 256  # blocks of this size: resampling by it is exact on their centres
    blocks = np.random.default_rng(0).integers(0, 2, (height // factor, width // factor), dtype=np.uint8)
    blocks = blocks.repeat(factor, 0).repeat(factor, 1)
    small = to_network_size(np.repeat(blocks[..., None], 3, axis=2))
    assert small.shape == (256, 256, 3) and not small[:, : (256 - width // factor) // 2].any()  # black on the left
    assert np.array_equal(to_original_size(small[..., 0].astype(np.float32), height, width) > 0.5, blocks)


@pytest.mark.parametrize(("values", "labels", "expected", "note"), [
    ([0, 255], (), [0, 1], ""), ([0, 1, 2, 4], (), [0, 1, 1, 1], ""), ([0, 0], (), [0, 0], ""),
    ([0, 0.5], (), [0, 1], ""), ([True, False], (), [1, 0], ""), ([0, 0.99999994, 1], (), [0, 1, 1], ""),
    ([0, 1, 2, 4], (1, 4), [0, 1, 0, 1], "labels left out: 2"), ([0, 0], (1,), [0, 0], ""),
    ([0, 0.99999994, 2.0000002, 4], (1, 2), [0, 1, 1, 0], "labels left out: 4"), ([0, 10], (), [0, 1], ""),
    ([0.0, 0.2, 0.5, 0.9], (), [0, 0, 1, 1], "soft mask: counts from 0.5 on"),
])  # fmt: skip
def test_labels_and_soft_values_of_masks(values, labels, expected, note):
    mask, said = select(np.array(values), labels)
    assert (mask.tolist(), said) == (expected, note)


NO_MASKS = ([0, 10, 255], [-1, 0], [0, 0.5, 7.5], [0, np.nan], [0, 3, 80], [1, 2])


@pytest.mark.parametrize(
    ("values", "labels"), [([0, 255], {1}), ([0, 0.4, 1], {1}), *((values, ()) for values in NO_MASKS)]
)
def test_values_that_are_no_mask(values, labels):
    with pytest.raises(
        ValueError, match=r"a mask with the values|it holds 0 and 255, not a label|its values are no whole"
    ):
        select(np.array(values), labels)


def test_the_transparency_of_a_mask_is_the_mask_where_it_varies(tmp_path):
    drawn = np.zeros((6, 8), np.uint8)
    drawn[1:3, 2:5] = 255
    layers = {"black on transparent": (drawn * 0, drawn), "white on transparent white": (drawn * 0 + 255, drawn),
              "white on black, opaque": (drawn, drawn * 0 + 255)}  # fmt: skip
    for name, (grey, alpha) in layers.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(path)
        assert np.array_equal(read_mask(path), drawn // 255), name
        Image.fromarray(np.dstack([grey, alpha])).save(path)
        assert np.array_equal(read_mask(path), drawn // 255), name


def test_pictures_are_turned_as_every_viewer_shows_them(tmp_path):
    plane = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    turned = np.rot90(plane, -1)  # orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending, options in ((".png", {}), (".tif", {}), (".jpg", {"quality": 100})):
        Image.fromarray(plane).save(tmp_path / f"x{ending}", exif=exif, **options)
        scan = read(tmp_path / f"x{ending}")
        assert scan.slices[0].shape == (8, 6, 3), ending
        np.testing.assert_allclose(scan.slices[0][..., 0], turned, atol=3, err_msg=ending)
        (content,) = encode_stack(scan, (scan.slices[..., 0] > 120).astype(np.uint8), "mask").values()
        (tmp_path / "mask.png").write_bytes(content)
        assert read_mask(tmp_path / "mask.png").shape == (8, 6)


def test_slices_are_in_the_order_of_their_numbers_with_sign():
    names = ["z_-12.5", "z_-2.5", "z_0.0", "z_2.5", "z_10.25", "z_10.5"]
    assert [path.stem for path in sorted((Path(f"{name}.png") for name in names[::-1]), key=natural_order)] == names
    for names in (["slice-2", "slice-10"], ["P1-2", "P1-10"], ["1.2.840.9", "1.2.840.10"], ["a 2", "a 10", "b 1"]):
        assert [p.name[:-4] for p in sorted((Path(f"{n}.png") for n in names[::-1]), key=natural_order)] == names


@pytest.mark.parametrize("filling", [-32768, float(np.finfo(np.float32).min), np.nan])
def test_filling_outside_of_the_field_of_view_is_air(tmp_path, filling):
    stack = np.linspace(0, 900, 2 * 20 * 30).reshape(2, 20, 30).round().astype(np.float32)
    np.save(tmp_path / "plain.npy", stack)
    padded = np.pad(stack, ((0, 0), (5, 5), (5, 5)), constant_values=filling)
    np.save(tmp_path / "padded.npy", padded if np.isnan(filling) or filling < -1e9 else padded.astype(np.int16))
    shown = np.array(read(tmp_path / "padded.npy").slices)
    assert np.array_equal(shown[:, 5:-5, 5:-5], read(tmp_path / "plain.npy").slices)
    assert not shown[:, :5].any()


# --- Shown and measured ----------------------------------------------------------------------------------------


def test_a_sheet_shows_marked_slices_and_those_next_to_them_or_else_some_of_the_head():
    marked = np.isin(np.arange(50), [10, 11, 30])
    assert show.choose_slices(marked, [True] * 50) == [9, 10, 11, 12, 29, 30, 31]
    assert show.choose_slices(marked, [True] * 50, most=3) == [9, 12, 31]
    assert show.choose_slices([False] * 50, np.arange(50) >= 40, most=4) == [40, 43, 46, 49]
    assert show.choose_slices([False, False], [False, False]) == [0, 1] and show.choose_slices([True], [False]) == [0]


@pytest.mark.parametrize("sizes", [[(60, 40)], [(60, 40)] * 5, [(1, 200)], [(300, 300)] * 30])
def test_a_sheet_outlines_masks_where_they_are(sizes):
    rng = np.random.default_rng(0)
    slices = rng.integers(60, 90, (len(sizes), *sizes[0], 3), dtype=np.uint8)
    masks = np.zeros(slices.shape[:3], np.uint8)
    masks[0][:, sizes[0][1] // 2 :] = 1
    head = find_head(slices)
    scan = Scan("x", slices, [f"x_{n}" for n in range(len(sizes))], [Path("x.npy")])
    without = show.contact_sheet(scan, head, masks, None, ["caption"] * len(sizes), ["x", "lesion"], ["footer"])
    both = show.contact_sheet(scan, head, masks, masks[::-1], ["caption"] * len(sizes), ["x", "lesion"], ["footer"])
    blue, orange = (np.array(ImageColor.getrgb(color)) for color in (show.PREDICTION_COLOR, show.MASK_COLOR))
    assert (without == blue).all(2).any() and not (without == orange).all(2).any() and (both == orange).all(2).any()
    assert 512 <= both.shape[1] <= 1280 and both.shape[0] < 1600


def test_a_mean_dice_says_how_many_references_are_empty_and_who_was_seen_in_training():
    row = {"lesion_slices": 1, "slices": 2, "lesion_pixels": 9, "check": "no", "origin": "network"}
    totals = [row | {"dice": dice, "reference_pixels": pixels} for dice, pixels in ((0.8, 9), (0.6, 4), (0, 0))]
    expected = "mean Dice 0.467 with 3 reference masks, 1 of them empty (0.700 with the others)"
    assert describe_cohort([*totals, row]).endswith(expected)
    seen = totals[0] | {"seen_in_training": "yes"}
    assert describe(seen)[1:] == ["Dice 0.800 with the reference mask of 9 px", "seen in training"]
    assert describe(totals[0])[1:] == ["Dice 0.800 with the reference mask of 9 px"]
    unscored = row | {"seen_in_training": "yes"}
    text = describe_cohort([seen, totals[0], unscored])
    assert text.endswith("mean Dice 0.800 with 2 reference masks, 1 of them seen in training")


def test_areas_volumes_and_dice_by_hand(tmp_path):
    masks = np.zeros((3, 4, 5), np.uint8)
    masks[0][:2, :3] = masks[1][:3, :4] = 1  # 6 and 12 px
    references = np.stack([masks[0], masks[1] * 0, masks[2]])
    scan = Scan("=x", masks, ["=x_1", "=x_2", 'a, "b"'], [Path("in/=x.nii")], spacing=(0.5, 2, 4))
    rows = measure(scan, masks, references)
    assert [row["lesion_mm2"] for row in rows] == [6, 12, 0] and [row["lesion_mm3"] for row in rows] == [24, 48, 0]
    assert [row["dice"] for row in rows] == [1, 0, 1]  # empty against empty is 1
    total = sum_up(rows)
    assert total["lesion_slices"] == 2 and total["largest_slice"] == "=x_2" and total["dice"] == 12 / (18 + 6)
    scan.spacing = None
    for name, own in (("a", (rows, total)), ("b", (rows := measure(scan, masks, None), sum_up(rows)))):
        write_text(record_path(tmp_path, name), to_json({"slices": own[0], "patient": own[1], "grey": True}))
    assert write_tables(tmp_path, ["a", "not done", "b"], {})[1] == 2
    assert (tmp_path / "patients.csv").read_text().splitlines()[1:] == [
        "=x,,,0.072000,,,,,,3,2,18,72.000000,=x_2,6,6,0.500000,in/=x.nii",
        "=x,,,,,,,,,3,2,18,,=x_2,,,,in/=x.nii",
    ]
    third = '=x,"a, ""b""",4,5,0,0.000000,0.000000,0,0,1.000000,in/=x.nii'
    assert (tmp_path / "slices.csv").read_text().splitlines()[3] == third
