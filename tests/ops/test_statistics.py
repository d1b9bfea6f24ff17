"""Moments of feature vectors, and the linear maps that follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.statistics import Affine, Moments, Scaling


def correlated(rng: np.random.Generator, n: int = 2000) -> np.ndarray:
    mixed = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) * (1, 10, 0.1, 3, 1, 1)
    return (mixed + 50).astype(np.float32)


def moments_of(rows: np.ndarray, *sizes: int) -> Moments:
    moments = Moments()
    for part in np.split(rows, np.cumsum(sizes)) if sizes else [rows]:
        moments.add(part)
    return moments


def scaled(rows: np.ndarray, scaling: Affine) -> np.ndarray:
    return rows.astype(np.float64) @ scaling.weight.T + scaling.bias


def test_whitened_features_have_unit_covariance(rng: np.random.Generator):
    rows = correlated(rng)
    white = scaled(rows, moments_of(rows).scaling("whiten", 0.0))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=2e-3)


def test_shrinkage_keeps_weak_directions_small(rng: np.random.Generator):
    rows = correlated(rng)
    values = np.linalg.eigvalsh(np.cov(rows.astype(np.float64).T, bias=True))
    white = scaled(rows, moments_of(rows).scaling("whiten", 0.1))
    found = np.linalg.eigvalsh(np.cov(white.T, bias=True))
    np.testing.assert_allclose(found, np.sort(values / (values + 0.1 * values.mean())), rtol=5e-3, atol=1e-4)
    assert found[0] < 0.1
    assert found[-1] > 0.8


def test_standard_features_have_unit_variances(rng: np.random.Generator):
    rows = correlated(rng)
    scaling = moments_of(rows).scaling("standard", 0.0)
    standard = scaled(rows, scaling)
    np.testing.assert_allclose(standard.std(axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-2)
    assert np.count_nonzero(scaling.weight - np.diag(np.diag(scaling.weight))) == 0


def test_none_leaves_features_as_they_are(rng: np.random.Generator):
    rows = correlated(rng)
    np.testing.assert_array_equal(scaled(rows, moments_of(rows).scaling("none", 0.1)), rows.astype(np.float64))


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["standard", "whiten", "none"])
def test_constant_channels_do_no_harm(kind: Scaling, shrinkage: float, rng: np.random.Generator):
    rows = correlated(rng)
    rows[:, 2] = 7
    rows[:, 4] = rows[:, 5]
    found = scaled(rows, moments_of(rows).scaling(kind, shrinkage))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < (200 if kind == "none" else 20)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["standard", "whiten"])
def test_features_that_never_move_stay_finite(kind: Scaling, shrinkage: float):
    rows = np.full((10, 4), 3, np.float32)
    found = scaled(rows, moments_of(rows).scaling(kind, shrinkage))
    np.testing.assert_allclose(found, 0, atol=1e-4)


def test_fewer_vectors_than_channels(rng: np.random.Generator):
    rows = rng.normal(size=(4, 30)).astype(np.float32)
    assert np.abs(scaled(rows, moments_of(rows).scaling("whiten", 0.0))).max() < 3


@pytest.mark.parametrize("kind", ["standard", "whiten"])
def test_chunks_change_nothing(kind: Scaling, rng: np.random.Generator):
    rows = correlated(rng)
    whole, parts = (m.scaling(kind, 0.1) for m in (moments_of(rows), moments_of(rows, 1, 900)))
    np.testing.assert_allclose(scaled(rows, whole) ** 2, scaled(rows, parts) ** 2, rtol=1e-3, atol=1e-3)


def test_a_large_mean_costs_no_digits(rng: np.random.Generator):
    rows = (rng.normal(size=(3000, 3)) + 30_000).astype(np.float32)
    scaling = moments_of(rows, 1000, 1000).scaling("standard", 0.0)
    np.testing.assert_allclose(np.diag(scaling.weight), 1 / rows.astype(np.float64).std(axis=0), rtol=1e-6)


def test_principal_axes_are_the_most_varied_directions(rng: np.random.Generator):
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    rows = (rng.normal(size=(4000, 4)) * (9, 5, 1, 0.1) @ turn + 3).astype(np.float32)
    axes = moments_of(rows).principal_axes(2)
    turned = rows @ axes.weight.T + axes.bias
    np.testing.assert_allclose(np.abs(axes.weight @ turn.T), [[1, 0, 0, 0], [0, 1, 0, 0]], atol=0.05)
    np.testing.assert_allclose(turned.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(axes.weight @ axes.weight.T, np.eye(2), atol=1e-6)
    assert moments_of(rows).principal_axes(64).weight.shape == (4, 4)
