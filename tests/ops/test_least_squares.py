"""Ridge regression of the last layer recovers the layer that made the targets, and rejects a worse solution."""

from __future__ import annotations

import pytest

from blemish.ops.least_squares import SHRINKAGES, mean_squared_error, refit_last_layer
from tests.lazy import torch


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


@pytest.mark.parametrize("n_crops", [4, 40])
def test_the_layer_that_made_the_targets_is_recovered(n_crops):
    """By the dual form with few rows, and by the primal one with many."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Conv2d(5, 2, 4))
    truth = torch.nn.Conv2d(5, 2, 4)
    generator = torch.Generator().manual_seed(2)

    def rows(n):
        images = torch.randn(n, 3, 9, 9, generator=generator)
        with torch.no_grad():
            return images, truth(network[:-1](images))

    held_out = [rows(20)]
    before, after = refit_last_layer(network[:-1], network[-1], [rows(n_crops // 2), rows(n_crops // 2)], held_out)
    assert after == pytest.approx(mean_squared_error(network, held_out))
    assert after < (0.05 if n_crops == 40 else 0.8) * before


def test_a_singular_system_is_solved_with_a_larger_ridge():
    """Constant images: their products have one direction, and rounding makes the others negative."""
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(32, 2, 4))
    images = torch.rand(1, 32, 1, 1).expand(1, 32, 40, 40)
    pair = images, torch.ones(1, 2, 37, 37)
    before, after = refit_last_layer(network[:-1], network[-1], [pair], [pair], stride=1, shrinkages=(1e-12, 0.1))
    assert after < 0.1 * before


def test_a_worse_solution_is_rejected():
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 4))
    images = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        targets = network(images)
    weight = network[1].weight.detach().clone()
    before, after = refit_last_layer(
        network[:-1], network[-1], [(images, torch.randn_like(targets))], [(images, targets)]
    )
    assert before == after == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(network[1].weight, weight)
    assert len(SHRINKAGES) > 1
