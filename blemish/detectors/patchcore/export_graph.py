"""PatchCore's scores as ONNX nodes, for export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from blemish._graphs.exact_resize import exact_resize
from blemish.backbones.embedding import PARTS_SCALE, SUMMARY_SCALE
from blemish.detectors.graph_parts import (
    ScoreTensors,
    axis_matrices,
    largest,
    mahalanobis_maps,
    mean_of_largest,
    neg_log_p,
    norm,
    resampled,
    z_scores,
)
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph
    from blemish.detectors.patchcore.state import PatchcoreState
    from blemish.types import Float32

# Rows beyond the number of neighbors that a rounded product keeps, of which the nearest are chosen exactly.
SPARE = 8


def add_scores(graph: Graph, state: PatchcoreState, image: str) -> ScoreTensors:
    """Add the image score and the map of the network's input, a uint8 (B, H, W, 3) tensor.

    Raises:
        InputError: if the image's size is not known and the score has several scales.
    """
    network = onnx.load_from_string(state.network)
    geometry, scorer = state.geometry, state.scorer
    height, width, _ = state.extractor.features(np.zeros((*geometry.network_hw, 3), np.uint8)).shape
    (features,) = graph.inline(network, image, ["features"])
    vectors = graph.add("Transpose", [features], perm=[0, 2, 3, 1])
    queries = graph.add("Reshape", [vectors, graph.integers(0, height * width, -1)])
    search = _Search(graph, scorer.index.memory_bank, queries)
    patch_map = graph.add("Reshape", [search.distances(), graph.integers(-1, height, width)])
    if scorer.statistics is not None:
        patch_map = z_scores(graph, "patch", patch_map, scorer.statistics)
    score = mean_of_largest(graph, patch_map, scorer.n_top(height * width))
    if scorer.n_neighbors > 1:
        score = graph.add("Mul", [score, search.weights(patch_map, scorer.n_neighbors)])
    if state.fusion is not None:
        score = _fused(graph, state, image, score)
    matrices = axis_matrices(geometry.network_map, (height, width))
    return ScoreTensors(score, resampled(graph, "map", patch_map, *matrices))


class _Search:
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


def _fused(graph: Graph, state: PatchcoreState, image: str, patch_score: str) -> str:
    """Return the (B,) sum of -log p of patches, global descriptor and per-position Gaussian: `ScoreFusion`."""
    fusion, network = state.fusion, onnx.load_from_string(state.network)
    assert fusion is not None
    if state.geometry.resize_in_graph:
        todo = "Fit with score_fusion=False."
        raise InputError(message("score_fusion", "off where the network resizes its images", "on", todo=todo))

    def output(name: str, scale: float) -> str:
        network_hw = state.geometry.network_hw
        scaled_hw = state.extractor.scaled_hw(network_hw, scale)
        scaled = exact_resize(graph, image, scaled_hw, image_hw=network_hw)
        return graph.inline(network, scaled, [name])[0]

    centred = graph.add("Sub", [output("summary", SUMMARY_SCALE), graph.weight("summary.mean", fusion.gaussian.mean)])
    whitening = graph.weight("summary.whitening", np.ascontiguousarray(fusion.gaussian.whitening.T))
    scores = {"patch": patch_score, "image": norm(graph, graph.add("MatMul", [centred, whitening]), 1)}
    if fusion.parts is not None:
        mean, parts_whitening = fusion.parts.mean, fusion.parts.whitening
        distances = mahalanobis_maps(graph, "part", output("parts", PARTS_SCALE), mean, parts_whitening)
        part_map = z_scores(graph, "part", distances, fusion.parts.statistics)
        scores["part"] = graph.reduce("ReduceMax", part_map, 1, 2)
    terms = [
        graph.add("Mul", [neg_log_p(graph, name, scores[name], tail), graph.number(weight)])
        for (name, weight), tail in zip(fusion.weights.items(), fusion.tails, strict=True)
    ]
    return graph.add("Sum", terms)
