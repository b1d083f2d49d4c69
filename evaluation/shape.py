"""Shape features of a tumour, from the mask of a patient's stack alone; none of them needs the voxel spacing.

Three are published as associated with genomic subtypes (Mazurowski 2017; Buda 2019, arXiv 1906.03720). Their texts
leave choices open: docs/radiogenomics.md says which are taken here, and how little the others change.
"""

import math
from typing import Any

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from evaluation.lesions import CONNECTED, bounding_box

SECTORS = 10  # of 36 degrees, of the angular standard deviation
STARTS = (0, 18)  # degrees at which the first sector begins; both results are averaged
WINDOW = 0.1  # share of the outline that is averaged over
FEWEST_POINTS = 30  # of an outline: below, a tenth of it is too short to be averaged over
TOO_SHORT = f"the outline of the largest slice has {{}} points, fewer than {FEWEST_POINTS}"
ROUNDING = 1e-9  # degrees, by which an angle may be off
ACCURACY = 1e-6  # of the largest squared distance; the volume is then too large by at most twice that, in 3D
MOST_STEPS = 100_000  # 100 are usual; outlines of high symmetry take up to 15,000
TINY = 1e-12  # curvature of a pair of points in one direction, but for rounding


# Columns of shape_features.csv, and their names in tables; the published ones are the family of tests
PUBLISHED = {"bevr": "BEVR", "margin_fluctuation": "MF", "angular_sd": "ASD"}
FEATURES = PUBLISHED | {
    "volume": "volume", "components": "components", "largest_area": "largest slice", "solidity": "solidity"
}  # fmt: skip


def measure(stack: np.ndarray, largest_only: bool = False) -> dict[str, Any]:
    """Return FEATURES of the tumour of one patient, NaN where undefined, and the reason, empty where none is.

    Args:
        stack: uint8 [S, H, W], 0 or 1, slices in their order.
        largest_only: measure the largest component in 3D, not all of them together; their number is that of the mask.
    """
    if not stack.any():
        none = dict.fromkeys(("volume", "components", "largest_area"), 0)
        return dict.fromkeys(FEATURES, math.nan) | none | {"reason": "the mask is empty"}
    mask = stack[bounding_box(stack)]
    labels, components = ndimage.label(mask, CONNECTED)
    if largest_only and components > 1:
        mask = np.uint8(labels == 1 + np.bincount(labels.ravel())[1:].argmax())
    # Of voxel corners, not centres: a tumour in one slice or row has a volume then
    hull = ConvexHull(np.argwhere(ndimage.maximum_filter(np.pad(mask, (0, 1)), 2)))
    largest = mask[mask.sum((1, 2)).argmax()]  # the slice with the most tumour, the first of equals
    distances, angles = outer_outline(largest)
    defined = len(distances) >= FEWEST_POINTS
    volume = int(mask.sum())
    return {
        "bevr": volume / ellipsoid_volume(hull.points[hull.vertices]),
        "margin_fluctuation": margin_fluctuation(distances) if defined else math.nan,
        "angular_sd": angular_sd(distances, angles) if defined else math.nan,
        "volume": volume,
        "components": components,
        "largest_area": int(largest.sum()),
        "solidity": volume / hull.volume,
        "reason": "" if defined else TOO_SHORT.format(len(distances)),
    }


def outer_outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outer outline of the largest component of a slice (uint8 0 or 1, [H, W], not empty), from its centre.

    Returns: distance of each point, divided by their mean, and angle in degrees from 0 to 360, in order: float64 [N].
    Holes do not count. It runs through the centres of the boundary pixels, neighbours over corners included.
    """
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    component = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    alone = np.uint8(labels == component)
    points = cv2.findContours(alone, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0].astype(float)
    x, y = (points - centres[component]).T
    distances = np.hypot(x, y)
    return distances / max(distances.mean(), ROUNDING), np.degrees(np.arctan2(y, x)) % 360


def margin_fluctuation(distances: np.ndarray) -> float:
    """Return the standard deviation of the distances minus their circular moving average.

    The window is the odd number of points nearest to its share of the outline, at least three.
    """
    window = max(3, 2 * round((WINDOW * len(distances) - 1) / 2) + 1)
    smooth = ndimage.uniform_filter1d(distances, window, mode="wrap")
    return float((distances - smooth).std())


def angular_sd(distances: np.ndarray, angles: np.ndarray) -> float:
    """Return the mean over sectors of the standard deviation of the distances; a sector without points is left out.

    The mean of two divisions into sectors, half a sector apart, is the same for a tumour that is turned by 90 degrees.
    """
    divisions = []
    for start in STARTS:
        sector = ((angles - start + ROUNDING) % 360 // (360 / SECTORS)).astype(int)
        divisions.append(np.mean([distances[sector == number].std() for number in np.unique(sector)]))
    return float(np.mean(divisions))


# --- The ellipsoid of least volume around a set of points ----------------------------------------------------------


def ellipsoid_volume(points: np.ndarray) -> float:
    """Return the volume of the smallest ellipsoid that holds all points (float [N, D]), not all in one plane.

    Khachiyan's algorithm: each step moves weight to the point that is farthest outside. Here it comes from the one
    point from which the exchange gains most, not from all: a tenth of the steps.
    """
    number, size = points.shape
    middle, scale = points.mean(0), np.linalg.cholesky(np.cov(points.T, bias=True))
    white = np.linalg.solve(scale, (points - middle).T)  # well conditioned, however thin the points lie
    lifted = np.vstack([white, np.ones(number)])  # [D + 1, N], in which the ellipsoid is centred on the origin
    weights = np.zeros(number)
    weights[np.unique([white.argmin(1), white.argmax(1)])] = 1  # the ends of each axis: a few of many points
    weights /= weights.sum()
    wanted = size + 1  # the squared distance of all points that carry weight, in the end
    for _ in range(MOST_STEPS):
        mapped = np.linalg.solve((lifted * weights) @ lifted.T, lifted)
        distances = (lifted * mapped).sum(0)
        far = distances.argmax()
        if distances[far] <= (1 + ACCURACY) * wanted:
            break
        givers = np.flatnonzero(weights)
        gap = np.maximum(distances[far] - distances[givers], 0)
        curvature = np.maximum(distances[far] * distances[givers] - (lifted[:, far] @ mapped[:, givers]) ** 2, TINY)
        steps = np.minimum(gap / (2 * curvature), weights[givers])
        best = (steps * gap - steps**2 * curvature).argmax()  # the growth of the determinant
        weights[far] += steps[best]
        weights[givers[best]] -= steps[best]
    centre = white @ weights
    spread = (white * weights) @ white.T - np.outer(centre, centre)
    away = white.T - centre
    farthest = np.einsum("nd,de,ne->n", away, np.linalg.inv(spread), away).max()  # this point lies on the surface
    unit_ball = math.pi ** (size / 2) / math.gamma(size / 2 + 1)
    return unit_ball * np.linalg.det(scale) * math.sqrt(np.linalg.det(spread) * farthest**size)
