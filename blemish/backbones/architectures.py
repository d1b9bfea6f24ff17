"""Architectures of the pretrained networks as ONNX graphs, built from their weights.

Each network is a generator that adds to a `Graph` and yields (layer name, tensor) from the first layer to the last, so
that a graph ends with the deepest layer of its outputs. Batch norm is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish._graphs.builder import Graph, Padding, fold_batch_norm
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    import onnx

StateDict = Mapping[str, NDArray[Any]]
Layers = Iterator[tuple[str, str]]

# ImageNet's channel means and standard deviations on the 0 to 255 scale, as in torchvision and most other programs.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
LOGITS = "logits"


def efficientnet_lite(graph: Graph, state: StateDict) -> Layers:
    """Yield the layers of an EfficientNet-Lite: "blocks.0" and so on, "head", "logits".

    Depth and widths are read off the weights: Lite0 to Lite4.

    Source: Tan and Le 2019 (arXiv 1905.11946), table 1; github.com/tensorflow/tpu, models/official/efficientnet/lite:
        no squeeze and excitation, ReLU6, stem and head of fixed width; mean 127, standard deviation 128, epsilon 1e-3.
    """
    weights = NamedWeights(state, epsilon=1e-3)
    x = graph.image((127.0,) * 3)
    weight, bias = weights.fold("_conv_stem", "_bn0")
    x = graph.relu6(graph.conv(x, weight / 128, bias, stride=2, same=True))
    channels = weight.shape[0]
    for i in range(weights.count("_blocks.{}._project_conv.weight")):
        name = f"_blocks.{i}"
        y = x
        if f"{name}._expand_conv.weight" in state:
            weight, bias = weights.fold(f"{name}._expand_conv", f"{name}._bn0")
            y = graph.relu6(graph.conv(x, weight, bias))
        stride = _lite_stride(weights, i)
        weight, bias = weights.fold(f"{name}._depthwise_conv", f"{name}._bn1")
        y = graph.relu6(graph.conv(y, weight, bias, stride=stride, same=True))
        weight, bias = weights.fold(f"{name}._project_conv", f"{name}._bn2")
        y = graph.conv(y, weight, bias)
        x = graph.sum(y, x) if stride == 1 and weight.shape[0] == channels else y
        channels = weight.shape[0]
        yield f"blocks.{i}", x
    x = graph.relu6(graph.conv(x, *weights.fold("_conv_head", "_bn1")))
    yield "head", x
    yield LOGITS, graph.classify(x, weights["_fc.weight"], weights["_fc.bias"])


def _lite_stride(weights: NamedWeights, i: int) -> int:
    """Return the stride of block `i`: 2 for the first of the stages 2, 3, 4 and 6 (table 1)."""
    depth = weights.count("_blocks.{}._project_conv.weight")
    shapes = [weights[f"_blocks.{n}._project_conv.weight"].shape[0] for n in range(depth)]
    firsts = [n for n in range(depth) if n == 0 or shapes[n] != shapes[n - 1]]
    return 2 if i in firsts and firsts.index(i) in {1, 2, 3, 5} else 1


def mobilenet_v2(graph: Graph, state: StateDict) -> Layers:
    """Yield the layers of MobileNetV2 by torchvision's names: "features.0" to "features.18", "logits".

    Source: Sandler et al. 2018 (arXiv 1801.04381), table 2; key layout of torchvision 0.8.
    """
    weights = NamedWeights(state, epsilon=1e-5)
    x = graph.image(IMAGENET_MEAN)
    weight, bias = weights.fold("features.0.0", "features.0.1")
    x = graph.relu6(graph.conv(x, weight / per_input(IMAGENET_STD), bias, stride=2))
    channels = weight.shape[0]
    yield "features.0", x
    for i in range(1, 18):
        convs = [f"features.{i}.conv.{n}" for n in (("0", "1", "2") if i > 1 else ("0", "1"))]
        y = x
        for conv in convs[:-2]:
            y = graph.relu6(graph.conv(y, *weights.fold(f"{conv}.0", f"{conv}.1")))
        stride = 2 if i in {2, 4, 7, 14} else 1  # table 2: the first block of the stages with s = 2
        weight, bias = weights.fold(f"{convs[-2]}.0", f"{convs[-2]}.1")
        y = graph.relu6(graph.conv(y, weight, bias, stride=stride))
        weight, bias = weights.fold(convs[-1], f"features.{i}.conv.{len(convs)}")
        y = graph.conv(y, weight, bias)
        x = graph.sum(x, y) if stride == 1 and weight.shape[0] == channels else y
        channels = weight.shape[0]
        yield f"features.{i}", x
    x = graph.relu6(graph.conv(x, *weights.fold("features.18.0", "features.18.1")))
    yield "features.18", x
    yield LOGITS, graph.classify(x, weights["classifier.1.weight"], weights["classifier.1.bias"])


def resnet(graph: Graph, state: StateDict) -> Layers:
    """Yield the layers of a ResNet by torchvision's names: "layer1.0" and so on, "layer1" to "layer4", "logits".

    ResNet-18 to -152, Wide-ResNets and ResNeXts: kind of block, depth, widths and groups are read off the weights.

    Source: He et al. 2016 (arXiv 1512.03385), table 1; torchvision puts a bottleneck's stride into its 3 x 3 ("v1.5").
    """
    weights = NamedWeights(state, epsilon=1e-5)
    x = graph.image(IMAGENET_MEAN)
    weight, bias = weights.fold("conv1", "bn1")
    x = graph.max_pool(graph.relu(graph.conv(x, weight / per_input(IMAGENET_STD), bias, stride=2)))
    for layer in range(1, 5):
        for i in range(max(1, weights.count(f"layer{layer}.{{}}.conv1.weight"))):
            name = f"layer{layer}.{i}"
            n_convs = 3 if f"{name}.conv3.weight" in state else 2
            strided = 2 if n_convs == 3 else 1
            stride = 2 if layer > 1 and i == 0 else 1
            y = x
            for n in range(1, n_convs + 1):
                weight, bias = weights.fold(f"{name}.conv{n}", f"{name}.bn{n}")
                y = graph.conv(y, weight, bias, stride=stride if n == strided else 1)
                y = graph.relu(y) if n < n_convs else y
            if f"{name}.downsample.0.weight" in state:
                x = graph.conv(x, *weights.fold(f"{name}.downsample.0", f"{name}.downsample.1"), stride=stride)
            x = graph.relu(graph.sum(y, x))
            yield name, x
        yield f"layer{layer}", x
    yield LOGITS, graph.classify(x, weights["fc.weight"], weights["fc.bias"])


# Blocks of each stage, and channels behind a block for each channel of its 3 x 3 convolution: He et al. 2016, table 1;
# Zagoruyko and Komodakis 2016 (arXiv 1605.07146), with twice the channels inside.
RESNETS = {"resnet18": ((2, 2, 2, 2), 1), "resnet50": ((3, 4, 6, 3), 4), "wide_resnet50_2": ((3, 4, 6, 3), 2)}


def check_resnet(name: str, state: StateDict) -> None:
    """Raise unless weights are those of the named ResNet, as far as depths, widths and groups of its blocks show.

    Stages that are absent are not judged: a graph may end before them.

    Raises:
        ModelFileError: if they are those of another ResNet.
    """
    weights = NamedWeights(state, epsilon=1e-5)
    names = [f"layer1.0.conv{n}.weight" for n in (1, 2, 3) if n < 3 or "layer1.0.conv3.weight" in state]
    convs = [weights[each] for each in names if each in state]
    if len(convs) < len(names) or any(conv.ndim != 4 or not conv.size for conv in convs):
        return  # the graph's construction names what is wrong
    depths = tuple(weights.count(f"layer{n}.{{}}.conv1.weight") for n in range(1, 5))
    kind = depths, len(convs[-1]) / len(convs[1]), len(convs[0]) / convs[1].shape[1]
    known = {
        other: (tuple(n if depth else 0 for n, depth in zip(stages, depths, strict=True)), ratio, 1)
        for other, (stages, ratio) in RESNETS.items()
    }
    if known[name] != kind:
        same = [other for other, its_kind in known.items() if its_kind == kind]
        got = f"those of {same[0]}" if same else f"others of {', '.join(map(str, depths))} blocks"
        todo = f"Give the weight file of {name}" + (f', or backbone="{same[0]}".' if same else ".")
        raise ModelFileError(message("weights", f"those of {name}", got, todo=todo))


def per_input(values: Sequence[float]) -> NDArray[np.float32]:
    """Return one number per input channel in the shape that divides a convolution's weight."""
    return np.array(values, np.float32)[None, :, None, None]


class NamedWeights:
    """Weights by name, checked when they are read; `todo` is the advice if one is absent."""

    def __init__(
        self, state: StateDict, *, epsilon: float, todo: str = "Give the weight file of this network."
    ) -> None:
        self.state = state
        self.epsilon = epsilon
        self.todo = todo

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.state:
            got = f"{len(self.state)} others, such as {', '.join(sorted(self.state)[:3])}"[:160]
            raise ModelFileError(message("weights", name, got, todo=self.todo))
        array = self.state[name]
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            got = f"{array.dtype}" if array.dtype.kind != "f" else "NaN or infinite values"
            raise ModelFileError(message(name, "finite floating-point weights", got))
        return array

    def count(self, pattern: str) -> int:
        """Return how many names there are with 0, 1, ... in the place of {}."""
        n = 0
        while pattern.format(n) in self.state:
            n += 1
        return n

    def fold(self, conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight and bias of a convolution with its batch norm folded in."""
        weight = np.atleast_1d(self[f"{conv}.weight"])
        bias = self[f"{conv}.bias"] if f"{conv}.bias" in self.state else np.zeros(len(weight), np.float32)
        statistics = [self[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
        shapes = {array.shape for array in (bias, *statistics)}
        if weight.ndim != 4 or shapes != {weight.shape[:1]}:
            got = f"{weight.shape} and {', '.join(str(shape) for shape in sorted(shapes))}"
            raise ModelFileError(message(f"{conv}.weight", "(out, in, k, k) and its batch norm's (out,)", got))
        gamma, beta, mean, variance = statistics
        return fold_batch_norm(weight, bias, gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=self.epsilon)


def build_graph(
    network: Callable[[Graph, StateDict], Layers],
    state: StateDict,
    layers: Sequence[str],
    *,
    padding: Padding = "zero",
) -> onnx.ModelProto:
    """Return the network from `image`, uint8 (B, H, W, 3) RGB, to its deepest output layer.

    Args:
        network: a generator of layers, such as `resnet`.
        state: its weights by name.
        layers: names of the output layers, float32 (B, C, h, w), in order; "logits" alone is the whole classifier,
            (B, 1000).
        padding: see `Graph`.

    Raises:
        InputError: if there is no layer of that name.
        ModelFileError: if the weights are not those of the network.
    """
    graph = Graph(padding)
    tensors: dict[str, str] = {}
    for name, tensor in network(graph, state):
        tensors[name] = tensor
        if tensors.keys() >= set(layers):
            break
    if not layers or not tensors.keys() >= set(layers) or len(set(layers)) < len(layers):
        got = ", ".join(layers) or "none"
        raise InputError(message("layers", f"different names among {', '.join(tensors)}", got))
    outputs: dict[str, str] = {}
    for name in layers:
        # "layer2" and "layer2.3" are one tensor; an ONNX output has one name.
        is_output = tensors[name] in outputs.values()
        outputs[name] = graph.add("Identity", [tensors[name]]) if is_output else tensors[name]
    return graph.model(outputs, n_axes=2 if LOGITS in layers else 4)


NETWORKS: dict[str, Callable[[Graph, StateDict], Layers]] = {
    "efficientnet_lite0": efficientnet_lite,
    "efficientnet_lite1": efficientnet_lite,
    "efficientnet_lite2": efficientnet_lite,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet,
    "resnet50": resnet,
    "wide_resnet50_2": resnet,
}
