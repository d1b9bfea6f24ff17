"""Exact nearest neighbours of feature vectors in a memory bank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish.arrays import blocks, check_array
from blemish.errors import InputError, message
from blemish.records import Bool, Float32, Float64, Int64, Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Scores of one block of queries: small enough to stay near the processor, large enough for a full-speed product.
_BLOCK_SCORES = 1 << 21
_PAIR_VALUES = 1 << 20


class MemoryIndex:
    """The rows of a memory bank, ready to be searched for nearest neighbours.

    Distances are Euclidean, computed from the differences in float64 and rounded once to float32, so a query that
    equals a bank row has distance 0. Searching changes nothing: threads may share one index.

    Args:
        memory_bank: (n, D) float32, finite, one row per patch.

    Raises:
        InputError: if `memory_bank` is not finite float32 (n, D) with at least one row.
    """

    def __init__(self, memory_bank: Float32) -> None:
        bank: Float32 = check_array("memory_bank", memory_bank, dtype=np.float32, shape=("n", "D"))
        self._bank = np.ascontiguousarray(bank)
        # Distances do not change with the origin; rounding errors are smallest around the mean.
        self._mean: Float32 = self._bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._centred: Float32 = self._bank - self._mean
        self._half_squares: Float32 = 0.5 * np.einsum("ij,ij->i", self._centred, self._centred)

    @property
    def n_rows(self) -> int:
        """Number of rows of the bank."""
        return int(self._bank.shape[0])

    @property
    def dim(self) -> int:
        """Length of a row."""
        return int(self._bank.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds."""
        return self._bank.nbytes + self._centred.nbytes + self._half_squares.nbytes + self._mean.nbytes

    def search(self, queries: Float32, n_neighbors: int = 1, *, exclude: Bool | None = None) -> Neighbors:
        """Return the `n_neighbors` nearest bank rows of each query, nearest first, equally near ones by index.

        Args:
            queries: (Q, D) float32, finite; Q may be 0.
            n_neighbors: how many, from 1 to the number of rows that are not excluded.
            exclude: (n,) bool, True for bank rows that must not be found. Costs no rebuild of the index.

        Raises:
            InputError: if `queries` or `exclude` has another dtype or shape, or there are fewer rows than asked for.
        """
        found: Float32 = check_array("queries", queries, dtype=np.float32, shape=("Q", self.dim), empty=True)
        allowed = self._check_allowed(n_neighbors, exclude)
        distances = np.empty((len(found), n_neighbors), np.float32)
        indices = np.empty((len(found), n_neighbors), np.int64)
        for block in blocks(len(found), max(1, _BLOCK_SCORES // self.n_rows)):
            distances[block], indices[block] = self._search_block(found[block], n_neighbors, allowed)
        return Neighbors(distances, indices)

    def _check_allowed(self, n_neighbors: int, exclude: Bool | None) -> Bool | None:
        """Return the rows that may be found (None for all), or raise if they are too few."""
        n_allowed, allowed = self.n_rows, None
        if exclude is not None:
            allowed = ~check_array("exclude", exclude, dtype=np.bool_, shape=(self.n_rows,))
            n_allowed = int(np.count_nonzero(allowed))
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, (int, np.integer)) or n_neighbors < 1:
            raise InputError(message("n_neighbors", "an integer of at least 1", repr(n_neighbors)))
        if n_neighbors > n_allowed:
            got = f"{n_neighbors} with {n_allowed} of {self.n_rows} bank rows allowed"
            todo = "Ask for fewer neighbours, or build the bank from more pictures."
            raise InputError(message("n_neighbors", f"at most {n_allowed}", got, todo=todo))
        return allowed

    def _search_block(self, queries: Float32, k: int, allowed: Bool | None) -> tuple[Float32, Int64]:
        centred = queries - self._mean
        scores = centred @ self._centred.T
        np.subtract(self._half_squares, scores, out=scores)
        if allowed is not None:
            scores[:, ~allowed] = np.inf
        norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))
        reach = norms + np.sqrt(2 * self._half_squares.max())
        # Rounding of a float32 product of D terms, summed in any order: Higham 2002, section 3.1.
        slack = (self.dim + 8) * np.finfo(np.float32).eps * reach * reach
        limit = np.partition(scores, k - 1, axis=1)[:, k - 1] + slack
        rows, columns = np.nonzero(scores <= limit[:, None])
        return _best_of_pairs(queries, self._bank, rows, columns, k)


def _best_of_pairs(
    queries: Float32, bank: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp], k: int
) -> tuple[Float32, Int64]:
    """Return the k nearest of the pairs (query row, bank column) of each query; `rows` is sorted, k or more of each."""
    squares: Float64 = np.empty(len(rows), np.float64)
    for part in blocks(len(rows), max(1, _PAIR_VALUES // queries.shape[1])):
        difference = np.subtract(queries[rows[part]], bank[columns[part]], dtype=np.float64)
        np.einsum("ij,ij->i", difference, difference, out=squares[part])
    distances = np.sqrt(squares).astype(np.float32)
    order = np.lexsort((columns, distances, rows))
    first = np.searchsorted(rows, np.arange(len(queries)))
    best = order[first[:, None] + np.arange(k)]
    return distances[best], columns[best].astype(np.int64)
