"""Convolutions of ONNX graphs by Winograd's tiles: two to three times as fast as direct ones on a processor.

A map is kept as (B, 4, 4, rows of tiles, columns of tiles, channels), so that the transforms and the convolution itself
are all products of matrices on memory that lies in order. Behind a pool tiles have 2 x 2 pixels; the next convolution
gathers its own tiles from whatever lies before it, in one step. What lies beyond a map's true size is never read by a
true output, and is cut off at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.runtime.winograd import TILE, transforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish._graphs.builder import Graph


class Tiled(NamedTuple):
    """A map on tiles: (B, side, side, rows, columns, channels) float32.

    Attributes:
        name: of the tensor.
        side: pixels of a tile along an axis.
        hw: rows and columns of tiles.
        channels: how many.
    """

    name: str
    side: int
    hw: tuple[int, int]
    channels: int


class Tiles:
    """Adds convolutions on tiles to a graph.

    Args:
        graph: the graph under construction.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._n = 0

    def from_planes(self, x: str, channels: int, hw: tuple[int, int], tiles_hw: tuple[int, int]) -> Tiled:
        """Return (B, C, h, w) as so many rows and columns of tiles; what is missing is 0."""
        add = self.graph.add
        # Channels last first: ONNX Runtime turns two axes fast, and copies whole rows of channels afterwards.
        x = add("Transpose", [x], perm=[0, 2, 3, 1])
        high, wide = (tiles * TILE - size for tiles, size in zip(tiles_hw, hw, strict=True))
        if high or wide:
            x = add("Pad", [x, self._ints([0, 0, 0, 0, 0, high, wide, 0])])
        split = add("Reshape", [x, self._ints([-1, tiles_hw[0], TILE, tiles_hw[1], TILE, channels])])
        return Tiled(add("Transpose", [split], perm=[0, 2, 4, 1, 3, 5]), TILE, tiles_hw, channels)

    def first(
        self, image: str, weight: NDArray[Any], bias: NDArray[Any], hw: tuple[int, int], tiles_hw: tuple[int, int]
    ) -> Tiled:
        """Return the convolution of images, ReLU, and the average over 2 x 2.

        What each output sees is laid out as a row: three channels are too few for a direct convolution to be fast. One
        place of the tiles after the other, so that what is averaged is still in the processor's cache.

        Args:
            image: (B, H, W, 3) float32.
            weight: (out, 3, k, k).
            bias: (out,).
            hw: height and width of the image.
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
        x = add("Transpose", [x], perm=[2, 5, 3, 6, 0, 1, 4, 7])
        x = add("Reshape", [x, self._ints([TILE * TILE, -1, seen])])
        # The graph holds the kernels as a convolution would; ONNX Runtime turns them when it loads the graph.
        rows = add("Transpose", [self.graph.weight("first.weight", weight)], perm=[2, 3, 1, 0])
        kernels, biases = add("Reshape", [rows, self._ints([seen, out])]), self.graph.weight("first.bias", bias)
        # A mean over the first axis as a product of matrices takes ONNX Runtime a sixth of the time of its ReduceMean.
        quarters, places = self._array(np.full((1, 4), 0.25)), []
        for i in range(TILE * TILE):
            place = add("Reshape", [self._slice(x, [i], [i + 1], [0]), self._ints([-1, seen])])
            y = add("Relu", [add("Add", [add("MatMul", [place, kernels]), biases])])
            y = add("MatMul", [quarters, add("Reshape", [y, self._ints([4, -1])])])
            places.append(add("Reshape", [y, self._ints([-1, 1, *tiles_hw, out])]))
        y = add("Reshape", [add("Concat", places, axis=1), self._ints([-1, TILE, TILE, *tiles_hw, out])])
        return Tiled(y, TILE, tiles_hw, out)

    def conv(
        self,
        x: Tiled,
        weight: NDArray[Any],
        bias: NDArray[Any],
        tiles_hw: tuple[int, int],
        *,
        relu: bool = True,
        start: int = 0,
    ) -> Tiled:
        """Return the convolution without padding, and ReLU.

        Args:
            x: what is convolved.
            weight: (out, in, k, k).
            bias: (out,).
            tiles_hw: of the result, of 4 x 4; a kernel of 1 x 1 leaves tiles as they are.
            relu: whether negative values become 0.
            start: the first of the channels that are read, a multiple of their number.
        """
        add = self.graph.add
        out, _, taps, _ = weight.shape
        if taps == 1:
            kernels = add("Reshape", [self._array(weight.transpose(2, 3, 1, 0)), self._ints([x.channels, out])])
            made = x._replace(name=add("MatMul", [x.name, kernels]), channels=out)
        else:
            made = Tiled(self._products(x, weight, tiles_hw, start), TILE, tiles_hw, out)
        y = add("Add", [made.name, self._array(bias)])
        return made._replace(name=add("Relu", [y]) if relu else y)

    def pool(self, x: Tiled) -> Tiled:
        """Return the average over 2 x 2: tiles of half the side."""
        add, half = self.graph.add, x.side // 2
        mean = self._array(np.repeat(np.eye(half), 2, axis=1) / 2)
        rest = x.hw[0] * x.hw[1] * x.channels
        y = add("MatMul", [mean, add("Reshape", [x.name, self._ints([-1, x.side, x.side * rest])])])
        y = add("MatMul", [mean, add("Reshape", [y, self._ints([-1, x.side, rest])])])
        return Tiled(add("Reshape", [y, self._ints([-1, half, half, *x.hw, x.channels])]), half, x.hw, x.channels)

    def join(self, *parts: Tiled) -> Tiled:
        """Return the channels of several maps on the same tiles as one map."""
        name = self.graph.add("Concat", [part.name for part in parts], axis=5)
        return parts[0]._replace(name=name, channels=sum(part.channels for part in parts))

    def mean_of_squares(self, x: Tiled, hw: tuple[int, int]) -> str:
        """Return the mean over channels of the squares, as planes (B, h, w)."""
        add = self.graph.add
        mean = add("ReduceMean", [add("Mul", [x.name, x.name])], axes=[5], keepdims=0)
        plane = add("Transpose", [mean], perm=[0, 3, 1, 4, 2])
        plane = add("Reshape", [plane, self._ints([-1, x.hw[0] * x.side, x.hw[1] * x.side])])
        return self._slice(plane, [0, 0], list(hw), [1, 2])

    def _products(self, x: Tiled, weight: NDArray[Any], tiles_hw: tuple[int, int], start: int) -> str:
        """Return the convolution before its bias: overlapping tiles, their transform, the products, and back."""
        add, (out, into, taps, _) = self.graph.add, weight.shape
        matrices = transforms(taps)
        n, cells = matrices.tile.shape[0], tiles_hw[0] * tiles_hw[1]
        tile, output = self._array(matrices.tile), self._array(matrices.output)
        y = self._overlapping(x, n, tiles_hw, into, start)
        y = add("MatMul", [tile, add("Reshape", [y, self._ints([-1, n, n * cells * into])])])
        y = add("MatMul", [tile, add("Reshape", [y, self._ints([-1, n, cells * into])])])
        points = add("Reshape", [y, self._ints([-1, n * n, cells, into])])
        y = add("MatMul", [points, self._kernels(weight, matrices.kernel)])
        y = add("MatMul", [output, add("Reshape", [y, self._ints([-1, n, n * cells * out])])])
        y = add("MatMul", [output, add("Reshape", [y, self._ints([-1, n, cells * out])])])
        return add("Reshape", [y, self._ints([-1, TILE, TILE, *tiles_hw, out])])

    def _overlapping(self, x: Tiled, n: int, tiles_hw: tuple[int, int], channels: int, start: int) -> str:
        """Return tiles of n x n that begin every four pixels, (B, n, n, rows, columns, channels)."""
        n_parts, part = x.channels // channels, start // channels
        by_row, by_column = x.side * x.hw[0] * x.hw[1] * n_parts, x.hw[0] * x.hw[1] * n_parts
        rows, columns = (
            np.minimum(np.arange(n)[:, None] + TILE * np.arange(tiles), x.side * had - 1)
            for tiles, had in zip(tiles_hw, x.hw, strict=True)
        )
        rows = rows % x.side * by_row + rows // x.side * x.hw[1] * n_parts
        columns = columns % x.side * by_column + columns // x.side * n_parts + part
        # ONNX Runtime adds the two when it loads the graph.
        places = self.graph.add("Add", [self._indices(rows[:, None, :, None]), self._indices(columns[None, :, None])])
        flat = self.graph.add("Reshape", [x.name, self._ints([0, -1, channels])])
        return self.graph.add("Gather", [flat, places], axis=1)

    def _indices(self, values: NDArray[np.int64]) -> str:
        self._n += 1
        # Not called tiles: by that name the export to anomalib finds kernels and biases.
        return self.graph.weight(f"places{self._n}", values, np.int64)

    def _kernels(self, weight: NDArray[Any], matrix: NDArray[Any]) -> str:
        """Return the transformed kernels, (n * n, in, out).

        The graph holds plain ones, three times smaller; ONNX Runtime transforms them when it loads the graph.
        """
        add, (n, taps) = self.graph.add, matrix.shape
        out, into = weight.shape[:2]
        kernel, x = self._array(matrix), self._array(weight.transpose(2, 3, 1, 0))
        x = add("MatMul", [kernel, add("Reshape", [x, self._ints([taps, -1])])])
        x = add("MatMul", [kernel, add("Reshape", [x, self._ints([n, taps, -1])])])
        return add("Reshape", [x, self._ints([n * n, into, out])])

    def _slice(self, x: str, starts: list[int], ends: list[int], axes: list[int]) -> str:
        return self.graph.add("Slice", [x, self._ints(starts), self._ints(ends), self._ints(axes)])

    def _ints(self, values: list[int]) -> str:
        return self.graph.weight("ints:" + ",".join(map(str, values)), np.array(values), np.int64)

    def _array(self, values: NDArray[Any]) -> str:
        self._n += 1
        return self.graph.weight(f"tiles{self._n}", values)
