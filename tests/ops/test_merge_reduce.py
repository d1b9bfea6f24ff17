"""Merge and reduce: every row is covered within the stated radius, which is near that of the exact traversal."""

import tracemalloc

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.ops import coreset as exact
from blemish.ops import merge_reduce
from blemish.ops.coreset import greedy_coreset
from blemish.ops.merge_reduce import StreamingCoreset, coreset, coreset_bytes, streaming_bytes
from tests.reference import covering_radius


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 500 rows, so that a few thousand rows are many chunks."""
    monkeypatch.setattr(merge_reduce, "CHUNK_ROWS", 500)
    monkeypatch.setattr(merge_reduce, "CANDIDATES", 8)


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def source_of(n):
    return np.stack([np.arange(n), np.zeros(n), np.ones(n)], axis=1).astype(np.int32)


def counted_products(monkeypatch):
    """Count the (row, pick) pairs of all matrix products of the traversal."""
    pairs = []
    matmul = np.matmul
    monkeypatch.setattr(
        exact.np,
        "matmul",
        lambda a, b, **options: pairs.append(a.size * b.size / a.shape[-1]) or matmul(a, b, **options),
    )
    return pairs


# In memory


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1900, 40), (2600, 32), (3000, 400)])
def test_few_rows_or_a_large_share_are_the_exact_traversal(n, k, small_chunks):
    features = gaussian(n, 6)
    found = coreset(features, k, seed=3)
    assert found.indices.tolist() == greedy_coreset(features, k, seed=3).tolist()
    assert found.radius == pytest.approx(covering_radius(features, features[found.indices]))


@pytest.mark.parametrize("d", [3, 24])
@pytest.mark.parametrize(("n", "k"), [(2001, 33), (6000, 120)])
def test_many_rows_are_covered_within_the_radius(n, k, d, small_chunks):
    features = gaussian(n, d)
    found = coreset(features, k)
    assert len(set(found.indices.tolist())) == k
    assert covering_radius(features, features[found.indices]) <= found.radius * (1 + 1e-6)


@pytest.mark.slow
def test_the_radius_is_near_that_of_the_exact_traversal(small_chunks):
    features = gaussian(8000, 24)
    radius = covering_radius(features, features[greedy_coreset(features, 160)])
    assert coreset(features, 160).radius <= 1.03 * radius


@pytest.mark.slow
def test_without_a_second_look_some_rows_are_left_uncovered(small_chunks, monkeypatch):
    features = gaussian(8000, 24)
    with_look = coreset(features, 160)
    monkeypatch.setattr(merge_reduce, "_uncovered", lambda *_: (np.empty(0, np.int64), np.empty(0)))
    without = coreset(features, 160)
    assert covering_radius(features, features[without.indices]) > 1.03 * with_look.radius


def test_rows_of_one_chunk_that_are_like_no_others_are_kept(small_chunks):
    features = gaussian(5000, 8)
    features[2340:2343] += 40
    assert set(coreset(features, 100).indices.tolist()) & {2340, 2341, 2342}


def test_equal_rows_are_no_trouble(small_chunks):
    found = coreset(np.ones((4000, 3), np.float32), 50)
    assert found.radius == 0
    assert len(set(found.indices.tolist())) == 50


def test_the_same_seed_gives_the_same_rows(small_chunks):
    features = gaussian(4000, 8)
    assert (coreset(features, 60, seed=5).indices == coreset(features, 60, seed=5).indices).all()
    assert (coreset(features, 60, seed=5).indices != coreset(features, 60, seed=6).indices).any()


def test_comparisons_grow_linearly_with_the_rows(small_chunks, monkeypatch):
    """For a fixed share of the rows; those of an exact traversal grow with their square."""
    pairs = counted_products(monkeypatch)
    counts = []
    for n in (4000, 16_000):
        pairs.clear()
        merge_reduce._first_level(gaussian(n, 8), n // 50, 0, lambda *_: None)
        counts.append(sum(pairs))
    assert counts[1] < 5 * counts[0]


@pytest.mark.parametrize("n_select", [0, 6])
def test_sizes_out_of_range_are_refused(n_select):
    with pytest.raises(InputError, match=f"n_select: expected a whole number from 1 to 5, got {n_select}"):
        coreset(gaussian(5, 2), n_select)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad, small_chunks):
    features = gaussian(4000, 2)
    features[3210, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite values"):
        coreset(features, 20)


# Streams


def stream(features, n_select, piece, *, expected=None, max_rows=1000, **options):
    parts = StreamingCoreset(n_select, n_rows=expected or len(features), max_rows=max_rows, **options)
    source = source_of(len(features))
    for start in range(0, len(features), piece):
        parts.add(features[start : start + piece], source[start : start + piece])
    return parts


@pytest.mark.parametrize("expected", [3000, 9000], ids=["as expected", "fewer came"])
@pytest.mark.parametrize("n_select", [3, 120])
def test_a_stream_covers_every_row_within_its_radius(expected, n_select, small_chunks):
    features = gaussian(3000, 5)
    found, source, radius = stream(features, n_select, 77, expected=expected).finish()
    assert (features[source[:, 0]] == found).all()
    assert len(set(source[:, 0].tolist())) == n_select
    assert covering_radius(features, found) <= radius <= 4 * covering_radius(features, found)


def test_the_radius_includes_rows_that_were_dropped_early(small_chunks):
    features = np.vstack([gaussian(500, 5), np.zeros((2500, 5), np.float32)])
    found, _, radius = stream(features, 100, 77).finish()
    assert 0 < covering_radius(features, found) <= radius


def test_a_stream_keeps_a_bounded_number_of_rows(small_chunks):
    parts = stream(gaussian(20_000, 3), 20, 250, max_rows=400)
    assert sum(len(rows) for rows, _ in parts._kept) <= merge_reduce.kept_rows(20_000, 20, 400) + 20_000 // 500


def test_equal_rows_of_a_stream_are_no_trouble(small_chunks):
    found, _, radius = stream(np.ones((3000, 3), np.float32), 20, 70).finish()
    assert radius == 0
    assert found.shape == (20, 3)


def test_finish_takes_a_smaller_size():
    parts = stream(gaussian(300, 4), 30, 100)
    assert parts.n_added == 300  # some of them wait for a whole chunk
    few, many = parts.finish(10), parts.finish()
    assert parts.n_added == 300
    assert many[1][:10].tolist() == few[1].tolist()
    assert few[2] >= many[2]


@pytest.mark.parametrize(
    ("n_select", "n_rows", "max_rows", "text"),
    [
        (0, 10, 100, r"n_select: expected a whole number from 1 to 50, got 0"),
        (51, 101, 100, r"n_select: expected a whole number from 1 to 50, got 51\. Keep fewer rows, or .* max_rows=100"),
        (1, 0, 100, r"n_rows: expected a whole number of at least 1, got 0"),
    ],
)
def test_a_stream_of_sizes_out_of_range_is_refused(n_select, n_rows, max_rows, text):
    with pytest.raises(InputError, match=text):
        StreamingCoreset(n_select, n_rows=n_rows, max_rows=max_rows)


def test_rows_of_other_shapes_are_refused():
    parts = StreamingCoreset(2, n_rows=50, max_rows=100)
    with pytest.raises(InputError, match=r"features: expected at least one row, got none\. Add rows before finishing"):
        parts.finish()
    parts.add(gaussian(5, 3), source_of(5))
    with pytest.raises(InputError, match=r"features: expected float32 \(n, 3\), got float32 \(5, 4\)"):
        parts.add(gaussian(5, 4), source_of(5))
    with pytest.raises(InputError, match=r"source: expected int32 \(5, 3\), got int32 \(4, 3\)"):
        parts.add(gaussian(5, 3), source_of(4))


# Memory


def peak_of(run):
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("d", [16, 100])
def test_the_estimates_bound_the_memory(d, monkeypatch):
    monkeypatch.setattr(merge_reduce, "CHUNK_ROWS", 2000)
    features = gaussian(30_000, d)
    assert peak_of(lambda: coreset(features, 600)) <= coreset_bytes(30_000, d, 600)
    assert peak_of(lambda: coreset(features[:7000], 600)) <= coreset_bytes(7000, d, 600)

    def streamed():
        stream(features, 600, 1000, max_rows=4000).finish()

    assert peak_of(streamed) <= streaming_bytes(30_000, d, 600, 4000) + source_of(30_000).nbytes
