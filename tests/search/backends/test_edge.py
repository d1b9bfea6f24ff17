"""Qdrant's engine in a folder: what is damaged or in use; what it answers is in test_search."""

from __future__ import annotations

import importlib
import shutil
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from blemish import DefectStore, SaveError, StoreError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.encoder import DIMS, RegionEncoder
from blemish.search.records import REGION, Filter, Point, Query
from tests.images import scratched


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A closed store of thirty points."""
    backend = EdgeBackend(tmp_path / "s", DIMS)
    backend.insert(points(rng))
    backend.write_meta({"a": 1})
    backend.close()
    return tmp_path / "s"


def points(rng: np.random.Generator, n: int = 30) -> list[Point]:
    return [
        Point(str(uuid.UUID(int=i + 1)), {REGION: rng.standard_normal(DIMS[REGION], "f4")}, {"kind": REGION, "n": i})
        for i in range(n)
    ]


def test_points_may_be_more_than_one_call_takes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.search.backends.edge.BATCH", 7)
    backend = EdgeBackend(folder, {})
    assert backend.count(Filter()) == 30
    assert [one.payload["n"] for one in backend.scan(Filter())] == list(range(30))
    backend.set_payload([str(uuid.UUID(int=1))], {"label": "x"})
    assert [one.id for one in backend.scan(Filter(filled=("label",)))] == [str(uuid.UUID(int=1))]
    backend.delete(Filter(empty=("label",)))
    assert backend.count(Filter()) == 1
    backend.delete(Filter())
    assert backend.count(Filter()) == 0
    assert backend.get([]) == []
    backend.close()


def test_approximate_answers_are_those_of_brute_force(folder: Path, rng: np.random.Generator):
    backend = EdgeBackend(folder, {})
    backend.optimise()
    stored = {one.id: one.vector for one in backend.scan(Filter(), using=REGION)}
    query = rng.standard_normal(DIMS[REGION], "f4")
    found = backend.search(REGION, [Query(query, 5, Filter())])[0]
    similar = {i: float(v @ query / np.linalg.norm(query)) for i, v in stored.items() if v is not None}
    best = sorted(similar, key=lambda i: -similar[i])[:5]
    assert [one.id for one in found] == best
    assert [one.similarity for one in found] == [pytest.approx(similar[i], abs=1e-5) for i in best]
    backend.close()


def test_a_folder_in_use_is_refused_and_free_afterwards(folder: Path):
    backend = EdgeBackend(folder, {})
    with pytest.raises(StoreError, match=r"to be the only one in it, got it open in process \d+"):
        EdgeBackend(folder, {})
    backend.close()
    backend.close()
    with pytest.raises(StoreError, match="store: expected an open one, got a closed one"):
        backend.count(Filter())
    EdgeBackend(folder, {}).close()


def test_what_a_kill_left_of_a_new_store_is_made_again(tmp_path: Path):
    (tmp_path / "s" / "vectors" / "wal").mkdir(parents=True)
    backend = EdgeBackend(tmp_path / "s", DIMS)
    assert backend.count(Filter()) == 0
    backend.close()


def test_a_store_without_its_vectors_is_refused_and_not_made_empty(folder: Path):
    shutil.rmtree(folder / "vectors")
    with pytest.raises(StoreError, match="store: expected a folder vectors, got none"):
        EdgeBackend(folder, DIMS)


def test_a_damaged_store_is_said(folder: Path):
    (folder / "vectors" / "edge_config.json").write_text("{")
    with pytest.raises(StoreError, match=r"store: expected to open, got .*put it back from a copy"):
        EdgeBackend(folder, {})
    (folder / "vectors" / "edge_config.json").unlink()
    with pytest.raises(StoreError, match="store: expected a folder vectors"):
        EdgeBackend(folder, DIMS)


def test_a_vector_of_another_length_is_refused(folder: Path):
    backend = EdgeBackend(folder, {})
    with pytest.raises(StoreError, match=r"store: expected to write, got .*dim"):
        backend.insert([Point(str(uuid.uuid4()), {REGION: np.ones(3, np.float32)}, {})])
    assert backend.count(Filter()) == 30
    backend.close()


def test_a_place_that_cannot_be_a_folder_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SaveError, match="store: expected to be written"):
        EdgeBackend(tmp_path / "file" / "s", DIMS)


@pytest.mark.parametrize(
    ("package", "extra", "place"),
    [("qdrant_edge", "search", {"folder": ":memory:"}), ("qdrant_client", "server", {"url": "http://localhost:1"})],
)
def test_a_missing_package_says_how_to_get_it(
    describer: RegionEncoder, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, place: dict[str, str]
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreError, match=rf"store: expected the package .*pip install 'blemish\[{extra}\]'"):
        DefectStore(**place, model=describer)  # type: ignore[arg-type]
    importlib.invalidate_caches()


def test_threads_may_share_a_store(describer: RegionEncoder):
    from concurrent.futures import ThreadPoolExecutor

    images = [scratched(seed)[0] for seed in range(6)]
    with DefectStore(":memory:", model=describer) as store, ThreadPoolExecutor(4) as pool:
        list(pool.map(store.add, images * 3))
        assert store.count(kind="image") == 6
        answers = list(pool.map(store.similar, images * 3))
        assert all(len(one) == 5 for one in answers)
