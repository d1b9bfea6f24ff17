"""Clustering, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.search.clustering import cluster
from tests.lazy import sklearn_cluster


def units(rng: np.random.Generator, n: int, dim: int = 8, kinds: int = 5) -> np.ndarray:
    centres = 2 * rng.standard_normal((kinds, dim))
    made = centres[rng.integers(kinds, size=n)] + rng.standard_normal((n, dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 40, 150])
@pytest.mark.parametrize("least", [-0.5, 0.3, 0.7, 0.95])
def test_clusters_are_those_of_average_linkage(rng: np.random.Generator, n: int, least: float):
    vectors = units(rng, n)
    found = cluster(vectors, least)
    if n > 1:
        twin = sklearn_cluster.AgglomerativeClustering(
            n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - least + 1e-7
        ).fit_predict(1 - vectors @ vectors.T)
        together = found[:, None] == found
        np.testing.assert_array_equal(together, twin[:, None] == twin)
    assert found[0] == 0
    assert set(found) == set(range(found.max() + 1))
    assert [int(i) for i in dict.fromkeys(found.tolist())] == list(range(found.max() + 1))


def test_vectors_beyond_the_pairwise_limit_join_the_nearest_cluster(rng: np.random.Generator):
    vectors = units(rng, 60, kinds=2)
    copies = np.concatenate([vectors[:30], vectors[:30]])
    found = cluster(copies, 0.5, max_pairwise=30)
    np.testing.assert_array_equal(found[30:], found[:30])
    alone = cluster(np.concatenate([vectors[:30], -vectors[:1]]), 0.99, max_pairwise=30)
    assert alone[30] not in alone[:30]


def test_clustering_needs_a_finite_number_and_finite_vectors(rng: np.random.Generator):
    with pytest.raises(InputError, match="least_similarity: expected a number"):
        cluster(units(rng, 3), float("nan"))
    with pytest.raises(InputError, match="vectors: expected finite float32"):
        cluster(np.full((2, 3), np.nan, np.float32), 0.5)
