"""Winograd's matrices give the convolution."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.errors import InputError
from blemish.runtime.winograd import TILE, transforms


@pytest.mark.parametrize("taps", [1, 3, 4])
def test_a_row_is_the_sliding_product(taps: int):
    rng = np.random.default_rng(taps)
    tile, kernel = rng.normal(size=TILE + taps - 1), rng.normal(size=taps)
    matrices = transforms(taps)
    got = matrices.output @ ((matrices.kernel @ kernel) * (matrices.tile @ tile))
    np.testing.assert_allclose(got, np.correlate(tile, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize("taps", [3, 4])
def test_a_tile_in_float32_is_exact_to_a_few_roundings(taps: int):
    rng = np.random.default_rng(taps)
    n, channels = TILE + taps - 1, 128
    tiles = np.maximum(rng.normal(size=(channels, n, n)), 0)
    kernels = rng.normal(size=(channels, taps, taps)) / np.sqrt(channels * taps * taps)
    output, kernel, tile = (matrix.astype(np.float32) for matrix in transforms(taps))
    products = (kernel @ kernels.astype(np.float32) @ kernel.T) * (tile @ tiles.astype(np.float32) @ tile.T)
    got = output @ products.sum(axis=0, dtype=np.float32) @ output.T
    windows = np.lib.stride_tricks.sliding_window_view(tiles, (taps, taps), axis=(1, 2))
    expected = np.einsum("cijab,cab->ij", windows, kernels)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("taps", [0, 2, 5])
def test_other_kernels_are_refused(taps: int):
    with pytest.raises(InputError, match="taps: expected 1 or one of 3, 4"):
        transforms(taps)
