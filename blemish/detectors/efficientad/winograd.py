"""Convolution with gradients by Winograd's minimal filtering: 49 multiplications for 16 outputs of 4 x 4 taps, not 256.

Training on a processor spends its time in float32 convolutions, which torch computes directly at the rate of its
products of matrices: fewer multiplications are the way to a shorter step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from blemish.detectors.efficientad.pdn import import_torch
from blemish.runtime.winograd import POINTS, TILE, transforms

RGB = 3


def conv2d(x: Any, weight: Any, bias: Any, padding: int = 0) -> Any:
    """Return the convolution of stride 1, as `torch.nn.functional.conv2d` does but for rounding, with its gradients.

    Args:
        x: (N, C, H, W) float32 on the processor; channels last in memory is the fastest.

    Source: Lavin and Gray 2015 (arXiv 1509.09308), section 4; the gradient for the kernel is computed on the same
        tiles, the one for the input is the full convolution with the rotated kernel.
    """
    functional = import_torch().nn.functional
    taps = weight.shape[-1]
    if taps not in POINTS:
        return functional.conv2d(x, weight, bias, padding=padding)
    rows = functional.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    if weight.shape[1] == RGB:
        return _by_patches(rows, weight, bias).permute(0, 3, 1, 2)
    return (_function()(rows, weight) + bias).permute(0, 3, 1, 2)


def _by_patches(x: Any, weight: Any, bias: Any) -> Any:
    """Return the convolution of (N, H, W, 3) as one product of matrices: three channels leave nothing to save."""
    taps = weight.shape[-1]
    patches = x.unfold(1, taps, 1).unfold(2, taps, 1).permute(0, 1, 2, 4, 5, 3)
    kernels = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
    return import_torch().addmm(bias, patches.reshape(-1, len(kernels)), kernels).view(*patches.shape[:3], -1)


@lru_cache(maxsize=1)
def _function() -> Any:
    """Return the differentiable convolution of (N, H, W, C) with (out, C, k, k) to (N, h, w, out)."""
    torch = import_torch()

    class Convolution(torch.autograd.Function):  # type: ignore[misc, name-defined, unused-ignore]
        """Keeps the transformed tiles of its input, which both passes need."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any) -> Any:
            taps = weight.shape[-1]
            hw = x.shape[1] - taps + 1, x.shape[2] - taps + 1
            tiles = _input_tiles(x, taps, hw)
            ctx.save_for_backward(tiles, weight)
            return _outputs(tiles, weight, (len(x), *hw))

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            tiles, weight = ctx.saved_tensors
            taps = weight.shape[-1]
            n, height, width, _ = gradient.shape
            of_input = None
            if ctx.needs_input_grad[0]:
                hw = height + taps - 1, width + taps - 1
                around = torch.nn.functional.pad(gradient, (0, 0, *(taps - 1,) * 4))
                rotated = weight.flip(2, 3).transpose(0, 1)
                of_input = _outputs(_input_tiles(around, taps, hw), rotated, (n, *hw))
            output, kernel, _ = _matrices(taps)
            products = torch.bmm(
                tiles.transpose(1, 2), _both_axes(output.T, _split(gradient)).flatten(2, 4).flatten(0, 1)
            )
            of_kernel = _both_axes(kernel.T, products.view(len(kernel), len(kernel), *products.shape[1:]))
            return of_input, of_kernel.permute(3, 2, 0, 1)

    return Convolution.apply


@lru_cache(maxsize=4)
def _matrices(taps: int) -> tuple[Any, Any, Any]:
    """Return A (4, n), G (n, k) and B (n, n) of `transforms`, float32."""
    torch = import_torch()
    output, kernel, tile = (torch.tensor(matrix, dtype=torch.float32) for matrix in transforms(taps))
    return output, kernel, tile


def _n_tiles(hw: tuple[int, int]) -> tuple[int, int]:
    return -(-hw[0] // TILE), -(-hw[1] // TILE)


def _both_axes(matrix: Any, x: Any) -> Any:
    """Return M @ x @ M.T over the first two axes of x."""
    m = len(matrix)
    rows = (matrix @ x.reshape(x.shape[0], -1)).view(m, x.shape[1], -1)
    return (matrix @ rows).view(m, m, *x.shape[2:])


def _input_tiles(x: Any, taps: int, hw: tuple[int, int]) -> Any:
    """Return the transformed, overlapping tiles of (N, H, W, C) that `hw` outputs need, (n * n, tiles, C)."""
    tile = _matrices(taps)[2]
    n, (high, wide) = len(tile), _n_tiles(hw)
    more = high * TILE + taps - 1 - x.shape[1], wide * TILE + taps - 1 - x.shape[2]
    x = import_torch().nn.functional.pad(x, (0, 0, 0, more[1], 0, more[0]))
    count, _, width, channels = x.shape
    rows = tile @ x.unfold(1, n, TILE).permute(4, 0, 1, 2, 3).reshape(n, -1)
    columns = rows.view(n, count, high, width, channels).unfold(3, n, TILE).permute(0, 5, 1, 2, 3, 4)
    return (tile @ columns.reshape(n, n, -1)).view(n * n, -1, channels)


def _outputs(tiles: Any, weight: Any, shape: tuple[int, int, int]) -> Any:
    """Return the outputs (N, h, w, out) of transformed tiles; `shape` is (N, h, w)."""
    output, kernel, tile = _matrices(weight.shape[-1])
    kernels = _both_axes(kernel, weight.permute(2, 3, 1, 0)).flatten(0, 1)
    n, (high, wide) = len(tile), _n_tiles(shape[1:])
    products = import_torch().bmm(tiles, kernels).view(n, n, shape[0], high, wide, -1)
    planes = _both_axes(output, products).permute(2, 3, 0, 4, 1, 5)
    return planes.reshape(shape[0], high * TILE, wide * TILE, -1)[:, : shape[1], : shape[2]]


def _split(x: Any) -> Any:
    """Return (N, h, w, C) as tiles that do not overlap, (4, 4, N, rows of tiles, columns of tiles, C)."""
    count, height, width, channels = x.shape
    high, wide = _n_tiles((height, width))
    x = import_torch().nn.functional.pad(x, (0, 0, 0, wide * TILE - width, 0, high * TILE - height))
    return x.reshape(count, high, TILE, wide, TILE, channels).permute(2, 4, 0, 1, 3, 5)
