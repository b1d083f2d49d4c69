"""How a slice is shown: the brightness of FLAIR, and the colours of masks."""

from collections.abc import Iterable

import numpy as np

# Okabe and Ito's colours, which people without full colour vision can tell apart
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
MASK_COLOR, PREDICTION_COLOR = ORANGE, SKY  # as in the report; pixels in only one of both have its colour
BRIGHTEST = 99.5  # percentile of FLAIR that is shown white


def stretch(flair: np.ndarray) -> np.ndarray:
    """Return FLAIR of a slice or a stack (uint8 [..., H, W]), scaled as of `brightness`. For display only."""
    return brightness([flair])[flair]


def brightness(planes: Iterable[np.ndarray]) -> np.ndarray:
    """Return what each value of FLAIR (uint8) is shown as: uint8 [256], the BRIGHTEST percentile of a stack as white.

    Patients differ a lot: one stack of the data set reaches 170 where another ends at 40. Black pixels do not count.
    """
    below = sum(np.bincount(plane.ravel(), minlength=256) for plane in planes)[1:].cumsum()
    white = 255.0
    if below[-1]:
        rank = (below[-1] - 1) * BRIGHTEST / 100
        lower, upper = 1 + np.searchsorted(below, [np.floor(rank), np.ceil(rank)], side="right")
        white = lower + (upper - lower) * (rank % 1)
    return np.clip(np.arange(256) * (255 / white), 0, 255).round().astype(np.uint8)
