"""Exact greedy k-center (farthest point first), without a pass over all rows for each pick.

What is exact: with d(x, p) the squared distance of two rows, computed from their float32 values in float64, directly as
the sum of squared differences, each pick is the row whose smallest d to the picks before it is largest, and the lowest
index where several are equal. `tests/reference_coreset.py` says so in six lines, and the picks here are the same ones.

Why it is fast: a row's distance to the picks only falls, so a value that has not seen the newest picks is an upper
bound. Only the rows with the largest values are brought up to date, in batches, and picks are accepted while the best
of the batch is at least as large as every value outside it.

Why fast stays exact, and independent of threads and of the linear algebra library: matrix products in float32 only
*rule out* (row, pick) pairs, with a bound on their rounding error; whatever they do not rule out is computed directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.arrays import blocks, check_array
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish.records import Float32, Float64, Int64

Progress = Callable[[int, int], None]

# Sizes measured on two cores at 200,000 x 152 and x 456 (benchmarks/coreset.py); none of them changes a pick.
_BATCH = 2048  # rows brought up to date at a time
_TILE = 1024  # rows and picks of one matrix product: its result stays in the second-level cache
_REVIEW = 64  # picks after which a batch drops the rows that can no longer be picked
_SCAN = 4096  # rows of a block in passes over all rows


def greedy_coreset(features: Float32, n_select: int, *, seed: int = 0, progress: Progress | None = None) -> Int64:
    """Return the indices of a k-center greedy subset of `features`: each pick is the row farthest from those before it.

    Args:
        features: (N, D) float32, finite; one row per patch. It is not changed.
        n_select: rows to keep, 1 <= n_select <= N.
        seed: picks the first row; the same seed and features give the same picks.
        progress: called now and then as progress(done, total), in picks.

    Returns:
        (n_select,) int64 row indices in the order chosen; no row twice, and rows equal to a pick only after all others.
        The picks of a smaller `n_select` are a prefix of those of a larger one.

    Raises:
        InputError: if `features` is not finite float32 (N, D), or `n_select` is not from 1 to N.

    Cost: at most 2 * N * n_select * D floating point operations as matrix products, in practice a part of that.
        Memory beside `features`: 28 bytes per row, 4 * n_select * (D + 1) bytes, and some 30 MB of blocks.

    Source: Gonzalez 1985; Sener and Savarese 2018, Algorithm 1; Roth et al. 2022 (arXiv 2106.08265), Algorithm 1.

    >>> greedy_coreset(np.array([[0], [1], [5], [9]], np.float32), 3, seed=1)
    array([1, 3, 2])
    """
    check_array("features", features, dtype=np.float32, shape=("N", "D"), finite=False)
    _check_count("n_select", n_select, high=len(features))
    first = int(np.random.default_rng(seed).integers(len(features)))
    field = _Field(features, n_select)
    field.start(first)
    while field.n_picks < n_select:
        if progress is not None:
            progress(field.n_picks, n_select)
        top = float(field.value.max())
        if top == 0:
            field.fill()
        else:
            field.advance()
    if progress is not None:
        progress(n_select, n_select)
    return field.picks


def _check_count(name: str, value: int, *, low: int = 1, high: int) -> None:
    """Raise unless `value` is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InputError(message(name, f"a whole number from {low} to {high}", repr(value)))


class _Batch(NamedTuple):
    """The rows with the largest values, and what is needed to know when another row must come first.

    Attributes:
        rows: (B,) row indices, ascending.
        floor: the largest value outside the batch.
        first_equal: lowest row index outside the batch whose value is `floor`; N if there is none.
    """

    rows: Int64
    floor: float
    first_equal: int


class _Field:
    """The rows, the picks so far, and for each row its distance to the picks that it has seen.

    Attributes:
        features: (N, D) float32.
        value: (N,) float64, squared distance to the nearest of the picks seen; -1 for the picks themselves.
        seen: (N,) int64, how many of the picks `value` knows.
        picks: (n_select,) int64, the first `n_picks` of which are set.
    """

    def __init__(self, features: Float32, n_select: int) -> None:
        n, d = features.shape
        self.features = features
        self.value = np.full(n, np.inf)
        self.seen = np.zeros(n, np.int64)
        self.picks = np.empty(n_select, np.int64)
        self.n_picks = 0
        self._choose_frame()
        self.norm = np.empty(n)
        for block in blocks(n, _SCAN):
            self.norm[block] = np.square(self._framed(features[block]), dtype=np.float64).sum(axis=1)
        # gamma_n of Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, for any order of summation;
        # 16 terms more cover the rounding of the centring, of the half norm and of the level below.
        unit = 2.0**-24 * (d + 16)
        self.gamma = unit / (1 - unit)
        self.pick_rows = np.empty((n_select, d + 1), np.float32)
        self._product = np.empty(_TILE * _TILE, np.float32)

    def _choose_frame(self) -> None:
        """Choose the centre, and the power of two that makes the largest value about 1, in which products are taken.

        Centring keeps the rounding errors small; the scale keeps squares inside float32.
        """
        largest, total = 0.0, np.zeros(self.features.shape[1])
        for block in blocks(len(self.features), _SCAN):
            rows = self.features[block]
            largest = max(largest, float(np.abs(rows).max()))
            if not np.isfinite(rows).all():
                check_array("features", self.features, dtype=np.float32, shape=("N", "D"))
            total += rows.sum(axis=0, dtype=np.float64)
        exponent = int(np.frexp(largest)[1]) if largest > 0 else 0
        self.scale = 2.0 ** -max(-120, min(120, exponent))
        self.centre = (total / len(self.features) * self.scale).astype(np.float32)

    def _framed(self, rows: Float32) -> Float32:
        """Return `rows` scaled and centred, float32."""
        framed: Float32 = rows * np.float32(self.scale) - self.centre
        return framed

    def start(self, row: int) -> None:
        """Pick `row` first, and show it to all others."""
        for block in blocks(len(self.features), _SCAN):
            self.value[block] = _squared_distances(self.features[block], self.features[row])
        self.seen[:] = 1
        self._append(row)

    def fill(self) -> None:
        """Pick what is left by index, once every row equals a pick."""
        left = np.flatnonzero(self.value >= 0)[: len(self.picks) - self.n_picks]
        self.picks[self.n_picks :] = left
        self.n_picks = len(self.picks)

    def advance(self) -> None:
        """Bring the rows with the largest values up to date, and pick among them while no other can come first."""
        batch = self._top()
        order = batch.rows[np.argsort(self.seen[batch.rows], kind="stable")]
        for block in blocks(len(order), _TILE):
            self._refresh(order[block])
        rows = batch.rows
        while self.n_picks < len(self.picks):
            rows = rows[self.value[rows] >= batch.floor]
            if len(rows) == 0 or not self._pick_among(rows, batch):
                return

    def _top(self) -> _Batch:
        """Return the rows with the largest values, equal ones by index."""
        n = len(self.value)
        # -0.5 lies between the picks and what can be picked.
        floor = max(float(np.partition(self.value, n - _BATCH)[n - _BATCH]), -0.5) if n > _BATCH else -0.5
        above = np.flatnonzero(self.value > floor)
        equal = np.flatnonzero(self.value == floor)
        n_equal = _BATCH - len(above)
        rows = np.sort(np.concatenate([above, equal[:n_equal]]))
        return _Batch(rows, floor, int(equal[n_equal]) if len(equal) > n_equal else n)

    def _refresh(self, rows: Int64) -> None:
        """Show `rows` the picks that they have not seen; `rows` are ordered by how many they have seen."""
        if self.seen[rows[0]] == self.n_picks:
            return
        framed = self._framed_one(rows)
        for block in blocks(self.n_picks - int(self.seen[rows[0]]), _TILE):
            start = int(self.seen[rows[0]]) + block.start
            picks = slice(start, start + block.stop - block.start)
            shape = (len(rows), picks.stop - picks.start)
            product = self._product[: shape[0] * shape[1]].reshape(shape)
            np.matmul(framed, self.pick_rows[picks].T, out=product)
            self._lower(rows, picks, product)
        self.seen[rows] = self.n_picks

    def _framed_one(self, rows: Int64) -> Float32:
        """Return (n, D + 1) float32: framed rows and a 1, which meets the half norm in `pick_rows`."""
        framed = np.ones((len(rows), self.features.shape[1] + 1), np.float32)
        framed[:, :-1] = self._framed(self.features[rows])
        return framed

    def _level(self, rows: Int64, largest_norm: float) -> Float32:
        """Return what x.m - |m|^2/2 must exceed for a pick m of at most this squared norm to be nearer than `value`.

        A pair at or below the level is proven not to lower the value, rounding included.
        """
        norm, value = self.norm[rows], self.value[rows]
        error = self.gamma * np.square(np.sqrt(norm) + np.sqrt(largest_norm)) + 1e-36  # for denormal products
        level = (norm - error - value * self.scale**2) / 2
        return np.where(value > 0, level, np.inf).astype(np.float32)

    def _lower(self, rows: Int64, picks: slice, product: Float32) -> None:
        """Lower the values of `rows` by `picks`, whose (n, n_picks) `product` x.m - |m|^2/2 is overwritten."""
        of = self.picks[picks]
        largest_norm = float(self.norm[of].max())
        hit = np.flatnonzero(product.max(axis=1) > self._level(rows, largest_norm))
        if len(hit) == 0:
            return
        near, candidates = rows[hit], product[hit]
        best = candidates.argmax(axis=1)
        self._compare(near, of[best])
        candidates[np.arange(len(hit)), best] = -np.inf
        i, j = np.nonzero(candidates > self._level(near, largest_norm)[:, None])
        for block in blocks(len(i), _SCAN):
            self._compare(near[i[block]], of[j[block]])

    def _compare(self, rows: Int64, picks: Int64) -> None:
        """Lower the values of `rows` by the exact distances to `picks`, pair by pair."""
        np.minimum.at(self.value, rows, _squared_distances(self.features[rows], self.features[picks]))

    def _pick_among(self, rows: Int64, batch: _Batch) -> bool:
        """Pick up to _REVIEW times among `rows`, which have seen all picks; return whether there may be more."""
        framed = self._framed_one(rows)
        more = True
        for _ in range(min(_REVIEW, len(self.picks) - self.n_picks)):
            value = self.value[rows]
            best = int(value.argmax())
            row = int(rows[best])
            more = value[best] > batch.floor or (value[best] == batch.floor and row < batch.first_equal)
            if not more:
                break
            self._append(row)
            product = framed @ self.pick_rows[self.n_picks - 1]
            near = rows[product > self._level(rows, float(self.norm[row]))]
            near = near[near != row]
            self._compare(near, np.full(len(near), row))
        self.seen[rows] = self.n_picks
        return bool(more)

    def _append(self, row: int) -> None:
        """Make `row` the next pick."""
        self.picks[self.n_picks] = row
        self.value[row] = -1
        self.pick_rows[self.n_picks, :-1] = self._framed(self.features[row])
        self.pick_rows[self.n_picks, -1] = -self.norm[row] / 2
        self.n_picks += 1


def _squared_distances(a: Float32, b: Float32) -> Float64:
    """Return the (n,) float64 squared distances of the rows of `a` to those of `b`, or to the one row `b`.

    The sum of one row does not depend on the others, so the same pair gives the same bits wherever it is computed.
    """
    difference = np.subtract(a, b, dtype=np.float64)
    result: Float64 = np.einsum("ij,ij->i", difference, difference)
    return result
