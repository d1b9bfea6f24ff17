"""Any ONNX network as a backbone: its named tensors become outputs, and our input is put in front of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped, unused-ignore]  # no stubs
from onnx import TensorProto, helper, numpy_helper

from blemish._graphs.safety import parts, unsafe_part
from blemish.errors import InputError, ModelFileError, message

MAX_ONNX_BYTES = 1 << 30  # protobuf ends at 2 GiB, and a copy is made; ViT-L/14 in float32 is 1.2 GB, ViT-B 350 MB
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
MIN_OPSET = 13  # Slice and Squeeze as they are used here


class Opened(NamedTuple):
    """An ONNX file whose input is now `image`.

    Attributes:
        model: the graph without outputs; `with_outputs` gives it some.
        image_hw: the one size of image that it takes, or None for any.
        batch: the one number of images that it takes, or None for any.
    """

    model: onnx.ModelProto
    image_hw: tuple[int, int] | None
    batch: int | None


def parse_onnx(data: bytes, *, where: object) -> onnx.ModelProto:
    """Return an ONNX model out of bytes, if it is one that may be run.

    Raises:
        ModelFileError: if it is none, or keeps weights in other files, or uses operators from outside the standard,
            local functions or loops.
    """
    model = onnx.ModelProto()
    if len(data) > MAX_ONNX_BYTES:
        raise _refuse(f"at most {MAX_ONNX_BYTES} bytes", str(len(data)), where)
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise _refuse("an ONNX graph", "bytes that are none", where) from None
    unsafe = unsafe_part(model)
    if unsafe:
        todo = "Export it again with standard operators and its weights inside."
        raise _refuse(*unsafe, where, todo)
    # protobuf gives text that is not UTF-8 as bytes, which no name of a tensor may be.
    if any(isinstance(text, bytes) for part in parts(model) for text in _texts(part)):
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
) -> Opened:
    """Return the part of a model that leads to `layers`, with `image`, uint8 (B, H, W, 3) RGB, as its input.

    An input that is float (B, 3, H, W) or (B, H, W, 3) gets ((image / 255) - mean) / std; one that is uint8
    (B, H, W, 3) gets the image as it is.

    Args:
        model: out of `parse_onnx`; it is changed.
        layers: names of tensors in its graph.
        mean: three numbers, of the 0 to 1 scale.
        std: as `mean`.
        where: its file, for errors.

    Raises:
        InputError: if a layer is no tensor of the graph.
        ModelFileError: if its input is no image.
    """
    graph = model.graph
    made = {output for node in graph.node for output in node.output if output}
    absent = [layer for layer in layers if layer not in made]
    if absent or not layers or len(set(layers)) < len(layers):
        near = sorted(made, key=lambda name: (not any(layer in name for layer in layers), name))[:12]
        expected = f"different names of tensors, such as {', '.join(near)}"
        raise InputError(message("layers", expected, ", ".join(layers) or "none", where=where))
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)[:160] or "none"
        raise _refuse("one input, the image", names, where, "Export it with the image as its only input.")
    kind, sizes = _image(inputs[0], where)
    _prune(graph, layers)
    _rename(graph, _new_names(graph, inputs[0].name, layers))
    before = _front(graph, kind, mean, std)
    nodes = [*before, *graph.node]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    height, width = (sizes[1], sizes[2]) if kind.endswith("hwc") else (sizes[2], sizes[3])
    image = ["B" if not sizes[0] else sizes[0], height or "H", width or "W", 3]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, image))
    fixed = (height, width) if height and width else None
    return Opened(model, fixed, sizes[0] or None)


def with_outputs(opened: Opened, layers: Mapping[str, tuple[int] | None]) -> onnx.ModelProto:
    """Return the model with these outputs: float32 (B, C, h, w) where (C,) is given, of no stated type where None."""
    model = onnx.ModelProto()
    model.CopyFrom(opened.model)
    for name, channels in layers.items():
        if channels is None:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        else:
            sizes = [opened.batch or "B", *channels, f"{name}:2", f"{name}:3"]
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    return model


def as_map(
    opened: Opened,
    layer: str,
    sample: np.ndarray[Any, Any],
    *,
    side_hw: tuple[int, int],
    n_prefix_tokens: int | None,
    where: object,
) -> int:
    """Make the tensor `layer` of the graph float32 (B, C, h, w), and return C.

    Args:
        opened: the model, which is changed: the nodes needed go to the end.
        layer: name of a tensor.
        sample: what it was on one image.
        side_hw: height and width of that image.
        n_prefix_tokens: how many of the tokens of a (B, T, C) tensor are no patches (class and register tokens); None
            to take the rest beside the largest square grid, for a square image.
        where: the file, for errors.

    Raises:
        InputError: if the tensor is no map and no row of tokens.
    """
    graph = opened.model.graph
    if sample.dtype not in (np.float32, np.float16) or sample.ndim not in (3, 4):
        got = f"{sample.dtype} {sample.shape}"
        raise InputError(message(layer, "float (B, C, h, w) or tokens (B, T, C)", got, where=where))
    if sample.ndim == 4 and sample.dtype == np.float32:
        return int(sample.shape[1])
    raw = f"{layer}/as exported"
    _rename(graph, {layer: raw})
    add = _Adder(graph, layer)
    if sample.ndim == 4:
        add.last("Cast", [raw], to=TensorProto.FLOAT)
        return int(sample.shape[1])
    x = add("Cast", [raw], to=TensorProto.FLOAT)
    prefix, patch_hw = _grid(layer, sample.shape[1], side_hw, n_prefix_tokens, where)
    tokens = add("Slice", [x, add.ints([prefix]), add.ints([np.iinfo(np.int64).max]), add.ints([1])])
    planes = add("Transpose", [tokens], perm=[0, 2, 1])
    size = add("Slice", [add("Shape", ["image"]), add.ints([1]), add.ints([3])])
    grid = add("Div", [size, add.ints(list(patch_hw))])
    shape = add("Concat", [add.ints([0, 0]), grid], axis=0)
    add.last("Reshape", [planes, shape])
    return int(sample.shape[2])


def _grid(
    layer: str, n_tokens: int, side_hw: tuple[int, int], n_prefix: int | None, where: object
) -> tuple[int, tuple[int, int]]:
    """Return how many tokens come before the patches, and the (height, width) of a patch in pixels."""
    height, width = side_hw
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


class _Adder:
    """Adds nodes for one layer at the end of a graph, with names that nothing else has."""

    def __init__(self, graph: onnx.GraphProto, layer: str) -> None:
        self.graph = graph
        self.layer = layer
        self.n = 0

    def __call__(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        self.n += 1
        name = f"{self.layer}/blemish{self.n}"
        self.graph.node.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def last(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add the node that makes the layer itself."""
        self.graph.node.append(helper.make_node(operator, inputs, [self.layer], **attributes))
        return self.layer

    def ints(self, values: list[int]) -> str:
        self.n += 1
        name = f"{self.layer}/blemish{self.n}"
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name


def _image(value: onnx.ValueInfoProto, where: object) -> tuple[str, list[int]]:
    """Return what kind of image an input takes ("u8 hwc", "f32 chw", ...) and its sizes, 0 for any."""
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


def _front(graph: onnx.GraphProto, kind: str, mean: Sequence[float], std: Sequence[float]) -> list[onnx.NodeProto]:
    """Return the nodes from `image` to what the network's own input was, now called "blemish/image"."""
    dtype, order = kind.split()
    if dtype == "uint8":
        return [helper.make_node("Identity", ["image"], ["blemish/image"])]
    shape = (1, 3, 1, 1) if order == "chw" else (1, 1, 1, 3)
    offset = np.reshape(np.array(mean, np.float64) * 255, shape).astype(np.float32)
    scale = np.reshape(1 / (np.array(std, np.float64) * 255), shape).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(offset, "blemish/offset"))
    graph.initializer.append(numpy_helper.from_array(scale, "blemish/scale"))
    to = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
    turned = [helper.make_node("Transpose", ["image"], ["blemish/chw"], perm=[0, 3, 1, 2])] if order == "chw" else []
    return [
        *turned,
        helper.make_node("Cast", ["blemish/chw" if turned else "image"], ["blemish/float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["blemish/float", "blemish/offset"], ["blemish/centred"]),
        helper.make_node("Mul", ["blemish/centred", "blemish/scale"], ["blemish/scaled"]),
        helper.make_node("Cast", ["blemish/scaled"], ["blemish/image"], to=to),
    ]


def _new_names(graph: onnx.GraphProto, own_input: str, layers: Sequence[str]) -> dict[str, str]:
    """Return the renamings that free the name `image` and give the network's own input its new name."""
    names = {own_input: "blemish/image"}
    used = {name for node in _nodes(graph) for name in (*node.input, *node.output)}
    used |= {tensor.name for tensor in graph.initializer}
    if "image" in used and own_input != "image":
        names["image"] = "blemish/its image"
    if "image" in layers or any(name.startswith("blemish/") for name in used):
        taken = "image" if "image" in layers else "blemish/"
        raise InputError(message("layers", "tensors of other names than ours", taken, todo="Rename it in the export."))
    return names


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    # Names inside inner graphs may not repeat those outside (ONNX is single-assignment), so that all can be renamed.
    for node in _nodes(graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _prune(graph: onnx.GraphProto, layers: Sequence[str]) -> None:
    """Leave only what leads to `layers`."""
    needed, kept = set(layers), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    needed.update(name for part in _nodes(inner) for name in part.input)
                    needed.update(output.name for output in inner.output)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def file_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an ONNX file.

    Raises:
        ModelFileError: if it can't be read or is larger than 1 GiB.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_ONNX_BYTES:
            raise _refuse(f"at most {MAX_ONNX_BYTES} bytes", str(size), path)
        return Path(path).read_bytes()
    except OSError as error:
        got = repr(error.strerror or str(error))
        raise _refuse("a readable ONNX file", got, path, "Check the path and its rights.") from None


def _refuse(expected: str, got: str, where: object, todo: str = "") -> ModelFileError:
    return ModelFileError(message("backbone", expected, got, where=where, todo=todo))
