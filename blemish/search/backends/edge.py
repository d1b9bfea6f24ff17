"""Backend in a folder: Qdrant's engine in this process, with memory-mapped segments and a write-ahead log.

The engine (PyPI `qdrant-edge-py`) and not `qdrant_client`'s local mode: that compares with every point in NumPy, keeps
points as pickles and loses some under threads.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from blemish._io.files import atomic_write, save_error
from blemish._validation.checks import blocks
from blemish.errors import StoreError, message
from blemish.runtime.forks import keep_forever
from blemish.search.backends.interface import Filter, Point, Query, StoredPoint
from blemish.search.backends.process import OpenedHere, close_inherited
from blemish.search.backends.qdrant import BATCH, CREATE_STORE, FULL_SCAN_KB, HNSW_EF, INDEXED_FIELDS, import_package
from blemish.search.backends.read_only import not_writable, temporary_copy
from blemish.search.backends.room import check_room, size_on_disk

if TYPE_CHECKING:
    from filelock import BaseFileLock

META, SHARD = "store.json", "vectors"
# The lock, and the name of its holder for the error of others: some versions of filelock empty the lock file.
LOCK, HOLDER = "lock", "holder"
RESTORE = "Put it back from a copy, or index the images into a new folder."
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


class EdgeBackend:
    """A store in a folder, or in a temporary one that is removed when it is closed.

    Args:
        folder: made if absent; None for a temporary one.
        dims: name of each vector to its length, to make a new store; empty to refuse that.
        read_only: whether to work on a temporary copy of the folder.

    Raises:
        StoreError: if the engine is not installed, the folder is in use, or what is in it can't be read.
    """

    def __init__(
        self, folder: Path | None, dims: Mapping[str, int], *, batch_size: int = BATCH, read_only: bool = False
    ) -> None:
        self._engine = import_package("qdrant_edge", "qdrant-edge-py", extra="search")
        if folder is not None and not dims and not (folder / SHARD).exists():
            raise StoreError(message("store", "one that was made", "nothing there", where=folder, todo=CREATE_STORE))
        self._is_temporary, self._batch_size = folder is None or read_only, batch_size
        if folder is not None and read_only:
            folder = temporary_copy(folder, lock=LOCK, without=frozenset({LOCK, HOLDER}))
        self.folder = Path(tempfile.mkdtemp(prefix="blemish-trial-")) if folder is None else folder
        self._process = OpenedHere(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise save_error("store", self.folder, error) from error
        # The engine writes again what its log has, in up to one and a half times the log's size (measured).
        check_room(self.folder, n_bytes=2 * size_on_disk(self.folder / SHARD / "wal"))
        self._lock = acquire_lock(self.folder)
        try:
            with self._errors("open"):
                self._shard = self._open(dims)
        except BaseException:
            self._release()
            raise
        _OPEN.add(self)

    def insert(self, points: Sequence[Point]) -> None:
        """Write points and wait until the disk has them."""
        engine = self._engine
        converted = [
            engine.Point(id_, {name: vector.tolist() for name, vector in vectors.items()}, dict(payload))
            for id_, vectors, payload in points
        ]
        with self._errors("write"):
            for block in blocks(len(converted), self._batch_size):
                check_room(self.folder, n_points=len(converted[block]))
                self._shard.update(engine.UpdateOperation.upsert_points(converted[block]))
            self._shard.flush()

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[StoredPoint]]:
        """Return the nearest points of each query by cosine, nearest first."""
        engine = self._engine
        requests = [
            engine.QueryRequest(
                limit=query.k,
                query=engine.Query.Nearest(query.vector.tolist(), using=using),
                filter=self._filter(query.where),
                with_payload=True,
                params=engine.SearchParams(exact=exact, hnsw_ef=HNSW_EF),
            )
            for query in queries
        ]
        with self._errors("search"):
            answers = [self._shard.query(request) for request in requests]
        return [[*map(StoredPoint.of, answer)] for answer in answers]

    def get(self, ids: Sequence[str]) -> list[StoredPoint]:
        """Return the stored points among these ids, with payload."""
        with self._errors("read"):
            records = self._shard.retrieve(list(ids), with_payload=True, with_vector=False) if ids else []
        return [*map(StoredPoint.of, records)]

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[StoredPoint]:
        """Yield the points that match in order of id."""
        chosen, vectors, offset = self._filter(where), [using] if using else False, None
        while True:
            request = self._engine.ScrollRequest(
                offset=offset, limit=self._batch_size, filter=chosen, with_payload=True, with_vector=vectors
            )
            with self._errors("read"):
                records, offset = self._shard.scroll(request)
            for record in records:
                yield StoredPoint.of(record, using)
            if offset is None:
                return

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these payload fields of the points."""
        with self._errors("write"):
            check_room(self.folder, n_points=len(ids))
            self._shard.update(self._engine.UpdateOperation.set_payload(list(ids), dict(payload)))
            self._shard.flush()

    def delete(self, where: Filter) -> None:
        """Remove the points that match."""
        with self._errors("write"):
            check_room(self.folder)
            chosen = self._filter(where) or self._engine.Filter()
            self._shard.update(self._engine.UpdateOperation.delete_points_by_filter(chosen))
            self._shard.flush()

    def count(self, where: Filter) -> int:
        """Return the exact number of points that match."""
        with self._errors("read"):
            return int(self._shard.count(self._engine.CountRequest(exact=True, filter=self._filter(where))))

    def read_meta(self) -> dict[str, Any] | None:
        """Return the content of `store.json`, or None where there is none."""
        path = self.folder / META
        if not path.exists():
            return None
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(meta, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            raise StoreError(message(META, "the store's metadata", str(error), where=path, todo=RESTORE)) from error
        return meta

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace `store.json` atomically."""
        atomic_write(self.folder / META, (json.dumps(meta, indent=1) + "\n").encode(), name="store")

    def optimise(self) -> None:
        """Merge segments, and build the HNSW index of a large store."""
        with self._errors("optimise"):
            check_room(self.folder, n_bytes=size_on_disk(self.folder))
            self._shard.optimize()

    def close(self) -> None:
        """Flush, and release the lock; a second call does nothing."""
        if not self._process or not self._lock.is_locked:
            return
        try:
            with self._errors("close"):
                self._shard.close()
        finally:
            _OPEN.discard(self)
            self._release()

    def _release(self) -> None:
        self._lock.release()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def abandon(self) -> None:
        """Let go of what a forked child has of this store: it is the parent's."""
        keep_forever(self._shard)
        close_inherited(self.folder)

    def _open(self, dims: Mapping[str, int]) -> Any:
        engine, path = self._engine, self.folder / SHARD
        if (path / "edge_config.json").exists():
            return engine.EdgeShard.load(str(path))
        if (self.folder / META).exists():
            raise StoreError(message("store", f"a folder {SHARD}", "none", where=self.folder, todo=RESTORE))
        shutil.rmtree(path, ignore_errors=True)  # left by a kill while it was made
        path.mkdir()
        cosine = engine.Distance.Cosine
        vectors = {name: engine.EdgeVectorParams(size=size, distance=cosine) for name, size in dims.items()}
        limits = engine.EdgeOptimizersConfig(indexing_threshold=FULL_SCAN_KB)
        graph = engine.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=FULL_SCAN_KB)
        config = engine.EdgeConfig(vectors=vectors, optimizers=limits, hnsw_config=graph)
        shard = engine.EdgeShard.create(str(path), config)
        kinds = engine.PayloadSchemaType
        schemas = {"keyword": kinds.Keyword, "datetime": kinds.Datetime, "float": kinds.Float}
        for field, kind in INDEXED_FIELDS.items():
            shard.update(engine.UpdateOperation.create_field_index(field, schemas[kind]))
        shard.flush()
        return shard

    def _filter(self, where: Filter) -> Any:
        """Return the engine's filter, or None for all points."""
        engine = self._engine
        field = engine.FieldCondition
        must = [field(key, match=engine.MatchAny(list(values))) for key, values in where.equals.items()]
        if where.since is not None:
            must.append(field("time", range=engine.RangeDateTime(gte=where.since)))
        must += [engine.IsEmptyCondition(key) for key in where.empty]
        must_not = [field(key, match=engine.MatchValue(value)) for key, value in where.differs.items()]
        must_not += [engine.IsEmptyCondition(key) for key in where.filled]
        return engine.Filter(must=must or None, must_not=must_not or None) if must or must_not else None

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Raise the engine's errors, which have no class of their own, as `StoreError`."""
        self._process.check()
        if not self._lock.is_locked:
            raise StoreError(message("store", "an open one", "a closed one", where=self.folder, todo="Open it again."))
        try:
            yield
        except StoreError:
            raise
        except BaseException as error:
            # A panic of the engine is raised as an exception that is no `Exception`.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise self._engine_error(verb, error) from error

    def _engine_error(self, verb: str, error: BaseException) -> StoreError:
        got = str(error).strip().partition("\n")[0][:300]
        refused = re.search(r"\(os error (\d+)\)", got)
        if refused and int(refused[1]) in NOT_WRITABLE:
            return not_writable(self.folder, got)
        todo = "If it was copied or cut off, put it back from a copy, or index the images into a new folder."
        return StoreError(message("store", f"to {verb}", repr(got), where=self.folder, todo=todo))


def acquire_lock(folder: Path) -> BaseFileLock:
    """Return the lock of a folder, held until it is released or the process ends, however it ends.

    Raises:
        StoreError: if another process, or this one, holds it; the text names the holder.
    """
    # Loads asyncio: 0.1 s that only an opened folder costs.
    filelock = import_package("filelock", "filelock", extra="search")
    lock: BaseFileLock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        holder = (folder / HOLDER).read_text(encoding="utf-8") if (folder / HOLDER).exists() else "another process"
        todo = "Close that one, or wait for it; several at a time need a server: DefectStore(url=...)."
        expected, got = "to be the only one in it", f"it open in {holder}"
        raise StoreError(message("store", expected, got, where=folder, todo=todo)) from error
    except OSError as error:
        if error.errno in NOT_WRITABLE and (folder / SHARD).exists():
            raise not_writable(folder, error.strerror or str(error)) from error
        raise save_error("store", folder, error) from error
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    holder = f"process {os.getpid()} on {socket.gethostname()} since {now}"
    atomic_write(folder / HOLDER, holder.encode(), name="store")
    return lock


# The stores that are open in this process, for a fork of it.
_OPEN: WeakSet[EdgeBackend] = WeakSet()


def _abandon_all() -> None:
    for backend in list(_OPEN):
        backend.abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
