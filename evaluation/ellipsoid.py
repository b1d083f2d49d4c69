"""The ellipsoid of least volume around a set of points.

As in Khachiyan's algorithm, every point carries a weight, the weighted covariance is the shape of the ellipsoid, and
each step moves weight to the point that is farthest outside. He takes it from all points; here it comes from the one
from which the exchange gains most, with the best step for this pair. On tumours, that needs a tenth of the steps.
"""

import math
from typing import NamedTuple

import numpy as np

ACCURACY = 1e-6  # of the largest squared distance; the volume is then too large by at most twice that, in 3D
MOST_STEPS = 100_000  # 100 are usual; outlines of high symmetry take up to 15,000
TINY = 1e-12  # curvature of a pair of points in one direction, but for rounding


class Ellipsoid(NamedTuple):
    """All x with (x - centre) @ matrix @ (x - centre) <= 1."""

    centre: np.ndarray  # float64 [D]
    matrix: np.ndarray  # float64 [D, D]

    @property
    def volume(self) -> float:
        size = len(self.centre)
        unit_ball = math.pi ** (size / 2) / math.gamma(size / 2 + 1)
        return unit_ball / math.sqrt(np.linalg.det(self.matrix))

    @property
    def radii(self) -> np.ndarray:
        """The half axes, longest first: float64 [D]."""
        return 1 / np.sqrt(np.linalg.eigvalsh(self.matrix))

    @property
    def angle(self) -> float:
        """Of an ellipse (row, column): degrees from the columns' axis to the longest, towards higher rows."""
        row, column = np.linalg.eigh(self.matrix)[1][:, 0]
        return math.degrees(math.atan2(row, column))

    def section(self, height: float) -> "Ellipsoid | None":
        """Return the ellipse in which the plane at this first coordinate cuts it; None where they do not meet."""
        inner, mixed = self.matrix[1:, 1:], self.matrix[1:, 0]
        offset = height - self.centre[0]
        lean = np.linalg.solve(inner, mixed)
        left = 1 - offset**2 * (self.matrix[0, 0] - mixed @ lean)
        return Ellipsoid(self.centre[1:] - offset * lean, inner / left) if left > 0 else None


def enclosing_ellipsoid(points: np.ndarray) -> Ellipsoid:
    """Return the smallest ellipsoid that holds all points (float [N, D]), which must not lie in one plane."""
    number, size = points.shape
    middle, scale = points.mean(0), np.linalg.cholesky(np.cov(points.T, bias=True))
    white = np.linalg.solve(scale, (points - middle).T)  # well conditioned, however thin the points lie
    lifted = np.vstack([white, np.ones(number)])  # [D + 1, N]: an ellipsoid around the origin is looked for
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
    matrix = np.linalg.inv(spread)
    matrix /= np.einsum("nd,de,ne->n", away, matrix, away).max()  # so that the farthest point lies on the surface
    back = np.linalg.inv(scale)
    return Ellipsoid(middle + scale @ centre, back.T @ matrix @ back)
