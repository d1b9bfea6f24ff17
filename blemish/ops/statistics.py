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


class MomentSums(NamedTuple):
    """Sums of feature vectors about a shift, of which moments are made.

    Attributes:
        n: vectors.
        shift: (D,) float64.
        total: (D,) float64, the sum of the shifted vectors.
        products: (D, D) float64, the sum of their outer products.
    """

    n: int
    shift: Float64
    total: Float64
    products: Float64

    @classmethod
    def of(cls, rows: Float32, shift: Float64 | None = None) -> MomentSums:
        """Return the sums of (n, D) float32 vectors about a shift; about their mean if there is none."""
        if shift is None:
            # Sums about a mean keep the digits that E[x^2] - E[x]^2 loses.
            shift = rows.mean(axis=0, dtype=np.float64)
        centred = rows - shift
        return cls(len(rows), shift, centred.sum(axis=0), centred.T @ centred)


class Moments:
    """Mean and covariance of feature vectors that come in chunks (shifted data algorithm).

    Attributes:
        n: vectors added so far.
        shift: (D,) float64, the mean of the first chunk; None before it.
    """

    def __init__(self) -> None:
        self.n = 0
        self.shift: Float64 | None = None
        self._sum = np.zeros(0)
        self._products = np.zeros((0, 0))

    def add(self, rows: Float32) -> None:
        """Add (n, D) float32 vectors."""
        self.merge(MomentSums.of(rows, self.shift))

    def merge(self, sums: MomentSums) -> None:
        """Add the sums of a chunk, about the shift of the first one; the digits depend on the order of chunks."""
        if self.shift is None:
            self.shift = sums.shift
            self._sum, self._products = np.zeros(sums.total.shape), np.zeros(sums.products.shape)
        assert np.array_equal(self.shift, sums.shift), "sums are about the shift of the first chunk"
        self.n += sums.n
        self._sum += sums.total
        self._products += sums.products

    def mean_and_covariance(self) -> tuple[Float64, Float64]:
        """Return the mean, (D,), and the covariance, (D, D), of the vectors added, at least one."""
        assert self.shift is not None, "add rows first"
        mean = self._sum / self.n
        return self.shift + mean, self._products / self.n - np.outer(mean, mean)

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
