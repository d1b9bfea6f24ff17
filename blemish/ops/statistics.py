"""Streaming mean and covariance of feature vectors, with standardisation, whitening and principal axes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from blemish.types import Float32, Float64

Scaling = Literal["none", "standard", "whiten"]
SCALINGS = ("none", "standard", "whiten")


class Affine(NamedTuple):
    """A linear map of feature vectors: x -> weight @ x + bias.

    Attributes:
        weight: (K, D) float32.
        bias: (K,) float32.
    """

    weight: Float32
    bias: Float32


class Moments:
    """Mean and covariance of feature vectors that come in chunks (shifted data algorithm).

    Attributes:
        n: vectors added so far.
    """

    def __init__(self) -> None:
        self.n = 0
        self._shift: Float64 | None = None  # sums about a mean keep the digits that E[x^2] - E[x]^2 loses
        self._sum = np.zeros(0)
        self._products = np.zeros((0, 0))

    def add(self, rows: Float32) -> None:
        """Add (n, D) float32 vectors."""
        if self._shift is None:
            size = rows.shape[1]
            self._shift = rows.mean(axis=0, dtype=np.float64)
            self._sum, self._products = np.zeros(size), np.zeros((size, size))
        centred = rows - self._shift
        self.n += len(rows)
        self._sum += centred.sum(axis=0)
        self._products += centred.T @ centred

    def mean_and_covariance(self) -> tuple[Float64, Float64]:
        """Return the mean, (D,), and the covariance, (D, D), of the vectors added, at least one."""
        assert self._shift is not None, "add rows first"
        mean = self._sum / self.n
        return self._shift + mean, self._products / self.n - np.outer(mean, mean)

    def scaling(self, kind: Scaling, shrinkage: float) -> Affine:
        """Return the affine map that centres and scales feature vectors.

        Args:
            kind: "standard" divides each channel by its standard deviation; "whiten" projects on the principal axes and
                divides each by sqrt(eigenvalue + shrinkage * mean eigenvalue); "none" is the identity.
            shrinkage: share of the mean eigenvalue that is added to every eigenvalue; only for "whiten".
        """
        size = len(self._sum)
        centre, covariance = self.mean_and_covariance()
        if kind == "none":
            return Affine(np.eye(size, dtype=np.float32), np.zeros(size, np.float32))
        if kind == "standard":
            weight = np.diag(1 / _standard_deviations(np.diag(covariance)))
        else:
            values, axes = np.linalg.eigh(covariance)
            ridge = max(float(values.mean()), 0.0) * shrinkage
            weight = (axes / _standard_deviations(np.maximum(values, 0) + ridge)).T
        return Affine(weight.astype(np.float32), (-weight @ centre).astype(np.float32))

    def principal_axes(self, n_axes: int) -> Affine:
        """Return principal component analysis: the map to at most `n_axes` axes of largest variance, centred."""
        centre, covariance = self.mean_and_covariance()
        axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :n_axes].T
        return Affine(np.ascontiguousarray(axes, np.float32), (-axes @ centre).astype(np.float32))


def _standard_deviations(variances: Float64) -> Float64:
    """Return the square roots; 1 for constant channels, which keep their scale."""
    result: Float64 = np.sqrt(np.maximum(variances, 0))
    return np.where(result > 1e-6 * max(result.max(), 1e-30), result, 1.0)
