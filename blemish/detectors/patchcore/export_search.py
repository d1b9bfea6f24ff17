"""The nearest bank rows of patches as ONNX nodes: by a float32 product, or by integers and exact distances of a few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from blemish.detectors.graph_parts import largest, norm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish._graphs.builder import Graph
    from blemish.types import Float32

# Rows beyond the number of neighbors that a rounded product keeps, of which the nearest are chosen exactly.
SPARE = 8
# Of the integer search: rows of a group, groups and then rows of which the distances are computed. Of 11,200 patches of
# good, defective and training images (bottle, 6,688 rows; hazelnut alike) the nearest row was among 4 groups and 4 rows
# of all of them, and among 2 groups of 99.9 %.
GROUP_ROWS = 16
N_GROUPS = 4
N_ROWS = 8
# Without VNNI x86 processors add two products of uint8 and int8 in 16 bits: 2 * 255 * 63 fits, 2 * 255 * 127 does not.
WEIGHT_LIMIT = 63


class Search:
    """Nearest bank rows by a float32 product of queries and rows, both less the bank's mean.

    Squared distances are off by some 1e-7 of the squared length of the features.

    Args:
        bank: (n, D) float32.
        queries: (B, P, D) tensor.
    """

    def __init__(self, graph: Graph, bank: Float32, queries: str) -> None:
        mean = bank.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = bank - mean
        squares = np.einsum("ij,ij->i", centred, centred, dtype=np.float64)
        self.graph = graph
        self.bank = centred
        self.queries = graph.add("Sub", [queries, graph.weight("bank.mean", mean)])
        # One more column, of ones in the queries, subtracts the squared length of the rows: no pass of its own.
        self.factors = np.concatenate([2 * centred.T, -squares[None].astype(np.float32)])

    def distances(self) -> str:
        """Return the (B, P) distances to the nearest rows."""
        graph = self.graph
        nearest = graph.reduce("ReduceMax", self._products(self.queries, 3), 2)
        squares = graph.reduce("ReduceSum", graph.add("Mul", [self.queries, self.queries]), 2)
        return graph.add("Sqrt", [graph.add("Relu", [graph.add("Sub", [squares, nearest])])])

    def weights(self, patch_map: str, n_neighbors: int) -> str:
        """Return the (B,) factors of the image scores: `Scorer.distances` (Roth et al. 2022, equation 7)."""
        graph = self.graph
        patches = graph.add("Reshape", [patch_map, graph.integers(0, -1)])
        worst = graph.add("ArgMax", [patches], axis=1, keepdims=1)
        query = graph.add("GatherND", [self.queries, worst], batch_dims=1)  # (B, D)
        row = self._rows(graph.add("ArgMax", [self._products(query, 2)], axis=1, keepdims=0))
        nearby = self._nearest(row, n_neighbors)  # (B, k, D)
        distances = norm(graph, graph.add("Sub", [nearby, graph.add("Unsqueeze", [query, graph.integers(1)])]), 2)
        own = norm(graph, graph.add("Sub", [row, query]), 1)
        farthest = graph.reduce("ReduceMax", distances, 1, keepdims=True)
        shifted = graph.add("Exp", [graph.add("Sub", [distances, farthest])])
        shifted_own = graph.add("Exp", [graph.add("Sub", [own, graph.add("Squeeze", [farthest, graph.integers(1)])])])
        share = graph.add("Div", [shifted_own, graph.reduce("ReduceSum", shifted, 1)])
        return graph.add("Sub", [graph.number(1.0), share])

    def _products(self, vectors: str, n_axes: int) -> str:
        """Return 2 x.m - |m|^2 of vectors x, (..., D) with so many axes, and each row m."""
        graph = self.graph
        pads = graph.integers(*[0] * (2 * n_axes - 1), 1)
        padded = graph.add("Pad", [vectors, pads, graph.number(1.0)])
        return graph.add("MatMul", [padded, graph.weight("bank.factors", self.factors)])

    def _rows(self, indices: str) -> str:
        return self.graph.add("Gather", [self.graph.weight("bank.rows", self.bank), indices], axis=0)

    def _nearest(self, row: str, k: int) -> str:
        """Return the (B, k, D) rows nearest to bank rows, (B, D), by differences to those of the largest products."""
        graph, n = self.graph, len(self.bank)
        _, candidates = largest(graph, self._products(row, 2), min(k + SPARE, n))
        vectors = self._rows(candidates)
        difference = graph.add("Sub", [vectors, graph.add("Unsqueeze", [row, graph.integers(1)])])
        negated = graph.add("Neg", [norm(graph, difference, 2)])
        _, places = largest(graph, negated, k)
        return self._rows(graph.add("GatherElements", [candidates, places], axis=1))


class IntegerSearch(Search):
    """Nearest bank rows among a few that a product of 8-bit integers chooses; their distances are exact.

    Rows lie in groups of similar length, which share a scale. The groups of the largest products are looked into, and
    of their rows those of the largest.
    """

    def distances(self) -> str:
        """Return the (B P,) distances to the nearest rows."""
        graph, dim = self.graph, self.bank.shape[1]
        queries = graph.add("Reshape", [self.queries, graph.integers(-1, dim)])
        indices = self._candidates(queries)
        difference = graph.add("Sub", [self._rows(indices), graph.add("Unsqueeze", [queries, graph.integers(1)])])
        return graph.reduce("ReduceMin", norm(graph, difference, 2), 1)

    def _candidates(self, queries: str) -> str:
        """Return the (Q, k) int64 rows of the largest integer products with (Q, D) queries."""
        graph, add = self.graph, self.graph.add
        weights, scales, rows = _quantised(self.bank)
        n_groups, size = rows.shape
        squares = np.einsum("gmd,gmd->gm", self.bank[rows], self.bank[rows])
        longest = graph.reduce("ReduceMax", add("Abs", [queries]), 1, keepdims=True)
        step = add("Div", [add("Max", [longest, graph.number(1e-20)]), graph.number(127.0)])
        levels = add("Add", [add("Round", [add("Div", [queries, step])]), graph.number(128.0)])
        integers = [
            add("Cast", [levels], to=TensorProto.UINT8),
            graph.weight("integer.weights", weights, np.int8),
            graph.weight("integer.zero", np.array(128), np.uint8),
        ]
        dots = add("Reshape", [add("MatMulInteger", integers), graph.integers(0, n_groups, size)])
        scale = graph.weight("integer.scales", scales)
        best = add("Cast", [graph.reduce("ReduceMax", dots, 2)], to=TensorProto.FLOAT)
        products = add("Mul", [add("Mul", [best, scale]), step])
        bounds = add("Sub", [products, graph.weight("integer.shortest", 0.5 * squares.min(axis=1))])
        _, groups = largest(graph, bounds, min(N_GROUPS, n_groups))
        last = graph.integers(-1)
        members = add("GatherND", [dots, add("Unsqueeze", [groups, last])], batch_dims=1)
        of_group = add(
            "Mul", [add("Unsqueeze", [add("Gather", [scale, groups], axis=0), last]), add("Unsqueeze", [step, last])]
        )
        products = add("Mul", [add("Cast", [members], to=TensorProto.FLOAT), of_group])
        half = add("Gather", [graph.weight("integer.squares", 0.5 * squares), groups], axis=0)
        flat = graph.integers(0, -1)
        scores = add("Reshape", [add("Sub", [products, half]), flat])
        _, places = largest(graph, scores, min(N_ROWS, min(N_GROUPS, n_groups) * size))
        near = add("Gather", [graph.weight("integer.rows", rows, np.int64), groups], axis=0)
        return add("GatherElements", [add("Reshape", [near, flat]), places], axis=1)


def _quantised(bank: Float32) -> tuple[NDArray[np.int8], Float32, NDArray[np.int64]]:
    """Return integer rows (D, groups x members), the scale of each group, and its rows (groups, members)."""
    n, dim = bank.shape
    order = np.argsort(np.einsum("ij,ij->i", bank, bank), kind="stable")
    n_groups = -(-n // GROUP_ROWS)
    rows = np.append(order, np.repeat(order[-1:], n_groups * GROUP_ROWS - n)).reshape(n_groups, GROUP_ROWS)
    grouped = bank[rows]
    scales: Float32 = np.maximum(np.abs(grouped).max(axis=(1, 2)), np.float32(1e-20)) / np.float32(WEIGHT_LIMIT)
    integers = np.rint(grouped / scales[:, None, None]).astype(np.int8)
    return np.ascontiguousarray(integers.reshape(-1, dim).T), scales, rows.astype(np.int64)
