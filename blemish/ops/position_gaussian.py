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
    from collections.abc import Sequence

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
    def fit(cls, maps: Float32, left_out: Sequence[Sequence[int]] | None = None) -> tuple[PositionGaussians, Float64]:
        """Return the Gaussians of good images, and leave-one-out scores.

        Args:
            maps: (n, h, w, K) float32, features of n good images, at least two.
            left_out: the images that are scored, each the first of all that are left out with it; None for each alone.

        Returns:
            The Gaussians of all images, and (m,) float64 scores.

        Cost: an eigendecomposition of K x K for each position.
        """
        n, height, width, size = maps.shape
        mean = np.empty((height, width, size), np.float32)
        whitening = np.empty((height, width, size, size), np.float32)
        scored = range(n) if left_out is None else [out[0] for out in left_out]
        distances = np.empty((len(scored), height, width), np.float32)
        for y, x in np.ndindex(height, width):
            vectors = maps[:, y, x]
            moments = Moments()
            moments.add(vectors)
            out = None if left_out is None else [vectors[list(rows)] for rows in left_out]
            gaussian, distances[:, y, x] = fit_gaussian(moments, vectors[list(scored)], SHRINKAGE, left_out=out)
            mean[y, x], whitening[y, x] = gaussian.mean, gaussian.whitening
        statistics, z_scores = fit_distance_statistics(distances, STATISTICS_SIGMA)
        return cls(mean, whitening, statistics), z_scores.max(axis=(1, 2)).astype(np.float64)

    def mahalanobis(self, features: Float32) -> Float32:
        """Return the (h, w) float32 Mahalanobis distances of an (h, w, K) float32 feature map."""
        whitened = self.whitening @ (features - self.mean)[..., None]
        distances: Float32 = np.linalg.norm(whitened[..., 0], axis=-1)
        return distances

    def mahalanobis_without(self, features: Float32, out: Float32, n: int) -> Float32:
        """Return the (h, w) float32 Mahalanobis distances from the Gaussians without some of their images.

        Args:
            features: (h, w, K) float32.
            out: (k, h, w, K) float32, the features of these images.
            n: number of images of the Gaussians, at least k + 1.

        Source: Woodbury 1950; the shrinkage is that of all images.
        """
        deviations = (self.whitening @ (out - self.mean)[..., None])[..., 0].astype(np.float64)
        left = n - len(out)
        mean = -deviations.sum(axis=0) / left
        whitened = (self.whitening @ (features - self.mean)[..., None])[..., 0] - mean
        stretch = n / left
        columns = np.moveaxis(np.concatenate([deviations / np.sqrt(left), mean[None]]), 0, -2)  # (h, w, k + 1, K)
        inner = np.eye(columns.shape[-2]) - columns @ columns.swapaxes(-1, -2) / stretch
        projection = (columns @ whitened[..., None])[..., 0] / stretch
        values, axes = np.linalg.eigh(inner)
        along = (axes.swapaxes(-1, -2) @ projection[..., None])[..., 0]
        squared = (whitened**2).sum(axis=-1) / stretch
        squared += (along**2 / np.maximum(values, np.finfo(np.float32).eps)).sum(axis=-1)
        distances: Float32 = np.sqrt(squared).astype(np.float32)
        return distances

    def score(self, features: Float32) -> float:
        """Return the largest z-score over positions of an (h, w, K) float32 feature map."""
        return float(self.statistics.z_scores(self.mahalanobis(features)).max())
