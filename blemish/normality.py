"""How far good patches usually are from the bank at each position of the picture, and what is left beyond that.

A zero-padded network sees its own frame, pictures bend or darken at their edges, and a textured part of an object
varies more than a smooth one: at such positions every good picture is far from the bank. Dividing by the level of the
position makes distances comparable over the picture, so that the maximum finds defects and not corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from blemish.records import Float32, Float64

# Pictures' worth of the overall mean that each position's own mean is drawn towards: with 4 good pictures half of the
# level is their own, with 200 nearly all of it.
PRIOR_PICTURES = 4.0


@dataclass(frozen=True)
class PositionLevels:
    """Sums of good pictures' distance maps, each made without the picture's own rows of the bank.

    Attributes:
        total: (h, w) float64, the sum over pictures.
        n: number of pictures.
        sigma: Gaussian smoothing of the level over positions, in cells of the grid.
    """

    total: Float64
    n: int
    sigma: float

    @classmethod
    def from_maps(cls, maps: Float32, sigma: float) -> PositionLevels:
        """Return the levels of (n, h, w) float32 distance maps."""
        return cls(maps.sum(axis=0, dtype=np.float64), len(maps), sigma)

    def level(self, without: Float32 | None = None) -> Float32:
        """Return (h, w) float32: the factor by which good distances at each position exceed the usual, mean 1.

        Args:
            without: (h, w), one of the maps that were summed, to be left out: what its own picture is judged by.
        """
        n = self.n - (without is not None)
        total = self.total if without is None else self.total - without
        overall = float(total.mean()) / max(n, 1)
        if overall <= 0:
            return np.ones(total.shape, np.float32)
        mean = (total + PRIOR_PICTURES * overall) / (n + PRIOR_PICTURES)
        return blurred((mean / overall).astype(np.float32), self.sigma)


def blurred(values: Float32, sigma: float) -> Float32:
    """Return the map after a Gaussian filter over the grid, reflected at its borders; as it is for sigma 0."""
    if sigma == 0:
        return values
    return cast("Float32", cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
