"""EfficientAD's scores as ONNX nodes, for export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from blemish.detectors.efficientad.graph import OUTPUTS
from blemish.detectors.efficientad.maps import AT_HIGH
from blemish.detectors.graph_parts import ScoreTensors, axis_matrices, mean_of_largest, resampled, z_scores
from blemish.imaging.anomaly_map import n_highest

if TYPE_CHECKING:
    from blemish._graphs.builder import Graph
    from blemish.detectors.efficientad.maps import Maps, Quantiles
    from blemish.detectors.efficientad.state import EfficientAdState


def add_scores(graph: Graph, state: EfficientAdState, image: str) -> ScoreTensors:
    """Add the image score and the map of the network's input, a uint8 (B, H, W, 3) tensor."""
    maps = state.maps
    found = graph.inline(onnx.load_from_string(state.network), image, OUTPUTS)
    weights = 1 - maps.share, maps.share
    both = [
        _normalised(graph, tensor, quantiles, weight)
        for tensor, quantiles, weight in zip(found, (maps.student, maps.autoencoder), weights, strict=True)
    ]
    joined = graph.add("Sum", both)
    cells_hw, score, cells = maps.cells_hw, "", joined
    if maps.top_share:
        score, cells = _score(graph, maps, joined, cells_hw)
    rows, columns, border = maps.placement(cells_hw)
    if border:
        cells = graph.add("Sub", [cells, graph.number(border)])
    network_map = resampled(graph, "map", cells, rows, columns)
    if border:
        network_map = graph.add("Add", [network_map, graph.number(border)])
    return ScoreTensors(score or graph.reduce("ReduceMax", network_map, 1, 2), network_map)


def _score(graph: Graph, maps: Maps, joined: str, cells_hw: tuple[int, int]) -> tuple[str, str]:
    """Return (B,) image scores of joined (B, h, w) maps, `Maps.cell_score`, and what the anomaly map is made of."""
    rows, columns = axis_matrices(maps.smooth, cells_hw)
    cells = resampled(graph, "cells", graph.add("Sub", [joined, graph.number(maps.zero)]), rows, columns)
    counted = cells if maps.statistics is None else z_scores(graph, "map", cells, maps.statistics)
    top = mean_of_largest(graph, counted, n_highest(maps.top_share, cells_hw[0] * cells_hw[1]))
    product = graph.add("Mul", [top, graph.reduce("ReduceMean", counted, 1, 2)])
    score = graph.add("Sqrt", [graph.add("Relu", [product])])
    return score, joined if maps.statistics is None else counted


def _normalised(graph: Graph, values: str, quantiles: Quantiles, weight: float) -> str:
    """Return weighted values with the lower quantile at 0 and the higher at 0.1, times the weight."""
    scale = np.float32(weight * AT_HIGH / (quantiles.high - quantiles.low))
    return graph.add("Mul", [graph.add("Sub", [values, graph.number(quantiles.low)]), graph.number(float(scale))])
