"""How far the parts of an image are from what good images have at the same place: one Gaussian for each place.

The memory bank compares small patches with those of all places. Seen from further away a part covers more of the
image; and what good images have at its own place, the way that features go together there included, says more than
all places do where images are alike.

Source: Defard et al. 2021, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.ops.distance_statistics import DistanceStatistics, level_of_good
from blemish.ops.gaussian import gaussian_of_good
from blemish.ops.statistics import Moments

if TYPE_CHECKING:
    from blemish.types import Float32, Float64

# How many features of a part count, the most varied ones. 32 to all 192 of the default network measured alike.
N_FEATURES = 64
# Share of the mean eigenvalue that every direction gets on top of its own.
SHRINKAGE = 0.1
# Smoothing of the level over places, in cells.
LEVEL_SIGMA = 1.0


@dataclass(frozen=True)
class PositionGaussians:
    """A Gaussian of good images' features at each place, and how far good images usually are from it.

    Attributes:
        mean: (h, w, K) float32.
        whitening: (h, w, K, K) float32: features less the mean, turned and scaled to unit variance.
        level: the usual distance and its deviation at each place.
    """

    mean: Float32
    whitening: Float32
    level: DistanceStatistics

    @classmethod
    def fitted(cls, maps: Float32) -> tuple[PositionGaussians, Float64]:
        """Return them, and the score of each good image judged by the others.

        Args:
            maps: (n, h, w, K) float32, the parts of n good images, at least two.

        Returns:
            The Gaussians, and (n,) float64.

        Cost: an eigendecomposition of K x K for each place.
        """
        n, height, width, size = maps.shape
        mean = np.empty((height, width, size), np.float32)
        whitening = np.empty((height, width, size, size), np.float32)
        distances = np.empty((n, height, width), np.float32)
        for y, x in np.ndindex(height, width):
            rows = maps[:, y, x]
            moments = Moments()
            moments.add(rows)
            gaussian, distances[:, y, x] = gaussian_of_good(moments, rows, SHRINKAGE)
            mean[y, x], whitening[y, x] = gaussian.mean, gaussian.whitening
        level, deviations = level_of_good(distances, LEVEL_SIGMA)
        return cls(mean, whitening, level), deviations.max(axis=(1, 2)).astype(np.float64)

    def distances(self, parts: Float32) -> Float32:
        """Return the Mahalanobis distance, (h, w) float32, of each part of an (h, w, K) float32 image."""
        away = self.whitening @ (parts - self.mean)[..., None]
        distances: Float32 = np.linalg.norm(away[..., 0], axis=-1)
        return distances

    def score(self, parts: Float32) -> float:
        """Return by how many deviations the worst part, of (h, w, K) float32, is farther than usual at its place."""
        return float(self.level.deviations(self.distances(parts)).max())
