"""The patch description networks on Winograd's tiles in torch, with gradients: what training spends its time in.

The same convolutions as `pdn.pdn` without padding, a few times as fast on a processor and equal but for rounding. A map
is (4, 4, N, rows of tiles, columns of tiles, channels), see `tiles`; weights are kept as (k, k, in, out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.detectors.efficientad.pdn import CONVS, IMAGENET_MEAN, IMAGENET_STD, Size, import_torch
from blemish.runtime.winograd import TILE, transforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_TAPS = 4
FIELD_PX = 33  # what one output sees
STRIDE_PX = 4  # from one output to the next


class Params(NamedTuple):
    """The weights of a network, as tensors.

    Attributes:
        weights: one (k, k, in, out) per convolution; for each head one more, the last.
        biases: one (out,) for each.
        n_heads: into how many parts the last convolution's outputs are cut.
    """

    weights: list[Any]
    biases: list[Any]
    n_heads: int

    def tensors(self) -> list[Any]:
        """Return all of them."""
        return [*self.weights, *self.biases]


def to_params(weights: Mapping[str, NDArray[Any]], *, n_heads: int = 1, device: str = "cpu") -> Params:
    """Return a network's weights, by the names of `pdn`, as what `run` takes."""
    torch = import_torch()
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    kept: tuple[list[Any], list[Any]] = [], []
    for name in names:
        n_parts = n_heads if name == names[-1] else 1
        for weight, bias in zip(
            np.split(weights[f"{name}.weight"], n_parts), np.split(weights[f"{name}.bias"], n_parts), strict=True
        ):
            kernels = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
            kept[0].append(torch.tensor(kernels, dtype=torch.float32, device=device))
            kept[1].append(torch.tensor(bias, dtype=torch.float32, device=device))
    return Params(*kept, n_heads)


def from_params(params: Params, size: Size) -> dict[str, NDArray[np.float32]]:
    """Return the weights by the names of `pdn` again, float32 (out, in, k, k) and (out,)."""
    arrays = [weight.detach().cpu().numpy().transpose(3, 2, 0, 1) for weight in params.weights]
    biases = [bias.detach().cpu().numpy() for bias in params.biases]
    n = len(arrays) - params.n_heads
    found = {}
    for i, (name, *_) in enumerate(CONVS[size]):
        parts = slice(i, i + 1) if i < n else slice(n, None)
        found[f"{name}.weight"] = np.ascontiguousarray(np.concatenate(arrays[parts]))
        found[f"{name}.bias"] = np.concatenate(biases[parts])
    return found


def pixels_of(n_outputs: int) -> int:
    """Return how many pixels a row of so many outputs sees.

    >>> pixels_of(56)
    253
    """
    return FIELD_PX + STRIDE_PX * (n_outputs - 1)


def normalised(images: Any, device: str | None = None) -> Any:
    """Return images (N, H, W, 3) from 0 to 255 as the networks' tensor: ImageNet's mean taken, over its deviation.

    Args:
        images: an array, or a tensor.
        device: where to; None for where a tensor is.
    """
    x = import_torch().as_tensor(images, device=device).float()
    mean, std = _scale(str(x.device))
    return (x - mean) / std


def trunk(params: Params, x: Any, n_hw: tuple[int, int]) -> Any:
    """Return the features before the last convolution, as tiles.

    Args:
        params: the network.
        x: (N, H, W, 3) float32, out of `normalised`; outputs are counted from its upper left corner on.
        n_hw: rows and columns of outputs wanted; the image must be what they see or larger.
    """
    parts = _functions()
    last = _tiles_needed(n_hw)
    sizes = [last]
    n_inner = len(params.weights) - params.n_heads
    for weight in reversed([*params.weights[2:n_inner], params.weights[-1]]):
        sizes.insert(0, sizes[0] if weight.shape[0] == 1 else (sizes[0][0] + 1, sizes[0][1] + 1))
    pooled = [(pixels_of(n) - 3) // 2 for n in n_hw]
    second = _tiles_needed((pooled[0] - 3, pooled[1] - 3))
    x = parts.first(x, params.weights[0], params.biases[0], (second[0] + 1, second[1] + 1))
    x = _conv(x, params.weights[1], params.biases[1]).relu_()
    x = parts.pool(x, sizes[0])
    for weight, bias in zip(params.weights[2:n_inner], params.biases[2:n_inner], strict=True):
        x = _conv(x, weight, bias).relu_()
    return x


def head(params: Params, x: Any, i: int = 0) -> Any:
    """Return what head `i` makes of features out of `trunk`: (4, 4, N, rows of tiles, columns of tiles, outputs)."""
    n = len(params.weights) - params.n_heads
    return _conv(x, params.weights[n + i], params.biases[n + i])


def to_tiles(planes: Any) -> Any:
    """Return (N, h, w, C) as tiles; h and w are multiples of four."""
    n, height, width, channels = planes.shape
    split = planes.view(n, height // TILE, TILE, width // TILE, TILE, channels)
    return split.permute(2, 4, 0, 1, 3, 5)


def from_tiles(x: Any, hw: tuple[int, int]) -> Any:
    """Return tiles as (N, h, w, C); what lies beyond `hw` is cut off."""
    _, _, n, high, wide, channels = x.shape
    planes = x.permute(2, 3, 0, 4, 1, 5).reshape(n, high * TILE, wide * TILE, channels)
    return planes[:, : hw[0], : hw[1]]


def _tiles_needed(hw: tuple[int, int]) -> tuple[int, int]:
    return -(-hw[0] // TILE), -(-hw[1] // TILE)


def _conv(x: Any, weight: Any, bias: Any) -> Any:
    """Return the convolution of tiles; but for 1 x 1, one row and column of tiles less."""
    torch = import_torch()
    taps = weight.shape[0]
    if taps == 1:
        return torch.matmul(x, weight[0, 0]) + bias
    overlap = _functions().overlap
    output, kernel, tile = (_matrix(name, taps, str(x.device), x.dtype) for name in ("output", "kernel", "tile"))
    x = _along_second(tile, overlap(_along_first(tile, overlap(x, 0, taps)), 1, taps))
    kernels = _along_second(kernel, _along_first(kernel, weight))
    n = kernels.shape[0]
    y = torch.bmm(x.reshape(n * n, -1, x.shape[-1]), kernels.reshape(n * n, *weight.shape[2:]))
    y = y.view(n, n, *x.shape[2:5], -1)
    return _along_second(output, _along_first(output, y)) + bias


def _along_first(matrix: Any, x: Any) -> Any:
    """Return the product over the first axis."""
    return (matrix @ x.reshape(x.shape[0], -1)).view(matrix.shape[0], *x.shape[1:])


def _along_second(matrix: Any, x: Any) -> Any:
    """Return the product over the second axis."""
    torch = import_torch()
    flat = torch.matmul(matrix, x.reshape(*x.shape[:2], -1))
    return flat.view(x.shape[0], matrix.shape[0], *x.shape[2:])


@lru_cache(maxsize=8)
def _scale(device: str) -> tuple[Any, Any]:
    """Return ImageNet's mean and deviation of pixels from 0 to 255, (3,) each."""
    torch = import_torch()
    return torch.tensor(IMAGENET_MEAN, device=device) * 255, torch.tensor(IMAGENET_STD, device=device) * 255


@lru_cache(maxsize=64)
def _matrix(name: str, taps: int, device: str, dtype: Any) -> Any:
    return import_torch().tensor(getattr(transforms(taps), name), dtype=dtype, device=device)


class _Functions(NamedTuple):
    """Steps whose gradients are written by hand: torch's own would fill and add whole maps for each slice."""

    first: Callable[..., Any]
    overlap: Callable[..., Any]
    pool: Callable[..., Any]


@lru_cache(maxsize=1)
def _functions() -> _Functions:
    return _Functions(_first, _overlap_function(), _pool_function())


def _overlap_function() -> Callable[..., Any]:
    """Return the function (x, axis, taps) that adds the first rows or columns of the next tile to each tile."""
    torch = import_torch()

    class Overlap(torch.autograd.Function):  # type: ignore[misc, name-defined, unused-ignore]
        """Tiles of four with the first rows (axis 0) or columns (axis 1) of the next tile added to them."""

        @staticmethod
        def forward(ctx: Any, x: Any, axis: int, taps: int) -> Any:
            ctx.axis, ctx.n = axis, x.shape[axis + 3]
            own = x.narrow(axis + 3, 0, ctx.n - 1)
            following = x.narrow(axis, 0, taps - 1).narrow(axis + 3, 1, ctx.n - 1)
            return torch.cat([own, following], axis)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            axis, n = ctx.axis, ctx.n
            shape = list(grad.shape)
            shape[axis], shape[axis + 3] = TILE, n
            out = grad.new_empty(shape)
            out.narrow(axis + 3, 0, n - 1).copy_(grad.narrow(axis, 0, TILE))
            out.narrow(axis + 3, n - 1, 1).zero_()
            more = grad.shape[axis] - TILE
            out.narrow(axis, 0, more).narrow(axis + 3, 1, n - 1).add_(grad.narrow(axis, TILE, more))
            return out, None, None

    apply: Callable[..., Any] = Overlap.apply
    return apply


def _pool_function() -> Callable[..., Any]:
    """Return the function (x, rows and columns of tiles) that averages over 2 x 2."""
    torch = import_torch()

    class Pool(torch.autograd.Function):  # type: ignore[misc, name-defined, unused-ignore]
        """The average over 2 x 2 as tiles of four again; missing tiles are 0, and tiles too many are left out."""

        @staticmethod
        def forward(ctx: Any, x: Any, tiles_hw: tuple[int, int]) -> Any:
            ctx.shape = x.shape
            x = x[0::2] + x[1::2]
            x = (x[:, 0::2] + x[:, 1::2]).mul_(0.25)
            _, _, n, high, wide, channels = x.shape
            more = 2 * tiles_hw[0] - high, 2 * tiles_hw[1] - wide
            x = torch.nn.functional.pad(x, (0, 0, 0, more[1], 0, more[0]))
            x = x.view(2, 2, n, tiles_hw[0], 2, tiles_hw[1], 2, channels).permute(4, 0, 6, 1, 2, 3, 5, 7)
            return x.reshape(TILE, TILE, n, *tiles_hw, channels)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            _, _, n, high, wide, channels = ctx.shape
            pooled = grad.view(2, 2, 2, 2, n, *grad.shape[3:5], channels).permute(1, 3, 4, 5, 0, 6, 2, 7)
            pooled = pooled.reshape(2, 2, n, 2 * grad.shape[3], 2 * grad.shape[4], channels)
            quarter = pooled[:, :, :, :high, :wide] * 0.25
            spread = quarter[:, None, :, None].expand(2, 2, 2, 2, n, high, wide, channels)
            return spread.reshape(ctx.shape), None

    apply: Callable[..., Any] = Pool.apply
    return apply


def _first(x: Any, weight: Any, bias: Any, tiles_hw: tuple[int, int]) -> Any:
    """Return the first convolution, ReLU and the pool behind it as tiles; there is no gradient for the image."""
    torch = import_torch()
    n, height, width, _ = x.shape
    high, wide = tiles_hw
    rows, columns = 2 * TILE * high + FIRST_TAPS - 1, 2 * TILE * wide + FIRST_TAPS - 1
    x = torch.nn.functional.pad(x, (0, 0, 0, columns - width, 0, rows - height)).contiguous()
    # The patch that each output sees, the four outputs of a pool one after the other: (4, outputs, 4 * 4 * 3).
    by_n, by_row, by_column, _ = x.stride()
    shape = (2, 2, TILE, TILE, n, high, wide, FIRST_TAPS, 3 * FIRST_TAPS)
    strides = (by_row, by_column, 2 * by_row, 2 * by_column, by_n, 8 * by_row, 8 * by_column, by_row, 1)
    patches = x.as_strided(shape, strides).reshape(4, -1, 3 * FIRST_TAPS**2)
    out = weight.shape[-1]
    kernels = weight.reshape(-1, out).expand(4, -1, -1)
    y = torch.baddbmm(bias.expand(4, 1, -1), patches, kernels).relu_()
    return y.mean(0).view(TILE, TILE, n, high, wide, out)
