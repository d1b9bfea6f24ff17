"""Gaussians of each place: against a slow twin, and what leaving one image out means."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.distance_statistics import level_of_good
from blemish.ops.position_gaussian import LEVEL_SIGMA, SHRINKAGE, PositionGaussians


def good_parts(n: int, seed: int = 0) -> np.ndarray:
    """Parts of n images, (n, 3, 4, 5): another mean and another covariance at each place."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(3, 4, 5, 5))
    return (np.einsum("nhwj,hwjk->nhwk", rng.normal(size=(n, 3, 4, 5)), mixing) + mixing[..., 0]).astype(np.float32)


def slow_distance(others: np.ndarray, one: np.ndarray, trace: float) -> float:
    """The Mahalanobis distance, shrunk by a share of a trace, all in float64."""
    covariance = np.cov(others.astype(np.float64).T, bias=True) + SHRINKAGE * trace / others.shape[1] * np.eye(5)
    away = one - others.mean(axis=0, dtype=np.float64)
    return float(np.sqrt(away @ np.linalg.solve(covariance, away)))


@pytest.mark.parametrize("n", [3, 40])
def test_distances_are_those_from_the_gaussian_of_the_place(n: int):
    maps, new = good_parts(n), good_parts(1, seed=1)[0]
    found = PositionGaussians.fitted(maps)[0].distances(new)
    assert found.shape == (3, 4)
    assert found.dtype == np.float32
    for place in np.ndindex(3, 4):
        rows = maps[:, place[0], place[1]]
        expected = slow_distance(rows, new[place], float(rows.astype(np.float64).var(axis=0).sum()))
        assert found[place] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_good_images_are_judged_by_the_others(n: int):
    maps = good_parts(n)
    distances = np.empty((n, 3, 4), np.float32)
    for y, x in np.ndindex(3, 4):
        rows = maps[:, y, x]
        trace = float(rows.astype(np.float64).var(axis=0).sum())
        distances[:, y, x] = [slow_distance(np.delete(rows, i, axis=0), rows[i], trace) for i in range(n)]
    _, deviations = level_of_good(distances, LEVEL_SIGMA)
    np.testing.assert_allclose(PositionGaussians.fitted(maps)[1], deviations.max(axis=(1, 2)), rtol=2e-2, atol=5e-3)


def test_a_part_from_another_place_is_found():
    """Its features are good ones, but not where they are: what a bank of all places can't say."""
    maps = good_parts(60)
    gaussians, good_scores = PositionGaussians.fitted(maps)
    moved = good_parts(1, seed=2)[0]
    moved[1, 1] = 3 * good_parts(1, seed=3)[0][2, 3]
    assert gaussians.score(moved) > good_scores.max()
    assert gaussians.level.deviations(gaussians.distances(moved)).argmax() == 1 * 4 + 1


def test_copies_of_one_image_score_nothing_and_another_does():
    maps = np.repeat(good_parts(1), 5, axis=0)
    gaussians, good_scores = PositionGaussians.fitted(maps)
    assert np.isfinite(good_scores).all()
    assert good_scores.max() < 1
    other = gaussians.score(maps[0] + np.float32(1))
    assert np.isfinite(other)
    assert other > 1
