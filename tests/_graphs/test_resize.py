"""Resize in the graph: torch's antialiased filter, in float32, for images of any size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from blemish import runtime
from blemish._graphs.builder import Graph
from blemish._graphs.resize import insert_resize
from blemish.errors import InputError
from tests.models import network
from tests.random_weights import image as drawn_image


def pixels(mean: tuple[float, ...] = (0.0, 0.0, 0.0)):
    """A network that gives the float32 pixels themselves, less `mean`."""
    graph = Graph()
    return graph.model({"pixels": graph.image(mean)})


def run(model, image):
    return runtime.load(model).run(image)["pixels"][0].transpose(1, 2, 0)


def triangle(n_in: int, n_out: int) -> np.ndarray:
    """The filter by its definition: (n_out, n_in), one weight at a time."""
    scale = n_in / n_out
    support = max(scale, 1.0)
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        for j in range(n_in):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * scale) / support)
        weights[i] /= weights[i].sum()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 96), (97, 150), (300, 41), (64, 64), (20, 33)])
def test_the_filter_is_the_triangle(size: tuple[int, int]):
    image = drawn_image(8, *size)[:1]
    found = run(insert_resize(pixels(), (64, 96), None), image)
    expected = np.einsum("ih,hwc,jw->ijc", triangle(size[0], 64), image[0].astype(float), triangle(size[1], 96))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_an_image_of_that_size_is_not_changed():
    image = drawn_image(8, 64, 96)[:1]
    np.testing.assert_array_equal(run(insert_resize(pixels(), (64, 96), None), image), image[0])


def test_center_crop():
    image = drawn_image(8, 100, 90)[:1]
    whole = run(insert_resize(pixels(), (64, 96), None), image)
    np.testing.assert_allclose(run(insert_resize(pixels(), (64, 96), (32, 64)), image), whole[16:48, 16:80])


def test_a_graph_without_the_cast_is_refused():
    model = network()
    model.graph.node[0].attribute[0].i = TensorProto.FLOAT16
    with pytest.raises(InputError, match=r"backbone: expected one that can resize images itself, got another ONNX"):
        insert_resize(model, (32, 32), None)


def test_a_graph_may_read_its_image_in_both_layouts():
    graph = Graph()
    planes = graph.add("Cast", [graph.add("Transpose", ["image"], perm=[0, 3, 1, 2])], to=TensorProto.FLOAT)
    rows = graph.add("Transpose", [graph.add("Cast", ["image"], to=TensorProto.FLOAT)], perm=[0, 3, 1, 2])
    model = graph.model({"pixels": graph.add("Add", [planes, rows])})
    image = drawn_image(8, 50, 60)[:1]
    expected = 2 * run(insert_resize(pixels(), (32, 32), None), image)
    np.testing.assert_allclose(run(insert_resize(model, (32, 32), None), image), expected, rtol=1e-6)
