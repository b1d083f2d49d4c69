"""What speaks against a prediction that has no reference mask: an input that is no MR of a head, a mask too large."""

from collections.abc import Sequence

import numpy as np

from evaluation.calibration import head_mask

CORNER = 8  # a corner is this part of a slice's height and width
UNEVEN = 0.4  # spread of the corners, as a share of a whole slice's: at most 0.19 in 99 patients, 0.6 in photographs
BRIGHT = 0.8  # level of the corners, as a share of a slice's brightest; at most 0.69 in 99 patients, 1 on a white page
TOO_MUCH = 1 / 3  # of the head in a slice; at most 0.28 in the reference masks of 99 patients


def input_warnings(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[str]:
    """Return warnings about a patient's slices (uint8 [H, W, 3] each) and predicted masks (uint8 [H, W], 0 or 1)."""
    warnings = []
    uneven = np.median([corner_spread(image) for image in images]) > UNEVEN
    if uneven or np.median([corner_level(image) for image in images]) > BRIGHT:
        what = "vary like the rest" if uneven else "are as bright as the rest"
        warnings.append(
            f"this does not look like MR of one head: the corners, where MR shows air, {what}. The masks of "
            "anything else mean nothing. Give slices of a whole head, with pre-contrast, FLAIR and post-contrast as "
            "their channels."
        )
    marked = [(image, mask) for image, mask in zip(images, masks, strict=True) if mask.any()]
    large = sum(mask.sum() > TOO_MUCH * head_mask(image).sum() for image, mask in marked)
    if large:
        warnings.append(
            f"the mask covers more than a third of the head in {large} of {len(images)} slices, as no tumour of the "
            "data set does. Look at the overlays before you use the areas."
        )
    return warnings


def corner_spread(image: np.ndarray) -> float:
    """Return the spread of values in the corners of a slice, as a share of that in the whole slice.

    Of the channel in which it is largest; 0 for a slice of one value. image: uint8 [H, W, 3].
    """
    return float((corners(image).std((0, 1)) / np.maximum(image.std((0, 1)), 1)).max())


def corner_level(image: np.ndarray) -> float:
    """Return the mean of the corners of a slice as a share of its 99.5th percentile, of its highest channel."""
    return float((corners(image).mean((0, 1)) / np.maximum(np.percentile(image, 99.5, axis=(0, 1)), 1)).max())


def corners(image: np.ndarray) -> np.ndarray:
    height, width = (-(-side // CORNER) for side in image.shape[:2])
    rows, columns = np.arange(-height, height), np.arange(-width, width)
    return image[np.ix_(rows, columns)]
