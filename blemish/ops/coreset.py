"""Exact greedy k-center (farthest-point traversal) without a pass over all rows for each pick, and its streaming form.

Exact: with d(x, p) the squared distance of two rows, computed from their float32 values in float64, directly as the
sum of squared differences, each pick is the row whose smallest d to the picks before it is largest, and the lowest
index among ties. `tests/reference.py` has the definition in six lines; the picks are the same.

Fast (lazy greedy): a row's distance to the picks only falls, so a value from before the newest picks is an upper bound.
Only the rows with the largest values are updated, in batches, and picks are accepted while the best of the batch is at
least as large as every value outside it.

Fast and exact, independent of threads and of the linear algebra library: matrix products in float32 only *rule out*
(row, pick) pairs, with a bound on their rounding error; all other pairs are computed directly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish._validation.checks import blocks, check_array, check_whole
from blemish.errors import InputError, message
from blemish.types import Float32, Float64, Int64, Progress, no_progress

# 0.13 GB at 152 values a row, and as many rows as 195 images of 1,024 patches.
MAX_ROWS = 200_000


# Sizes of blocks, which change memory and time and no pick; chosen on two cores at 200,000 x 152 and x 456, where half
# or twice costs little.
BATCH = 2048  # rows updated at a time
TILE = 1024  # rows and picks of one matrix product, whose result stays in cache
REVIEW = 64  # picks after which a batch drops the rows that can no longer be picked
SCAN = 4096  # rows of a block in passes over all rows


def greedy_coreset(
    features: Float32, n_select: int, *, seed: int = 0, first: int | None = None, progress: Progress = no_progress
) -> Int64:
    """Return the indices of a k-center greedy subset of `features`: each pick is the row farthest from those before it.

    Args:
        features: (N, D) float32, finite; one row per patch. It is not changed.
        n_select: rows to keep, 1 <= n_select <= N.
        first: the row to start with; None for one drawn by `seed`.

    Returns:
        (n_select,) int64 row indices in the order chosen; no row twice, and rows equal to a pick only after all others.
        The picks of a smaller `n_select` are a prefix of those of a larger one.

    Raises:
        InputError: if `features` is not finite float32 (N, D), or `n_select` is not from 1 to N.

    Cost: at most 2 * N * n_select * D floating point operations as matrix products, in practice half of that or less.
        Memory beside `features`: at most 36 bytes a row, 4 * (D + 1) bytes a pick, and blocks of 29 MB at D = 152.

    Source: Gonzalez 1985; Sener and Savarese 2018, Algorithm 1; Roth et al. 2022 (arXiv 2106.08265), Algorithm 1.

    >>> greedy_coreset(np.array([[0], [1], [5], [9]], np.float32), 3, seed=1)
    array([1, 3, 2])
    """
    check_array("features", features, dtype=np.float32, shape=("N", "D"), finite=False)
    check_whole("n_select", n_select, 1, len(features))
    return _select(features, n_select, _drawn(features, seed) if first is None else first, progress)[0]


class Coreset(NamedTuple):
    """A subset of a stream of rows.

    Attributes:
        features: (n, D) float32, in the order chosen.
        source: (n, 3) int32, training image, row and column of each patch, as given.
        radius: covering radius: largest Euclidean distance of a row of the stream to the nearest row of `features`, or
            an upper bound of it.
    """

    features: Float32
    source: NDArray[np.int32]
    radius: float


class StreamingCoreset:
    """Streaming greedy k-center: a coreset of coresets that holds at most `max_rows` rows.

    While the stream fits into `max_rows`, the result is that of `greedy_coreset`, to the bit. Beyond that there are two
    levels: whenever `max_rows` rows are held, the new ones are reduced to their share of max_rows // 2; in the end
    these and the last new ones are reduced together. A row of the stream is within the first level's radius of one that
    the first level kept, which is within the second's radius of the result: the covering radius is at most their sum,
    `Coreset.radius`. If more than `n_rows` rows come, all held rows are reduced to max_rows // 4, and that radius is
    added too. The result does not depend on how the rows are divided among calls of `add`.

    Args:
        n_select: rows of the result; at most max_rows // 2 if `n_rows` is above `max_rows`.
        n_rows: expected rows: images times patches of each. Fewer may come.
    """

    def __init__(self, n_select: int, *, n_rows: int, max_rows: int = MAX_ROWS, seed: int = 0) -> None:
        _check_stream(n_select, n_rows, max_rows)
        self.n_select = n_select
        self.max_rows = max_rows
        self.seed = seed
        self.n_seen = 0
        self._n_rows = n_rows
        self._n_kept = 0  # rows of the first level: the first ones of those held
        self._n_held = 0
        self._radius = 0.0  # of the first level
        self._features: Float32 = np.empty((0, 0), np.float32)
        self._source: NDArray[np.int32] = np.empty((0, 3), np.int32)

    def add(self, features: Float32, source: NDArray[np.int32]) -> None:
        """Add rows; they are copied.

        Args:
            features: (n, D) float32, finite; D as in earlier calls.
            source: (n, 3) int32, training image, row and column of each patch.
        """
        width: int | str = self._features.shape[1] or "D"
        check_array("features", features, dtype=np.float32, shape=("n", width), empty=True)
        check_array("source", source, dtype=np.int32, shape=(len(features), 3), empty=True)
        start = 0
        while start < len(features):
            if self._n_held == self.max_rows:
                self._reduce()
            if self._n_held == len(self._features):
                self._grow(features.shape[1])
            stop = min(len(features), start + len(self._features) - self._n_held)
            held = slice(self._n_held, self._n_held + stop - start)
            self._features[held], self._source[held] = features[start:stop], source[start:stop]
            self.n_seen += stop - start
            self._n_held, start = held.stop, stop

    def finish(self, n_select: int | None = None, *, progress: Progress = no_progress) -> Coreset:
        """Return the coreset of all rows so far; more may be added afterwards.

        Args:
            n_select: rows of the result, if fewer than the constructor's, such as a share of `n_seen`.
        """
        if self._n_held == 0:
            raise InputError(message("features", "at least one row", "none", todo="Add rows before finishing."))
        wanted = self.n_select if n_select is None else n_select
        check_whole("n_select", wanted, 1, self.n_select)
        held = self._features[: self._n_held]
        picks, radius = _select(held, min(wanted, self._n_held), _drawn(held, self.seed), progress)
        return Coreset(self._features[picks], self._source[picks], radius + self._radius)

    def _reduce(self) -> None:
        """Reduce the new rows to their share of the first level, or all held rows if that share is used up."""
        target = self.max_rows // 2 * self.n_seen // self._n_rows
        first = self._n_kept
        if self.n_seen > self._n_rows or target <= first:
            self._n_rows = max(self._n_rows, 2 * self.n_seen)
            first, target = 0, self.max_rows // 4
        new = self._features[first : self._n_held]
        picks, radius = _select(new, target - first, _drawn(new, self.seed), no_progress)
        picks += first
        self._features[first:target], self._source[first:target] = self._features[picks], self._source[picks]
        self._radius = max(self._radius, radius) if first == self._n_kept else self._radius + radius
        self._n_kept = self._n_held = target

    def _grow(self, width: int) -> None:
        """Allocate memory for the expected rows, or for `max_rows` if more have come."""
        n = min(self._n_rows, self.max_rows) if self._n_held == 0 else self.max_rows
        features, source = np.empty((n, width), np.float32), np.empty((n, 3), np.int32)
        if self._n_held > 0:
            features[: self._n_held], source[: self._n_held] = self._features, self._source
        self._features, self._source = features, source


def coreset_bytes(n_rows: int, n_features: int, n_select: int, *, max_rows: int = MAX_ROWS) -> int:
    """Return the peak memory of `StreamingCoreset` in bytes, held rows and result included.

    >>> coreset_bytes(10_240_000, 152, 20_000) // 10**6  # 10,000 images of 1,024 patches
    184
    """
    _check_stream(n_select, n_rows, max_rows)
    check_whole("n_features", n_features, 1)
    held = min(n_rows, max_rows)
    n_picks = n_select if n_rows <= max_rows else max(n_select, max_rows // 2 * max_rows // n_rows)
    per_row = 4 * n_features + 12
    tiles = 17 * TILE**2 + 4 * BATCH * (n_features + 1) + 16 * SCAN * n_features
    return (held + n_picks) * per_row + 36 * held + 4 * n_picks * (n_features + 1) + tiles


def _check_stream(n_select: int, n_rows: int, max_rows: int) -> None:
    """Raise unless a stream of `n_rows` can be reduced to `n_select` while `max_rows` are held."""
    check_whole("n_rows", n_rows, 1)
    check_whole("max_rows", max_rows, 4)
    todo = "" if n_rows <= max_rows else f"Keep fewer rows, or hold more than max_rows={max_rows}."
    check_whole("n_select", n_select, 1, n_rows if n_rows <= max_rows else max_rows // 2, todo=todo)


def _drawn(features: Float32, seed: int) -> int:
    """Return the row that a seed starts with."""
    return int(np.random.default_rng(seed).integers(len(features)))


def _select(features: Float32, n_select: int, first: int, progress: Progress) -> tuple[Int64, float]:
    """Return the picks and their covering radius."""
    traversal = _Traversal(features, n_select, first)
    while traversal.n_picks < n_select:
        progress("coreset", traversal.n_picks, n_select)
        if float(traversal.value.max()) > 0:
            traversal.advance()
        else:
            traversal.fill()
    progress("coreset", n_select, n_select)
    return traversal.picks, float(np.sqrt(max(traversal.value.max(), 0.0)))


class _Traversal:
    """State of a farthest-point traversal: the rows, the picks, and an upper bound of each row's distance to them.

    Attributes:
        value: (N,) float64, squared distance to the nearest of the first `seen` picks; -1 for the picks themselves.
        seen: (N,) int64, number of picks that `value` includes.
        picks: (n_select,) int64, the first `n_picks` of which are set.
    """

    def __init__(self, features: Float32, n_select: int, first: int) -> None:
        n, d = features.shape
        self.features = features
        self._choose_frame()
        self.value, self.norm, self.seen = np.empty(n), np.empty(n), np.ones(n, np.int64)
        for block in blocks(n, SCAN):
            self.value[block] = _squared_distances(features[block], features[first])
            self.norm[block] = np.square(self._framed(features[block]), dtype=np.float64).sum(axis=1)
        # A product's squared distance is off by at most gamma_n (|x| + |m|)^2, so by 2 gamma_n (|x|^2 + |m|^2), in any
        # order of summation: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1. n = D + 1 terms; 16
        # more cover the rounding of the centring, of the last column of `pick_rows` and of the level.
        unit = 2.0**-24 * (d + 17)
        self.gamma = unit / (1 - unit)
        self.pick_rows = np.empty((n_select, d + 1), np.float32)
        self.picks, self.n_picks = np.empty(n_select, np.int64), 0
        self._product = np.empty(TILE * TILE, np.float32)
        self._append(first)

    def _choose_frame(self) -> None:
        """Choose the centre and the scale of the coordinates in which products are computed.

        Rounding errors grow with the distance from the centre: a median, which no outlier moves far. The scale, a power
        of two that makes the largest value about 1, keeps squares inside float32.
        """
        n, largest = len(self.features), 0.0
        for block in blocks(n, SCAN):
            largest = max(float(np.abs(self.features[block]).max()), largest)
            if not largest < np.inf:
                check_array("features", self.features, dtype=np.float32, shape=("N", "D"))
        exponent = int(np.frexp(largest)[1]) if largest > 0 else 0
        self.scale = 2.0 ** -max(-120, min(120, exponent))
        sample = self.features[:: -(-n // 1024)] * np.float32(self.scale)
        self.centre = np.median(sample, axis=0).astype(np.float32)

    def _framed(self, rows: Float32) -> Float32:
        """Return `rows`, float32, centred and scaled."""
        framed: Float32 = rows * np.float32(self.scale) - self.centre
        return framed

    def fill(self) -> None:
        """Pick the remaining rows by index, once every row equals a pick."""
        left = len(self.picks) - self.n_picks
        self.picks[self.n_picks :], self.n_picks = np.flatnonzero(self.value >= 0)[:left], len(self.picks)

    def advance(self) -> None:
        """Update the rows with the largest values, and pick among them while no other row can come first."""
        rows, floor, first_equal = self._top()
        stale = rows[self.seen[rows] < self.n_picks]
        order = stale[np.argsort(self.seen[stale], kind="stable")]
        for block in blocks(len(order), TILE):
            self._refresh(order[block])
        while self.n_picks < len(self.picks):
            rows = rows[self.value[rows] >= floor]
            if len(rows) == 0 or not self._pick_among(rows, floor, first_equal):
                return

    def _top(self) -> tuple[Int64, float, int]:
        """Return the rows with the largest values, ascending, and the best of the others.

        The best of the others is the largest value outside them, and the lowest row outside that has it, or N.
        """
        n = len(self.value)
        # -0.5 lies between the picks (-1) and all other rows.
        floor = max(float(np.partition(self.value, n - BATCH)[n - BATCH]), -0.5) if n > BATCH else -0.5
        above, equal = np.flatnonzero(self.value > floor), np.flatnonzero(self.value == floor)
        n_equal = BATCH - len(above)
        rows = np.sort(np.concatenate([above, equal[:n_equal]]))
        return rows, floor, int(equal[n_equal]) if len(equal) > n_equal else n

    def _refresh(self, rows: Int64) -> None:
        """Update `rows`, sorted by `seen`, by the picks that their values do not include."""
        first = int(self.seen[rows[0]])
        framed = self._framed_one(rows)
        for block in blocks(self.n_picks - first, TILE):
            picks = slice(first + block.start, first + block.stop)
            product = self._product[: len(rows) * (picks.stop - picks.start)].reshape(len(rows), -1)
            with np.errstate(all="ignore"):  # OpenBLAS reads past short rows: the values are right, the flags not
                np.matmul(framed, self.pick_rows[picks].T, out=product)
            self._lower(rows, self.picks[picks], product)
        self.seen[rows] = self.n_picks

    def _framed_one(self, rows: Int64) -> Float32:
        """Return (n, D + 1) float32: framed rows and a 1, multiplied with the half norm in `pick_rows`."""
        framed = np.ones((len(rows), self.features.shape[1] + 1), np.float32)
        framed[:, :-1] = self._framed(self.features[rows])
        return framed

    def _level(self, rows: Int64) -> Float32:
        """Return the least product with a pick that may lower the value, rounding included.

        With e = 2 gamma, |x - m|^2 < value needs x.m - (1 - e) |m|^2 / 2 > ((1 - e) |x|^2 - value) / 2.
        """
        value = self.value[rows]
        level = ((1 - 2 * self.gamma) * self.norm[rows] - value * self.scale**2) / 2
        return np.where(value > 0, level - 1e-30, np.inf).astype(np.float32)  # 1e-30: products that underflow

    def _lower(self, rows: Int64, picks: Int64, product: Float32) -> None:
        """Lower the values of `rows` by `picks`, whose `product` is (n, n_picks)."""
        hit = np.flatnonzero(product.max(axis=1) > self._level(rows))
        if len(hit) == 0:
            return
        near, candidates = rows[hit], product[hit]
        best = candidates.argmax(axis=1)
        self._compare(near, picks[best])
        candidates[np.arange(len(hit)), best] = -np.inf
        doubtful = np.flatnonzero(candidates > self._level(near)[:, None])
        for block in blocks(len(doubtful), SCAN):
            i, j = np.divmod(doubtful[block], len(picks))
            self._compare(near[i], picks[j])

    def _compare(self, rows: Int64, picks: Int64) -> None:
        """Lower the values of `rows` by the exact distances to `picks`, pair by pair."""
        np.minimum.at(self.value, rows, _squared_distances(self.features[rows], self.features[picks]))

    def _pick_among(self, rows: Int64, floor: float, first_equal: int) -> bool:
        """Pick up to REVIEW times among `rows`, whose values are exact; return whether more picks are possible."""
        framed = self._framed_one(rows)
        more = True
        for _ in range(min(REVIEW, len(self.picks) - self.n_picks)):
            value = self.value[rows]
            best = int(value.argmax())
            row = int(rows[best])
            more = value[best] > floor or (value[best] == floor and row < first_equal)
            if not more:
                break
            self._append(row)
            with np.errstate(all="ignore"):  # as in _refresh
                product = np.matmul(framed, self.pick_rows[self.n_picks - 1])
            near = rows[product > self._level(rows)]
            self._compare(near, np.full(len(near), row))
        self.seen[rows] = self.n_picks
        return bool(more)

    def _append(self, row: int) -> None:
        """Make `row` the next pick."""
        self.picks[self.n_picks] = row
        self.value[row] = -1
        self.pick_rows[self.n_picks, :-1] = self._framed(self.features[row])
        self.pick_rows[self.n_picks, -1] = (self.gamma - 0.5) * self.norm[row]
        self.n_picks += 1


def _squared_distances(a: Float32, b: Float32) -> Float64:
    """Return the (n,) float64 squared distances of the rows of `a` to those of `b`, or to the one row `b`.

    NumPy sums a C-ordered row alike whatever the others are (einsum does not, above 8,192 columns), so a pair has the
    same bits wherever it is computed.
    """
    difference = np.subtract(a, b, dtype=np.float64, order="C")
    result: Float64 = np.square(difference, out=difference).sum(axis=1)
    return result
