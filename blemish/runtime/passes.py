"""Passes over a graph that an engine applies when it loads it: the same network, faster on that engine.

A pass takes a model and returns another, or None where it has nothing to do. Results differ by rounding only.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blemish.runtime.tiles import Kernel, Tiled, Tiles, tiles_of
from blemish.runtime.winograd import POINTS, TILE

# Channels of an input from which on tiles were measured to be faster: the fewest of a patch description network. The
# transforms take a larger share with fewer.
MIN_CHANNELS = 128
MAX_STEM_CHANNELS = 4
SMALL = 64  # values; longer constants have no part in shapes
ELEMENTWISE = ("Relu", "Add", "Sub", "Mul", "Div")


def tile_convolutions(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a network whose unpadded convolutions of stride 1 run on Winograd's tiles; None where none can.

    Maps come onto tiles in the stem, at no cost: convolutions of an image with ReLU and a pool of 2 x 2 behind them.
    From there on they stay on tiles as long as the operators allow. Elsewhere the way there and back takes what
    tiles save, and with padding (all convolutions of a ResNet) nothing is changed.

    Args:
        model: the graph; it is not changed. The size of the stem's input must follow from it.

    Source: Lavin & Gray 2015 (arXiv 1509.09308).
    """
    nodes = model.graph.node
    if not {"Conv", "Relu", "AveragePool"} <= {node.op_type for node in nodes}:
        return None
    tiler = _Tiler(model)
    return tiler.result() if tiler.n_convolutions else None


class _Tiler:
    """Rewrites the nodes of a graph in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.n_convolutions = 0
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sizes = _shapes(model)
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._tiles = Tiles()
        self._tiled: dict[str, Tiled] = {}
        self._planes: set[str] = set()  # of maps on tiles: those that are there as planes too
        self._absorbed: set[str] = set()  # first outputs of nodes that are part of another node's translation
        translate: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "Conv": self._conv,
            "AveragePool": self._pool,
            "Slice": self._slice,
            "ReduceMean": self._mean,
            **dict.fromkeys(ELEMENTWISE, self._elementwise),
        }
        for node in model.graph.node:
            if node.output[0] in self._absorbed:
                continue
            if node.op_type not in translate or not translate[node.op_type](node):
                self._keep(node)
        for name in self._outputs:
            self._as_planes(name)

    def result(self) -> onnx.ModelProto:
        """Return the model of the new nodes."""
        nodes, given = self._tiles.nodes, self._model.graph
        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            given.name,
            given.input,
            given.output,
            [*(tensor for tensor in given.initializer if tensor.name in read), *self._tiles.initializers],
        )
        return helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)

    def _keep(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self._as_planes(name)
        self._tiles.nodes.append(node)

    def _as_planes(self, name: str) -> None:
        if name in self._tiled and name not in self._planes:
            self._planes.add(name)
            self._tiles.to_planes(self._tiled[name], output=name)

    def _conv(self, node: onnx.NodeProto) -> bool:
        kernel, x = self._kernel(node), self._tiled.get(node.input[0])
        if kernel is None:
            return False
        if x is None:
            return self._stem(node, kernel)
        if kernel.n_inputs != x.channels or not (kernel.taps == 1 or _pays(kernel)):
            return False
        self.n_convolutions += 1
        readers = self._readers[node.output[0]]
        bounds = [self._channels(reader, len(kernel.bias)) for reader in readers]
        if node.output[0] in self._outputs or None in bounds or not bounds:
            self._tiled[node.output[0]] = self._tiles.conv(x, kernel)
            return True
        for reader, part in zip(readers, bounds, strict=True):  # each part of the outputs on its own
            outputs = slice(*part) if part else slice(None)
            self._tiled[reader.output[0]] = self._tiles.conv(x, Kernel(kernel.weight[outputs], kernel.bias[outputs]))
            self._absorbed.add(reader.output[0])
        return True

    def _kernel(self, node: onnx.NodeProto) -> Kernel | None:
        """Return the parameters of a convolution that may run on tiles: square, dense, unpadded, of stride 1."""
        weight, *biases = (self._constants.get(name) for name in node.input[1:])
        settings = _attributes(node)
        plain = not any(settings.get("pads", ())) and set(settings.get("strides", ())) <= {1}
        plain &= set(settings.get("dilations", ())) <= {1} and settings.get("group", 1) == 1
        plain &= settings.get("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}
        if weight is None or None in biases or weight.data_type != TensorProto.FLOAT or not plain:
            return None
        if len(weight.dims) != 4 or weight.dims[2] != weight.dims[3]:
            return None
        arrays = [numpy_helper.to_array(tensor) for tensor in (weight, *biases) if tensor is not None]
        return Kernel(arrays[0], arrays[1] if biases else np.zeros(len(arrays[0]), np.float32))

    def _stem(self, node: onnx.NodeProto, kernel: Kernel) -> bool:
        """Translate all stems of one image together: they share its receptive fields."""
        size = self._sizes.get(node.input[0], ())
        height, width = size[2:] if len(size) == 4 else (None, None)
        pool = self._pool_behind(node, kernel) if height and width else None
        if pool is None or not height or not width:
            return False
        kernels, pools = [kernel], [pool]
        for other in self._readers[node.input[0]]:
            second = self._kernel(other) if other.op_type == "Conv" and other is not node else None
            behind = self._pool_behind(other, second) if second and second.weight.shape == kernel.weight.shape else None
            if second and behind:
                kernels.append(second)
                pools.append(behind)
                self._absorbed.add(other.output[0])
        stems = self._tiles.stem(node.input[0], kernels, (height, width))
        self._tiled |= {behind.output[0]: tiled for behind, tiled in zip(pools, stems, strict=True)}
        return True

    def _pool_behind(self, conv: onnx.NodeProto, kernel: Kernel) -> onnx.NodeProto | None:
        """Return the pool of a stem if a convolution that pays reads it; ReLU and pool become part of the stem."""
        relu = self._only_reader(conv, "Relu")
        pool = relu and self._only_reader(relu, "AveragePool")
        if not relu or not pool or not _halves(pool) or kernel.n_inputs > MAX_STEM_CHANNELS:
            return None
        following = (self._kernel(reader) for reader in self._readers[pool.output[0]] if reader.op_type == "Conv")
        if not any(behind is not None and _pays(behind) for behind in following):
            return None
        self._absorbed |= {relu.output[0], pool.output[0]}
        return pool

    def _only_reader(self, node: onnx.NodeProto, operator: str) -> onnx.NodeProto | None:
        name = node.output[0]
        readers = self._readers[name]
        alone = len(readers) == 1 and readers[0].op_type == operator and name not in self._outputs
        return readers[0] if alone else None

    def _pool(self, node: onnx.NodeProto) -> bool:
        x = self._tiled.get(node.input[0])
        if x is None or x.side % 2 or not _halves(node):
            return False
        self._tiled[node.output[0]] = self._tiles.pool(x)
        return True

    def _slice(self, node: onnx.NodeProto) -> bool:
        x = self._tiled.get(node.input[0])
        part = self._channels(node, x.channels) if x else None
        if x is None or part is None:
            return False
        length = part[1] - part[0]
        if x.width or part[0] % length or x.channels % length:
            return False
        self._tiled[node.output[0]] = x._replace(channels=length, start=part[0], width=x.channels)
        return True

    def _channels(self, node: onnx.NodeProto, n: int) -> tuple[int, int] | None:
        """Return first and last + 1 of the channels that a Slice takes of `n`, if it takes channels."""
        constants = [self._constants.get(name) for name in node.input[1:]]
        if node.op_type != "Slice" or len(constants) != 3 or any(tensor is None for tensor in constants):
            return None
        starts, ends, axes = (numpy_helper.to_array(tensor).tolist() for tensor in constants if tensor is not None)
        return (starts[0], min(ends[0], n)) if axes == [1] and 0 <= starts[0] < min(ends[0], n) else None

    def _mean(self, node: onnx.NodeProto) -> bool:
        x, settings = self._tiled.get(node.input[0]), _attributes(node)
        if x is None or settings.get("axes") != [1] or settings.get("keepdims", 1):
            return False
        self._tiles.mean_of_channels(x, output=node.output[0])
        return True

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        tiled = [self._tiled[name] for name in node.input if name in self._tiled]
        if not tiled:
            return False
        inputs = [self._operand(name, tiled[0]) for name in node.input]
        if None in inputs:
            return False
        self._tiled[node.output[0]] = self._tiles.elementwise(node.op_type, [x for x in inputs if x is not None])
        return True

    def _operand(self, name: str, like: Tiled) -> Tiled | str | None:
        """Return a tensor as an operand beside a map on tiles, or None where it does not fit."""
        if name in self._tiled:
            return self._tiled[name] if self._tiled[name].layout == like.layout else None
        if name in self._constants:
            return name if _per_channel(self._constants[name], like.channels) else None
        fits = (like.side, like.tiles_hw) == (TILE, tiles_of(like.hw))
        fits &= self._sizes.get(name, ())[1:] == (like.channels, *like.hw)
        return self._tiles.from_planes(name, like.channels, like.hw) if fits else None


def _pays(kernel: Kernel) -> bool:
    return kernel.taps in POINTS and kernel.n_inputs >= MIN_CHANNELS


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _halves(node: onnx.NodeProto) -> bool:
    """Return whether a pool is the average over 2 x 2 at stride 2, without padding."""
    settings = _attributes(node)
    plain = not any(settings.get("pads", ())) and not settings.get("ceil_mode", 0)
    plain &= settings.get("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"} and set(settings.get("dilations", ())) <= {1}
    return plain and settings["kernel_shape"] == settings.get("strides") == [2, 2]


def _per_channel(tensor: onnx.TensorProto, channels: int) -> bool:
    """Return whether a constant beside (B, C, h, w) is one number, or one per channel."""
    dims = list(tensor.dims)
    return math.prod(dims) == 1 or (math.prod(dims) == channels and len(dims) >= 3 and dims[-3] == channels)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each tensor that is known, with None for axes that are not; weights are not copied."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    return {
        value.name: tuple(axis.dim_value or None for axis in value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
