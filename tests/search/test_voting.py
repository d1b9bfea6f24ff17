"""What neighbours say, against slow twins and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering

from blemish.errors import InputError
from blemish.search.voting import FEWEST_TO_JUDGE, groups_of, novelty_p_value, shares, votes


def units(rng: np.random.Generator, n: int, dim: int = 8, kinds: int = 5) -> np.ndarray:
    centres = 2 * rng.standard_normal((kinds, dim))
    made = centres[rng.integers(kinds, size=n)] + rng.standard_normal((n, dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 40, 150])
@pytest.mark.parametrize("least", [-0.5, 0.3, 0.7, 0.95])
def test_groups_are_those_of_average_linkage(rng: np.random.Generator, n: int, least: float):
    vectors = units(rng, n)
    found = groups_of(vectors, least)
    if n > 1:
        twin = AgglomerativeClustering(
            n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - least + 1e-7
        ).fit_predict(1 - vectors @ vectors.T)
        together = found[:, None] == found
        np.testing.assert_array_equal(together, twin[:, None] == twin)
    assert found[0] == 0
    assert set(found) == set(range(found.max() + 1))
    assert [int(i) for i in dict.fromkeys(found.tolist())] == list(range(found.max() + 1))


def test_what_is_too_many_to_pair_goes_to_the_nearest_group(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.search.voting.MOST_PAIRED", 30)
    vectors = units(rng, 60, kinds=2)
    copies = np.concatenate([vectors[:30], vectors[:30]])
    found = groups_of(copies, 0.5)
    np.testing.assert_array_equal(found[30:], found[:30])
    alone = groups_of(np.concatenate([vectors[:30], -vectors[:1]]), 0.99)
    assert alone[30] not in alone[:30]


def test_groups_need_a_number_and_finite_vectors(rng: np.random.Generator):
    with pytest.raises(InputError, match="least_similarity: expected a number"):
        groups_of(units(rng, 3), float("nan"))
    with pytest.raises(InputError, match="vectors: expected finite float32"):
        groups_of(np.full((2, 3), np.nan, np.float32), 0.5)


def test_defects_like_those_stored_are_rarely_called_new(rng: np.random.Generator):
    called = []
    for _ in range(300):
        vectors = units(rng, 61)
        distance = 1 - vectors @ vectors.T
        np.fill_diagonal(distance, np.inf)
        known = distance[:60, :60].min(axis=1).astype(np.float64)
        p_value = novelty_p_value(float(distance[60, :60].min()), known)
        assert p_value is not None
        called.append(p_value <= 0.1)
    assert np.mean(called) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_too_few_known_ones_say_nothing():
    assert novelty_p_value(1.0, np.zeros(FEWEST_TO_JUDGE - 1)) is None
    assert novelty_p_value(1.0, np.zeros(FEWEST_TO_JUDGE)) == 0.05
    assert novelty_p_value(0.0, np.ones(FEWEST_TO_JUDGE)) == 1.0


def test_nearer_neighbours_have_more_say():
    near_and_far = ["a", "b", "b"], [0.9, 0.5, 0.5]
    assert next(iter(votes(*near_and_far, 0.0))) == "b"
    assert next(iter(votes(*near_and_far, 20.0))) == "a"
    assert sum(votes(*near_and_far, 3.0).values()) == pytest.approx(1)
    assert votes([], [], 1.0) == {}


def test_shares_count_what_has_a_label():
    assert list(shares(["b", None, "a", "b"]).items()) == [("b", 2), ("a", 1)]
    assert list(shares(["b", "a"])) == ["a", "b"]
