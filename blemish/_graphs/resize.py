"""Resizing inside the network: the graph takes images of any size and resizes them itself, in float32.

What `blemish.resize` gives is rounded to whole grey levels. A detector that must agree with another program's float
pixels to four digits (`arithmetic="anomalib"`) can't have that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.errors import InputError, message

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resizing_inside(
    model: onnx.ModelProto, resize_hw: tuple[int, int], crop_hw: tuple[int, int] | None
) -> onnx.ModelProto:
    """Return the graph with its image resized to `resize_hw`, antialiased, in float32, before anything else.

    The filter is a triangle as wide as two output pixels, or as two input pixels where the image grows: torch's
    `interpolate(mode="bilinear", antialias=True)`. Each axis is one product with a matrix that the graph makes from the
    image's size. ONNX's own Resize with antialias=1 is not that filter: ONNX Runtime 1.32 was off by up to 13 grey
    levels on noise.

    Args:
        model: a graph that first makes its `image`, uint8 (B, H, W, 3), float32.
        resize_hw: (height, width) in pixels.
        crop_hw: (height, width) of the centre that is kept of that, or None for all.

    Raises:
        InputError: if the graph does not start like that.
    """
    made = _Inserted(model)
    tall = made.node("MatMul", [made.filter(2, resize_hw[0]), made.pixels])
    wide = made.node("MatMul", [tall, made.node("Transpose", [made.filter(3, resize_hw[1])], perm=[1, 0])])
    if crop_hw is not None:
        corner = [(whole - part) // 2 for whole, part in zip(resize_hw, crop_hw, strict=True)]
        end = [low + part for low, part in zip(corner, crop_hw, strict=True)]
        wide = made.node("Slice", [wide, made.whole(corner), made.whole(end), made.whole([2, 3])])
    return made.result(wide)


class _Inserted:
    """Nodes to be put between a graph's image and what reads it.

    Attributes:
        pixels: name of the image's float32 (B, 3, H, W) pixels.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if not _reads_float(model.graph):
            todo = "Use a named backbone."
            raise InputError(message("backbone", "one that can resize images itself", "another ONNX file", todo=todo))
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._nodes: list[onnx.NodeProto] = []
        self._n = 0
        planes = self.node("Transpose", ["image"], perm=[0, 3, 1, 2])
        self.pixels = self.node("Cast", [planes], to=TensorProto.FLOAT)

    def node(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = self._name()
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def whole(self, values: list[int]) -> str:
        return self._constant(np.array(values, np.int64))

    def filter(self, axis: int, n_out: int) -> str:
        """Return the (n_out, n_in) float32 weights of the triangle filter along one axis of the pixels.

        Output i is at (i + 0.5) * scale of the input, whose pixel j is at j + 0.5; weights sum to 1.
        """
        size = self.node("Shape", [self.pixels], start=axis, end=axis + 1)
        n_in = self.node("Squeeze", [self.node("Cast", [size], to=TensorProto.FLOAT)])
        scale = self.node("Div", [n_in, self.number(n_out)])
        support = self.node("Max", [scale, self.number(1.0)])
        centers = self.node("Mul", [scale, self._constant((np.arange(n_out, dtype=np.float32) + 0.5)[:, None])])
        positions = self.node("Range", [self.number(0.5), n_in, self.number(1.0)])
        away = self.node("Div", [self.node("Abs", [self.node("Sub", [positions, centers])]), support])
        weights = self.node("Relu", [self.node("Sub", [self.number(1.0), away])])
        return self.node("Div", [weights, self.node("ReduceSum", [weights, self.whole([1])], keepdims=1)])

    def result(self, pixels: str) -> onnx.ModelProto:
        """Return the graph that reads these (B, 3, h, w) pixels in the place of its image."""
        inner = self.node("Transpose", [pixels], perm=[0, 2, 3, 1])
        nodes = list(self._model.graph.node)
        for node in nodes:
            node.input[:] = [inner if name == "image" else name for name in node.input]
        del self._model.graph.node[:]
        self._model.graph.node.extend([*self._nodes, *nodes])
        return self._model

    def _constant(self, array: NDArray[Any]) -> str:
        name = self._name()
        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self) -> str:
        self._n += 1
        return f"inner:{self._n}"


def _reads_float(graph: onnx.GraphProto) -> bool:
    """Return whether all that is done with `image` is to make it float32, turned to planes before or not."""
    sources = {"image"}
    for node in graph.node:
        if not sources & set(node.input):
            continue
        if node.op_type == "Transpose":
            sources.add(node.output[0])
        elif node.op_type != "Cast" or node.attribute[0].i != TensorProto.FLOAT:
            return False
    return True
