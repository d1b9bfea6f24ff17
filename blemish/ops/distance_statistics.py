"""Per-position z-scores of patch distances, after gain normalisation.

A zero-padded network sees its own frame, images bend or darken at their edges, and a textured part of an object
varies more than a smooth one: at such positions every good image is far from the memory bank. A z-score counts the
distance in standard deviations above the mean of good images at its position, so that the maximum finds defects and
not corners. Before that, the distances of a high-gain image (coarser grain, other light) are divided by its gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.types import Bool, Float32, Float64

Map = TypeVar("Map", "Float32", "Float64")

# Weight of the mean over all positions, in images: with 4 good images half of a position's mean is its own, with 200
# nearly all of it.
PRIOR_IMAGES = 4.0
# Cells from the border, 32 px of the network's input, within which a zero-padded network sees its frame.
BORDER_CELLS = 4
# Share of the mean variance that is added at every position. Without it one speck of dust on an empty background
# scores higher than a broken rim: measured in benchmarks/ablation.py.
COMMON_VARIANCE = 0.5
# The gain is this quantile of an image's distances: a defect lies above it, unless it covers most of the image.
GAIN_QUANTILE = 0.25
# Images of one material have gains between 0.9 and 1.2 (magnetic tiles). A gain below 1 is taken as 1: an image with
# rows of its own in the bank has a low gain, and dividing by it would raise its score.
MAX_GAIN = 1.25
# Least standard deviation, as a share of the mean distance: copies of one image have none.
MIN_VARIATION = 0.01


class DistanceStatistics(NamedTuple):
    """Statistics of good images' patch distances.

    Attributes:
        mean: (h, w) float32, at each position.
        standard_deviation: (h, w) float32, above 0.
        gain_reference: (h, w) float32, distances at gain 1; 0 everywhere for no gain normalisation.
        border_mean: (h, w) float32, over all positions that are as far from the border; None for z-scores of the
            position alone.
        border_deviation: (h, w) float32, above 0; None with `border_mean`.
    """

    mean: Float32
    standard_deviation: Float32
    gain_reference: Float32
    border_mean: Float32 | None = None
    border_deviation: Float32 | None = None

    def z_scores(self, distances: Float32) -> Float32:
        """Return the z-scores, clipped at 0, of (h, w) float32 distances, normalised by their gain first.

        Each is the smaller of two: among good distances at its position, and among those as far from the border.
        Parts that turn or shift make some positions nearly constant; a z-score there would be that of a rare pose.
        """
        normalized = normalize_gain(distances, self.gain_reference)
        z_scores = (normalized - self.mean) / self.standard_deviation
        if self.border_mean is not None and self.border_deviation is not None:
            z_scores = np.minimum(z_scores, (normalized - self.border_mean) / self.border_deviation)
        clipped: Float32 = np.maximum(z_scores, 0)
        return clipped

    def stacked(self) -> Float32:
        """Return the maps that there are as one (3 or 5, h, w) float32 array."""
        return np.stack([values for values in self if values is not None])


@dataclass(frozen=True)
class DistanceSums:
    """Sums over good images' distance maps, each computed without the image's own rows of the memory bank.

    Attributes:
        total: (h, w) float64, sum over images.
        squares: (h, w) float64, sum of squares.
        n: number of images.
        sigma: Gaussian smoothing of mean and variance over positions, in cells of the grid.
        border: whether there are statistics by distance from the border too.
    """

    total: Float64
    squares: Float64
    n: int
    sigma: float
    border: bool = False

    @classmethod
    def from_maps(cls, maps: Float32, sigma: float, *, border: bool = False) -> DistanceSums:
        """Return the sums of (n, h, w) float32 distance maps."""
        squares = np.square(maps, dtype=np.float64).sum(axis=0)
        return cls(maps.sum(axis=0, dtype=np.float64), squares, len(maps), sigma, border)

    def statistics(self, without: Float32 | None = None) -> DistanceStatistics:
        """Return mean and standard deviation at each position, shrunk towards the overall ones and smoothed.

        Args:
            without: (h, w), one of the summed maps, to be left out (leave-one-out).
        """
        n, total, squares = self.n, self.total, self.squares
        if without is not None:
            n, total, squares = n - 1, total - without, squares - np.square(without, dtype=np.float64)
        overall = float(total.mean()) / max(n, 1)
        if overall <= 0:  # every good patch is in the bank: distances stay as they are
            values = (0, 1, 0, 0, 1) if self.border else (0, 1, 0)
            return DistanceStatistics(*(np.full(total.shape, value, np.float32) for value in values))
        mean = (total + PRIOR_IMAGES * overall) / (n + PRIOR_IMAGES)
        # About the shrunk mean, not the sample mean: a single image then has a variance too.
        squared_deviations = np.maximum(squares - 2 * mean * total + n * mean**2, 0)
        common = float(squared_deviations.mean()) / n
        variance = (squared_deviations + PRIOR_IMAGES * common) / (n + PRIOR_IMAGES)
        variance = gaussian_blur(variance, self.sigma) + COMMON_VARIANCE * common + (MIN_VARIATION * overall) ** 2
        smoothed_mean = gaussian_blur(mean, self.sigma).astype(np.float32)
        deviation = np.sqrt(variance).astype(np.float32)
        positions = DistanceStatistics(smoothed_mean, deviation, np.zeros_like(smoothed_mean))
        if not self.border:
            return positions
        border_mean, border_variance = np.empty_like(total), np.empty_like(total)
        for ring in _rings(total.shape):
            border_mean[ring] = total[ring].mean() / n
            border_variance[ring] = max(squares[ring].mean() / n - (total[ring].mean() / n) ** 2, 0)
        border_deviation = np.sqrt(border_variance + (MIN_VARIATION * overall) ** 2)
        return positions._replace(
            border_mean=border_mean.astype(np.float32), border_deviation=border_deviation.astype(np.float32)
        )


def _rings(shape: tuple[int, ...]) -> Iterator[Bool]:
    """Yield the masks, (h, w), of the positions 0, 1, ... cells from the border, the rest in one."""
    rows, columns = np.indices(shape)
    border = np.minimum(np.minimum(rows, shape[0] - 1 - rows), np.minimum(columns, shape[1] - 1 - columns))
    for cells in range(min(int(border.max()), BORDER_CELLS) + 1):
        yield border == cells if cells < BORDER_CELLS else border >= cells


def fit_distance_statistics(maps: Float32, sigma: float, *, border: bool = False) -> tuple[DistanceStatistics, Float32]:
    """Return the distance statistics of good images, and each image's leave-one-out z-scores.

    Args:
        maps: (n, h, w) float32 distances, each computed without the image's own rows of the memory bank.
        sigma: Gaussian smoothing of mean and variance over positions, in cells.
        border: whether z-scores are also those among positions as far from the border.

    Returns:
        The statistics, and (n, h, w) float32 z-scores by the statistics of the other images.
    """
    raw = DistanceSums.from_maps(maps, sigma)
    mean = raw.statistics().mean
    typical_gain = np.float32(np.median([_gain(distances, mean) for distances in maps]))
    normalized = np.stack(
        [normalize_gain(distances, raw.statistics(without=distances).mean * typical_gain) for distances in maps]
    )
    sums = DistanceSums.from_maps(normalized, sigma, border=border)
    z_scores = np.stack([sums.statistics(without=distances).z_scores(distances) for distances in normalized])
    return sums.statistics()._replace(gain_reference=mean * typical_gain), z_scores


def normalize_gain(distances: Float32, gain_reference: Float32) -> Float32:
    """Return an image's distances divided by its gain, limited to [1, MAX_GAIN].

    Args:
        distances: (h, w) float32.
        gain_reference: (h, w) float32, distances at gain 1; 0 everywhere leaves `distances` as they are.
    """
    if not gain_reference.any():
        return distances
    gain = min(max(_gain(distances, gain_reference), 1.0), MAX_GAIN)
    normalized: Float32 = distances / np.float32(gain)
    return normalized


def _gain(distances: Float32, reference: Float32) -> float:
    """Return the GAIN_QUANTILE of distances over reference."""
    if not reference.any():
        return 1.0
    return float(np.quantile(distances / least_reference(reference), GAIN_QUANTILE))


def least_reference(reference: Float32) -> Float32:
    """Return reference distances, raised to a millionth of the largest: they can be divided by."""
    raised: Float32 = np.maximum(reference, np.float32(1e-6) * reference.max())
    return raised


def gaussian_blur(values: Map, sigma: float) -> Map:
    """Return a Gaussian filter of the map, reflected at its borders; sigma 0 returns the map itself."""
    if sigma == 0:
        return values
    return cast("Map", cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT))
