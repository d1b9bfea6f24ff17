"""Networks on tiles: the same results and gradients as torch's own convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.pdn_tiles import (
    FIELD_PX,
    STRIDE_PX,
    from_params,
    from_tiles,
    head,
    normalised,
    pixels_of,
    to_params,
    trunk,
)
from blemish.detectors.efficientad.pdn_tiles import to_tiles as tiles_of
from blemish.ops.receptive_field import receptive_field
from tests.efficientad_models import random_weights


def test_an_output_sees_what_the_receptive_field_says():
    for size in pdn.SIZES:
        field = receptive_field(pdn.layers(size))
        assert (field.size, field.stride) == (FIELD_PX, STRIDE_PX)


def test_params_come_back():
    for size, n_heads in (("small", 2), ("medium", 2), ("small", 1)):
        weights = random_weights(size, 768)
        again = from_params(to_params(weights, n_heads=n_heads), size)
        assert list(again) == list(weights)
        assert all(np.array_equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("size", "n_hw", "extra"), [("small", (8, 4), 3), ("small", (4, 5), 0), ("medium", (4, 4), 1)])
def test_results_and_gradients_are_torchs(size: str, n_hw: tuple[int, int], extra: int):
    weights = random_weights(size, 768)
    net = pdn.pdn(size, 768).double()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    # In float64: in float32 a unit of a ReLU that is 0 to the last digit may fall on the other side.
    single = to_params(weights, n_heads=2)
    params = single._replace(weights=[t.double() for t in single.weights], biases=[t.double() for t in single.biases])
    for tensor in params.tensors():
        tensor.requires_grad_()
    hw = pixels_of(n_hw[0]) + extra, pixels_of(n_hw[1]) + extra
    images = np.random.default_rng(0).integers(0, 256, (2, *hw, 3), np.uint8)
    expected = net(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255)[:, :, : n_hw[0], : n_hw[1]]
    push = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected * push).sum().backward()
    features = trunk(params, normalised(images).double(), n_hw)
    halves = [from_tiles(head(params, features, i), n_hw) for i in (0, 1)]
    found = torch.cat(halves, 3).permute(0, 3, 1, 2)
    (found * push).sum().backward()
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()
    grads = from_params(
        params._replace(weights=[t.grad for t in params.weights], biases=[t.grad for t in params.biases]), size
    )
    for name, parameter in net.named_parameters():
        wanted = parameter.grad.numpy()
        assert np.linalg.norm(grads[name] - wanted) < 1e-6 * np.linalg.norm(wanted), name


def test_planes_become_tiles_and_planes_again():
    planes = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    tiles = tiles_of(planes)
    assert tiles.shape == (4, 4, 2, 2, 3, 3)
    assert torch.equal(from_tiles(tiles, (8, 12)), planes)
    assert torch.equal(from_tiles(tiles, (5, 11)), planes[:, :5, :11])
