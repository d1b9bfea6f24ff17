"""Mahalanobis distances and their leave-one-out form against a fit without the vector."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.gaussian import SHRINKAGE, fit_gaussian
from blemish.ops.statistics import Moments


def drawn_vectors(n: int, size: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + 3).astype(np.float32)


def moments_of(vectors: np.ndarray) -> Moments:
    moments = Moments()
    for vector in vectors:
        moments.add(vector[None])
    return moments


def ridge_of(vectors: np.ndarray) -> float:
    covariance = np.cov(vectors.astype(np.float64).T, bias=True)
    mean = vectors.mean(axis=0, dtype=np.float64)
    return SHRINKAGE * float(np.trace(covariance)) / len(covariance) + 1e-6 * float((mean**2).mean()) + 1e-12


def mahalanobis(others: np.ndarray, vector: np.ndarray, ridge: float) -> float:
    others = others.astype(np.float64)
    covariance = np.cov(others.T, bias=True) + ridge * np.eye(others.shape[1])
    difference = vector - others.mean(axis=0)
    return float(np.sqrt(difference @ np.linalg.solve(covariance, difference)))


@pytest.mark.parametrize("n", [4, 40])
def test_the_distance_is_mahalanobis(n: int):
    vectors, new = drawn_vectors(n), drawn_vectors(3, seed=1)
    gaussian = fit_gaussian(moments_of(vectors), vectors)[0]
    for vector in new:
        expected = mahalanobis(vectors, vector, ridge_of(vectors))
        assert gaussian.mahalanobis(vector) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [2, 4, 40])
def test_leave_one_out_equals_a_fit_without_the_vector(n: int):
    vectors = drawn_vectors(n)
    distances = fit_gaussian(moments_of(vectors), vectors)[1]
    for i, distance in enumerate(distances):
        expected = mahalanobis(np.delete(vectors, i, axis=0), vectors[i], ridge_of(vectors))
        assert distance == pytest.approx(expected, rel=1e-4)


def test_copies_of_one_vector_have_distance_zero_and_another_is_far():
    vectors = np.repeat(drawn_vectors(1), 5, axis=0)
    gaussian, distances = fit_gaussian(moments_of(vectors), vectors)
    assert distances.max() < 1e-3
    distance = gaussian.mahalanobis(vectors[0] + np.float32(1))
    assert np.isfinite(distance)
    assert distance > 100
