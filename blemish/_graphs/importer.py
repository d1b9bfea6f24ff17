"""ONNX networks of other programs as backbones: layers by tensor name, behind `image`, uint8 (B, H, W, 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from blemish._graphs.builder import Graph, nested_nodes, prune, rename
from blemish._graphs.safety import nested_messages, parsed, unsafe_part
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped, unused-ignore]  # no stubs

MAX_ONNX_BYTES = 1 << 30  # protobuf ends at 2 GiB, and a copy is made; ViT-L/14 in float32 is 1.2 GB, ViT-B 350 MB
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
MIN_OPSET = 13  # Slice and Squeeze as they are used here


class ImportedNetwork(NamedTuple):
    """An ONNX network that reads `image`.

    Attributes:
        image_hw: the fixed (height, width) of its images, or None for any.
    """

    graph: Graph
    image_hw: tuple[int, int] | None


class FeatureMap(NamedTuple):
    """A float32 (B, C, h, w) tensor of a graph: its name, and C."""

    tensor: str
    channels: int


def parse_onnx(data: bytes, *, where: object) -> onnx.ModelProto:
    """Return the ONNX model in the bytes of a file, or raise ModelFileError if there is none, or it keeps weights in
    other files, or uses operators from outside the standard, local functions or loops.
    """
    model = parsed(data)
    if model is None:
        raise _refuse("an ONNX graph", "bytes that are none", where)
    unsafe = unsafe_part(model)
    if unsafe:
        todo = "Export it again with standard operators and its weights inside."
        raise _refuse(*unsafe, where, todo)
    # protobuf returns text that is not UTF-8 as bytes, which no name of a tensor may be.
    if any(isinstance(text, bytes) for part in nested_messages(model) for text in _texts(part)):
        raise _refuse("an ONNX graph", "names that are no text", where)
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    if opset < MIN_OPSET or not model.graph.node:
        got = f"opset {opset}" if model.graph.node else "an empty one"
        raise _refuse(f"a graph of opset {MIN_OPSET} or later", got, where, "Export it again.")
    return model


def _texts(part: Message) -> Iterator[str | bytes]:
    for kind, value in part.ListFields():
        if kind.type == kind.TYPE_STRING:
            yield from [value] if isinstance(value, (str, bytes)) else value


def open_onnx(
    model: onnx.ModelProto, layers: Sequence[str], *, mean: Sequence[float], std: Sequence[float], where: object
) -> ImportedNetwork:
    """Return the part of a model that leads to `layers`, with `image`, uint8 (B, H, W, 3) RGB, as its input.

    An input of float (B, 3, H, W) or (B, H, W, 3) is ((image / 255) - mean) / std, one of uint8 (B, H, W, 3) the image.

    Args:
        model: the result of `parse_onnx`, which is changed.
        mean: of red, green and blue on the 0 to 1 scale.

    Raises:
        InputError: if a layer is no tensor of the graph.
        ModelFileError: if its input is no image.
    """
    tensors = {output for node in model.graph.node for output in node.output if output}
    absent = [layer for layer in layers if layer not in tensors]
    if absent or not layers or len(set(layers)) < len(layers):
        near = sorted(tensors, key=lambda name: (not any(layer in name for layer in layers), name))[:12]
        expected = f"different names of tensors, such as {', '.join(near)}"
        raise InputError(message("layers", expected, ", ".join(layers) or "none", where=where))
    if "image" in layers:
        raise InputError(
            message("layers", "tensors of other names than ours", "image", todo="Rename it in the export.")
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)[:160] or "none"
        raise _refuse("one input, the image", names, where, "Export it with the image as its only input.")
    own_input = inputs[0].name
    kind, sizes = _image(inputs[0], where)
    prune(model.graph, layers)
    if own_input != "image":
        used = {name for node in nested_nodes(model.graph.node) for name in (*node.input, *node.output)}
        rename(model.graph, {"image": next(name for i in count() if (name := f"image:{i}") not in used)})
    graph = Graph(model=model)
    graph.insert_after(own_input, lambda: _normalised(graph, kind, mean, std))
    height, width = (sizes[1], sizes[2]) if kind.endswith("hwc") else (sizes[2], sizes[3])
    graph.read_image((height, width), batch=sizes[0])
    return ImportedNetwork(graph, (height, width) if height and width else None)


def feature_map(
    graph: Graph,
    layer: str,
    sample: np.ndarray[Any, Any],
    *,
    image_hw: tuple[int, int],
    n_prefix_tokens: int | None,
    where: object,
) -> FeatureMap:
    """Return a tensor as a float32 (B, C, h, w) map, adding the nodes that this takes.

    Args:
        sample: its value for one image.
        n_prefix_tokens: the number of class and register tokens before the patches; None for the rest beside the
            largest square grid, for a square image.

    Raises:
        InputError: if the tensor is neither a map nor tokens of a grid.
    """
    if sample.dtype not in (np.float32, np.float16) or sample.ndim not in (3, 4):
        got = f"{sample.dtype} {sample.shape}"
        raise InputError(message(layer, "float (B, C, h, w) or tokens (B, T, C)", got, where=where))
    x = layer if sample.dtype == np.float32 else graph.add("Cast", [layer], to=TensorProto.FLOAT)
    if sample.ndim == 4:
        return FeatureMap(x, int(sample.shape[1]))
    prefix, patch_hw = _grid(layer, sample.shape[1], image_hw, n_prefix_tokens, where)
    graph.require_patches(patch_hw[0])
    end = graph.integers(np.iinfo(np.int64).max)
    tokens = graph.add("Slice", [x, graph.integers(prefix), end, graph.integers(1)])
    planes = graph.add("Transpose", [tokens], perm=[0, 2, 1])
    size = graph.shape("image", 1, 3)
    grid = graph.add("Div", [size, graph.integers(*patch_hw)])
    shape = graph.add("Concat", [graph.integers(0, 0), grid], axis=0)
    return FeatureMap(graph.add("Reshape", [planes, shape]), int(sample.shape[2]))


def _grid(
    layer: str, n_tokens: int, image_hw: tuple[int, int], n_prefix: int | None, where: object
) -> tuple[int, tuple[int, int]]:
    """Return the number of tokens before the patches, and the (height, width) of a patch in pixels."""
    height, width = image_hw
    common = math.gcd(height, width)
    rows, columns = height // common, width // common
    # A grid of h x w square patches has h : w as height : width; n_tokens - prefix = m * m * rows * columns.
    if n_prefix is None:
        m = math.isqrt(n_tokens // (rows * columns))
        prefix = n_tokens - m * m * rows * columns
    else:
        prefix = n_prefix
        m = math.isqrt(max(n_tokens - prefix, 0) // (rows * columns))
    if m == 0 or n_tokens - prefix != m * m * rows * columns or common % m or prefix < 0:
        given = "" if n_prefix is None else f" of which {n_prefix} are no patches"
        expected = f"tokens of a grid of patches on {height} x {width} pixels"
        todo = "Say how many are no patches: n_prefix_tokens=."
        raise InputError(message(layer, expected, f"{n_tokens}{given}", where=where, todo=todo))
    return prefix, (common // m, common // m)


def _image(value: onnx.ValueInfoProto, where: object) -> tuple[str, list[int]]:
    """Return dtype and layout of a network's input ("uint8 hwc", "float chw", ...) and its sizes, 0 for any."""
    tensor = value.type.tensor_type
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    dtype = names.get(tensor.elem_type, "unknown")
    if len(sizes) == 4 and min(sizes) >= 0:
        if (tensor.elem_type in FLOATS and sizes[1] == 3) or (tensor.elem_type in FLOATS and sizes[1:] == [0, 0, 0]):
            return f"{dtype} chw", sizes
        if sizes[3] == 3 and (tensor.elem_type in FLOATS or tensor.elem_type == TensorProto.UINT8):
            return f"{dtype} hwc", sizes
    shape = ", ".join(str(axis.dim_value or axis.dim_param or "?") for axis in tensor.shape.dim)
    expected = "an image as input, float (B, 3, H, W), float (B, H, W, 3) or uint8 (B, H, W, 3)"
    raise _refuse(expected, f"{value.name} {dtype} ({shape})"[:160], where)


def _normalised(graph: Graph, kind: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Return the network's own input, made of `image`."""
    dtype, layout = kind.split()
    if dtype == "uint8":
        return "image"
    shape = (1, 3, 1, 1) if layout == "chw" else (1, 1, 1, 3)
    offset = graph.weight("image offset", np.reshape(np.array(mean, np.float64) * 255, shape))
    scale = graph.weight("image scale", np.reshape(1 / (np.array(std, np.float64) * 255), shape))
    pixels = graph.add("Transpose", ["image"], perm=[0, 3, 1, 2]) if layout == "chw" else "image"
    centered = graph.add("Sub", [graph.add("Cast", [pixels], to=TensorProto.FLOAT), offset])
    scaled = graph.add("Mul", [centered, scale])
    return graph.add("Cast", [scaled], to=TensorProto.FLOAT16) if dtype == "float16" else scaled


def _refuse(expected: str, got: str, where: object, todo: str = "") -> ModelFileError:
    return ModelFileError(message("backbone", expected, got, where=where, todo=todo))
