"""The work of a network is known before it is run, and is bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from blemish import runtime
from blemish._graphs.budget import BudgetError, check_work
from blemish._graphs.operators import MAX_LIVE_BYTES, MAX_WORK, OPERATORS, UNARY
from blemish._graphs.safety import check_network, parsed, unsafe_part
from blemish.backbones.architectures import NETWORKS, build_graph
from blemish.backbones.vision_transformer import TRANSFORMERS
from blemish.errors import ModelFileError
from tests import bombs, random_weights
from tests.models import network

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "nodes")) for name in bombs.BOMBS]
)
def test_bombs_are_refused(name: str) -> None:
    build, text = bombs.BOMBS[name]
    with pytest.raises(ModelFileError, match=rf"^network\.onnx: expected .*{text}"):
        check_network(build().SerializeToString(), name="network.onnx")


def test_work_is_counted_as_the_layers_have_it() -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    model = bombs.network([bombs.node("Conv", ["x", "w"], pads=[1, 1, 1, 1])], {"w": weight})
    small, large = (check_work(model, (side, side)) for side in (64, 128))
    assert 64 * 64 * 8 * 27 < small.multiplications < 64 * 64 * (8 * 27 + 50 * 60)
    assert large.multiplications == pytest.approx(4 * small.multiplications, rel=0.01)
    assert large.live_bytes == pytest.approx(4 * small.live_bytes, rel=0.01)
    assert large.live_bytes >= 4 * 128 * 128 * (8 + 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "state", "image_hw"),
    [
        (
            "wide_resnet50_2",
            lambda: random_weights.resnet(1, depths=(3, 4, 6, 3), bottleneck=True, wide=2, base=64),
            (1024, 1024),
        ),
        ("dinov2_vits14", lambda: random_weights.dinov2(1, width=384), (700, 700)),
    ],
)
def test_large_networks_in_use_are_within_the_limits(name, state, image_hw: tuple[int, int]) -> None:
    layers = ("layer2", "layer3") if "resnet" in name else ("block8", "block12")
    model = build_graph((NETWORKS | TRANSFORMERS)[name], state(), layers)
    work = check_work(model, image_hw)
    assert 5e10 < work.multiplications < MAX_WORK / 2
    assert work.live_bytes < MAX_LIVE_BYTES / 2


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(LIGHT.glob("light_*.onnx")), ids=lambda path: path.stem)
def test_published_networks_are_accepted(path: Path) -> None:
    """The networks of the ONNX model zoo, as onnx ships them, without their weights."""
    model = onnx.load(path)
    assert unsafe_part(model) is None
    assert 1e8 < check_work(model, (224, 224)).multiplications < MAX_WORK / 20


def test_sizes_are_those_of_a_run() -> None:
    """A network of free size with the usual arithmetic on shapes: Shape, Gather, Div, Mod, Concat, Slice, Range."""
    nodes = [
        bombs.node("Shape", ["x"], "shape"),
        bombs.node("Slice", ["shape", "two", "four"], "hw"),
        bombs.node("Div", ["hw", "three"], "third"),
        bombs.node("Mod", ["hw", "three"], "odd"),
        bombs.node("Add", ["third", "odd"], "size"),
        bombs.node("Slice", ["shape", "zero", "two"], "start"),
        bombs.node("Concat", ["start", "size"], "sizes", axis=0),
        bombs.node("Resize", ["x", "", "", "sizes"], "small", mode="nearest"),
        bombs.node("Gather", ["size", "first"], "rows"),
        bombs.node("Cast", ["rows"], "rows float", to=TensorProto.FLOAT),
        bombs.node("Squeeze", ["rows float"], "rows number"),
        bombs.node("Range", ["f0", "rows number", "f1"], "range"),
        bombs.node("ReduceSum", ["small"], "total", keepdims=0),
        bombs.node("Add", ["range", "total"], "y"),
    ]
    weights = {"zero": [0], "two": [2], "three": [3], "four": [4], "first": [0]}
    arrays = {name: np.array(values) for name, values in weights.items()}
    model = bombs.network(nodes, {**arrays, "f0": np.float32(0), "f1": np.float32(1)})
    from blemish._graphs import budget

    for hw in ((32, 48), (33, 47), (100, 31)):
        sizes = budget._Sizes(model, hw)
        for node in model.graph.node:
            sizes.add(node)
        watched = [name for node in model.graph.node for name in node.output if name != "features"]
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
        session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(watched, {"image": np.zeros((1, *hw, 3), np.uint8)})
        for name, array in zip(watched, found, strict=True):
            assert sizes._tensors[name].shape == array.shape, name
            if name in sizes._values:
                np.testing.assert_array_equal(sizes._values[name], array, err_msg=name)


def test_each_allowed_operator_is_one_of_onnx_with_known_sizes() -> None:
    for operator in OPERATORS - UNARY - {"Constant"}:
        schema = onnx.defs.get_schema(operator)
        assert schema.has_type_and_shape_inference_function, operator


def test_nodes_without_order_are_an_error() -> None:
    model = network()
    model.graph.node[0].input[0] = "later"
    with pytest.raises(BudgetError, match="a valid ONNX graph"):
        check_work(model, (64, 64))


@pytest.mark.slow
def test_a_file_of_two_formats_is_the_one_that_was_checked(tmp_path: Path) -> None:
    hidden = network()
    hidden.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32([99]), "scale"))
    data = bombs.two_formats(network(), hidden, tmp_path)
    image = np.ones((1, 4, 4, 3), np.uint8)
    assert parsed(data).graph == network().graph
    # ONNX Runtime alone reads the hidden one.
    plain = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert plain.run(None, {"image": image})[0].max() == 99
    assert runtime.load(data, threads=1).run(image)["features"].max() == 0.5
    with pytest.raises(ModelFileError, match="got one that is a file of ONNX Runtime's own format as well"):
        check_network(data, name="network.onnx")


def test_unknown_fields_do_not_reach_the_runtime() -> None:
    data = network().SerializeToString()
    checked = check_network(data + b"\xfa\x3f\x03abc", name="n")  # field 1023, which ONNX has not
    assert checked == data


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: g.initializer.append(numpy_helper.from_array(np.float32([1, np.nan]), "n")), "finite weights"),
        (lambda g: g.initializer.append(numpy_helper.from_array(np.float64([1, np.inf]), "n")), "finite weights"),
        (lambda g: g.initializer.append(numpy_helper.from_array(np.float16(np.nan), "n")), "finite weights"),
        (lambda g: g.node.append(helper.make_node("Elu", ["cast"], ["e"], alpha=float("nan"))), "finite numbers"),
        (
            lambda g: g.initializer.append(TensorProto(name="n", data_type=8, string_data=[b"s"])),
            "weights that are numbers",
        ),
        (lambda g: g.initializer.append(TensorProto(name="n", data_type=1, dims=[1 << 50])), "weights of its size"),
        (
            lambda g: g.initializer.append(TensorProto(name="n", data_type=1, dims=[9], raw_data=b"12")),
            "weights of their shape",
        ),
        (
            lambda g: g.node.append(helper.make_node("Dropout", ["cast", "r", "t"], ["d"])),
            "a network for inference",
        ),
    ],
)
def test_weights_and_attributes_that_are_no_numbers(change, text: str) -> None:
    model = network()
    change(model.graph)
    with pytest.raises(ModelFileError, match=rf"^n: expected {text}"):
        check_network(model.SerializeToString(), name="n")


def test_a_limit_may_be_infinite() -> None:
    model = bombs.network([bombs.node("Clip", ["x", "low", "high"])], {"low": np.float32(0), "high": np.float32("inf")})
    check_network(model.SerializeToString(), name="n")


@pytest.mark.slow
@pytest.mark.parametrize("piece", [b"\x0a\x00", b"\x2a\x00", b"\x5a\x00"], ids=["nodes", "weights", "inputs"])
def test_millions_of_empty_parts_are_not_parsed(piece: bytes) -> None:
    graph = piece * 2_000_000
    data = b"\x3a" + _varint(len(graph)) + graph
    assert parsed(data) is None


@pytest.mark.slow
def test_packed_numbers_are_counted() -> None:
    numbers = bytes(70 << 20)  # int64_data of a weight: eight times as much in memory
    tensor = b"\x3a" + _varint(len(numbers)) + numbers
    graph = b"\x2a" + _varint(len(tensor)) + tensor
    assert parsed(b"\x3a" + _varint(len(graph)) + graph) is None


def _varint(value: int) -> bytes:
    text = bytearray()
    while value > 0x7F:
        text.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*text, value])
