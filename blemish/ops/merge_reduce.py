"""Greedy k-center at linear cost: coresets of chunks, merged and reduced, then a second look at uncovered rows.

Farthest-point traversal of N rows costs N times the number of picks, so N^2 for a fixed share. Here each chunk of rows
is reduced to a few times its share, and the union of these to the result (composable coresets: Indyk, Mahabadi,
Mahdian, Mirrokni 2014). A row is then within the sum of two radii of the result, and in many dimensions some rows are
10 to 30 % farther than the radius of one exact traversal. Where all rows are held, the last tenth of the picks
therefore goes to rows that the others leave uncovered: neighbors of the pick that stands for a row cover nearly all
rows, an exact search finds out about the rest. The radius is then within 2 % of the exact one (benchmarks/coreset.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish._validation.checks import blocks, check_array, check_whole
from blemish.errors import InputError, message
from blemish.ops.coreset import drawn_row, traversal, traversal_bytes
from blemish.ops.neighbors import MemoryIndex
from blemish.types import no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from blemish.types import Float32, Float64, Int64, Progress

# Rows of a chunk. 12,288 cover less (2 % above the exact radius), 49,152 take longer.
CHUNK_ROWS = 24_576
# Rows that a chunk keeps, in multiples of its share of the result. 4 takes twice as long and gains a per cent.
OVERSAMPLING = 2
# Share of the picks that are made among the chunks' picks; the others go to rows left uncovered.
FIRST_SHARE = 0.9
# Picks nearest to the one that stands for a row, among which one that covers the row is looked for.
CANDIDATES = 64
# Fewer chunks than this are one exact traversal, which is as fast; so are few picks.
EXACT_CHUNKS = 4
EXACT_PICKS = 32
# Share of the rows that a stream keeps, as long as they fit: more than twice the result lowers the radius.
KEPT_SHARE = 0.04


class Coreset(NamedTuple):
    """A subset of rows.

    Attributes:
        indices: (n,) int64, the rows, in the order chosen.
        radius: covering radius, an upper bound: no row is at a larger Euclidean distance from the nearest one chosen.
    """

    indices: Int64
    radius: float


def coreset(features: Float32, n_select: int, *, seed: int = 0, progress: Progress = no_progress) -> Coreset:
    """Return a k-center subset of rows in memory: exact greedy for few rows, merge and reduce for many.

    Args:
        features: (N, D) float32, finite.
        n_select: rows to keep, from 1 to N.
        seed: of the first row.
        progress: called as progress(stage, done, total).

    Raises:
        InputError: if `features` is not finite float32 (N, D), or `n_select` is not from 1 to N.

    Cost: `compared_pairs`.
    """
    check_array("features", features, dtype=np.float32, shape=("N", "D"), finite=False)
    check_whole("n_select", n_select, 1, len(features))
    if is_exact(len(features), n_select):
        found = traversal(features, n_select, drawn_row(len(features), seed), progress=progress)
        return Coreset(found.picks, found.radius)
    n_first = round(FIRST_SHARE * n_select)
    union, of_union = _first_level(features, n_select, seed, progress)
    merged = traversal(features[union], n_first, drawn_row(len(union), seed), progress=progress)
    picks = union[merged.picks]
    uncovered, distance = _uncovered(features, picks, merged.nearest[of_union], merged.radius)
    left = np.delete(np.arange(len(union)), merged.picks)
    rows = np.concatenate([union[left], uncovered])
    known = np.concatenate([merged.distance[left], distance])
    second = traversal(features[rows], n_select - n_first, int(known.argmax()), distance=known)
    # All other rows are within the radius of the first picks.
    return Coreset(np.concatenate([picks, rows[second.picks]]), max(second.radius, merged.radius))


def is_exact(n_rows: int, n_select: int) -> bool:
    """Return whether `coreset` is one exact traversal."""
    few = n_rows <= EXACT_CHUNKS * CHUNK_ROWS or n_select <= EXACT_PICKS
    return few or EXACT_CHUNKS * OVERSAMPLING * n_select > n_rows


def coreset_bytes(n_rows: int, n_features: int, n_select: int) -> int:
    """Return the memory that `coreset` takes beside the rows, in bytes.

    >>> coreset_bytes(500_000, 232, 10_000) // 10**6
    86
    """
    if is_exact(n_rows, n_select):
        return traversal_bytes(n_rows, n_features, n_select)
    n_union = OVERSAMPLING * n_select + n_rows // CHUNK_ROWS + 1
    union = 4 * n_union * n_features + traversal_bytes(n_union, n_features, n_select)
    return union + 28 * n_rows + (4 * n_select * n_features if n_select else 0)


def compared_pairs(n_rows: int, n_select: int, max_rows: int) -> int:
    """Return about how many pairs of rows are compared, to which the time is proportional.

    Args:
        n_rows: of all features.
        n_select: of the coreset.
        max_rows: rows that may be held; more are a stream.

    >>> compared_pairs(50_000, 1000, 500_000), compared_pairs(400_000, 8000, 500_000) // 10**6
    (50000000, 681)
    """
    if n_rows > max_rows:
        n_kept = kept_rows(n_rows, n_select, max_rows)
        return n_kept * (CHUNK_ROWS + n_select)
    if is_exact(n_rows, n_select):
        return n_rows * n_select
    # The chunks, their union, and the rows left uncovered: those that an exact search finds out about.
    return OVERSAMPLING * n_select * (CHUNK_ROWS + n_select) + n_rows * n_select // 20


def _share(n_rows: int, n_kept: int, n_total: int) -> int:
    """Return how many of a chunk's rows are kept, where `n_kept` of `n_total` are."""
    return min(n_rows, -(-n_kept * n_rows // n_total))


def _first_level(features: Float32, n_select: int, seed: int, progress: Progress) -> tuple[Int64, Int64]:
    """Return the rows that the chunks keep, (m,), and for each row the one that stands for it, (N,), from 0 to m-1."""
    kept: list[Int64] = []
    stands = np.empty(len(features), np.int64)
    n_kept = 0
    for part in blocks(len(features), CHUNK_ROWS):
        rows = features[part]
        n = _share(len(rows), OVERSAMPLING * n_select, len(features))
        found = traversal(rows, n, drawn_row(len(rows), seed))
        kept.append(found.picks + part.start)
        stands[part] = found.nearest + n_kept
        n_kept += n
        progress("reducing patches", part.stop, len(features))
    return np.concatenate(kept), stands


def _uncovered(features: Float32, picks: Int64, nearest: Int64, radius: float) -> tuple[Int64, Float64]:
    """Return the rows that are farther than `radius` from all picks, (n,), and their distances.

    Args:
        features: (N, D) float32.
        picks: (k,) rows.
        nearest: (N,) a pick for each row that is probably near, out of 0 to k-1.
        radius: of the picks.
    """
    centers = features[picks]
    candidates = _near_picks(centers)
    # The rounding of float32 products must not count a row as covered that is not.
    squares = np.square(centers).sum(axis=1)
    order = np.argsort(nearest, kind="stable")
    bounds = np.searchsorted(nearest[order], np.arange(len(picks) + 1))
    doubtful: list[Int64] = []
    for near, start, stop in zip(candidates, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        rows = features[order[start:stop]]
        own = np.square(rows).sum(axis=1)
        products = rows @ centers[near].T
        slack = np.float32(1e-5) * (own + squares[near].max())
        squared = own + (squares[near] - 2 * products).min(axis=1) + slack
        doubtful.append(order[start:stop][squared > radius**2])
    rest = np.sort(np.concatenate(doubtful))
    distances = MemoryIndex(centers).search(features[rest]).distances[:, 0].astype(np.float64)
    far = distances > radius
    return rest[far], distances[far]


def _near_picks(centers: Float32) -> NDArray[np.int64]:
    """Return the `CANDIDATES` rows nearest to each row, itself included, (k, m)."""
    n_near = min(CANDIDATES, len(centers))
    squares = np.square(centers).sum(axis=1)
    near = np.empty((len(centers), n_near), np.int64)
    for part in blocks(len(centers), 1024):
        squared = squares - 2 * (centers[part] @ centers.T)
        near[part] = np.argpartition(squared, n_near - 1, axis=1)[:, :n_near]
    return near


class Chunk(NamedTuple):
    """Rows of a stream as they came, which are reduced together.

    Attributes:
        rows: (n, D) float32.
        source: (n, 3) int32, training image, row and column of each patch.
    """

    rows: Float32
    source: NDArray[np.int32]


class ChunkReduction(NamedTuple):
    """How a chunk is reduced.

    Attributes:
        n_keep: rows that are kept.
        seed: of the first row.
    """

    n_keep: int
    seed: int

    def reduced(self, chunk: Chunk) -> ReducedChunk:
        """Return the rows of the chunk that are kept."""
        found = traversal(chunk.rows, self.n_keep, drawn_row(len(chunk.rows), self.seed))
        return ReducedChunk(Chunk(chunk.rows[found.picks], chunk.source[found.picks]), found.radius)


class ReducedChunk(NamedTuple):
    """The rows of a chunk that are kept.

    Attributes:
        kept: in the order chosen.
        radius: covering radius.
    """

    kept: Chunk
    radius: float


class StreamingCoreset:
    """Merge and reduce of rows that come in a stream and are not kept: one pass, memory bounded.

    A row is within the first level's radius plus the second level's: `finish` states the sum, an upper bound that is
    far above the true radius.

    Where the rows come here, `add` and `finish` do it all. Where chunks are elsewhere, what is kept of them comes in
    their order: `reduction` and `keep`, with the same result.

    Args:
        n_select: rows of the result, at most.
        n_rows: expected rows; fewer may come.
        max_rows: rows that may be held.
        seed: of the first rows.

    Raises:
        InputError: if `n_select` is not from 1 to half of `max_rows`.
    """

    def __init__(self, n_select: int, *, n_rows: int, max_rows: int, seed: int = 0) -> None:
        check_whole("n_rows", n_rows, 1)
        todo = f"Keep fewer rows, or hold more than max_rows={max_rows}."
        check_whole("n_select", n_select, 1, max_rows // 2, todo=todo)
        self.n_select = n_select
        self._n_rows, self._n_reduced = n_rows, 0
        self._n_kept = kept_rows(n_rows, n_select, max_rows)
        self._seed = seed
        self._chunk: list[Chunk] = []
        self._kept: list[Chunk] = []
        self._radius = 0.0

    def add(self, features: Float32, source: NDArray[np.int32]) -> None:
        """Add rows.

        Args:
            features: (n, D) float32, finite; D as in earlier calls.
            source: (n, 3) int32, training image, row and column of each patch.
        """
        width: int | str = (self._kept or self._chunk)[0][0].shape[1] if self._kept or self._chunk else "D"
        check_array("features", features, dtype=np.float32, shape=("n", width))
        check_array("source", source, dtype=np.int32, shape=(len(features), 3))
        self._chunk.append(Chunk(features, source))
        if _n_rows(self._chunk) >= CHUNK_ROWS:
            self._reduce()

    def reduction(self, n_rows: int) -> ChunkReduction:
        """Return how the next chunk, of so many rows, is reduced."""
        self._n_reduced += n_rows
        return ChunkReduction(_share(n_rows, self._n_kept, self._n_rows), self._seed)

    @property
    def n_added(self) -> int:
        """The rows that came so far."""
        return self._n_reduced + _n_rows(self._chunk)

    def keep(self, reduced: ReducedChunk) -> None:
        """Add the rows that are kept of the next chunk."""
        self._kept.append(reduced.kept)
        self._radius = max(self._radius, reduced.radius)

    def finish(
        self, n_select: int | None = None, *, progress: Progress = no_progress
    ) -> tuple[Float32, NDArray[np.int32], float]:
        """Return the coreset of all rows: (n, D) features, (n, 3) sources, the covering radius.

        Args:
            n_select: rows of the result, if fewer than the constructor's.
            progress: called as progress(stage, done, total).
        """
        if self._chunk:
            self._reduce()
        if not self._kept:
            raise InputError(message("features", "at least one row", "none", todo="Add rows before finishing."))
        features, source = joined(self._kept)
        wanted = min(n_select or self.n_select, self.n_select, len(features))
        found = traversal(features, wanted, drawn_row(len(features), self._seed), progress=progress)
        return features[found.picks], source[found.picks], self._radius + found.radius

    def _reduce(self) -> None:
        """Reduce the chunk to its share of the rows that are kept."""
        chunk = joined(self._chunk)
        self._chunk = []
        self.keep(self.reduction(len(chunk.rows)).reduced(chunk))


def _n_rows(chunks: Sequence[Chunk]) -> int:
    return sum(len(rows) for rows, _ in chunks)


def chunk_images(n_rows: int) -> int:
    """Return how many images, each of so many rows, make a chunk of a stream."""
    return -(-CHUNK_ROWS // n_rows)


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Return several chunks as one."""
    return Chunk(np.concatenate([rows for rows, _ in chunks]), np.concatenate([source for _, source in chunks]))


def kept_rows(n_rows: int, n_select: int, max_rows: int) -> int:
    """Return how many of `n_rows` a stream keeps until its end."""
    return max(min(OVERSAMPLING * n_select, n_rows), min(int(KEPT_SHARE * n_rows), max_rows // 2))


def chunk_bytes(n_rows: int, n_features: int, n_keep: int) -> int:
    """Return the peak memory of the reduction of one chunk in bytes, its rows included.

    Args:
        n_rows: of the chunk.
        n_features: of each row.
        n_keep: rows that are kept.
    """
    # The rows twice while they are joined, and the sources.
    return n_rows * (8 * n_features + 12) + traversal_bytes(n_rows, n_features, n_keep)


def streaming_bytes(n_rows: int, n_features: int, n_select: int, max_rows: int) -> int:
    """Return the peak memory of `StreamingCoreset` in bytes."""
    n_kept = kept_rows(n_rows, n_select, max_rows) + n_rows // CHUNK_ROWS
    per_row = 4 * n_features + 12
    # The kept rows, twice while they are joined, or beside a chunk, twice.
    of_rows = max(2 * n_kept, n_kept + 2 * CHUNK_ROWS) * per_row
    return of_rows + traversal_bytes(max(n_kept, CHUNK_ROWS), n_features, n_select)
