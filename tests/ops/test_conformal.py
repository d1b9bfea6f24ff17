"""Conformal thresholds: the formula, the promise in simulation, and what is said where it cannot be kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.ops.conformal import Calibration
from tests import reference_metrics as reference

SCORES = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=60)
RATES = st.floats(0.001, 0.999)


@given(SCORES, RATES)
def test_threshold_is_the_conformal_quantile(scores, rate):
    calibration = Calibration.from_scores(scores, rate)
    n = len(scores)
    rank = int(np.ceil((n + 1) * (1 - rate) - 1e-9))
    wanted = max(scores) if rank > n else sorted(scores)[max(rank, 1) - 1]
    assert calibration.threshold == wanted
    assert calibration.false_positive_rate_promised <= max(rate, 1 / (n + 1)) + 1e-9
    assert bool(calibration.warning) == (rank > n)


@given(SCORES, RATES, st.floats(-8, 8))
def test_p_value_counts_and_agrees_with_the_label(scores, rate, score):
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


@pytest.mark.parametrize(("n", "rate"), [(20, 0.05), (99, 0.01), (150, 0.1), (40, 0.01)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "tied"])
def test_new_good_images_are_called_defective_as_often_as_promised_and_no_more(rng, n, rate, kind):
    draws = 4000
    draw = {
        "normal": lambda *shape: rng.normal(size=shape),
        "heavy": lambda *shape: rng.standard_t(2, size=shape),
        "tied": lambda *shape: rng.poisson(4, size=shape).astype(float),
    }[kind]
    scores, new = draw(draws, n), draw(draws, 50)
    calibrations = [Calibration.from_scores(row, rate) for row in scores]
    rates = np.array([(fresh > c.threshold).mean() for c, fresh in zip(calibrations, new, strict=True)])
    promised = calibrations[0].false_positive_rate_promised
    error = 4 * rates.std() / np.sqrt(draws)
    assert rates.mean() <= promised + error
    if kind != "tied":
        assert rates.mean() >= promised - error
    p_values = np.concatenate([c.p_value(fresh) for c, fresh in zip(calibrations, new, strict=True)])
    for level in (rate, 0.1, 0.5):
        assert (p_values <= level).mean() <= level + 0.02


def test_too_few_images_are_said_so():
    calibration = Calibration.from_scores(np.arange(40.0), 0.01)
    assert calibration.threshold == 39
    assert calibration.warning == (
        "40 good images support a false positive rate of 2.4 % at best; 1 % was asked for and needs at least 99. "
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
    found = calibration.p_value(np.array([0.0, 0.25, 1.0, np.inf]))
    assert found.tolist() == [1.0, 0.5, 0.25, 0.25]
    assert isinstance(calibration.p_value(0.2), float)


@pytest.mark.parametrize("n", [20, 40, 264])
def test_estimated_tail_is_exact_on_average_where_the_tail_is_exponential(rng, n):
    draws, rate = 3000, 0.005
    rates = []
    for _ in range(draws):
        calibration = Calibration.from_scores(rng.exponential(size=n) + 3, rate)
        rates.append(np.exp(-(calibration.estimated_threshold(rate) - 3)))
    assert np.mean(rates) == pytest.approx(rate, abs=4 * np.std(rates) / np.sqrt(draws))


def test_estimated_tail_is_cautious_where_the_tail_is_gaussian(rng):
    draws, rate, n = 2000, 0.005, 40
    new = rng.normal(size=100_000)
    thresholds = [Calibration.from_scores(rng.normal(size=n), rate).estimated_threshold(rate) for _ in range(draws)]
    above = 1 - np.searchsorted(np.sort(new), thresholds) / new.size
    plain = [Calibration.from_scores(rng.normal(size=n), rate).threshold for _ in range(draws)]
    assert above.mean() < rate
    assert above.mean() < (1 - np.searchsorted(np.sort(new), plain) / new.size).mean() / 4


def test_estimated_p_value_inverts_the_estimated_threshold_and_falls_on(rng):
    calibration = Calibration.from_scores(rng.exponential(size=50), 0.1)
    for rate in (0.05, 0.01, 1e-4):
        assert calibration.estimated_p_value(calibration.estimated_threshold(rate)) == pytest.approx(rate)
    scores = np.linspace(0, 30, 500)
    found = calibration.estimated_p_value(scores)
    assert (np.diff(found) <= 1e-12).all()
    assert found[-1] < 1e-3 < calibration.p_value(30.0)
    low = calibration.scores[10]
    assert calibration.estimated_p_value(low) == calibration.p_value(low)
    assert calibration.estimated_threshold(0.5) == calibration.with_rate(0.5).threshold


def test_estimate_without_a_scale_is_the_plain_one():
    calibration = Calibration.from_scores(np.ones(20), 0.1)
    assert calibration.estimated_p_value(5.0) == calibration.p_value(5.0)
    assert calibration.estimated_threshold(0.001) == 1.0


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
    calibration = Calibration.from_scores([1.0, 2.0], 0.4)
    for method in (calibration.p_value, calibration.estimated_p_value):
        with pytest.raises(InputError, match="score: expected a number, got NaN"):
            method(float("nan"))
    with pytest.raises(InputError, match=r"calibration scores: expected at least 10 .* Fit on more good images"):
        calibration.estimated_threshold(0.1)
