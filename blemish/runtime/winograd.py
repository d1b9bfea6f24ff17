"""Small matrices that turn a convolution into fewer multiplications (Winograd's minimal filtering), computed exactly.

A tile of n = m + r - 1 inputs and a kernel of r taps give m outputs with n multiplications instead of m * r:

    y = A @ ((G @ kernel) * (B @ tile))

and along both axes n * n instead of m * m * r * r: 49 instead of 256 for 4 outputs and 4 taps. A whole convolution is
then a product of matrices for each of the n * n places of a tile. The result is the convolution's but for rounding.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from blemish.errors import InputError, message
from blemish.types import Float64

TILE = 4  # outputs of a tile along an axis
# Points at which the polynomials are evaluated, besides infinity. Of all sets out of fourteen small fractions these had
# the smallest rounding error in float32: 7e-7 of the result for four taps and 4e-7 for three, over 128 channels.
POINTS: dict[int, tuple[Fraction, ...]] = {
    3: tuple(Fraction(*pair) for pair in ((0, 1), (-1, 2), (3, 2), (-3, 2), (2, 3))),
    4: tuple(Fraction(*pair) for pair in ((0, 1), (2, 1), (-1, 2), (-3, 2), (2, 3), (1, 3))),
}


class Transforms(NamedTuple):
    """The three matrices of one kernel size, for m outputs, r taps and tiles of n = m + r - 1 inputs.

    Attributes:
        output: (m, n) float64, A.
        kernel: (n, r) float64, G.
        tile: (n, n) float64, B.
    """

    output: Float64
    kernel: Float64
    tile: Float64


@lru_cache(maxsize=8)
def transforms(taps: int) -> Transforms:
    """Return the matrices for tiles of four outputs and a kernel size; the identity for kernels of one tap.

    Raises:
        InputError: if `taps` is not 1, 3 or 4.

    Source: Toom and Cook's multiplication of polynomials, transposed; Lavin & Gray 2015 (arXiv 1509.09308), section 4.
    """
    if taps == 1:
        return Transforms(np.eye(TILE), np.ones((TILE, 1)), np.eye(TILE))
    if taps not in POINTS:
        raise InputError(message("taps", f"1 or one of {', '.join(map(str, POINTS))}", repr(taps)))
    n = TILE + taps - 1
    inverse = _inverse(_powers(taps, n))
    tile = np.array([[float(inverse[j][i]) for j in range(n)] for i in range(n)])
    kernel = np.array(_powers(taps, taps), np.float64)
    # A row may be scaled if the kernel's is scaled back: with entries up to 1 no sum of a tile grows.
    largest = np.abs(tile).max(axis=1, keepdims=True)
    return Transforms(np.array(_powers(taps, TILE), np.float64).T, kernel * largest, tile / largest)


def _powers(taps: int, width: int) -> list[list[Fraction]]:
    """Return the values of 1, x, x^2, ... at each point, and at infinity the highest alone."""
    rows = [[point**power for power in range(width)] for point in POINTS[taps]]
    return [*rows, [Fraction(0)] * (width - 1) + [Fraction(1)]]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Return the inverse, exactly (Gauss and Jordan)."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(i for i in range(column, n) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column][column]
        rows[column] = [value / head for value in rows[column]]
        for i in range(n):
            if i != column and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[n:] for row in rows]
