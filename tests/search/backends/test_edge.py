"""Qdrant's engine in a folder: damage, and the lock; queries are in test_store."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blemish import DefectStore, SaveError, StoreError
from blemish.search.backends.edge import EdgeBackend, acquire_lock
from blemish.search.backends.interface import REGION, Filter, Point, Query
from blemish.search.backends.seal import SEAL
from blemish.search.encoder import DIMS, RegionEncoder
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


@pytest.mark.slow
def test_a_copy_that_nobody_closes_is_removed_and_not_by_a_child(folder: Path):
    copy = EdgeBackend(folder, {}, read_only=True)
    place = copy.folder
    child = os.fork()
    if child == 0:
        try:
            del copy
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert place.is_dir()
    assert copy.count(Filter()) == 30
    del copy
    gc.collect()
    assert not place.exists()


@pytest.mark.slow
def test_points_are_read_and_written_in_batches(folder: Path):
    backend = EdgeBackend(folder, {}, batch_size=7)
    assert backend.count(Filter()) == 30
    assert [one.payload["n"] for one in backend.scan(Filter())] == list(range(30))
    backend.set_payload([str(uuid.UUID(int=1))], {"label": "x"})
    assert [one.id for one in backend.scan(Filter(filled=("label",)))] == [str(uuid.UUID(int=1))]
    backend.delete(Filter(empty=("label",)))
    assert backend.count(Filter()) == 1
    backend.delete(Filter())
    assert backend.count(Filter()) == 0
    assert backend.get([]) == []
    backend.insert(points(np.random.default_rng(1), 20))
    assert backend.count(Filter()) == 20
    backend.close()


def test_answers_equal_brute_force(folder: Path, rng: np.random.Generator):
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


@pytest.mark.slow
def test_a_folder_in_use_is_refused_and_free_afterwards(folder: Path):
    backend = EdgeBackend(folder, {})
    with pytest.raises(StoreError, match=r"to be the only one in it, got it open in process \d+"):
        EdgeBackend(folder, {})
    backend.close()
    backend.close()
    with pytest.raises(StoreError, match="store: expected an open one, got a closed one"):
        backend.count(Filter())
    EdgeBackend(folder, {}).close()


@pytest.mark.slow
def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path):
    (tmp_path / "s" / "vectors" / "wal").mkdir(parents=True)
    backend = EdgeBackend(tmp_path / "s", DIMS)
    assert backend.count(Filter()) == 0
    backend.close()


def test_a_store_without_its_vectors_is_refused_and_not_recreated_empty(folder: Path):
    shutil.rmtree(folder / "vectors")
    with pytest.raises(
        StoreError, match=r"store: expected its files as they were .* and \d+ others lost, new or chang"
    ):
        EdgeBackend(folder, DIMS)
    (folder / SEAL).unlink()
    with pytest.raises(StoreError, match="store: expected a folder vectors, got none"):
        EdgeBackend(folder, DIMS)


def test_a_damaged_store_is_refused(folder: Path):
    (folder / "vectors" / "edge_config.json").write_text("{")
    with pytest.raises(StoreError, match=r"got vectors/edge_config.json lost, new or changed.*store restore"):
        EdgeBackend(folder, {})
    (folder / SEAL).unlink()
    with pytest.raises(
        StoreError, match=r"store, vectors/edge_config.json: expected the engine's metadata, got .*Put back a snapshot"
    ):
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


class PanicException(BaseException):
    """As pyo3 raises a panic of the engine: no `Exception`."""


def test_a_panic_of_the_engine_is_an_error_and_an_interruption_stays_one(folder: Path):
    backend = EdgeBackend(folder, {})
    raised: list[BaseException] = [PanicException("index out of bounds"), KeyboardInterrupt()]

    def fail(*_: object, **__: object) -> None:
        raise raised.pop(0)

    shard = backend._shard
    backend._shard = SimpleNamespace(count=fail)
    with pytest.raises(StoreError, match="store: expected to read, got 'index out of bounds'"):
        backend.count(Filter())
    with pytest.raises(KeyboardInterrupt):
        backend.count(Filter())
    backend._shard = shard
    backend.close()


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SaveError, match="store: expected to be written"):
        EdgeBackend(tmp_path / "file" / "s", DIMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "extra", "place"),
    [
        ("qdrant_edge", "search", {"folder": ":memory:"}),
        ("filelock", "search", {"folder": ":memory:"}),
        ("qdrant_client", "server", {"url": "http://localhost:1"}),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    encoder: RegionEncoder, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, place: dict[str, str]
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreError, match=rf"store: expected the package .*pip install 'blemish\[{extra}\]'"):
        DefectStore(**place, model=encoder)  # type: ignore[arg-type]
    importlib.invalidate_caches()


@pytest.mark.slow
def test_threads_may_share_a_store(encoder: RegionEncoder):
    from concurrent.futures import ThreadPoolExecutor

    images = [scratched(seed)[0] for seed in range(6)]
    with DefectStore(":memory:", model=encoder) as store, ThreadPoolExecutor(4) as pool:
        list(pool.map(store.add, images * 3))
        assert store.count(kind="image") == 6
        answers = list(pool.map(store.similar, images * 3))
        assert all(len(one) == 5 for one in answers)


# The lock

HOLD = "import sys; from pathlib import Path; from blemish.search.backends.edge import acquire_lock; "
HOLD += "held = acquire_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def test_a_second_holder_is_refused_with_the_name_of_the_first(tmp_path: Path):
    first = acquire_lock(tmp_path)
    with pytest.raises(StoreError, match=r"store: expected to be the only one in it, got it open in process \d+ on "):
        acquire_lock(tmp_path)
    first.release()
    first.release()
    acquire_lock(tmp_path).release()


@pytest.mark.slow
def test_a_lock_is_released_when_its_process_is_killed(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {holder.pid} on .* need a server"):
        acquire_lock(tmp_path)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    acquire_lock(tmp_path).release()


def test_a_lock_is_released_from_another_thread(tmp_path: Path):
    lock = acquire_lock(tmp_path)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    acquire_lock(tmp_path).release()


FORK = """
import gc, os, sys
from pathlib import Path
from blemish.search.backends.edge import acquire_lock
lock = acquire_lock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    lock.release()
    del lock
    gc.collect()
    os._exit(0)
os.waitpid(child, 0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_release_its_parents_lock(tmp_path: Path):
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"process {parent.pid} on "):
        acquire_lock(tmp_path)
    parent.communicate("")
    acquire_lock(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(SaveError, match="store: expected to be written"):
        acquire_lock(tmp_path)
