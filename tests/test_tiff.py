import io
import struct

import numpy as np
import pytest
from PIL import Image

from dataset.tiff import read_plain

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", **options)
    return file.getvalue()


def by_hand(order: str, next_page: int = 0, photometric: int = 1, bits: int = 8, compression: int = 1) -> bytes:
    """A grey 3x2 TIFF, pixels first, written field by field."""
    fields = [(256, 3), (257, 2), (258, bits), (259, compression), (262, photometric), (273, 8), (277, 1), (279, 6)]
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 14)
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    return (
        header + bytes(range(6)) + struct.pack(order + "H", len(fields)) + entries + struct.pack(order + "I", next_page)
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_by_hand_in_both_byte_orders(order):
    assert read_plain(by_hand(order)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("change", [{"next_page": 8}, {"photometric": 0}, {"bits": 4}, {"compression": 5}])
def test_another_kind_is_left_alone(change):
    assert read_plain(by_hand("<", **change)) is None


@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0]])
@pytest.mark.parametrize("strip_height", [1, 7, 20])
def test_what_pillow_writes_plainly(pixels, strip_height):
    assert np.array_equal(read_plain(encode(pixels, tiffinfo={278: strip_height})), pixels)


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "packbits"}])
def test_compressed_files_are_left_to_pillow(options):
    assert read_plain(encode(RGB, **options)) is None


def test_damage_never_raises_and_never_reads_past_the_end():
    content = encode(RGB)
    assert all(read_plain(content[:length]) is None for length in range(0, len(content), 7))
    rng = np.random.default_rng(1)
    for _ in range(500):
        broken = bytearray(content)
        for position in rng.integers(0, len(broken), 4):
            broken[position] = rng.integers(0, 256)
        pixels = read_plain(bytes(broken))
        assert pixels is None or pixels.dtype == np.uint8
