"""The last layer is solved for: what made the targets is found, and a worse solution is not taken."""

from __future__ import annotations

import pytest

from blemish.ops.least_squares import SHRINKAGES, loss_of, refit

torch = pytest.importorskip("torch", reason="needs blemish[train]")


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


@pytest.mark.parametrize("n_crops", [4, 40])
def test_the_last_layer_is_solved_for(n_crops, monkeypatch):
    """Few rows and many go two ways; both find the layer that made the targets."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Conv2d(5, 2, 4))
    truth = torch.nn.Conv2d(5, 2, 4)
    generator = torch.Generator().manual_seed(2)

    def rows(n):
        images = torch.randn(n, 3, 9, 9, generator=generator)
        with torch.no_grad():
            return images, truth(network[:-1](images))

    judged = [rows(20)]
    before, after = refit(network, [rows(n_crops // 2), rows(n_crops // 2)], judged)
    assert after == pytest.approx(loss_of(network, judged))
    assert after < (0.05 if n_crops == 40 else 0.8) * before


def test_inputs_that_are_all_alike_are_shrunk_by_enough(monkeypatch: pytest.MonkeyPatch):
    """Constant images: their products have one direction, and rounding makes the others negative."""
    monkeypatch.setattr("blemish.ops.least_squares.SHRINKAGES", (1e-12, 0.1))
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(32, 2, 4))
    images = torch.rand(1, 32, 1, 1).expand(1, 32, 40, 40)
    lesson = images, torch.ones(1, 2, 37, 37)
    before, after = refit(network, [lesson], [lesson], every=1)
    assert after < 0.1 * before


def test_a_worse_solution_is_not_taken():
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 4))
    images = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        right = network(images)
    kept = network[1].weight.detach().clone()
    before, after = refit(network, [(images, torch.randn_like(right))], [(images, right)])
    assert before == after == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(network[1].weight, kept)
    assert len(SHRINKAGES) > 1
