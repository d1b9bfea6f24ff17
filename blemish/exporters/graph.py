"""The exported graph: from an image of any size to score, label, p-value, anomaly map and mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from blemish._graphs.builder import Graph
from blemish._graphs.exact_resize import exact_resize
from blemish._version import __version__
from blemish.detectors.base import PEAK_SHARE
from blemish.detectors.graph_parts import survival
from blemish.detectors.registry import DETECTORS
from blemish.errors import InputError, message
from blemish.runtime.passes import tile_convolutions
from blemish.search.model_id import model_id

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector, DetectorState
    from blemish.detectors.graph_parts import ScoreTensors
    from blemish.imaging.geometry import Geometry
    from blemish.ops.conformal import Calibration

FORMAT = "1"
INT8 = "int8 search, float32 distances"
OUTPUTS = {
    "score": (TensorProto.FLOAT, ["B"]),
    "label": (TensorProto.BOOL, ["B"]),
    "p_value": (TensorProto.FLOAT, ["B"]),
    "anomaly_map": (TensorProto.FLOAT, ["B", "H", "W"]),
    "mask": (TensorProto.BOOL, ["B", "H", "W"]),
}


def exported_graph(
    detector: AnyDetector, *, image_hw: tuple[int, int] | None = None, plain: bool = False, int8: bool = False
) -> onnx.ModelProto:
    """Return the graph from `image`, uint8 (B, H, W, 3) RGB, to `OUTPUTS`, as `predict` computes them.

    Args:
        image_hw: the one (height, width) of the images, for engines that need fixed sizes; None for any.
        plain: whether convolutions stay as they are; else they are on Winograd's tiles where they can be.
        int8: whether a product of 8-bit integers chooses the bank rows whose distances are computed.

    Raises:
        InputError: if the detector has no graph of its scores.
        NotFittedError: before `fit` or `load`.
    """
    state = detector.fitted
    network = onnx.load_from_string(state.network)
    graph = _empty_graph(network)
    graph.read_image(image_hw, batch=Graph(model=network).batch)
    add_scores = _part(detector, int8)
    tensors = add_scores(graph, state, _network_input(graph, state.geometry, image_hw))
    anomaly_map = _at_image_size(graph, state.geometry, tensors.network_map, image_hw)
    image, pixel = state.image_calibration, state.pixel_calibration
    label = graph.add("Greater", [tensors.score, graph.number(image.threshold)])
    mask = graph.add("Greater", [anomaly_map, graph.number(pixel.threshold)])
    if state.pixel_share:
        limit = graph.add(
            "Mul", [graph.reduce("ReduceMax", anomaly_map, 1, 2, keepdims=True), graph.number(PEAK_SHARE)]
        )
        is_near_peak = graph.add("Greater", [anomaly_map, limit])
        is_called = graph.add("Unsqueeze", [label, graph.integers(1, 2)])
        mask = graph.add("And", [graph.add("And", [mask, is_near_peak]), is_called])
    outputs = {
        "score": tensors.score,
        "label": label,
        "p_value": _p_value(graph, tensors.score, image),
        "anomaly_map": anomaly_map,
        "mask": mask,
    }
    shapes = {name: [_size(graph, image_hw, axis) for axis in axes] for name, (_, axes) in OUTPUTS.items()}
    model = graph.model(outputs, shapes=shapes)
    for value in model.graph.output:
        value.type.tensor_type.elem_type = OUTPUTS[value.name][0]
    model = model if plain else tile_convolutions(model) or model
    _describe(model, detector, state, int8)
    return model


def _part(detector: AnyDetector, int8: bool) -> Callable[..., ScoreTensors]:
    """Return the function that adds a detector's part of the graph."""
    entry = DETECTORS.get(detector.name)
    if entry is None:
        raise InputError(message("detector", f"one of {', '.join(DETECTORS)}", repr(detector.name)))
    add_scores: Callable[..., ScoreTensors] = import_module(f"{entry.package}.export_graph").add_scores
    if not int8:
        return add_scores
    if "int8" not in inspect.signature(add_scores).parameters:
        raise InputError(message("int8", "a detector with a memory bank, PatchCore", detector.name))
    return partial(add_scores, int8=True)


def _empty_graph(network: onnx.ModelProto) -> Graph:
    """Return a graph without nodes, of the network's opset."""
    empty = onnx.ModelProto()
    empty.CopyFrom(network)
    for field in ("node", "initializer", "output", "value_info"):
        empty.graph.ClearField(field)
    empty.graph.name = "blemish"
    return Graph(model=empty)


def _network_input(graph: Graph, geometry: Geometry, image_hw: tuple[int, int] | None) -> str:
    """Return the network's input: `Geometry.prepare`."""
    if geometry.resize_in_graph:
        return "image"
    resized = exact_resize(graph, "image", geometry.resize_hw, image_hw=image_hw)
    if geometry.crop_hw is None:
        return resized
    (top, left), (height, width) = geometry.corner, geometry.crop_hw
    start, end = graph.integers(top, left), graph.integers(top + height, left + width)
    return graph.add("Slice", [resized, start, end, graph.integers(1, 2)])


def _at_image_size(graph: Graph, geometry: Geometry, network_map: str, image_hw: tuple[int, int] | None) -> str:
    """Return the (B, H, W) map at the size of the image: `Geometry.to_image`."""
    maps = graph.add("Unsqueeze", [network_map, graph.integers(1)])
    if geometry.crop_hw is not None:
        before = (0, 0, *geometry.corner)
        pairs = zip(geometry.resize_hw, geometry.crop_hw, geometry.corner, strict=True)
        after = (0, 0, *(size - crop - low for size, crop, low in pairs))
        maps = graph.add("Pad", [maps, graph.integers(*before, *after), graph.number(0.0)])
    size = graph.shape("image", 1, 3) if image_hw is None else graph.integers(*image_hw)
    size = graph.add("Concat", [graph.shape(maps, 0, 2), size], axis=0)
    return graph.add("Squeeze", [graph.add("Resize", [maps, "", "", size], mode="linear"), graph.integers(1)])


def _p_value(graph: Graph, score: str, calibration: Calibration) -> str:
    """Return the (B,) share of good images expected to score at least as high: `Calibration.p_value`."""
    if calibration.rule == "tail":
        return survival(graph, "image_calibration", score, calibration.tail)
    scores = graph.weight("image_calibration.scores", calibration.scores.astype(np.float32))
    below = graph.add("Less", [scores, graph.add("Unsqueeze", [score, graph.integers(1)])])
    n_below = graph.reduce("ReduceSum", graph.add("Cast", [below], to=TensorProto.FLOAT), 1)
    n_at_or_above = graph.add("Sub", [graph.number(calibration.n + 1), n_below])
    return graph.add("Div", [n_at_or_above, graph.number(calibration.n + 1)])


def _size(graph: Graph, image_hw: tuple[int, int] | None, axis: str) -> int | str:
    """Return the size of an axis, or its name where it is free."""
    if axis == "B":
        return graph.batch or axis
    return axis if image_hw is None else image_hw["HW".index(axis)]


def _describe(model: onnx.ModelProto, detector: AnyDetector, state: DetectorState, int8: bool) -> None:
    """State in the model's metadata its maker, the detector and the thresholds."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version = "blemish", __version__
    geometry = state.geometry
    entries = {
        "blemish_format": FORMAT,
        "blemish_version": __version__,
        "detector": detector.name,
        "model_id": model_id(detector),
        "input": "image, uint8 (B, H, W, 3) RGB, of any size",
        "network_height_width": " ".join(map(str, geometry.network_hw)),
        "outputs": ", ".join(OUTPUTS),
        "threshold": repr(state.image_calibration.threshold),
        "pixel_threshold": repr(state.pixel_calibration.threshold),
        "precision": INT8 if int8 else "float32",
    }
    if state.image_calibration.rule == "tail":
        entries["upper_threshold"] = repr(state.image_calibration.upper_threshold)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
