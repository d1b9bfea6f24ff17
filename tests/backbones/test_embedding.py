"""The embedding graph against plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, helper

from blemish import backbones, runtime
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.errors import InputError, ModelFileError
from blemish.imaging.resize import resize
from blemish.ops.statistics import Affine
from tests._graphs.test_importer import network
from tests.images import good

if TYPE_CHECKING:
    from blemish.backbones.backbone import Backbone

LAYERS = ("blocks.2", "blocks.4", "blocks.10")  # strides 4, 8 and 16


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return backbones.build("efficientnet_lite0", layers=LAYERS)


def averaged(maps: np.ndarray, size: int) -> np.ndarray:
    """The mean over size x size neighbours of (C, h, w), as many of them as lie inside."""
    result = np.empty_like(maps)
    for row in range(maps.shape[1]):
        for column in range(maps.shape[2]):
            rows = slice(max(0, row - size // 2), row + size // 2 + 1)
            columns = slice(max(0, column - size // 2), column + size // 2 + 1)
            result[:, row, column] = maps[:, rows, columns].mean(axis=(1, 2))
    return result


def resized(maps: np.ndarray, grid_hw: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of cells, the outermost value going on beyond the outermost centre."""
    for axis, n in zip((1, 2), grid_hw, strict=True):
        most = maps.shape[axis] - 1
        places = np.clip((np.arange(n) + 0.5) * maps.shape[axis] / n - 0.5, 0, most)
        low = np.floor(places).astype(int)
        share = np.expand_dims(places - low, tuple(k for k in range(3) if k != axis))
        high = np.minimum(low + 1, most)
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def reference(backbone: Backbone, image: np.ndarray, pooling: int, scaling: Affine | None) -> np.ndarray:
    found = runtime.load(backbone.model).run(image[None])
    pooled = [averaged(found[layer][0].astype(np.float64), pooling) for layer in backbone.layers]
    grid = pooled[0].shape[1:]
    joined = np.concatenate([pooled[0], *(resized(one, grid) for one in pooled[1:])]).transpose(1, 2, 0)
    return joined if scaling is None else joined @ scaling.weight.T + scaling.bias


@pytest.mark.parametrize("pooling", [1, 3, 5])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_graph_equals_the_reference(backbone: Backbone, pooling: int, is_scaled: bool, rng: np.random.Generator):
    size = sum(backbone.channels)
    weight = rng.normal(size=(size, size)) / size**0.5
    scaling = Affine(weight.astype(np.float32), rng.normal(size=size).astype(np.float32)) if is_scaled else None
    image = good(1, 64, 96)
    model = embedding_graph(backbone, pooling=pooling, scaling=scaling)
    features = Extractor(model.SerializeToString(), threads=1).features(image)
    assert (features.shape, features.dtype) == ((16, 24, size), np.float32)
    assert features.flags.c_contiguous
    expected = reference(backbone, image, pooling, scaling)
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_one_layer():
    backbone = backbones.build("efficientnet_lite0", layers=["blocks.4"])
    features = Extractor(embedding_graph(backbone).SerializeToString(), threads=1).features(good(1, 64, 64))
    np.testing.assert_allclose(features, reference(backbone, good(1, 64, 64), 3, None), rtol=1e-3, atol=1e-4)


def test_graph_of_the_backbone_is_not_changed(backbone: Backbone):
    before = backbone.model.SerializeToString()
    embedding_graph(backbone, pooling=3)
    assert backbone.model.SerializeToString() == before


@pytest.mark.parametrize(
    ("pooling", "text"),
    [(2, "pooling: expected an odd number, got 2"), (0, "pooling: expected a number from 1 to 15, got 0")],
)
def test_even_pooling_is_refused(backbone: Backbone, pooling: int, text: str):
    with pytest.raises(InputError, match=text):
        embedding_graph(backbone, pooling=pooling)


def test_bytes_that_are_no_graph():
    with pytest.raises(ModelFileError, match=r"network: expected a graph that ONNX Runtime runs"):
        Extractor(b"no graph")


def test_images_of_another_size(backbone: Backbone):
    model = embedding_graph(backbone)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", 2, ["B", 64, 64, 3]))
    extractor = Extractor(model.SerializeToString(), threads=1)
    with pytest.raises(InputError, match=r"image: expected .* that the network takes, got uint8 \(1, 32, 64, 3\)"):
        extractor.features(np.zeros((32, 64, 3), np.uint8))


def test_the_summary_is_mean_and_standard_deviation_of_the_coarsest_layers(backbone: Backbone):
    extractor = Extractor(embedding_graph(backbone, pooling=3).SerializeToString())
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    network = runtime.load(backbone.model)
    layers = network.run(resize(image, (96, 96))[None])
    expected = [f(layers["blocks.10"][0], axis=(1, 2)) for f in (np.mean, np.std)]
    np.testing.assert_allclose(extractor.summary(image), np.concatenate(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_default_layers_have_global_layers_for_the_summary():
    default = backbones.build("efficientnet_lite0")
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    layers = runtime.load(default.model).run(resize(image, (96, 96))[None])
    expected = [f(layers[name][0], axis=(1, 2)) for name in ("blocks.9", "blocks.10") for f in (np.mean, np.std)]
    found = Extractor(embedding_graph(default).SerializeToString()).summary(image)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("is_projected", [False, True])
def test_parts_are_the_coarsest_layers_at_half_scale(is_projected: bool, rng: np.random.Generator):
    default = backbones.build("efficientnet_lite0")
    axes = Affine(rng.normal(size=(5, 192)).astype(np.float32), rng.normal(size=5).astype(np.float32))
    graph = embedding_graph(default, pooling=3, part_axes=axes if is_projected else None)
    image = rng.integers(0, 256, (320, 256, 3), dtype=np.uint8)
    layers = runtime.load(default.model).run(resize(image, (160, 128))[None])
    expected = np.concatenate([layers[name][0] for name in ("blocks.7", "blocks.10")]).transpose(1, 2, 0)
    if is_projected:
        expected = expected @ axes.weight.T + axes.bias
    found = Extractor(graph.SerializeToString()).parts(image)
    assert found.shape == (10, 8, 5 if is_projected else 192)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_network_may_use_the_names_of_our_outputs(tmp_path):
    """Layers called like outputs of the embedding, and tensors called like those that the builder makes."""
    model = network()
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"patches": "features", "tokens": "summary", "rows": "t1"}.get(name, name) for name in names]
    path = tmp_path / "named.onnx"
    path.write_bytes(model.SerializeToString())
    built = backbones.build(path, layers=["features", "summary"])
    image = good(1, 64, 96)
    expected = reference(built, image, 3, None)
    features = Extractor(embedding_graph(built).SerializeToString(), threads=1).features(image)
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_a_network_of_fixed_size_gets_unscaled_images(backbone: Backbone):
    model = embedding_graph(backbone)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", 96, 96, 3]))
    extractor = Extractor(model.SerializeToString(), threads=1)
    assert extractor.parts(good(1, 96, 96)).shape == (6, 6, 112)
    assert extractor.summary(good(1, 96, 96)).shape == (224,)
