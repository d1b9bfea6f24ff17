"""How far good patches usually are from the bank at each position, and how much that varies from part to part.

A zero-padded network sees its own frame, images bend or darken at their edges, and a textured part of an object
varies more than a smooth one: at such positions every good image is far from the bank. Distances count in deviations
beyond what is usual at their position, so that the maximum finds defects and not corners. Before that, the distances of
an image that is restless everywhere, by its grain or its light, are brought down to those of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from blemish.types import Float32, Float64

Map = TypeVar("Map", "Float32", "Float64")

# Images' worth of the overall mean that each position's own mean is drawn towards: with 4 good images half of the
# level is their own, with 200 nearly all of it.
PRIOR_IMAGES = 4.0
# The share of the overall variance that every position has on top of its own. Without it one speck of dust on an empty
# background counts as more than a broken rim does: measured in benchmarks/ablation.py.
COMMON_VARIANCE = 0.5
# The calmest quarter of an image says how restless it is: a defect lies in the rest, unless it covers most of it. How
# far that may go: images of one material were seen between 0.9 and 1.2 (magnetic tiles). Calm ones are left alone: a
# image that the bank has rows of is calm, and would look worse than it is.
CALM_SHARE = 0.25
MOST_RESTLESS = 1.25
# Deviations are at least this share of the usual distance: copies of one image do not vary at all.
LEAST_SPREAD = 0.01


class DistanceStatistics(NamedTuple):
    """What good images have at each position.

    Attributes:
        usual: (h, w) float32, the distance to the bank.
        spread: (h, w) float32, its deviation, above 0.
        calm: (h, w) float32, what the distances of an image are evened by; 0 everywhere for nothing.
    """

    usual: Float32
    spread: Float32
    calm: Float32

    def deviations(self, distances: Float32) -> Float32:
        """Return by how many deviations (h, w) float32 distances exceed what is usual; 0 where they do not."""
        deviations: Float32 = np.maximum((evened(distances, self.calm) - self.usual) / self.spread, 0)
        return deviations


@dataclass(frozen=True)
class PositionLevels:
    """Sums over good images' distance maps, each made without the image's own rows of the bank.

    Attributes:
        total: (h, w) float64, the sum over images.
        squares: (h, w) float64, the sum of the squares.
        n: number of images.
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

    def level(self, without: Float32 | None = None) -> DistanceStatistics:
        """Return what is usual at each position: mean and variance, drawn towards the overall ones and smoothed.

        Args:
            without: (h, w), one of the maps that were summed, to be left out: what its own image is judged by.
        """
        n, total, squares = self.n, self.total, self.squares
        if without is not None:
            n, total, squares = n - 1, total - without, squares - np.square(without, dtype=np.float64)
        overall = float(total.mean()) / max(n, 1)
        if overall <= 0:  # every good patch is in the bank, and anything else is far
            return DistanceStatistics(*(np.full(total.shape, value, np.float32) for value in (0, 1, 0)))
        mean = (total + PRIOR_IMAGES * overall) / (n + PRIOR_IMAGES)
        # About the mean that is used, not the images' own: one image alone then has a variance too.
        own = np.maximum(squares - 2 * mean * total + n * mean**2, 0)
        common = float(own.mean()) / n
        variance = (own + PRIOR_IMAGES * common) / (n + PRIOR_IMAGES)
        spread = np.sqrt(blurred(variance, self.sigma) + COMMON_VARIANCE * common + (LEAST_SPREAD * overall) ** 2)
        usual = blurred(mean, self.sigma).astype(np.float32)
        return DistanceStatistics(usual, spread.astype(np.float32), np.zeros_like(usual))


def level_of_good(maps: Float32, sigma: float) -> tuple[DistanceStatistics, Float32]:
    """Return the level of good images, and each one's deviations from that of the others.

    Args:
        maps: (n, h, w) float32 distances, each made without the image's own rows of the bank.
        sigma: smoothing of the level over positions, in cells.

    Returns:
        The level, and (n, h, w) float32 deviations.
    """
    raw = PositionLevels.from_maps(maps, sigma)
    usual = raw.level().usual
    typical = float(np.median([_calm_quarter(one, usual) for one in maps]))
    even = np.stack([evened(one, raw.level(without=one).usual * np.float32(typical)) for one in maps])
    levels = PositionLevels.from_maps(even, sigma)
    parts = np.stack([levels.level(without=one).deviations(one) for one in even])
    return levels.level()._replace(calm=usual * np.float32(typical)), parts


def evened(distances: Float32, calm: Float32) -> Float32:
    """Return an image's distances divided by how restless it is, if it is more than a typical good one.

    Args:
        distances: (h, w) float32.
        calm: (h, w) float32, such that the calmest quarter of a typical good image is at 1 in units of it.
    """
    if not calm.any():
        return distances
    restless = min(max(_calm_quarter(distances, calm), 1.0), MOST_RESTLESS)
    even: Float32 = distances / np.float32(restless)
    return even


def _calm_quarter(distances: Float32, usual: Float32) -> float:
    """Return what the calmest quarter of an image is at most, in units of the usual."""
    if not usual.any():
        return 1.0
    return float(np.quantile(distances / np.maximum(usual, np.float32(1e-6) * usual.max()), CALM_SHARE))


def blurred(values: Map, sigma: float) -> Map:
    """Return the map after a Gaussian filter over the grid, reflected at its borders; as it is for sigma 0."""
    if sigma == 0:
        return values
    return cast("Map", cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
