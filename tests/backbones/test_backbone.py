"""Backbones by name: the embedded one on real photographs, and inputs that a network refuses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from blemish import backbones, runtime
from blemish.errors import InputError, ModelFileError
from tests import random_weights
from tests.lazy import sklearn_datasets

# Row of ImageNet's 1000 classes, in the order that all these networks share.
PALACE = 698


def photograph(name: str, side: int) -> np.ndarray:
    image = sklearn_datasets.load_sample_image(name)
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return cv2.resize(image[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA)


def test_default_backbone():
    lite = backbones.build()
    assert (lite.name, lite.layers) == ("efficientnet_lite0", ("blocks.4", "blocks.7", "blocks.10"))
    assert (lite.channels, lite.strides) == ((40, 80, 112), (8, 16, 16))
    assert lite.weights_sha256.startswith("579344248a93e230")


@pytest.mark.slow
def test_the_graph_is_deterministic():
    assert backbones.build().model.SerializeToString() == backbones.build().model.SerializeToString()


@pytest.mark.slow
def test_a_palace_is_classified_as_palace():
    """scikit-learn's china.jpg shows a Chinese palace."""
    running = runtime.load(backbones.build(layers=["logits"]).model)
    logits = running.run(photograph("china.jpg", 224)[None])["logits"]
    assert logits.shape == (1, 1000)
    assert np.argmax(logits) == PALACE


def test_batches_and_sizes_share_one_graph():
    running = runtime.load(backbones.build().model, threads=1)
    images = random_weights.image(8, 80, 112)
    both = running.run(images)["blocks.4"]
    for i in range(2):
        alone = running.run(images[i : i + 1])["blocks.4"]
        np.testing.assert_allclose(both[i], alone[0], atol=1e-4 * np.abs(alone).max())
    assert running.run(images[:, :33, :71])["blocks.7"].shape == (2, 80, 3, 5)


def test_bytes_that_are_no_graph():
    with pytest.raises(ModelFileError, match="network: expected a graph that ONNX Runtime runs, got"):
        runtime.load(b"no graph")


def test_images_of_a_size_that_the_network_refuses(tmp_path):
    path = tmp_path / "fixed.onnx"
    model = backbones.build().model
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 0
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"expected uint8 .* got uint8 \(1, 224, 224, 3\) .*It is .*fixed.onnx"):
        backbones.build(path, layers=["blocks.4"])


def test_images_of_another_dtype():
    running = runtime.load(backbones.build().model, threads=1)
    with pytest.raises(InputError, match=r"image: expected uint8 \(B, H, W, 3\) .*, got float32 \(1, 64, 64, 3\)"):
        running.run(np.zeros((1, 64, 64, 3), np.float32))
