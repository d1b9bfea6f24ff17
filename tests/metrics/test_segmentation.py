"""Metrics of maps against scikit-learn and the reference."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.metrics import classification as metrics
from blemish.metrics.segmentation import MaskCounts, PixelCounts
from tests import reference
from tests.lazy import sklearn_metrics as sk


def drawn(rng: np.random.Generator, shape=(23, 26), n=4, gap=1.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
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


def counted(maps: list[np.ndarray], masks: list[np.ndarray]) -> PixelCounts:
    counts = PixelCounts()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        counts.add(anomaly_map, mask)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(("gap", "offset"), [(0, 0), (1, 0), (3, 5), (1, -5), (2, 1000)])
def test_metrics_are_exact_to_1e_4(rng, gap, offset):
    maps, masks = drawn(rng, gap=gap)
    maps = [(m + np.float32(offset)).astype(np.float32) for m in maps]
    counts = counted(maps, masks)
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    within = 1e-4
    assert counts.pixel_auroc() == pytest.approx(sk.roc_auc_score(labels, scores), abs=within)
    assert counts.pixel_average_precision() == pytest.approx(sk.average_precision_score(labels, scores), abs=within)
    assert counts.pixel_f1_max()[0] == pytest.approx(metrics.image_metrics(scores, labels)["image_F1Max"], abs=within)
    for limit in (0.05, 0.3, 1.0):
        assert counts.aupro(limit) == pytest.approx(reference.aupro(maps, masks, limit), abs=within)


def test_values_that_fill_few_bins_are_exact(rng):
    maps, masks = drawn(rng)
    maps = [np.round(m * 4) / np.float32(4) for m in maps]
    assert counted(maps, masks).aupro() == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-12)
    fprs, pros = reference.pro_curve(maps, masks)
    curve = counted(maps, masks).pro_curve()
    np.testing.assert_allclose(curve.x, fprs, atol=1e-12)
    np.testing.assert_allclose(curve.y, pros, atol=1e-12)
    values = np.unique(np.stack(maps))[::-1]
    np.testing.assert_array_equal(curve.thresholds[1:][values > 0], values[values > 0])
    assert (curve.thresholds[1:] <= values).all()  # the far end of a negative value's bin
    np.testing.assert_allclose(curve.thresholds[1:], values, rtol=1 / 8192)


def test_every_point_of_the_curve_is_that_of_its_threshold(rng):
    maps, masks = drawn(rng)
    curve = counted(maps, masks).pro_curve()
    n_good = sum((~mask).sum() for mask in masks)
    for i in (0, 1, 50, 700, len(curve.x) - 1):
        positive = sum(((m >= curve.thresholds[i]) & ~mask).sum() for m, mask in zip(maps, masks, strict=True))
        assert curve.x[i] == pytest.approx(positive / n_good, abs=1e-12)
    assert (np.diff(curve.x) >= 0).all()
    assert (np.diff(curve.y) >= 0).all()
    assert (curve.x[-1], curve.y[-1]) == (1.0, 1.0)


def test_the_mask_itself_is_perfect_and_its_negative_is_worst(rng):
    _, masks = drawn(rng)
    maps = [mask.astype(np.float32) for mask in masks]
    assert counted(maps, masks).aupro() == 1.0
    assert counted(maps, masks).aupro(0.05) == 1.0
    assert counted(maps, masks).pixel_auroc() == 1.0
    worst = [-m for m in maps]
    assert counted(worst, masks).aupro() == 0.0
    assert counted(worst, masks).pixel_auroc() == 0.0


def test_a_constant_map_is_chance(rng):
    _, masks = drawn(rng)
    maps = [np.full(mask.shape, 3, np.float32) for mask in masks]
    assert counted(maps, masks).pixel_auroc() == 0.5
    assert counted(maps, masks).aupro(0.3) == pytest.approx(0.15)


def test_small_and_large_regions_weigh_the_same():
    mask = np.zeros((20, 20), bool)
    mask[:10] = True
    mask[15, 15] = True
    found_large = (mask & (np.arange(20)[:, None] < 12)).astype(np.float32)
    counts = PixelCounts()
    counts.add(found_large, mask)
    assert counts.n_regions == 2
    assert counts.pro_curve().y.tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-14)


def test_minus_zero_is_zero():
    anomaly_map = np.float32([[0.0, -0.0], [-0.0, 0.0]])
    assert counted([anomaly_map], [np.eye(2, dtype=bool)]).pixel_auroc() == 0.5


@pytest.mark.slow
def test_order_of_extremes_is_kept():
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    values = np.float32([[-huge, -1, -1e-30, 0, 1e-30, 1, huge]])
    for i in range(1, values.size):
        mask = np.arange(values.size)[None] >= i
        assert counted([values], [mask]).pixel_auroc() == 1.0
        value, threshold = PixelCounts(), None
        value.add(values, mask)
        f1, threshold = value.pixel_f1_max()
        assert f1 == 1.0
        np.testing.assert_array_equal(values > np.float32(threshold), mask)
    assert counted([np.float32([[tiny, 0]])], [np.array([[True, False]])]).pixel_auroc() == 1.0


@pytest.mark.slow
def test_sum_of_counts_is_the_counts_of_all(rng):
    maps, masks = drawn(rng)
    maps[0] += 100
    parts = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        part = PixelCounts()
        part.add(anomaly_map, mask if mask.any() else None)
        parts.append(part)
    before = parts[1].metrics()
    both = sum(parts, PixelCounts())
    assert both.aupro() == pytest.approx(counted(maps, masks).aupro(), abs=1e-12)
    assert both.pixel_auroc() == pytest.approx(counted(maps, masks).pixel_auroc(), abs=1e-12)
    assert (both.n_images, both.n_regions) == (4, 6)
    assert both.n_good + both.n_defective == sum(m.size for m in maps)
    assert parts[1].metrics() == before
    with pytest.raises(TypeError):
        parts[0] + 1  # type: ignore[operator]


@pytest.mark.slow
def test_order_of_images_does_not_matter_though_bins_grow_coarser(rng):
    maps, masks = drawn(rng)
    maps = [100 + maps[0] / 9, np.exp(maps[1]), maps[2], maps[3] * 1000]
    fine = PixelCounts()
    fine.add(np.round(maps[0], 2), masks[3])  # with ties, which cost nothing
    assert fine.aupro() == pytest.approx(reference.aupro([np.round(maps[0], 2)], [masks[3]], 0.3), abs=1e-12)
    values = [
        counted([maps[i] for i in order], [masks[i] for i in order]).aupro() for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-14)
    assert values[0] == pytest.approx(reference.aupro(maps, masks, 0.3), abs=1e-4)


def test_coarsest_bins_are_a_8192th_wide():
    values = np.exp2(np.linspace(-100, 100, 5001)).astype(np.float32)[None]
    values = np.concatenate([-values, values, values * np.float32(1 + 1 / 8000)], axis=1)
    mask = np.arange(values.size)[None] >= values.size * 2 // 3
    curve = counted([values], [mask]).pro_curve()
    assert len(curve.x) > values.size * 0.95
    assert curve.y[-1] == 1.0


def test_images_may_differ_in_size_and_layout(rng):
    counts = PixelCounts()
    counts.add(rng.random((5, 9), np.float32))
    counts.add(rng.random((9, 6), np.float32).T[::2], rng.random((3, 9)) > 0.5)
    assert counts.n_good + counts.n_defective == 45 + 27


def test_metrics_have_anomalibs_names_and_are_absent_where_undefined(rng):
    maps, masks = drawn(rng)
    counts = PixelCounts()
    assert counts.metrics() == {}
    counts.add(maps[0], masks[0])
    assert counts.metrics() == {}
    with pytest.raises(InputError, match="masks: expected both good and defective pixels, got 598 good and 0"):
        counts.aupro()
    counts.add(maps[1], masks[1])
    assert list(counts.metrics()) == ["pixel_AUROC", "pixel_AP", "pixel_F1Max", "AUPRO", "AUPRO_0.05"]
    assert counts.metrics()["AUPRO_0.05"] == counts.aupro(0.05)


def test_bad_input_is_named(rng):
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
    maps, masks = drawn(rng)
    for limit in (0, -0.1, 1.5):
        with pytest.raises(InputError, match="fpr_limit: expected a number"):
            counted(maps, masks).aupro(limit)


@pytest.mark.slow
def test_mask_counts_are_those_of_pixels(rng):
    counts, pairs = MaskCounts(), []
    for share in (0.2, 0.7):
        predicted, mask = rng.random((5, 9)) < share, rng.random((5, 9)) < 0.5
        counts = counts.with_image(predicted, mask)
        pairs.append((predicted, mask))
    alone = MaskCounts().with_image(pairs[0][0], pairs[0][1])
    assert alone.plus(MaskCounts().with_image(*pairs[1])) == counts
    predicted, mask = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert counts == ((predicted & mask).sum(), (predicted & ~mask).sum(), (~predicted & mask).sum())
    assert counts.f1 == pytest.approx(sk.f1_score(mask.ravel(), predicted.ravel()))


def test_good_images_have_false_pixels_alone():
    counts = MaskCounts().with_image(np.array([[True, False]]), None)
    assert (counts, counts.f1, MaskCounts().f1) == ((0, 1, 0), 0.0, 0.0)
