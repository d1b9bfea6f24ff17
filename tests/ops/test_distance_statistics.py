"""Levels of normality: what each position's distances are relative to."""

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
    PositionLevels,
    blurred,
    evened,
    level_of_good,
)


@pytest.fixture
def maps(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 2, (6, 5, 7)).astype(np.float32)


def same(one: DistanceStatistics, other: DistanceStatistics) -> None:
    np.testing.assert_allclose(one.usual, other.usual, rtol=1e-5)
    np.testing.assert_allclose(one.spread, other.spread, rtol=1e-5)


def plain_level(maps: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """The definition, position by position and image by image."""
    n = len(maps)
    overall = maps.mean(dtype=np.float64)
    usual, own = np.zeros(maps.shape[1:]), np.zeros(maps.shape[1:])
    for at in np.ndindex(usual.shape):
        values = [float(one[at]) for one in maps]
        usual[at] = (sum(values) + PRIOR_IMAGES * overall) / (n + PRIOR_IMAGES)
        own[at] = sum((value - usual[at]) ** 2 for value in values) / n
    variance = (n * own + PRIOR_IMAGES * own.mean()) / (n + PRIOR_IMAGES)
    if sigma:
        usual, variance = (gaussian_filter(one, sigma, mode="reflect") for one in (usual, variance))
    return usual, np.sqrt(variance + COMMON_VARIANCE * own.mean() + (0.01 * overall) ** 2)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_level_is_its_definition(maps: np.ndarray, sigma: float):
    found = PositionLevels.from_maps(maps, sigma).level()
    usual, spread = plain_level(maps, sigma)
    np.testing.assert_allclose(found.usual, usual, atol=3e-3 if sigma else 1e-6)
    np.testing.assert_allclose(found.spread, spread, atol=3e-3 if sigma else 1e-6)
    assert found.usual.dtype == found.spread.dtype == np.float32


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_without_one_is_the_level_of_the_others(maps: np.ndarray, sigma: float):
    levels = PositionLevels.from_maps(maps, sigma)
    for i, own in enumerate(maps):
        same(levels.level(without=own), PositionLevels.from_maps(np.delete(maps, i, axis=0), sigma).level())


@given(value=st.floats(1e-6, 1e6), n=st.integers(2, 5), sigma=st.sampled_from([0.0, 0.8, 3.0]))
def test_copies_of_one_image_have_a_spread_of_a_hundredth(value: float, n: int, sigma: float):
    maps = np.full((n, 4, 6), value, np.float32)
    levels = PositionLevels.from_maps(maps, sigma)
    for level in (levels.level(), levels.level(without=maps[0])):
        np.testing.assert_allclose(level.usual, np.float32(value), rtol=1e-5)
        np.testing.assert_allclose(level.spread, 0.01 * value, rtol=1e-3)


def test_maps_of_zeros_leave_distances_as_they_are():
    level = PositionLevels.from_maps(np.zeros((3, 2, 2), np.float32), 1.0).level()
    distances = np.float32([[0, 1], [2, 3]])
    np.testing.assert_array_equal(level.deviations(distances), distances)


def test_one_image_without_itself_leaves_distances_as_they_are(rng: np.random.Generator):
    own = rng.uniform(0, 1, (3, 3)).astype(np.float32)
    level = PositionLevels.from_maps(own[None], 0.0).level(without=own)
    np.testing.assert_array_equal(level.deviations(own), own)


def test_one_image_alone_has_a_spread(maps: np.ndarray):
    level = PositionLevels.from_maps(maps[:1], 0.0).level()
    assert level.spread.min() > 0.05


def test_a_position_far_from_the_rest_tends_to_its_own_level():
    pattern = np.ones((8, 8), np.float32)
    pattern[2, 3] = 4
    pattern /= pattern.mean()
    few, many = (PositionLevels.from_maps(np.repeat(pattern[None], n, 0), 0.0).level().usual[2, 3] for n in (4, 400))
    assert 1 < few < many < pattern[2, 3]
    assert few == pytest.approx(1 + (pattern[2, 3] - 1) / 2, rel=1e-5)  # four images weigh as much as the prior
    assert many == pytest.approx(pattern[2, 3], rel=0.02)


def test_one_speck_on_a_quiet_background_counts_less_than_a_broken_restless_rim(rng: np.random.Generator):
    maps = np.ones((100, 10, 10), np.float32)
    maps[:, :5] += rng.normal(0, 0.2, (100, 5, 10)).astype(
        np.float32
    )  # a rim that varies over a background that does not
    level = PositionLevels.from_maps(maps, 0.0).level()
    new = np.ones((10, 10), np.float32)
    new[2, 2], new[7, 7] = 3, 1.5
    deviations = level.deviations(new)
    assert deviations[2, 2] > deviations[7, 7] > 0


def test_deviations_are_never_below_zero(maps: np.ndarray):
    deviations = PositionLevels.from_maps(maps, 1.0).level().deviations(np.zeros(maps.shape[1:], np.float32))
    assert deviations.dtype == np.float32
    assert not deviations.any()


def test_scale_of_the_distances_changes_nothing(maps: np.ndarray):
    one, thousand = (
        PositionLevels.from_maps(maps * np.float32(s), 1.0).level().deviations(maps[0] * np.float32(s))
        for s in (1, 1000)
    )
    np.testing.assert_allclose(one, thousand, rtol=1e-3, atol=1e-5)


def test_blurred_is_a_gaussian_that_reflects(rng: np.random.Generator):
    values = rng.uniform(0, 1, (20, 24)).astype(np.float32)
    np.testing.assert_allclose(blurred(values, 1.0), gaussian_filter(values, 1.0, mode="reflect"), atol=2e-3)
    assert blurred(values, 0) is values


def test_a_restless_image_is_brought_down_and_a_calm_one_left_alone(maps: np.ndarray):
    quarter = np.full((5, 7), np.quantile(maps[0], 0.25), np.float32)
    np.testing.assert_allclose(evened(maps[0], quarter / np.float32(1.1)), maps[0] / 1.1, rtol=1e-4)
    np.testing.assert_allclose(evened(maps[0], quarter * np.float32(1.1)), maps[0])
    own = maps[0]
    assert evened(own, np.zeros_like(quarter)) is own


def test_evening_has_a_limit(maps: np.ndarray):
    np.testing.assert_allclose(evened(maps[0] * 100, np.ones((5, 7), np.float32)), maps[0] * 80, rtol=1e-5)


def test_a_defect_moves_no_other_place(maps: np.ndarray):
    calm = np.full((5, 7), float(np.quantile(maps[0], 0.25)), np.float32)
    with_defect = maps[0].copy()
    with_defect[np.unravel_index(np.argsort(maps[0], axis=None)[-12:], (5, 7))] = 50
    np.testing.assert_allclose(evened(with_defect, calm)[maps[0] < 1], evened(maps[0], calm)[maps[0] < 1], rtol=1e-6)


def test_good_images_are_judged_by_the_level_of_the_others(maps: np.ndarray):
    level, parts = level_of_good(maps, 1.0)
    raw = PositionLevels.from_maps(maps, 1.0)
    typical = np.median([np.quantile(one / raw.level().usual, 0.25) for one in maps])
    even = np.stack([evened(one, (raw.level(without=one).usual * typical).astype(np.float32)) for one in maps])
    levels = PositionLevels.from_maps(even, 1.0)
    for one, part in zip(even, parts, strict=True):
        np.testing.assert_allclose(part, levels.level(without=one).deviations(one), rtol=1e-4, atol=1e-5)
    same(level, levels.level())
    np.testing.assert_allclose(level.calm, raw.level().usual * typical, rtol=1e-5)


def test_an_image_of_coarser_grain_alone_is_less_of_a_defect(rng: np.random.Generator):
    maps = rng.uniform(0.9, 1.1, (30, 5, 7)).astype(np.float32)
    coarse = maps[0] * np.float32(1.15)
    level, _ = level_of_good(maps, 0.0)
    plain = PositionLevels.from_maps(maps, 0.0).level()
    assert level.deviations(coarse).max() < 0.7 * plain.deviations(coarse).max()
