"""Greedy k-center: the same picks as the obvious one, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish import coreset
from blemish.coreset import greedy_coreset
from blemish.errors import InputError
from tests.reference_coreset import reference_coreset


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    for name, size in {"_BATCH": 40, "_TILE": 16, "_REVIEW": 3, "_SCAN": 7}.items():
        monkeypatch.setattr(coreset, name, size)


@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (2, 1, 2), (50, 1, 50), (300, 5, 60), (600, 40, 600)])
def test_equals_the_obvious_reference(n, d, k):
    features = gaussian(n, d)
    assert greedy_coreset(features, k, seed=3).tolist() == reference_coreset(features, k, seed=3).tolist()


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 120), d=st.integers(1, 4), values=st.integers(1, 4), seed=st.integers(0, 9), data=st.data())
def test_ties_go_to_the_lowest_index(n, d, values, seed, data):
    features = np.random.default_rng(seed).integers(0, values, (n, d)).astype(np.float32)
    k = data.draw(st.integers(1, n))
    assert greedy_coreset(features, k, seed=seed).tolist() == reference_coreset(features, k, seed=seed).tolist()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("make", [gaussian, lambda n, d: np.round(gaussian(n, d))], ids=["plain", "ties"])
def test_picks_do_not_depend_on_the_blocks(make):
    features = make(500, 3)
    assert greedy_coreset(features, 300).tolist() == reference_coreset(features, 300).tolist()


@pytest.mark.parametrize("n_select", [0, 6, 2.5, True])
def test_refuses_an_impossible_size(n_select):
    with pytest.raises(InputError, match=r"n_select: expected a whole number from 1 to 5, got"):
        greedy_coreset(gaussian(5, 2), n_select)
