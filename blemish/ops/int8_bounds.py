"""Upper bounds of query-row scores from 8-bit integer products: pruning for exact nearest-neighbor search.

For a query x and a bank row m, both less the bank's mean, s = x.m - |m|^2 / 2 orders the rows like their distance. A
product of 8-bit integers gives s up to a proved error: with x = x' + e and m = m' + f (primes quantised, e and f the
quantisation errors, their lengths known), x.m <= x'.m' + |x||f| + |e||m'| by the Cauchy-Schwarz inequality. The product
runs over the principal axes of the bank only; the components outside them add at most the product of their lengths.
Rows lie in groups of similar length, so one maximum and one bound rule out a whole group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish import runtime
from blemish._validation.checks import blocks

if TYPE_CHECKING:
    Float32 = NDArray[np.float32]
    Int64 = NDArray[np.int64]

_SMALLEST_SQUARE = np.float32(1e-30)
# Measured at 1,024 queries x 20,000 rows.
_GROUP_ROWS = 16
# Axes are dropped that hold at most this share of the squared length; more are kept as long as _MORE_AXES of them halve
# the rest, until that is negligible. Of clusters in noise (benchmarks/neighbors.py) 160 of 384 axes drop 2 %, the next
# 32 hold a seventh of that, and with 304 a search takes half as long again. Of EfficientNet-Lite0's whitened features
# 160 to 192 of 232 axes drop 2 % and leave 55 rows a query to measure; with nearly all axes 2 to 10, and a search
# takes a half to three quarters of the time.
_MAX_DROPPED = 0.02
_MORE_AXES = 32
_NEGLIGIBLE = 0.001
_AXES_ROWS = 4096
# The eigendecomposition takes the cube of the number of axes: beyond this it takes longer than it saves.
_MAX_AXES = 512
# Rotating queries takes D x D products of float32 each. A rotation that drops no axis is used only if the quantisation
# error without it is this many times as large: 1.1 to 1.3 times for ResNet-50's 1,536 features, whose search takes two
# thirds of the time without it, and 1.0 for Gaussian noise.
_WORTH_ROTATING = 1.5
_WORTH_ROWS = 256
# Candidates beyond which a float32 product is faster: groups as a share of all groups, and rows as a share of that
# number. ResNet-50's 1,536 features leave .2 to .8 of it to measure one by one: with a limit of 1.0 a search took up to
# three times as long as the float32 product, with .25 as long.
MAX_CANDIDATES = (1 / 2, 1 / 4)
_BLOCKED = -(2**30)


@dataclass(frozen=True)
class Buffers:
    """Workspace of one thread: allocating it for every block costs as much as the product."""

    dots: NDArray[np.int32]
    base: Float32
    coefficients: Float32
    maxima: NDArray[np.int32]


class IntegerScores:
    """An upper bound of s for each query and group of bank rows, from a product of 8-bit integers.

    Row i * n_groups + g of the integer bank is member i of group g, so that the maximum over a group runs along
    contiguous memory. Groups are consecutive rows in order of length: they can share a scale and a bound.

    Args:
        bank: (n, D) float32.
        mean: (D,) float32, of the bank.
        weight_limit: largest 8-bit value of a bank row; None for the largest that this processor multiplies exactly.
    """

    def __init__(
        self,
        bank: Float32,
        mean: Float32,
        *,
        weight_limit: int | None = None,
        max_candidates: tuple[float, float] = MAX_CANDIDATES,
    ) -> None:
        n, dim = bank.shape
        centred = bank - mean
        squares: Float32 = np.einsum("ij,ij->i", centred, centred)
        rotation = _rotation(centred)
        self.width = dim if rotation is None else rotation.shape[1]
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
        self._max_candidates = max_candidates
        limit = exact_weight_limit() if weight_limit is None else weight_limit
        weights, self._scale, terms = _quantise(centred, rotation, members, squares, slack=self._slack, limit=limit)
        self._session = _session(mean, rotation, weights, terms, self._slack)
        self.spare_buffers: list[Buffers] = []
        self.nbytes = weights.nbytes + terms.nbytes + self._scale.nbytes + 2 * self._row_of_column.nbytes

    def take_buffers(self, n_queries: int) -> Buffers:
        """Return workspace for blocks of at most `n_queries`, reused if possible."""
        try:
            buffers = self.spare_buffers.pop()
        except IndexError:
            buffers = None
        if buffers is None or len(buffers.dots) < n_queries:
            buffers = Buffers(
                np.empty((n_queries, self.n_groups * _GROUP_ROWS), np.int32),
                np.empty((n_queries, self.n_groups), np.float32),
                np.empty((n_queries, 4), np.float32),
                np.empty((n_queries, self.n_groups), np.int32),
            )
        return buffers

    def candidates(
        self, queries: Float32, bank: Float32, k: int, excluded: Int64, buffers: Buffers
    ) -> tuple[Int64, Int64] | None:
        """Return all pairs (query, bank row) that may be among the k nearest, by query.

        None if they are more than `max_candidates`: a float32 product is faster then.
        """
        n = len(queries)
        base, coefficients = buffers.base[:n], buffers.coefficients[:n]
        dots = buffers.dots[:n].reshape(n, _GROUP_ROWS, self.n_groups)
        self._run(queries, buffers)
        for columns in (self._padding, self._column_of_row[excluded]):
            buffers.dots[:n, columns] = _BLOCKED
        maxima = np.maximum.reduce(dots, axis=1, out=buffers.maxima[:n])
        bounds = np.multiply(maxima, self._scale, dtype=np.float32, casting="unsafe")
        bounds += base
        groups = largest_columns(bounds, k)
        each = np.arange(n)[:, None]
        seeds = dots[each, :, groups].argmax(axis=2) * self.n_groups + groups
        if (buffers.dots[each, seeds] == _BLOCKED).any():
            return None
        per_scale = coefficients[:, 2]
        squares = np.square(coefficients[:, 0] / per_scale)
        with np.errstate(over="ignore"):
            limit = per_scale * lowest_score(queries, bank[self._row_of_column[seeds]], squares, self._slack)
        # An infinite or NaN bound would rule out every row.
        if not (np.isfinite(limit).all() and np.isfinite(base).all()):
            return None
        hits = np.flatnonzero(bounds >= limit[:, None])
        if len(hits) > n * (k + self.n_groups * self._max_candidates[0]):
            return None
        row, group = np.divmod(hits, self.n_groups)
        members = dots[row, :, group]
        near = members * self._scale[group, None] >= (limit[row] - base[row, group])[:, None]
        # _BLOCKED marks excluded rows and is no bound: a query near the mean has thresholds below it.
        hit, member = np.nonzero(near & (members != _BLOCKED))
        if len(hit) > n * (k + self.n_groups * self._max_candidates[1]):
            return None
        return row[hit], self._row_of_column[member * self.n_groups + group[hit]]

    def _run(self, queries: Float32, buffers: Buffers) -> None:
        outputs = {name: getattr(buffers, name)[: len(queries)] for name in ("dots", "base", "coefficients")}
        self._session.run_into({"queries": queries}, outputs)


def _rotation(centred: Float32) -> Float32 | None:
    """Return (D, p) orthonormal columns: the principal axes of the rows, mixed to equal magnitudes; or None.

    Axes that hold little of the squared length are dropped: the product is smaller, and the bound allows for them.
    Mixing (a cosine transform with random signs) keeps the largest value, which sets the quantisation step, not far
    above the mean. None where all axes are needed and a rotation would gain little.
    """
    dim = centred.shape[1]
    axes, width = np.eye(dim), dim
    if dim <= _MAX_AXES:
        sample = centred[:: -(-len(centred) // _AXES_ROWS)].astype(np.float64)
        variances, axes = np.linalg.eigh(sample.T @ sample)
        width = _width(variances[::-1])
    index = np.arange(width)
    cosines = np.sqrt(2 / width) * np.cos(np.pi / width * (index[:, None] + 0.5) * index)
    cosines[:, 0] = np.sqrt(1 / width)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(width, 1))
    rotation: Float32 = (axes[:, dim - width :] @ (signs * cosines)).astype(np.float32)
    if width < dim:
        return rotation
    rows = centred[:: -(-len(centred) // _WORTH_ROWS)]
    is_worth = _quantisation_error(rows) > _WORTH_ROTATING * _quantisation_error(rows @ rotation)
    return rotation if is_worth else None


def _quantisation_error(rows: Float32) -> float:
    """Return the mean length of the errors of rows that are quantised to 255 levels each."""
    step = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-20)) / np.float32(127)
    return float(np.linalg.norm(rows - np.rint(rows / step) * step, axis=1).mean())


def _width(variances: NDArray[np.float64]) -> int:
    """Return the number of principal axes to keep, given the (D,) variances along all of them, largest first."""
    dim = len(variances)
    dropped = np.append(np.cumsum(variances[::-1])[::-1], 0.0)
    width = min(dim, -(-max(1, int(np.argmax(dropped <= _MAX_DROPPED * dropped[0]))) // 16) * 16)
    while dropped[width] > _NEGLIGIBLE * dropped[0] and dropped[min(dim, width + _MORE_AXES)] <= dropped[width] / 2:
        width = min(dim, width + 16)
    return width


def _quantise(
    centred: Float32, rotation: Float32 | None, members: Int64, squares: Float32, *, slack: np.float32, limit: int
) -> tuple[NDArray[np.int8], Float32, Float32]:
    """Return the integer bank (p, rows by member and group), each group's scale and its four terms of the bound.

    The terms are multiplied with a query's |x|, |e|, 1 and length outside the rotation, all over the query's scale.
    They are the largest |f|, the largest |m'|, -|m|^2 / 2 of the shortest row, and the largest length outside the
    rotation.
    """
    n_groups, size = members.shape
    width = centred.shape[1] if rotation is None else rotation.shape[1]
    weights = np.empty((width, size, n_groups), np.int8)
    scale = np.empty(n_groups, np.float32)
    terms = np.empty((4, n_groups), np.float32)
    for part in blocks(n_groups, 128):
        rows = members[part].ravel()
        rotated = centred[rows] if rotation is None else centred[rows] @ rotation
        lengths = np.einsum("ij,ij->i", rotated, rotated)
        outside = np.sqrt(np.maximum(squares[rows] - lengths, 0) + slack * squares[rows])
        rotated = rotated.reshape(-1, size, width)
        step = np.maximum(np.abs(rotated).max(axis=(1, 2)), np.float32(1e-20)) / np.float32(limit)
        integers = np.rint(rotated / step[:, None, None])
        rotated -= integers * step[:, None, None]
        terms[0, part] = np.sqrt(np.einsum("gij,gij->gi", rotated, rotated).max(axis=1))
        terms[1, part] = np.sqrt(np.einsum("gij,gij->gi", integers, integers).max(axis=1)) * step
        terms[2, part] = -0.5 * (1 - slack) * squares[members[part]].min(axis=1)
        terms[3, part] = outside.reshape(-1, size).max(axis=1)
        scale[part] = step
        weights[:, :, part] = integers.transpose(2, 1, 0)
    return weights.reshape(width, size * n_groups), scale, terms


def _session(
    mean: Float32, rotation: Float32 | None, weights: NDArray[np.int8], terms: Float32, slack: np.float32
) -> runtime.Session:
    """Return the graph that rotates and quantises queries, multiplies integers, and bounds the quantisation error."""
    from onnx import TensorProto, helper

    def node(op: str, inputs: str, output: str, **attributes: int | list[int]) -> Any:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    nodes = [
        node("Sub", "queries mean", "centred"),
        node("Identity", "centred", "rotated") if rotation is None else node("MatMul", "centred rotation", "rotated"),
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
        "weights": weights,
        "terms": terms,
        "slack": np.float32(slack),
        "smallest": np.float32(1e-20),
        "zero": np.float32(0),
        "levels": np.float32(127),
        "middle": np.float32(128),
        "zero_point": np.uint8(128),
    } | ({} if rotation is None else {"rotation": rotation})
    outputs = {"dots": TensorProto.INT32, "base": TensorProto.FLOAT, "coefficients": TensorProto.FLOAT}
    return load_products(nodes, {"queries": TensorProto.FLOAT}, outputs, constants)


def exact_weight_limit() -> int:
    """Return the largest 8-bit weight that this processor multiplies exactly: 127, or 63 where two products saturate.

    x86 processors without VNNI add two products of uint8 and int8 in 16 bits: 2 * 255 * 127 does not fit,
    2 * 255 * 63 does.
    """
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    weights = np.full((64, 64), 127, np.int8)
    session = load_products([node], {"a": TensorProto.UINT8}, {"c": TensorProto.INT32}, {"b": weights})
    product = session.run(np.full((64, 64), 255, np.uint8))["c"]
    return 127 if (product == 64 * 255 * 127).all() else 63


def load_products(
    nodes: list[Any], inputs: dict[str, int], outputs: dict[str, int], constants: dict[str, Any]
) -> runtime.Session:
    """Return a session that runs in the calling thread, so that threads can share it."""
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "neighbors",
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    # Opset 13 and IR 8 are read by every onnxruntime that the package allows.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return runtime.load(model, threads=1)


def largest_columns(values: Float32, k: int) -> NDArray[np.intp]:
    """Return (n, k) column indices of the k largest of each row, in no order."""
    if k == 1:
        best: NDArray[np.intp] = values.argmax(axis=1)[:, None]
        return best
    return np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]


def lowest_score(queries: Float32, seeds: Float32, squares: Float32, slack: np.float32) -> Float32:
    """Return the least s of a row that is as near as the farthest of a query's (k, D) seeds.

    Args:
        queries: (n, D).
        seeds: (n, k, D) bank rows.
        squares: (n,) squared length of the centred queries.
    """
    difference = queries[:, None] - seeds
    farthest = np.einsum("nkd,nkd->nk", difference, difference).max(axis=1)
    limit: Float32 = 0.5 * (squares - farthest) - slack * (squares + farthest) - _SMALLEST_SQUARE
    return limit
