"""Metrics of scores and of maps, against scikit-learn and the slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from blemish.errors import InputError
from blemish.metrics import classification as metrics
from blemish.metrics.segmentation import PixelCounts, aupro, pixel_auroc, pro_curve
from tests import reference_metrics as reference

# Small integers tie and repeat so much that more examples show nothing more.
few = settings(max_examples=40)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels of both kinds."""
    n = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda ls: 0 < sum(ls) < len(ls)))
    return np.array(scores), np.array(labels)


def made(rng: np.random.Generator, shape=(23, 26), n=4, gap=1.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps with noise and masks with a few touching and separate regions; the first image is good."""
    maps, masks = [], []
    for i in range(n):
        mask = np.zeros(shape, bool)
        if i:
            mask[3 : 6 + i, 4:9] = True
            mask[6 + i, 9] = True  # touches by a corner: the same region if 8-connected
            mask[20:22, 18 : 18 + 2 * i] = True
        masks.append(mask)
        maps.append((rng.normal(size=shape) + gap * mask).astype(np.float32))
    return maps, masks


class TestScores:
    @few
    @given(scored())
    def test_auroc_is_the_textbook_pair_count_and_scikit_learns(self, case):
        scores, labels = case
        assert metrics.auroc(scores, labels) == pytest.approx(reference.auroc(scores, labels), abs=1e-14)
        assert metrics.auroc(scores, labels) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)

    @few
    @given(scored())
    def test_average_precision_is_scikit_learns(self, case):
        scores, labels = case
        wanted = sk.average_precision_score(labels, scores)
        assert metrics.average_precision(scores, labels) == pytest.approx(wanted, abs=1e-12)

    @few
    @given(scored())
    def test_f1_max_is_the_best_over_all_thresholds_and_its_threshold_reaches_it(self, case):
        scores, labels = case
        value, threshold = metrics.f1_max(scores, labels)
        assert value == pytest.approx(reference.f1_max(scores, labels), abs=1e-14)
        assert sk.f1_score(labels, scores > threshold) == pytest.approx(value, abs=1e-12)

    @few
    @given(scored())
    def test_only_order_matters(self, case):
        scores, labels = case
        for change in (np.exp, lambda s: 1000 + 3 * s):
            assert metrics.auroc(change(scores), labels) == metrics.auroc(scores, labels)
            assert metrics.average_precision(change(scores), labels) == metrics.average_precision(scores, labels)
        assert metrics.auroc(-scores, labels) == pytest.approx(1 - metrics.auroc(scores, labels), abs=1e-14)

    @few
    @given(scored())
    def test_roc_curve_is_scikit_learns_and_its_area_is_auroc(self, case):
        scores, labels = case
        curve = metrics.roc_curve(scores, labels)
        x, y, thresholds = sk.roc_curve(labels, scores, drop_intermediate=False)
        np.testing.assert_allclose(curve.x, x)
        np.testing.assert_allclose(curve.y, y)
        np.testing.assert_array_equal(curve.thresholds, thresholds)
        area = (np.diff(curve.x) * (curve.y[1:] + curve.y[:-1])).sum() / 2
        assert area == pytest.approx(metrics.auroc(scores, labels), abs=1e-12)

    @few
    @given(scored())
    def test_precision_recall_curve_is_scikit_learns(self, case):
        scores, labels = case
        curve = metrics.precision_recall_curve(scores, labels)
        precision, recall, thresholds = sk.precision_recall_curve(labels, scores)
        np.testing.assert_allclose(curve.x, recall[::-1])
        np.testing.assert_allclose(curve.y, precision[::-1])
        np.testing.assert_array_equal(curve.thresholds, np.r_[np.inf, thresholds[::-1]])
        assert (np.diff(curve.x) >= 0).all()

    def test_error_rates_count_what_is_strictly_above(self):
        scores, labels = [1.0, 2.0, 3.0, 2.0, 4.0], [False, False, False, True, True]
        assert metrics.false_positive_rate(scores, labels, 2.0) == pytest.approx(1 / 3)
        assert metrics.miss_rate(scores, labels, 2.0) == 0.5
        assert metrics.false_positive_rate(scores, labels, np.inf) == 0
        assert metrics.miss_rate(scores, labels, -np.inf) == 0

    def test_threshold_is_right_even_between_neighbouring_floats(self):
        first = 1.0
        second = np.nextafter(first, 2)
        third = np.nextafter(second, 2)
        for low, high in ((first, second), (second, third)):  # their middle rounds down, then up
            assert metrics.f1_max([low, high], [False, True]) == (1.0, low)
        value, threshold = metrics.f1_max([3.0, 3.0], [False, True])
        assert value == pytest.approx(2 / 3)
        assert threshold < 3.0

    def test_image_metrics_are_named_as_anomalib_names_them(self):
        found = metrics.image_metrics([1, 2, 3, 4], [0, 1, 0, 1])
        assert found == pytest.approx({"image_AUROC": 0.75, "image_AP": 5 / 6, "image_F1Max": 0.8})
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
        curves = (metrics.roc_curve, metrics.precision_recall_curve)
        for metric in (metrics.auroc, metrics.average_precision, metrics.f1_max, *curves):
            with pytest.raises(InputError, match=text):
                metric(scores, labels)

    def test_error_rates_of_no_images_are_errors(self):
        with pytest.raises(InputError, match="labels: expected at least one good image, got 1 defective ones"):
            metrics.false_positive_rate([1.0], [True], 0)
        with pytest.raises(InputError, match="labels: expected at least one defective image, got 1 good ones"):
            metrics.miss_rate([1.0], [False], 0)
        with pytest.raises(InputError, match="threshold"):
            metrics.miss_rate([1.0], [True], float("nan"))


class TestBootstrap:
    def test_interval_is_that_of_a_plain_loop(self, rng):
        scores = np.r_[rng.normal(0, 1, 60), rng.normal(1, 1, 40)].round(1)
        labels = np.arange(100) >= 60
        found = metrics.bootstrap_intervals(scores, labels, n_resamples=4000)
        pick = np.random.default_rng(1)
        loop = []
        for _ in range(1500):
            rows = np.r_[pick.integers(0, 60, 60), pick.integers(60, 100, 40)]
            loop.append(list(metrics.image_metrics(scores[rows], labels[rows]).values()))
        wanted = np.quantile(loop, [0.025, 0.975], axis=0)
        for i, name in enumerate(("image_AUROC", "image_AP", "image_F1Max")):
            assert found[name] == pytest.approx(tuple(wanted[:, i]), abs=0.012)

    def test_same_seed_same_interval_whatever_the_block(self, rng, monkeypatch):
        scores, labels = rng.normal(size=50), np.arange(50) % 2 == 0
        first = metrics.bootstrap_interval("image_AUROC", scores, labels, n_resamples=50)
        assert first == metrics.bootstrap_interval("image_AUROC", scores, labels, n_resamples=50)
        assert first != metrics.bootstrap_interval("image_AUROC", scores, labels, n_resamples=50, seed=1)
        assert first == metrics.bootstrap_intervals(scores, labels, n_resamples=50)["image_AUROC"]

    def test_wider_level_wider_interval_and_separated_is_one(self, rng):
        scores, labels = rng.normal(size=60), np.arange(60) % 3 == 0
        narrow = metrics.bootstrap_interval("image_AP", scores, labels, level=0.5)
        wide = metrics.bootstrap_interval("image_AP", scores, labels, level=0.99)
        assert wide[0] < narrow[0] < metrics.average_precision(scores, labels) < narrow[1] < wide[1]
        assert metrics.bootstrap_interval("image_AUROC", labels * 1.0, labels) == (1.0, 1.0)

    def test_bad_settings_are_named(self):
        with pytest.raises(InputError, match="metric: expected one of image_AUROC, image_AP, image_F1Max, got 'auc'"):
            metrics.bootstrap_interval("auc", [1, 2], [0, 1])  # type: ignore[arg-type]
        with pytest.raises(InputError, match="n_resamples: expected a number of at least 1"):
            metrics.bootstrap_interval("image_AP", [1, 2], [0, 1], n_resamples=0)
        with pytest.raises(InputError, match="level: expected a number from 0 to 1"):
            metrics.bootstrap_interval("image_AP", [1, 2], [0, 1], level=95)
        with pytest.raises(InputError, match="both good and defective"):
            metrics.bootstrap_interval("image_AP", [1, 2], [0, 0])


class TestPixels:
    @pytest.mark.parametrize(("gap", "offset"), [(0, 0), (1, 0), (3, 5), (1, -5), (2, 1000)])
    def test_counts_are_the_exact_metrics_to_1e_4(self, rng, gap, offset):
        maps, masks = made(rng, gap=gap)
        maps = [(m + np.float32(offset)).astype(np.float32) for m in maps]
        counts = PixelCounts()
        for anomaly_map, mask in zip(maps, masks, strict=True):
            counts.add(anomaly_map, mask)
        scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
        within = 1e-4
        assert counts.pixel_auroc() == pytest.approx(sk.roc_auc_score(labels, scores), abs=within)
        assert abs(counts.pixel_auroc() - sk.roc_auc_score(labels, scores)) <= counts.auroc_error() + 1e-12
        assert counts.pixel_average_precision() == pytest.approx(sk.average_precision_score(labels, scores), abs=within)
        assert counts.pixel_f1_max()[0] == pytest.approx(metrics.f1_max(scores, labels)[0], abs=within)
        for limit in (0.05, 0.3, 1.0):
            wanted = reference.aupro(maps, masks, limit)
            assert counts.aupro(limit) == pytest.approx(wanted, abs=within)
            assert abs(counts.aupro(limit) - wanted) <= counts.aupro_error(limit) + 1e-12

    def test_values_that_fill_few_bins_are_exact(self, rng):
        maps, masks = made(rng)
        maps = [np.round(m * 4) / np.float32(4) for m in maps]
        assert aupro(maps, masks) == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-12)
        fprs, pros = reference.pro_curve(maps, masks)
        curve = pro_curve(maps, masks)
        np.testing.assert_allclose(curve.x, fprs, atol=1e-12)
        np.testing.assert_allclose(curve.y, pros, atol=1e-12)
        values = np.unique(np.stack(maps))[::-1]
        np.testing.assert_array_equal(curve.thresholds[1:][values > 0], values[values > 0])
        assert (curve.thresholds[1:] <= values).all()  # the far end of a negative value's bin
        np.testing.assert_allclose(curve.thresholds[1:], values, rtol=1 / 8192)

    def test_every_point_of_the_curve_is_what_its_threshold_gives(self, rng):
        maps, masks = made(rng)
        curve = pro_curve(maps, masks)
        n_good = sum((~mask).sum() for mask in masks)
        for i in (0, 1, 50, 700, len(curve.x) - 1):
            called = sum(((m >= curve.thresholds[i]) & ~mask).sum() for m, mask in zip(maps, masks, strict=True))
            assert curve.x[i] == pytest.approx(called / n_good, abs=1e-12)
        assert (np.diff(curve.x) >= 0).all()
        assert (np.diff(curve.y) >= 0).all()
        assert (curve.x[-1], curve.y[-1]) == (1.0, 1.0)

    def test_the_mask_itself_is_perfect_and_its_negative_is_worst(self, rng):
        _, masks = made(rng)
        maps = [mask.astype(np.float32) for mask in masks]
        assert aupro(maps, masks) == 1.0
        assert aupro(maps, masks, 0.05) == 1.0
        assert pixel_auroc(maps, masks) == 1.0
        worst = [-m for m in maps]
        assert aupro(worst, masks) == 0.0
        assert pixel_auroc(worst, masks) == 0.0

    def test_a_constant_map_is_chance(self, rng):
        _, masks = made(rng)
        maps = [np.full(mask.shape, 3, np.float32) for mask in masks]
        assert pixel_auroc(maps, masks) == 0.5
        assert aupro(maps, masks, 0.3) == pytest.approx(0.15)

    def test_small_and_large_regions_weigh_the_same(self):
        mask = np.zeros((20, 20), bool)
        mask[:10] = True
        mask[15, 15] = True
        found_large = (mask & (np.arange(20)[:, None] < 12)).astype(np.float32)
        counts = PixelCounts()
        counts.add(found_large, mask)
        assert counts.n_regions == 2
        assert counts.pro_curve().y.tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-14)

    def test_minus_zero_is_zero(self):
        anomaly_map = np.float32([[0.0, -0.0], [-0.0, 0.0]])
        assert pixel_auroc([anomaly_map], [np.eye(2, dtype=bool)]) == 0.5

    def test_order_of_extremes_is_kept(self):
        tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
        values = np.float32([[-huge, -1, -1e-30, 0, 1e-30, 1, huge]])
        for i in range(1, values.size):
            mask = np.arange(values.size)[None] >= i
            assert pixel_auroc([values], [mask]) == 1.0
            value, threshold = PixelCounts(), None
            value.add(values, mask)
            f1, threshold = value.pixel_f1_max()
            assert f1 == 1.0
            np.testing.assert_array_equal(values > np.float32(threshold), mask)
        assert pixel_auroc([np.float32([[tiny, 0]])], [np.array([[True, False]])]) == 1.0

    def test_sum_of_counts_is_the_counts_of_all(self, rng):
        maps, masks = made(rng)
        maps[0] += 100
        parts = []
        for anomaly_map, mask in zip(maps, masks, strict=True):
            part = PixelCounts()
            part.add(anomaly_map, mask if mask.any() else None)
            parts.append(part)
        before = parts[1].metrics()
        both = sum(parts, PixelCounts())
        assert both.aupro() == pytest.approx(aupro(maps, masks), abs=1e-12)
        assert both.pixel_auroc() == pytest.approx(pixel_auroc(maps, masks), abs=1e-12)
        assert (both.n_images, both.n_regions) == (4, 6)
        assert both.n_good + both.n_defective == sum(m.size for m in maps)
        assert parts[1].metrics() == before
        with pytest.raises(TypeError):
            parts[0] + 1  # type: ignore[operator]

    def test_order_of_images_does_not_matter_though_bins_grow_coarser(self, rng):
        maps, masks = made(rng)
        maps = [100 + maps[0] / 9, np.exp(maps[1]), maps[2], maps[3] * 1000]
        fine = PixelCounts()
        fine.add(np.round(maps[0], 2), masks[3])  # with ties, which cost nothing
        assert (fine.auroc_error(), fine.aupro_error()) == (0.0, 0.0)  # one number a bin
        found = [aupro([maps[i] for i in order], [masks[i] for i in order]) for order in ([0, 1, 2, 3], [3, 2, 1, 0])]
        assert found[0] == pytest.approx(found[1], abs=1e-14)
        assert found[0] == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-4)

    def test_coarsest_bins_are_a_8192th_wide(self):
        values = np.exp2(np.linspace(-100, 100, 5001)).astype(np.float32)[None]
        values = np.concatenate([-values, values, values * np.float32(1 + 1 / 8000)], axis=1)
        mask = np.arange(values.size)[None] >= values.size * 2 // 3
        curve = pro_curve([values], [mask])
        assert len(curve.x) > values.size * 0.95
        assert curve.y[-1] == 1.0

    def test_images_may_differ_in_size_and_layout(self, rng):
        counts = PixelCounts()
        counts.add(rng.random((5, 9), np.float32))
        counts.add(rng.random((9, 6), np.float32).T[::2], rng.random((3, 9)) > 0.5)
        assert counts.n_good + counts.n_defective == 45 + 27

    def test_metrics_are_named_as_anomalib_names_them_and_absent_where_undefined(self, rng):
        maps, masks = made(rng)
        counts = PixelCounts()
        assert counts.metrics() == {}
        counts.add(maps[0], masks[0])
        assert counts.metrics() == {}
        with pytest.raises(InputError, match="masks: expected both good and defective pixels, got 598 good and 0"):
            counts.aupro()
        counts.add(maps[1], masks[1])
        assert list(counts.metrics()) == ["pixel_AUROC", "pixel_AP", "pixel_F1Max", "AUPRO", "AUPRO_0.05"]
        assert counts.metrics()["AUPRO_0.05"] == counts.aupro(0.05)

    def test_bad_input_is_named(self, rng):
        counts = PixelCounts()
        with pytest.raises(InputError, match=r"mask: expected bool \(4, 4\), got bool \(8, 8\). Resize the map"):
            counts.add(np.zeros((4, 4), np.float32), np.zeros((8, 8), bool))
        with pytest.raises(InputError, match=r"mask: expected bool \(4, 4\), got uint8"):
            counts.add(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="anomaly_map: expected finite float32"):
            counts.add(np.full((4, 4), np.nan, np.float32))
        with pytest.raises(InputError, match="anomaly_map: expected float32"):
            counts.add(np.zeros((4, 4)))
        assert counts.n_images == 0
        maps, masks = made(rng)
        with pytest.raises(InputError, match="masks: expected one per map, got only 3"):
            aupro(maps, masks[:3])
        with pytest.raises(InputError, match="masks: expected one per map, so 3, got more"):
            pixel_auroc(maps[:3], masks)
        for limit in (0, -0.1, 1.5):
            with pytest.raises(InputError, match="fpr_limit: expected a number"):
                aupro(maps, masks, limit)
