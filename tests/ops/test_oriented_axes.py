"""Oriented principal component analysis."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.oriented_axes import MOST_SIGNAL, PRIOR, oriented_axes
from blemish.ops.statistics import Moments


@pytest.fixture
def whitening():
    """Of features with standard deviations 1, 10, 2 and 5."""
    moments = Moments()
    moments.add((np.random.default_rng(0).standard_normal((4000, 4)) * [1, 10, 2, 5]).astype(np.float32))
    return moments.scaling("whiten", 0.0)


def whitened(affine, rows):
    return np.asarray(rows, np.float32) @ affine.weight.T + affine.bias


def test_the_axis_of_most_signal_for_the_noise_comes_last(whitening):
    """A change of 2 in the quiet feature stands out more than one of 5 in the loud one."""
    changes = np.array([[2, 5, 0, 0], [-2, 5, 0, 0], [2, -5, 0, 0], [2, 5, 0, 0.1]], np.float32)
    axes = oriented_axes(whitening, changes, 2)
    assert axes.weight.shape == (2, 4)
    direction = np.abs(axes.weight[-1]) / np.abs(axes.weight[-1]).max()
    assert direction.argmax() == 0
    assert direction[1:].max() < 0.2


def test_all_axes_are_whitening_with_weights(whitening):
    """Distances grow along axes with signal, by the root of signal and prior over the prior, and not along others."""
    changes = np.tile(np.float32([3, 0, 0, 0]), (20, 1))
    axes = oriented_axes(whitening, changes, 4)
    origin, along, across = np.zeros(4), np.float32([1, 0, 0, 0]), np.float32([0, 0, 0, 1])

    def length(affine, row):
        return float(np.linalg.norm(whitened(affine, row) - whitened(affine, origin)))

    gain = np.sqrt(min(4.0, MOST_SIGNAL) + PRIOR)  # all of the signal is along one of four axes
    assert length(axes, along) == pytest.approx(gain * length(whitening, along), rel=0.05)
    assert length(axes, across) == pytest.approx(np.sqrt(PRIOR) * length(whitening, across), rel=0.05)


def test_a_strong_defect_counts_as_a_weak_one_of_its_kind(whitening):
    changes = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    louder = changes * np.random.default_rng(2).uniform(0.1, 10, (50, 1)).astype(np.float32)
    one, other = (oriented_axes(whitening, rows, 3).weight for rows in (changes, louder))
    np.testing.assert_allclose(one.T @ one, other.T @ other, rtol=1e-3, atol=1e-5)


def test_one_axis_with_too_much_signal_is_limited(whitening):
    changes = np.eye(4, dtype=np.float32)[[0] * 40 + [1, 2, 3]]
    gains = np.linalg.norm(oriented_axes(whitening, changes, 4).weight @ np.linalg.inv(whitening.weight), axis=1)
    assert gains.max() <= np.sqrt(MOST_SIGNAL + PRIOR) * 1.001


def test_no_change_leaves_whitening_with_one_weight(whitening):
    axes = oriented_axes(whitening, np.zeros((3, 4), np.float32), 4)
    np.testing.assert_allclose(
        axes.weight.T @ axes.weight, PRIOR * whitening.weight.T @ whitening.weight, rtol=1e-4, atol=1e-6
    )
