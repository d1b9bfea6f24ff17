"""Neighbors' votes and the novelty p-value."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.search.voting import MIN_REFERENCES, label_counts, novelty_p_value, weighted_votes
from tests.search.test_clustering import units


def test_defects_like_the_stored_ones_are_rarely_novel(rng: np.random.Generator):
    novel = []
    for _ in range(300):
        vectors = units(rng, 61)
        distance = 1 - vectors @ vectors.T
        np.fill_diagonal(distance, np.inf)
        references = distance[:60, :60].min(axis=1).astype(np.float64)
        p_value = novelty_p_value(float(distance[60, :60].min()), references)
        assert p_value is not None
        novel.append(p_value <= 0.1)
    assert np.mean(novel) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_too_few_references_have_no_p_value():
    assert novelty_p_value(1.0, np.zeros(MIN_REFERENCES - 1)) is None
    assert novelty_p_value(1.0, np.zeros(MIN_REFERENCES)) == 0.05
    assert novelty_p_value(0.0, np.ones(MIN_REFERENCES)) == 1.0


def test_nearer_neighbors_have_larger_votes():
    near_and_far = ["a", "b", "b"], [0.9, 0.5, 0.5]
    assert next(iter(weighted_votes(*near_and_far, 0.0))) == "b"
    assert next(iter(weighted_votes(*near_and_far, 20.0))) == "a"
    assert sum(weighted_votes(*near_and_far, 3.0).values()) == pytest.approx(1)
    assert weighted_votes([], [], 1.0) == {}


def test_counts_are_of_labels():
    assert list(label_counts(["b", None, "a", "b"]).items()) == [("b", 2), ("a", 1)]
    assert list(label_counts(["b", "a"])) == ["a", "b"]
