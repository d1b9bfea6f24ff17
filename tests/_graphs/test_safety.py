"""ONNX graphs of strangers are checked before a runtime loads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from blemish._graphs.safety import check_network
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
    refused(change, f"{EXTERNAL}|no local functions|operators of image networks, got operator 'If'|dense weights")


def test_external_data_that_is_not_used() -> None:
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
        (lambda g: setattr(g.graph.node[0], "op_type", "Nonsense"), r"operators of image networks, got operator 'No"),
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


def test_absent_outputs() -> None:
    data = network().SerializeToString()
    check_network(data, name="n", outputs=("features",))
    with pytest.raises(ModelFileError, match=r"n: expected output student_map, autoencoder_map, got features"):
        check_network(data, name="n", outputs=("student_map", "autoencoder_map"))


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08", b"\xff" * 40])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"n: expected .*ONNX graph"):
        check_network(data, name="n")


def test_mutated_graphs_are_accepted_or_refused() -> None:
    data = network().SerializeToString()
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(400):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), size=rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        try:
            check_network(bytes(changed), name="n", outputs=("features",))
        except ModelFileError:
            n_refused += 1
    assert 100 < n_refused < 400
