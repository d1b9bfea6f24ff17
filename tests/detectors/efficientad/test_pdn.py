"""EfficientAD's networks: their sizes, and weights in everybody's layout."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import safetensors.numpy

from blemish._io.torch_file import read_state_dict
from blemish.detectors.efficientad import pdn
from blemish.errors import InputError, ModelFileError
from blemish.ops.receptive_field import receptive_field
from tests.efficientad_models import narrow_networks
from tests.lazy import torch

FULL_WIDTH = True


def n_parameters(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def random_state(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) * 0.05 for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("size", "n_outputs", "count"),
    [("small", 384, 2_694_144), ("small", 768, 4_267_392), ("medium", 384, 8_026_624), ("medium", 768, 11_615_488)],
)
def test_the_networks_have_the_papers_parameters(size, n_outputs, count):
    network = pdn.pdn(size, n_outputs)
    assert n_parameters(network) == count
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == pdn.pdn_shapes(size, n_outputs)


def test_the_autoencoder_has_the_papers_parameters():
    network = pdn.autoencoder()
    assert n_parameters(network) == 1_096_320
    assert {name: tuple(t.shape) for name, t in network.state_dict().items()} == pdn.autoencoder_shapes()


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", pdn.SIZES)
def test_all_maps_have_one_size(size, padding):
    with narrow_networks():
        teacher = pdn.pdn(size, 4, padding=padding)
    autoencoder = pdn.autoencoder(4, padding=padding).eval()
    for hw in [(33, 33), (64, 97), (100, 35), (257, 270)]:
        image = torch.rand(1, 3, *hw)
        with torch.inference_mode():
            maps = teacher(image), autoencoder(image)
        wanted = (1, 4, *pdn.output_hw(size, hw, padding=padding))
        assert [tuple(one.shape) for one in maps] == [wanted, wanted], hw


def test_an_image_of_256_pixels_gives_the_papers_maps():
    assert pdn.output_hw("small", (256, 256)) == (56, 56)
    assert pdn.output_hw("medium", (256, 256), padding=True) == (64, 64)


@pytest.mark.parametrize("size", pdn.SIZES)
def test_pixels_are_those_of_the_receptive_field(size):
    field = receptive_field(pdn.layers(size))
    assert (field.size, field.stride) == (pdn.FIELD_PX, pdn.STRIDE_PX)
    assert pdn.output_hw(size, (pdn.pixels_of(5), pdn.pixels_of(9))) == (5, 9)


def test_an_image_below_the_receptive_field_is_refused():
    with pytest.raises(InputError, match=r"image: expected at least 33 x 33 pixels, got \(32, 200\)\. Give larger"):
        pdn.output_hw("small", (32, 200))


@pytest.mark.slow
def test_the_image_is_normalised_inside():
    network = pdn.pdn("small", 4).eval()
    grey = torch.tensor(pdn.IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 33, 33)
    plain = torch.nn.Sequential(*list(network)[1:])
    image = torch.rand(1, 3, 33, 33)
    by_hand = (image - grey) / torch.tensor(pdn.IMAGENET_STD).view(1, 3, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(network(grey), plain(torch.zeros(1, 3, 33, 33)))
        torch.testing.assert_close(network(image), plain(by_hand))


def sequential(state, numbers):
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    return {
        f"{numbers[names.index(name.rpartition('.')[0])]}.{name.rpartition('.')[2]}": a for name, a in state.items()
    }


NELSON = {"small": (0, 3, 6, 8), "medium": (0, 3, 6, 8, 10, 12)}
NELSON_AUTOENCODER = (0, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 36, 38)


@pytest.mark.slow
@pytest.mark.parametrize("size", pdn.SIZES)
def test_every_layout_gives_the_same_weights(size, tmp_path):
    state = random_state(pdn.pdn_shapes(size))
    other = random_state(pdn.pdn_shapes(size, 768), seed=1)
    checkpoint = {f"model.teacher.{name}": array for name, array in state.items()}
    checkpoint |= {f"model.student.{name}": array for name, array in other.items()}
    checkpoint |= {"model.mean_std.mean": np.zeros((1, 384, 1, 1), np.float32)}
    files = {"ours.safetensors": state, "nelson.pth": sequential(state, NELSON[size]), "anomalib.ckpt": checkpoint}
    for name, tensors in files.items():
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.numpy.save_file(tensors, path)
        else:
            as_torch = {key: torch.from_numpy(array) for key, array in tensors.items()}
            torch.save({"state_dict": as_torch} if name == "anomalib.ckpt" else as_torch, path)
        found = pdn.arrange(read_state_dict(path.read_bytes(), where=path), size)
        assert list(found) == list(state)
        for key, array in state.items():
            np.testing.assert_array_equal(found[key], array, err_msg=f"{name} {key}")
    student = pdn.arrange(read_state_dict(path.read_bytes(), where=path), size, n_outputs=768, part="student")
    np.testing.assert_array_equal(student["conv2.bias"], other["conv2.bias"])


def test_autoencoders_of_every_layout():
    state = random_state(pdn.autoencoder_shapes())
    for tensors in (
        state,
        {f"model.ae.{name}": array for name, array in state.items()},
        sequential(state, NELSON_AUTOENCODER),
    ):
        found = pdn.arrange_autoencoder(tensors)
        assert all(np.array_equal(found[name], array) for name, array in state.items())


def test_half_precision_is_widened():
    state = {name: array.astype(np.float16) for name, array in random_state(pdn.pdn_shapes()).items()}
    found = pdn.arrange(state)
    assert found["conv4.bias"].dtype == np.float32
    np.testing.assert_array_equal(found["conv4.bias"], state["conv4.bias"].astype(np.float32))


def wrong_states():
    small = random_state(pdn.pdn_shapes())
    nan = {**small, "conv2.bias": np.full(256, np.nan, np.float32)}
    whole = {**small, "conv2.bias": np.zeros(256, np.int64)}
    return [
        (random_state(pdn.pdn_shapes("medium")), r"got conv5\.weight too, in t\.pth\. Give the weight file of this"),
        (
            random_state(pdn.pdn_shapes("small", 768)),
            r"conv4\.weight: expected float \(384, 256, 4, 4\), got float32 \(7",
        ),
        (nan, r"teacher conv2\.bias: expected finite weights, got NaN or infinite values, in t\.pth"),
        (whole, r"conv2\.bias: expected float \(256,\), got int64 \(256,\)"),
        ({"layer1.weight": small["conv1.weight"]}, r"got no conv1\.weight but layer1\.weight, in t\.pth"),
        ({"0.weight": small["conv1.weight"]}, r"got no conv1\.weight but 0\.weight"),
        ({}, r"got no conv1\.weight but nothing"),
    ]


@pytest.mark.parametrize(("state", "text"), wrong_states())
def test_weights_of_another_network_are_refused(state, text):
    with pytest.raises(ModelFileError, match=text):
        pdn.arrange(state, where="t.pth")


def test_another_size_is_refused():
    assert (pdn.check_size("small"), pdn.check_size("medium")) == ("small", "medium")
    with pytest.raises(InputError, match=r"size: expected small or medium, got 'large'"):
        pdn.pdn("large")


def test_missing_torch_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for build in (pdn.pdn, pdn.autoencoder):
        with pytest.raises(
            InputError, match=r"torch: expected to be installed.*Run `pip install 'blemish\[train\]'`\."
        ):
            build()
