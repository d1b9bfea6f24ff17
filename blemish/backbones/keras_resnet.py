"""ResNet-50 as Keras publishes it: weights of a TensorFlow.js layers model in an npm tarball, and their architecture.

The tarball is read in memory; nothing of it is written to disk.
"""

from __future__ import annotations

import io
import math
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish._io.json_file import read_json_object
from blemish.backbones.architectures import LOGITS, NamedWeights
from blemish.errors import ModelFileError, message

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph
    from blemish.backbones.architectures import Layers, StateDict

MAX_UNPACKED_BYTES = 1 << 28  # ResNet-50 unpacks to 103 MB
MAX_FILES = 1000
MAX_HEADERS = 5000  # with those of long names
MAX_HEADER_BYTES = 1 << 16  # of a long name or a pax header, which tarfile reads at once
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
AGAIN = "Copy or download the file again."


def keras_resnet50(graph: Graph, state: StateDict) -> Layers:
    """Yield the layers of Keras's ResNet-50 by the names of `resnet`, from weights by their Keras names.

    These are the authors' Caffe weights: stride in the first 1 x 1 of a block, biases in the convolutions, channels in
    the order BGR, a mean but no standard deviation. The graph takes RGB like all others.

    Source: keras-applications 1.0, resnet50.py and imagenet_utils.py (mode "caffe").
    """
    weights = NamedWeights(_from_keras(state), epsilon=1e-3)
    x = graph.image((123.68, 116.779, 103.939))
    weight, bias = weights.fold("conv1", "bn_conv1")
    x = graph.max_pool(graph.relu(graph.conv(x, weight[:, ::-1], bias, stride=2)))
    for layer, depth in enumerate((3, 4, 6, 3), start=1):
        for i in range(depth):
            block = f"{layer + 1}{'abcdef'[i]}_branch"
            stride = 2 if layer > 1 and i == 0 else 1
            y = x
            for conv in ("2a", "2b", "2c"):
                weight, bias = weights.fold(f"res{block}{conv}", f"bn{block}{conv}")
                y = graph.conv(y, weight, bias, stride=stride if conv == "2a" else 1)
                y = graph.relu(y) if conv != "2c" else y
            if i == 0:
                x = graph.conv(x, *weights.fold(f"res{block}1", f"bn{block}1"), stride=stride)
            x = graph.relu(graph.sum(y, x))
            yield f"layer{layer}.{i}", x
        yield f"layer{layer}", x
    yield LOGITS, graph.classify(x, weights["fc1000.weight"], weights["fc1000.bias"])


def _from_keras(state: StateDict) -> StateDict:
    """Return the same weights in torch's layout and names."""
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    renamed = {}
    for name, array in state.items():
        layer, _, kind = name.rpartition("/")
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
        renamed[f"{layer}.{names.get(kind, kind)}"] = array.transpose(axes)
    return renamed


def read_tfjs(
    data: bytes, *, where: object, max_unpacked_bytes: int = MAX_UNPACKED_BYTES
) -> dict[str, NDArray[np.float32]]:
    """Return the float32 weights of the one layers model in a .tgz by their Keras names, such as "conv1/kernel".
    ModelFileError if it is damaged, unpacks to more, or holds no model of plain float32 weights.
    """
    files = _unpack(data, where, max_unpacked_bytes)
    models = [name for name in files if name.rpartition("/")[2] == "model.json"]
    if len(models) != 1:
        raise _refuse("one model.json", f"{len(models)}", where)
    folder = models[0][: -len("model.json")]
    try:
        groups = [
            ([str(path) for path in group["paths"]], [_entry(entry) for entry in group["weights"]])
            for group in read_json_object(files[models[0]], name="model.json", where=where)["weightsManifest"]
        ]
    except ModelFileError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        got = f"{type(error).__name__} {error}"[:100]
        raise _refuse("a weightsManifest of plain float32 weights", got, where) from None
    weights: dict[str, NDArray[np.float32]] = {}
    named = [path for paths, _ in groups for path in paths]
    if len(set(named)) < len(named):  # a file of a megabyte, joined a million times
        raise _refuse("each file of weights once", "one named again", where)
    for paths, entries in groups:
        absent = [path for path in paths if folder + path not in files]
        if absent:
            raise _refuse(f"{absent[0][:60]} in the tarball", "nothing", where)
        content = b"".join(files[folder + path] for path in paths)
        expected = 4 * sum(math.prod(shape) for _, shape in entries)
        if len(content) != expected:
            raise _refuse(f"{expected} bytes of weights", str(len(content)), where)
        start = 0
        for name, shape in entries:
            weights[name] = np.frombuffer(content, "<f4", math.prod(shape), start).reshape(shape)
            start += 4 * math.prod(shape)
    return weights


def _entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of a weight."""
    name, shape = entry["name"], tuple(entry["shape"])
    if entry["dtype"] != "float32" or "quantization" in entry or not isinstance(name, str):
        raise ValueError("a weight that is not float32")
    if not all(type(n) is int and 0 < n < 1 << 24 for n in shape) or len(shape) > 4:
        raise ValueError("an impossible shape")
    return name, shape


def _headers(where: object) -> type[tarfile.TarInfo]:
    """Return the class of a tarball's headers that refuses large ones and too many of them."""
    n_headers = 0

    class Header(tarfile.TarInfo):
        def _proc_member(self, tar: tarfile.TarFile) -> Any:
            nonlocal n_headers
            n_headers += 1
            if n_headers > MAX_HEADERS or (self.type not in PLAIN and self.size > MAX_HEADER_BYTES):
                expected = f"at most {MAX_HEADERS} headers of at most {MAX_HEADER_BYTES} bytes"
                raise _refuse(expected, f"number {n_headers} of {self.size} bytes", where)
            return super()._proc_member(tar)  # type: ignore[misc]  # typeshed leaves it out

    return Header


def _unpack(data: bytes, where: object, max_bytes: int) -> dict[str, bytes]:
    """Return the ordinary files of a tarball by their paths in it."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz", tarinfo=_headers(where)) as tar:
            # Each header is checked before its file is unpacked.
            for member in tar:
                if member.offset_data + member.size > max_bytes or len(files) >= MAX_FILES:
                    raise _refuse(f"at most {max_bytes} bytes unpacked", "more", where)
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    files[member.name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise _refuse("a complete .tgz", str(error)[:100], where) from None
    return files


def _refuse(expected: str, got: str, where: object) -> ModelFileError:
    return ModelFileError(message("weights", expected, got, where=where, todo=AGAIN))
