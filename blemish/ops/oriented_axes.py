"""Oriented principal component analysis: axes of features along which defects stand out from good patches.

Whitening makes all directions count alike, in most of which no defect shows. Here the directions are those in which
defects change whitened features most, each weighted by how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish.ops.statistics import Affine

if TYPE_CHECKING:
    from blemish.types import Float32

# Added to the mean square of the differences along each axis, in multiples of the mean over all axes: a defect of a
# kind that no difference shows is as likely in any direction.
PRIOR = 3.0
# Limit of that mean square: along one axis, of local contrast, it is 20 to 30, which would blur the map.
MOST_SIGNAL = 8.0


def oriented_axes(whitening: Affine, differences: Float32, n_axes: int) -> Affine:
    """Return a linear map to the `n_axes` weighted axes of whitened features along which differences are largest.

    Args:
        whitening: of the features of good patches.
        differences: (n, D) float32, n at least 1, what defects change in features that are not whitened. Each counts
            with the length 1 once it is.
        n_axes: 1 or more, of which D at most are kept.

    Source: Diamantaras and Kung 1996, Principal Component Neural Networks, chapter 7: signal over noise.
    """
    whitened = differences.astype(np.float64) @ whitening.weight.T.astype(np.float64)
    whitened /= np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-12)
    powers, axes = np.linalg.eigh(whitened.T @ whitened / len(whitened))
    relative = powers / max(float(powers.mean()), 1e-12)
    oriented = (axes * np.sqrt(np.clip(relative, 0, MOST_SIGNAL) + PRIOR))[:, -n_axes:].T
    weight, bias = oriented @ whitening.weight, oriented @ whitening.bias
    return Affine(weight.astype(np.float32), bias.astype(np.float32))
