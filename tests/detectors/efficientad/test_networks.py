"""Networks on tiles and by plain convolutions say the same, whatever their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish.detectors.efficientad.networks import Plain, Tiled, halved, network, new_weights
from blemish.detectors.efficientad.pdn_tiles import normalised, pixels_of
from tests.efficientad_models import random_weights


@pytest.mark.parametrize("size", ["small", "medium"])
def test_both_kinds_say_the_same(size: str):
    weights = random_weights(size, 768)
    kinds = [network(weights, size, n_heads=2, device="cpu", padding=False, tiled=tiled) for tiled in (True, False)]
    assert [type(kind) for kind in kinds] == [Tiled, Plain]
    side = pixels_of(4)
    x = normalised(np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8))
    said = []
    with torch.no_grad():
        for kind in kinds:
            features = kind.features(x, (4, 4))
            parts = [kind.planes(kind.head(kind.images(features, 1, 3), i), (4, 4)) for i in (0, 1)]
            said.append(torch.cat(parts, 3))
            planes = torch.rand(2, 4, 4, 384, generator=torch.Generator().manual_seed(0))
            assert torch.equal(kind.planes(kind.ordered(planes), (4, 4)), planes)
    assert said[0].shape == (2, 4, 4, 768)
    torch.testing.assert_close(said[0], said[1], rtol=1e-4, atol=1e-4)
    for kind in kinds:
        assert all(np.array_equal(array, weights[name]) for name, array in kind.weights().items())
        assert sum(tensor.numel() for tensor in kind.tensors()) == sum(array.size for array in weights.values())


def test_a_start_follows_from_its_seed_alone():
    before = torch.random.get_rng_state()
    one, again, other = (new_weights("small", 384, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one[0]["conv1.weight"], again[0]["conv1.weight"])
    assert not np.array_equal(one[0]["conv1.weight"], other[0]["conv1.weight"])
    assert one[0]["conv4.bias"].shape == (768,)
    assert one[1]["decoder.deconv8.bias"].shape == (384,)


@pytest.mark.parametrize("hw", [(10, 12), (9, 12)])
def test_the_mean_of_four_is_the_pools_with_its_gradient(hw: tuple[int, int]):
    x = torch.randn(2, 5, *hw, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = halved(ours), torch.nn.functional.avg_pool2d(theirs, 2)
    torch.testing.assert_close(found, expected)
    for result in (found, expected):
        result.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
