"""Greedy k-center equals the reference for any block sizes; the stream covers every row within its radius."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops import coreset
from blemish.ops.coreset import Coreset, StreamingCoreset, coreset_bytes, greedy_coreset
from tests import reference
from tests.reference import covering_radius

SMALL_BLOCKS = {"BATCH": 40, "TILE": 16, "REVIEW": 3, "SCAN": 7}


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def clustered(n, d, *, spread, seed=0):
    centres = gaussian(5, d, seed + 1)
    return centres[np.arange(n) % 5] + np.float32(spread) * gaussian(n, d, seed)


def source_of(n):
    return np.stack([np.arange(n), np.zeros(n), np.ones(n)], axis=1).astype(np.int32)


SHAPES = [(1, 1, 1), (2, 1, 2), (50, 1, 50), (300, 5, 60), (600, 40, 600), (5000, 16, 900)]


@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_equals_the_reference(n, d, k):
    features = gaussian(n, d)
    assert greedy_coreset(features, k, seed=3).tolist() == reference.greedy_coreset(features, k, seed=3).tolist()


HARD = {
    "clusters far tighter than float32 products resolve": lambda: clustered(900, 8, spread=1e-5),
    "far from the origin": lambda: gaussian(900, 8) + np.float32(3000),
    "one outlier": lambda: np.vstack([gaussian(899, 8), np.full((1, 8), 1e7, np.float32)]),
    "one outlier beside which all products vanish": lambda: np.vstack(
        [gaussian(899, 8), np.full((1, 8), 1e20, np.float32)]
    ),
    "squares overflow float32": lambda: gaussian(900, 8) * np.float32(1e30),
    "squares underflow float32": lambda: gaussian(900, 8) * np.float32(1e-35),
    "many equal distances that are not whole": lambda: np.round(gaussian(900, 8)) * np.float32(0.1),
    "mostly zeros": lambda: np.maximum(gaussian(900, 8) - 1, 0),
    "not contiguous": lambda: gaussian(900, 24)[:, ::3],
    "in Fortran order": lambda: np.asfortranarray(gaussian(900, 8)),
}


def set_blocks(monkeypatch: pytest.MonkeyPatch, **sizes: int) -> None:
    for name, size in sizes.items():
        monkeypatch.setattr(coreset, name, size)


@pytest.mark.parametrize("name", HARD)
def test_equals_the_reference_where_products_are_inexact(name, monkeypatch):
    features = HARD[name]()
    set_blocks(monkeypatch, **SMALL_BLOCKS)
    picks = greedy_coreset(features, 300)
    assert picks.tolist() == reference.greedy_coreset(features, 300).tolist()


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 120), d=st.integers(1, 4), values=st.integers(1, 4), seed=st.integers(0, 9), data=st.data())
def test_ties_go_to_the_lowest_index(n, d, values, seed, data):
    features = np.random.default_rng(seed).integers(0, values, (n, d)).astype(np.float32)
    k = data.draw(st.integers(1, n))
    assert greedy_coreset(features, k, seed=seed).tolist() == reference.greedy_coreset(features, k, seed=seed).tolist()


@pytest.mark.parametrize("make", [gaussian, lambda n, d: np.round(gaussian(n, d))], ids=["plain", "ties"])
def test_picks_do_not_depend_on_the_blocks(make, monkeypatch):
    features = make(500, 3)
    set_blocks(monkeypatch, **SMALL_BLOCKS)
    assert greedy_coreset(features, 500).tolist() == reference.greedy_coreset(features, 500).tolist()


def test_any_rounding_of_the_products_gives_the_same_picks(monkeypatch):
    features = gaussian(3000, 24)
    expected = greedy_coreset(features, 400)
    noise = np.random.default_rng(1)
    exact = np.matmul

    def rough(a, b, out=None):
        out = np.empty((len(a), *b.shape[1:]), np.float32) if out is None else out
        # As bad as an order of summation can make it: the bound of the method, term by term.
        off = 24 * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64))
        out[:] = exact(a, b) + noise.choice([-1, 1], out.shape) * off
        return out

    monkeypatch.setattr(coreset.np, "matmul", rough)
    assert greedy_coreset(features, 400).tolist() == expected.tolist()


def test_floating_point_flags_of_the_products_are_no_warnings(monkeypatch):
    # Seen with OpenBLAS 0.3.31, two threads and 5 columns, where a NaN happened to lie behind the rows in memory.
    exact = np.matmul

    def flagged(*args, **kwargs):
        np.subtract(np.float32(np.inf), np.float32(np.inf))
        return exact(*args, **kwargs)

    monkeypatch.setattr(coreset.np, "matmul", flagged)
    assert len(greedy_coreset(gaussian(3000, 4), 400)) == 400


def test_a_smaller_subset_is_a_prefix():
    features = gaussian(3000, 6)
    assert greedy_coreset(features, 50).tolist() == greedy_coreset(features, 300)[:50].tolist()


def test_equal_rows_are_picked_last_and_no_index_twice():
    features = np.repeat(gaussian(30, 4), 100, axis=0)
    picks = greedy_coreset(features, 3000)
    assert len({*(picks[:30] // 100).tolist()}) == 30
    assert sorted(picks.tolist()) == list(range(3000))
    assert picks[30:].tolist() == sorted(picks[30:].tolist())


def test_the_seed_picks_the_first_row_and_the_input_stays():
    features = gaussian(200, 3)
    before = features.copy()
    firsts = {int(greedy_coreset(features, 5, seed=seed)[0]) for seed in range(20)}
    assert len(firsts) > 10
    assert greedy_coreset(features, 5).dtype == np.int64
    assert (features == before).all()


def test_the_distance_of_a_pair_has_the_same_bits_in_any_block():
    for d in (1, 3, 152, 9000):
        a, b = gaussian(50, d, 1), gaussian(50, d, 2)
        alone = [coreset._squared_distances(a[i : i + 1], b[i])[0] for i in range(50)]
        assert coreset._squared_distances(a, b).tolist() == alone
        to_one = coreset._squared_distances(a, b[0]).tolist()
        assert coreset._squared_distances(np.asfortranarray(a), b[0]).tolist() == to_one
        assert coreset._squared_distances(np.repeat(a, 3, axis=1)[:, ::3], b).tolist() == alone


def test_progress_counts_up_to_the_end():
    calls = []
    greedy_coreset(gaussian(4000, 4), 500, progress=lambda _, done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (500, 500)
    assert len(calls) > 2


@pytest.mark.parametrize("n_select", [0, 6, 2.5, True])
def test_sizes_out_of_range_are_refused(n_select):
    with pytest.raises(InputError, match=r"n_select: expected a whole number from 1 to 5, got"):
        greedy_coreset(gaussian(5, 2), n_select)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad):
    features = gaussian(5000, 2)
    features[4500, 1] = bad
    with pytest.raises(InputError, match=r"features: expected finite float32 \(N, D\), got 1 NaN or infinite values"):
        greedy_coreset(features, 2)


def test_other_arrays_are_refused():
    with pytest.raises(InputError, match=r"features: expected float32 \(N, D\), got float64 \(5, 2\)"):
        greedy_coreset(gaussian(5, 2).astype(np.float64), 2)


def stream(features, n_select, chunk, *, expected=None, max_rows=400):
    parts = StreamingCoreset(n_select, n_rows=expected or len(features), max_rows=max_rows)
    source = source_of(len(features))
    for start in range(0, len(features), chunk):
        parts.add(features[start : start + chunk], source[start : start + chunk])
        assert parts._n_held <= len(parts._features) <= max_rows
        assert parts._n_kept <= max_rows // 2
    assert parts.n_seen == len(features)
    return parts


@pytest.mark.parametrize("expected", [1, 100, 400, 5000])
def test_a_stream_that_fits_is_the_one_level_coreset(expected):
    features = gaussian(400, 7)
    picks = greedy_coreset(features, 1)
    result = stream(features, 1, 90, expected=expected).finish()
    assert result.source[:, 0].tolist() == picks.tolist()
    assert (result.features == features[picks]).all()
    many = stream(features, 60, 90, expected=max(expected, 60)).finish()
    assert many.source[:, 0].tolist() == greedy_coreset(features, 60).tolist()


STREAMS = {"as expected": 3000, "fewer came": 9000, "more came": 700, "far more came": 401}


@pytest.mark.parametrize("expected", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("n_select", [3, 120])
def test_a_longer_stream_covers_every_row_within_its_radius(expected, n_select):
    features = gaussian(3000, 5)
    result = stream(features, n_select, 77, expected=expected).finish()
    assert isinstance(result, Coreset)
    assert (features[result.source[:, 0]] == result.features).all()
    assert len(set(result.source[:, 0].tolist())) == min(n_select, len(result.source))
    assert len(result.source) >= min(n_select, 100)
    radius = covering_radius(features, result.features)
    assert radius <= result.radius <= 6 * radius


@pytest.mark.parametrize("n_rows", [3000, 6000])
def test_the_radius_includes_rows_that_were_dropped_early(n_rows):
    features = np.vstack([gaussian(400, 5), np.zeros((n_rows - 400, 5), np.float32)])
    result = stream(features, 100, 77, expected=3000).finish()
    assert 0 < covering_radius(features, result.features) <= result.radius


def test_the_radius_of_one_level_is_the_true_one():
    features = gaussian(300, 5)
    result = stream(features, 40, 300).finish()
    assert result.radius == pytest.approx(covering_radius(features, result.features), rel=1e-12)


def test_two_levels_are_nearly_as_good_as_one():
    features = clustered(4000, 6, spread=0.1)
    one = features[greedy_coreset(features, 50)]
    two = stream(features, 50, 100, max_rows=1000).finish().features
    assert covering_radius(features, two) <= 1.5 * covering_radius(features, one)


@pytest.mark.parametrize("chunk", [1, 399, 400, 401, 3000])
def test_the_division_of_the_stream_changes_nothing(chunk):
    features = gaussian(3000, 4)
    result, expected = stream(features, 30, chunk).finish(), stream(features, 30, 50).finish()
    assert (result.features == expected.features).all()
    assert (result.source == expected.source).all()
    assert result.radius == expected.radius


def test_equal_rows_in_the_smallest_buffer():
    result = stream(np.ones((500, 3), np.float32), 2, 7, max_rows=4).finish()
    assert result.radius == 0
    assert (result.features == 1).all()


def test_finish_takes_a_smaller_size_and_can_be_called_again():
    parts = stream(gaussian(3000, 4), 30, 100)
    few, many = parts.finish(10), parts.finish()
    assert many.source[:10].tolist() == few.source.tolist()
    assert few.radius >= many.radius
    with pytest.raises(InputError, match=r"n_select: expected a whole number from 1 to 30, got 31"):
        parts.finish(31)


@pytest.mark.parametrize(
    ("n_select", "n_rows", "max_rows", "text"),
    [
        (0, 10, 100, r"n_select: expected a whole number from 1 to 10, got 0"),
        (51, 101, 100, r"n_select: expected a whole number from 1 to 50, got 51\. Keep fewer rows, or .* max_rows=100"),
        (1, 0, 100, r"n_rows: expected a whole number of at least 1, got 0"),
        (1, 10, 3, r"max_rows: expected a whole number of at least 4, got 3"),
    ],
)
def test_a_stream_of_sizes_out_of_range_is_refused(n_select, n_rows, max_rows, text):
    with pytest.raises(InputError, match=text):
        StreamingCoreset(n_select, n_rows=n_rows, max_rows=max_rows)
    with pytest.raises(InputError, match=text):
        coreset_bytes(n_rows, 8, n_select, max_rows=max_rows)


def test_rows_of_other_shapes_are_refused():
    parts = StreamingCoreset(2, n_rows=50)
    with pytest.raises(InputError, match=r"features: expected at least one row, got none\. Add rows before finishing"):
        parts.finish()
    parts.add(gaussian(5, 3), source_of(5))
    with pytest.raises(InputError, match=r"features: expected float32 \(n, 3\), got float32 \(5, 4\)"):
        parts.add(gaussian(5, 4), source_of(5))
    with pytest.raises(InputError, match=r"source: expected int32 \(5, 3\), got int32 \(4, 3\)"):
        parts.add(gaussian(5, 3), source_of(4))
    parts.add(gaussian(0, 3), source_of(0))
    assert parts.n_seen == 5


@pytest.mark.slow
@pytest.mark.parametrize("d", [4, 40])
@pytest.mark.parametrize(("n_rows", "max_rows", "n_select"), [(20_000, 40_000, 800), (24_000, 20_000, 400)])
def test_the_estimate_bounds_the_memory(d, n_rows, max_rows, n_select, monkeypatch):
    set_blocks(monkeypatch, BATCH=128, TILE=64, SCAN=64)  # so that the rows make up most of it
    chunk, source = clustered(2000, d, spread=0.1), source_of(2000)
    tracemalloc.start()
    parts = StreamingCoreset(n_select, n_rows=n_rows, max_rows=max_rows)
    for _ in range(n_rows // len(chunk)):
        parts.add(chunk, source)
    parts.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= coreset_bytes(n_rows, d, n_select, max_rows=max_rows) <= 1.5 * peak
