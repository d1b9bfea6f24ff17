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
    mahalanobis_maps,
    mean_of_largest,
    neg_log_p,
    norm,
    resampled,
    z_scores,
)
from blemish.detectors.patchcore.export_search import IntegerSearch, Search
from blemish.errors import InputError, message
from blemish.imaging.anomaly_map import n_highest

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph
    from blemish.detectors.patchcore.state import PatchcoreState


def add_scores(graph: Graph, state: PatchcoreState, image: str, *, int8: bool = False) -> ScoreTensors:
    """Add the image score and the map of the network's input, a uint8 (B, H, W, 3) tensor.

    Args:
        int8: whether a product of 8-bit integers chooses the bank rows whose distances are computed.

    Raises:
        InputError: if the image's size is not known and the score has several scales.
    """
    network = onnx.load_from_string(state.network)
    geometry, scorer = state.geometry, state.scorer
    height, width, _ = state.extractor.features(np.zeros((*geometry.network_hw, 3), np.uint8)).shape
    (features,) = graph.inline(network, image, ["features"])
    vectors = graph.add("Transpose", [features], perm=[0, 2, 3, 1])
    queries = graph.add("Reshape", [vectors, graph.integers(0, height * width, -1)])
    search = (IntegerSearch if int8 else Search)(graph, scorer.index.memory_bank, queries)
    patch_map = graph.add("Reshape", [search.distances(), graph.integers(-1, height, width)])
    if scorer.statistics is not None:
        patch_map = z_scores(graph, "patch", patch_map, scorer.statistics)
    score = mean_of_largest(graph, patch_map, n_highest(scorer.top_share, height * width))
    if scorer.n_neighbors > 1:
        score = graph.add("Mul", [score, search.weights(patch_map, scorer.n_neighbors)])
    if state.fusion is not None:
        score = _fused(graph, state, image, score)
    matrices = axis_matrices(geometry.network_map, (height, width))
    return ScoreTensors(score, resampled(graph, "map", patch_map, *matrices))


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
