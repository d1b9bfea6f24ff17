"""How far good patches usually are from the bank at each position, and how much that varies from part to part.

A zero-padded network sees its own frame, pictures bend or darken at their edges, and a textured part of an object
varies more than a smooth one: at such positions every good picture is far from the bank. Distances count in deviations
beyond what is usual at their position, so that the maximum finds defects and not corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from blemish.records import Float32, Float64

Map = TypeVar("Map", "Float32", "Float64")

# Pictures' worth of the overall mean that each position's own mean is drawn towards: with 4 good pictures half of the
# level is their own, with 200 nearly all of it.
PRIOR_PICTURES = 4.0
# The share of the overall variance that every position has on top of its own. Without it one speck of dust on an empty
# background counts as more than a broken rim does: measured in benchmarks/ablation.py.
COMMON_VARIANCE = 0.5
# Deviations are at least this share of the usual distance: copies of one picture do not vary at all.
LEAST_SPREAD = 0.01


class Level(NamedTuple):
    """What good pictures have at each position.

    Attributes:
        usual: (h, w) float32, the distance to the bank.
        spread: (h, w) float32, its deviation, above 0.
    """

    usual: Float32
    spread: Float32

    def deviations(self, distances: Float32) -> Float32:
        """Return by how many deviations (h, w) float32 distances exceed what is usual; 0 where they do not."""
        deviations: Float32 = np.maximum((distances - self.usual) / self.spread, 0)
        return deviations


@dataclass(frozen=True)
class PositionLevels:
    """Sums over good pictures' distance maps, each made without the picture's own rows of the bank.

    Attributes:
        total: (h, w) float64, the sum over pictures.
        squares: (h, w) float64, the sum of the squares.
        n: number of pictures.
        sigma: Gaussian smoothing of the level over positions, in cells of the grid.
    """

    total: Float64
    squares: Float64
    n: int
    sigma: float

    @classmethod
    def from_maps(cls, maps: Float32, sigma: float) -> PositionLevels:
        """Return the levels of (n, h, w) float32 distance maps."""
        return cls(maps.sum(axis=0, dtype=np.float64), np.square(maps, dtype=np.float64).sum(axis=0), len(maps), sigma)

    def level(self, without: Float32 | None = None) -> Level:
        """Return what is usual at each position: mean and variance, drawn towards the overall ones and smoothed.

        Args:
            without: (h, w), one of the maps that were summed, to be left out: what its own picture is judged by.
        """
        n, total, squares = self.n, self.total, self.squares
        if without is not None:
            n, total, squares = n - 1, total - without, squares - np.square(without, dtype=np.float64)
        overall = float(total.mean()) / max(n, 1)
        if overall <= 0:  # every good patch is in the bank, and anything else is far
            return Level(np.zeros(total.shape, np.float32), np.ones(total.shape, np.float32))
        mean = (total + PRIOR_PICTURES * overall) / (n + PRIOR_PICTURES)
        # About the mean that is used, not the pictures' own: one picture alone then has a variance too.
        own = np.maximum(squares - 2 * mean * total + n * mean**2, 0)
        common = float(own.mean()) / n
        variance = (own + PRIOR_PICTURES * common) / (n + PRIOR_PICTURES)
        spread = np.sqrt(blurred(variance, self.sigma) + COMMON_VARIANCE * common + (LEAST_SPREAD * overall) ** 2)
        return Level(blurred(mean, self.sigma).astype(np.float32), spread.astype(np.float32))


def blurred(values: Map, sigma: float) -> Map:
    """Return the map after a Gaussian filter over the grid, reflected at its borders; as it is for sigma 0."""
    if sigma == 0:
        return values
    return cast("Map", cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
