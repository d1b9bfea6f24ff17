"""One step: the paper's four losses, reproducible by its number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad import training as efficientad_training
from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.training import Images, Losses, Training, hard_loss, hard_share, jittered
from tests.efficientad_models import N_OUTPUTS, random_weights, small_efficientad
from tests.images import good
from tests.lazy import torch

if TYPE_CHECKING:
    from blemish import EfficientAd

SIDE = 68  # 9 x 9 outputs


@pytest.fixture(scope="module")
def model(teacher: Path) -> EfficientAd:
    return small_efficientad(teacher, image_size=SIDE, lr=1e-3)


def training(model: EfficientAd, *, crop: int | None = None, n: int = 3, **options: Any) -> Training:
    images = np.stack([good(seed, SIDE, SIDE) for seed in range(n + 1)])
    parts = Images(images[:n], images[n:], DrawnPenalty((SIDE, SIDE), 0))
    return Training(model.settings, crop, random_weights(), parts, **{"mixed": False, **options})


def as_the_paper_has_it(made: Training, k: int) -> Losses:
    """The four losses of step `k` by plain networks and the formulas of nelson1425/efficientad.py, without dropout."""
    rng = np.random.default_rng([made.settings.seed, k])
    rng.integers(2**62)
    for _ in range(4):
        rng.integers(1)  # row or column of a place, of which there is one
    i = made._chosen(k)[0]
    image = made.images.train[i : i + 1]
    changed = jittered(rng, image)
    other = made.images.penalty.parts(rng, 1, image.shape[1:3])

    def features(module: torch.nn.Module, weights: dict[str, np.ndarray], x: np.ndarray) -> torch.Tensor:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        with torch.no_grad():
            return module.eval()(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - made.mean[:, None, None]) / made.std[:, None, None]

    teacher, student = pdn.pdn("small", N_OUTPUTS), pdn.pdn("small", 2 * N_OUTPUTS)
    weights = made.student.weights()
    distance = (
        scaled(features(teacher, random_weights(), image)) - features(student, weights, image)[:, :N_OUTPUTS]
    ).square()
    rebuilt = features(pdn.autoencoder(N_OUTPUTS), arrays(made.autoencoder), changed)
    return Losses(
        float(distance[distance >= torch.quantile(distance, 0.999)].mean()),
        float(features(student, weights, other)[:, :N_OUTPUTS].square().mean()),
        float((scaled(features(teacher, random_weights(), changed)) - rebuilt).square().mean()),
        float((rebuilt - features(student, weights, changed)[:, N_OUTPUTS:]).square().mean()),
    )


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_losses_are_the_papers(model: EfficientAd, fast: bool):
    made = training(model, fast=fast)
    made.autoencoder.dropout.p = 0.0
    made.images.train = made.images.train[:, :65, :65]  # as much as the outputs see
    expected = as_the_paper_has_it(made, 5)
    np.testing.assert_allclose(made.step(5, 1e-9), expected, rtol=2e-3)


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_losses(model: EfficientAd):
    whole, mixed = (training(model, crop=4, mixed=mixed) for mixed in (False, True))
    for made in (mixed, whole):
        made.autoencoder.dropout.p = 0.0
    np.testing.assert_allclose(mixed.step(3, 1e-9), whole.step(3, 1e-9), rtol=0.05)
    assert mixed.held_out_losses() == pytest.approx(whole.held_out_losses(), rel=0.05)


def test_the_explained_variance_is_between_0_and_1(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    made = training(model)
    assert 0 <= made.explained() < 0.5
    right = made._scaled(made._of_teacher(made._whole(made.images.held[0])))
    monkeypatch.setattr(made, "_rebuilt", lambda _: right)
    assert made.explained() == pytest.approx(1.0)
    monkeypatch.setattr(made, "_rebuilt", lambda _: 9 - right)
    assert made.explained() == 0.0
    assert made.autoencoder.training


@pytest.mark.slow
def test_a_step_lowers_its_loss(model: EfficientAd):
    made = training(model)
    first = [made.step(0, 1e-3).total for _ in range(4)]
    assert first[-1] < first[0]


@pytest.mark.slow
def test_a_step_is_the_same_again_and_another_is_not(model: EfficientAd):
    made = training(model, crop=4)
    before = torch.random.get_rng_state()
    assert made.step(3, 1e-9) == pytest.approx(made.step(3, 1e-9), rel=1e-3)
    assert made.step(3, 1e-9).penalty != pytest.approx(made.step(4, 1e-9).penalty, rel=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_image_is_seen_once_per_epoch(model: EfficientAd):
    made = training(model)
    chosen = [made._chosen(k)[0] for k in range(9)]
    assert all(sorted(chosen[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))


def test_mean_and_deviation_are_the_teachers(model: EfficientAd):
    made = training(model)
    features = torch.cat([made._target(i).reshape(-1, N_OUTPUTS) for i in range(3)]).double()
    torch.testing.assert_close(made.mean.double(), features.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.std.double(), features.std(0, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_constant_images_have_a_deviation(model: EfficientAd):
    plain = np.full((3, SIDE, SIDE, 3), 90, np.uint8)
    made = Training(model.settings, None, random_weights(), Images(plain, plain[:1], DrawnPenalty((SIDE, SIDE), 0)))
    assert (made.std > 0).all()
    assert np.isfinite(made.step(0, 1e-3).total)
    assert np.isfinite(made.held_out_losses()).all()


@pytest.mark.slow
def test_a_step_that_diverges_changes_no_parameter(model: EfficientAd):
    made = training(model)
    made.mean = made.mean * float("nan")
    before = [tensor.detach().clone() for tensor in made.parameters]
    assert not np.isfinite(made.step(0, 1e-3).total)
    assert all(torch.equal(one, other) for one, other in zip(before, made.parameters, strict=True))


def test_the_cache_is_bounded(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(efficientad_training, "CACHE_BYTES", 2 * 9 * 9 * N_OUTPUTS * 2)
    made = training(model)
    assert len(made._targets) == 2
    assert torch.equal(made._target(2), made._target(2))


@pytest.mark.slow
def test_repeated_steps_on_a_gpu_use_a_cuda_graph(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    recorded = []

    def cuda_graph(function, inputs, parameters):
        assert all(tensor.requires_grad for tensor in parameters)
        assert not any(tensor.requires_grad for tensor in inputs)
        recorded.append([tensor.shape for tensor in inputs])
        return function

    plain, made = (training(model, fast=False) for _ in range(2))
    monkeypatch.setattr(efficientad_training, "is_gpu", lambda _: True)
    monkeypatch.setattr(efficientad_training, "cuda_graph", cuda_graph)
    monkeypatch.setattr(plain, "_losses", lambda inputs, share: plain._four_losses(inputs.places, share, *inputs[:3]))
    for k, (share, n_recorded) in enumerate([(0.1, 0), (0.01, 0), (0.01, 1), (0.01, 1), (0.1, 1), (0.1, 2)]):
        assert made.step(k, 1e-9, share) == pytest.approx(plain.step(k, 1e-9, share), rel=1e-5)
        assert len(recorded) == n_recorded
    made.crop_hw = (4, 4)
    for k in range(3):
        made.step(k, 1e-9)
    assert len(recorded) == 2  # crops lie elsewhere in each step


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
