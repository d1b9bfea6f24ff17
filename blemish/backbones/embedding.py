"""Patch features: a backbone's layers pooled, brought to one grid, joined and scaled, as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish import runtime
from blemish._graphs.resize import resizing_inside
from blemish._validation.checks import check_number
from blemish.errors import InputError, message
from blemish.imaging.geometry import MULTIPLE_PX
from blemish.imaging.resize import resize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blemish.backbones.backbone import Backbone
    from blemish.imaging.geometry import Geometry
    from blemish.ops.statistics import Affine
    from blemish.types import Float32, UInt8

# Parts are seen in an image this much smaller, 160 px for 320: each covers more of it. 128, 192 and 224 px measured a
# little worse, and 320 px hardly better than patches.
PARTS_SCALE = 0.5
# The summary is taken of an image this much smaller, 96 px for 320: what is unusual everywhere shows there without the
# grain, and it costs a tenth of the features. 64, 128 and 160 px measured worse.
SUMMARY_SCALE = 0.3


def embedding_graph(
    backbone: Backbone,
    *,
    pooling: int = 3,
    scaling: Affine | None = None,
    part_axes: Affine | None = None,
    like_anomalib: Geometry | None = None,
) -> onnx.ModelProto:
    """Return the graph from `image` to `features`, (B, D, h, w), `parts`, (B, K, h, w), and `summary`, (B, S), float32.

    Each layer is averaged over `pooling` x `pooling` neighbours (the frame does not count: Roth et al. 2022, section
    3.1, without the padding that damps border patches), resized bilinearly to the first layer's grid, and joined.
    Parts are the coarsest layers, joined as they are. The summary is the mean and the standard deviation over positions
    of the layers that are for it.

    Args:
        backbone: the network.
        pooling: size of the neighbourhood, odd; 1 for none.
        scaling: a linear map of the joined vectors, or None.
        part_axes: a linear map of the parts, or None.
        like_anomalib: the geometry if the graph shall resize the image itself and count the frame when it averages.

    Raises:
        InputError: if `pooling` is not odd.
    """
    if check_number("pooling", pooling, low=1, high=15) % 2 == 0:
        raise InputError(message("pooling", "an odd number", str(pooling)))
    model = onnx.ModelProto()
    model.CopyFrom(backbone.model)
    if like_anomalib is not None:
        model = resizing_inside(model, like_anomalib.resize_hw, like_anomalib.crop_hw)

    def node(operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        model.graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    # Counting the frame damps patches at the border: anomalib's AvgPool2d(3, 1, 1).
    framed = int(like_anomalib is not None)
    side = {"kernel_shape": [pooling] * 2, "pads": [pooling // 2] * 4, "strides": [1, 1], "count_include_pad": framed}
    pooled = [
        node("AveragePool", [layer], f"pooled:{i}", **side) if pooling > 1 else layer
        for i, layer in enumerate(backbone.layers)
    ]
    for output, layers, linear in (("features", pooled, scaling), ("parts", backbone.coarsest, part_axes)):
        joined = _join(node, output, layers)
        if linear is None:
            node("Identity", [joined], output)
            continue
        weights = {f"{output}.weight": linear.weight[:, :, None, None], f"{output}.bias": linear.bias}
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
        node("Conv", [joined, *weights], output)
    _summarise(node, backbone.global_layers or backbone.coarsest)
    del model.graph.output[:]
    shapes = {"features": ["B", "D", "h", "w"], "parts": ["B", "K", "v", "u"], "summary": ["B", "S"]}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    return model


def _join(node: Callable[..., str], name: str, layers: Sequence[str]) -> str:
    """Add layers resized to the grid of the first and joined."""
    maps = [*layers[:1]]
    if len(layers) > 1:
        grid = node("Shape", maps, f"{name}:grid", start=2)
        for i, layer in enumerate(layers[1:], start=1):
            count = node("Shape", [layer], f"{name}:count:{i}", start=0, end=2)
            size = node("Concat", [count, grid], f"{name}:size:{i}", axis=0)
            maps.append(node("Resize", [layer, "", "", size], f"{name}:resized:{i}", mode="linear"))
    return node("Concat", maps, f"{name}:joined", axis=1)


def _summarise(node: Callable[..., str], layers: Sequence[str]) -> None:
    """Add the mean and the standard deviation over positions of each layer."""
    parts = []
    for i, layer in enumerate(layers):
        mean = node("GlobalAveragePool", [layer], f"mean:{i}")
        centred = node("Sub", [layer, mean], f"centred:{i}")
        variance = node("GlobalAveragePool", [node("Mul", [centred, centred], f"squared:{i}")], f"variance:{i}")
        parts += [mean, node("Sqrt", [variance], f"deviation:{i}")]
    node("Flatten", [node("Concat", parts, "moments", axis=1)], "summary", axis=1)


class Extractor:
    """Runs an embedding graph.

    Args:
        model: the serialized graph, `image` to `features`, and `parts` and `summary` if it is asked for those.
        threads: how many the network uses; None for one per core.

    Attributes:
        outputs: the names of what the graph gives.

    Raises:
        ModelFileError: if ONNX Runtime can't run it.
    """

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        self.model = model
        self._session = runtime.load(model, threads=threads)
        self.outputs = frozenset(self._session.outputs)

    def features(self, network_input: UInt8) -> Float32:
        """Return (h, w, D) float32 patch features of one network input, uint8 (H, W, 3).

        Raises:
            InputError: if the network does not take images of that size.
        """
        return self._map(network_input, "features")

    def parts(self, network_input: UInt8) -> Float32:
        """Return (v, u, K) float32: what the parts of one network input, uint8 (H, W, 3), are like from further away.

        Raises:
            InputError: if the network does not take images of that size.
        """
        return self._map(self._multi_scale(network_input, PARTS_SCALE), "parts")

    def summary(self, network_input: UInt8) -> Float32:
        """Return the (S,) float32 summary of one network input, uint8 (H, W, 3), seen from further away.

        Raises:
            InputError: if the network does not take images of that size.
        """
        seen = self._multi_scale(network_input, SUMMARY_SCALE)
        summary: Float32 = self._session.run(seen[None], ["summary"])["summary"][0]
        return summary

    def _map(self, network_input: UInt8, output: str) -> Float32:
        maps = self._session.run(network_input[None], [output])[output][0]
        return np.ascontiguousarray(maps.transpose(1, 2, 0))

    def _multi_scale(self, network_input: UInt8, scale: float) -> UInt8:
        if not self._session.any_size:
            return network_input
        height, width = (_smaller(side, scale) for side in network_input.shape[:2])
        return resize(network_input, (height, width))


def _smaller(side: int, scale: float) -> int:
    """Return the side of an image that is seen so much smaller, in pixels that networks take."""
    return max(MULTIPLE_PX, round(scale * side / MULTIPLE_PX) * MULTIPLE_PX)
