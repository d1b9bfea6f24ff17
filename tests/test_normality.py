"""Levels of normality: what each position's distances are divided by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from blemish.normality import PositionLevels, blurred


@pytest.fixture
def maps(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 2, (6, 5, 7)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_without_one_is_the_level_of_the_others(maps: np.ndarray, sigma: float):
    levels = PositionLevels.from_maps(maps, sigma)
    for i, own in enumerate(maps):
        others = PositionLevels.from_maps(np.delete(maps, i, axis=0), sigma)
        np.testing.assert_allclose(levels.level(without=own), others.level(), rtol=1e-5)


@given(value=st.floats(1e-6, 1e6), n=st.integers(1, 5), sigma=st.sampled_from([0.0, 0.8, 3.0]))
def test_constant_maps_have_level_1(value: float, n: int, sigma: float):
    maps = np.full((n, 4, 6), value, np.float32)
    levels = PositionLevels.from_maps(maps, sigma)
    np.testing.assert_allclose(levels.level(), 1, rtol=1e-5)
    np.testing.assert_allclose(levels.level(without=maps[0]), 1, rtol=1e-5)


def test_maps_of_zeros_have_level_1():
    level = PositionLevels.from_maps(np.zeros((3, 2, 2), np.float32), 1.0).level()
    np.testing.assert_array_equal(level, np.ones((2, 2), np.float32))


def test_one_picture_without_itself_has_level_1():
    own = np.float32([[1, 2], [3, 4]])
    np.testing.assert_array_equal(PositionLevels.from_maps(own[None], 0.0).level(without=own), 1)


def test_a_position_twice_as_far_as_the_rest_tends_to_its_own_level(rng: np.random.Generator):
    pattern = np.ones((8, 8), np.float32)
    pattern[2, 3] = 4
    pattern /= pattern.mean()
    few, many = (PositionLevels.from_maps(np.repeat(pattern[None], n, 0), 0.0).level()[2, 3] for n in (4, 400))
    assert 1 < few < many < pattern[2, 3]
    assert few == pytest.approx(1 + (pattern[2, 3] - 1) / 2, rel=1e-5)  # four pictures weigh as much as the prior
    assert many == pytest.approx(pattern[2, 3], rel=0.02)


def test_level_is_positive_float32_of_mean_1(maps: np.ndarray):
    level = PositionLevels.from_maps(maps, 1.0).level()
    assert level.dtype == np.float32
    assert level.min() > 0
    assert PositionLevels.from_maps(maps, 0.0).level().mean() == pytest.approx(1, rel=1e-5)


def test_scale_of_the_distances_changes_nothing(maps: np.ndarray):
    one, thousand = (PositionLevels.from_maps(maps * np.float32(s), 1.0).level() for s in (1, 1000))
    np.testing.assert_allclose(one, thousand, rtol=1e-5)


def test_blurred_is_a_gaussian_that_reflects(rng: np.random.Generator):
    values = rng.uniform(0, 1, (20, 24)).astype(np.float32)
    np.testing.assert_allclose(blurred(values, 1.0), gaussian_filter(values, 1.0, mode="reflect"), atol=2e-3)
    assert blurred(values, 0) is values
