"""How a slice is shown: the brightness of FLAIR, and the colours of masks."""

import numpy as np

# Okabe and Ito's colours, which people without full colour vision can tell apart
BLUE, ORANGE, GREEN, SKY = "#0072B2", "#E69F00", "#009E73", "#56B4E9"
MASK_COLOR, PREDICTION_COLOR = ORANGE, SKY  # as in the report; pixels in only one of both have its colour
BRIGHTEST = 99.5  # percentile of FLAIR that is shown white


def stretch(flair: np.ndarray) -> np.ndarray:
    """Return FLAIR of a slice or a stack (uint8 [..., H, W]), scaled so that its BRIGHTEST percentile becomes white.

    Patients differ a lot: one stack of the data set reaches 170 where another ends at 40. For display only.
    """
    bright = flair[flair > 0]
    white = max(float(np.percentile(bright, BRIGHTEST)), 1) if bright.size else 255
    table = np.clip(np.arange(256) * (255 / white), 0, 255).round().astype(np.uint8)
    return table[flair]
