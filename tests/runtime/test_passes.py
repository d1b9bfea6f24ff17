"""The pass that puts convolutions onto tiles: the same network by other nodes, and untouched where it can't be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blemish import runtime
from blemish.runtime.passes import MIN_CHANNELS, tile_convolutions

WIDE = MIN_CHANNELS


class Network:
    """A graph of convolutions under construction, its input (B, 3, 40, 44) float32."""

    def __init__(self, sizes: tuple[str | int, ...] = ("B", 3, 40, 44)) -> None:
        self.sizes = sizes
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [f"x{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def constant(self, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(array, f"c{len(self.tensors)}"))
        return self.tensors[-1].name

    def conv(self, x: str, into: int, out: int = WIDE, taps: int = 3, bias: bool = True, **attributes: Any) -> str:
        rng = np.random.default_rng(len(self.nodes))
        weight = rng.normal(size=(out, into // attributes.get("group", 1), taps, taps)) / taps / np.sqrt(into)
        parameters = [self.constant(weight.astype(np.float32))]
        if bias:
            parameters.append(self.constant(rng.normal(size=out).astype(np.float32)))
        return self.add("Conv", x, *parameters, **attributes)

    def stem(self, x: str = "image", taps: int = 4) -> str:
        relu = self.add("Relu", self.conv(x, 3, taps=taps))
        return self.add("AveragePool", relu, kernel_shape=[2, 2], strides=[2, 2])

    def slice(self, x: str, start: int, end: int) -> str:
        return self.add("Slice", x, *(self.constant(np.array([n])) for n in (start, end, 1)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        given = helper.make_tensor_value_info("image", TensorProto.FLOAT, self.sizes)
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", [given], made, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def convolutions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)


def assert_same(model: onnx.ModelProto, left: int = 0) -> onnx.ModelProto:
    """Fail unless the pass changes the graph, leaves so many convolutions, and keeps all outputs."""
    before = model.SerializeToString()
    made = tile_convolutions(model)
    assert model.SerializeToString() == before
    assert made is not None
    assert convolutions(made) == left
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]
    images = np.random.default_rng(0).normal(size=(2, 3, 40, 44)).astype(np.float32)
    expected = runtime.load(model, threads=1, passes=False).run(images)
    for name, array in runtime.load(model, threads=1).run(images).items():
        assert array.shape == expected[name].shape
        np.testing.assert_allclose(array, expected[name], atol=1e-5 * np.abs(expected[name]).max(), err_msg=name)
    return made


@pytest.mark.parametrize("taps", [3, 4])
def test_a_chain_of_convolutions(taps: int):
    network = Network()
    x = network.add("Relu", network.conv(network.stem(), WIDE, taps=taps))
    x = network.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = network.add("Relu", network.conv(x, WIDE, 2 * WIDE, taps=1, bias=False))
    assert_same(network.model(network.conv(x, 2 * WIDE, 7)))


def test_maps_inside_the_chain_are_outputs_too():
    network = Network()
    first = network.stem()
    second = network.conv(first, WIDE)
    assert_same(network.model(second, first, network.add("Relu", second)))


def test_two_networks_share_the_receptive_fields_of_one_image():
    network = Network()
    pair = [network.conv(network.stem(), WIDE) for _ in range(2)]
    made = assert_same(network.model(network.add("Sub", *pair)))
    alone = Network()
    single = tile_convolutions(alone.model(alone.conv(alone.stem(), WIDE)))
    assert single is not None
    gathered = [sum(node.op_type == "Pad" for node in model.graph.node) for model in (made, single)]
    assert gathered == [1, 1]


def test_stems_of_other_kernels_are_kept_apart():
    network = Network()
    assert_same(network.model(*(network.conv(network.stem(taps=taps), WIDE) for taps in (3, 4))))


def test_normalised_differences_of_halves_against_planes():
    """All that EfficientAD does with its features."""
    network = Network()
    x = network.stem()
    constants = [
        network.constant(np.random.default_rng(i).uniform(1, 2, (1, 6, 1, 1)).astype(np.float32)) for i in (0, 1)
    ]
    teacher = network.add("Div", network.add("Sub", network.conv(x, WIDE, 6), constants[0]), constants[1])
    student = network.conv(x, WIDE, 12)
    halves = network.slice(student, 0, 6), network.slice(student, 6, 2**62)
    shrunk = network.add("AveragePool", network.conv("image", 3, 6, taps=9), kernel_shape=[2, 2], strides=[2, 2])
    planes = network.slice(network.conv(shrunk, 6, 8, taps=1), 1, 7)
    outputs = []
    for pair in ((teacher, halves[0]), (planes, halves[1])):
        difference = network.add("Sub", *pair)
        outputs.append(network.add("ReduceMean", network.add("Mul", difference, difference), axes=[1], keepdims=0))
    assert_same(network.model(*outputs), left=2)


def test_slices_of_a_map_are_convolved_and_read():
    network = Network()
    x = network.add("Relu", network.conv(network.stem(), WIDE, 2 * WIDE))
    parts = [network.slice(x, start, start + WIDE) for start in (0, WIDE)]
    summed = network.add("Add", network.conv(parts[0], WIDE), network.conv(parts[1], WIDE))
    uneven = network.slice(x, 3, 2 * WIDE)
    assert_same(network.model(summed, parts[1], uneven))


def test_operators_without_a_translation_get_planes():
    network = Network()
    x = network.conv(network.stem(), WIDE)
    rows = network.add("Mul", x, network.constant(np.arange(16, dtype=np.float32)[:, None] * np.ones(18, np.float32)))
    pooled = network.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    padded = network.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    other = network.conv(x, WIDE, pads=[1, 1, 1, 1])
    kept = network.add("ReduceMean", x, axes=[1], keepdims=1)
    assert_same(network.model(rows, pooled, padded, other, kept), left=1)


@pytest.mark.parametrize(
    "change",
    [
        {"taps": 5},
        {"pads": [1, 1, 1, 1]},
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"group": 2},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_other_convolutions_are_left_alone(change: dict[str, Any]):
    network = Network()
    assert tile_convolutions(network.model(network.conv(network.stem(), WIDE, **change))) is None


def test_convolutions_of_few_channels_are_left_alone():
    network = Network()
    x = network.add("Relu", network.conv("image", 3, 16))
    x = network.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    assert tile_convolutions(network.model(network.conv(x, 16))) is None


def test_an_image_of_any_size_is_left_alone():
    network = Network(("B", 3, "H", "W"))
    assert tile_convolutions(network.model(network.conv(network.stem(), WIDE))) is None


@pytest.mark.parametrize(
    "pool",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2]},
        {"kernel_shape": [2, 2]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ],
)
def test_a_stem_with_another_pool_is_left_alone(pool: dict[str, Any]):
    network = Network()
    x = network.add("AveragePool", network.add("Relu", network.conv("image", 3)), **pool)
    assert tile_convolutions(network.model(network.conv(x, WIDE))) is None


def test_a_stem_whose_inside_is_read_elsewhere_is_left_alone():
    network = Network()
    relu = network.add("Relu", network.conv("image", 3))
    x = network.add("AveragePool", relu, kernel_shape=[2, 2], strides=[2, 2])
    assert tile_convolutions(network.model(network.conv(x, WIDE), relu)) is None


def test_the_engine_applies_it_on_the_processor():
    network = Network()
    model = network.model(network.conv(network.stem(), WIDE))
    images = np.random.default_rng(0).normal(size=(1, 3, 40, 44)).astype(np.float32)
    found, plain = (runtime.load(model, threads=1, passes=passes).run(images) for passes in (True, False))
    (name,) = found
    assert not np.array_equal(found[name], plain[name])  # they round differently
