"""Losses and changes as the paper's programs have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blemish.detectors.efficientad.loss import hard_loss, hard_share, jittered
from tests.images import good


@pytest.mark.parametrize("n", [10, 1000, 1500, 50_000])
def test_hard_loss_is_the_mean_from_the_quantile_on(n: int):
    distances = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).square()
    limit = torch.quantile(distances, 0.999)  # nelson1425/efficientad.py
    assert hard_loss(distances.view(2, -1, 5)) == pytest.approx(float(distances[distances >= limit].mean()))


def test_hard_loss_moves_the_hardest_alone():
    distances = torch.arange(3000.0, requires_grad=True)
    hard_loss(distances).backward()
    assert distances.grad is not None
    assert distances.grad.nonzero().flatten().tolist() == [2997, 2998, 2999]


def test_the_share_falls_to_the_papers():
    shares = [hard_share(k, 10_000) for k in (0, 250, 500, 999, 1000, 9999)]
    assert shares[0] == 0.1
    assert shares[2] == pytest.approx(0.01)
    assert shares == sorted(shares, reverse=True)
    assert shares[-2:] == [0.001, 0.001]
    assert hard_share(0, 1) == 0.1
    distances = torch.arange(1000.0)
    assert float(hard_loss(distances, 0.1)) == pytest.approx(np.arange(900, 1000).mean())


def test_images_change_in_one_of_three_ways():
    image = good(0, 24, 24).astype(np.float64)
    grey = image @ (0.299, 0.587, 0.114)
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        found = jittered(np.random.default_rng(seed), good(0, 24, 24)[None])[0]
        kind, factor = int(rng.integers(3)), rng.uniform(0.8, 1.2)
        base = (0, grey.mean(), grey[..., None])[kind]
        np.testing.assert_allclose(found, np.clip(factor * image + (1 - factor) * base, 0, 255), atol=1e-2)
        seen.add(kind)
    assert seen == {0, 1, 2}
