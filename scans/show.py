"""How slices are shown: the brightness of FLAIR, the colours of masks, and one contact sheet of a patient."""

import importlib.util
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from constants import FLAIR
from dataset.preprocess import head_box
from scans.scan import Scan

# Okabe and Ito's colours, which people without full colour vision can tell apart
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
MASK_COLOR, PREDICTION_COLOR = ORANGE, SKY  # as in the report; pixels in only one of both have its colour
BRIGHTEST = 99.5  # percentile of FLAIR that is shown white
MOST_TILES = 20  # slices of a contact sheet
SHEET_WIDTH, LARGEST_TILE = 1280, 512  # pixels
LINE = 20  # pixels of a line of text
LEAST_HEAD = 0.02  # of a slice; a smaller head is noise
MARGIN = 4  # pixels of air shown around the head
TEXT, DIM = (235, 235, 235), (160, 160, 160)


def stretch(flair: np.ndarray) -> np.ndarray:
    """Return FLAIR of a slice or a stack (uint8 [..., H, W]) for display, its BRIGHTEST percentile as white.

    Patients differ a lot: one stack of the data set reaches 170 where another ends at 40. Black pixels do not count.
    """
    bright = flair[flair > 0]
    white = np.percentile(bright, BRIGHTEST) if len(bright) else 255
    return np.clip(np.arange(256) * (255 / white), 0, 255).round().astype(np.uint8)[flair]


def contact_sheet(
    scan: Scan, head: np.ndarray, masks: np.ndarray, references: np.ndarray | None, captions: Sequence[str],
    heading: Sequence[str], footer: Sequence[str],
) -> np.ndarray:  # fmt: skip
    """Return one picture of the slices that matter, with the outlines of masks on FLAIR: uint8 [h, w, 3].

    head: as of `find_head`. masks, references: uint8 [S, H, W], 0 or 1. captions: of the slices. heading, footer: lines
    above and below.
    """
    outlined = [(masks, PREDICTION_COLOR), *([(references, MASK_COLOR)] if references is not None else [])]
    flair = stretch(scan.slices[..., FLAIR])
    marked = masks if references is None else masks | references
    chosen = choose_slices(marked.any((1, 2)), head.mean((1, 2)) > LEAST_HEAD)
    first, last, left, right = head_box(head[chosen] | (marked[chosen] > 0))
    box = slice(max(first - MARGIN, 0), last + MARGIN), slice(max(left - MARGIN, 0), right + MARGIN)
    tall = scan.spacing[0] / scan.spacing[1] if scan.spacing else 1
    columns = min(range(math.ceil(math.sqrt(len(chosen))), 6), key=lambda n: -len(chosen) % n)  # fewest empty tiles
    side = min(SHEET_WIDTH // columns, LARGEST_TILE)
    rows = math.ceil(len(chosen) / columns)
    top = LINE * (len(heading) + 1) + 8
    size = (max(columns * side, LARGEST_TILE), top + rows * (side + LINE) + LINE * len(footer) + 8)
    page = Image.new("RGB", size)
    draw, font = ImageDraw.Draw(page), text_font(13)
    for number, n in enumerate(chosen):
        left, upper = number % columns * side, top + number // columns * (side + LINE)
        picture = tile(flair[n][box], [(of[n][box], color) for of, color in reversed(outlined)], side - 4, tall)
        height, width = picture.shape[:2]
        page.paste(Image.fromarray(picture), (left + (side - width) // 2, upper + (side - height) // 2))
        draw.text((left + 6, upper + side), captions[n], font=font, fill=TEXT if masks[n].any() else DIM)
        if scan.grid and scan.grid.affine is not None:  # shown as radiologists do
            for letter, across in (("R", left + 4), ("L", left + side - 14)):
                draw.text((across, upper + side // 2), letter, font=font, fill=DIM)
    for number, line in enumerate(heading):
        draw.text((6, 4 + LINE * number), line, font=text_font(15) if number == 0 else font, fill=TEXT)
    for number, (word, (_, color)) in enumerate(zip(("predicted", "reference"), outlined, strict=False)):
        draw.text((6 + 90 * number, top - LINE - 2), word, font=font, fill=color)
    for number, line in enumerate(footer):
        draw.text((6, page.height - LINE * (len(footer) - number) - 2), line, font=font, fill=DIM)
    return np.asarray(page)


def choose_slices(marked: Sequence[bool], heads: Sequence[bool], most: int = MOST_TILES) -> list[int]:
    """Return at most so many slices, evenly, of those that are marked and next to them; else of those with a head."""
    near = np.convolve(marked, [1, 1, 1], "same") if len(marked) > 2 else np.array(marked)
    numbers = np.flatnonzero(near if any(marked) else heads if any(heads) else [True] * len(heads))
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int))].tolist()


def tile(flair: np.ndarray, outlined: Iterable[tuple[np.ndarray, str]], side: int, tall: float = 1) -> np.ndarray:
    """Return FLAIR (uint8 [H, W]) in a square of a side, with outlines of masks in colours: uint8 [h, w, 3].

    tall: height of a pixel, as a multiple of its width.
    """
    height, width = flair.shape[0] * tall, flair.shape[1]
    size = tuple(max(1, round(length * side / max(height, width))) for length in (width, height))
    smooth = cv2.INTER_AREA if max(size) < max(flair.shape) else cv2.INTER_CUBIC
    picture = cv2.cvtColor(cv2.resize(np.ascontiguousarray(flair), size, interpolation=smooth), cv2.COLOR_GRAY2RGB)
    for mask, color in outlined:
        large = cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_LINEAR) > 127
        lines = cv2.findContours(large.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, lines, -1, ImageColor.getrgb(color), 1, cv2.LINE_AA)
    return picture


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, which has ² and most alphabets, without the time that its import takes."""
    folder = importlib.util.find_spec("matplotlib").submodule_search_locations[0]
    return ImageFont.truetype(str(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")), size)
