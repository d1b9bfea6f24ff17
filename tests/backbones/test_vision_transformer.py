"""DINOv2's graph against golden arrays of an independent torch implementation, and the files that it refuses."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from blemish import Patchcore, backbones, load, runtime
from blemish.backbones.architectures import build_graph
from blemish.backbones.embedding import Extractor, embedding_graph
from blemish.backbones.vision_transformer import TRANSFORMERS, TransformerSize, dinov2
from blemish.errors import InputError, ModelFileError
from blemish.imaging.resize import resize
from tests import random_weights
from tests.backbones.test_architectures import GOLDEN, differences
from tests.images import good

SMALL = TransformerSize(width=48, depth=12, n_heads=6, patch_px=14, grid=37)
PUBLISHERS = {"Meta": dict, "Hugging Face": random_weights.in_hugging_face_keys}
TORCH_FILE = Path(__file__).parents[1] / "golden" / "torch" / "zip.pth"


def small(publisher: str = "Meta") -> random_weights.State:
    return PUBLISHERS[publisher](random_weights.dinov2(9))


def written(path: Path, state: random_weights.State) -> Path:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    return path


@pytest.fixture
def small_network(monkeypatch):
    """An eighth of the width under the network's name."""
    monkeypatch.setitem(TRANSFORMERS, "dinov2_vits14", partial(dinov2, size=SMALL))


@pytest.mark.parametrize("size", [(98, 126), (126, 70), pytest.param((518, 518), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_graph_equals_the_reference(publisher: str, size: tuple[int, int]):
    """518 pixels are the size of the position embeddings themselves, which are not interpolated."""
    key = f"dinov2/{size[0]}x{size[1]}"
    names = GOLDEN[f"{key}/layers"].tolist()
    assert names == [*(f"block{i}" for i in range(1, 13)), "norm"]
    model = build_graph(partial(dinov2, size=SMALL), small(publisher), names)
    maps = runtime.load(model, threads=1).run(random_weights.image(8, *size))
    assert differences(key, names, maps) < 1e-4


def test_graph_ends_with_the_deepest_block():
    model = build_graph(partial(dinov2, size=SMALL), small(), ["block3", "block2"])
    assert [output.name for output in model.graph.output] == ["block3", "block2"]
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 3


def test_backbone_by_name(tmp_path, small_network):
    path = written(tmp_path / "model.safetensors", small("Hugging Face"))
    built = backbones.build("dinov2_vits14", weights=path)
    assert (built.name, built.layers, built.global_layers) == ("dinov2_vits14", ("block6", "block9"), ("block9",))
    assert (built.channels, built.strides, built.patch_px) == ((48, 48), (14, 14), 14)
    assert built.coarsest == ("block6", "block9")
    assert built.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_network_of_the_published_size(tmp_path):
    path = written(tmp_path / "model.safetensors", random_weights.dinov2(9, width=384))
    built = backbones.build("dinov2_vits14", weights=path)
    assert (built.channels, built.strides) == ((384, 384), (14, 14))
    with pytest.raises(ModelFileError, match=r"cls_token: expected \(1, 1, 384\), got \(1, 1, 48\)"):
        backbones.build("dinov2_vits14", weights=written(tmp_path / "small.safetensors", small()))


@pytest.mark.slow
def test_parts_and_summary_see_whole_patches(tmp_path, small_network):
    """322 pixels at half scale are 168, at .3 they are 98: multiples of 14."""
    built = backbones.build("dinov2_vits14", weights=written(tmp_path / "model.safetensors", small()))
    image = random_weights.image(8, 322, 196)[0]
    extractor = Extractor(embedding_graph(built).SerializeToString(), threads=1)
    assert extractor.features(image).shape == (23, 14, 96)
    parts = runtime.load(built.model).run(resize(image, (168, 98))[None])
    expected = np.concatenate([parts["block6"][0], parts["block9"][0]]).transpose(1, 2, 0)
    np.testing.assert_allclose(extractor.parts(image), expected, atol=1e-4 * np.abs(expected).max())
    whole = runtime.load(built.model).run(resize(image, (98, 56))[None])["block9"][0]
    expected = np.concatenate([whole.mean(axis=(1, 2)), whole.std(axis=(1, 2))])
    np.testing.assert_allclose(extractor.summary(image), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("score_fusion", [False, True])
def test_fit_predict_save_and_load(tmp_path, small_network, score_fusion: bool):
    path = written(tmp_path / "model.safetensors", small())
    images = [good(seed, 90, 150) for seed in range(4)]
    fitted = Patchcore(backbone="dinov2_vits14", weights=path, image_size=112, score_fusion=score_fusion).fit(images)
    spoiled = images[0].copy()
    spoiled[20:50, 100:130] = (255, 0, 0)
    prediction = fitted.predict(spoiled)
    assert prediction.anomaly_map.shape == (90, 150)
    row, column = np.unravel_index(prediction.anomaly_map.argmax(), (90, 150))
    assert 15 <= row < 55
    assert 95 <= column < 135
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model").predict(spoiled)
    assert again.score == prediction.score
    np.testing.assert_array_equal(again.anomaly_map, prediction.anomaly_map)
    header = (tmp_path / "model" / "model.json").read_text()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in header


def test_sizes_that_are_no_whole_patches(tmp_path, small_network):
    path = written(tmp_path / "model.safetensors", small())
    error = (
        r"image_size: expected multiples of 14 px, the side of the backbone's patches, got \(64, 112\). Give \(70, 112"
    )
    with pytest.raises(InputError, match=error):
        Patchcore(backbone="dinov2_vits14", weights=path, image_size=(64, 112)).fit(
            [good(0, 90, 150), good(1, 90, 150)]
        )


def changed(**arrays: Any) -> random_weights.State:
    return small() | {name.replace("__", "."): np.asarray(array, np.float32) for name, array in arrays.items()}


REGISTERS = np.zeros((1, 4, 48))
OTHERS = {
    "wider": (random_weights.dinov2(9, width=96, depth=1), r"cls_token: expected \(1, 1, 48\), got \(1, 1, 96\)"),
    "registers": (
        changed(register_tokens=REGISTERS),
        "weights: expected a network without register tokens, got one with 4",
    ),
    "registers, Hugging Face": (
        random_weights.in_hugging_face_keys(changed(register_tokens=REGISTERS)),
        "weights: expected a network without register tokens, got one with 4",
    ),
    "one number": (changed(register_tokens=1), "weights: expected a network without register tokens, got one with 1"),
    "deeper": (changed(blocks__12__norm1__weight=np.zeros(48)), "weights: expected 12 blocks, got 13"),
    "shallower": (
        random_weights.dinov2(9, depth=6),
        r"weights: expected blocks.6.norm1.weight, got 91 others, such as",
    ),
    "another grid": (random_weights.dinov2(9, grid=16), r"pos_embed: expected \(1, 1370, 48\), got \(1, 257, 48\)"),
    "convolutions": (
        random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False),
        r"weights: expected cls_token, got \d+ others, such as bn1",
    ),
    "another shape": (
        changed(blocks__2__attn__qkv__weight=np.zeros((48, 48))),
        r"blocks.2.attn.qkv.weight: expected \(144, 48\), got \(48, 48\)",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_weights_of_another_network(tmp_path, small_network, kind: str):
    state, error = OTHERS[kind]
    path = written(tmp_path / "other.safetensors", state)
    advice = (
        r"\. Give dinov2_vits14_pretrain.pth of Meta, or model.safetensors of facebook/dinov2-small from Hugging Face"
    )
    with pytest.raises(ModelFileError, match=rf"^{error}.*{advice}\. It is .*other.safetensors\.$"):
        backbones.build("dinov2_vits14", weights=path)


def test_weights_that_are_not_finite(tmp_path, small_network):
    path = written(tmp_path / "other.safetensors", changed(norm__bias=np.full(48, np.nan)))
    with pytest.raises(ModelFileError, match=r"norm.bias: expected finite floating-point weights, got NaN"):
        backbones.build("dinov2_vits14", layers=["norm"], weights=path)


def test_truncated_files(tmp_path):
    whole = written(tmp_path / "model.safetensors", small()).read_bytes()
    for name, data in (("model.safetensors", whole), ("dinov2_vits14_pretrain.pth", TORCH_FILE.read_bytes())):
        for n_bytes in (0, 5, len(data) // 2, len(data) - 1):
            path = tmp_path / name
            path.write_bytes(data[:n_bytes])
            with pytest.raises(
                ModelFileError, match=rf"weights: expected .*{name}\..* Copy or download the file again"
            ):
                backbones.build("dinov2_vits14", weights=path)


def test_padding_is_refused():
    with pytest.raises(InputError, match="padding: expected zero for a network that does not pad, got 'reflect'"):
        build_graph(partial(dinov2, size=SMALL), small(), ["block1"], padding="reflect")


@pytest.mark.parametrize("stated", ["0", "257", "-14", "14.0", "²", ""])
def test_models_that_state_impossible_patches(stated: str):
    model = build_graph(partial(dinov2, size=SMALL), small(), ["block1"])
    model.metadata_props[0].value = stated
    with pytest.raises(ModelFileError, match="network: expected patch_px from 1 to 256 in its metadata, got"):
        Extractor(model.SerializeToString(), threads=1)
