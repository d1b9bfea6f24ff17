"""An upper bound, for each query, of how near the rows of each group of a memory bank can be, from 8-bit products.

For a query x and a bank row m, both with the bank's mean taken off, s = x.m - |m|^2 / 2 orders the rows like their
distance. A product of 8-bit integers gives s up to an error that is *bounded*, not hoped to be small: with x = x' + e
and m = m' + f (the primes rounded, e and f what was lost, their lengths known), x.m <= x'.m' + |x||f| + |e||m'| by
Cauchy and Schwarz. The product runs over the main axes of the bank only; the parts outside them add at most the
product of their lengths. Rows lie in groups of similar length, so one maximum and one bound rule out a whole group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish import runtime
from blemish._validation.checks import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Int64 = NDArray[np.int64]

_SMALLEST_SQUARE = np.float32(1e-30)
# Measured at 1,024 queries x 20,000 rows.
_GROUP_ROWS = 16
# Share of the squared length that may lie outside the product at most, how many axes more are taken as long as they
# halve it, and what share is little enough. Of clusters in noise (benchmarks/neighbors.py) 160 of 384 axes leave 2 %
# out, the next 32 hold a seventh of that, and with 304 a search takes half as long again. Of EfficientNet-Lite0's
# whitened features 160 to 192 of 232 axes leave 2 % out and 55 rows a query to measure; nearly all of them 2 to 10, and
# a search takes a half to three quarters.
_LEFT_OUT = 0.02
_MORE_AXES = 32
_LITTLE = 0.001
_AXES_ROWS = 4096
# Finding the main axes takes the cube of their number: beyond this it would take longer than it saves.
_MOST_AXES = 512
# Turning queries takes D x D products of float32 each. Where that leaves out no axis, it is done if without it this
# many times as much is rounded away: 1.1 to 1.3 times of ResNet-50's 1,536 features, whose search takes two thirds of
# the time without, and 1.0 of Gaussian noise.
_WORTH_TURNING = 1.5
_WORTH_ROWS = 256
# Shares of the groups, and of the groups' number in rows, beyond which a float32 product is faster. ResNet-50's 1,536
# features leave .2 to .8 of the groups' number to measure one by one: with 1.0 a search took up to three times as long
# as the float32 product, with .25 as long.
_TOO_MANY = (1 / 2, 1 / 4)
_BLOCKED = -(2**30)


@dataclass(frozen=True)
class Buffers:
    """One thread's workspace: fresh memory for every block costs as much as the product."""

    dots: NDArray[np.int32]
    base: Float32
    coefficients: Float32
    maxima: NDArray[np.int32]


class IntegerScores:
    """An upper bound of s for each query and group of bank rows, from a product of 8-bit integers.

    Row i * n_groups + g of the integer bank is member i of group g, so that the maximum over a group runs along
    contiguous memory. Groups are consecutive rows in order of length: they can share a scale and a bound.
    """

    def __init__(self, bank: Float32, mean: Float32) -> None:
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
        weights, self._scale, terms = _quantise(centred, rotation, members, squares, self._slack)
        self._session = _session(mean, rotation, weights, terms, self._slack)
        self.spare_buffers: list[Buffers] = []
        self.nbytes = weights.nbytes + terms.nbytes + self._scale.nbytes + 2 * self._row_of_column.nbytes

    def take_buffers(self, n_queries: int) -> Buffers:
        """Return workspace for blocks of at most `n_queries`, used before if possible."""
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
        groups = largest_columns(bounds, k)
        each = np.arange(n)[:, None]
        seeds = dots[each, :, groups].argmax(axis=2) * self.n_groups + groups
        if (buffers.dots[each, seeds] == _BLOCKED).any():
            return None
        per_scale = coefficients[:, 2]
        squares = np.square(coefficients[:, 0] / per_scale)
        with np.errstate(over="ignore"):
            limit = per_scale * lowest_score(queries, bank[self._row_of_column[seeds]], squares, self._slack)
        # Beyond what float32 holds the bound compares nothing, and would rule out everything.
        if not (np.isfinite(limit).all() and np.isfinite(base).all()):
            return None
        hits = np.flatnonzero(bounds >= limit[:, None])
        if len(hits) > n * (k + self.n_groups * _TOO_MANY[0]):
            return None
        row, group = np.divmod(hits, self.n_groups)
        members = dots[row, :, group]
        near = members * self._scale[group, None] >= (limit[row] - base[row, group])[:, None]
        # The mark of an excluded row is no bound: a query next to the mean has thresholds below it.
        hit, member = np.nonzero(near & (members != _BLOCKED))
        if len(hit) > n * (k + self.n_groups * _TOO_MANY[1]):
            return None
        return row[hit], self._row_of_column[member * self.n_groups + group[hit]]

    def _run(self, queries: Float32, buffers: Buffers) -> None:
        outputs = {name: getattr(buffers, name)[: len(queries)] for name in ("dots", "base", "coefficients")}
        self._session.run_into({"queries": queries}, outputs)


def _rotation(centred: Float32) -> Float32 | None:
    """Return (D, p) orthonormal columns: the main axes of the rows, mixed so that all are of one size.

    Axes that hold little of the squared length together are left out; the bound allows for them, and fewer columns are
    less to multiply. Mixing (a cosine transform of signs) keeps the largest value, which sets the step of the
    integers, not far above the mean. None where all axes are needed and the rows' own are mixed enough.
    """
    dim = centred.shape[1]
    axes, width = np.eye(dim), dim
    if dim <= _MOST_AXES:
        sample = centred[:: -(-len(centred) // _AXES_ROWS)].astype(np.float64)
        variances, axes = np.linalg.eigh(sample.T @ sample)
        width = _width(variances[::-1])
    places = np.arange(width)
    cosines = np.sqrt(2 / width) * np.cos(np.pi / width * (places[:, None] + 0.5) * places)
    cosines[:, 0] = np.sqrt(1 / width)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(width, 1))
    rotation: Float32 = (axes[:, dim - width :] @ (signs * cosines)).astype(np.float32)
    if width < dim:
        return rotation
    some = centred[:: -(-len(centred) // _WORTH_ROWS)]
    return None if _mean_loss(some) <= _WORTH_TURNING * _mean_loss(some @ rotation) else rotation


def _mean_loss(rows: Float32) -> float:
    """Return the mean length of what is lost of rows that are rounded to 255 levels each."""
    step = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-20)) / np.float32(127)
    return float(np.linalg.norm(rows - np.rint(rows / step) * step, axis=1).mean())


def _width(variances: NDArray[np.float64]) -> int:
    """Return how many main axes are worth their product, given the (D,) variances along all of them, largest first."""
    dim = len(variances)
    left_out = np.append(np.cumsum(variances[::-1])[::-1], 0.0)
    width = min(dim, -(-max(1, int(np.argmax(left_out <= _LEFT_OUT * left_out[0]))) // 16) * 16)
    while left_out[width] > _LITTLE * left_out[0] and left_out[min(dim, width + _MORE_AXES)] <= left_out[width] / 2:
        width = min(dim, width + 16)
    return width


def _quantise(
    centred: Float32, rotation: Float32 | None, members: Int64, squares: Float32, slack: np.float32
) -> tuple[NDArray[np.int8], Float32, Float32]:
    """Return the integer bank (p, rows by member and group), each group's scale and its four terms of the bound.

    The terms meet a query's |x|, |e|, 1 and length outside the rotation, all over the query's scale; they are the
    largest |f|, the largest |m'|, -|m|^2 / 2 of the shortest row, and the largest length outside the rotation.
    """
    n_groups, size = members.shape
    width = centred.shape[1] if rotation is None else rotation.shape[1]
    largest = _weight_limit()
    weights = np.empty((width, size, n_groups), np.int8)
    scale = np.empty(n_groups, np.float32)
    terms = np.empty((4, n_groups), np.float32)
    for part in blocks(n_groups, 128):
        rows = members[part].ravel()
        rotated = centred[rows] if rotation is None else centred[rows] @ rotation
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


def _session(
    mean: Float32, rotation: Float32 | None, weights: NDArray[np.int8], terms: Float32, slack: np.float32
) -> runtime.Session:
    """Return the graph that rotates and rounds queries, multiplies integers, and bounds what rounding lost."""
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


def _weight_limit() -> int:
    """Return the largest integer that a bank row may hold here: 127, or 63 where sums of two products saturate.

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
