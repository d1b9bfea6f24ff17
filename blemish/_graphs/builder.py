"""The builder of ONNX graphs: a new network, or further nodes before and after those of an existing one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish.errors import InputError, ModelFileError, message

Padding = Literal["zero", "reflect", "edge"]
PADDINGS = ("zero", "reflect", "edge")
OPSET = 17
PATCH_PX = "patch_px"  # key in a model's metadata
MAX_PATCH_PX = 256
IR_VERSION = 8  # onnxruntime 1.18 reads up to 10; 8 is what belongs to opset 17


class Graph:
    """An ONNX graph under construction: each method adds nodes and returns the name of their output tensor.

    Args:
        padding: of convolutions that pad: "zero" (as networks are trained), "reflect" or "edge".
        model: an existing graph to continue, which is copied; None for a new one from `image`, uint8 (B, H, W, 3).

    Attributes:
        batch: the fixed number of images per run, or None for any.

    Raises:
        InputError: if there is no such padding.
    """

    def __init__(self, padding: Padding = "zero", *, model: onnx.ModelProto | None = None) -> None:
        if padding not in PADDINGS:
            raise InputError(message("padding", " or ".join(PADDINGS), repr(padding)))
        self.padding = padding
        self._model = onnx.ModelProto()  # all but the nodes
        self._model.CopyFrom(_empty_model() if model is None else model)
        graph = self._model.graph
        sizes = [axis.dim_value for value in graph.input[:1] for axis in value.type.tensor_type.shape.dim]
        self.batch: int | None = (sizes[0] or None) if sizes else None
        self._nodes = list(graph.node)
        del graph.node[:], graph.value_info[:]
        self._weights: dict[str, str] = {}
        self._channels: dict[str, int] = {}
        self._n = len(self._nodes)
        self._used = {name for node in nested_nodes(self._nodes) for name in (*node.input, *node.output)}
        self._used |= {tensor.name for tensor in (*graph.initializer, *graph.input)}

    def image(self, mean: Sequence[float]) -> str:
        """Return the input image as float32 (B, 3, H, W) in RGB, 0 to 255, less `mean`.

        The division by the standard deviation is left to the first convolution's weights, where it is exact. The mean
        cannot be: zeros are padded after its subtraction.
        """
        planes = self.add("Transpose", ["image"], perm=[0, 3, 1, 2])
        numbers = self.add("Cast", [planes], to=TensorProto.FLOAT)
        # ONNX Runtime subtracts one number eight times as fast as one per channel.
        array = np.array(mean[0]) if len(set(mean)) == 1 else np.reshape(mean, (1, 3, 1, 1))
        return self._noted(self.add("Sub", [numbers, self.weight("mean", array)]), 3)

    def conv(self, x: str, weight: NDArray[Any], bias: NDArray[Any], *, stride: int = 1, same: bool = False) -> str:
        """Return a convolution of `x`, padded so that stride 1 keeps its size.

        Args:
            weight: (out, in / groups, k, k), k odd; the channels of `x` imply the number of groups.
            same: TensorFlow's SAME padding: at stride 2 the number of rows depends on the parity of the size, and an
                odd row is padded at the end. False pads k // 2 on every side.
        """
        k = weight.shape[-1]
        groups = self._groups(x, weight)
        settings: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride, stride], "group": groups}
        uneven = same and stride > 1
        if k > 1 and self.padding != "zero":
            x = self._pad_same(x, k) if uneven else self._pad(x, k // 2)
        elif uneven:
            settings["auto_pad"] = "SAME_UPPER"
        else:
            settings["pads"] = [k // 2] * 4
        name = f"conv{sum(node.op_type == 'Conv' for node in self._nodes)}"
        inputs = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self._noted(self.add("Conv", inputs, **settings), weight.shape[0])

    def max_pool(self, x: str) -> str:
        """Return the maximum over 3 x 3 windows at stride 2, one row and column more on each side.

        Padded values are never the maximum; Keras's ResNet pads zeros, which is the same after a ReLU.
        """
        pooled = self.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        return self._noted(pooled, self._channels[x])

    def relu(self, x: str) -> str:
        """Return max(x, 0)."""
        return self._noted(self.add("Relu", [x]), self._channels[x])

    def relu6(self, x: str) -> str:
        """Return x clipped to [0, 6]."""
        low, high = self.weight("zero", np.zeros(())), self.weight("six", np.full((), 6.0))
        return self._noted(self.add("Clip", [x, low, high]), self._channels[x])

    def sum(self, x: str, y: str) -> str:
        """Return x + y."""
        if self._channels[x] != self._channels[y]:
            raise self._unfit("summands of as many channels", f"{self._channels[x]} and {self._channels[y]}")
        return self._noted(self.add("Add", [x, y]), self._channels[x])

    def classify(self, x: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """Return (B, classes) logits: the mean over the image, then a dense layer of (classes, channels) weights."""
        if weight.ndim != 2 or weight.shape[1] != self._channels[x] or bias.shape != weight.shape[:1]:
            expected = f"(classes, {self._channels[x]}) and (classes,)"
            raise self._unfit(expected, f"{weight.shape} and {bias.shape}")
        pooled = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        inputs = [pooled, self.weight("dense.weight", weight), self.weight("dense.bias", bias)]
        return self.add("Gemm", inputs, transB=1)

    def patch_conv(self, x: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """Return the embeddings of the square patches that `x` is divided into, (B, out, h, w).

        Args:
            x: name of a (B, C, H, W) tensor of the image's size.
            weight: (out, C, k, k), k the side of a patch.
            bias: (out,).
        """
        k = weight.shape[-1]
        self.require_patches(k)
        inputs = [x, self.weight("patch.weight", weight), self.weight("patch.bias", bias)]
        return self._noted(self.add("Conv", inputs, kernel_shape=[k, k], strides=[k, k]), weight.shape[0])

    def linear(self, x: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """Return x W^T + b over the last axis of `x`, for a weight of (out, in)."""
        name = f"linear{sum(node.op_type == 'MatMul' for node in self._nodes)}"
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", weight.T)])
        return self.add("Add", [product, self.weight(f"{name}.bias", bias)])

    def layer_norm(self, x: str, weight: NDArray[Any], bias: NDArray[Any], *, epsilon: float) -> str:
        """Return layer norm over the last axis of `x` (Ba et al. 2016, arXiv 1607.06450)."""
        name = f"norm{sum(node.op_type == 'LayerNormalization' for node in self._nodes)}"
        inputs = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
        return self.add("LayerNormalization", inputs, axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """Return x times the normal distribution function of x (Hendrycks & Gimpel 2016, arXiv 1606.08415); exact."""
        error = self.add("Erf", [self.add("Div", [x, self.weight("root of 2", np.sqrt(np.full((), 2.0)))])])
        doubled = self.add("Mul", [x, self.add("Add", [error, self.weight("one", np.ones(()))])])
        return self.add("Mul", [doubled, self.weight("half", np.full((), 0.5))])

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add one node and return the name of its output."""
        return self.add_several(operator, inputs, 1, **attributes)[0]

    def add_several(self, operator: str, inputs: Sequence[str], n_outputs: int, **attributes: Any) -> list[str]:
        """Add one node of several outputs and return their names."""
        outputs = [self._unused("t{}") for _ in range(n_outputs)]
        self._nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def inline(self, network: onnx.ModelProto, image: str, outputs: Sequence[str]) -> list[str]:
        """Add the part of a network that leads to `outputs`, with `image` as its input; return the tensors of these.

        The same network may be added again, with another image: its weights are kept once.
        """
        part = onnx.GraphProto()
        part.CopyFrom(network.graph)
        prune(part, outputs)
        names = {"image": image}
        for tensor in part.initializer:
            array = numpy_helper.to_array(tensor)
            names[tensor.name] = self.weight(f"network.{tensor.name}", array, array.dtype)
        produced = [name for node in nested_nodes(part.node) for name in node.output if name]
        names |= {name: self._unused("t{}") for name in produced}
        rename(part, names)
        self._nodes += part.node
        return [names[output] for output in outputs]

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return max(int(entry.version) for entry in self._model.opset_import if entry.domain in {"", "ai.onnx"})

    def shape(self, x: str, start: int, end: int) -> str:
        """Return the sizes of the axes of `x` from `start` to before `end`, int64."""
        if self.opset >= 15:
            return self.add("Shape", [x], start=start, end=end)
        return self.add("Gather", [self.add("Shape", [x]), self.integers(*range(start, end))])  # without attributes

    def reduce(self, operator: str, x: str, *axes: int, keepdims: bool = False) -> str:
        """Return ReduceMax, ReduceSum or another reduction of `x` over some axes."""
        # Axes became an input in opset 13 for the sum, and in 18 for the others.
        if operator == "ReduceSum" or self.opset >= 18:
            return self.add(operator, [x, self.integers(*axes)], keepdims=int(keepdims))
        return self.add(operator, [x], axes=axes, keepdims=int(keepdims))

    def number(self, value: float) -> str:
        """Keep a float32 scalar, and return its name."""
        return self.weight(f"number {float(value)!r}", np.array(value))

    def weight(self, name: str, array: NDArray[Any], dtype: Any = np.float32) -> str:
        """Keep a constant in the graph, once per name, and return its name there."""
        if name not in self._weights:
            self._weights[name] = name if name not in self._used else self._unused(f"{name}:{{}}")
            constant = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)
            self._model.graph.initializer.append(numpy_helper.from_array(constant, self._weights[name]))
            self._used.add(self._weights[name])
        return self._weights[name]

    def integers(self, *values: int) -> str:
        """Keep a one-dimensional int64 constant, such as a shape or axes, and return its name."""
        return self.weight(f"integers {' '.join(map(str, values))}", np.array(values), np.int64)

    def insert_after(self, tensor: str, build: Callable[[], str]) -> None:
        """Put new nodes between a tensor and all nodes that read it.

        Args:
            build: adds the new nodes, and returns the tensor that is read in place of `tensor`.
        """
        n = 1 + max((i for i, node in enumerate(self._nodes) if tensor in node.output), default=-1)
        later, self._nodes = self._nodes[n:], self._nodes[:n]
        replacement = build()
        for node in nested_nodes(later):
            node.input[:] = [replacement if name == tensor else name for name in node.input]
        self._nodes += later

    def require_patches(self, side_px: int) -> None:
        """State in the model that height and width of its images must be multiples of a patch's side, in pixels."""
        if all(entry.key != PATCH_PX for entry in self._model.metadata_props):
            self._model.metadata_props.add(key=PATCH_PX, value=str(side_px))

    def read_image(self, image_hw: tuple[int, int] | None = None, *, batch: int | None = None) -> None:
        """Make `image`, uint8 (B, H, W, 3), the only input of the graph; sizes not given, or 0, are free."""
        height, width = image_hw or (0, 0)
        shape = [batch or "B", height or "H", width or "W", 3]
        value = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
        del self._model.graph.input[:]
        self._model.graph.input.append(value)
        self.batch = batch or None

    def model(
        self,
        outputs: Mapping[str, str] | None = None,
        *,
        n_axes: int = 4,
        shapes: Mapping[str, Sequence[int | str] | None] | None = None,
    ) -> onnx.ModelProto:
        """Return the model from the graph's input to float32 outputs; the graph can be continued.

        Args:
            outputs: output name to the tensor, in order; a tensor can be only one output. None for those of the
                existing model.
            n_axes: 4 for feature maps, 2 for logits.
            shapes: the sizes of the outputs where they are not B and `n_axes` - 1 names; None for no stated type.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.node.extend(self._nodes)
        if outputs is None:
            return model
        names = {tensor: name for name, tensor in outputs.items()}
        # Another tensor that has the name of an output gets a new one.
        names |= {name: self._unused(f"{name}:{{}}") for name in outputs if name in self._used - names.keys()}
        rename(model.graph, names)
        del model.graph.output[:]
        for name in outputs:
            # Heights and widths of their own for each layer: they differ.
            axes = [self.batch or "B", *(f"{name}:{i}" for i in range(1, n_axes))]
            shape = (shapes or {}).get(name, axes)
            kind = None if shape is None else helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
            model.graph.output.append(onnx.ValueInfoProto(name=name, type=kind))
        return model

    def _unused(self, pattern: str) -> str:
        """Return `pattern` with a number that makes it a new name."""
        while (name := pattern.format(self._n)) in self._used:
            self._n += 1
        self._n += 1
        self._used.add(name)
        return name

    def _noted(self, tensor: str, channels: int) -> str:
        self._channels[tensor] = channels
        return tensor

    def _groups(self, x: str, weight: NDArray[Any]) -> int:
        """Return the number of groups of a convolution of `x` with these weights."""
        channels = self._channels[x]
        out, into, *kernel = weight.shape
        if into == 0 or channels % into or out % (channels // into) or len(set(kernel)) != 1 or kernel[0] % 2 == 0:
            raise self._unfit(f"(out, {channels} / groups, k, k), k odd,", str(weight.shape))
        return channels // int(into)

    def _unfit(self, expected: str, got: str) -> ModelFileError:
        return ModelFileError(message("weights", expected, got, todo="Give the weight file of this network."))

    def _pad(self, x: str, n: int) -> str:
        pads = self.weight(f"pads{n}", np.array([0, 0, n, n, 0, 0, n, n]), np.int64)
        return self.add("Pad", [x, pads], mode=self.padding)

    def _pad_same(self, x: str, k: int) -> str:
        """Pad for stride 2 as SAME does: k - 2 rows for an even size and k - 1 for an odd one, the larger half last."""
        odd = self.add("Mod", [self.shape(x, 2, 4), self.weight("two", np.array([2]), np.int64)])
        before = self.add("Add", [odd, self.weight(f"before{k}", np.array([(k - 3) // 2]), np.int64)])
        none = self.weight("none", np.zeros(2), np.int64)
        after = self.weight(f"after{k}", np.array([(k - 1) // 2] * 2), np.int64)
        pads = self.add("Concat", [none, before, none, after], axis=0)
        return self.add("Pad", [x, pads], mode=self.padding)


def stated_patch_px(metadata: Mapping[str, str]) -> int | None:
    """Return the side of a transformer's patches, in pixels, of which a model's images must be multiples.

    Args:
        metadata: of the model, by key.

    Returns:
        None for a model that states none.

    Raises:
        ModelFileError: if it is no number from 1 to 256.
    """
    stated = metadata.get(PATCH_PX)
    if stated is None:
        return None
    if not re.fullmatch("[0-9]{1,3}", stated, re.ASCII) or not 1 <= int(stated) <= MAX_PATCH_PX:
        expected = f"{PATCH_PX} from 1 to {MAX_PATCH_PX} in its metadata"
        raise ModelFileError(message("network", expected, repr(stated[:20]), todo="Remove the entry, or export again."))
    return int(stated)


def _empty_model() -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])
    graph = helper.make_graph([], "backbone", [image], [])
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="blemish")


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the graphs inside them, however deep."""
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from nested_nodes(graph.node)


def prune(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Remove the nodes and weights that lead to none of `outputs`."""
    needed, kept = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
            for inner in inner_graphs(node):
                needed.update(name for part in nested_nodes(inner.node) for name in part.input)
                needed.update(output.name for output in inner.output)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in the attributes of a node, such as the branches of If."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of a graph new names, by their present ones."""
    # Names inside inner graphs may not repeat those outside (ONNX is single-assignment), so that all can be renamed.
    for node in nested_nodes(graph.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for value in (value for inner in inner_graphs(node) for value in inner.output):
            value.name = names.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def fold_batch_norm(
    weight: NDArray[Any],
    bias: NDArray[Any],
    *,
    gamma: NDArray[Any],
    beta: NDArray[Any],
    mean: NDArray[Any],
    variance: NDArray[Any],
    epsilon: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (weight, bias) of a convolution with the batch norm after it folded in.

    Args:
        weight: (out, in / groups, k, k).
        gamma: (out,), as beta, mean and variance.
    """
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    shift = beta + (bias - mean.astype(np.float64)) * scale
    return (weight * scale[:, None, None, None]).astype(np.float32), shift.astype(np.float32)
