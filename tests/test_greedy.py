"""The first guess: kernels that already tell something about the targets, at the right place."""

from __future__ import annotations

import pytest

from blemish import pdn
from blemish.greedy import _centre, first_guess, places_of
from blemish.receptive_field import Field, receptive_field
from blemish.trainee import refit, trainee

torch = pytest.importorskip("torch", reason="needs blemish[train]")
TINY = (("conv1", 16, 4, 3), ("conv2", 16, 4, 3), ("conv3", 16, 3, 1), ("conv4", 0, 4, 0))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A PDN-S with few channels; its stack of kernels is the real one."""
    monkeypatch.setitem(pdn.CONVS, "small", TINY)


def problem(n, seed):
    """Smooth pictures, and as targets what stands in the middle of each output's field: a colour, and how bright."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(n, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(rough, size=(49, 49), mode="bicubic")
    middle = torch.nn.functional.avg_pool2d(images[:, :, 14:, 14:], 5, 4)[:, :, :5, :5]
    return images, torch.cat([middle[:, :1] - middle[:, 1:2], middle.mean(1, keepdim=True).abs()], 1)


def reached(network, parts):
    network.eval()
    return refit(network, parts[:-1], parts[-1:])[1]


def test_it_tells_more_than_random_kernels():
    parts = [problem(30, seed) for seed in range(4)]
    assert parts[0][1].shape[2:] == (5, 5)
    guessed, random = trainee("small", 2, 0), trainee("small", 2, 0)
    first_guess(guessed, "small", lambda: parts[:-1], 0)
    assert guessed.training
    first = reached(guessed, parts)
    assert first < 0.2 * float(parts[-1][1].var())
    assert first < 0.8 * reached(random, parts)


def test_kernels_come_with_both_signs_and_the_norms_fit():
    parts = [problem(30, seed) for seed in range(3)]
    network = trainee("small", 2, 0)
    first_guess(network, "small", lambda: parts, 0)
    x = torch.cat([images for images, _ in parts])
    network.eval()
    with torch.no_grad():
        for number in "123":
            weight = network.get_submodule(f"conv{number}").weight
            torch.testing.assert_close(weight[:8], -weight[8:])
            inside = network[: list(dict(network.named_children())).index(f"conv{number}") + 1](x)
            norm = network.get_submodule(f"norm{number}")
            deviation = inside.std((0, 2, 3))
            torch.testing.assert_close(norm.running_var.sqrt(), deviation, rtol=0.25, atol=0)
            assert float(((norm.running_mean - inside.mean((0, 2, 3))) / deviation).abs().max()) < 0.25


def test_the_seed_decides():
    parts = [problem(20, seed) for seed in range(2)]
    made = []
    for seed in (0, 0, 1):
        network = trainee("small", 2, 0)
        first_guess(network, "small", lambda: parts, seed)
        made.append(network.state_dict()["conv3.weight"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_more_kernels_than_directions_are_mixtures():
    parts = [problem(20, seed) for seed in range(2)]
    network = trainee("small", 2, 0)
    first_guess(network, "small", lambda: parts, 0)
    weight = network.conv2.weight[:8].detach().flatten(1)
    assert int(torch.linalg.matrix_rank(weight)) == 2
    assert len(torch.unique(weight.round(decimals=4), dim=0)) == 8


@pytest.mark.parametrize("n_layers", [1, 3, 5, 6])
def test_places_are_the_nearest(n_layers):
    field, whole = receptive_field(pdn.layers()[:n_layers]), receptive_field(pdn.layers())
    for output, place in enumerate(places_of(field, 9)):
        away = field.centre + field.stride * place - (whole.centre + whole.stride * output)
        assert abs(away) <= field.stride / 2
        assert place >= 0
    assert places_of(Field(33, 4, 0), 3) == [0, 1, 2]


def test_a_variance_that_rounding_made_negative_is_none():
    norm = torch.nn.BatchNorm2d(2)
    covariance = torch.tensor([[2.0, 0.0], [0.0, -1e-9]], dtype=torch.float64)
    _centre(norm, torch.eye(2), torch.ones(2, dtype=torch.float64), covariance)
    assert norm.running_mean.tolist() == [1.0, 1.0]
    assert norm.running_var.tolist() == pytest.approx([2.0, 1e-3])
