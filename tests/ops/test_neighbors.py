"""Nearest neighbors equal brute force: any data, exclusions, ties, block sizes and threads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops.neighbors import MemoryIndex
from tests.reference import nearest_neighbors


def clustered(seed, n, dim, *, spread=0.1, offset=0.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 20), dim))
    rows = centres[rng.integers(len(centres), size=n)] + spread * rng.normal(size=(n, dim)) + offset
    return rows.astype(np.float32)


def assert_exact(queries, bank, k, exclude=None):
    got = MemoryIndex(bank).search(queries, k, exclude=exclude)
    distances, indices = nearest_neighbors(queries, bank, k, exclude)
    assert got.distances.dtype == np.float32
    assert got.indices.dtype == np.int64
    np.testing.assert_allclose(got.distances, distances, rtol=1e-6, atol=1e-30)
    # Two float64 sums may round to neighboring float32 numbers: another index counts only if it is as near.
    other = got.indices != indices
    np.testing.assert_allclose(got.distances[other], distances[other], rtol=2e-7)
    for row in got.indices:
        assert len(set(row)) == k


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 700),
    q=st.integers(0, 70),
    dim=st.integers(1, 200),
    k=st.integers(1, 12),
    offset=st.sampled_from([0.0, 3.0, 1000.0]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_equals_brute_force(seed, n, q, dim, k, offset, scale):
    rows = clustered(seed, n + q, dim, offset=offset) * np.float32(scale)
    assert_exact(rows[n:], rows[:n], min(k, n))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 300), share=st.floats(0, 1), k=st.integers(1, 5))
def test_excluded_rows_are_never_found(seed, n, share, k):
    bank = clustered(seed, n, 24)
    exclude = np.random.default_rng(seed).random(n) < share
    exclude[0] = False
    k = min(k, int((~exclude).sum()))
    assert_exact(bank[exclude], bank, k, exclude)
    assert not exclude[MemoryIndex(bank).search(bank, k, exclude=exclude).indices].any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 400), k=st.integers(1, 8))
def test_equal_rows_come_by_index(seed, n, k):
    rng = np.random.default_rng(seed)
    bank = rng.integers(0, 3, size=(n, 3)).astype(np.float32)
    queries = rng.integers(0, 3, size=(20, 3)).astype(np.float32)
    k = min(k, n)
    np.testing.assert_array_equal(MemoryIndex(bank).search(queries, k).indices, nearest_neighbors(queries, bank, k)[1])


def heavy_tailed(seed, n, dim):
    rng = np.random.default_rng(seed)
    rows = np.maximum(clustered(seed, n, dim, spread=0.5), 0)
    rows[:, :: max(1, dim // 5)] *= 40
    rows[rng.integers(n, size=max(1, n // 200))] *= 300
    return rows.astype(np.float32)


def equal_in_part(seed, n, dim):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=(n, min(dim, 6))).astype(np.float32)


def plain_noise(seed, n, dim):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def constant(seed, n, dim):
    return np.full((n, dim), np.float32(0.1 * seed), np.float32)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    made=st.sampled_from([clustered, heavy_tailed, equal_in_part, plain_noise]),
    seed=st.integers(0, 1000),
    n=st.integers(1536, 2500),
    dim=st.integers(1, 90),
    k=st.integers(1, 10),
    share=st.sampled_from([0.0, 0.01, 0.5, 0.99]),
)
def test_large_banks_equal_brute_force(made, seed, n, dim, k, share):
    rows = made(seed, n + 10, dim)
    exclude = np.random.default_rng(seed).random(n) < share
    k = min(k, int((~exclude).sum()))
    assert_exact(rows[n - 10 :], rows[:n], k, exclude)


def test_a_bank_of_equal_rows_gives_the_lowest_allowed():
    exclude = np.zeros(1600, bool)
    exclude[:3] = True
    neighbors = MemoryIndex(constant(3, 1600, 20)).search(constant(4, 5, 20), 2, exclude=exclude)
    np.testing.assert_array_equal(neighbors.indices, [[3, 4]] * 5)


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e12, 1e15])
def test_very_small_and_very_large_numbers_are_ordered(scale):
    rows = plain_noise(11, 1800, 12)
    rows = rows / np.abs(rows).max() * np.float32(scale)
    assert_exact(rows[1700:], rows[:1700], 3)


def test_queries_far_from_the_bank():
    bank = plain_noise(12, 1600, 8)
    queries = np.concatenate([bank[:3] * np.float32(1e12), bank[:3] * np.float32(1e-12), bank.mean(0)[None]])
    assert_exact(queries, bank, 2)


def test_the_8_bit_bound_alone_is_enough_for_features(monkeypatch):
    bank, queries = clustered(13, 3000, 64), clustered(14, 100, 64)
    expected = nearest_neighbors(queries, bank, 9)
    index = MemoryIndex(bank)
    monkeypatch.setattr(index, "_search_float", lambda *left: None if not left[3] else pytest.fail("fell back"))
    np.testing.assert_array_equal(index.search(queries, 9).indices, expected[1])


def test_7_bit_weights_give_the_same():
    bank, queries = clustered(15, 2000, 64), clustered(16, 100, 64)
    full = MemoryIndex(bank).search(queries, 3)
    narrow = MemoryIndex(bank, weight_limit=63).search(queries, 3)
    np.testing.assert_array_equal(full.indices, narrow.indices)
    np.testing.assert_array_equal(full.distances, narrow.distances)


@pytest.mark.parametrize("n_queries", [1, 4, 37, 4096])
def test_the_result_does_not_depend_on_the_block(n_queries, monkeypatch):
    bank, queries = clustered(17, 2000, 32), clustered(18, 150, 32)
    expected = MemoryIndex(bank).search(queries, 4)
    monkeypatch.setattr("blemish.ops.neighbors.BLOCK_QUERIES", (n_queries, n_queries))
    got = MemoryIndex(bank).search(queries, 4)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.distances, expected.distances)


def test_a_bank_row_has_distance_zero_to_itself():
    bank = clustered(1, 500, 152, offset=50)
    neighbors = MemoryIndex(bank).search(bank)
    assert (neighbors.distances == 0).all()
    np.testing.assert_array_equal(neighbors.indices[:, 0], np.arange(500))


def test_one_query_equals_the_same_query_among_many():
    bank, queries = clustered(2, 3000, 64), clustered(3, 200, 64)
    index = MemoryIndex(bank)
    together = index.search(queries, 3)
    for i in (0, 17, 199):
        alone = index.search(queries[i : i + 1], 3)
        np.testing.assert_array_equal(alone.indices[0], together.indices[i])
        np.testing.assert_array_equal(alone.distances[0], together.distances[i])


@pytest.mark.slow
def test_threads_share_an_index():
    bank, queries = clustered(4, 2000, 48), clustered(5, 300, 48)
    index = MemoryIndex(bank)
    expected = index.search(queries, 2)
    results = {}

    def work(name):
        for _ in range(5):
            results[name] = index.search(queries, 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results.values():
        np.testing.assert_array_equal(result.distances, expected.distances)
        np.testing.assert_array_equal(result.indices, expected.indices)


def test_no_queries_give_empty_arrays():
    neighbors = MemoryIndex(clustered(6, 10, 4)).search(np.zeros((0, 4), np.float32), 2)
    assert neighbors.distances.shape == neighbors.indices.shape == (0, 2)


def test_the_bank_may_be_a_view_and_is_not_changed():
    bank = clustered(7, 200, 16)
    before = bank.copy()
    view = MemoryIndex(bank[::2, ::-1]).search(bank[1::2, ::-1])
    np.testing.assert_array_equal(view.indices, nearest_neighbors(bank[1::2, ::-1], bank[::2, ::-1], 1)[1])
    np.testing.assert_array_equal(bank, before)


def test_a_copy_of_an_index_gives_the_same():
    bank, queries = clustered(10, 1600, 12), clustered(11, 9, 12)
    index = MemoryIndex(bank)
    copied = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(copied.search(queries).indices, index.search(queries).indices)


def test_whole_groups_may_be_excluded():
    bank = plain_noise(20, 1600, 8)
    query = bank.mean(axis=0, keepdims=True)
    exclude = np.zeros(1600, bool)
    exclude[np.argsort(np.linalg.norm(bank - query, axis=1))[:40]] = True
    for k in (1, 3):
        assert_exact(query, bank, k, exclude)


def test_values_that_overflow_the_bound():
    bank = plain_noise(19, 1600, 6) * np.float32(1e14)
    queries = np.stack([bank.mean(axis=0, dtype=np.float64).astype(np.float32), bank[7]])
    assert_exact(queries, bank, 2)


def test_sizes():
    index = MemoryIndex(clustered(8, 30, 7))
    assert (index.n_rows, index.dim) == (30, 7)
    assert index.nbytes >= 30 * 7 * 4


@pytest.mark.parametrize(
    ("bank", "text"),
    [
        (np.zeros((3, 2)), r"memory_bank: expected float32 \(n, D\), got float64 \(3, 2\)\."),
        (np.full((3, 2), -1e16, np.float32), r"memory_bank: expected values from -1e\+15 to 1e\+15, got 1e\+16\."),
        (np.zeros((0, 2), np.float32), r"memory_bank: expected float32 \(n, D\), got float32 \(0, 2\)\."),
        (np.full((3, 2), np.nan, np.float32), r"memory_bank: expected finite float32 \(n, D\), got 6 NaN"),
    ],
)
def test_a_bad_bank_is_refused(bank, text):
    with pytest.raises(InputError, match=text):
        MemoryIndex(bank)


@pytest.mark.parametrize(
    ("queries", "settings", "text"),
    [
        (np.zeros((2, 5), np.float32), {}, r"queries: expected float32 \(Q, 4\), got float32 \(2, 5\)\."),
        (np.full((2, 4), np.inf, np.float32), {}, "queries: expected finite float32"),
        (np.zeros((2, 4), np.float32), {"n_neighbors": 0}, "n_neighbors: expected an integer of at least 1, got 0"),
        (np.zeros((2, 4), np.float32), {"n_neighbors": True}, "n_neighbors: expected an integer .* got True"),
        (np.zeros((2, 4), np.float32), {"n_neighbors": 11}, "at most 10, got 11 with 10 of 10 bank rows allowed"),
        (
            np.zeros((2, 4), np.float32),
            {"exclude": np.ones(10, bool)},
            "at most 0, got 1 with 0 of 10 bank rows allowed.* Ask for fewer",
        ),
        (np.zeros((2, 4), np.float32), {"exclude": np.ones(9, bool)}, r"exclude: expected bool \(10,\), got bool"),
    ],
)
def test_bad_searches_are_refused(queries, settings, text):
    with pytest.raises(InputError, match=text):
        MemoryIndex(clustered(9, 10, 4)).search(queries, **settings)
