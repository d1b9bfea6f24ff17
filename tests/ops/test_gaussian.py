"""The Gaussian of whole images equals its slow twin, and so does leaving one image out."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.ops.gaussian import SHRINKAGE, gaussian_of_good
from blemish.ops.statistics import Moments


def summaries(n: int, size: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + 3).astype(np.float32)


def moments_of(rows: np.ndarray) -> Moments:
    moments = Moments()
    for row in rows:
        moments.add(row[None])
    return moments


def least_of(rows: np.ndarray) -> float:
    covariance = np.cov(rows.astype(np.float64).T, bias=True)
    mean = rows.mean(axis=0, dtype=np.float64)
    return SHRINKAGE * float(np.trace(covariance)) / len(covariance) + 1e-6 * float((mean**2).mean()) + 1e-12


def mahalanobis(others: np.ndarray, one: np.ndarray, least: float) -> float:
    others = others.astype(np.float64)
    covariance = np.cov(others.T, bias=True) + least * np.eye(others.shape[1])
    away = one - others.mean(axis=0)
    return float(np.sqrt(away @ np.linalg.solve(covariance, away)))


@pytest.mark.parametrize("n", [4, 40])
def test_the_distance_is_mahalanobis(n: int):
    rows, new = summaries(n), summaries(3, seed=1)
    gaussian = gaussian_of_good(moments_of(rows), rows)[0]
    for one in new:
        assert gaussian.distance(one) == pytest.approx(mahalanobis(rows, one, least_of(rows)), rel=1e-3)


@pytest.mark.parametrize("n", [2, 4, 40])
def test_leaving_one_out_is_fitting_without_it(n: int):
    rows = summaries(n)
    found = gaussian_of_good(moments_of(rows), rows)[1]
    for i, distance in enumerate(found):
        assert distance == pytest.approx(mahalanobis(np.delete(rows, i, axis=0), rows[i], least_of(rows)), rel=1e-4)


def test_copies_of_one_image_have_no_distance_and_another_has():
    rows = np.repeat(summaries(1), 5, axis=0)
    moments = moments_of(rows)
    assert gaussian_of_good(moments, rows)[1].max() < 1e-3
    distance = gaussian_of_good(moments, rows)[0].distance(rows[0] + np.float32(1))
    assert np.isfinite(distance)
    assert distance > 100
