"""Exact nearest-neighbor search in a memory bank.

Scores with a proved error (`int8_bounds`) rule out all rows but a few, whose distances are computed directly. The
result is that of brute force for any data; only the time depends on them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from blemish._validation.checks import blocks, check_array
from blemish.errors import InputError, message
from blemish.ops.int8_bounds import IntegerScores, largest_columns, lowest_score
from blemish.runtime.cores import usable_cores
from blemish.types import Bool, Float32, Int64, Neighbors

# Squares of larger numbers come near the end of float32.
_LARGEST = 1e15
# Scores of one block of queries: few enough for the cache, enough to amortise the calls.
_BLOCK_SCORES = 128 * 20_000
BLOCK_QUERIES = (16, 256)  # fewest and most of a block; the result does not depend on it
# Each thread holds the scores of a block; more wait for memory.
_MAX_THREADS = 16
# The first block is small: it shows whether the bound rules out enough on these data.
_FIRST_QUERIES = 32
_PAIR_VALUES = 1 << 16
# Below this many rows the float32 product is as fast.
_MIN_INTEGER_ROWS = 1536


class MemoryIndex:
    """Index of a memory bank for exact nearest-neighbor search.

    Distances are Euclidean, summed in float64 over the differences themselves: a query that equals a bank row has
    distance 0. Threads may share one index.

    Args:
        memory_bank: (n, D) float32, finite, within +-1e15, one row per patch. It is not copied and must not change.
        weight_limit: largest 8-bit value of a bank row; None for the largest that this processor multiplies exactly.

    Raises:
        InputError: if `memory_bank` is not such an array with at least one row.
    """

    def __init__(self, memory_bank: Float32, *, weight_limit: int | None = None) -> None:
        self.memory_bank: Float32 = np.ascontiguousarray(_check_rows("memory_bank", memory_bank, "n", "D"))
        self.n_rows, self.dim = (int(size) for size in self.memory_bank.shape)
        # Distances do not change with the origin; rounding errors are smallest around the mean.
        self._mean: Float32 = self.memory_bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._coarse: IntegerScores | None = None
        if self.n_rows >= _MIN_INTEGER_ROWS:
            self._coarse = IntegerScores(self.memory_bank, self._mean, weight_limit=weight_limit)

    def __reduce__(self) -> tuple[type[MemoryIndex], tuple[Float32]]:
        return MemoryIndex, (self.memory_bank,)

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds, the bank included."""
        return self.memory_bank.nbytes + self._mean.nbytes + (0 if self._coarse is None else self._coarse.nbytes)

    def search(self, queries: Float32, n_neighbors: int = 1, *, exclude: Bool | None = None) -> Neighbors:
        """Return the `n_neighbors` nearest bank rows of each query, nearest first, ties by index.

        Args:
            queries: (Q, D) float32, finite, within +-1e15; Q may be 0.
            n_neighbors: how many, from 1 to the number of rows that are not excluded.
            exclude: (n,) bool, True for bank rows to leave out. The index is not rebuilt.

        Raises:
            InputError: if `queries` or `exclude` has another dtype or shape, or there are fewer rows than asked for.

        Cost: one product of 8-bit integers, Q x n x D, on all cores; a float32 product where the 8-bit bound rules out
            too few rows.
        """
        checked = _check_rows("queries", queries, "Q", self.dim)
        excluded = self._check_excluded(n_neighbors, exclude)
        parts = self._blocks(len(checked))
        # Interleaved, so that the blocks of an image's patches are alike: where one gains by the bound, the others do.
        order = np.argsort(np.arange(len(checked)) % max(1, len(parts)), kind="stable")
        rows = checked[order]
        result = Neighbors(np.empty((len(rows), n_neighbors), np.float32), np.empty((len(rows), n_neighbors), np.int64))
        left = self._search_integer(rows, n_neighbors, excluded, parts, result)
        self._search_float(rows, n_neighbors, excluded, left, result)
        inverse = np.argsort(order)
        return Neighbors(result.distances[inverse], result.indices[inverse])

    def _blocks(self, n_queries: int) -> list[slice]:
        """Return the queries in blocks, the first one small."""
        least, most = BLOCK_QUERIES
        first = min(_FIRST_QUERIES, n_queries)
        size = max(least, min(most, _BLOCK_SCORES // self.n_rows))
        rest = [slice(first + part.start, first + part.stop) for part in blocks(n_queries - first, size)]
        return [slice(0, first), *rest] if n_queries else []

    def _check_excluded(self, n_neighbors: int, exclude: Bool | None) -> Int64:
        """Return the indices of excluded rows, or raise if too few others are left."""
        excluded = np.empty(0, np.int64)
        if exclude is not None:
            excluded = np.flatnonzero(check_array("exclude", exclude, dtype=np.bool_, shape=(self.n_rows,)))
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, (int, np.integer)) or n_neighbors < 1:
            raise InputError(message("n_neighbors", "an integer of at least 1", repr(n_neighbors)))
        n_allowed = self.n_rows - len(excluded)
        if n_neighbors > n_allowed:
            got = f"{n_neighbors} with {n_allowed} of {self.n_rows} bank rows allowed"
            todo = "Ask for fewer neighbors, or build the bank from more images."
            raise InputError(message("n_neighbors", f"at most {n_allowed}", got, todo=todo))
        return excluded

    def _search_integer(
        self, queries: Float32, k: int, excluded: Int64, todo: list[slice], result: Neighbors
    ) -> list[slice]:
        """Fill `result` for the blocks in which the bound rules out enough rows; return the other blocks."""
        coarse = self._coarse
        if coarse is None or not todo or 4 * k > coarse.n_groups:
            return todo
        left: list[slice] = []
        n_threads = min(usable_cores(), len(todo), _MAX_THREADS)
        waiting = iter(todo)

        def work(_: int) -> None:
            buffers = coarse.take_buffers(max(block.stop - block.start for block in todo))
            for block in waiting:
                # Where the bound fails for one block it fails for the others.
                pairs = None if left else coarse.candidates(queries[block], self.memory_bank, k, excluded, buffers)
                if pairs is None:
                    left.append(block)
                else:
                    result.distances[block], result.indices[block] = _best_of_pairs(
                        queries[block], self.memory_bank, *pairs, k
                    )
            coarse.spare_buffers.append(buffers)

        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(work, range(n_threads)))
        return left

    def _search_float(self, queries: Float32, k: int, excluded: Int64, todo: list[slice], result: Neighbors) -> None:
        """Fill `result` for these blocks by a float32 product, with a bound on its rounding error."""
        if not todo:
            return
        bank = self.memory_bank - self._mean
        slack = np.float32(4 * (self.dim + 8)) * np.finfo(np.float32).eps
        half = 0.5 * np.einsum("ij,ij->i", bank, bank) * (1 - slack)
        queried = np.concatenate([np.arange(block.start, block.stop) for block in todo])
        size = max(1, min(len(queried), 2 * _BLOCK_SCORES // self.n_rows))
        buffer = np.empty((size, self.n_rows), np.float32)
        for part in blocks(len(queried), size):
            rows = queries[queried[part]]
            centred = rows - self._mean
            squares = np.einsum("ij,ij->i", centred, centred)
            scores = np.matmul(centred, bank.T, out=buffer[: len(rows)])
            scores -= half
            scores[:, excluded] = -np.inf
            seeds = largest_columns(scores, k)
            limit = lowest_score(rows, self.memory_bank[seeds], squares, slack)
            pairs = np.divmod(np.flatnonzero(scores >= limit[:, None]), self.n_rows)
            result.distances[queried[part]], result.indices[queried[part]] = _best_of_pairs(
                rows, self.memory_bank, *pairs, k
            )


def _check_rows(name: str, rows: object, count: int | str, dim: int | str) -> Float32:
    """Return `rows` if they are finite float32 whose squares are finite too, or raise."""
    checked: Float32 = check_array(name, rows, dtype=np.float32, shape=(count, dim), empty=count == "Q")
    if checked.size and max(checked.max(), -checked.min()) > _LARGEST:
        raise InputError(message(name, f"values from {-_LARGEST:g} to {_LARGEST:g}", f"{np.abs(checked).max():g}"))
    return checked


def _best_of_pairs(
    queries: Float32, bank: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp], k: int
) -> tuple[Float32, Int64]:
    """Return the k nearest of each query's pairs (query row, bank column); `rows` is sorted, k or more of each."""
    rows, columns = _nearest_of_pairs(queries, bank, rows, columns, k)
    # A float32 difference has a relative error of 6e-8 at most, so only the sum needs float64.
    wide = (bank[columns] - queries[rows]).astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    distances = np.sqrt(squares).astype(np.float32)
    order = np.lexsort((columns, distances, rows))
    first = np.searchsorted(rows, np.arange(len(queries)))
    best = order[first[:, None] + np.arange(k)]
    return distances[best], columns[best].astype(np.int64)


def _nearest_of_pairs(
    queries: Float32, bank: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp], k: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs whose float32 distance exceeds the k-th of their query by no more than rounding.

    A float32 sum of D terms has a relative error of D * 6e-8 at most, and underflow in each term.
    """
    if len(rows) == k * len(queries):
        return rows, columns
    squares = np.empty(len(rows), np.float32)
    for part in blocks(len(rows), max(1, _PAIR_VALUES // queries.shape[1])):
        difference = bank.take(columns[part], axis=0)
        difference -= queries.take(rows[part], axis=0)
        np.einsum("ij,ij->i", difference, difference, out=squares[part])
    first = np.searchsorted(rows, np.arange(len(queries)))
    limit = np.minimum.reduceat(squares, first) if k == 1 else squares[np.lexsort((squares, rows))[first + k - 1]]
    kind, n_terms = np.finfo(np.float32), np.float32(4 * (queries.shape[1] + 8))
    near = np.flatnonzero(squares <= (limit * (1 + n_terms * kind.eps) + n_terms * kind.tiny)[rows])
    return rows[near], columns[near]
