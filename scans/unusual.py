"""What is unusual in the images of a patient, said before they are segmented."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from constants import FLAIR
from scans import medical
from scans.scan import PICTURES, Scan, file_ending, natural_order, to_network_size

STRIPPED = 2.85  # median of FLAIR over its deviation: at most 2.65 in 99 patients, 3.0 to 4.6 in 8 without skull
AIR = 0.1  # of the stack's percentile 99.5, as in find_head
FEWEST = 5  # slices of which it can be told
SAMPLED = 20  # slices


def is_stripped(scan: Scan) -> bool:
    """Return whether scalp and skull seem to be removed. Without their bright and dark values the rest is even."""
    sample = scan.slices[:: max(1, len(scan.slices) // SAMPLED)]
    flair = np.stack([to_network_size(plane)[..., FLAIR] for plane in sample])
    inside = flair[flair > AIR * np.percentile(flair, 99.5)]  # the scalp need not touch the brain
    if len(sample) < FEWEST or not len(inside):
        return False
    low, middle, high = np.percentile(inside, (0.5, 50, 99.5))
    return bool(middle > STRIPPED * np.clip(inside, low, high).std())


def file_warnings(scan: Scan, files: Sequence[Path]) -> list[str]:
    """Return warnings about the pictures of a stack, or about the header of a DICOM series taken for FLAIR."""
    if file_ending(files[0]) in PICTURES:
        return _picture_warnings(scan)
    return [] if file_ending(files[0]) else medical.contrast_warnings(files[0])


def _picture_warnings(scan: Scan) -> list[str]:
    warnings = []
    remedy = "are taken for one stack of one patient, scaled together. Give each person or series a folder of its own."
    sizes = sorted({plane.shape[:2] for plane in scan.slices})
    if len(sizes) > 1:
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
