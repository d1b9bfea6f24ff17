"""The 8-bit bound holds for every row, rules out no neighbor, and is tight enough to be useful."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.ops import int8_bounds
from blemish.ops.int8_bounds import IntegerScores, exact_weight_limit

NOTHING = np.empty(0, np.int64)


def made(kind, seed, n, dim):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim))
    if kind == "few axes":
        rows = rng.normal(size=(n, 3)) @ rng.normal(size=(3, dim)) + 0.01 * rows
    elif kind == "rare large channels":
        rows[:, 0] *= 500
        rows[rng.integers(n)] *= 1000
    elif kind == "far from the origin":
        rows += 1e4
    elif kind == "one large value each":
        rows[np.arange(n), rng.integers(dim, size=n)] += 20
    elif kind == "equal rows":
        rows[:] = rows[0]
    return rows.astype(np.float32)


KINDS = ["noise", "few axes", "rare large channels", "far from the origin", "one large value each", "equal rows"]


@pytest.mark.slow
@pytest.mark.parametrize("weight_limit", sorted({63, exact_weight_limit()}))
@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 500), n=st.integers(1, 300), dim=st.integers(1, 80))
def test_no_nearest_neighbor_is_ruled_out(weight_limit, kind, seed, n, dim):
    rows = made(kind, seed, n + 9, dim)
    queries, bank = rows[n:], rows[:n]
    scores = IntegerScores(bank, bank.mean(axis=0), weight_limit=weight_limit, max_candidates=(1, 16))
    pairs = scores.candidates(queries, bank, 1, NOTHING, scores.take_buffers(9))
    assert pairs is not None
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - bank, axis=2)
    kept = np.full(distances.shape, np.inf)
    kept[pairs] = distances[pairs]
    np.testing.assert_array_equal(kept.min(axis=1), distances.min(axis=1))
    assert (np.diff(pairs[0]) >= 0).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 500), n=st.integers(16, 300), dim=st.integers(2, 80))
def test_the_bound_holds_for_every_row(kind, seed, n, dim):
    rows = made(kind, seed, n + 9, dim)
    queries, bank = rows[n:], rows[:n]
    mean = bank.mean(axis=0)
    scores = IntegerScores(bank, mean)
    buffers = scores.take_buffers(9)
    scores._run(queries, buffers)
    x, m = queries.astype(np.float64) - mean, bank.astype(np.float64) - mean
    true = x @ m.T - 0.5 * (m * m).sum(axis=1)
    groups = scores._column_of_row % scores.n_groups
    dots = buffers.dots[:, scores._column_of_row].astype(np.float64)
    bound = (dots * scores._scale[groups] + buffers.base[:, groups]) / buffers.coefficients[:, 2:3]
    # The slack of the search: see `lowest_score`.
    squares = (x * x).sum(axis=1)[:, None] + (m * m).sum(axis=1)
    assert (bound + scores._slack * squares + 1e-30 >= true).all()


def test_the_bound_rules_out_most_rows():
    rows = made("few axes", 0, 2100, 64)
    queries, bank = rows[2000:], rows[:2000]
    scores = IntegerScores(bank, bank.mean(axis=0))
    pairs = scores.candidates(queries, bank, 1, NOTHING, scores.take_buffers(100))
    assert pairs is not None
    assert len(pairs[0]) < 50 * len(queries)
    assert scores.width == 16


@pytest.mark.parametrize(("kind", "rotated"), [("noise", False), ("one large value each", True), ("few axes", True)])
def test_queries_are_rotated_only_where_it_pays(kind: str, rotated: bool):
    bank = made(kind, 0, 800, 96)
    rotation = int8_bounds._rotation(bank - bank.mean(axis=0))
    assert (rotation is not None) == rotated


def test_too_many_candidates_are_reported():
    bank = made("equal rows", 0, 400, 8)
    scores = IntegerScores(bank, bank.mean(axis=0))
    assert scores.candidates(bank[:5], bank, 1, NOTHING, scores.take_buffers(5)) is None


@pytest.mark.slow
@pytest.mark.parametrize("dim", [384, 1024, 1536])
def test_pairs_that_would_take_longer_than_a_float_product_are_too_many(dim):
    """Half a pair of every group passes the bound with 1,024 values of noise, a twentieth with 384."""
    rows = made("noise", 0, 1620, dim)
    queries, bank = rows[1600:], rows[:1600]
    scores = IntegerScores(bank, bank.mean(axis=0))
    pairs = scores.candidates(queries, bank, 1, NOTHING, scores.take_buffers(20))
    assert (pairs is None) == (dim > 384)


def test_a_query_at_the_mean_does_not_find_excluded_rows():
    bank = made("noise", 1, 1600, 8)
    mean = bank.mean(axis=0)
    scores = IntegerScores(bank, mean, max_candidates=(1, 16))
    excluded = np.argsort(np.linalg.norm(bank - mean, axis=1))[:40:2]
    pairs = scores.candidates(mean[None], bank, 1, excluded, scores.take_buffers(1))
    assert pairs is not None
    assert not np.isin(pairs[1], excluded).any()


def test_buffers_are_reused():
    bank = made("noise", 2, 64, 8)
    scores = IntegerScores(bank, bank.mean(axis=0))
    first = scores.take_buffers(4)
    scores.spare_buffers.append(first)
    assert scores.take_buffers(3) is first
    scores.spare_buffers.append(first)
    assert len(scores.take_buffers(5).dots) == 5


def test_the_exact_weight_limit_is_8_or_7_bits():
    assert exact_weight_limit() in (127, 63)


@pytest.mark.parametrize(
    ("variances", "width"),
    [
        (np.ones(100), 100),  # 98 hold 98 %: the next multiple of 16
        (np.r_[np.full(40, 1.0), np.full(344, 0.8 / 344)], 48),  # the others hold 2 %, and 32 of them no half of that
        (np.r_[np.full(40, 1.0), np.full(40, 0.02), np.full(304, 1e-6)], 80),  # 40 more hold nearly all of the rest
        (0.9 ** np.arange(200.0), 80),  # each 32 hold more than half of what is left, until that is little
        (0.9718 ** np.arange(384.0), 256),  # each 32 hold six tenths of it
        (0.99 ** np.arange(384.0), 384),  # 336 leave 2 % out, and the end is near
        (np.zeros(32), 16),
    ],
)
def test_axes_are_kept_while_they_are_worth_it(variances: np.ndarray, width: int):
    assert int8_bounds._width(variances) == width
