"""-log p of scores: rises with the score, log 2 at the median, Pareto above it, leave-one-out among good images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops.tail_probability import Prior, Tail, leave_one_out_neg_log_p

SCORES = st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(np.array)


def test_p_is_one_half_at_the_median():
    tail = Tail.from_scores(np.array([1.0, 2.0, 3.0, 4.0, 10.0]))
    assert tail.neg_log_p(3.0) == pytest.approx(math.log(2))


def test_each_mean_excess_above_the_median_adds_nearly_one():
    tail = Tail.from_scores(np.array([1.0, 2.0, 3.0, 4.0, 10.0]))
    assert (tail.mean_excess, tail.n_above) == (4.0, 2)
    assert tail.neg_log_p(3.0 + 8.0) == pytest.approx(math.log(2) + 2 * math.log(2))  # a mean of two may be too small
    many = Tail.from_scores(np.tile([1.0, 2.0, 3.0, 4.0, 10.0], 1000))
    assert many.mean_excess == 4.0
    assert many.neg_log_p(3.0 + 8.0) == pytest.approx(math.log(2) + 2, abs=0.01)


@pytest.mark.slow
def test_the_predictive_tail_of_few_scores_is_paretos():
    """Of five exponential scores and a sixth: the frequency of a -log p above a value is exp(-value)."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(4000):
        excesses = rng.exponential(size=5)
        tail = Tail.from_scores(np.r_[np.zeros(6), excesses])
        values.append(tail.neg_log_p(rng.exponential()) - math.log(2))
    for neg_log_p in (1.0, 2.0, 4.0):
        assert np.mean(np.array(values) > neg_log_p) == pytest.approx(math.exp(-neg_log_p), abs=0.02)


def test_an_exponential_sample_gives_its_own_tail():
    scores = np.random.default_rng(0).exponential(size=20_000)
    tail = Tail.from_scores(scores)
    for share in (0.7, 0.2, 0.05, 0.001):
        assert tail.neg_log_p(-math.log(share)) == pytest.approx(-math.log(share), rel=0.05)


@pytest.mark.slow
@given(SCORES, st.floats(0, 2e6), st.floats(0, 2e6))
def test_neg_log_p_never_falls_as_the_score_rises(scores: np.ndarray, one: float, other: float):
    tail = Tail.from_scores(scores)
    low, high = sorted((one, other))
    assert 0 <= tail.neg_log_p(low) <= tail.neg_log_p(high) + 1e-9
    assert math.isfinite(tail.neg_log_p(high))


def test_nearly_equal_scores_keep_their_order():
    tail = Tail.from_scores(np.array([0.0, 2.0, 2.0, 2.0, 2.225073858507e-311]))
    assert 0 < tail.neg_log_p(5e-324) < tail.neg_log_p(1.0) < tail.neg_log_p(2.0)


def test_equal_scores_leave_a_narrow_tail():
    tail = Tail.from_scores(np.full(5, 200.0))
    assert tail.mean_excess == 2.0
    assert tail.neg_log_p(200.0) == pytest.approx(math.log(2))
    assert Tail.from_scores(np.zeros(3)).neg_log_p(1.0) == pytest.approx(math.log(2) + math.log1p(1e6))


def test_good_images_are_scored_by_the_others():
    scores = np.array([1.0, 2.0, 3.0, 30.0])
    neg_log_p = leave_one_out_neg_log_p(scores)
    assert neg_log_p[3] == pytest.approx(Tail.from_scores(scores[:3]).neg_log_p(30.0))
    assert neg_log_p[3] > Tail.from_scores(scores).neg_log_p(30.0)
    assert neg_log_p[0] == pytest.approx(0.0)  # below all the others


def test_scores_are_checked():
    with pytest.raises(InputError, match="scores: expected finite float64"):
        Tail.from_scores(np.array([1.0, np.nan]))


@pytest.mark.slow
@given(SCORES, st.floats(0.001, 0.999), st.sampled_from([0.0, 0.1, 0.3]), st.booleans())
def test_the_quantile_is_the_inverse_of_the_survival(
    scores: np.ndarray, probability: float, censored: float, predictive: bool
):
    tail = Tail.from_scores(scores, censored=censored, predictive=predictive)
    score = tail.quantile(probability)
    if probability <= 0.5:
        assert tail.survival(score) == pytest.approx(probability, rel=1e-6)
    else:
        assert tail.lower.min() <= score <= tail.median


@pytest.mark.parametrize("n", [10, 20_000])
def test_few_scores_make_the_predictive_tail_heavier(n: int):
    scores = np.random.default_rng(0).exponential(size=n)
    predictive, likely = (Tail.from_scores(scores, predictive=predictive) for predictive in (True, False))
    for probability in (0.02, 0.001):
        assert predictive.neg_log_p(predictive.quantile(probability)) == pytest.approx(-math.log(probability))
    assert (predictive.quantile(0.02) > 1.2 * likely.quantile(0.02)) == (n == 10)
    assert likely.quantile(0.02) == pytest.approx(likely.median + likely.mean_excess * math.log(25))
    below = predictive.lower[2]
    assert -math.log(predictive.survival(below)) == pytest.approx(predictive.neg_log_p(below))


@pytest.mark.parametrize("predictive", [True, False])
def test_any_rate_has_a_threshold(predictive: bool):
    tail = Tail.from_scores(np.array([1.0, 2.0]), predictive=predictive)
    assert math.isfinite(tail.quantile(5e-324))
    assert tail.quantile(5e-324) >= tail.quantile(1e-9)


def test_a_prior_counts_as_scores_that_were_not_seen():
    scores = np.array([1.0, 2.0, 3.0, 4.0, 10.0])  # two excesses, of mean 4
    tail = Tail.from_scores(scores, prior=Prior(1.5, 8))
    assert tail.mean_excess == pytest.approx((2 * 4.0 + 8 * 1.5) / 10)
    assert (tail.n_above, tail.n_prior, tail.weight) == (2, 8, 10)
    assert tail.neg_log_p(3.0 + 2.0) == pytest.approx(math.log(2) + 10 * math.log1p(1 / 10))
    assert tail.survival(tail.quantile(0.02)) == pytest.approx(0.02)
    # It says nothing of this part: the interval is as wide as the scores alone make it.
    alone = Tail.from_scores(scores)
    at = [found.median + 3 * found.mean_excess for found in (tail, alone)]
    assert tail.probability_interval(at[0]) == pytest.approx(alone.probability_interval(at[1]))


def test_censored_scores_count_by_their_number_alone():
    rng = np.random.default_rng(0)
    scores = rng.exponential(size=200)
    outliers = np.r_[np.sort(scores)[:-5], rng.uniform(50, 1000, size=5)]
    clean, robust, plain = (
        Tail.from_scores(sample, censored=censored)
        for sample, censored in ((scores, 0.1), (outliers, 0.1), (outliers, 0.0))
    )
    assert robust.mean_excess == clean.mean_excess
    assert plain.mean_excess > 10 * clean.mean_excess
    assert clean.n_above == 90
    assert clean.mean_excess == pytest.approx(1.0, abs=0.25)


def test_the_interval_covers_the_true_probability():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        tail = Tail.from_scores(rng.exponential(size=60), censored=0.1)
        score = tail.quantile(0.02)
        low, high = tail.probability_interval(score)
        assert low < high
        covered.append(low <= math.exp(-score) <= high)
    assert np.mean(covered) == pytest.approx(0.9, abs=0.05)
