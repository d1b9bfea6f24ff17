"""Per-position Gaussians against a slow twin, with leave-one-out scores."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.distance_statistics import fit_distance_statistics
from blemish.ops.position_gaussian import SHRINKAGE, STATISTICS_SIGMA, PositionGaussians


def good_maps(n: int, seed: int = 0) -> np.ndarray:
    """Feature maps of n images, (n, 3, 4, 5): another mean and another covariance at each position."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(3, 4, 5, 5))
    return (np.einsum("nhwj,hwjk->nhwk", rng.normal(size=(n, 3, 4, 5)), mixing) + mixing[..., 0]).astype(np.float32)


def slow_distance(others: np.ndarray, vector: np.ndarray, trace: float) -> float:
    """The Mahalanobis distance with a ridge of a share of the trace, all in float64."""
    covariance = np.cov(others.astype(np.float64).T, bias=True) + SHRINKAGE * trace / others.shape[1] * np.eye(5)
    difference = vector - others.mean(axis=0, dtype=np.float64)
    return float(np.sqrt(difference @ np.linalg.solve(covariance, difference)))


@pytest.mark.parametrize("n", [3, 40])
def test_distances_are_mahalanobis_at_each_position(n: int):
    maps, new = good_maps(n), good_maps(1, seed=1)[0]
    distances = PositionGaussians.fit(maps)[0].mahalanobis(new)
    assert distances.shape == (3, 4)
    assert distances.dtype == np.float32
    for y, x in np.ndindex(3, 4):
        vectors = maps[:, y, x]
        expected = slow_distance(vectors, new[y, x], float(vectors.astype(np.float64).var(axis=0).sum()))
        assert distances[y, x] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_good_images_are_scored_leave_one_out(n: int):
    maps = good_maps(n)
    distances = np.empty((n, 3, 4), np.float32)
    for y, x in np.ndindex(3, 4):
        vectors = maps[:, y, x]
        trace = float(vectors.astype(np.float64).var(axis=0).sum())
        distances[:, y, x] = [slow_distance(np.delete(vectors, i, axis=0), vectors[i], trace) for i in range(n)]
    _, z_scores = fit_distance_statistics(distances, STATISTICS_SIGMA)
    np.testing.assert_allclose(PositionGaussians.fit(maps)[1], z_scores.max(axis=(1, 2)), rtol=2e-2, atol=5e-3)


def test_features_of_another_position_are_anomalous():
    """They are in the bank of all positions, which cannot tell."""
    gaussians, good_scores = PositionGaussians.fit(good_maps(60))
    moved = good_maps(1, seed=2)[0]
    moved[1, 1] = 3 * good_maps(1, seed=3)[0][2, 3]
    assert gaussians.score(moved) > good_scores.max()
    assert gaussians.statistics.z_scores(gaussians.mahalanobis(moved)).argmax() == 1 * 4 + 1


def test_copies_of_one_image_score_low_and_another_scores_high():
    maps = np.repeat(good_maps(1), 5, axis=0)
    gaussians, good_scores = PositionGaussians.fit(maps)
    assert np.isfinite(good_scores).all()
    assert good_scores.max() < 1
    score = gaussians.score(maps[0] + np.float32(1))
    assert np.isfinite(score)
    assert score > 1


def test_distances_without_an_image_are_those_of_a_fit_without_it():
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(60, 2, 3, 6)).astype(np.float32)
    everything, rest = PositionGaussians.fit(maps)[0], PositionGaussians.fit(np.delete(maps, 5, axis=0))[0]
    for features in (maps[5], rng.normal(0, 2, size=(2, 3, 6)).astype(np.float32)):
        without = everything.mahalanobis_without(features, maps[5:6], len(maps))
        np.testing.assert_allclose(without, rest.mahalanobis(features), rtol=0.003)
        assert np.abs(everything.mahalanobis(features) / rest.mahalanobis(features) - 1).max() > 0.005


def test_scores_without_images_of_the_same_part():
    rng = np.random.default_rng(7)
    maps = np.repeat(rng.normal(size=(30, 2, 3, 8)), 2, axis=0).astype(np.float32)
    maps += 0.01 * rng.normal(size=maps.shape).astype(np.float32)
    left_out = [[i, i + 1] for i in range(0, 60, 2)]
    grouped, scores = PositionGaussians.fit(maps, left_out)
    _, single = PositionGaussians.fit(maps[::2])
    assert np.median(scores) == pytest.approx(np.median(single), rel=0.15)
    alone = PositionGaussians.fit(maps)[1]
    assert len(scores) == 30
    assert len(alone) == 60
    others, _ = PositionGaussians.fit(np.delete(maps, [4, 5], axis=0))
    without = grouped.mahalanobis_without(maps[4], maps[4:6], len(maps))
    np.testing.assert_allclose(without, others.mahalanobis(maps[4]), rtol=0.02)
