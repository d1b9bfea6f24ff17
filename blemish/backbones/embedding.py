"""Patch embedding: a backbone's layers pooled, resized to one grid, concatenated and whitened, as one ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish import runtime
from blemish._graphs.builder import Graph, stated_patch_px
from blemish._graphs.resize import insert_resize
from blemish._validation.checks import check_number
from blemish.errors import InputError, message
from blemish.imaging.geometry import MULTIPLE_PX
from blemish.imaging.resize import resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from blemish.backbones.backbone import Backbone
    from blemish.imaging.geometry import Geometry
    from blemish.ops.statistics import Affine
    from blemish.types import Float32, UInt8

# Scale of the image for the parts, 160 px for 320: each covers more of it. 128, 192 and 224 px measured a little worse,
# and 320 px hardly better than patches.
PARTS_SCALE = 0.5
# Scale of the image for the summary, 96 px for 320: anomalies of the whole image show there without the grain, and it
# costs a tenth of the features. 64, 128 and 160 px measured worse.
SUMMARY_SCALE = 0.3


def embedding_graph(
    backbone: Backbone,
    *,
    pooling: int = 3,
    scaling: Affine | None = None,
    part_axes: Affine | None = None,
    resized: Geometry | None = None,
    count_padding: bool = False,
) -> onnx.ModelProto:
    """Return the graph from `image` to `features`, (B, D, h, w), `parts`, (B, K, v, u), and `summary`, (B, S), float32.

    Features: each layer is averaged over `pooling` x `pooling` neighbors (without padding, which would damp patches at
    the border: Roth et al. 2022, section 3.1), resized bilinearly to the first layer's grid, and concatenated.
    Parts: the coarsest layers, concatenated. Summary, the global descriptor: mean and standard deviation over positions
    of its layers.

    Args:
        backbone: the network.
        pooling: size of the neighborhood, odd; 1 for none.
        scaling: a linear map of the features, or None.
        part_axes: a linear map of the parts, or None.
        resized: the geometry, if the graph resizes and crops the image itself.
        count_padding: whether zeros around a layer count in its averages, as in `AvgPool2d(3, 1, 1)` of anomalib.

    Raises:
        InputError: if `pooling` is not odd.
    """
    if check_number("pooling", pooling, low=1, high=15) % 2 == 0:
        raise InputError(message("pooling", "an odd number", str(pooling)))
    model = backbone.model
    if resized is not None:
        model = insert_resize(model, resized.resize_hw, resized.crop_hw)
    graph = Graph(model=model)
    window = {"kernel_shape": [pooling] * 2, "pads": [pooling // 2] * 4, "strides": [1, 1]}
    pooled = [
        graph.add("AveragePool", [layer], **window, count_include_pad=int(count_padding)) if pooling > 1 else layer
        for layer in backbone.layers
    ]
    outputs = {
        "features": _projected(graph, "features", _concatenated(graph, pooled), scaling),
        "parts": _projected(graph, "parts", _concatenated(graph, backbone.coarsest), part_axes),
        "summary": _moments(graph, backbone.global_layers or backbone.coarsest),
    }
    shapes = {"features": ["B", "D", "h", "w"], "parts": ["B", "K", "v", "u"], "summary": ["B", "S"]}
    return graph.model(outputs, shapes=shapes)


def _concatenated(graph: Graph, layers: Sequence[str]) -> str:
    """Return the layers, resized bilinearly to the grid of the first, as one map."""
    maps = [*layers[:1]]
    if len(layers) > 1:
        grid = graph.shape(maps[0], 2, 4)
        for layer in layers[1:]:
            size = graph.add("Concat", [graph.shape(layer, 0, 2), grid], axis=0)
            maps.append(graph.add("Resize", [layer, "", "", size], mode="linear"))
    return graph.add("Concat", maps, axis=1)


def _projected(graph: Graph, name: str, x: str, linear: Affine | None) -> str:
    """Return a linear map of each vector of `x`; its weights have the name of the output."""
    if linear is None:
        return x
    weight = graph.weight(f"{name}.weight", linear.weight[:, :, None, None])
    return graph.add("Conv", [x, weight, graph.weight(f"{name}.bias", linear.bias)])


def _moments(graph: Graph, layers: Sequence[str]) -> str:
    """Return the mean and the standard deviation over positions of each layer, (B, S)."""
    moments = []
    for layer in layers:
        mean = graph.add("GlobalAveragePool", [layer])
        centered = graph.add("Sub", [layer, mean])
        variance = graph.add("GlobalAveragePool", [graph.add("Mul", [centered, centered])])
        moments += [mean, graph.add("Sqrt", [variance])]
    return graph.add("Flatten", [graph.add("Concat", moments, axis=1)], axis=1)


class Extractor:
    """Runs an embedding graph on single images.

    Args:
        model: the serialized graph, `image` to `features`, and to `parts` and `summary` if those are used.
        threads: number of threads; None for one per core.

    Attributes:
        outputs: the names of the graph's outputs.

    Raises:
        ModelFileError: if ONNX Runtime can't run it, or its metadata is no valid one.
    """

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        self.model = model
        self._session = runtime.load(model, threads=threads)
        self.outputs = frozenset(self._session.outputs)
        self._step_px = stated_patch_px(self._session.metadata) or MULTIPLE_PX

    def features(self, network_input: UInt8) -> Float32:
        """Return (h, w, D) float32 patch features of one network input, uint8 (H, W, 3).

        Raises:
            InputError: if the network does not take images of that size.
        """
        return self._map(network_input, "features")

    def parts(self, network_input: UInt8) -> Float32:
        """Return (v, u, K) float32 coarse features of one network input, uint8 (H, W, 3), at `PARTS_SCALE`.

        Raises:
            InputError: if the network does not take images of that size.
        """
        return self._map(self._scaled(network_input, PARTS_SCALE), "parts")

    def summary(self, network_input: UInt8) -> Float32:
        """Return the (S,) float32 global descriptor of one network input, uint8 (H, W, 3), at `SUMMARY_SCALE`.

        Raises:
            InputError: if the network does not take images of that size.
        """
        scaled = self._scaled(network_input, SUMMARY_SCALE)
        summary: Float32 = self._session.run(scaled[None], ["summary"])["summary"][0]
        return summary

    def scaled_hw(self, network_hw: tuple[int, int], scale: float) -> tuple[int, int]:
        """Return the (height, width) to which a network input of this size is resized for `scale`."""
        if not self._session.any_size:
            return network_hw
        step = self._step_px
        height, width = (max(step, round(scale * side / step) * step) for side in network_hw)
        return height, width

    def _map(self, network_input: UInt8, output: str) -> Float32:
        maps = self._session.run(network_input[None], [output])[output][0]
        return np.ascontiguousarray(maps.transpose(1, 2, 0))

    def _scaled(self, network_input: UInt8, scale: float) -> UInt8:
        return resize(network_input, self.scaled_hw((network_input.shape[0], network_input.shape[1]), scale))
