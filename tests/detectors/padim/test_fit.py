"""Gaussians of each position and leave-one-out distances, against plain NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import Padim, backbones
from blemish.detectors.padim import fit as padim_fit
from blemish.detectors.padim.fit import EPSILON, PositionMoments, chosen_features, estimated_bytes, leave_one_out
from blemish.detectors.padim.settings import PadimSettings
from blemish.errors import InputError
from tests.images import goods

if TYPE_CHECKING:
    from blemish.types import Float32


def moments_of(maps: Float32) -> PositionMoments:
    moments = PositionMoments()
    for features in maps:
        moments.add(features)
    return moments


def mahalanobis(x: Float32, mean: np.ndarray, covariance: np.ndarray) -> float:
    centred = x.astype(np.float64) - mean
    return float(np.sqrt(centred @ np.linalg.solve(covariance, centred)))


@pytest.fixture
def maps(rng: np.random.Generator) -> Float32:
    """(9, 2, 3, 4) float32: nine images of correlated features, far from the origin."""
    return (50 + rng.normal(size=(9, 2, 3, 4)) @ rng.normal(size=(4, 4))).astype(np.float32)


def test_each_position_has_the_sample_mean_and_covariance(maps: Float32):
    mean, whitening = moments_of(maps).gaussians(EPSILON)
    for row, column in np.ndindex(2, 3):
        here = maps[:, row, column].astype(np.float64)
        covariance = np.cov(here, rowvar=False) + EPSILON * np.eye(4)
        np.testing.assert_allclose(mean[row, column], here.mean(axis=0), rtol=1e-6)
        expected = [mahalanobis(x, here.mean(axis=0), covariance) for x in here.astype(np.float32)]
        found = np.linalg.norm((here - mean[row, column]) @ whitening[row, column].T, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("n", [3, 9])
def test_leave_one_out_equals_a_fit_on_the_other_images(maps: Float32, n: int):
    rows = maps[:n, 0, 0]
    epsilon = EPSILON * (n - 1) / (n - 2)  # as the function says
    mean, whitening = moments_of(maps[:n]).gaussians(EPSILON)
    own = np.linalg.norm((rows - mean[0, 0]) @ whitening[0, 0].T, axis=1).astype(np.float32)
    for i, distance in enumerate(leave_one_out(own, n)):
        others = np.delete(rows, i, axis=0).astype(np.float64)
        covariance = np.cov(others, rowvar=False) + epsilon * np.eye(4)
        assert distance == pytest.approx(mahalanobis(rows[i], others.mean(axis=0), covariance), rel=2e-3)
        assert distance > own[i]


def test_two_images_and_copies_have_finite_distances():
    assert np.isfinite(leave_one_out(np.float32([[0.7, 0.0]]), 2)).all()
    mean, whitening = moments_of(np.ones((5, 2, 2, 3), np.float32)).gaussians(EPSILON)
    assert np.isfinite(whitening).all()
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(leave_one_out(np.zeros((2, 2), np.float32), 5), 0)


def test_channels_are_a_seeded_random_choice():
    backbone = backbones.build()
    chosen = [chosen_features(backbone, PadimSettings(n_features=20, seed=seed)).weight for seed in (0, 0, 1)]
    assert chosen[0].shape == (20, sum(backbone.channels))
    assert (chosen[0].sum(axis=1) == 1).all()
    assert (np.count_nonzero(chosen[0], axis=1) == 1).all()
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()
    every = chosen_features(backbone, PadimSettings(n_features=4096)).weight
    np.testing.assert_array_equal(every, np.eye(sum(backbone.channels)))


def test_memory_does_not_grow_with_the_images():
    backbone, settings = backbones.build(), PadimSettings()
    assert estimated_bytes(settings, backbone, 10) == estimated_bytes(settings, backbone, 10_000)
    assert estimated_bytes(PadimSettings(n_features=50), backbone, 10) < estimated_bytes(settings, backbone, 10)
    with pytest.raises(InputError, match="n_images: expected a whole number from 1"):
        estimated_bytes(settings, backbone, 0)


def test_the_time_of_a_fit_is_a_line_through_two_pilots(monkeypatch: pytest.MonkeyPatch):
    model = Padim(image_size=96)
    ticks = iter([0.0, 2.0, 10.0, 16.0])  # 2 s for four images, 6 s for twelve
    monkeypatch.setattr(padim_fit, "fit", lambda *args, **kwargs: None)
    monkeypatch.setattr(padim_fit.time, "perf_counter", lambda: next(ticks))
    images = goods()
    found = padim_fit.estimated_seconds(model.settings, model.pretrained, images, least=len(images))
    assert found == pytest.approx(6 + 0.5 * (len(images) - 12))
    assert padim_fit.estimated_seconds(model.settings, model.pretrained, images) is None
