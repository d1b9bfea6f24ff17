"""Exact greedy k-center (farthest-point traversal) without a pass over all rows for each pick.

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

from blemish._validation.checks import blocks, check_array, check_whole
from blemish.types import Float32, Float64, Int64, Progress, no_progress

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
    return traversal(
        features, n_select, drawn_row(len(features), seed) if first is None else first, progress=progress
    ).picks


class Traversal(NamedTuple):
    """Farthest-point traversal of N rows.

    Attributes:
        picks: (n_select,) int64 row indices, in the order chosen.
        distance: (N,) float64, upper bound of each row's Euclidean distance to its `nearest` pick; 0 for picks.
        nearest: (N,) int64, the pick, a position in `picks`, that `distance` bounds; -1 where it is of an earlier set.
        radius: covering radius, the largest `distance`.
    """

    picks: Int64
    distance: Float64
    nearest: Int64
    radius: float


def traversal(
    features: Float32,
    n_select: int,
    first: int,
    *,
    distance: Float64 | None = None,
    progress: Progress = no_progress,
) -> Traversal:
    """Return a farthest-point traversal, whose picks are those of `greedy_coreset`.

    Args:
        features: (N, D) float32, finite.
        n_select: number of picks, from 1 to N.
        first: the row to start with.
        distance: (N,) float64, distance of each row to the nearest row of a set that is kept besides the picks.
        progress: called as progress(stage, done, total).
    """
    state = _Traversal(features, n_select, first, distance)
    while state.n_picks < n_select:
        progress("coreset", state.n_picks, n_select)
        if float(state.value.max()) > 0:
            state.advance()
        else:
            state.fill()
    progress("coreset", n_select, n_select)
    bound = np.sqrt(np.maximum(state.value, 0))
    return Traversal(state.picks, bound, state.nearest, float(bound.max()))


def traversal_bytes(n_rows: int, n_features: int, n_select: int) -> int:
    """Return the memory that a traversal takes beside its rows, in bytes."""
    tiles = 17 * TILE**2 + 4 * BATCH * (n_features + 1) + 16 * SCAN * n_features
    return 44 * n_rows + 4 * n_select * (n_features + 1) + tiles


def drawn_row(n_rows: int, seed: int) -> int:
    """Return the row that a seed starts with."""
    return int(np.random.default_rng(seed).integers(n_rows))


class _Traversal:
    """State of a farthest-point traversal: the rows, the picks, and an upper bound of each row's distance to them.

    Attributes:
        value: (N,) float64, squared distance to the nearest of the first `seen` picks; -1 for the picks themselves.
        seen: (N,) int64, number of picks that `value` includes.
        nearest: (N,) int64, the pick that `value` is the distance to; -1 if none.
        picks: (n_select,) int64, the first `n_picks` of which are set.
    """

    def __init__(self, features: Float32, n_select: int, first: int, distance: Float64 | None) -> None:
        n, d = features.shape
        self.features = features
        self._choose_frame()
        self.value, self.norm, self.seen = np.empty(n), np.empty(n), np.ones(n, np.int64)
        self.nearest = np.zeros(n, np.int64)
        for block in blocks(n, SCAN):
            self.value[block] = _squared_distances(features[block], features[first])
            self.norm[block] = np.square(self._framed(features[block]), dtype=np.float64).sum(axis=1)
        if distance is not None:
            known = np.square(distance)
            self.nearest[known <= self.value] = -1
            self.value = np.minimum(self.value, known)
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
        rows = np.flatnonzero(self.value >= 0)[:left]
        self.nearest[rows] = np.arange(self.n_picks, len(self.picks))
        self.picks[self.n_picks :], self.n_picks = rows, len(self.picks)

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
            np.matmul(framed, self.pick_rows[picks].T, out=product)
            self._lower(rows, np.arange(picks.start, picks.stop), product)
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
        """Lower the values of `rows` by the exact distances to `picks`, pair by pair; a row may be there many times."""
        squared = _squared_distances(self.features[rows], self.features[self.picks[picks]])
        lower = np.flatnonzero(squared < self.value[rows])
        lower = lower[np.argsort(-squared[lower], kind="stable")]  # of equal rows, the last assignment counts
        self.value[rows[lower]], self.nearest[rows[lower]] = squared[lower], picks[lower]

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
            product = np.matmul(framed, self.pick_rows[self.n_picks - 1])
            near = rows[product > self._level(rows)]
            self._compare(near, np.full(len(near), self.n_picks - 1))
        self.seen[rows] = self.n_picks
        return bool(more)

    def _append(self, row: int) -> None:
        """Make `row` the next pick."""
        self.picks[self.n_picks] = row
        self.value[row], self.nearest[row] = -1, self.n_picks
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
