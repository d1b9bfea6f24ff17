"""Convolutions of ONNX graphs by Winograd's tiles: two to three times as fast as direct ones on a processor.

A map is kept as (4, 4, B, rows of tiles, columns of tiles, channels), so that the transforms and the convolution itself
are all products of matrices on memory that lies in order. What lies beyond the map's true size is never read by a
true output, and is cut off at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blemish.winograd import TILE, transforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.graphs import Graph


class Tiles:
    """Adds convolutions on tiles to a graph.

    Args:
        graph: the graph under construction.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._n = 0

    def from_planes(self, x: str, channels: int, hw: tuple[int, int], tiles_hw: tuple[int, int]) -> str:
        """Return (B, C, h, w) as so many rows and columns of tiles; what is missing is 0."""
        add = self.graph.add
        high, wide = (tiles * TILE - size for tiles, size in zip(tiles_hw, hw, strict=True))
        if high or wide:
            x = add("Pad", [x, self._ints([0, 0, 0, 0, 0, 0, high, wide])])
        split = add("Reshape", [x, self._ints([-1, channels, tiles_hw[0], TILE, tiles_hw[1], TILE])])
        return add("Transpose", [split], perm=[3, 5, 0, 2, 4, 1])

    def first(
        self, image: str, weight: NDArray[Any], bias: NDArray[Any], hw: tuple[int, int], tiles_hw: tuple[int, int]
    ) -> str:
        """Return the convolution of pictures, ReLU, and the average over 2 x 2, as tiles.

        What each output sees is laid out as a row, in the order of the result: three channels are too few for a direct
        convolution to be fast, and no map has to be turned.

        Args:
            image: (B, H, W, 3) float32.
            weight: (out, 3, k, k).
            bias: (out,).
            hw: height and width of the picture.
            tiles_hw: rows and columns of tiles.
        """
        add, (out, channels, taps, _) = self.graph.add, weight.shape
        sides = [2 * TILE * tiles for tiles in tiles_hw]
        high, wide = (max(0, side + taps - 1 - size) for side, size in zip(sides, hw, strict=True))
        x = add("Pad", [image, self._ints([0, 0, 0, 0, 0, high, wide, 0])])
        for axis in (2, 1):
            shifted = [self._slice(x, [k], [k + sides[axis - 1]], [axis]) for k in range(taps)]
            x = add("Concat", shifted, axis=3)
        seen = channels * taps * taps
        x = add("Reshape", [x, self._ints([-1, tiles_hw[0], TILE, 2, tiles_hw[1], TILE, 2, seen])])
        x = add("Transpose", [x], perm=[3, 6, 2, 5, 0, 1, 4, 7])
        x = add("Reshape", [x, self._ints([-1, seen])])
        # The graph holds the kernels as a convolution would; ONNX Runtime turns them when it loads the graph.
        rows = add("Transpose", [self.graph.weight("first.weight", weight)], perm=[2, 3, 1, 0])
        y = add("MatMul", [x, add("Reshape", [rows, self._ints([seen, out])])])
        y = add("Relu", [add("Add", [y, self.graph.weight("first.bias", bias)])])
        y = add("ReduceMean", [add("Reshape", [y, self._ints([4, -1])])], axes=[0], keepdims=0)
        return add("Reshape", [y, self._ints([TILE, TILE, -1, *tiles_hw, out])])

    def channels(self, x: str, start: int, end: int) -> str:
        """Return some channels of tiles."""
        return self._slice(x, [start], [end], [5])

    def conv(
        self, x: str, weight: NDArray[Any], bias: NDArray[Any], tiles_hw: tuple[int, int], *, relu: bool = True
    ) -> str:
        """Return the convolution without padding, and ReLU, as `tiles_hw` tiles.

        Args:
            x: tiles; one more row and column of them than the result has, unless the kernel is 1 x 1.
            weight: (out, in, k, k).
            bias: (out,).
            tiles_hw: of the result.
            relu: whether negative values become 0.
        """
        add = self.graph.add
        out, into, taps, _ = weight.shape
        matrices = transforms(taps)
        n = matrices.tile.shape[0]
        high, wide = tiles_hw
        if taps > 1:
            x = self._along_rows(x, matrices.tile, taps, (high, wide + 1), into)
            x = self._along_columns(x, matrices.tile, taps, tiles_hw)
        points = add("Reshape", [x, self._ints([n * n, -1, into])])
        y = add("MatMul", [points, self._kernels(weight, matrices.kernel)])
        if taps > 1:
            output = self._array(matrices.output)
            y = add("MatMul", [output, add("Reshape", [y, self._ints([n, -1])])])
            y = add("MatMul", [output, add("Reshape", [y, self._ints([TILE, n, -1])])])
        y = add("Reshape", [y, self._ints([TILE, TILE, -1, high, wide, out])])
        y = add("Add", [y, self._array(bias)])
        return add("Relu", [y]) if relu else y

    def pool(self, x: str, channels: int, tiles_hw: tuple[int, int], pooled_hw: tuple[int, int]) -> str:
        """Return the average over 2 x 2 of `tiles_hw` tiles as `pooled_hw` tiles, the missing ones 0."""
        add = self.graph.add
        for axis in (0, 1):
            even, odd = (self._slice(x, [start], [TILE], [axis], [2]) for start in (0, 1))
            x = add("Add", [even, odd])
        x = add("Mul", [x, self._array(np.array(0.25))])
        # Two places of each of two tiles become the four places of one.
        high, wide = (2 * pooled - tiles for pooled, tiles in zip(pooled_hw, tiles_hw, strict=True))
        if high or wide:
            x = add("Pad", [x, self._ints([0] * 9 + [high, wide, 0])])
        x = add("Reshape", [x, self._ints([2, 2, -1, pooled_hw[0], 2, pooled_hw[1], 2, channels])])
        x = add("Transpose", [x], perm=[4, 0, 6, 1, 2, 3, 5, 7])
        return add("Reshape", [x, self._ints([TILE, TILE, -1, *pooled_hw, channels])])

    def mean_of_squares(self, x: str, tiles_hw: tuple[int, int], hw: tuple[int, int]) -> str:
        """Return the mean over channels of the squares of tiles, as planes (B, h, w)."""
        add = self.graph.add
        mean = add("ReduceMean", [add("Mul", [x, x])], axes=[5], keepdims=0)
        plane = add("Transpose", [mean], perm=[2, 3, 0, 4, 1])
        plane = add("Reshape", [plane, self._ints([-1, tiles_hw[0] * TILE, tiles_hw[1] * TILE])])
        return self._slice(plane, [0, 0], list(hw), [1, 2])

    def _along_rows(self, x: str, tile: NDArray[Any], taps: int, tiles_hw: tuple[int, int], channels: int) -> str:
        """Return the transform of overlapping tiles along rows: each reads the first rows of the tile below it."""
        add, n = self.graph.add, tile.shape[0]
        own = self._slice(x, [0], [-1], [3])
        below = self._slice(x, [0, 1], [taps - 1, tiles_hw[0] + 1], [0, 3])
        joined = add("Concat", [own, below], axis=0)
        flat = add("Reshape", [joined, self._ints([n, -1])])
        mixed = add("MatMul", [self._array(tile), flat])
        return add("Reshape", [mixed, self._ints([n, TILE, -1, *tiles_hw, channels])])

    def _along_columns(self, x: str, tile: NDArray[Any], taps: int, tiles_hw: tuple[int, int]) -> str:
        add, n = self.graph.add, tile.shape[0]
        own = self._slice(x, [0], [-1], [4])
        beside = self._slice(x, [0, 1], [taps - 1, tiles_hw[1] + 1], [1, 4])
        joined = add("Concat", [own, beside], axis=1)
        flat = add("Reshape", [joined, self._ints([n, n, -1])])
        return add("MatMul", [self._array(tile), flat])

    def _kernels(self, weight: NDArray[Any], matrix: NDArray[Any]) -> str:
        """Return the transformed kernels, (n * n, in, out).

        The graph holds plain ones, three times smaller; ONNX Runtime transforms them when it loads the graph.
        """
        add, (n, taps) = self.graph.add, matrix.shape
        out, into = weight.shape[:2]
        x = self._array(weight.transpose(2, 3, 1, 0))
        if taps > 1:
            kernel = self._array(matrix)
            x = add("MatMul", [kernel, add("Reshape", [x, self._ints([taps, -1])])])
            x = add("MatMul", [kernel, add("Reshape", [x, self._ints([n, taps, -1])])])
        else:
            x = add("Expand", [x, self._ints([n, n, into, out])])
        return add("Reshape", [x, self._ints([n * n, into, out])])

    def _slice(
        self, x: str, starts: list[int], ends: list[int], axes: list[int], steps: list[int] | None = None
    ) -> str:
        inputs = [x, self._ints(starts), self._ints(ends), self._ints(axes)]
        return self.graph.add("Slice", [*inputs, self._ints(steps)] if steps else inputs)

    def _ints(self, values: list[int]) -> str:
        return self.graph.weight("ints:" + ",".join(map(str, values)), np.array(values), np.int64)

    def _array(self, values: NDArray[Any]) -> str:
        self._n += 1
        return self.graph.weight(f"tiles{self._n}", values)
