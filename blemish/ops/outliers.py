"""Distance to the k-th nearest neighbor as an outlier score, which a few outliers that are alike do not hide.

Source: Ramaswamy, Rastogi, Shim 2000, "Efficient Algorithms for Mining Outliers from Large Data Sets".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blemish.types import Float32, Float64

# Share of the training images that may be alike and defective.
ALIKE_SHARE = 0.05
# Least deviation of a feature, as a share of the largest one: a constant feature has none.
LEAST_DEVIATION = 0.05


def kth_neighbor_distances(vectors: Float32, alike_share: float) -> Float64:
    """Return the distance of each vector to its k-th nearest other, each feature over its median absolute deviation.

    Args:
        vectors: (n, S) float32.
        alike_share: k is this share of n, at least 2: up to k outliers may be alike.

    Returns:
        (n,) float64; (0,) if n is too small, k + 2 at least.

    Cost: one product of the vectors with themselves, (n, n).
    """
    n = len(vectors)
    k = max(2, math.ceil(alike_share * n - 1e-9))
    if n < k + 2:
        return np.empty(0)
    scaled = scaled_by_deviation(vectors)
    squares = np.square(scaled).sum(axis=1)
    squared = np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0)
    np.fill_diagonal(squared, np.inf)
    return np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1])


def scaled_by_deviation(vectors: Float32) -> Float64:
    """Return (n, S) float64 vectors less their median, each feature over its median absolute deviation."""
    centred = vectors.astype(np.float64) - np.median(vectors, axis=0)
    deviation = np.median(np.abs(centred), axis=0)
    # Copies of one vector: no deviation at all.
    scaled: Float64 = centred / np.maximum(deviation, LEAST_DEVIATION * float(deviation.max()) + 1e-12)
    return scaled
