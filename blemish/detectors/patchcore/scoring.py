"""Distances of patch features to a memory bank, the patch map and the image score (Roth et al. 2022, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.errors import ModelFileError, message
from blemish.imaging.anomaly_map import mean_of_highest

if TYPE_CHECKING:
    from blemish.ops.distance_statistics import DistanceStatistics
    from blemish.ops.neighbors import MemoryIndex
    from blemish.types import Bool, Float32, Int64


class PatchDistances(NamedTuple):
    """Nearest neighbours of the patches of one image in the memory bank.

    Attributes:
        distances: (h, w) float32, to the nearest bank row.
        rows: (h, w) int64, that row.
        weight: factor of the image score: 1 with one neighbour.
    """

    distances: Float32
    rows: Int64
    weight: float


class Scorer:
    """Scores feature maps against a memory bank.

    Args:
        index: of the memory bank.
        n_neighbors: neighbours of the nearest bank row that re-weight the image score; 1 for none.
        statistics: distances of good patches at each position, by which distances are normalised; None for plain
            distances.
        top_share: share of the patches, the highest, whose mean is the image score; 0 for the maximum.
    """

    def __init__(
        self, index: MemoryIndex, n_neighbors: int, statistics: DistanceStatistics | None, *, top_share: float = 0.0
    ) -> None:
        self.index = index
        self.n_neighbors = n_neighbors
        self.statistics = statistics
        self.top_share = top_share

    def distances(self, features: Float32, *, exclude: Bool | None = None) -> PatchDistances:
        """Return the distances of one image's patches.

        Args:
            features: (h, w, D) float32.
            exclude: (n,) bool, bank rows that are left out of the search.
        """
        if not np.isfinite(features).all():
            # Between bounds of distances, NaN would pass for near.
            todo = "The model is damaged, or made to mislead: fit again."
            raise ModelFileError(message("features", "finite features of the image", "NaN or infinite ones", todo=todo))
        height, width, n_features = features.shape
        queries = features.reshape(-1, n_features)
        nearest = self.index.search(queries, 1, exclude=exclude)
        distances, rows = nearest.distances.reshape(height, width), nearest.indices.reshape(height, width)
        weight = 1.0
        if self.n_neighbors > 1:
            worst = int(self.patch_map(distances).argmax())
            weight = self._weight(queries[worst], int(nearest.indices[worst, 0]), exclude)
        return PatchDistances(distances, rows, weight)

    def patch_map(self, distances: Float32) -> Float32:
        """Return (h, w) float32 distances, in standard deviations above their mean at that position; 0 or more."""
        return distances if self.statistics is None else self.statistics.z_scores(distances)

    def image_score(self, patch_map: Float32, weight: float) -> float:
        """Return the image score: the mean of the highest share of the patch map, times the weight."""
        return mean_of_highest(patch_map, self.top_share) * weight

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
