"""Greedy k-center equals the reference for any block sizes, and says which pick each row is near."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops import coreset
from blemish.ops.coreset import greedy_coreset, traversal
from tests import reference
from tests.reference import covering_radius

SMALL_BLOCKS = {"BATCH": 40, "TILE": 16, "REVIEW": 3, "SCAN": 7}


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def clustered(n, d, *, spread, seed=0):
    centres = gaussian(5, d, seed + 1)
    return centres[np.arange(n) % 5] + np.float32(spread) * gaussian(n, d, seed)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_equals_the_reference_where_products_are_inexact(name, monkeypatch):
    features = HARD[name]()
    set_blocks(monkeypatch, **SMALL_BLOCKS)
    picks = greedy_coreset(features, 300)
    assert picks.tolist() == reference.greedy_coreset(features, 300).tolist()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 120), d=st.integers(1, 4), values=st.integers(1, 4), seed=st.integers(0, 9), data=st.data())
def test_ties_go_to_the_lowest_index(n, d, values, seed, data):
    features = np.random.default_rng(seed).integers(0, values, (n, d)).astype(np.float32)
    k = data.draw(st.integers(1, n))
    assert greedy_coreset(features, k, seed=seed).tolist() == reference.greedy_coreset(features, k, seed=seed).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("make", [gaussian, lambda n, d: np.round(gaussian(n, d))], ids=["plain", "ties"])
def test_picks_do_not_depend_on_the_blocks(make, monkeypatch):
    features = make(500, 3)
    set_blocks(monkeypatch, **SMALL_BLOCKS)
    assert greedy_coreset(features, 500).tolist() == reference.greedy_coreset(features, 500).tolist()


@pytest.mark.slow
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


def test_a_smaller_subset_is_a_prefix():
    features = gaussian(3000, 6)
    assert greedy_coreset(features, 50).tolist() == greedy_coreset(features, 300)[:50].tolist()


@pytest.mark.slow
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


def test_each_row_is_within_its_distance_of_its_pick():
    features = gaussian(5000, 16)
    found = traversal(features, 200, 7)
    true = np.linalg.norm(features - features[found.picks[found.nearest]], axis=1)
    np.testing.assert_allclose(found.distance, true, rtol=1e-6)
    assert found.radius == found.distance.max() == pytest.approx(covering_radius(features, features[found.picks]))
    assert (found.nearest[found.picks] == np.arange(200)).all()


def test_equal_rows_have_their_pick_too():
    found = traversal(np.repeat(gaussian(3, 4), 5, axis=0), 8, 0)
    assert (found.distance == 0).all()
    assert found.nearest[found.picks].tolist() == list(range(8))


def test_rows_near_those_that_are_kept_besides_are_picked_last():
    features = gaussian(400, 4)
    kept = features[greedy_coreset(features, 30)]
    known = np.array([np.linalg.norm(kept - row, axis=1).min() for row in features])
    more = traversal(features, 10, int(known.argmax()), distance=known)
    assert more.picks.tolist() == greedy_coreset(features, 40)[30:].tolist()
    assert more.radius == pytest.approx(covering_radius(features, np.vstack([kept, features[more.picks]])))
    assert ((more.nearest == -1) == np.isclose(more.distance, known)).all()
