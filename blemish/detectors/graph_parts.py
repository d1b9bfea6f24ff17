"""The arithmetic of prediction as ONNX nodes, for export: z-scores, tail probabilities and anomaly maps.

Each function is the twin of one of `ops` or `imaging`, for a batch of images, in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from onnx import TensorProto

from blemish.ops.distance_statistics import GAIN_QUANTILE, MAX_GAIN, least_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from blemish._graphs.builder import Graph
    from blemish.ops.distance_statistics import DistanceStatistics
    from blemish.ops.tail_probability import Tail
    from blemish.types import Float32

TINY = float(np.finfo(np.float32).tiny)


class ScoreTensors(NamedTuple):
    """The tensors of a detector's part of an exported graph.

    Attributes:
        score: (B,) float32, the image score.
        network_map: (B, h, w) float32, the anomaly map at the size of the network's input.
    """

    score: str
    network_map: str


def z_scores(graph: Graph, name: str, distances: str, statistics: DistanceStatistics) -> str:
    """Return the z-scores of (B, h, w) distances: `DistanceStatistics.z_scores`."""

    def standardised(mean: str, deviation: str, values: tuple[Float32, Float32]) -> str:
        centred = graph.add("Sub", [distances, graph.weight(f"{name}.distance.{mean}", values[0])])
        return graph.add("Div", [centred, graph.weight(f"{name}.distance.{deviation}", values[1])])

    if statistics.gain_reference.any():
        distances = _gain_normalised(graph, name, distances, statistics.gain_reference)
    scores = standardised("mean", "deviation", (statistics.mean, statistics.standard_deviation))
    if statistics.border_mean is not None and statistics.border_deviation is not None:
        border = statistics.border_mean, statistics.border_deviation
        scores = graph.add("Min", [scores, standardised("border_mean", "border_deviation", border)])
    return graph.add("Relu", [scores])


def _gain_normalised(graph: Graph, name: str, distances: str, reference: Float32) -> str:
    """Return (B, h, w) distances over their gain: a quantile, interpolated, of distances over reference."""
    position = GAIN_QUANTILE * (reference.size - 1)
    low = int(position)
    ratios = graph.add("Div", [distances, graph.weight(f"{name}.distance.gain_reference", least_reference(reference))])
    rows = graph.add("Reshape", [ratios, graph.integers(0, -1)])
    negated, _ = largest(graph, graph.add("Neg", [rows]), min(low + 2, reference.size))
    rising = graph.add("Neg", [negated])
    first, last = _column(graph, rising, low), _column(graph, rising, min(low + 1, reference.size - 1))
    step = graph.add("Mul", [graph.add("Sub", [last, first]), graph.number(position - low)])
    gain = graph.add("Clip", [graph.add("Add", [first, step]), graph.number(1.0), graph.number(MAX_GAIN)])
    return graph.add("Div", [distances, graph.add("Reshape", [gain, graph.integers(-1, 1, 1)])])


def largest(graph: Graph, rows: str, k: int) -> tuple[str, str]:
    """Return the (B, k) largest values of each row of a (B, n) tensor, falling, and their indices."""
    values, indices = graph.add_several("TopK", [rows, graph.integers(k)], 2, axis=1)
    return values, indices


def _column(graph: Graph, x: str, index: int) -> str:
    """Return column `index` of a (B, n) tensor, (B, 1)."""
    return graph.add("Gather", [x, graph.integers(index)], axis=1)


def mean_of_largest(graph: Graph, maps: str, n_largest: int) -> str:
    """Return (B,), the mean of the largest values of each (B, h, w) map."""
    if n_largest == 1:
        return graph.reduce("ReduceMax", maps, 1, 2)
    values, _ = largest(graph, graph.add("Reshape", [maps, graph.integers(0, -1)]), n_largest)
    return graph.reduce("ReduceMean", values, 1)


def mahalanobis_maps(graph: Graph, name: str, features: str, mean: Float32, whitening: Float32) -> str:
    """Return the (B, h, w) Mahalanobis distances of (B, K, h, w) features at each position.

    Args:
        mean: (h, w, K).
        whitening: (h, w, K, K).
    """
    vectors = graph.add("Transpose", [features], perm=[0, 2, 3, 1])
    centred = graph.add("Sub", [vectors, graph.weight(f"{name}.mean", mean)])
    columns = graph.add("Unsqueeze", [centred, graph.integers(-1)])
    whitened = graph.add("MatMul", [graph.weight(f"{name}.whitening", whitening), columns])
    return norm(graph, whitened, 3, 4)


def norm(graph: Graph, x: str, *axes: int) -> str:
    """Return the Euclidean norm over some axes."""
    return graph.add("Sqrt", [graph.reduce("ReduceSum", graph.add("Mul", [x, x]), *axes)])


def neg_log_p(graph: Graph, name: str, scores: str, tail: Tail) -> str:
    """Return -log p of (B,) scores: `Tail.neg_log_p`."""
    above = graph.add("Add", [_predictive(graph, scores, tail), graph.number(float(np.log(2)))])
    below = graph.add("Neg", [_log1p(graph, graph.add("Neg", [_share_below(graph, name, scores, tail)]))])
    return graph.add("Where", [_is_above(graph, scores, tail), above, below])


def _predictive(graph: Graph, scores: str, tail: Tail) -> str:
    """Return -log of twice the probability that a good image scores higher, of scores above the median."""
    n, mean_excess = float(tail.weight), tail.mean_excess
    excess = graph.add("Div", [_excess(graph, scores, tail), graph.number(n * mean_excess)])
    return graph.add("Mul", [_log1p(graph, excess), graph.number(n)])


def survival(graph: Graph, name: str, scores: str, tail: Tail) -> str:
    """Return the probability that a good image scores higher, of (B,) scores: `Tail.survival`."""
    if tail.predictive:
        excess = graph.add("Neg", [_predictive(graph, scores, tail)])
    else:
        excess = graph.add("Div", [_excess(graph, scores, tail), graph.number(-tail.mean_excess)])
    halved = graph.add("Mul", [graph.add("Exp", [excess]), graph.number(0.5)])
    above = graph.add("Max", [halved, graph.number(TINY)])
    below = graph.add("Sub", [graph.number(1.0), _share_below(graph, name, scores, tail)])
    return graph.add("Where", [_is_above(graph, scores, tail), above, below])


def _is_above(graph: Graph, scores: str, tail: Tail) -> str:
    return graph.add("Not", [graph.add("Less", [scores, graph.number(tail.median)])])


def _excess(graph: Graph, scores: str, tail: Tail) -> str:
    return graph.add("Relu", [graph.add("Sub", [scores, graph.number(tail.median)])])


def _log1p(graph: Graph, x: str) -> str:
    """Return log(1 + x) without the rounding of 1 + x.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 1.14.1.
    """
    one = graph.number(1.0)
    rounded = graph.add("Add", [x, one])
    lost = graph.add("Equal", [rounded, one])
    step = graph.add("Where", [lost, one, graph.add("Sub", [rounded, one])])
    logarithm = graph.add("Div", [graph.add("Mul", [graph.add("Log", [rounded]), x]), step])
    return graph.add("Where", [lost, x, logarithm])


def _share_below(graph: Graph, name: str, scores: str, tail: Tail) -> str:
    """Return the share of good images that score lower than (B,) scores below the median, at most 0.5."""
    lower: NDArray[np.float32] = tail.lower.astype(np.float32)
    n = len(lower)
    sorted_scores = graph.weight(f"{name}.lower", lower)
    columns = graph.add("Unsqueeze", [scores, graph.integers(1)])
    at_most = graph.add("Not", [graph.add("Less", [columns, sorted_scores])])
    counts = graph.reduce("ReduceSum", graph.add("Cast", [at_most], to=TensorProto.FLOAT), 1)
    index = graph.add("Cast", [counts], to=TensorProto.INT64)
    low, high = (
        graph.add("Gather", [graph.weight(f"{name}.{side}", np.r_[ends].astype(np.float32)), index], axis=0)
        for side, ends in (("low", (lower[0], lower)), ("high", (lower, lower[-1])))
    )
    gap = graph.add("Max", [graph.add("Sub", [high, low]), graph.number(TINY)])
    fraction = graph.add("Div", [graph.add("Sub", [scores, low]), gap])
    fraction = graph.add("Clip", [fraction, graph.number(0.0), graph.number(1.0)])
    # Below the first score and beyond the last there is nothing to interpolate.
    from_middle = graph.add("Abs", [graph.add("Sub", [counts, graph.number(n / 2)])])
    inside = graph.add("Less", [from_middle, graph.number(n / 2)])
    position = graph.add("Add", [counts, graph.add("Where", [inside, fraction, graph.number(0.0)])])
    return graph.add("Min", [graph.add("Div", [position, graph.number(2.0 * n)]), graph.number(0.5)])


def resampled(graph: Graph, name: str, maps: str, rows: Float32, columns: Float32) -> str:
    """Return (B, H, W) maps: (B, h, w) maps times a (H, h) matrix and the transpose of a (W, w) one."""
    tall = graph.add("MatMul", [graph.weight(f"{name}.rows", rows), maps])
    return graph.add("MatMul", [tall, graph.weight(f"{name}.columns", np.ascontiguousarray(columns.T))])


def axis_matrices(resample: Callable[[Float32], Float32], grid_hw: tuple[int, int]) -> tuple[Float32, Float32]:
    """Return the (H, h) and (W, w) float32 matrices of a separable linear map of (h, w) maps to (H, W).

    Args:
        resample: keeps constants.
    """
    height, width = grid_hw
    ones = np.ones(grid_hw, np.float32)
    rows = [resample(np.eye(height, dtype=np.float32)[i][:, None] * ones)[:, 0] for i in range(height)]
    columns = [resample(np.eye(width, dtype=np.float32)[i] * ones)[0] for i in range(width)]
    return np.stack(rows, axis=1), np.stack(columns, axis=1)
