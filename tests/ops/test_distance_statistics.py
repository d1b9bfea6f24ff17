"""Distance statistics: mean, standard deviation and gain at each position, and the z-scores that follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from blemish.ops.distance_statistics import (
    COMMON_VARIANCE,
    PRIOR_IMAGES,
    DistanceStatistics,
    DistanceSums,
    fit_distance_statistics,
    gaussian_blur,
    normalize_gain,
)


@pytest.fixture
def maps(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 2, (6, 5, 7)).astype(np.float32)


def assert_same(statistics: DistanceStatistics, expected: DistanceStatistics) -> None:
    np.testing.assert_allclose(statistics.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(statistics.standard_deviation, expected.standard_deviation, rtol=1e-5)


def reference_statistics(maps: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The definition, position by position and image by image."""
    n = len(maps)
    overall = maps.mean(dtype=np.float64)
    mean, variance = np.zeros(maps.shape[1:]), np.zeros(maps.shape[1:])
    for position in np.ndindex(mean.shape):
        values = [float(distances[position]) for distances in maps]
        mean[position] = (sum(values) + PRIOR_IMAGES * overall) / (n + PRIOR_IMAGES)
        variance[position] = sum((value - mean[position]) ** 2 for value in values) / n
    common = variance.mean()
    variance = (n * variance + PRIOR_IMAGES * common) / (n + PRIOR_IMAGES)
    if sigma:
        mean, variance = (gaussian_filter(values, sigma, mode="reflect") for values in (mean, variance))
    return mean, np.sqrt(variance + COMMON_VARIANCE * common + (0.01 * overall) ** 2)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_statistics_equal_their_definition(maps: np.ndarray, sigma: float):
    statistics = DistanceSums.from_maps(maps, sigma).statistics()
    mean, standard_deviation = reference_statistics(maps, sigma)
    np.testing.assert_allclose(statistics.mean, mean, atol=3e-3 if sigma else 1e-6)
    np.testing.assert_allclose(statistics.standard_deviation, standard_deviation, atol=3e-3 if sigma else 1e-6)
    assert statistics.mean.dtype == statistics.standard_deviation.dtype == np.float32


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_leave_one_out_equals_the_statistics_of_the_others(maps: np.ndarray, sigma: float):
    sums = DistanceSums.from_maps(maps, sigma)
    for i, own in enumerate(maps):
        others = DistanceSums.from_maps(np.delete(maps, i, axis=0), sigma)
        assert_same(sums.statistics(without=own), others.statistics())


@pytest.mark.slow
@given(value=st.floats(1e-6, 1e6), n=st.integers(2, 5), sigma=st.sampled_from([0.0, 0.8, 3.0]))
def test_copies_of_one_image_have_a_standard_deviation_of_a_hundredth(value: float, n: int, sigma: float):
    maps = np.full((n, 4, 6), value, np.float32)
    sums = DistanceSums.from_maps(maps, sigma)
    for statistics in (sums.statistics(), sums.statistics(without=maps[0])):
        np.testing.assert_allclose(statistics.mean, np.float32(value), rtol=1e-5)
        np.testing.assert_allclose(statistics.standard_deviation, 0.01 * value, rtol=1e-3)


def test_maps_of_zeros_leave_distances_as_they_are():
    statistics = DistanceSums.from_maps(np.zeros((3, 2, 2), np.float32), 1.0).statistics()
    distances = np.float32([[0, 1], [2, 3]])
    np.testing.assert_array_equal(statistics.z_scores(distances), distances)


def test_one_image_without_itself_leaves_distances_as_they_are(rng: np.random.Generator):
    own = rng.uniform(0, 1, (3, 3)).astype(np.float32)
    statistics = DistanceSums.from_maps(own[None], 0.0).statistics(without=own)
    np.testing.assert_array_equal(statistics.z_scores(own), own)


def test_one_image_alone_has_a_standard_deviation(maps: np.ndarray):
    assert DistanceSums.from_maps(maps[:1], 0.0).statistics().standard_deviation.min() > 0.05


def test_the_mean_of_a_position_far_from_the_rest_tends_to_its_own():
    pattern = np.ones((8, 8), np.float32)
    pattern[2, 3] = 4
    pattern /= pattern.mean()
    few, many = (DistanceSums.from_maps(np.repeat(pattern[None], n, 0), 0.0).statistics().mean[2, 3] for n in (4, 400))
    assert 1 < few < many < pattern[2, 3]
    assert few == pytest.approx(1 + (pattern[2, 3] - 1) / 2, rel=1e-5)  # four images weigh as much as the prior
    assert many == pytest.approx(pattern[2, 3], rel=0.02)


def test_a_speck_on_a_constant_background_scores_below_a_broken_varying_rim(rng: np.random.Generator):
    maps = np.ones((100, 10, 10), np.float32)
    maps[:, :5] += rng.normal(0, 0.2, (100, 5, 10)).astype(np.float32)  # a rim that varies, a background that does not
    statistics = DistanceSums.from_maps(maps, 0.0).statistics()
    distances = np.ones((10, 10), np.float32)
    distances[2, 2], distances[7, 7] = 3, 1.5
    z_scores = statistics.z_scores(distances)
    assert z_scores[2, 2] > z_scores[7, 7] > 0


def test_z_scores_are_never_below_zero(maps: np.ndarray):
    z_scores = DistanceSums.from_maps(maps, 1.0).statistics().z_scores(np.zeros(maps.shape[1:], np.float32))
    assert z_scores.dtype == np.float32
    assert not z_scores.any()


def test_z_scores_do_not_depend_on_the_scale_of_distances(maps: np.ndarray):
    one, thousand = (
        DistanceSums.from_maps(maps * np.float32(s), 1.0).statistics().z_scores(maps[0] * np.float32(s))
        for s in (1, 1000)
    )
    np.testing.assert_allclose(one, thousand, rtol=1e-3, atol=1e-5)


def test_gaussian_blur_reflects_at_the_borders(rng: np.random.Generator):
    values = rng.uniform(0, 1, (20, 24)).astype(np.float32)
    np.testing.assert_allclose(gaussian_blur(values, 1.0), gaussian_filter(values, 1.0, mode="reflect"), atol=2e-3)
    assert gaussian_blur(values, 0) is values


def test_a_high_gain_is_divided_out_and_a_low_one_is_kept(maps: np.ndarray):
    quantile = np.full((5, 7), np.quantile(maps[0], 0.25), np.float32)
    np.testing.assert_allclose(normalize_gain(maps[0], quantile / np.float32(1.1)), maps[0] / 1.1, rtol=1e-4)
    np.testing.assert_allclose(normalize_gain(maps[0], quantile * np.float32(1.1)), maps[0])
    distances = maps[0]
    assert normalize_gain(distances, np.zeros_like(quantile)) is distances


def test_the_gain_is_limited(maps: np.ndarray):
    np.testing.assert_allclose(normalize_gain(maps[0] * 100, np.ones((5, 7), np.float32)), maps[0] * 80, rtol=1e-5)


def test_a_defect_does_not_change_the_gain(maps: np.ndarray):
    reference = np.full((5, 7), float(np.quantile(maps[0], 0.25)), np.float32)
    with_defect = maps[0].copy()
    with_defect[np.unravel_index(np.argsort(maps[0], axis=None)[-12:], (5, 7))] = 50
    elsewhere = maps[0] < 1
    np.testing.assert_allclose(
        normalize_gain(with_defect, reference)[elsewhere], normalize_gain(maps[0], reference)[elsewhere], rtol=1e-6
    )


def test_good_images_are_scored_by_the_statistics_of_the_others(maps: np.ndarray):
    statistics, z_scores = fit_distance_statistics(maps, 1.0)
    raw = DistanceSums.from_maps(maps, 1.0)
    mean = raw.statistics().mean
    typical_gain = np.median([np.quantile(distances / mean, 0.25) for distances in maps])
    normalized = np.stack(
        [
            normalize_gain(distances, (raw.statistics(without=distances).mean * typical_gain).astype(np.float32))
            for distances in maps
        ]
    )
    sums = DistanceSums.from_maps(normalized, 1.0)
    for distances, scores in zip(normalized, z_scores, strict=True):
        expected = sums.statistics(without=distances).z_scores(distances)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert_same(statistics, sums.statistics())
    np.testing.assert_allclose(statistics.gain_reference, mean * typical_gain, rtol=1e-5)


def test_coarser_grain_alone_scores_lower_with_gain_normalisation(rng: np.random.Generator):
    maps = rng.uniform(0.9, 1.1, (30, 5, 7)).astype(np.float32)
    coarse = maps[0] * np.float32(1.15)
    statistics, _ = fit_distance_statistics(maps, 0.0)
    without_gain = DistanceSums.from_maps(maps, 0.0).statistics()
    assert statistics.z_scores(coarse).max() < 0.7 * without_gain.z_scores(coarse).max()


def test_z_scores_by_the_border_are_those_of_all_positions_as_far_from_it():
    rng = np.random.default_rng(3)
    maps = rng.gamma(3, size=(6, 7, 12)).astype(np.float32)
    maps[:, 3, 2:10] = 3  # positions that hardly ever change
    statistics, plain = (DistanceSums.from_maps(maps, 1.0, border=border).statistics() for border in (True, False))
    assert (statistics.stacked().shape, plain.stacked().shape) == ((5, 7, 12), (3, 7, 12))
    rows, columns = np.mgrid[:7, :12]
    depth = np.minimum(np.minimum(rows, 6 - rows), np.minimum(columns, 11 - columns))
    for cells in range(4):
        sample = maps[:, depth == cells].astype(np.float64)
        np.testing.assert_allclose(statistics.border_mean[depth == cells], sample.mean(), rtol=1e-4)
        np.testing.assert_allclose(statistics.border_deviation[depth == cells], sample.std(), rtol=0.01, atol=0.05)
    anomalous = maps[0] + np.float32(9) * (rows == 3)
    by_position, by_border = plain.z_scores(anomalous), statistics.z_scores(anomalous)
    assert (by_border <= by_position + 1e-6).all()
    assert (by_border < by_position - 0.1).any()


def test_the_border_is_as_wide_as_the_padding_shows():
    maps = np.ones((3, 20, 20), np.float32) + np.random.default_rng(0).random((3, 20, 20), np.float32) * 0.1
    statistics, _ = fit_distance_statistics(maps, 1.0, border=True)
    assert len(np.unique(statistics.border_mean)) == 5
    assert np.unique(statistics.border_mean[4:16, 4:16]).size == 1


def test_copies_of_one_image_keep_their_distances():
    statistics, z_scores = fit_distance_statistics(np.zeros((3, 4, 4), np.float32), 1.0, border=True)
    assert not z_scores.any()
    np.testing.assert_array_equal(statistics.z_scores(np.full((4, 4), 2, np.float32)), np.full((4, 4), 2))
