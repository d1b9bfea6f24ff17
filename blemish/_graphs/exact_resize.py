"""The resize of `imaging` inside a graph: the same integer weights, the same grey levels.

Each output row or column gathers the few inputs that its triangle covers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph

ONE, FINE = 8192, 8  # as in imaging.resize: weights are multiples of 1/ONE, the middle result one of 1/FINE grey levels


def exact_resize(
    graph: Graph, image: str, height_width: tuple[int, int], *, image_hw: tuple[int, int] | None = None
) -> str:
    """Return the image, a uint8 (B, H, W, 3) tensor, at another size: triangle filter, bilinear where it grows.

    Args:
        height_width: rows and columns of the result, each at least 1.
        image_hw: rows and columns of `image` where they are fixed; None to read them from the image.

    Source: `imaging.resize.resize`, operation by operation, with weights in float64. ONNX Runtime gives the same bits.
    """
    if image_hw == height_width:
        return image
    height, width = height_width
    if image_hw is None:
        n_rows, n_columns = graph.shape(image, 1, 2), graph.shape(image, 2, 3)
    else:
        n_rows, n_columns = (graph.integers(side) for side in image_hw)
    rows = _filtered(graph, graph.add("Reshape", [image, graph.integers(0, 0, -1)]), n_rows, height)
    middle = graph.add("Round", [graph.add("Mul", [rows, graph.number(FINE / ONE)])])
    pixels = graph.add("Reshape", [middle, graph.integers(0, height, -1, 3)])
    columns = graph.add("Reshape", [graph.add("Transpose", [pixels], perm=[0, 2, 1, 3]), graph.integers(0, 0, -1)])
    resized = graph.add("Mul", [_filtered(graph, columns, n_columns, width), graph.number(1 / (FINE * ONE))])
    levels = graph.add("Cast", [graph.add("Add", [resized, graph.number(0.5)])], to=TensorProto.UINT8)
    shaped = graph.add("Reshape", [levels, graph.integers(0, width, height, 3)])
    return graph.add("Transpose", [shaped], perm=[0, 2, 1, 3])


def _filtered(graph: Graph, x: str, size: str, n_out: int) -> str:
    """Return the (B, n_out, 1, N) float32 weighted sums over axis 1, of `size`, of a (B, n, N) tensor."""
    taps, weights = _triangle_filter(graph, size, n_out)
    gathered = graph.add("Cast", [graph.add("Gather", [x, taps], axis=1)], to=TensorProto.FLOAT)
    return graph.add("MatMul", [weights, gathered])


def _triangle_filter(graph: Graph, size: str, n_out: int) -> tuple[str, str]:
    """Return the inputs of each output, (n_out, k) int64, and their integer weights, (n_out, 1, k) float32."""
    add = graph.add

    def double(value: float) -> str:
        return graph.weight(f"double {value!r}", np.array(value), np.float64)

    n_in = add("Squeeze", [add("Cast", [size], to=TensorProto.DOUBLE)])
    scale = add("Div", [n_in, double(float(n_out))])
    support = add("Max", [scale, double(1.0)])
    steps = graph.weight(f"double steps {n_out}", (np.arange(n_out) + 0.5)[:, None], np.float64)
    centers = add("Mul", [steps, scale])
    low = add("Floor", [add("Add", [add("Sub", [centers, support]), double(0.5)])])
    n_taps = add("Ceil", [add("Mul", [support, double(2.0)])])
    index = add("Range", [double(0.0), n_taps, double(1.0)])
    pixels = add("Add", [add("Max", [low, double(0.0)]), index])
    distances = add("Abs", [add("Sub", [add("Add", [pixels, double(0.5)]), centers])])
    triangle = add("Max", [add("Sub", [double(1.0), add("Div", [distances, support])]), double(0.0)])
    inside = add("Cast", [add("Less", [pixels, n_in])], to=TensorProto.DOUBLE)
    weights = add("Mul", [triangle, inside])
    per_unit = add("Div", [double(float(ONE)), graph.reduce("ReduceSum", weights, 1, keepdims=True)])
    rounded = add("Cast", [add("Round", [add("Mul", [weights, per_unit])])], to=TensorProto.FLOAT)
    # The largest weight takes the rest, so that a constant stays.
    rest = add("Sub", [graph.number(ONE), graph.reduce("ReduceSum", rounded, 1, keepdims=True)])
    largest = add("ArgMax", [rounded], axis=1, keepdims=1)
    is_largest = add("Equal", [add("Cast", [index], to=TensorProto.INT64), largest])
    exact = add("Add", [rounded, add("Mul", [add("Cast", [is_largest], to=TensorProto.FLOAT), rest])])
    taps = add("Cast", [add("Min", [pixels, add("Sub", [n_in, double(1.0)])])], to=TensorProto.INT64)
    return taps, add("Unsqueeze", [exact, graph.integers(1)])
