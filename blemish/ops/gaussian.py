"""Mahalanobis distance to a Gaussian with shrunk covariance, with leave-one-out distances in closed form.

Fitted to one summary of each image (mean and standard deviation of its features), it scores an image whose light, grain
or structure is unusual everywhere, each patch a little. The maximum over patches finds local defects only.

Source: Rippel, Mertens, Merhof 2021, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
    Detection", which fits one Gaussian to each layer's mean feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.ops.statistics import Moments
    from blemish.types import Float32, Float64

# Share of the mean eigenvalue that is added to every eigenvalue. Small: with fewer images than features the distance
# is mostly that to the subspace of good images, which measured best.
SHRINKAGE = 0.003


@dataclass(frozen=True)
class Gaussian:
    """A multivariate Gaussian.

    Attributes:
        mean: (S,) float32.
        whitening: (S, S) float32; the whitened vector is whitening @ (vector - mean).
    """

    mean: Float32
    whitening: Float32

    def mahalanobis(self, vector: Float32) -> float:
        """Return the Mahalanobis distance of an (S,) float32 vector."""
        return float(np.linalg.norm(self.whitening @ (vector - self.mean)))


def fit_gaussian(
    moments: Moments, vectors: Float32, shrinkage: float = SHRINKAGE, *, left_out: Sequence[Float32] | None = None
) -> tuple[Gaussian, Float64]:
    """Return the Gaussian of all vectors, and leave-one-out Mahalanobis distances of some.

    Args:
        moments: of at least two vectors.
        vectors: (n, S) float32, some of them.
        shrinkage: share of the mean eigenvalue that is added to every eigenvalue.
        left_out: (k, S) float32 for each of `vectors`: all that are left out with it, itself among them; None for it
            alone.

    Returns:
        The Gaussian of all that `moments` saw, and (n,) float64 distances, each to the Gaussian without that vector.

    Cost: one eigendecomposition in all: leaving one out changes the covariance by one outer product
        (Sherman-Morrison).
    """
    mean, eigenvalues, axes, ridge = _spectrum(moments, shrinkage)
    whitening = (axes / np.sqrt(eigenvalues + ridge)).T
    # Rows in memory order, as a model folder gives them back: sums then round alike.
    gaussian = Gaussian(mean.astype(np.float32), np.ascontiguousarray(whitening, np.float32))
    n = moments.n
    stretch = n / (n - 1)
    projected = (vectors - mean) @ axes
    if left_out is not None:
        pairs = zip(projected, left_out, strict=True)
        spectrum = eigenvalues, ridge
        return gaussian, np.array([_distance_without(row, (out - mean) @ axes, n, *spectrum) for row, out in pairs])
    own = (projected**2 / (stretch * eigenvalues + ridge)).sum(axis=1)
    left = np.maximum(1 - own * n / (n - 1) ** 2, np.finfo(np.float64).eps)
    return gaussian, stretch * np.sqrt(own / left)


def _distance_without(vector: Float64, out: Float64, n: int, eigenvalues: Float64, ridge: float) -> float:
    """Return the Mahalanobis distance of a vector to the Gaussian without some of its n vectors (Woodbury 1950).

    Args:
        vector: (S,), less the mean of all, on the principal axes.
        out: (k, S), those that are left out, likewise; k < n - 1.
        n: number of all vectors.
        eigenvalues: (S,), of the covariance of all.
        ridge: added to each.
    """
    left = n - len(out)
    mean = -out.sum(axis=0) / left
    # The covariance of the others is diagonal less outer products: of what is left out, and of the shift of the mean.
    diagonal = n / left * eigenvalues + ridge
    columns = np.vstack([out / np.sqrt(left), mean])
    deviation = vector - mean
    weighted = columns / diagonal
    inner = np.eye(len(columns)) - weighted @ columns.T
    projection = weighted @ deviation
    # Copies of what is left make the inner matrix singular up to rounding.
    values, axes = np.linalg.eigh(inner)
    inverse = axes / np.maximum(values, np.finfo(np.float64).eps) @ axes.T
    squared = (deviation**2 / diagonal).sum() + projection @ inverse @ projection
    return float(np.sqrt(max(squared, 0.0)))


def _spectrum(moments: Moments, shrinkage: float) -> tuple[Float64, Float64, Float64, float]:
    """Return mean (S,), eigenvalues (S,), axes (S, S), and the ridge that is added to each eigenvalue."""
    mean, covariance = moments.mean_and_covariance()
    eigenvalues, axes = np.linalg.eigh(covariance)
    eigenvalues = np.maximum(eigenvalues, 0)
    # Copies of one image have no covariance; the scale is then a millionth of the mean square of the vectors.
    ridge = shrinkage * float(eigenvalues.mean()) + 1e-6 * float(np.square(mean).mean()) + 1e-12
    return mean, eigenvalues, axes, ridge
