"""Both searches of the exported graph find the distances that brute force finds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from blemish import runtime
from blemish._graphs.builder import Graph
from blemish.detectors.patchcore.export_search import IntegerSearch, Search
from blemish.types import Float32


def found(kind: type[Search], bank: Float32, queries: Float32) -> Float32:
    value = helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["B", "P", bank.shape[1]])
    proto = helper.make_graph([], "search", [value], [])
    graph = Graph(model=helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    model: onnx.ModelProto = graph.model(
        {"distances": kind(graph, bank, "queries").distances()}, shapes={"distances": None}
    )
    distances: Float32 = runtime.load(model, threads=1).run(queries)["distances"]
    return distances.reshape(queries.shape[:2])


def brute_force(bank: Float32, queries: Float32) -> Float32:
    difference = queries[:, :, None].astype(np.float64) - bank
    distances: Float32 = np.sqrt((difference**2).sum(axis=-1)).min(axis=-1).astype(np.float32)
    return distances


@pytest.mark.parametrize("kind", [Search, IntegerSearch])
@pytest.mark.parametrize("n_rows", [1, 5, 100, 333])
def test_distances_are_those_of_brute_force(kind: type[Search], n_rows: int, rng: np.random.Generator):
    bank = rng.normal(3, 2, (n_rows, 40)).astype(np.float32)
    queries = rng.normal(3, 3, (2, 30, 40)).astype(np.float32)
    queries[1, :4] += 50  # far from all rows
    np.testing.assert_allclose(found(kind, bank, queries), brute_force(bank, queries), rtol=2e-5)


def test_the_integer_search_is_exact_for_rows_of_the_bank(rng: np.random.Generator):
    bank = rng.normal(3, 2, (200, 24)).astype(np.float32)
    bank[50:60] = bank[0]
    assert found(IntegerSearch, bank, bank[None]).max() < 1e-6
    assert found(Search, bank, bank[None]).max() < 0.02  # rounding of the product


def test_features_may_have_unlike_sizes(rng: np.random.Generator):
    bank = rng.normal(size=(400, 64)).astype(np.float32) * np.geomspace(0.3, 30, 64, dtype=np.float32)
    queries = bank[None, ::4] + rng.normal(size=(1, 100, 64)).astype(np.float32)
    np.testing.assert_allclose(found(IntegerSearch, bank, queries), brute_force(bank, queries), rtol=1e-5)
