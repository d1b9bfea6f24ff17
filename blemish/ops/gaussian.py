"""How far an image as a whole is from the good ones: the Mahalanobis distance of its summary.

The maximum over patches finds what is wrong in one place. An image whose light, grain or structure is unusual
everywhere, each patch a little, shows in the mean and the deviation of its features.

Source: Rippel, Mertens, Merhof 2021, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
    Detection", which fits one Gaussian to each layer's mean feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blemish.ops.statistics import Moments
    from blemish.types import Float32, Float64

# Share of the mean eigenvalue that every direction gets on top of its own. Small: with fewer images than features the
# distance is mostly that from the space that good images span, which is what measured best.
SHRINKAGE = 0.003


@dataclass(frozen=True)
class ImageGaussian:
    """A Gaussian of good images' summaries.

    Attributes:
        mean: (S,) float32.
        whitening: (S, S) float32: summaries less the mean, turned and scaled to unit variance.
    """

    mean: Float32
    whitening: Float32

    def distance(self, summary: Float32) -> float:
        """Return the Mahalanobis distance of an (S,) float32 summary."""
        return float(np.linalg.norm(self.whitening @ (summary - self.mean)))


def gaussian_of_good(
    moments: Moments, summaries: Float32, shrinkage: float = SHRINKAGE
) -> tuple[ImageGaussian, Float64]:
    """Return the Gaussian of good images, and the distance of each image from the Gaussian of the others.

    Args:
        moments: of all good images' summaries, at least two.
        summaries: (n, S) float32, some of them.
        shrinkage: share of the mean eigenvalue that every direction gets on top of its own.

    Returns:
        The Gaussian of all that `moments` saw, and (n,) float64.

    Cost: one eigendecomposition for all: leaving one out changes the covariance by one outer product
        (Sherman-Morrison).
    """
    mean, values, axes, least = _spectrum(moments, shrinkage)
    whitening = (axes / np.sqrt(values + least)).T
    # Rows in memory order, as a model folder gives them back: sums then round alike.
    gaussian = ImageGaussian(mean.astype(np.float32), np.ascontiguousarray(whitening, np.float32))
    n = moments.n
    stretch = n / (n - 1)
    turned = (summaries - mean) @ axes
    own = (turned**2 / (stretch * values + least)).sum(axis=1)
    left = np.maximum(1 - own * n / (n - 1) ** 2, np.finfo(np.float64).eps)
    return gaussian, stretch * np.sqrt(own / left)


def _spectrum(moments: Moments, shrinkage: float) -> tuple[Float64, Float64, Float64, float]:
    """Return mean (S,), eigenvalues (S,), axes (S, S), and what is added to each eigenvalue."""
    mean, covariance = moments.mean_and_covariance()
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    # Copies of one image have no covariance; what counts as far is then a millionth of the summaries themselves.
    least = shrinkage * float(values.mean()) + 1e-6 * float(np.square(mean).mean()) + 1e-12
    return mean, values, axes, least
