"""From patch features to distances, a patch map and an image score, given a memory bank."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.ops.distance_statistics import gaussian_blur

if TYPE_CHECKING:
    from blemish.ops.distance_statistics import DistanceStatistics
    from blemish.ops.neighbors import MemoryIndex
    from blemish.types import Bool, Float32, Int64


class PatchDistances(NamedTuple):
    """How far each patch of one image is from the bank.

    Attributes:
        distances: (h, w) float32, to the nearest bank row.
        rows: (h, w) int64, that row.
        weight: the factor that the image score is multiplied by: 1 with one neighbour.
    """

    distances: Float32
    rows: Int64
    weight: float


class Scorer:
    """Scores feature maps against a bank.

    Args:
        index: of the memory bank.
        n_neighbors: how many neighbours of the nearest bank row re-weight the image score; 1 for none.
        level: what good patches have at each position, for distances to be relative to; None for nothing.
        score_sigma: smoothing of the patch map, in cells of the grid, before its maximum is the image score.
    """

    def __init__(
        self, index: MemoryIndex, n_neighbors: int, level: DistanceStatistics | None, score_sigma: float
    ) -> None:
        self.index = index
        self.n_neighbors = n_neighbors
        self.level = level
        self.score_sigma = score_sigma

    def distances(self, features: Float32, *, exclude: Bool | None = None) -> PatchDistances:
        """Return the distances of one image's patches.

        Args:
            features: (h, w, D) float32.
            exclude: (n,) bool, bank rows that must not be found.
        """
        height, width, n_features = features.shape
        queries = features.reshape(-1, n_features)
        found = self.index.search(queries, 1, exclude=exclude)
        distances, rows = found.distances.reshape(height, width), found.indices.reshape(height, width)
        weight = 1.0
        if self.n_neighbors > 1:
            worst = int(self.patch_map(distances).argmax())
            weight = self._weight(queries[worst], int(found.indices[worst, 0]), exclude)
        return PatchDistances(distances, rows, weight)

    def patch_map(self, distances: Float32) -> Float32:
        """Return the (h, w) float32 distances, in deviations beyond the usual if there is a level; 0 or more."""
        return distances if self.level is None else self.level.z_scores(distances)

    def image_score(self, patch_map: Float32, weight: float) -> float:
        """Return the image score of a patch map: its maximum after smoothing, times the weight."""
        return float(gaussian_blur(patch_map, self.score_sigma).max()) * weight

    def _weight(self, query: Float32, row: int, exclude: Bool | None) -> float:
        """Return 1 minus the softmax of the patch's distance among those to the neighbours of its nearest bank row.

        Source: Roth et al. 2022, equation 7: a nearest row that is far from other rows is itself a rare case.
        """
        bank = self.index.memory_bank
        nearby = self.index.search(bank[row : row + 1], self.n_neighbors, exclude=exclude).indices[0]
        distances = np.linalg.norm(bank[nearby] - query, axis=1).astype(np.float64)
        shifted = np.exp(distances - distances.max())
        own = float(np.exp(np.linalg.norm(bank[row] - query) - distances.max()))
        return 1.0 - own / float(shifted.sum())
