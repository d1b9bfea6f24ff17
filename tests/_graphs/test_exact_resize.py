"""The resize in the graph gives the bits of the resize of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto

from blemish import runtime
from blemish._graphs.builder import Graph
from blemish._graphs.exact_resize import exact_resize
from blemish.imaging.resize import resize

if TYPE_CHECKING:
    from blemish.runtime import Session


def resizing(height_width: tuple[int, int], image_hw: tuple[int, int] | None = None) -> Session:
    graph = Graph()
    model = graph.model({"resized": exact_resize(graph, "image", height_width, image_hw=image_hw)})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return runtime.load(model, threads=1)


@pytest.mark.parametrize("height_width", [(32, 32), (64, 96), (33, 70), (1, 1)])
def test_it_is_the_resize_of_images(height_width: tuple[int, int], rng: np.random.Generator):
    session = resizing(height_width)
    sizes = [height_width, (512, 512), (100, 37), (1, 1), (1, 300), (40, 40), *rng.integers(1, 200, (20, 2)).tolist()]
    for height, width in sizes:
        images = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        resized = session.run(images)["resized"]
        for image, result in zip(images, resized, strict=True):
            np.testing.assert_array_equal(result, resize(image, height_width), err_msg=f"{height} x {width}")


def test_a_stated_size_gives_the_same(rng: np.random.Generator):
    image = rng.integers(0, 256, (1, 70, 90, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resizing((32, 64), (70, 90)).run(image)["resized"][0], resize(image[0], (32, 64)))


def test_an_image_of_that_size_stays_itself():
    graph = Graph()
    assert exact_resize(graph, "image", (32, 64), image_hw=(32, 64)) == "image"
