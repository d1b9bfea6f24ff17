"""Small ONNX files whose run, or whose loading, would take gigabytes or minutes; none has a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Nodes = list[onnx.NodeProto]


def network(nodes: Nodes, weights: dict[str, Any] | None = None, *, opset: int = 17) -> onnx.ModelProto:
    """Return a graph from `image`, cast to `x`, (B, 3, H, W) float, to `features`, of the nodes' last output `y`."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ("B", "H", "W", 3))
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ("B", 3, "h", "w"))
    start = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["x"], perm=[0, 3, 1, 2]),
    ]
    end = [
        helper.make_node("ReduceMax", ["y"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["features"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph([*start, *nodes, *end], "bomb", [image], [features], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(operator: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def doubled(n: int) -> onnx.ModelProto:
    names = ["x", *(f"d{i}" for i in range(n - 1)), "y"]
    pairs = pairwise(names)
    return network([node("Concat", [before, before], after, axis=0) for before, after in pairs])


def products(n: int, side: int) -> onnx.ModelProto:
    names = ["w", *(f"p{i}" for i in range(n - 1)), "y"]
    chain = [node("MatMul", [before, before], after) for before, after in pairwise(names)]
    start = node("ConstantOfShape", ["side"], "w", value=numpy_helper.from_array(np.ones(1, np.float32)))
    return network([start, *chain], {"side": np.array([side, side])})


def grown_lists() -> onnx.ModelProto:
    """Return a graph whose shapes, not whose maps, double: shape inference with data propagation never ends."""
    names = ["s", *(f"d{i}" for i in range(40))]
    pairs = list(pairwise(names))
    nodes = [node("Concat", [before, before], after, axis=0) for before, after in pairs]
    last = node("Cast", [names[-1]], to=TensorProto.FLOAT)
    return network([node("Shape", ["x"], "s"), *nodes, last])


def many_nodes(n: int = 200_000) -> onnx.ModelProto:
    names = ["x", *(f"n{i}" for i in range(n - 1)), "y"]
    return network([node("Neg", [before], after) for before, after in pairwise(names)])


def pool(side: int = 801) -> onnx.ModelProto:
    enlarged = node("Resize", ["x", "", "", "size"], "large", mode="nearest")
    pooled = node("AveragePool", ["large"], kernel_shape=[side, side])
    return network([enlarged, pooled], {"size": np.array([1, 3, 1800, 1800])})


def of_values(operator: str) -> onnx.ModelProto:
    """Return a graph with a tensor whose size is a value of the image."""
    most = node("ReduceMax", ["x"], "highest", keepdims=0)
    number = node("Cast", ["highest"], "number", to=TensorProto.INT64)
    axes = node("Unsqueeze", ["number", "zero"], "size")
    last = {
        "ConstantOfShape": node("ConstantOfShape", ["size"]),
        "Expand": node("Expand", ["one", "size"]),
        "Range": node("Range", ["start", "highest", "step"]),
        "Tile": node("Tile", ["one", "size"]),
        "Resize": node("Resize", ["x", "", "", "sizes"]),
    }[operator]
    sizes = node("Concat", ["size", "size", "size", "size"], "sizes", axis=0)
    weights = {"zero": np.array([0]), "one": np.ones(1, np.float32), "start": np.float32(0), "step": np.float32(1)}
    return network([most, number, axes, sizes, last], weights)


BOMBS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "constant": (lambda: network([node("ConstantOfShape", ["n"])], {"n": np.array([40_000, 50_000])}), "elements"),
    "expand": (lambda: network([node("Expand", ["x", "n"])], {"n": np.array([30_000, 3, 256, 256])}), "elements"),
    "tile": (lambda: network([node("Tile", ["x", "n"])], {"n": np.array([30_000, 1, 1, 1])}), "elements"),
    "pad": (lambda: network([node("Pad", ["x", "n"])], {"n": np.array([0] * 6 + [99_999] * 2)}), "elements"),
    "resize": (
        lambda: network([node("Resize", ["x", "", "n"])], {"n": np.float32([1, 1, 200, 200])}),
        "elements",
    ),
    "upsampled kernel": (
        lambda: network([node("ConvTranspose", ["x", "w"], strides=[400, 400])], {"w": np.ones((3, 1, 9, 9), "f")}),
        "elements",
    ),
    "doubling": (lambda: doubled(24), "elements"),
    "doubling lists": (grown_lists, "elements"),
    "range": (
        lambda: network(
            [node("Range", ["a", "b", "c"])], {"a": np.float32(0), "b": np.float32(2e9), "c": np.float32(1)}
        ),
        "elements",
    ),
    "broadcast": (
        lambda: network([node("Add", ["a", "b"])], {"a": np.ones((40_000, 1), "f"), "b": np.ones((1, 40_000), "f")}),
        "elements",
    ),
    "gather": (
        lambda: network([node("Gather", ["a", "i"])], {"a": np.ones((2, 60_000), "f"), "i": np.zeros((90, 900), int)}),
        "elements",
    ),
    "many at once": (
        lambda: network(
            [
                *(node("ConstantOfShape", ["n"], f"c{i}") for i in range(8)),
                node("Sum", [f"c{i}" for i in range(8)]),
            ],
            {"n": np.array([16_000, 16_000])},
        ),
        "MiB at once",
    ),
    "products": (lambda: products(60, 4096), "multiplications"),
    "products of doubles": (
        lambda: network(
            [
                node("ConstantOfShape", ["n"], "a", value=numpy_helper.from_array(np.ones(1))),
                *(node("MatMul", [before, "a"], after) for before, after in (("a", "b"), ("b", "c"))),
                node("Cast", ["c"], to=TensorProto.FLOAT),
            ],
            {"n": np.array([5000, 5000])},
        ),
        "multiplications",
    ),
    "pool": (pool, "multiplications"),
    "norm of neighbors": (
        lambda: network([node("LRN", ["x"], size=20_000_001)]),
        "multiplications",
    ),
    "convolution": (
        lambda: network(
            [
                node("Conv", ["x", "w"], "c0", pads=[127] * 4),
                *(node("Conv", [f"c{i}", "w2"], f"c{i + 1}", pads=[127] * 4) for i in range(4)),
                node("Neg", ["c4"]),
            ],
            {"w": np.ones((9, 3, 255, 255), np.float32), "w2": np.ones((9, 9, 255, 255), np.float32)},
        ),
        "multiplications",
    ),
    "nodes": (many_nodes, "at most 10000 nodes"),
    "sorting": (
        lambda: network([helper.make_node("TopK", ["x", "k"], ["y", "i"])], {"k": np.array([9])}),
        "operators of image networks, got operator 'TopK'",
    ),
    "one-hot": (
        lambda: network(
            [node("OneHot", ["i", "d", "v"])],
            {"i": np.zeros((64, 64), int), "d": np.array(10**6), "v": np.float32([0, 1])},
        ),
        "operators of image networks, got operator 'OneHot'",
    ),
    **{
        f"{operator} of values": (lambda operator=operator: of_values(operator), "sizes follow from the image's size")
        for operator in ("ConstantOfShape", "Expand", "Range", "Tile", "Resize")
    },
}


def two_formats(shown: onnx.ModelProto, hidden: onnx.ModelProto, folder: Path) -> bytes:
    """Return a file that is `shown` to protobuf and `hidden` to ONNX Runtime, which looks for "ORTM" at byte 4.

    An ORT file is a flatbuffer: the place of its root at byte 0, and places relative to each other behind it. Bytes 0
    to 3 are here the fields `ir_version` 8 and `producer_name` of 4 bytes, "ORTM"; the rest is in `doc_string`.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "hidden.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(hidden.SerializeToString(), options, providers=["CPUExecutionProvider"])
    flat = (folder / "hidden.ort").read_bytes()
    start = b"\x08\x08\x12\x04"  # ir_version 8, producer_name of 4 bytes
    shift = int.from_bytes(start, "little") - int.from_bytes(flat[:4], "little")
    text = bytes(shift - 8 - 6) + flat  # behind "ORTM", and 6 bytes of tag and length
    length, varint = len(text), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    tag = b"\x32" + bytes(varint).ljust(5, b"\x80")
    if len(varint) < 5:  # overlong, so that the text starts where it must
        tag = b"\x32" + bytes([*varint[:-1], varint[-1] | 0x80, *[0x80] * (4 - len(varint)), 0])
    rest = onnx.ModelProto()
    rest.CopyFrom(shown)
    for name in ("ir_version", "producer_name", "doc_string"):
        rest.ClearField(name)
    return start + b"ORTM" + tag + text + rest.SerializeToString()
