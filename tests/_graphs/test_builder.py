"""Continuing existing graphs: new nodes before and after theirs, and no name that comes twice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from blemish import runtime
from blemish._graphs.builder import Graph
from tests.random_weights import image as random_image


def foreign() -> onnx.ModelProto:
    """pixels = float(image) + w, with a branch of If that reads `pixels` too; its names are those that Graph makes."""
    then, otherwise = (
        helper.make_graph(
            [helper.make_node("Mul", ["t0", name], [f"out {name}"])],
            name,
            [],
            [helper.make_tensor_value_info(f"out {name}", TensorProto.FLOAT, [2, "H", "W", 3])],
        )
        for name in ("two", "w")
    )
    nodes = [
        helper.make_node("Cast", ["image"], ["t1"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["t1", "w"], ["t0"]),
        helper.make_node("If", ["yes"], ["features"], then_branch=then, else_branch=otherwise),
    ]
    constants = {"w": np.float32(1), "two": np.float32(2), "yes": np.array(True)}
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [2, "H", "W", 3])
    output = helper.make_tensor_value_info("features", TensorProto.FLOAT, [2, "H", "W", 3])
    graph = helper.make_graph(nodes, "foreign", [image], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    return runtime.load(model, threads=1).run(image)


IMAGE = random_image(8, 5, 7)


def test_nodes_are_added_to_an_existing_graph():
    before = foreign()
    graph = Graph(model=before)
    assert graph.batch == 2
    tripled = graph.add("Mul", ["features", graph.weight("w", np.array(3.0))])
    found = outputs(graph.model({"tripled": tripled, "pixels": "t0"}), IMAGE)
    np.testing.assert_array_equal(found["tripled"], 6 * (IMAGE + np.float32(1)))
    np.testing.assert_array_equal(found["pixels"], IMAGE + np.float32(1))
    assert before == foreign()


def test_an_output_takes_its_name_from_another_tensor():
    graph = Graph(model=foreign())
    negative = graph.add("Neg", ["features"])
    found = outputs(graph.model({"features": negative, "image float": "features", "t0": "t1"}), IMAGE)
    np.testing.assert_array_equal(found["features"], -2 * (IMAGE + np.float32(1)))
    np.testing.assert_array_equal(found["image float"], -found["features"])
    np.testing.assert_array_equal(found["t0"], IMAGE.astype(np.float32))


@pytest.mark.parametrize(
    ("tensor", "expected"), [("image", 2 * (2 * IMAGE.astype(float) + 1)), ("t0", 4 * (IMAGE + 1.0))]
)
def test_nodes_between_a_tensor_and_all_that_read_it(tensor, expected):
    graph = Graph(model=foreign())

    def doubled() -> str:
        x = graph.add("Cast", [tensor], to=TensorProto.FLOAT)
        return graph.add("Mul", [x, graph.weight("factor", np.array(2.0))])

    graph.insert_after(tensor, doubled)
    np.testing.assert_array_equal(outputs(graph.model(), IMAGE)["features"], expected)


def test_a_graph_goes_on_after_a_model_was_made():
    graph = Graph()
    pixels = graph.image((0.0, 0.0, 0.0))
    first = graph.model({"pixels": pixels})
    assert first == graph.model({"pixels": pixels})
    found = outputs(graph.model({"pixels": graph.add("Neg", [pixels]), "plain": pixels}), IMAGE)
    np.testing.assert_array_equal(found["pixels"], -found["plain"])


def test_stated_shapes():
    graph = Graph()
    model = graph.model({"a": graph.image((0.0,) * 3), "b": graph.add("Cast", ["image"], to=1)}, shapes={"b": None})
    shapes = [[axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in model.graph.output]
    assert shapes == [["B", "a:1", "a:2", "a:3"], []]
    graph.read_image((0, 32), batch=2)
    (value,) = graph.model().graph.input
    assert [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim] == [2, "H", 32, 3]
