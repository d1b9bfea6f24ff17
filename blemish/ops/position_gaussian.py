"""Per-position Gaussian of patch features (PaDiM), with z-scores of its Mahalanobis distances.

The memory bank compares a patch with those of all positions. Where images are aligned, the features at its own position
and their covariance say more.

Source: Defard et al. 2021, "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish.ops.distance_statistics import DistanceStatistics, fit_distance_statistics
from blemish.ops.gaussian import fit_gaussian
from blemish.ops.statistics import Moments

if TYPE_CHECKING:
    from blemish.types import Float32, Float64

# Principal components of a patch that are used. 32 to all 192 of the default network measured alike.
N_FEATURES = 64
# Share of the mean eigenvalue that is added to every eigenvalue.
SHRINKAGE = 0.1
# Smoothing of the distance statistics over positions, in cells.
STATISTICS_SIGMA = 1.0


@dataclass(frozen=True)
class PositionGaussians:
    """A Gaussian of good images' features at each position, and the statistics of their Mahalanobis distances.

    Attributes:
        mean: (h, w, K) float32.
        whitening: (h, w, K, K) float32; the whitened vector is whitening @ (vector - mean).
        statistics: of good images' Mahalanobis distances at each position.
    """

    mean: Float32
    whitening: Float32
    statistics: DistanceStatistics

    @classmethod
    def fit(cls, maps: Float32) -> tuple[PositionGaussians, Float64]:
        """Return the Gaussians of good images, and each image's leave-one-out score.

        Args:
            maps: (n, h, w, K) float32, features of n good images, at least two.

        Returns:
            The Gaussians, and (n,) float64 scores.

        Cost: an eigendecomposition of K x K for each position.
        """
        n, height, width, size = maps.shape
        mean = np.empty((height, width, size), np.float32)
        whitening = np.empty((height, width, size, size), np.float32)
        distances = np.empty((n, height, width), np.float32)
        for y, x in np.ndindex(height, width):
            vectors = maps[:, y, x]
            moments = Moments()
            moments.add(vectors)
            gaussian, distances[:, y, x] = fit_gaussian(moments, vectors, SHRINKAGE)
            mean[y, x], whitening[y, x] = gaussian.mean, gaussian.whitening
        statistics, z_scores = fit_distance_statistics(distances, STATISTICS_SIGMA)
        return cls(mean, whitening, statistics), z_scores.max(axis=(1, 2)).astype(np.float64)

    def mahalanobis(self, features: Float32) -> Float32:
        """Return the (h, w) float32 Mahalanobis distances of an (h, w, K) float32 feature map."""
        whitened = self.whitening @ (features - self.mean)[..., None]
        distances: Float32 = np.linalg.norm(whitened[..., 0], axis=-1)
        return distances

    def mahalanobis_without(self, features: Float32, own: Float32, n: int) -> Float32:
        """Return the (h, w) float32 Mahalanobis distances from the Gaussians without one of their images.

        Args:
            features: (h, w, K) float32.
            own: (h, w, K) float32, the features of that image.
            n: number of images of the Gaussians, at least two.

        Source: Sherman and Morrison 1950; the shrinkage is that of all images.
        """
        deviation = (self.whitening @ (own - self.mean)[..., None])[..., 0].astype(np.float64)
        whitened = (self.whitening @ (features - self.mean)[..., None])[..., 0] + deviation / (n - 1)
        stretch, share = n / (n - 1), n / (n - 1) ** 2
        left = np.maximum(1 - share / stretch * (deviation**2).sum(axis=-1), np.finfo(np.float32).eps)
        inner = (whitened * deviation).sum(axis=-1) / stretch
        squared = (whitened**2).sum(axis=-1) / stretch + share * inner**2 / left
        distances: Float32 = np.sqrt(squared).astype(np.float32)
        return distances

    def score(self, features: Float32) -> float:
        """Return the largest z-score over positions of an (h, w, K) float32 feature map."""
        return float(self.statistics.z_scores(self.mahalanobis(features)).max())
