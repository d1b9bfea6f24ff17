"""Distances, the paper's weight and image scores against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.detectors.patchcore.scoring import Scorer
from blemish.ops.distance_statistics import DistanceStatistics
from blemish.ops.neighbors import MemoryIndex


@pytest.fixture
def bank(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(60, 5)).astype(np.float32)


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    return (1.5 * rng.normal(size=(4, 3, 5))).astype(np.float32)


def all_distances(features: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """(h, w, n) distances of each patch to each bank row, in float64."""
    return np.linalg.norm(features[:, :, None].astype(np.float64) - bank, axis=3)


def paper_weight(features: np.ndarray, bank: np.ndarray, b: int, level: DistanceStatistics | None = None) -> float:
    """Roth et al. 2022, section 3.3, written down: equations 6 and 7."""
    distances = all_distances(features, bank)
    nearest = distances.min(axis=2)
    if level is not None:
        nearest = (nearest - level.mean) / level.standard_deviation
    i, j = np.unravel_index(nearest.argmax(), nearest.shape)
    m_star = int(distances[i, j].argmin())
    to_m_star = np.linalg.norm(bank.astype(np.float64) - bank[m_star], axis=1)
    neighbourhood = np.argsort(to_m_star, kind="stable")[:b]
    terms = np.exp(distances[i, j, neighbourhood])
    return 1 - float(np.exp(distances[i, j, m_star]) / terms.sum())


def test_distances_and_rows_are_the_nearest(features: np.ndarray, bank: np.ndarray):
    found = Scorer(MemoryIndex(bank), 1, None).distances(features)
    plain = all_distances(features, bank)
    np.testing.assert_allclose(found.distances, plain.min(axis=2), rtol=1e-6)
    np.testing.assert_array_equal(found.rows, plain.argmin(axis=2))
    assert found.weight == 1


@pytest.mark.parametrize("n_neighbors", [2, 3, 9, 60])
def test_weight_is_the_papers(features: np.ndarray, bank: np.ndarray, n_neighbors: int):
    found = Scorer(MemoryIndex(bank), n_neighbors, None).distances(features)
    assert found.weight == pytest.approx(paper_weight(features, bank, n_neighbors), rel=1e-5)
    assert 0 < found.weight < 1


def test_weight_is_that_of_the_worst_patch_at_its_position(features: np.ndarray, bank: np.ndarray):
    nearest = all_distances(features, bank).min(axis=2)
    level = DistanceStatistics(*(np.full(nearest.shape, value, np.float32) for value in (0, 1, 0)))
    level.standard_deviation[np.unravel_index(nearest.argmax(), nearest.shape)] = 10
    found = Scorer(MemoryIndex(bank), 4, level).distances(features)
    assert found.weight == pytest.approx(paper_weight(features, bank, 4, level), rel=1e-5)
    assert found.weight != pytest.approx(paper_weight(features, bank, 4), rel=1e-3)


@pytest.mark.parametrize("n_neighbors", [1, 5])
def test_own_rows_are_left_out(features: np.ndarray, bank: np.ndarray, n_neighbors: int):
    own = np.zeros(len(bank), bool)
    own[10:30] = True
    found = Scorer(MemoryIndex(bank), n_neighbors, None).distances(features, exclude=own)
    without = Scorer(MemoryIndex(bank[~own]), n_neighbors, None).distances(features)
    np.testing.assert_array_equal(found.distances, without.distances)
    assert not own[found.rows].any()
    assert found.weight == pytest.approx(without.weight, rel=1e-6)


def test_far_patches_do_not_overflow(bank: np.ndarray):
    features = np.full((1, 1, 5), 1e6, np.float32)
    weight = Scorer(MemoryIndex(bank), 9, None).distances(features).weight
    assert 0 <= weight <= 1


def test_patch_map_is_deviations_beyond_the_usual(features: np.ndarray, bank: np.ndarray):
    level = DistanceStatistics(*(np.full((4, 3), value, np.float32) for value in (1.5, 2, 0)))
    distances = Scorer(MemoryIndex(bank), 1, None).distances(features).distances
    relative = Scorer(MemoryIndex(bank), 1, level).patch_map(distances)
    np.testing.assert_array_equal(relative, np.maximum((distances - 1.5) / 2, 0))
    assert (relative == 0).any()
    assert (relative > 0).any()
    np.testing.assert_array_equal(Scorer(MemoryIndex(bank), 1, None).patch_map(distances), distances)


def test_image_score_is_the_maximum_times_the_weight(bank: np.ndarray):
    patch_map = np.float32([[1, 2, 1], [0, 5, 1]])
    assert Scorer(MemoryIndex(bank), 1, None).image_score(patch_map, 0.5) == 2.5


def test_the_image_score_is_the_mean_of_the_highest_patches():
    patch_map = np.arange(200, dtype=np.float32).reshape(10, 20)
    index = MemoryIndex(np.zeros((3, 2), np.float32))
    for share, expected in ((0.0, 199.0), (0.004, 199.0), (0.01, 198.5), (0.05, np.mean(range(190, 200))), (1.0, 99.5)):
        assert Scorer(index, 1, None, top_share=share).image_score(patch_map, 1.0) == pytest.approx(expected)
    assert Scorer(index, 1, None, top_share=0.01).image_score(patch_map, 0.5) == pytest.approx(99.25)
