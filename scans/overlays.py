"""Predicted masks without a reference beside them: outlines on FLAIR, and a stack as an animated GIF."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from scans.display import PREDICTION_COLOR

OVERLAY_SIDE = 512  # pixels, the least length of an overlay's longer side; the most is twice that
FRAME_SIDE = 256  # the same of each half of a GIF frame
FRAME_MS = 250
FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))  # has ² and most alphabets
TEXT_HEIGHT = 17  # pixels of a line of text
TEXT_WIDTH = 512  # pixels that the notices need
COLOR = ImageColor.getrgb(PREDICTION_COLOR)


def overlay(flair: np.ndarray, mask: np.ndarray, side: int = OVERLAY_SIDE) -> np.ndarray:
    """Return FLAIR, resized, with the outline of the mask: uint8 [H, W] and [H, W] -> uint8 [h, w, 3]."""
    picture = resize(flair, side)
    height, width = picture.shape[:2]
    large = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    outlines = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    return cv2.drawContours(picture, outlines, -1, COLOR, thickness=max(1, round(max(height, width) / 512)))


def resize(flair: np.ndarray, side: int) -> np.ndarray:
    """Return FLAIR as uint8 [h, w, 3], resized by a whole factor so that its longer side has `side` to 2 x `side`."""
    height, width = flair.shape
    larger, smaller = max(1, -(-side // max(height, width))), max(1, -(-max(height, width) // (2 * side)))
    size = (-(-width * larger // smaller), -(-height * larger // smaller))
    return cv2.cvtColor(
        cv2.resize(flair, size, interpolation=cv2.INTER_AREA if smaller > 1 else cv2.INTER_LINEAR), cv2.COLOR_GRAY2RGB
    )


def with_text(picture: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Return the picture with lines of text below it; a name that does not fit into its line is cut off."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (max(width, TEXT_WIDTH), height + TEXT_HEIGHT * len(lines) + 4))
    page.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(FONT, 12)
    for number, line in enumerate(lines):
        draw.text((4, height + 1 + TEXT_HEIGHT * number), line, font=font, fill=(235, 235, 235))
    return np.asarray(page)


def gif(flair: Iterable[np.ndarray], masks: Sequence[np.ndarray], captions: Sequence[Sequence[str]]) -> bytes:
    """Return a stack of one size as an animation: each slice without and with its outline, above lines of text."""

    def frames() -> Iterator[Image.Image]:
        for plane, mask, lines in zip(flair, masks, captions, strict=True):
            pair = np.concatenate([resize(plane, FRAME_SIDE), overlay(plane, mask, FRAME_SIDE)], axis=1)
            yield _indexed(with_text(pair, lines))

    with io.BytesIO() as file:
        others = frames()
        first = next(others)
        first.save(file, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0, optimize=False)
        return file.getvalue()


def _indexed(picture: np.ndarray) -> Image.Image:
    """Return a grey picture with outlines in a GIF's palette: 255 greys and the outlines' colour, no dithering."""
    index = np.minimum(picture[..., 0], 254)
    index[(picture == COLOR).all(2)] = 255
    frame = Image.fromarray(index, mode="P")
    frame.putpalette([grey for grey in range(255) for _ in range(3)] + list(COLOR))
    return frame
