"""Defects in Qdrant's own engine, in this process: a folder of segments, memory-mapped, with a write-ahead log.

The engine (PyPI `qdrant-edge-py`) and not `qdrant_client`'s local mode: that compares with every point in NumPy, keeps
points as pickles and loses some under threads.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._io.files import atomic_write, save_error
from blemish.errors import StoreError, message
from blemish.search.lock import FolderLock
from blemish.search.records import CANDIDATES, FULL_SCAN_KB, INDEXED, MAKE, Filter, Found, Point, Query

if TYPE_CHECKING:
    from blemish.types import Float32

META, SHARD = "store.json", "vectors"
# Points in one call: enough to make the call worth it, few enough that a scan does not hold the store in memory.
BATCH = 512


class EdgeBackend:
    """A store in a folder, or in a temporary one that goes when it is closed.

    Args:
        folder: where it is; made if absent. None for a trial that leaves nothing behind.
        dims: name of each vector to its length; needed to make a store, unused if there is one.

    Raises:
        StoreError: if the engine is not installed, the folder is in use, or what is in it can't be read.
        SaveError: if the folder can't be made.
    """

    def __init__(self, folder: Path | None, dims: Mapping[str, int]) -> None:
        self._engine = _engine()
        if folder is not None and not dims and not (folder / SHARD).exists():
            raise StoreError(message("store", "one that was made", "nothing there", where=folder, todo=MAKE))
        self._trial = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="blemish-trial-")) if folder is None else folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise save_error("store", self.folder, error) from error
        self._lock = FolderLock(self.folder)
        try:
            with self._told("open"):
                self._shard = self._opened(dims)
        except BaseException:
            self._lock.release()
            raise

    def insert(self, points: Sequence[Point]) -> None:
        """Write points and wait until the disk has them."""
        engine = self._engine
        made = [
            engine.Point(one.id, {name: vector.tolist() for name, vector in one.vectors.items()}, dict(one.payload))
            for one in points
        ]
        with self._told("write"):
            for first in range(0, len(made), BATCH):
                self._shard.update(engine.UpdateOperation.upsert_points(made[first : first + BATCH]))
            self._shard.flush()

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[Found]]:
        """Return each query's nearest points by cosine, nearest first."""
        engine = self._engine
        requests = [
            engine.QueryRequest(
                limit=one.k,
                query=engine.Query.Nearest(one.vector.tolist(), using=using),
                filter=self._filter(one.where),
                with_payload=True,
                params=engine.SearchParams(exact=exact, hnsw_ef=CANDIDATES),
            )
            for one in queries
        ]
        with self._told("search"):
            answers = [self._shard.query(request) for request in requests]
        return [[Found(str(one.id), one.payload or {}, float(one.score)) for one in answer] for answer in answers]

    def get(self, ids: Sequence[str]) -> list[Found]:
        """Return those of the points that are there, with payload."""
        with self._told("read"):
            records = self._shard.retrieve(list(ids), with_payload=True, with_vector=False) if ids else []
        return [Found(str(one.id), one.payload or {}) for one in records]

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[Found]:
        """Yield every point that counts in order of its id."""
        offset = None
        wanted = [using] if using else False
        while True:
            request = self._engine.ScrollRequest(
                offset=offset, limit=BATCH, filter=self._filter(where), with_payload=True, with_vector=wanted
            )
            with self._told("read"):
                records, offset = self._shard.scroll(request)
            for one in records:
                vector = _vector(one.vector, using)
                yield Found(str(one.id), one.payload or {}, vector=vector)
            if offset is None:
                return

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these fields of the points; None removes one."""
        kept = {name: value for name, value in payload.items() if value is not None}
        gone = [name for name, value in payload.items() if value is None]
        operations = self._engine.UpdateOperation
        with self._told("write"):
            if kept:
                self._shard.update(operations.set_payload(list(ids), kept))
            if gone:
                self._shard.update(operations.delete_payload(list(ids), gone))
            self._shard.flush()

    def delete(self, where: Filter) -> None:
        """Remove every point that counts."""
        with self._told("write"):
            chosen = self._filter(where) or self._engine.Filter()
            self._shard.update(self._engine.UpdateOperation.delete_points_by_filter(chosen))
            self._shard.flush()

    def count(self, where: Filter) -> int:
        """Return how many points count, exactly."""
        with self._told("read"):
            return int(self._shard.count(self._engine.CountRequest(exact=True, filter=self._filter(where))))

    def read_meta(self) -> dict[str, Any] | None:
        """Return what `store.json` says, or None where there is none."""
        path = self.folder / META
        if not path.exists():
            return None
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(read, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            got, todo = str(error), "Put it back from a copy, or index the images into a new folder."
            raise StoreError(message(META, "what the store says of itself", got, where=path, todo=todo)) from error
        return read

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace `store.json` in one step."""
        atomic_write(self.folder / META, (json.dumps(meta, indent=1) + "\n").encode(), name="store")

    def optimise(self) -> None:
        """Merge segments and build the graph that makes large stores fast."""
        with self._told("optimise"):
            self._shard.optimize()

    def close(self) -> None:
        """Write what is open, and let the next one in."""
        if not self._lock.held:
            return
        try:
            with self._told("close"):
                self._shard.close()
        finally:
            self._lock.release()
            if self._trial:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _opened(self, dims: Mapping[str, int]) -> Any:
        engine, path = self._engine, self.folder / SHARD
        if (path / "edge_config.json").exists():
            return engine.EdgeShard.load(str(path))
        if (self.folder / META).exists():
            todo = "Put it back from a copy, or index the images into a new folder."
            raise StoreError(message("store", f"a folder {SHARD}", "none", where=self.folder, todo=todo))
        shutil.rmtree(path, ignore_errors=True)  # what a kill in the middle of making it has left
        path.mkdir()
        cosine = engine.Distance.Cosine
        vectors = {name: engine.EdgeVectorParams(size=size, distance=cosine) for name, size in dims.items()}
        limits = engine.EdgeOptimizersConfig(indexing_threshold=FULL_SCAN_KB)
        graph = engine.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=FULL_SCAN_KB)
        config = engine.EdgeConfig(vectors=vectors, optimizers=limits, hnsw_config=graph)
        shard = engine.EdgeShard.create(str(path), config)
        kinds = engine.PayloadSchemaType
        schemas = {"keyword": kinds.Keyword, "datetime": kinds.Datetime, "float": kinds.Float}
        for field, kind in INDEXED.items():
            shard.update(engine.UpdateOperation.create_field_index(field, schemas[kind]))
        shard.flush()
        return shard

    def _filter(self, where: Filter) -> Any:
        """Return the engine's filter, or None if everything counts."""
        engine = self._engine
        field = engine.FieldCondition
        must = [field(key, match=engine.MatchAny(list(values))) for key, values in where.equals.items()]
        if where.since is not None:
            must.append(field("time", range=engine.RangeDateTime(gte=where.since)))
        must += [engine.IsEmptyCondition(key) for key in where.empty]
        unwanted = [field(key, match=engine.MatchValue(value)) for key, value in where.differs.items()]
        unwanted += [engine.IsEmptyCondition(key) for key in where.filled]
        return engine.Filter(must=must or None, must_not=unwanted or None) if must or unwanted else None

    @contextmanager
    def _told(self, verb: str) -> Iterator[None]:
        """Say of the engine's errors, which have no class of their own, where they come from and what to do."""
        if not self._lock.held:
            raise StoreError(message("store", "an open one", "a closed one", where=self.folder, todo="Open it again."))
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            got = str(error).strip().partition("\n")[0][:300]
            todo = "If it was copied or cut off, put it back from a copy, or index the images into a new folder."
            raise StoreError(message("store", f"to {verb}", repr(got), where=self.folder, todo=todo)) from error


def _vector(read: Any, using: str | None) -> Float32 | None:
    if using is None or not read or using not in read:
        return None
    return np.asarray(read[using], np.float32)


def _engine() -> Any:
    try:
        return import_module("qdrant_edge")
    except ImportError as error:
        todo = "Run: pip install 'blemish[search]'"
        raise StoreError(message("store", "the package qdrant-edge-py", "none", todo=todo)) from error
