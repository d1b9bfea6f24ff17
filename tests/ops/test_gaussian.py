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


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("size", [4, 40])
def test_vectors_that_are_left_out_together(k: int, size: int):
    """As a Gaussian fitted to the others, with the ridge of all; also with more features than vectors."""
    rng = np.random.default_rng(0)
    vectors = (3 + rng.normal(size=(25, size)) @ rng.normal(size=(size, size))).astype(np.float32)
    moments = Moments()
    moments.add(vectors)
    outs = [vectors[i : i + k] for i in range(20)]
    _, distances = fit_gaussian(moments, vectors[:20], 0.05, left_out=outs)
    ridge = 0.05 * np.linalg.eigvalsh(np.cov(vectors, rowvar=False, bias=True).astype(np.float64)).mean()
    ridge += 1e-6 * np.square(vectors.mean(axis=0)).mean() + 1e-12
    for i, distance in enumerate(distances):
        others = np.delete(vectors, range(i, i + k), axis=0).astype(np.float64)
        covariance = np.cov(others, rowvar=False, bias=True) + ridge * np.eye(size)
        deviation = vectors[i] - others.mean(axis=0)
        assert distance == pytest.approx(np.sqrt(deviation @ np.linalg.solve(covariance, deviation)), rel=1e-3)


def test_leaving_one_out_is_the_same_either_way():
    vectors = np.random.default_rng(1).normal(size=(12, 30)).astype(np.float32)
    moments = Moments()
    moments.add(vectors)
    alone = fit_gaussian(moments, vectors)[1]
    np.testing.assert_allclose(fit_gaussian(moments, vectors, left_out=vectors[:, None])[1], alone, rtol=1e-6)
