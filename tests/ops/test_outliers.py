"""Outlier scores that a few alike outliers do not hide."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.outliers import kth_neighbor_distances


def by_brute_force(vectors: np.ndarray, k: int) -> np.ndarray:
    """Distances in a double loop, each feature over its median absolute deviation."""
    deviation = np.median(np.abs(vectors - np.median(vectors, axis=0)), axis=0)
    scaled = vectors / np.maximum(deviation, 0.05 * deviation.max())
    return np.array([sorted(float(np.linalg.norm(a - b)) for b in scaled)[k] for a in scaled])


def test_it_is_the_distance_to_the_kth_other():
    vectors = np.random.default_rng(0).normal(3, 2, (60, 5)).astype(np.float32)
    vectors[:, 4] = 7  # a feature that is constant but for one image
    vectors[0, 4] = 7.5
    np.testing.assert_allclose(kth_neighbor_distances(vectors, 0.05), by_brute_force(vectors, 3), rtol=1e-6)
    np.testing.assert_allclose(kth_neighbor_distances(vectors, 0.01), by_brute_force(vectors, 2), rtol=1e-6)


@pytest.mark.parametrize("n_alike", [1, 3, 5])
def test_alike_outliers_do_not_hide_each_other(n_alike: int):
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 1, (100, 8)).astype(np.float32)
    vectors[:n_alike] = 9 + 0.01 * vectors[:n_alike]
    distances = kth_neighbor_distances(vectors, 0.05)
    assert distances[:n_alike].min() > 2 * distances[n_alike:].max()


def test_copies_have_none_and_few_vectors_no_score():
    assert not kth_neighbor_distances(np.ones((20, 4), np.float32), 0.05).any()
    assert kth_neighbor_distances(np.ones((4, 4), np.float32), 0.05).shape == (4,)
    assert kth_neighbor_distances(np.ones((3, 4), np.float32), 0.05).shape == (0,)
