"""ONNX graphs and safetensors files that a stranger made are refused before anything is built from them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper

from blemish._graphs.safety import check_network, read_tensors
from blemish.errors import ModelFileError
from tests.models import network


def refused(change: Callable[[onnx.ModelProto], object], text: str) -> None:
    graph = network()
    check_network(graph.SerializeToString(), name="network.onnx")
    change(graph)
    with pytest.raises(ModelFileError, match=rf"^network\.onnx: expected ({text}).*, in home\."):
        check_network(graph.SerializeToString(), name="network.onnx", where="home")


def tensor(*, external: bool = False) -> onnx.TensorProto:
    proto = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    if external:
        entry = proto.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
        proto.data_location = TensorProto.EXTERNAL
    return proto


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])])


def constant() -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["o"], value=tensor(external=True))


def in_function(graph: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 17)]
    graph.functions.append(helper.make_function("local", "f", [], ["o"], [constant()], opset))


EXTERNAL = r"all weights inside it, got tensor 't' kept in another file"


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.graph.initializer.append(tensor(external=True)),
        lambda g: g.graph.node.append(constant()),
        lambda g: g.graph.node.append(
            helper.make_node("If", ["c"], ["y"], then_branch=branch(constant()), else_branch=branch(constant()))
        ),
        lambda g: g.graph.sparse_initializer.append(
            helper.make_sparse_tensor(tensor(external=True), helper.make_tensor("i", TensorProto.INT64, [1], [0]), [9])
        ),
        lambda g: g.graph.node[0].attribute.append(helper.make_attribute("many", [tensor(), tensor(external=True)])),
        in_function,
    ],
    ids=["initializer", "attribute", "subgraph", "sparse", "list", "function"],
)
def test_external_data_anywhere(change: Callable[[onnx.ModelProto], object]) -> None:
    refused(change, f"{EXTERNAL}|no local functions")


def test_external_data_named_but_not_used() -> None:
    def change(graph: onnx.ModelProto) -> None:
        proto = tensor(external=True)
        proto.data_location = TensorProto.DEFAULT
        graph.graph.initializer.append(proto)

    refused(change, EXTERNAL)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: setattr(g.graph.node[0], "domain", "com.evil"), r"standard ONNX operators, got 'Cast' of domain"),
        (lambda g: setattr(g.graph.node[0], "op_type", "Loop"), r"a network without loops, got operator Loop"),
        (lambda g: g.functions.add(name="f", domain="local"), r"no local functions, got function 'f'"),
        (lambda g: g.training_info.add(), r"no training part, got one"),
        (lambda g: setattr(g.graph.node[0], "op_type", "Nonsense"), r"a valid ONNX graph, got "),
        (lambda g: g.graph.ClearField("node"), r"a valid ONNX graph, got "),
        (lambda g: setattr(g.graph.input[0], "name", "x"), r"a valid ONNX graph, got "),
        (lambda g: g.graph.input.add().CopyFrom(helper.make_tensor_value_info("z", 1, [1])), r".*got image, z"),
    ],
)
def test_graphs_of_another_kind(change: Callable[[onnx.ModelProto], object], text: str) -> None:
    refused(change, text)


@pytest.mark.parametrize(
    ("dtype", "shape", "got"),
    [
        (TensorProto.FLOAT, ("B", "H", "W", 3), r"float \(B, H, W, 3\)"),
        (TensorProto.UINT8, ("B", 3, "H", "W"), r"uint8 \(B, 3, H, W\)"),
        (TensorProto.UINT8, (3,), r"uint8 \(3\)|a valid"),
    ],
)
def test_input_must_be_an_image(dtype: int, shape: tuple[Any, ...], got: str) -> None:
    graph = network(dtype=dtype, shape=shape)
    if len(shape) == 1:
        graph.graph.node[1].attribute[0].ints[:] = [0]
    with pytest.raises(ModelFileError, match=rf"expected one input image, uint8 \(B, H, W, 3\), got {got}"):
        check_network(graph.SerializeToString(), name="network.onnx")


def test_outputs_must_be_there() -> None:
    data = network().SerializeToString()
    check_network(data, name="n", outputs=("features",))
    with pytest.raises(ModelFileError, match=r"n: expected output student_map, autoencoder_map, got features"):
        check_network(data, name="n", outputs=("student_map", "autoencoder_map"))


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08", b"\xff" * 40])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"n: expected .*ONNX graph"):
        check_network(data, name="n")


def test_mutated_graphs_are_let_through_or_refused() -> None:
    data = network().SerializeToString()
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(400):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), size=rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        try:
            check_network(bytes(changed), name="n", outputs=("features",))
        except ModelFileError:
            refusals += 1
    assert 100 < refusals < 400


def file(header: Any, body: bytes = b"\0" * 24) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a safetensors file, got a header of 0 bytes in a file of 0"),
        (b"\xff" * 8, "a safetensors file, got a header of 18446744073709551615 bytes"),
        (struct.pack("<Q", 9) + b"{}", "a safetensors file, got a header of 9 bytes in a file of 10"),
        (file(b"{" + b" " * (2 << 20) + b"}"), "a safetensors file, got a header of 2097154 bytes"),
        (file(b"[]"), "a safetensors header"),
        (file(b"\xff\xff"), "a safetensors header"),
        (file(b'{"a":' + b"[" * 100_000), "a safetensors header"),
        (file({"a": 3}), "a safetensors header"),
        (file({"a": {**entry(), "x": 1}}), "a safetensors header"),
        (file({"a": {"dtype": "F32"}}), "a safetensors header"),
        (file({"a": entry(dtype="O")}), "a safetensors header, got dtype 'O'"),
        (file({"a": entry(dtype=["F32"])}), "a safetensors header"),
        (file({"a": entry(dtype="BOOL", shape=(24,))}), "a safetensors header, got dtype 'BOOL'"),
        (file({"a": entry(shape=(1 << 61, 1 << 61))}), "a safetensors header, got 24 bytes for F32"),
        (file({"a": entry(shape=(1 << 64,))}), "a shape or offsets that cannot be"),
        (file({"a": entry(shape=(0, 1 << 61), offsets=(0, 0))}, b""), "got 0 bytes for F32"),
        (file({"a": entry(shape=(-2, -3))}), "a shape or offsets that cannot be"),
        (file({"a": entry(shape=(2.0, 3))}), "a shape or offsets that cannot be"),
        (file({"a": entry(shape=(True, 6))}), "a shape or offsets that cannot be"),
        (file({"a": entry(shape=(1,) * 9, offsets=(0, 4))}), "a shape or offsets that cannot be"),
        (file({"a": entry(shape=6)}), "a safetensors header"),
        (file({"a": entry(offsets=(24, 0))}), "got -24 bytes for F32"),
        (file({"a": entry(offsets=(0, 24, 48))}), "a safetensors header"),
        (file({"a": entry(offsets=(8, 32))}), "one from byte 8 where the last ended at 0"),
        (file({"a": entry(), "b": entry(offsets=(12, 36))}, b"\0" * 36), "one from byte 12 where the last ended at 24"),
        (file({"a": entry()}, b"\0" * 20), "24 bytes of tensors, got 20"),
        (file({"a": entry()}, b"\0" * 28), "24 bytes of tensors, got 28"),
        (file({"b": entry()}), r"a: F32 of 2 axes, got nothing"),
        (file({"a": entry(dtype="I32")}), r"a: F32 of 2 axes, got I32 \(2, 3\)"),
        (file({"a": entry(shape=(6,))}), r"a: F32 of 2 axes, got F32 \(6,\)"),
    ],
)
def test_safetensors_that_lie(data: bytes, text: str) -> None:
    with pytest.raises(ModelFileError, match=rf"^bank: expected .*{text}.*, in home\. Copy the whole folder again"):
        read_tensors(data, name="bank", wanted={"a": ("F32", 2)}, where="home")


def test_reads_what_safetensors_writes(rng: np.random.Generator) -> None:
    kinds = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
    arrays = {kind: rng.integers(0, 100, size=(3, 5)).astype(kind) for kind in kinds}
    arrays |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.array(2.5), "odd": np.arange(3, dtype=np.uint8)}
    got = read_tensors(safetensors.numpy.save(arrays, metadata={"a": "b"}), name="x")
    assert set(got) == set(arrays)
    for key, array in arrays.items():
        assert got[key].dtype == array.dtype
        assert got[key].flags.aligned
        np.testing.assert_array_equal(got[key], array)


def test_unaligned_tensors_are_read_right() -> None:
    values = np.arange(6, dtype=np.float32)
    header = {"a": entry()}
    while (8 + len(json.dumps(header))) % 4 != 1:
        header["__metadata__"] = {"pad": header.get("__metadata__", {}).get("pad", "") + "x"}
    got = read_tensors(file(header, values.tobytes()), name="x")["a"]
    assert got.flags.aligned
    np.testing.assert_array_equal(got.ravel(), values)
