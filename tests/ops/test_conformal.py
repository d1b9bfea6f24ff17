"""Conformal thresholds: the formula, the guarantee in simulation, and the warning where it cannot be given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops.conformal import Calibration, TailOptions
from tests import reference

SCORES = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=60)
RATES = st.floats(0.001, 0.999)


@pytest.mark.slow
@given(SCORES, RATES)
def test_threshold_is_the_conformal_quantile(scores, rate):
    calibration = Calibration.from_scores(scores, rate)
    n = len(scores)
    rank = int(np.ceil((n + 1) * (1 - rate) - 1e-9))
    expected = max(scores) if rank > n else sorted(scores)[max(rank, 1) - 1]
    assert calibration.threshold == expected
    assert calibration.false_positive_rate_promised <= max(rate, 1 / (n + 1)) + 1e-9
    assert bool(calibration.warning) == (rank > n)


@pytest.mark.slow
@given(SCORES, RATES, st.floats(-8, 8))
def test_p_value_is_a_count_and_agrees_with_the_label(scores, rate, score):
    calibration = Calibration.from_scores(scores, rate)
    p = calibration.p_value(score)
    assert p == pytest.approx(reference.p_value(scores, score), abs=1e-15)
    assert (score > calibration.threshold) == (p <= calibration.false_positive_rate_promised + 1e-12)


@pytest.mark.parametrize(
    ("n", "rate", "promised", "rank_from_above"),
    [
        (99, 0.01, 0.01, 1),
        (199, 0.01, 0.01, 2),
        (264, 0.01, 2 / 265, 2),
        (99, 0.29, 0.29, 29),  # 100 * 0.29 is 28.999999999999996
        (98, 0.01, 1 / 99, 1),
        (1, 0.01, 0.5, 1),
    ],
)
def test_known_ranks(n, rate, promised, rank_from_above):
    calibration = Calibration.from_scores(np.arange(n, dtype=np.float64), rate)
    assert calibration.threshold == n - rank_from_above
    assert calibration.false_positive_rate_promised == pytest.approx(promised)
    assert calibration.n == n


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (99, 0.01), (150, 0.1), (40, 0.01)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "tied"])
def test_the_false_positive_rate_of_new_good_images_is_the_guaranteed_one(rng, n, rate, kind):
    draws = 4000
    draw = {
        "normal": lambda *shape: rng.normal(size=shape),
        "heavy": lambda *shape: rng.standard_t(2, size=shape),
        "tied": lambda *shape: rng.poisson(4, size=shape).astype(float),
    }[kind]
    scores, new = draw(draws, n), draw(draws, 50)
    calibrations = [Calibration.from_scores(row, rate) for row in scores]
    rates = np.array([(new_scores > c.threshold).mean() for c, new_scores in zip(calibrations, new, strict=True)])
    promised = calibrations[0].false_positive_rate_promised
    error = 4 * rates.std() / np.sqrt(draws)
    assert rates.mean() <= promised + error
    if kind != "tied":
        assert rates.mean() >= promised - error
    p_values = np.concatenate([c.p_value(new_scores) for c, new_scores in zip(calibrations, new, strict=True)])
    for level in (rate, 0.1, 0.5):
        assert (p_values <= level).mean() <= level + 0.02


def test_a_warning_for_too_few_images():
    calibration = Calibration.from_scores(np.arange(40.0), 0.01)
    assert calibration.threshold == 39
    assert calibration.warning == (
        "40 good images support a false positive rate of 2.4 % at best; 1 % was requested and needs at least 99. "
        "The threshold is the highest score of the good images."
    )
    assert Calibration.from_scores(np.arange(99.0), 0.01).warning == ""
    assert Calibration.from_scores([1.0], 0.01).warning.startswith(
        "1 good image supports a false positive rate of 50 %"
    )


def test_another_rate_after_the_fact():
    calibration = Calibration.from_scores(np.arange(99.0), 0.01)
    looser = calibration.with_rate(0.1)
    assert (calibration.threshold, looser.threshold) == (98, 89)
    assert looser.with_rate(0.01).threshold == 98
    assert calibration.false_positive_rate == 0.01


def test_it_is_frozen_and_keeps_its_own_sorted_scores():
    scores = np.array([3.0, 1.0, 2.0])
    calibration = Calibration.from_scores(scores, 0.5)
    scores[:] = 0
    assert calibration.scores.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0] = 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        calibration.threshold = 0  # type: ignore[misc]


def test_float32_scores_and_arrays_of_them():
    calibration = Calibration.from_scores(np.float32([0.1, 0.2, 0.3]), 0.25)
    assert calibration.threshold == float(np.float32(0.3))
    assert calibration.p_value(float(np.float32(0.3))) == 0.5
    p_values = calibration.p_value(np.array([0.0, 0.25, 1.0, np.inf]))
    assert p_values.tolist() == [1.0, 0.5, 0.25, 0.25]
    assert isinstance(calibration.p_value(0.2), float)


@pytest.mark.parametrize("rate", [0, 1, 0.0, -0.1, 1.5, float("nan"), True, "0.01"])
def test_bad_rates_are_named(rate):
    with pytest.raises(InputError, match="false_positive_rate: expected a number"):
        Calibration.from_scores([1.0, 2.0], rate)


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([], r"scores: expected float64 \(n,\), got float64 \(0,\)"),
        ([[1.0, 2.0]], r"scores: expected float64 \(n,\), got float64 \(1, 2\)"),
        (3.0, r"scores: expected float64 \(n,\)"),
        ([1.0, np.nan], "scores: expected finite"),
        ([1.0, np.inf], "scores: expected finite"),
        (["a"], r"scores: expected numbers \(n,\)"),
    ],
)
def test_bad_scores_are_named(scores, text):
    with pytest.raises(InputError, match=text):
        Calibration.from_scores(scores, 0.1)


def test_bad_new_scores_are_named():
    with pytest.raises(InputError, match="score: expected a number, got NaN"):
        Calibration.from_scores([1.0, 2.0], 0.4).p_value(float("nan"))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (100, 0.02), (300, 0.01)])
def test_the_tails_false_positive_rate_is_the_stated_one(rng, n, rate):
    rates = []
    for _ in range(2000):
        calibration = Calibration.from_scores(rng.gamma(2, size=n), rate, "tail")
        rates.append(np.exp(-calibration.threshold) * (1 + calibration.threshold))  # of a gamma distribution of shape 2
        assert calibration.false_positive_rate_promised == rate
    # The tail of a gamma distribution is lighter than exponential, the more so the further out.
    assert 0.5 * rate < np.mean(rates) < 1.1 * rate


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 15, 50])
def test_few_scores_keep_the_stated_rate_on_average(rng, n):
    def rate(predictive):
        options = TailOptions(predictive=predictive)
        drawn = (Calibration.from_scores(rng.exponential(size=n), 0.02, "tail", options) for _ in range(4000))
        return np.mean([np.exp(-one.threshold) for one in drawn])

    # The median is estimated as well, which matters with few scores.
    assert 0.017 < rate(True) < {8: 0.036, 15: 0.026, 50: 0.024}[n]
    assert rate(False) > {8: 0.05, 15: 0.03, 50: 0.022}[n]


@pytest.mark.parametrize(("n_defective", "most"), [(5, 1.25), (10, 1.5), (19, 2.2)])
def test_defective_images_among_good_ones_move_the_tail_little(rng, n_defective: int, most: float):
    good = rng.exponential(size=100)
    defective = np.r_[good[n_defective:], 100 + rng.exponential(size=n_defective)]
    tail, conformal = ([Calibration.from_scores(s, 0.02, rule).threshold for s in (good, defective)]
                       for rule in ("tail", "conformal"))  # fmt: skip
    assert tail[1] < most * tail[0]
    assert conformal[1] > 10 * conformal[0]


@pytest.mark.slow
@given(st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=40), RATES, st.floats(-8, 80))
def test_a_tail_label_and_p_value_agree(scores, rate, score):
    calibration = Calibration.from_scores(scores, rate, "tail")
    p = calibration.p_value(score)
    assert 0 < p <= 1
    if rate <= 0.5 and abs(score - calibration.threshold) > 1e-6 * (1 + abs(score)):
        assert (score > calibration.threshold) == (p < rate)
    np.testing.assert_array_equal(calibration.p_value(np.array([score, score])), [p, p])
    assert calibration.upper_threshold >= calibration.threshold
    assert calibration.with_rate(0.3).rule == "tail"


def test_few_scores_say_how_sure_the_tail_is(rng):
    few = Calibration.from_scores(rng.exponential(size=10), 0.02, "tail")
    assert few.warning.startswith(
        "The threshold is extrapolated from 10 good images: 2 % false positives are expected,"
    )
    assert "and up to 11 % are possible. 50 or more" in few.warning
    assert Calibration.from_scores(rng.exponential(size=50), 0.02, "tail").warning == ""


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="calibration: expected tail or conformal, got 'best'"):
        Calibration.from_scores([1.0], 0.1, "best")
