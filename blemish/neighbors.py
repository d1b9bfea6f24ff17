"""Exact nearest neighbours of feature vectors in a memory bank.

For a query x and a bank row m, both with the bank's mean taken off, s = x.m - |m|^2 / 2 orders the rows like their
distance. A product of 8-bit integers gives s up to an error that is *bounded*, not hoped to be small: with x = x' + e
and m = m' + f (the primes rounded, e and f what was lost, their lengths known), x.m <= x'.m' + |x||f| + |e||m'| by
Cauchy and Schwarz. Rows lie in groups of similar length, so one maximum and one bound rule out a whole group. What is
left, a few rows a query, is measured directly in float64; so the answer is that of brute force.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.arrays import blocks, check_array
from blemish.errors import InputError, message
from blemish.records import Bool, Float32, Float64, Int64, Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Squares of larger numbers come near the end of float32.
_LARGEST = 1e15
_SMALLEST_SQUARE = np.float32(1e-30)
# Measured at 1,024 queries x 20,000 rows: 16 rows a group and 64 queries a block (its scores stay in cache) are best.
_GROUP_ROWS = 16
_BLOCK_SCORES = 64 * 20_000
_BLOCK_QUERIES = (16, 128)
_PAIR_VALUES = 1 << 16
# Share of the squared length that may lie outside the product. On features of EfficientNet-Lite0 (152 channels, a
# k-center bank of 20,000) 2 % leaves 96 axes and 6 rows a query to measure, 0.3 % 128 and 3, 4 % 64 and 16.
_LEFT_OUT = 0.02
_AXES_ROWS = 4096
# Finding the main axes takes the cube of their number.
_MOST_AXES = 768
# Below this many rows the float32 product is as fast.
_MIN_INTEGER_ROWS = 1024
_BLOCKED = -(2**30)


class MemoryIndex:
    """The rows of a memory bank, ready to be searched for nearest neighbours.

    Distances are Euclidean, summed in float64 over the differences themselves: a query that equals a bank row has
    distance 0. Searching changes nothing: threads may share one index.

    Args:
        memory_bank: (n, D) float32, finite, within +-1e15, one row per patch. Kept, not copied: leave it as it is.

    Raises:
        InputError: if `memory_bank` is not such an array with at least one row.
    """

    def __init__(self, memory_bank: Float32) -> None:
        self._bank: Float32 = np.ascontiguousarray(_check_rows("memory_bank", memory_bank, "n", "D"))
        # Distances do not change with the origin; rounding errors are smallest around the mean.
        self._mean: Float32 = self._bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._coarse = _IntegerScores(self._bank, self._mean) if self.n_rows >= _MIN_INTEGER_ROWS else None

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
        """Bytes that the index holds, the bank included."""
        return self._bank.nbytes + self._mean.nbytes + (0 if self._coarse is None else self._coarse.nbytes)

    def search(self, queries: Float32, n_neighbors: int = 1, *, exclude: Bool | None = None) -> Neighbors:
        """Return the `n_neighbors` nearest bank rows of each query, nearest first, equally near ones by index.

        Args:
            queries: (Q, D) float32, finite, within +-1e15; Q may be 0.
            n_neighbors: how many, from 1 to the number of rows that are not excluded.
            exclude: (n,) bool, True for bank rows that must not be found. Costs no rebuild of the index.

        Raises:
            InputError: if `queries` or `exclude` has another dtype or shape, or there are fewer rows than asked for.

        Cost: one product of 8-bit integers, Q x n x D, on all cores; a float32 product where so many rows are
            equally near that the 8-bit bound rules out too few.
        """
        rows = np.ascontiguousarray(_check_rows("queries", queries, "Q", self.dim))
        excluded = self._check_excluded(n_neighbors, exclude)
        found = Neighbors(np.empty((len(rows), n_neighbors), np.float32), np.empty((len(rows), n_neighbors), np.int64))
        left = self._search_integer(rows, n_neighbors, excluded, self._blocks(len(rows)), found)
        self._search_float(rows, n_neighbors, excluded, left, found)
        return found

    def _blocks(self, n_queries: int) -> list[slice]:
        least, most = _BLOCK_QUERIES
        return list(blocks(n_queries, max(least, min(most, _BLOCK_SCORES // self.n_rows))))

    def _check_excluded(self, n_neighbors: int, exclude: Bool | None) -> Int64:
        """Return the rows that must not be found, or raise if too few others are left."""
        excluded = np.empty(0, np.int64)
        if exclude is not None:
            excluded = np.flatnonzero(check_array("exclude", exclude, dtype=np.bool_, shape=(self.n_rows,)))
        if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, (int, np.integer)) or n_neighbors < 1:
            raise InputError(message("n_neighbors", "an integer of at least 1", repr(n_neighbors)))
        n_allowed = self.n_rows - len(excluded)
        if n_neighbors > n_allowed:
            got = f"{n_neighbors} with {n_allowed} of {self.n_rows} bank rows allowed"
            todo = "Ask for fewer neighbours, or build the bank from more pictures."
            raise InputError(message("n_neighbors", f"at most {n_allowed}", got, todo=todo))
        return excluded

    def _search_integer(
        self, queries: Float32, k: int, excluded: Int64, todo: list[slice], found: Neighbors
    ) -> list[slice]:
        """Fill `found` for the blocks in which the bound rules out enough; return the others."""
        coarse = self._coarse
        if coarse is None or not todo or 4 * k > coarse.n_groups:
            return todo
        left: list[slice] = []
        n_threads = min(_n_cores(), len(todo))
        waiting = iter(todo)

        def work(_: int) -> None:
            buffers = coarse.buffers(todo[0].stop)
            for block in waiting:
                # Where one block gains nothing the others will not either.
                pairs = None if left else coarse.candidates(queries[block], self._bank, k, excluded, buffers)
                if pairs is None:
                    left.append(block)
                else:
                    found.distances[block], found.indices[block] = _best_of_pairs(queries[block], self._bank, *pairs, k)

        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(work, range(n_threads)))
        return left

    def _search_float(self, queries: Float32, k: int, excluded: Int64, todo: list[slice], found: Neighbors) -> None:
        """Fill `found` for these blocks by a float32 product, with the same care for its rounding."""
        if not todo:
            return
        bank = self._bank - self._mean
        slack = np.float32(4 * (self.dim + 8)) * np.finfo(np.float32).eps
        half = 0.5 * np.einsum("ij,ij->i", bank, bank) * (1 - slack)
        for block in todo:
            rows = queries[block] - self._mean
            squares = np.einsum("ij,ij->i", rows, rows)
            scores = rows @ bank.T
            scores -= half
            scores[:, excluded] = -np.inf
            seeds = _largest(scores, k)
            limit = _limit(queries[block], self._bank[seeds], squares, slack)
            pairs = np.divmod(np.flatnonzero(scores >= limit[:, None]), self.n_rows)
            found.distances[block], found.indices[block] = _best_of_pairs(queries[block], self._bank, *pairs, k)


@dataclass(frozen=True)
class _Buffers:
    """One thread's workspace: fresh memory for every block costs as much as the product."""

    dots: NDArray[np.int32]
    base: Float32
    coefficients: Float32
    maxima: NDArray[np.int32]


class _IntegerScores:
    """An upper bound of s for each query and group of bank rows, from a product of 8-bit integers.

    Row i * n_groups + g of the integer bank is member i of group g, so that the maximum over a group runs along
    contiguous memory. Groups are consecutive rows in order of length: they can share a scale and a bound.
    """

    def __init__(self, bank: Float32, mean: Float32) -> None:
        n, dim = bank.shape
        centred = bank - mean
        squares: Float32 = np.einsum("ij,ij->i", centred, centred)
        rotation = _rotation(centred)
        self.width = rotation.shape[1]
        self.n_groups = -(-n // _GROUP_ROWS)
        n_padding = self.n_groups * _GROUP_ROWS - n
        order = np.argsort(squares, kind="stable")
        members = np.append(order, np.repeat(order[-1:], n_padding)).reshape(self.n_groups, _GROUP_ROWS)
        self._row_of_column: Int64 = members.T.ravel()
        self._column_of_row = np.empty(n, np.int64)
        real = np.ones(self.n_groups * _GROUP_ROWS, np.bool_)
        real.reshape(_GROUP_ROWS, self.n_groups)[_GROUP_ROWS - n_padding :, -1] = False
        self._column_of_row[self._row_of_column[real]] = np.flatnonzero(real)
        self._padding = np.flatnonzero(~real)
        # Rounding of two float32 products of `dim` terms each, summed in any order: Higham 2002, section 3.1.
        self._slack = np.float32(2 * (np.sqrt(dim) + 1) * (dim + 8)) * np.finfo(np.float32).eps
        weights, self._scale, terms = _quantise(centred, rotation, members, squares, self._slack)
        self._session = _session(mean, rotation, weights, terms, self._slack)
        self.nbytes = weights.nbytes + terms.nbytes + self._scale.nbytes + 2 * self._row_of_column.nbytes

    def buffers(self, n_queries: int) -> _Buffers:
        """Return workspace for blocks of at most `n_queries`."""
        return _Buffers(
            np.empty((n_queries, self.n_groups * _GROUP_ROWS), np.int32),
            np.empty((n_queries, self.n_groups), np.float32),
            np.empty((n_queries, 4), np.float32),
            np.empty((n_queries, self.n_groups), np.int32),
        )

    def candidates(
        self, queries: Float32, bank: Float32, k: int, excluded: Int64, buffers: _Buffers
    ) -> tuple[Int64, Int64] | None:
        """Return all pairs (query, bank row) that may be among the k nearest, by query; None if they are too many."""
        n = len(queries)
        base, coefficients = buffers.base[:n], buffers.coefficients[:n]
        dots = buffers.dots[:n].reshape(n, _GROUP_ROWS, self.n_groups)
        self._run(queries, buffers)
        for columns in (self._padding, self._column_of_row[excluded]):
            buffers.dots[:n, columns] = _BLOCKED
        maxima = np.maximum.reduce(dots, axis=1, out=buffers.maxima[:n])
        bounds = np.multiply(maxima, self._scale, dtype=np.float32, casting="unsafe")
        bounds += base
        groups = _largest(bounds, k)
        each = np.arange(n)[:, None]
        seeds = dots[each, :, groups].argmax(axis=2) * self.n_groups + groups
        if (buffers.dots[each, seeds] == _BLOCKED).any():
            return None
        per_scale = coefficients[:, 2]
        squares = np.square(coefficients[:, 0] / per_scale)
        limit = per_scale * _limit(queries, bank[self._row_of_column[seeds]], squares, self._slack)
        hits = np.flatnonzero(bounds >= limit[:, None])
        if len(hits) > n * (k + self.n_groups // 16):
            return None
        row, group = np.divmod(hits, self.n_groups)
        near = dots[row, :, group] * self._scale[group, None] >= (limit[row] - base[row, group])[:, None]
        hit, member = np.nonzero(near)
        if len(hit) > n * (k + self.n_groups // 4):
            return None
        return row[hit], self._row_of_column[member * self.n_groups + group[hit]]

    def _run(self, queries: Float32, buffers: _Buffers) -> None:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        binding.bind_ortvalue_input("queries", OrtValue.ortvalue_from_numpy(queries))
        for name in ("dots", "base", "coefficients"):
            array = getattr(buffers, name)[: len(queries)]
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(binding)


def _rotation(centred: Float32) -> Float32:
    """Return (D, p) orthonormal columns: the main axes of the rows, mixed so that all are of one size.

    Axes that hold 2 % of the squared length together are left out; the bound allows for them, and fewer columns are
    less to multiply. Mixing (a cosine transform of signs) keeps the largest value, which sets the step of the
    integers, not far above the mean.
    """
    dim = centred.shape[1]
    axes, width = np.eye(dim), dim
    if dim <= _MOST_AXES:
        sample = centred[:: -(-len(centred) // _AXES_ROWS)].astype(np.float64)
        variances, axes = np.linalg.eigh(sample.T @ sample)
        left_out = np.searchsorted(np.cumsum(variances), _LEFT_OUT * variances.sum(), side="right")
        width = min(dim, -(-max(1, dim - int(left_out)) // 16) * 16)
    places = np.arange(width)
    cosines = np.sqrt(2 / width) * np.cos(np.pi / width * (places[:, None] + 0.5) * places)
    cosines[:, 0] = np.sqrt(1 / width)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(width, 1))
    rotation: Float32 = (axes[:, dim - width :] @ (signs * cosines)).astype(np.float32)
    return rotation


def _quantise(
    centred: Float32, rotation: Float32, members: Int64, squares: Float32, slack: np.float32
) -> tuple[NDArray[np.int8], Float32, Float32]:
    """Return the integer bank (p, rows by member and group), each group's scale and its four terms of the bound.

    The terms meet a query's |x|, |e|, 1 and length outside the rotation, all over the query's scale; they are the
    largest |f|, the largest |m'|, -|m|^2 / 2 of the shortest row, and the largest length outside the rotation.
    """
    n_groups, size = members.shape
    width = rotation.shape[1]
    largest = _weight_limit()
    weights = np.empty((width, size, n_groups), np.int8)
    scale = np.empty(n_groups, np.float32)
    terms = np.empty((4, n_groups), np.float32)
    for part in blocks(n_groups, 128):
        rows = members[part].ravel()
        rotated = centred[rows] @ rotation
        lengths = np.einsum("ij,ij->i", rotated, rotated)
        outside = np.sqrt(np.maximum(squares[rows] - lengths, 0) + slack * squares[rows])
        rotated = rotated.reshape(-1, size, width)
        step = np.maximum(np.abs(rotated).max(axis=(1, 2)), np.float32(1e-20)) / np.float32(largest)
        integers = np.rint(rotated / step[:, None, None])
        rotated -= integers * step[:, None, None]
        terms[0, part] = np.sqrt(np.einsum("gij,gij->gi", rotated, rotated).max(axis=1))
        terms[1, part] = np.sqrt(np.einsum("gij,gij->gi", integers, integers).max(axis=1)) * step
        terms[2, part] = -0.5 * (1 - slack) * squares[members[part]].min(axis=1)
        terms[3, part] = outside.reshape(-1, size).max(axis=1)
        scale[part] = step
        weights[:, :, part] = integers.transpose(2, 1, 0)
    return weights.reshape(width, size * n_groups), scale, terms


def _session(mean: Float32, rotation: Float32, weights: NDArray[np.int8], terms: Float32, slack: np.float32) -> Any:
    """Return the graph that rotates and rounds queries, multiplies integers, and bounds what rounding lost."""
    from onnx import TensorProto, helper

    def node(op: str, inputs: str, output: str, **attributes: int | list[int]) -> Any:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    nodes = [
        node("Sub", "queries mean", "centred"),
        node("MatMul", "centred rotation", "rotated"),
        node("Abs", "rotated", "sizes"),
        node("ReduceMax", "sizes", "size", axes=[1]),
        node("Max", "size smallest", "size_or_smallest"),
        node("Div", "size_or_smallest levels", "step"),
        node("Div", "rotated step", "scaled"),
        node("Round", "scaled", "rounded"),
        node("Add", "rounded middle", "shifted"),
        node("Cast", "shifted", "integers", to=TensorProto.UINT8),
        node("MatMulInteger", "integers weights zero_point", "dots"),
        node("Sub", "scaled rounded", "lost"),
        node("ReduceSumSquare", "lost", "lost_square", axes=[1]),
        node("Sqrt", "lost_square", "lost_length"),
        node("ReduceSumSquare", "centred", "square", axes=[1]),
        node("Sqrt", "square", "length"),
        node("Div", "length step", "length_scaled"),
        node("ReduceSumSquare", "rotated", "square_inside", axes=[1]),
        node("Sub", "square square_inside", "difference"),
        node("Max", "difference zero", "square_outside"),
        node("Mul", "square slack", "rounding"),
        node("Add", "square_outside rounding", "square_outside_or_rounding"),
        node("Sqrt", "square_outside_or_rounding", "outside"),
        node("Div", "outside step", "outside_scaled"),
        node("Reciprocal", "step", "per_step"),
        node("Concat", "length_scaled lost_length per_step outside_scaled", "coefficients", axis=1),
        node("MatMul", "coefficients terms", "base"),
    ]
    constants = {
        "mean": mean,
        "rotation": rotation,
        "weights": weights,
        "terms": terms,
        "slack": np.float32(slack),
        "smallest": np.float32(1e-20),
        "zero": np.float32(0),
        "levels": np.float32(127),
        "middle": np.float32(128),
        "zero_point": np.uint8(128),
    }
    outputs = {"dots": TensorProto.INT32, "base": TensorProto.FLOAT, "coefficients": TensorProto.FLOAT}
    return _load(nodes, {"queries": TensorProto.FLOAT}, outputs, constants)


def _weight_limit() -> int:
    """Return the largest integer that a bank row may hold here: 127, or 63 where sums of two products saturate.

    x86 processors without VNNI add two products of uint8 and int8 in 16 bits: 2 * 255 * 127 does not fit,
    2 * 255 * 63 does.
    """
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    weights = np.full((64, 64), 127, np.int8)
    session = _load([node], {"a": TensorProto.UINT8}, {"c": TensorProto.INT32}, {"b": weights})
    (product,) = session.run(None, {"a": np.full((64, 64), 255, np.uint8)})
    return 127 if (product == 64 * 255 * 127).all() else 63


def _load(nodes: list[Any], inputs: dict[str, int], outputs: dict[str, int], constants: dict[str, Any]) -> Any:
    """Return a session that runs in the calling thread, so that threads can share it."""
    from onnx import helper, numpy_helper
    from onnxruntime import InferenceSession, SessionOptions

    graph = helper.make_graph(
        nodes,
        "neighbors",
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    # Opset 13 and IR 8 are read by every onnxruntime that the package allows.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_rows(name: str, rows: object, count: int | str, dim: int | str) -> Float32:
    """Return `rows` if they are finite float32 whose squares are finite too, or raise."""
    checked: Float32 = check_array(name, rows, dtype=np.float32, shape=(count, dim), empty=count == "Q")
    if checked.size and max(checked.max(), -checked.min()) > _LARGEST:
        raise InputError(message(name, f"values from {-_LARGEST:g} to {_LARGEST:g}", f"{np.abs(checked).max():g}"))
    return checked


def _largest(values: Float32, k: int) -> NDArray[np.intp]:
    """Return (n, k) column indices of the k largest of each row, in no order."""
    if k == 1:
        best: NDArray[np.intp] = values.argmax(axis=1)[:, None]
        return best
    return np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]


def _limit(queries: Float32, seeds: Float32, squares: Float32, slack: np.float32) -> Float32:
    """Return what the bound of s must reach for a row to be as near as the farthest of a query's (k, D) seeds.

    Args:
        queries: (n, D).
        seeds: (n, k, D) bank rows.
        squares: (n,) squared length of the centred queries.
        slack: relative rounding error to allow for.
    """
    difference = queries[:, None] - seeds
    farthest = np.einsum("nkd,nkd->nk", difference, difference).max(axis=1)
    limit: Float32 = 0.5 * (squares - farthest) - slack * (squares + farthest) - _SMALLEST_SQUARE
    return limit


def _best_of_pairs(
    queries: Float32, bank: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp], k: int
) -> tuple[Float32, Int64]:
    """Return the k nearest of the pairs (query row, bank column) of each query; `rows` is sorted, k or more of each."""
    squares: Float64 = np.empty(len(rows), np.float64)
    for part in blocks(len(rows), max(1, _PAIR_VALUES // queries.shape[1])):
        # A float32 difference is off by 6e-8 of itself at most, so only the sum needs float64.
        difference = bank.take(columns[part], axis=0)
        difference -= queries.take(rows[part], axis=0)
        wide = difference.astype(np.float64)
        np.einsum("ij,ij->i", wide, wide, out=squares[part])
    distances = np.sqrt(squares).astype(np.float32)
    order = np.lexsort((columns, distances, rows))
    first = np.searchsorted(rows, np.arange(len(queries)))
    best = order[first[:, None] + np.arange(k)]
    return distances[best], columns[best].astype(np.int64)
