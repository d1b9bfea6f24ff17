"""Antialiased resize inside the graph, in float32, of images of any size.

The resize of `imaging` rounds to integer grey levels. A detector that must agree with another program's float pixels to
four digits (`arithmetic="anomalib"`) cannot have that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from blemish._graphs.builder import Graph
from blemish.errors import InputError, message

if TYPE_CHECKING:
    import onnx


def insert_resize(
    model: onnx.ModelProto, resize_hw: tuple[int, int], crop_hw: tuple[int, int] | None
) -> onnx.ModelProto:
    """Return the graph with an antialiased resize of its image to `resize_hw`, in float32, before all other nodes.

    The filter is a triangle as wide as two output pixels, or as two input pixels where the image grows: torch's
    `interpolate(mode="bilinear", antialias=True)`. Each axis is one product with a matrix that the graph computes from
    the image's size. ONNX's own Resize with antialias=1 is another filter: ONNX Runtime 1.32 was off by up to 13 grey
    levels on noise.

    Args:
        model: a graph that first casts its `image`, uint8 (B, H, W, 3), to float32.
        crop_hw: (height, width) of the center crop after that, or None for none.

    Raises:
        InputError: if the graph does not start with that cast.
    """
    if not _reads_float(model.graph):
        todo = "Use a named backbone."
        raise InputError(message("backbone", "one that can resize images itself", "another ONNX file", todo=todo))
    graph = Graph(model=model)
    graph.insert_after("image", lambda: _resized(graph, resize_hw, crop_hw))
    graph.read_image(batch=graph.batch)
    return graph.model()


def _resized(graph: Graph, resize_hw: tuple[int, int], crop_hw: tuple[int, int] | None) -> str:
    """Add the resize and the crop of `image`; return the float32 (B, h, w, 3) result."""
    planes = graph.add("Transpose", ["image"], perm=[0, 3, 1, 2])
    pixels = graph.add("Cast", [planes], to=TensorProto.FLOAT)
    rows = graph.add("MatMul", [_triangle_filter(graph, pixels, 2, resize_hw[0]), pixels])
    columns = graph.add("Transpose", [_triangle_filter(graph, pixels, 3, resize_hw[1])], perm=[1, 0])
    resized = graph.add("MatMul", [rows, columns])
    if crop_hw is not None:
        start = [(size - crop) // 2 for size, crop in zip(resize_hw, crop_hw, strict=True)]
        end = [low + crop for low, crop in zip(start, crop_hw, strict=True)]
        resized = graph.add("Slice", [resized, graph.integers(*start), graph.integers(*end), graph.integers(2, 3)])
    return graph.add("Transpose", [resized], perm=[0, 2, 3, 1])


def _triangle_filter(graph: Graph, pixels: str, axis: int, n_out: int) -> str:
    """Return the (n_out, n_in) float32 weights of the triangle filter along one axis of the pixels.

    Output i is at (i + 0.5) * scale of the input, whose pixel j is at j + 0.5; weights sum to 1.
    """
    add = graph.add
    one, half = graph.weight("one", np.array(1.0)), graph.weight("half", np.array(0.5))
    size = graph.shape(pixels, axis, axis + 1)
    n_in = add("Squeeze", [add("Cast", [size], to=TensorProto.FLOAT)])
    scale = add("Div", [n_in, graph.weight(f"size {n_out}", np.array(n_out))])
    support = add("Max", [scale, one])
    centers = add("Mul", [scale, graph.weight(f"centers {n_out}", (np.arange(n_out) + 0.5)[:, None])])
    positions = add("Range", [half, n_in, one])
    distances = add("Div", [add("Abs", [add("Sub", [positions, centers])]), support])
    weights = add("Relu", [add("Sub", [one, distances])])
    return add("Div", [weights, add("ReduceSum", [weights, graph.integers(1)], keepdims=1)])


def _reads_float(graph: onnx.GraphProto) -> bool:
    """Return whether `image`, transposed or not, is read by casts to float32 alone."""
    sources = {"image"}
    for node in graph.node:
        if not sources & set(node.input):
            continue
        if node.op_type == "Transpose":
            sources.add(node.output[0])
        elif node.op_type != "Cast" or node.attribute[0].i != TensorProto.FLOAT:
            return False
    return True
