"""Lesions of two masks of a stack, and the distance of their outlines in a slice or stack.

Lesions are connected components of a stack of slices, with 26 neighbours. Matching: a lesion of the reference mask is
found when at least a tenth of its pixels are predicted; a predicted component is false when less than a tenth of its
pixels are tumour. Components of fewer than SPECK pixels are not counted, neither as lesions nor as false ones.

Distances are from each surface pixel of one mask to the nearest of the other, both ways: between outlines in a slice in
pixels, between surfaces in 3D in mm. The surface of a mask is its pixels with a neighbour (4 in a slice, 6 in a stack)
outside of the mask; beyond the image is outside. With one mask empty, HD95 is NaN and surface Dice 0: a missed slice
does not show in HD95. With both empty, both are NaN, and left out of every mean.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

SPECK = 50  # pixels; a smaller component is not counted
CONNECTED = np.ones((3, 3, 3), int)  # neighbours of a voxel of a stack
COVERED = 0.1  # share of its pixels from which a component counts as matched
IN_MM = ("hd95_mm", "surface_distance_mm", "surface_dice_2mm")  # of patients whose spacing is known
NEAR = 2.0  # pixels or mm, within which outlines and surfaces agree


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around all set pixels (uint8 0 or 1, any dimension); without any, that of one pixel."""
    return ndimage.find_objects(mask, max_label=1)[0] or (slice(0, 1),) * mask.ndim


def match(mask: np.ndarray, predicted: np.ndarray) -> tuple[pd.DataFrame, int, int]:
    """Match the lesions of a reference mask with a prediction (uint8 0 or 1, [S, H, W]), by the rule above.

    Returns: one row per lesion: first_slice and last_slice (along axis 0), volume, overlap (its predicted pixels),
        found (0 or 1), and the dice with all predicted components that touch it; the number of predicted components,
        and of those that are false.
    """
    box = bounding_box(mask | predicted)
    lesion_of, lesions = ndimage.label(mask[box], CONNECTED)
    component_of, components = ndimage.label(predicted[box], CONNECTED)
    pairs = (lesion_of.astype(np.int64) * (components + 1) + component_of).ravel()
    joint = np.bincount(pairs, minlength=(lesions + 1) * (components + 1))
    joint = joint.reshape(lesions + 1, components + 1)  # pixels of each lesion in each component; 0 is the background
    volume, component_pixels = joint.sum(1)[1:], joint.sum(0)[1:]
    joint = joint[1:, 1:]
    overlap, hits = joint.sum(1), joint.sum(0)
    planes = [ends[0] for ends in ndimage.find_objects(lesion_of)]
    table = pd.DataFrame(
        {
            "first_slice": np.array([box[0].start + plane.start for plane in planes], int),
            "last_slice": np.array([box[0].start + plane.stop - 1 for plane in planes], int),
            "volume": volume,
            "overlap": overlap,
            "found": (overlap >= COVERED * volume).astype(int),
            "dice": 2 * overlap / (volume + (joint > 0) @ component_pixels),
        }
    )
    counted = component_pixels >= SPECK
    false = counted & (hits < COVERED * component_pixels)
    return table[volume >= SPECK].reset_index(drop=True), int(counted.sum()), int(false.sum())


# --- Outlines ------------------------------------------------------------------------------------------------------


def compare_outlines(mask: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return hd95 (pixels), surface_pixels (of both together) and surface_dice_2 of masks (uint8 0 or 1, [H, W])."""
    both = np.concatenate(ways := surface_distances(mask, predicted))
    return {"hd95": hd95(*ways), "surface_pixels": len(both), "surface_dice_2": share_near(both)}


def compare_surfaces(mask: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Return IN_MM: HD95 and mean distance of two surfaces in 3D, and the share of both within 2 mm of the other.

    Args:
        mask, predicted: uint8 0 or 1, [S, H, W].
        spacing: mm between rows, columns and slices.
    """
    both = np.concatenate(ways := surface_distances(mask, predicted, (spacing[2], spacing[0], spacing[1])))
    mean = float(both.mean()) if all(map(len, ways)) else np.nan
    return dict(zip(IN_MM, (hd95(*ways), mean, share_near(both)), strict=True))


def surface_distances(
    mask: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each surface pixel of one mask to the nearest of the other, both ways: float64 [n], [m].

    mask, predicted: uint8 0 or 1, of any dimension. spacing: of pixels along each axis; 1 if None. Infinite where the
    other mask is empty.
    """
    box = bounding_box(mask | predicted)
    one, other = (whole & ~ndimage.binary_erosion(whole) for whole in (mask[box] > 0, predicted[box] > 0))

    def to_nearest(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        if not target.any():
            return np.full(source.sum(), np.inf)
        return ndimage.distance_transform_edt(~target, spacing)[source]

    return to_nearest(one, other), to_nearest(other, one)


def hd95(there: np.ndarray, back: np.ndarray) -> float:
    """Return the larger 95th percentile of `surface_distances`; NaN with a mask empty."""
    return float(max(np.percentile(there, 95), np.percentile(back, 95))) if len(there) and len(back) else np.nan


def share_near(distances: np.ndarray) -> float:
    """Return the share of distances up to NEAR; NaN without any."""
    return float((distances <= NEAR).mean()) if len(distances) else np.nan
