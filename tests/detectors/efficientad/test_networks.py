"""Networks in training give the features of `pdn`, by either kind of convolution."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.networks import Network, halved, new_weights, normalised
from tests.efficientad_models import random_weights
from tests.lazy import torch


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", pdn.SIZES)
def test_both_convolutions_give_the_networks_features(size: pdn.Size, padding: bool):
    weights = random_weights(size, 64)
    side = pdn.pixels_of(4)
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    reference = pdn.pdn(size, 64, padding=padding)
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[1:].permute(0, 2, 3, 1)
        for fast in (True, False):
            network = Network(weights, size, n_heads=2, device="cpu", padding=padding, fast=fast)
            features = network.features(normalised(images))[1:]
            found = torch.cat([network.head(features, i) for i in (0, 1)], 3)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert all(np.array_equal(array, weights[name]) for name, array in network.weights().items())


def test_initial_weights_follow_from_the_seed_alone():
    before = torch.random.get_rng_state()
    one, again, other = (new_weights("small", 64, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one[0]["conv1.weight"], again[0]["conv1.weight"])
    assert not np.array_equal(one[0]["conv1.weight"], other[0]["conv1.weight"])
    assert one[0]["conv4.bias"].shape == (128,)
    assert one[1]["decoder.deconv8.bias"].shape == (64,)


@pytest.mark.parametrize("hw", [(10, 12), (9, 12)])
def test_the_mean_of_four_is_the_pools_with_its_gradient(hw: tuple[int, int]):
    x = torch.randn(2, 5, *hw, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = halved(ours), torch.nn.functional.avg_pool2d(theirs, 2)
    torch.testing.assert_close(found, expected)
    for result in (found, expected):
        result.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
