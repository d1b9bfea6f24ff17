"""The optimizer: the loss falls, kernels keep their norm, and a state continues exactly."""

from __future__ import annotations

import pytest

from blemish.detectors.efficientad.distillation import optimizer as module
from blemish.detectors.efficientad.distillation.optimizer import Muon, orthogonal
from tests.lazy import torch


def small_problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    images = torch.rand(4, 3, 9, 9, generator=generator)
    wanted = torch.stack([images[:, 0, 1:-1, 1:-1] - images[:, 2, 1:-1, 1:-1], images[:, 1, 2:, 1:-1]], 1)
    return network, images, wanted


def steps(network, muon, images, wanted, n, rate=0.05):
    losses = []
    for _ in range(n):
        loss = (network(images) - wanted).square().mean()
        loss.backward()
        muon.step(rate)
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.slow
def test_the_loss_falls_and_kernels_keep_their_norm(monkeypatch):
    monkeypatch.setattr(module, "ADAM_RATE", 0.03)
    network, images, wanted = small_problem()
    muon = Muon(dict(network.named_parameters()), frozenset({"0.weight"}))
    losses = steps(network, muon, images, wanted, 200)
    assert losses[-1] < 0.2 * losses[0]
    assert float(network[0].weight.detach().norm()) == pytest.approx(8**0.5, rel=1e-5)


def test_going_on_from_a_state_changes_nothing():
    network, images, wanted = small_problem()
    whole = Muon(dict(network.named_parameters()), frozenset({"0.weight"}))
    steps(network, whole, images, wanted, 3)
    twin, _, _ = small_problem()
    part = Muon(dict(twin.named_parameters()), frozenset({"0.weight"}))
    twin.load_state_dict(network.state_dict())
    part.load({name: tensor.clone() for name, tensor in whole.state.items()}, whole.n_steps)
    steps(network, whole, images, wanted, 2)
    steps(twin, part, images, wanted, 2)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, twin.state_dict()[name]), name


@pytest.mark.parametrize("shape", [(5, 20), (20, 5), (8, 8)])
def test_orthogonal_brings_singular_values_near_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    made = orthogonal(matrix)
    values = torch.linalg.svdvals(made)
    assert made.shape == matrix.shape
    assert 0.4 < float(values.min()) <= float(values.max()) < 1.4
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((made * (left @ right)).sum() / made.norm() / (left @ right).norm()) > 0.95


def test_no_gradient_moves_nothing():
    network, images, _ = small_problem()
    muon = Muon(dict(network.named_parameters()), frozenset({"0.weight"}))
    before = network[0].weight.detach().clone()
    (0 * network(images)).sum().backward()
    muon.step(0.1)
    torch.testing.assert_close(network[0].weight, before)
