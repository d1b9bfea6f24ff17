"""Each part of an exported graph computes what its twin in NumPy computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from blemish import runtime
from blemish._graphs.builder import Graph
from blemish.detectors.graph_parts import axis_matrices, mahalanobis_maps, neg_log_p, resampled, survival, z_scores
from blemish.imaging.geometry import Geometry, MapRule
from blemish.ops.distance_statistics import DistanceStatistics
from blemish.ops.position_gaussian import PositionGaussians
from blemish.ops.tail_probability import Prior, Tail
from blemish.types import Float32


def computed(build: Callable[[Graph, str], str], values: Float32, opset: int = 17) -> Float32:
    """Run the nodes that `build` adds behind a float32 input."""
    value = helper.make_tensor_value_info("values", TensorProto.FLOAT, [None] * values.ndim)
    proto = helper.make_graph([], "part", [value], [])
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    graph = Graph(model=model)
    made: onnx.ModelProto = graph.model({"result": build(graph, "values")}, shapes={"result": None})
    result: Float32 = runtime.load(made, threads=1).run(values)["result"]
    return result


def statistics(rng: np.random.Generator, shape: tuple[int, int], *, gain: bool, border: bool) -> DistanceStatistics:
    mean, deviation, reference, border_mean, border_deviation = rng.uniform(0.5, 2, (5, *shape)).astype(np.float32)
    reference = reference if gain else np.zeros_like(reference)
    rest = (border_mean, border_deviation) if border else (None, None)
    return DistanceStatistics(mean, deviation, reference, *rest)


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (7, 7)])
@pytest.mark.parametrize(("gain", "border"), [(True, True), (True, False), (False, True), (False, False)])
def test_z_scores(rng: np.random.Generator, shape: tuple[int, int], gain: bool, border: bool, opset: int):
    known = statistics(rng, shape, gain=gain, border=border)
    maps = rng.uniform(0.5, 4, (3, *shape)).astype(np.float32)
    maps[1] *= 0.5  # a gain below 1 is 1
    result = computed(lambda graph, x: z_scores(graph, "patch", x, known), maps, opset)
    np.testing.assert_allclose(result, [known.z_scores(one) for one in maps], rtol=1e-5, atol=1e-5)


TAILS = {
    "many": np.random.default_rng(1).gamma(3, 2, 101),
    "few": np.array([3.0, 1.0]),
    "one": np.array([2.0]),
    "equal": np.full(9, 1.5),
    "nearly equal": np.r_[1.0, np.nextafter(1.0, 2), 1.0 + 1e-9, 4.0, 5.0],
    "negative": np.array([-3.0, -1.0, 0.0, 2.0, 9.0]),
}


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("options", [{}, {"predictive": False}, {"prior": Prior(1.55, 40)}], ids=str)
def test_tail_probabilities(name: str, options: dict[str, Any]):
    scores = TAILS[name]
    tail = Tail.from_scores(scores, censored=0.1, **options)
    asked = np.unique(
        np.r_[scores, scores.mean(), scores.min() - 1, scores.max() * np.array([1.1, 2, 30]), np.linspace(-4, 12, 41)]
    )
    asked = asked.astype(np.float32).astype(np.float64)
    # At the lowest score the probability jumps, and float32 can't tell scores apart that are nearly equal.
    steps = np.r_[scores.min(), [1.0] if name == "nearly equal" else []]
    asked = asked[(np.abs(asked[:, None] - steps) > 1e-6).all(axis=1)]
    found = computed(lambda graph, x: neg_log_p(graph, "patch", x, tail), asked.astype(np.float32))
    np.testing.assert_allclose(found, [tail.neg_log_p(score) for score in asked], rtol=2e-6, atol=2e-6)
    found = computed(lambda graph, x: survival(graph, "image", x, tail), asked.astype(np.float32))
    expected = np.maximum([tail.survival(score) for score in asked], np.finfo(np.float32).tiny)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-37)


def test_mahalanobis_maps(rng: np.random.Generator):
    mean = rng.normal(size=(3, 4, 5)).astype(np.float32)
    whitening = rng.normal(size=(3, 4, 5, 5)).astype(np.float32)
    twin = PositionGaussians(mean, whitening, statistics(rng, (3, 4), gain=False, border=False))
    features = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    result = computed(lambda graph, x: mahalanobis_maps(graph, "part", x, mean, whitening), features)
    np.testing.assert_allclose(result, [twin.mahalanobis(one.transpose(1, 2, 0)) for one in features], rtol=1e-5)


@pytest.mark.parametrize("rule", [MapRule(), MapRule("bilinear", 0.0), MapRule("nearest", 2.0)])
def test_maps_are_two_products(rng: np.random.Generator, rule: MapRule):
    geometry = Geometry((64, 96), map_rule=rule)
    maps = rng.uniform(0, 9, (2, 8, 12)).astype(np.float32)
    matrices = axis_matrices(geometry.network_map, (8, 12))
    result = computed(lambda graph, x: resampled(graph, "map", x, *matrices), maps)
    np.testing.assert_allclose(result, [geometry.network_map(one) for one in maps], rtol=1e-5, atol=1e-6)
