"""Read the pixels of a plain TIFF straight from its bytes: single page, 8 bits, uncompressed, one contiguous run.

The slices of the Kaggle set are of this kind. Anything else is left to Pillow, which is ten times slower.
"""

import struct

import numpy as np

# Tags of the TIFF 6.0 specification that decide how the pixels are laid out
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES, PLANAR = 273, 274, 277, 279, 284
LAYOUT = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES,
          PLANAR}  # fmt: skip
IGNORED = {254, 270, 271, 272, 278, 282, 283, 285, 296, 297, 305, 306, 315}  # names, dates, resolution, strip height
NUMBERS = {3: "H", 4: "I"}  # field types SHORT and LONG
MOST_FIELDS = 64
MOST_VALUES = 4096  # of one field: offsets and lengths of the strips


def read_plain(content: bytes) -> np.ndarray | None:
    """Return uint8 [H, W] (grey, black is 0) or [H, W, 3] (RGB); None if the file is damaged or of any other kind."""
    try:
        fields = _fields(content)
    except (struct.error, ValueError, KeyError):
        return None
    if fields is None or {WIDTH, HEIGHT, STRIP_OFFSETS, STRIP_BYTES, PHOTOMETRIC} - fields.keys():
        return None
    width, height = fields[WIDTH][0], fields[HEIGHT][0]
    samples = fields.get(SAMPLES, (1,))[0]
    plain = {COMPRESSION: 1, FILL_ORDER: 1, ORIENTATION: 1, PLANAR: 1}
    if (
        any(fields.get(tag, (value,)) != (value,) for tag, value in plain.items())
        or fields.get(BITS) != (8,) * samples
        or (samples, fields[PHOTOMETRIC]) not in ((1, (1,)), (3, (2,)))
    ):
        return None
    offsets, lengths = fields[STRIP_OFFSETS], fields[STRIP_BYTES]
    start, size = offsets[0], width * height * samples
    expected = [start + sum(lengths[:n]) for n in range(len(lengths))]
    if list(offsets) != expected or sum(lengths) != size or start + size > len(content):
        return None
    shape = (height, width) if samples == 1 else (height, width, samples)
    return np.frombuffer(content, np.uint8, size, start).reshape(shape)


def _fields(content: bytes) -> dict[int, tuple[int, ...]] | None:
    """Return the fields of the only page by tag; None if there is another page, or a field that might matter."""
    order = {b"II": "<", b"MM": ">"}[content[:2]]
    magic, start = struct.unpack_from(order + "HI", content, 2)
    (count,) = struct.unpack_from(order + "H", content, start)
    (next_page,) = struct.unpack_from(order + "I", content, start + 2 + 12 * count)
    if magic != 42 or next_page or count > MOST_FIELDS:
        return None
    fields = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", content, entry)
        if tag in IGNORED:
            continue
        if tag not in LAYOUT or not 0 < length <= MOST_VALUES:
            return None
        number = f"{order}{length}{NUMBERS[kind]}"
        inside = struct.calcsize(number) <= 4
        where = entry + 8 if inside else struct.unpack_from(order + "I", content, entry + 8)[0]
        fields[tag] = struct.unpack_from(number, content, where)
    return fields
