"""EfficientAD as one ONNX graph: an image in, the student's and the autoencoder's maps out.

The graph is the network of the paper, operator by operator. Its parameters carry the names under which the model
folder keeps them: `teacher.conv1.weight`, `teacher.mean`, `student.conv4.bias`, `autoencoder.encoder.enconv1.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from blemish._graphs.builder import Graph
from blemish.detectors.efficientad.pdn import (
    BOTTLENECK,
    CONVS,
    DECODER,
    ENCODER,
    IMAGENET_MEAN,
    IMAGENET_STD,
    POOLED,
    Size,
    decoder_sizes,
    output_hw,
)

Weights = Mapping[str, "NDArray[Any]"]
OUTPUTS = ("student_map", "autoencoder_map")
PARTS = ("teacher.", "student.", "autoencoder.")


class Networks(NamedTuple):
    """The weights of an EfficientAD model, by the names of `pdn`.

    Attributes:
        teacher: with n outputs.
        student: with 2 n outputs: its prediction of the teacher's features, then of the autoencoder's.
        mean: (n,) float32, of each of the teacher's outputs on good images.
        std: (n,) float32, their standard deviations.
        padding: whether teacher and student pad with zeros.
    """

    teacher: Weights
    student: Weights
    autoencoder: Weights
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    size: Size = "small"
    padding: bool = False


def efficientad_graph(networks: Networks, image_hw: tuple[int, int]) -> bytes:
    """Return the graph from `image`, uint8 (B, H, W, 3), to `student_map` and `autoencoder_map`, float32 (B, h, w).

    `student_map` is the mean over channels of the squared difference of the normalised teacher and the student's first
    half; `autoencoder_map` that of the autoencoder and the student's second half.

    Raises:
        InputError: if the image is smaller than the receptive field of one output.

    Source: Batzner et al. 2024, algorithm 2.
    """
    output_hw(networks.size, image_hw, padding=networks.padding)
    graph, n = Graph(), len(networks.mean)
    planes = graph.add("Cast", [graph.add("Transpose", ["image"], perm=[0, 3, 1, 2])], to=TensorProto.FLOAT)
    mean, std = (255 * np.reshape(values, (1, 3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
    image = _normalise(graph, planes, "image", mean, std)
    teacher = _normalise(
        graph,
        _pdn(graph, image, "teacher", networks.teacher, networks),
        "teacher",
        networks.mean.reshape(1, n, 1, 1),
        networks.std.reshape(1, n, 1, 1),
    )
    student = _pdn(graph, image, "student", networks.student, networks)
    autoencoder = _autoencoder(graph, image, networks, image_hw)
    pairs = (teacher, _channels(graph, student, 0, n)), (autoencoder, _channels(graph, student, n, 2 * n))
    outputs = {}
    for name, pair in zip(OUTPUTS, pairs, strict=True):
        difference = graph.add("Sub", pair)
        outputs[name] = graph.add("ReduceMean", [graph.add("Mul", [difference, difference])], axes=[1], keepdims=0)
    model = graph.model(outputs, n_axes=3)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], image_hw, strict=True):
        axis.dim_value = size
    return bytes(model.SerializeToString())


def parameters(model: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of a serialized graph by name; none of a graph that version 0.1.0 saved."""
    tensors = onnx.load_from_string(model).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.startswith(PARTS)}


def _pdn(graph: Graph, x: str, part: str, weights: Weights, networks: Networks) -> str:
    """Return the features of a patch description network: Batzner et al. 2024, tables 6 and 7."""
    pad = int(networks.padding)
    *inner, (last, *_) = CONVS[networks.size]
    for name, _, _, padding in inner:
        x = graph.add("Relu", [_conv(graph, x, part, name, weights, padding=pad * padding)])
        if name in POOLED:
            window = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [pad] * 4}
            x = graph.add("AveragePool", [x], **window, count_include_pad=1)
    return _conv(graph, x, part, last, weights)


def _autoencoder(graph: Graph, x: str, networks: Networks, image_hw: tuple[int, int]) -> str:
    """Return the features of the autoencoder, (B, n, h, w): Batzner et al. 2024, table 8."""
    weights, size = networks.autoencoder, image_hw
    *strided, (last, *_) = ENCODER
    for name, _, _, _, stride, padding in strided:
        conv = _conv(graph, x, "autoencoder", f"encoder.{name}", weights, stride=stride, padding=padding)
        x, size = graph.add("Relu", [conv]), (size[0] // 2, size[1] // 2)
    if min(size) < BOTTLENECK:
        x = _resize(graph, x, (max(size[0], BOTTLENECK), max(size[1], BOTTLENECK)))
    x = _conv(graph, x, "autoencoder", f"encoder.{last}", weights)
    *resized, (last, *_, last_padding) = DECODER
    sizes = decoder_sizes(image_hw, padding=networks.padding)
    for (name, *_, padding), size in zip(resized, sizes, strict=True):
        conv = _conv(graph, _resize(graph, x, size), "autoencoder", f"decoder.{name}", weights, padding=padding)
        x = graph.add("Relu", [conv])
    return _conv(graph, x, "autoencoder", f"decoder.{last}", weights, padding=last_padding)


def _normalise(graph: Graph, x: str, part: str, mean: NDArray[Any], std: NDArray[Any]) -> str:
    centred = graph.add("Sub", [x, graph.weight(f"{part}.mean", mean)])
    return graph.add("Div", [centred, graph.weight(f"{part}.std", std)])


def _conv(graph: Graph, x: str, part: str, name: str, weights: Weights, *, stride: int = 1, padding: int = 0) -> str:
    parameters = [graph.weight(f"{part}.{name}.{kind}", weights[f"{name}.{kind}"]) for kind in ("weight", "bias")]
    kernel = list(weights[f"{name}.weight"].shape[2:])
    return graph.add("Conv", [x, *parameters], kernel_shape=kernel, strides=[stride] * 2, pads=[padding] * 4)


def _channels(graph: Graph, x: str, start: int, end: int) -> str:
    bounds = [graph.weight(f"at {n}", np.array([n]), np.int64) for n in (start, end, 1)]
    return graph.add("Slice", [x, *bounds])


def _resize(graph: Graph, x: str, hw: tuple[int, int]) -> str:
    size = graph.weight(f"size {hw[0]} {hw[1]}", np.array(hw), np.int64)
    shape = graph.add("Concat", [graph.add("Shape", [x], start=0, end=2), size], axis=0)
    return graph.add("Resize", [x, "", "", shape], mode="linear")
