"""PaDiM's scores as ONNX nodes, for export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from blemish.detectors.graph_parts import ScoreTensors, axis_matrices, mahalanobis_maps, resampled

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph
    from blemish.detectors.padim.state import PadimState


def add_scores(graph: Graph, state: PadimState, image: str) -> ScoreTensors:
    """Add the image score and the map of the network's input, a uint8 (B, H, W, 3) tensor."""
    mean, whitening = state.gaussians.mean, state.gaussians.whitening
    (features,) = graph.inline(onnx.load_from_string(state.network), image, ["features"])
    distances = mahalanobis_maps(graph, "gaussian", features, mean, whitening)
    matrices = axis_matrices(state.geometry.network_map, (mean.shape[0], mean.shape[1]))
    network_map = resampled(graph, "map", distances, *matrices)
    return ScoreTensors(graph.reduce("ReduceMax", network_map, 1, 2), network_map)
