"""timm's names of convolutions and layers, as in anomalib's checkpoints, for the networks in Blemish.

One list per network, in the order of the graph, serves all conversions: weights of a checkpoint to Blemish's names,
Blemish's weights to timm's names, and the graph of a model folder to a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import numpy_helper

from blemish.backbones.architectures import IMAGENET_MEAN, IMAGENET_STD, efficientnet_lite, mobilenet_v2, resnet
from blemish.errors import InputError, message

if TYPE_CHECKING:
    import onnx

    from blemish._graphs.builder import Graph
    from blemish.backbones.architectures import Layers, StateDict

LITE_NORMALISATION = ((127.0,) * 3, (128.0,) * 3)
PARTS = ("weight", "bias", "running_mean", "running_var")


class Conv(NamedTuple):
    """Names of one convolution and of its batch norm.

    Attributes:
        shape: of the weights if timm loads them even where no later layer is used; () otherwise.
    """

    name: str
    norm: str
    timm: str
    timm_norm: str
    shape: tuple[int, ...] = ()


class Network(NamedTuple):
    """A network in both Blemish and timm.

    Attributes:
        layers: timm's name of each feature layer to Blemish's, finest first.
        mean: subtracted from the pixels, on the 0 to 255 scale.
    """

    name: str
    build: Callable[[Graph, StateDict], Layers]
    convs: tuple[Conv, ...]
    layers: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: float

    def stride(self, layer: str) -> int:
        """Return the stride in pixels of a layer by timm's name: ResNets' first layer has 4, the others' 2."""
        return int(2 ** (list(self.layers).index(layer) + (2 if len(self.layers) == 4 else 1)))


def timm_network(name: str) -> Network:
    """Return the network of a name in timm; the tag of weights after a point is ignored. InputError if Blemish has no
    such network.
    """
    plain = name.partition(".")[0]
    if plain in RESNETS:
        layers = {f"layer{i}": f"layer{i}" for i in range(1, 5)}
        return Network(plain, resnet, _resnet(*RESNETS[plain]), layers, IMAGENET_MEAN, IMAGENET_STD, 1e-5)
    if plain in LITES:
        return _lite(plain.removeprefix("tf_"), LITES[plain])
    if plain == "mobilenetv2_100":
        return _mobilenet()
    todo = "Fit with Blemish instead, with that network as an ONNX file."
    known = ", ".join((*RESNETS, *LITES, "mobilenetv2_100"))
    raise InputError(message("backbone", f"one of {known}", repr(name), todo=todo))


def timm_name(backbone: str) -> str:
    """Return the name in timm of one of Blemish's networks, or raise InputError if timm has no such network."""
    names = {timm_network(name).name: name for name in (*RESNETS, *LITES, "mobilenetv2_100")}
    if backbone not in names:
        raise InputError(message("backbone", f"one of {', '.join(names)}", repr(backbone)))
    return names[backbone]


def from_timm(network: Network, state: StateDict) -> StateDict:
    """Return the convolutions' and batch norms' weights by Blemish's names; counters and classifiers are left out."""
    return {name: state[timm] for name, timm in _name_pairs(network) if timm in state}


def to_timm(network: Network, state: StateDict) -> dict[str, np.ndarray[Any, Any]]:
    """Return the convolutions' and batch norms' weights by timm's names."""
    return {timm: np.asarray(state[name]) for name, timm in _name_pairs(network) if name in state}


def set_normalisation(model: onnx.ModelProto, network: Network, mean: Sequence[float], std: Sequence[float]) -> None:
    """Replace the pixel normalisation of a graph, in place.

    Args:
        model: the graph of `build_graph`: a constant "mean", and standard deviations in the first convolution.
    """
    for tensor in model.graph.initializer:
        if tensor.name == "mean":
            changed = np.reshape(mean, (1, 3, 1, 1))
        elif tensor.name == "conv0.weight":
            changed = numpy_helper.to_array(tensor) * np.divide(network.std, std).reshape(1, 3, 1, 1)
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))


def _name_pairs(network: Network) -> list[tuple[str, str]]:
    pairs = []
    for conv in network.convs:
        pairs.append((f"{conv.name}.weight", f"{conv.timm}.weight"))
        pairs += [(f"{conv.norm}.{part}", f"{conv.timm_norm}.{part}") for part in PARTS]
    return pairs


# Blocks of each stage, and whether they are bottlenecks (He et al. 2016, table 1). timm keeps torchvision's names.
RESNETS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "wide_resnet50_2": ((3, 4, 6, 3), True),
    "wide_resnet101_2": ((3, 4, 23, 3), True),
    "resnext50_32x4d": ((3, 4, 6, 3), True),
    "resnext101_32x8d": ((3, 4, 23, 3), True),
}


def _resnet(depths: tuple[int, ...], bottleneck: bool) -> tuple[Conv, ...]:
    names = [("conv1", "bn1")]
    for layer, depth in enumerate(depths, start=1):
        for i in range(depth):
            block = f"layer{layer}.{i}"
            names += [(f"{block}.conv{n}", f"{block}.bn{n}") for n in range(1, 4 if bottleneck else 3)]
            if i == 0 and (layer > 1 or bottleneck):
                names.append((f"{block}.downsample.0", f"{block}.downsample.1"))
    return tuple(Conv(conv, norm, conv, norm) for conv, norm in names)


class _Blocks(NamedTuple):
    """The stages of a network of inverted bottlenecks."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    kernels: tuple[int, ...]

    def convs(self) -> list[list[tuple[str, str, tuple[int, ...]]]]:
        """Return convolution, batch norm and shape of each block by timm's names; the first block does not expand."""
        blocks: list[list[tuple[str, str, tuple[int, ...]]]] = []
        into = STEM
        for stage, (depth, width, kernel) in enumerate(zip(self.depths, self.widths, self.kernels, strict=True)):
            for i in range(depth):
                block = f"blocks.{stage}.{i}"
                inner = into * (EXPANSION if stage else 1)
                depthwise = (inner, 1, kernel, kernel)
                names = ("conv_pw", "conv_dw", "conv_pwl") if stage else ("conv_dw", "conv_pw")
                shapes = ((inner, into, 1, 1), depthwise, (width, inner, 1, 1))[0 if stage else 1 :]
                blocks.append(
                    [
                        (f"{block}.{conv}", f"{block}.bn{n}", shape)
                        for n, (conv, shape) in enumerate(zip(names, shapes, strict=True), start=1)
                    ]
                )
                into = width
        return blocks

    def layers(self) -> dict[str, int]:
        """Return the last block of each feature stage in timm: a stage before a downsampling."""
        return {f"blocks.{stage}": sum(self.depths[: stage + 1]) - 1 for stage in (0, 1, 2, 4, 6)}


STEM, EXPANSION = 32, 6
LITE_WIDTHS, LITE_KERNELS = (16, 24, 40, 80, 112, 192, 320), (3, 3, 5, 3, 5, 5, 3)  # Tan and Le 2019, table 1
# Compound scaling: below 112 channels only the width of Lite2 differs.
LITE2_WIDTHS = (16, 24, 48, 88, 120, 208, 352)
LITES = {
    "tf_efficientnet_lite0": _Blocks((1, 2, 2, 3, 3, 4, 1), LITE_WIDTHS, LITE_KERNELS),
    "tf_efficientnet_lite1": _Blocks((1, 3, 3, 4, 4, 5, 1), LITE_WIDTHS, LITE_KERNELS),
    "tf_efficientnet_lite2": _Blocks((1, 3, 3, 4, 4, 5, 1), LITE2_WIDTHS, LITE_KERNELS),
}
# Sandler et al. 2018, table 2.
MOBILE = _Blocks((1, 2, 3, 4, 3, 3, 1), (16, 24, 32, 64, 96, 160, 320), (3,) * 7)


def _lite(name: str, blocks: _Blocks) -> Network:
    convs = [Conv("_conv_stem", "_bn0", "conv_stem", "bn1")]
    for i, block in enumerate(blocks.convs()):
        names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")][-len(block) :]
        convs += [
            Conv(f"_blocks.{i}.{c}", f"_blocks.{i}.{n}", *timm) for (c, n), timm in zip(names, block, strict=True)
        ]
    layers = {stage: f"blocks.{last}" for stage, last in blocks.layers().items()}
    return Network(name, efficientnet_lite, tuple(convs), layers, *LITE_NORMALISATION, 1e-3)


def _mobilenet() -> Network:
    convs = [Conv("features.0.0", "features.0.1", "conv_stem", "bn1")]
    for i, block in enumerate(MOBILE.convs(), start=1):
        last = len(block) - 1
        names = [(f"{n}.0", f"{n}.1") for n in range(last)] + [(f"{last}", f"{last + 1}")]
        at = f"features.{i}.conv"
        convs += [Conv(f"{at}.{c}", f"{at}.{n}", *timm) for (c, n), timm in zip(names, block, strict=True)]
    layers = {stage: f"features.{last + 1}" for stage, last in MOBILE.layers().items()}
    return Network("mobilenet_v2", mobilenet_v2, tuple(convs), layers, IMAGENET_MEAN, IMAGENET_STD, 1e-5)
