"""One step: the paper's four losses, on tiles and by plain convolutions, the same again for the same number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad import training as efficientad_training
from blemish.detectors.efficientad.loss import jittered
from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.pdn_tiles import pixels_of
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.training import Images, Losses, Training
from tests.efficientad_models import random_weights, small_efficientad, write_teacher
from tests.images import good

if TYPE_CHECKING:
    from blemish import EfficientAd

SIDE = 68  # 9 x 9 outputs, of which tiles take 8 x 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EfficientAd:
    return small_efficientad(write_teacher(tmp_path_factory.mktemp("teacher")), image_size=SIDE, lr=1e-3)


def training(model: EfficientAd, *, crop: int | None = None, n: int = 3) -> Training:
    images = np.stack([good(seed, SIDE, SIDE) for seed in range(n + 1)])
    learnt = Images(images[:n], images[n:], DrawnPenalty((SIDE, SIDE), 0))
    return Training(model.settings, crop, random_weights(), learnt)


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

    def said(module: torch.nn.Module, weights: dict[str, np.ndarray], x: np.ndarray) -> torch.Tensor:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        with torch.no_grad():
            return module.eval()(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - made.mean[:, None, None]) / made.std[:, None, None]

    teacher, student = pdn.pdn(), pdn.pdn("small", 768)
    weights = made.student.weights()
    distance = (scaled(said(teacher, random_weights(), image)) - said(student, weights, image)[:, :384]).square()
    rebuilt = said(pdn.autoencoder(), arrays(made.autoencoder), changed)
    return Losses(
        float(distance[distance >= torch.quantile(distance, 0.999)].mean()),
        float(said(student, weights, other)[:, :384].square().mean()),
        float((scaled(said(teacher, random_weights(), changed)) - rebuilt).square().mean()),
        float((rebuilt - said(student, weights, changed)[:, 384:]).square().mean()),
    )


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch):
    """The same on every processor."""
    monkeypatch.setattr(efficientad_training, "has_instructions", lambda *_: False)


@pytest.mark.parametrize("tiled", [True, False])
def test_losses_are_the_papers(model: EfficientAd, monkeypatch: pytest.MonkeyPatch, tiled: bool):
    monkeypatch.setattr(efficientad_training, "LEAST_TILED", 8 if tiled else 100)
    made = training(model)
    n = 8 if tiled else 9
    made.hw = made.crop_hw = (n, n)
    made.autoencoder.dropout.p = 0.0
    made.images.train = made.images.train[:, : pixels_of(n), : pixels_of(n)]
    made._targets.clear()
    expected = as_the_paper_has_it(made, 5)
    found = made.step(5, 1e-9)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_bfloat16_gives_nearly_the_same_losses(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    whole = training(model, crop=4)
    monkeypatch.setattr(efficientad_training, "has_instructions", lambda *_: True)
    mixed = training(model, crop=4)
    assert mixed.mixed
    for made in (mixed, whole):
        made.autoencoder.dropout.p = 0.0
    np.testing.assert_allclose(mixed.step(3, 1e-9), whole.step(3, 1e-9), rtol=0.05)
    assert mixed.held_out_loss() == pytest.approx(whole.held_out_loss(), rel=0.05)


def test_what_the_autoencoder_explains_is_between_nothing_and_all(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    made = training(model)
    assert 0 <= made.explained() < 0.5
    right = made._scaled(made._of_teacher(made._whole(made.images.held[0]), made.hw))
    monkeypatch.setattr(made, "_rebuilt", lambda _: right)
    assert made.explained() == pytest.approx(1.0)
    monkeypatch.setattr(made, "_rebuilt", lambda _: 9 - right)
    assert made.explained() == 0.0
    assert made.autoencoder.training


def test_a_step_lowers_its_loss(model: EfficientAd):
    made = training(model)
    first = [made.step(0, 1e-3).total for _ in range(4)]
    assert first[-1] < first[0]


def test_a_step_is_the_same_again_and_another_is_not(model: EfficientAd):
    made = training(model, crop=4)
    before = torch.random.get_rng_state()
    assert made.step(3, 1e-9) == pytest.approx(made.step(3, 1e-9), rel=1e-3)
    assert made.step(3, 1e-9).penalty != pytest.approx(made.step(4, 1e-9).penalty, rel=1e-3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_image_comes_once_an_epoch(model: EfficientAd):
    made = training(model)
    chosen = [made._chosen(k)[0] for k in range(9)]
    assert all(sorted(chosen[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))


def test_mean_and_deviation_are_the_teachers(model: EfficientAd):
    made = training(model)
    features = torch.cat([made._target(i).reshape(-1, 384) for i in range(3)]).double()
    torch.testing.assert_close(made.mean.double(), features.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.std.double(), features.std(0, correction=0), rtol=1e-3, atol=1e-4)


def test_constant_images_have_a_deviation(model: EfficientAd):
    plain = np.full((3, SIDE, SIDE, 3), 90, np.uint8)
    made = Training(model.settings, None, random_weights(), Images(plain, plain[:1], DrawnPenalty((SIDE, SIDE), 0)))
    assert (made.std > 0).all()
    assert np.isfinite(made.step(0, 1e-3).total)
    assert np.isfinite(made.held_out_loss())


def test_a_burst_changes_nothing(model: EfficientAd):
    made = training(model)
    made.mean = made.mean * float("nan")
    before = [tensor.detach().clone() for tensor in made.learnt]
    assert not np.isfinite(made.step(0, 1e-3).total)
    assert all(torch.equal(one, other) for one, other in zip(before, made.learnt, strict=True))


def test_the_cache_is_bounded(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(efficientad_training, "CACHE_BYTES", 2 * 9 * 9 * 384 * 2)
    made = training(model)
    assert len(made._targets) == 2
    assert torch.equal(made._target(2), made._target(2))


def test_steps_that_are_alike_are_launched_as_one_on_a_gpu(model: EfficientAd, monkeypatch: pytest.MonkeyPatch):
    recorded = []

    def one_launch(function, inputs, learnt):
        assert all(tensor.requires_grad for tensor in learnt)
        assert not any(tensor.requires_grad for tensor in inputs)
        recorded.append([tensor.shape for tensor in inputs])
        return function

    plain, made = training(model), training(model)
    monkeypatch.setattr(efficientad_training, "is_gpu", lambda _: True)
    monkeypatch.setattr(efficientad_training, "one_launch", one_launch)
    monkeypatch.setattr(plain, "_together", lambda drawn, share: plain._losses(drawn.places, share, *drawn[:3]))
    for k, (share, n_recorded) in enumerate([(0.1, 0), (0.01, 0), (0.01, 1), (0.01, 1), (0.1, 1), (0.1, 2)]):
        assert made.step(k, 1e-9, share) == pytest.approx(plain.step(k, 1e-9, share), rel=1e-5)
        assert len(recorded) == n_recorded
    made.crop_hw = (4, 4)
    for k in range(3):
        made.step(k, 1e-9)
    assert len(recorded) == 2  # parts lie elsewhere in each step
