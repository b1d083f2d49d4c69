"""What to check first: warnings about the files of a scan, its images and its mask, without a reference mask.

Every limit was measured on the 99 patients of the data set, and on wrong inputs.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from constants import BAD_DICE, FLAIR
from dataset.labels import normalise_id
from dataset.preprocess import head_box
from dataset.published import published_patients
from dataset.slices import name_digest
from scans import medical
from scans.geometry import to_network_size
from scans.scan import PICTURES, Scan, file_ending, natural_order
from utils import counted

CORNER = 16  # a corner is this fraction of a slice's height and width
UNEVEN = 0.4  # spread of the corners over that of the whole slice: at most 0.19 in 99 patients, 0.6 in photographs
BRIGHT = 0.8  # level of the corners over a slice's brightest: at most 0.69 in 99 patients, 1 on a white page
TOO_MUCH = 1 / 3  # of the head in a slice; at most 0.31 in the reference masks of 99 patients
LEAST = 0.01  # of a slice; a smaller mask says nothing, such as one where the head ends
CUT = 0.5  # of a side of the slices along which the head touches it: at most 0.41 in 99 patients
ENDS = 0.55  # of the largest area of the head, in the first slice and in the last: at most 0.51 in 99 patients
CORTEX = 0.92  # over white matter: none of 99 FLAIR is below, 83 of 93 T1 and 81 of 90 with contrast are
CORTEX_SLICES = 12  # by which it is measured
STRIPPED = 2.85  # median of FLAIR over its deviation: at most 2.65 in 99 patients, 3.0 to 4.6 in 8 without skull
STRIPPED_SLICES = 20
AIR = 0.1  # of the stack's percentile 99.5, as in find_head
FEWEST = 5  # slices of a stack of which its ends, position and skull can be told
SHORT_ECHO, SHORT_INVERSION = 40, 1200  # ms; those of FLAIR are 70 to 400 and 1,500 to 2,900, of T1 5 to 25 and less

NETWORK, CORRECTED = "network", "corrected"  # origin of a mask
RULE = (
    "Check: yes where there is a warning, an empty mask, or an expected Dice that is unknown or whose interval begins "
    f"below {BAD_DICE:g}; no where a person has corrected the mask, unless the images have changed since."
)
ONE_SEQUENCE = (
    "one sequence only, used for all three channels. Unless it is FLAIR, the masks mean nothing. FLAIR alone cost "
    "0.010 Dice in 99 patients of the data set."
)
MISPLACED = (
    "the head does not lie as in the data set: it is upside down, on its side, or cut off. Give axial slices of a "
    "whole head, the face at the top."
)
LIKE_T1 = (
    "the sequence taken for FLAIR looks like T1: cortex darker than white matter. The mask of anything but FLAIR means "
    "nothing. Choose FLAIR."
)
OTHER_IMAGES = "the images have changed since their mask was corrected: does it still fit?"
AT_END = "the mask reaches the first or last slice: the lesion may go on beyond the stack."


def needs_check(total: dict[str, Any]) -> str:
    """Return yes or no by RULE; total: a row of patients.csv, with `low` (None: unknown) if Dice is estimated."""
    if total["origin"] == CORRECTED:
        return "yes" if OTHER_IMAGES in total["warnings"].lower() else "no"
    low = total.get("low", 1.0)  # where the interval of the expected Dice begins
    doubted = total["warnings"] or not total["lesion_pixels"] or low is None or low < BAD_DICE
    return "yes" if doubted else "no"


def seen_in_training(name: str, images: str, known: dict[str, str] | None, recorded: bool = True) -> str:
    """Return yes or no, by the name of a scan and by the fingerprint of its images; empty if that is not known.

    Patients of the data set are also known without the date in their names.
    images: fingerprint of the slices on the network's grid.
    known: {name, or its digest: fingerprint of the images, or ""} of those that the weights learned from.
    recorded: whether that is all of them.
    """
    if not known:
        return ""
    names = {name, *(own for own in published_patients() if normalise_id(own) == normalise_id(name))}
    by_name = (names | {*map(name_digest, names)}) & known.keys()
    return "yes" if by_name or images in known.values() else "no" if recorded else ""


# --- Files -------------------------------------------------------------------------------------------------------


def file_warnings(scan: Scan, file: Path) -> list[str]:
    """Return warnings about the pictures of a stack, or about the header of a DICOM file taken for FLAIR."""
    if file_ending(file) in PICTURES:
        return picture_warnings(scan)
    return [] if file_ending(file) else contrast_warnings(medical.read_tags(file))


def picture_warnings(scan: Scan) -> list[str]:
    remedy = "are taken for one stack of one patient, scaled together. Give each person or series a folder of its own."
    warnings = []
    if sizes := sorted({*scan.sizes}):
        shown = ", ".join(f"{width}x{height}" for height, width in sizes[:3])
        warnings.append(f"pictures of {len(sizes)} sizes ({shown}) {remedy}")
    series = defaultdict(list)
    for path in scan.paths:
        *parts, end = natural_order(path)  # text, number, text, number, end
        series[(*parts[:-1], end)].append(path.name)
    if len(series) > 1 and min(map(len, series.values())) > 1:
        first = ", ".join(names[0] for names in list(series.values())[:3])
        warnings.append(f"pictures of {len(series)} series by their names ({first}) {remedy}")
    colours = [(plane != plane[..., :1]).any() for plane in scan.slices]
    grey = sum(not colour and plane.any() for colour, plane in zip(colours, scan.slices, strict=True))
    if 0 < sum(colours) < grey:
        name = scan.names[colours.index(True)]
        warnings.append(
            f"{sum(colours)} of {len(colours)} pictures are in colour, such as {name}, and are read as three "
            "sequences; the others are grey, and are read as FLAIR. Save all alike."
        )
    return warnings


def contrast_warnings(tags: dict[str, str]) -> list[str]:
    """Return a warning where the header of a DICOM file says times that FLAIR never has."""
    for name, words, shortest in (("EchoTime", "echo", SHORT_ECHO), ("InversionTime", "inversion", SHORT_INVERSION)):
        number = re.match(r"\s*(\d+(\.\d+)?)", tags.get(name, ""))
        if number and 0 < (time := float(number[1])) < shortest:
            return [
                f"the {words} time of the series {tags.get('SeriesDescription', '')} taken for FLAIR is {time:.4g} ms, "
                "shorter than any of FLAIR: another sequence, whose mask means nothing. Choose with --series."
            ]
    return []


# --- Images and masks --------------------------------------------------------------------------------------------


def input_warnings(scan: Scan, head: np.ndarray, masks: np.ndarray) -> list[str]:
    """Return warnings about a patient's slices and predicted masks (uint8 [S, H, W], 0 or 1).

    head: bool [S, H, W], filled.
    """
    warnings = []
    images = scan.slices[..., :1] if scan.grey else scan.slices
    spread, level = np.median([corner_values(image) for image in images], axis=0)
    if unlike := spread > UNEVEN or level > BRIGHT:
        what = "vary like the rest" if spread > UNEVEN else "are as bright as the rest"
        warnings.append(
            f"this does not look like MR of one head: the corners, where MR shows air, {what}. The masks of "
            "anything else mean nothing. Give slices of a whole head, with pre-contrast, FLAIR and post-contrast as "
            "their channels."
        )
    large = (masks.sum((1, 2)) > np.maximum(TOO_MUCH * head.sum((1, 2)), LEAST * masks[0].size)).sum()
    if large:
        warnings.append(
            f"the mask covers more than a third of the head in {large} of {counted(len(masks), 'slice')}, as no "
            "tumour of the data set does. Look at the overlays before you use the areas."
        )
    if len(masks) >= FEWEST and not unlike and not scan.sizes:
        if is_misplaced(head, scan.spacing[0] / scan.spacing[1] if scan.spacing else 1):
            warnings.append(MISPLACED)
        elif cortex_ratio(scan.slices[..., FLAIR], head) < CORTEX:
            warnings.append(LIKE_T1)
        if masks[0].any() or masks[-1].any():
            warnings.append(AT_END)
    return warnings


def is_stripped(scan: Scan) -> bool:
    """Return whether scalp and skull seem to be removed. Without their bright and dark values the rest is even."""
    sample = scan.slices[:: max(1, len(scan.slices) // STRIPPED_SLICES)]
    flair = np.stack([to_network_size(plane)[..., FLAIR] for plane in sample])
    inside = flair[flair > AIR * np.percentile(flair, 99.5)]  # the scalp need not touch the brain
    if len(sample) < FEWEST or not len(inside):
        return False
    low, middle, high = np.percentile(inside, (0.5, 50, 99.5))
    return bool(middle > STRIPPED * np.clip(inside, low, high).std())


def is_misplaced(head: np.ndarray, tall: float = 1) -> bool:
    """Return whether a head (bool [S, H, W], filled) is cut off, upside down or on its side.

    In axial slices it is longer than wide, and wider behind. tall: height of a pixel over its width.
    """
    area = head.sum((1, 2))
    edges = (head[:, 0], head[:, -1], head[:, :, 0], head[:, :, -1])
    if max(edge.mean(1).max() for edge in edges) > CUT or min(area[0], area[-1]) > ENDS * area.max():
        return True
    middles, shapes = [], []
    for plane in head[area > area.max() / 2]:
        top, bottom, left, right = head_box(plane[None])
        widths, length = plane[top:bottom].sum(1), bottom - top
        middles.append(widths @ np.linspace(-1, 1, length) / widths.sum())  # of the area, from top to bottom
        shapes.append(length * tall / (right - left))
    return bool(middles) and (np.mean(middles) < 0 or np.mean(shapes) < 1)


def cortex_ratio(flair: np.ndarray, head: np.ndarray) -> float:
    """Return the brightness of tissue near fluid, mostly cortex, over that of white matter; 1 if it cannot be told.

    flair: uint8 [S, H, W], upwards; head: bool [S, H, W], filled. Lengths are fractions of the head's radius.
    """
    area, ratios = head.sum((1, 2)), []
    large = np.flatnonzero(area > 0.6 * area.max())
    large = large[len(large) // 2 :]  # without the base of the skull
    for plane, inside in ((flair[n], head[n]) for n in large[:: max(1, len(large) // CORTEX_SLICES)]):
        radius = np.sqrt(inside.sum() / np.pi)
        brain = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, 5) > 0.2 * radius
        level = np.median(plane[brain]) if brain.any() else 0
        away = cv2.distanceTransform((plane >= 0.6 * level).view(np.uint8), cv2.DIST_L2, 5) / radius  # from fluid
        near, far = plane[brain & (away > 0.02) & (away < 0.06)], plane[brain & (away > 0.1)]
        if len(near) and len(far):
            counts = np.convolve(np.bincount(far, minlength=256), np.ones(max(1, int(0.14 * level))), "same")
            ratios.append(np.median(near) / counts.argmax())  # most frequent: white matter, to 7% of the level
    return float(np.median(ratios)) if ratios else 1.0


def corner_values(image: np.ndarray) -> tuple[float, float]:
    """Return how the four corners of a slice (uint8 [H, W, C]) compare with all of it, in its highest channel.

    The ratio of the standard deviations, and that of the mean of the corners to the 99.5th percentile of the slice.
    """
    height, width = (-(-side // CORNER) for side in image.shape[:2])
    corners = image[np.ix_(np.arange(-height, height), np.arange(-width, width))]
    spread = corners.std((0, 1)) / np.maximum(image.std((0, 1)), 1)
    level = corners.mean((0, 1)) / np.maximum(np.percentile(image, 99.5, axis=(0, 1)), 1)
    return float(spread.max()), float(level.max())
