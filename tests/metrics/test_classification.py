"""Metrics of scores against scikit-learn and the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish.errors import InputError
from blemish.metrics import classification as metrics
from tests import reference
from tests.lazy import sklearn_metrics as sk

# Small integers tie and repeat so often that more examples add nothing.
few = settings(max_examples=40, deadline=None)  # the first example loads scikit-learn


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels of both kinds."""
    n = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda ls: 0 < sum(ls) < len(ls)))
    return np.array(scores), np.array(labels)


class TestScores:
    @pytest.mark.slow
    @few
    @given(scored())
    def test_auroc_equals_the_pair_count_and_scikit_learn(self, case):
        scores, labels = case
        assert metrics.auroc(scores, labels) == pytest.approx(reference.auroc(scores, labels), abs=1e-14)
        assert metrics.auroc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)

    @pytest.mark.slow
    @few
    @given(scored())
    def test_average_precision_equals_scikit_learn(self, case):
        scores, labels = case
        expected = sk.average_precision_score(labels, scores)
        assert metrics.average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.slow
    @few
    @given(scored())
    def test_f1_max_is_the_best_over_all_thresholds(self, case):
        scores, labels = case
        value = metrics.image_metrics(scores, labels)["image_F1Max"]
        assert value == pytest.approx(reference.f1_max(scores, labels), abs=1e-14)
        best = max(sk.f1_score(labels, scores >= threshold) for threshold in np.unique(scores))
        assert value == pytest.approx(best, abs=1e-12)

    @few
    @given(scored())
    def test_only_order_matters(self, case):
        scores, labels = case
        for change in (np.exp, lambda s: 1000 + 3 * s):
            assert metrics.auroc(change(scores), labels) == metrics.auroc(scores, labels)
            assert metrics.average_precision(change(scores), labels) == metrics.average_precision(scores, labels)
        assert metrics.auroc(-scores, labels) == pytest.approx(1 - metrics.auroc(scores, labels), abs=1e-14)

    @pytest.mark.slow
    @few
    @given(scored())
    def test_roc_curve_equals_scikit_learn_and_its_area_is_auroc(self, case):
        scores, labels = case
        curve = metrics.roc_curve(scores, labels)
        x, y, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(curve.x, x)
        np.testing.assert_allclose(curve.y, y)
        np.testing.assert_array_equal(curve.thresholds, thresholds)
        area = (np.diff(curve.x) * (curve.y[1:] + curve.y[:-1])).sum() / 2
        assert area == pytest.approx(metrics.auroc(scores, labels), abs=1e-12)

    def test_image_metrics_have_anomalibs_names(self):
        values = metrics.image_metrics([1, 2, 3, 4], [0, 1, 0, 1])
        assert values == pytest.approx({"image_AUROC": 0.75, "image_AP": 5 / 6, "image_F1Max": 0.8})
        assert metrics.image_metrics([1, 2], [False, False]) == {}
        assert metrics.image_metrics([1, 2], [True, True]) == {}

    @pytest.mark.parametrize(
        ("scores", "labels", "text"),
        [
            ([1.0, np.nan], [True, False], "scores: expected finite float64"),
            ([1.0, np.inf], [True, False], "scores: expected finite float64"),
            ([], [], "scores: expected float64"),
            ([[1.0, 2.0]], [True, False], "scores: expected float64"),
            (["a", "b"], [True, False], "scores: expected numbers"),
            ([1.0, 2.0], [True], r"labels: expected bool \(2,\), got bool \(1,\)"),
            ([1.0, 2.0], [0, 2], "labels: expected bool"),
            ([1.0, 2.0], [0.0, 1.0], "labels: expected bool"),
            ([1.0, 2.0], [True, True], "labels: expected both good and defective images, got 0 good and 2 defective"),
            ([1.0, 2.0], [0, 0], "got 2 good and 0 defective"),
        ],
    )
    def test_bad_input_is_an_error_and_never_a_number(self, scores, labels, text):
        for metric in (metrics.auroc, metrics.average_precision, metrics.roc_curve):
            with pytest.raises(InputError, match=text):
                metric(scores, labels)


class TestBootstrap:
    @pytest.mark.slow
    def test_interval_equals_a_plain_loop(self, rng):
        scores = np.r_[rng.normal(0, 1, 60), rng.normal(1, 1, 40)].round(1)
        labels = np.arange(100) >= 60
        intervals = metrics.bootstrap_intervals(scores, labels, n_resamples=4000)
        pick = np.random.default_rng(1)
        loop = []
        for _ in range(1500):
            rows = np.r_[pick.integers(0, 60, 60), pick.integers(60, 100, 40)]
            loop.append(list(metrics.image_metrics(scores[rows], labels[rows]).values()))
        expected = np.quantile(loop, [0.025, 0.975], axis=0)
        for i, name in enumerate(("image_AUROC", "image_AP", "image_F1Max")):
            assert intervals[name] == pytest.approx(tuple(expected[:, i]), abs=0.012)

    def test_same_seed_same_interval(self, rng):
        scores, labels = rng.normal(size=50), np.arange(50) % 2 == 0
        first = metrics.bootstrap_intervals(scores, labels, n_resamples=50)
        assert first == metrics.bootstrap_intervals(scores, labels, n_resamples=50)
        assert first != metrics.bootstrap_intervals(scores, labels, n_resamples=50, seed=1)
        alone = metrics.bootstrap_intervals(scores, labels, metrics=("image_AUROC",), n_resamples=50)
        assert alone == {"image_AUROC": first["image_AUROC"]}

    def test_wider_level_wider_interval_and_separated_is_one(self, rng):
        scores, labels = rng.normal(size=60), np.arange(60) % 3 == 0
        narrow = metrics.bootstrap_intervals(scores, labels, level=0.5)["image_AP"]
        wide = metrics.bootstrap_intervals(scores, labels, level=0.99)["image_AP"]
        assert wide[0] < narrow[0] < metrics.average_precision(scores, labels) < narrow[1] < wide[1]
        assert metrics.bootstrap_intervals(labels * 1.0, labels)["image_AUROC"] == (1.0, 1.0)

    def test_bad_settings_are_named(self):
        with pytest.raises(InputError, match="metric: expected one of image_AUROC, image_AP, image_F1Max, got 'auc'"):
            metrics.bootstrap_intervals([1, 2], [0, 1], metrics=("auc",))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="n_resamples: expected a number of at least 1"):
            metrics.bootstrap_intervals([1, 2], [0, 1], n_resamples=0)
        with pytest.raises(InputError, match="level: expected a number from 0 to 1"):
            metrics.bootstrap_intervals([1, 2], [0, 1], level=95)
        with pytest.raises(InputError, match="both good and defective"):
            metrics.bootstrap_intervals([1, 2], [0, 0])
