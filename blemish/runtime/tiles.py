"""Convolutions as ONNX nodes on Winograd's tiles: two to three times as fast as direct ones on a processor.

A map is kept as (B, 4, 4, rows of tiles, columns of tiles, channels), so that the transforms and the convolution itself
are products of matrices on contiguous memory. Behind a pool tiles have 2 x 2 pixels; the next convolution gathers its
own tiles in one step. Values beyond a map's true size are never read by a true output, and are cut off at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from blemish.runtime.winograd import TILE, transforms

if TYPE_CHECKING:
    import onnx


class Tiled(NamedTuple):
    """A map on tiles: (B, side, side, rows, columns, channels) float32.

    Attributes:
        side: pixels of a tile along an axis.
        tiles_hw: rows and columns of tiles.
        hw: true height and width of the map in pixels.
        start: first channel of the tensor that belongs to the map, a multiple of `channels`.
        width: channels of the tensor, 0 where all belong to the map.
    """

    name: str
    side: int
    tiles_hw: tuple[int, int]
    channels: int
    hw: tuple[int, int]
    start: int = 0
    width: int = 0

    @property
    def layout(self) -> tuple[int, tuple[int, int], int, tuple[int, int]]:
        """What two maps must have in common to be added value by value."""
        return self.side, self.tiles_hw, self.channels, self.hw


class Kernel(NamedTuple):
    """The parameters of a convolution.

    Attributes:
        weight: (out, in, k, k) float32.
        bias: (out,) float32.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def n_inputs(self) -> int:
        """Channels of the input."""
        return int(self.weight.shape[1])

    @property
    def taps(self) -> int:
        """Side of the kernel."""
        return int(self.weight.shape[2])

    def rows(self) -> NDArray[np.float32]:
        """Return (k, k, in, out): transposed as a matrix first, which NumPy does in a third of the time of all axes."""
        out, into, taps, _ = self.weight.shape
        columns = np.ascontiguousarray(self.weight.reshape(out, -1).T).reshape(into, taps * taps, out)
        return np.ascontiguousarray(columns.transpose(1, 0, 2)).reshape(taps, taps, into, out)


class Tiles:
    """Nodes of operators on tiles.

    Kernels are kept plain, three times smaller than on tiles: an engine transforms them when it folds constants.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self._points: dict[tuple[Tiled, int], str] = {}

    def add(self, operator: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> str:
        """Add one node and return the name of its output."""
        name = output or f"tiles:{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Keep a constant, once, and return its name."""
        key = values.tobytes(), values.dtype.str, values.shape
        if key not in self._names:
            self._names[key] = self.parameter(values)
        return self._names[key]

    def parameter(self, values: NDArray[Any]) -> str:
        """Keep an array and return its name."""
        name = f"tiles.constant:{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def from_planes(self, x: str, channels: int, hw: tuple[int, int]) -> Tiled:
        """Return (B, C, h, w) planes on tiles; zeros fill the last ones."""
        tiles_hw = tiles_of(hw)
        # Channels last first: ONNX Runtime transposes two axes fast, and copies whole rows of channels afterwards.
        x = self.add("Transpose", [x], perm=[0, 2, 3, 1])
        high, wide = (tiles * TILE - size for tiles, size in zip(tiles_hw, hw, strict=True))
        if high or wide:
            x = self.add("Pad", [x, self._ints(0, 0, 0, 0, 0, high, wide, 0)])
        split = self._reshape(x, -1, tiles_hw[0], TILE, tiles_hw[1], TILE, channels)
        return Tiled(self.add("Transpose", [split], perm=[0, 2, 4, 1, 3, 5]), TILE, tiles_hw, channels, hw)

    def to_planes(self, x: Tiled, output: str = "") -> str:
        """Return a map on tiles as (B, C, h, w) planes."""
        name = self._own_channels(x)
        rows = self.add("Transpose", [name], perm=[0, 3, 1, 4, 2, 5])
        rows = self._reshape(rows, -1, x.tiles_hw[0] * x.side, x.tiles_hw[1] * x.side, x.channels)
        rows = self._slice(rows, [0, 0], list(x.hw), [1, 2])
        return self.add("Transpose", [rows], perm=[0, 3, 1, 2], output=output)

    def stem(self, planes: str, kernels: Sequence[Kernel], hw: tuple[int, int]) -> list[Tiled]:
        """Return convolutions of an image, each with ReLU and the average over 2 x 2 behind it.

        The receptive field of each output becomes a row of a matrix: three channels are too few for a direct
        convolution to be fast. One place of the tiles after the other, so that the pool reads the processor's cache.

        Args:
            planes: (B, C, H, W) float32.
            kernels: of one shape.
        """
        out, channels, taps, _ = kernels[0].weight.shape
        pooled = (hw[0] - taps + 1) // 2, (hw[1] - taps + 1) // 2
        tiles_hw, seen, n = tiles_of(pooled), channels * taps * taps, out * len(kernels)
        x = self._receptive_fields(planes, channels, taps, hw, tiles_hw)
        rows = self.parameter(np.concatenate([kernel.rows() for kernel in kernels], axis=3).reshape(seen, n))
        bias = self.parameter(np.concatenate([kernel.bias for kernel in kernels]))
        # A mean over the first axis as a product of matrices takes ONNX Runtime a sixth of the time of its ReduceMean.
        quarters, places = self.constant(np.full((1, 4), 0.25, np.float32)), []
        for i in range(TILE * TILE):
            place = self._reshape(self._slice(x, [i], [i + 1], [0]), -1, seen)
            y = self.add("Relu", [self.add("Add", [self.add("MatMul", [place, rows]), bias])])
            y = self.add("MatMul", [quarters, self._reshape(y, 4, -1)])
            places.append(self._reshape(y, -1, 1, *tiles_hw, n))
        y = self._reshape(self.add("Concat", places, axis=1), -1, TILE, TILE, *tiles_hw, n)
        return [Tiled(y, TILE, tiles_hw, out, pooled, i * out, n) for i in range(len(kernels))]

    def conv(self, x: Tiled, kernel: Kernel) -> Tiled:
        """Return the convolution without padding; a kernel of 1 x 1 leaves tiles as they are."""
        rows, taps, out = kernel.rows(), kernel.taps, len(kernel.bias)
        if taps == 1:
            name = self.add("MatMul", [self._own_channels(x), self.parameter(rows[0, 0])])
            made = Tiled(name, x.side, x.tiles_hw, out, x.hw)
        else:
            hw = x.hw[0] - taps + 1, x.hw[1] - taps + 1
            made = Tiled(self._products(x, rows, tiles_of(hw)), TILE, tiles_of(hw), out, hw)
        return made._replace(name=self.add("Add", [made.name, self.parameter(kernel.bias)]))

    def pool(self, x: Tiled) -> Tiled:
        """Return the average over 2 x 2: tiles of half the side."""
        half = x.side // 2
        mean = self.constant(np.repeat(np.eye(half, dtype=np.float32), 2, axis=1) / 2)
        rest = x.tiles_hw[0] * x.tiles_hw[1] * x.channels
        y = self.add("MatMul", [mean, self._reshape(self._own_channels(x), -1, x.side, x.side * rest)])
        y = self.add("MatMul", [mean, self._reshape(y, -1, x.side, rest)])
        hw = x.hw[0] // 2, x.hw[1] // 2
        return Tiled(self._reshape(y, -1, half, half, *x.tiles_hw, x.channels), half, x.tiles_hw, x.channels, hw)

    def elementwise(self, operator: str, inputs: Sequence[Tiled | str]) -> Tiled:
        """Return an operator on each value.

        Args:
            inputs: maps of one size on tiles, and names of constants of one value per channel.
        """
        first = next(x for x in inputs if isinstance(x, Tiled))
        names = [self._own_channels(x) if isinstance(x, Tiled) else self._reshape(x, -1) for x in inputs]
        return first._replace(name=self.add(operator, names), start=0, width=0)

    def mean_of_channels(self, x: Tiled, output: str = "") -> str:
        """Return the mean over channels as planes (B, h, w)."""
        mean = self.add("ReduceMean", [self._own_channels(x)], axes=[5], keepdims=0)
        plane = self.add("Transpose", [mean], perm=[0, 3, 1, 4, 2])
        plane = self._reshape(plane, -1, x.tiles_hw[0] * x.side, x.tiles_hw[1] * x.side)
        return self._slice(plane, [0, 0], list(x.hw), [1, 2], output=output)

    def _receptive_fields(
        self, planes: str, channels: int, taps: int, hw: tuple[int, int], tiles_hw: tuple[int, int]
    ) -> str:
        """Return (places of a tile, 4 x B x tiles, taps x taps x C): the four of each pool lie beside each other."""
        sides = [2 * TILE * tiles for tiles in tiles_hw]
        high, wide = (max(0, side + taps - 1 - size) for side, size in zip(sides, hw, strict=True))
        x = self.add("Transpose", [planes], perm=[0, 2, 3, 1])
        x = self.add("Pad", [x, self._ints(0, 0, 0, 0, 0, high, wide, 0)])
        for axis in (2, 1):
            shifted = [self._slice(x, [k], [k + sides[axis - 1]], [axis]) for k in range(taps)]
            x = self.add("Concat", shifted, axis=3)
        seen = channels * taps * taps
        x = self._reshape(x, -1, tiles_hw[0], TILE, 2, tiles_hw[1], TILE, 2, seen)
        x = self.add("Transpose", [x], perm=[2, 5, 3, 6, 0, 1, 4, 7])
        return self._reshape(x, TILE * TILE, -1, seen)

    def _products(self, x: Tiled, rows: NDArray[np.float32], tiles_hw: tuple[int, int]) -> str:
        """Return a convolution without its bias: transformed tiles times transformed kernels, and back."""
        (taps, _, into, out), cells = rows.shape, tiles_hw[0] * tiles_hw[1]
        matrices = transforms(taps)
        n, output = len(matrices.tile), self.constant(matrices.output.astype(np.float32))
        kernel = self.constant(matrices.kernel.astype(np.float32))
        kernels = self.add("MatMul", [kernel, self.parameter(rows.reshape(taps, -1))])
        kernels = self.add("MatMul", [kernel, self._reshape(kernels, n, taps, into * out)])
        y = self.add("MatMul", [self._transformed(x, taps, tiles_hw), self._reshape(kernels, n * n, into, out)])
        y = self.add("MatMul", [output, self._reshape(y, -1, n, n * cells * out)])
        y = self.add("MatMul", [output, self._reshape(y, -1, n, cells * out)])
        return self._reshape(y, -1, TILE, TILE, *tiles_hw, out)

    def _transformed(self, x: Tiled, taps: int, tiles_hw: tuple[int, int]) -> str:
        """Return (B, n * n, tiles, channels), shared by all convolutions of one map that have as many taps."""
        if (x, taps) not in self._points:
            tile = self.constant(transforms(taps).tile.astype(np.float32))
            n, cells = TILE + taps - 1, tiles_hw[0] * tiles_hw[1]
            y = self._reshape(self._overlapping(x, n, tiles_hw), -1, n, n * cells * x.channels)
            y = self.add("MatMul", [tile, y])
            y = self.add("MatMul", [tile, self._reshape(y, -1, n, cells * x.channels)])
            self._points[x, taps] = self._reshape(y, -1, n * n, cells, x.channels)
        return self._points[x, taps]

    def _overlapping(self, x: Tiled, n: int, tiles_hw: tuple[int, int]) -> str:
        """Return tiles of n x n that begin every four pixels, (B, n, n, rows, columns, channels)."""
        width = x.width or x.channels
        n_parts, part = width // x.channels, x.start // x.channels
        by_row = x.side * x.tiles_hw[0] * x.tiles_hw[1] * n_parts
        by_column = x.tiles_hw[0] * x.tiles_hw[1] * n_parts
        rows, columns = (
            np.minimum(np.arange(n)[:, None] + TILE * np.arange(tiles), x.side * had - 1)
            for tiles, had in zip(tiles_hw, x.tiles_hw, strict=True)
        )
        rows = rows % x.side * by_row + rows // x.side * x.tiles_hw[1] * n_parts
        columns = columns % x.side * by_column + columns // x.side * n_parts + part
        places = [self.constant(rows[:, None, :, None]), self.constant(columns[None, :, None])]
        flat = self.add("Reshape", [x.name, self._ints(0, -1, x.channels)])
        return self.add("Gather", [flat, self.add("Add", places)], axis=1)

    def _own_channels(self, x: Tiled) -> str:
        if x.width in {0, x.channels}:
            return x.name
        return self._slice(x.name, [x.start], [x.start + x.channels], [5])

    def _reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", [x, self._ints(*shape)])

    def _slice(self, x: str, starts: list[int], ends: list[int], axes: list[int], output: str = "") -> str:
        return self.add("Slice", [x, self._ints(*starts), self._ints(*ends), self._ints(*axes)], output=output)

    def _ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def tiles_of(hw: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of tiles that cover a map.

    >>> tiles_of((56, 57))
    (14, 15)
    """
    return -(-hw[0] // TILE), -(-hw[1] // TILE)
