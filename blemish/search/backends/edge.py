"""Backend in a folder: Qdrant's engine in this process, with memory-mapped segments and a write-ahead log.

The engine (PyPI `qdrant-edge-py`) and not `qdrant_client`'s local mode: that compares with every point in NumPy, keeps
points as pickles and loses some under threads.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, finalize

from blemish._io.files import atomic_write, read_file, save_error
from blemish._io.json_file import read_json_object
from blemish._validation.checks import blocks
from blemish.errors import BlemishError, ModelFileError, StoreError, message
from blemish.runtime.forks import keep_forever
from blemish.search.backends.interface import Examination, Filter, Point, Query, StoredPoint
from blemish.search.backends.ledger import LEDGER, Ledger, compared, digest_of
from blemish.search.backends.process import OpenedHere, close_inherited
from blemish.search.backends.qdrant import BATCH, CREATE_STORE, FULL_SCAN_KB, HNSW_EF, INDEXED_FIELDS, import_package
from blemish.search.backends.read_only import not_writable, temporary_copy
from blemish.search.backends.room import check_room, size_on_disk
from blemish.search.backends.seal import DAMAGED, break_seal, check_seal, write_seal
from blemish.search.backends.sizes import check_sizes
from blemish.search.backends.trial import try_opening

if TYPE_CHECKING:
    from filelock import BaseFileLock

META, SHARD, CONFIG = "store.json", "vectors", "edge_config.json"
MAX_META_BYTES = 256 << 20  # statistics of good images of one category: 1 MB
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
        damaged: whether to open a folder also where acknowledged points are lost; only with `read_only`.

    Raises:
        StoreError: if the engine is not installed, the folder is in use, what is in it can't be read, or an
            acknowledged point is lost or changed.
    """

    def __init__(
        self,
        folder: Path | None,
        dims: Mapping[str, int],
        *,
        batch_size: int = BATCH,
        read_only: bool = False,
        damaged: bool = False,
    ) -> None:
        self._engine = import_package("qdrant_edge", "qdrant-edge-py", extra="search")
        if folder is not None and not dims and not (folder / SHARD).exists():
            raise StoreError(message("store", "one that was made", "nothing there", where=folder, todo=CREATE_STORE))
        self._is_temporary, self._batch_size = folder is None or read_only, batch_size
        if folder is not None and read_only:
            folder = temporary_copy(folder, lock=LOCK, without=frozenset({LOCK, HOLDER}))
        self.folder = Path(tempfile.mkdtemp(prefix="blemish-trial-")) if folder is None else folder
        self._process = OpenedHere(self.folder)
        self._ledger, self._is_sound = Ledger(self.folder / LEDGER), True
        self._held = contextlib.ExitStack()
        if self._is_temporary:
            self._held.callback(finalize(self, _remove, self.folder, os.getpid()))  # also where nobody closes it
        try:
            self._make_room()
            self._lock = acquire_lock(self.folder)
            self._held.callback(self._lock.release)
            is_new = not (self.folder / SHARD / CONFIG).exists()
            is_sealed = not damaged and check_seal(self.folder)
            if not is_sealed and not is_new:
                check_sizes(self.folder / SHARD, self.folder)
                try_opening(self.folder / SHARD, self.folder)
            if not self._is_temporary:
                break_seal(self.folder)
            with self._errors("open"):
                self._shard = self._open(dims)
            self._open_ledger(is_new=is_new, is_checked=is_sealed or damaged)
        except BaseException:
            self._held.close()
            raise
        _OPEN.add(self)
        atexit.unregister(_close_all)
        atexit.register(_close_all)  # last, to be called first: filelock releases its locks at the end too

    def _make_room(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise save_error("store", self.folder, error) from error
        # The engine writes again what its log has, in up to one and a half times the log's size (measured).
        check_room(self.folder, n_bytes=2 * size_on_disk(self.folder / SHARD / "wal"))

    def insert(self, points: Sequence[Point]) -> None:
        """Write points and wait until the disk has them."""
        engine = self._engine
        converted = [
            engine.Point(id_, {name: vector.tolist() for name, vector in vectors.items()}, dict(payload))
            for id_, vectors, payload in points
        ]
        with self._change([point.id for point in points]):
            for block in blocks(len(converted), self._batch_size):
                check_room(self.folder, n_points=len(converted[block]))
                self._shard.update(engine.UpdateOperation.upsert_points(converted[block]))

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

    def get(self, ids: Sequence[str], *, using: str | None = None) -> list[StoredPoint]:
        """Return the stored points among these ids, with the vector `using` if one is named."""
        vectors = [using] if using else False
        with self._errors("read"):
            records = self._shard.retrieve(list(ids), with_payload=True, with_vector=vectors) if ids else []
        return [StoredPoint.of(record, using) for record in records]

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
        with self._change(ids):
            self._shard.update(self._engine.UpdateOperation.set_payload(list(ids), dict(payload)))

    def delete(self, where: Filter) -> None:
        """Remove the points that match."""
        with self._change([point.id for point in self.scan(where)], removes=True):
            chosen = self._filter(where) or self._engine.Filter()
            self._shard.update(self._engine.UpdateOperation.delete_points_by_filter(chosen))

    def count(self, where: Filter) -> int:
        """Return the exact number of points that match."""
        with self._errors("read"):
            return int(self._shard.count(self._engine.CountRequest(exact=True, filter=self._filter(where))))

    def read_meta(self) -> dict[str, Any] | None:
        """Return the content of `store.json`, or None where there is none. StoreError if it is damaged."""
        path = self.folder / META
        if not path.exists():
            return None
        try:
            meta = read_json_object(read_file(path, name=META, max_bytes=MAX_META_BYTES), name=META)
            digest = meta.pop(LEDGER, None)
            if digest not in (None, digest_of(meta, {})):
                raise ModelFileError("other content than was written")
        except ModelFileError as error:
            raise StoreError(message(META, "the store's metadata", str(error), where=path, todo=RESTORE)) from error
        return meta

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace `store.json` atomically."""
        content = dict(meta) if self._is_temporary else {**meta, LEDGER: digest_of(meta, {})}
        atomic_write(self.folder / META, (json.dumps(content, indent=1) + "\n").encode(), name="store")

    def check(self) -> Examination:
        """Return which acknowledged points are lost or have another content; all are read."""
        return compared(self._ledger.read() if self._ledger.path.exists() else {}, self._digests())

    def sound_ids(self) -> tuple[list[str], Examination]:
        """Return the ids of the points that can be read and are as they were acknowledged, and what is not.

        Points are read one by one where several can't be read.
        """
        acknowledged: dict[str, str] = {}
        with contextlib.suppress(StoreError):
            acknowledged = self._ledger.read()
        ids = list(acknowledged) or [point.id for point in self.scan(Filter())]
        digests: dict[str, str] = {}
        for block in blocks(len(ids), self._batch_size):
            digests |= self._readable(ids[block])
        found = compared(acknowledged, digests)
        return [id_ for id_ in digests if id_ not in set(found.changed)], found

    def _readable(self, ids: Sequence[str]) -> dict[str, str]:
        try:
            with self._errors("read"):
                return _digests(self._shard.retrieve(list(ids), with_payload=True, with_vector=True))
        except StoreError:
            return {} if len(ids) == 1 else {id_: d for one in ids for id_, d in self._readable([one]).items()}

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
            n_points = self.count(Filter()) if self._is_sound else 0
            with self._errors("close"):
                self._shard.close()
            self._seal(n_points)
        finally:
            _OPEN.discard(self)
            self._held.close()

    def abandon(self) -> None:
        """Let go of what a forked child has of this store: it is the parent's."""
        keep_forever(self._shard)
        close_inherited(self.folder)

    def _open_ledger(self, *, is_new: bool, is_checked: bool) -> None:
        """Compare a store that was not closed (a kill) with its ledger, and write that anew.

        A store of a version without one gets it now.
        """
        has_ledger, writes = self._ledger.path.exists(), not self._is_temporary
        if has_ledger and is_checked:
            return
        digests: dict[str, str] = {}
        if not is_new and (has_ledger or writes):
            digests = self._digests()
            self._compare(digests)
            with self._errors("index"):
                self._make_indexes(self._shard, again=True)
        if writes:
            self._ledger.rewrite(digests)
            meta = self.read_meta()
            if meta is not None and not has_ledger:
                self.write_meta(meta)

    def _compare(self, digests: Mapping[str, str]) -> None:
        """Raise StoreError if an acknowledged point is not among these, or has another digest."""
        if not self._ledger.path.exists():
            if _states_ledger(self.folder / META):
                raise StoreError(message("store", f"a file {LEDGER}", "none", where=self.folder, todo=DAMAGED))
            return
        found = compared(self._ledger.read(), digests)
        if found.lost or found.changed:
            first = (found.lost + found.changed)[0]
            got = f"{len(found.lost)} lost and {len(found.changed)} changed, such as {first}"
            expected = "all acknowledged regions and images as they were stored"
            raise StoreError(message("store", expected, got, where=self.folder, todo=DAMAGED))

    @contextmanager
    def _change(self, ids: Sequence[str], *, removes: bool = False) -> Iterator[None]:
        """Have a change of points on disk, and in the ledger before and after it."""
        if self._is_temporary:
            with self._errors("write"):
                yield
                self._shard.flush()
            return
        was_sound, self._is_sound = self._is_sound, False
        with self._errors("write"):
            check_room(self.folder, n_points=len(ids))
            self._ledger.changing(ids)
            yield
            self._shard.flush()
            if removes:
                self._ledger.removed(ids)
            else:
                self._acknowledge(ids)
        self._is_sound = was_sound

    def _acknowledge(self, ids: Sequence[str]) -> None:
        """Write the digests of points that were changed into the ledger, as they are read back."""
        for block in blocks(len(ids), self._batch_size):
            records = self._shard.retrieve(list(ids[block]), with_payload=True, with_vector=True)
            if len(records) < len(set(ids[block])):
                got = f"{len(records)} of {len(ids[block])} regions and images"
                raise StoreError(message("store", "to have what was written", got, where=self.folder, todo=DAMAGED))
            self._ledger.stored(_digests(records))

    def _digests(self) -> dict[str, str]:
        """Return the digests of all points."""
        digests: dict[str, str] = {}
        offset = None
        while True:
            request = self._engine.ScrollRequest(
                offset=offset, limit=self._batch_size, with_payload=True, with_vector=True
            )
            with self._errors("read"):
                records, offset = self._shard.scroll(request)
            digests |= _digests(records)
            if offset is None:
                return digests

    def _seal(self, n_points: int) -> None:
        """Seal a closed store in which nothing failed; else the next opening reads all of it."""
        if self._is_temporary or not self._is_sound:
            return
        with contextlib.suppress(BlemishError, OSError):
            self._ledger.compact(n_points)
            write_seal(self.folder, [SHARD, META, LEDGER])

    def _open(self, dims: Mapping[str, int]) -> Any:
        engine, path = self._engine, self.folder / SHARD
        if (path / CONFIG).exists():
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
        self._make_indexes(shard)
        return shard

    def _make_indexes(self, shard: Any, *, again: bool = False) -> None:
        """Make the indexes of payload fields, or make them again: a damaged one leaves points out of answers."""
        kinds, change = self._engine.PayloadSchemaType, self._engine.UpdateOperation
        schemas = {"keyword": kinds.Keyword, "datetime": kinds.Datetime, "float": kinds.Float}
        for field, kind in INDEXED_FIELDS.items():
            if again:
                shard.update(change.delete_field_index(field))
            shard.update(change.create_field_index(field, schemas[kind]))
        shard.flush()

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
            self._is_sound = False
            raise self._engine_error(verb, error) from error

    def _engine_error(self, verb: str, error: BaseException) -> StoreError:
        got = str(error).strip().partition("\n")[0][:300]
        refused = re.search(r"\(os error (\d+)\)", got)
        if refused and int(refused[1]) in NOT_WRITABLE:
            return not_writable(self.folder, got)
        todo = "If it was copied or cut off, put it back from a copy, or index the images into a new folder."
        return StoreError(message("store", f"to {verb}", repr(got), where=self.folder, todo=todo))


def _digests(records: Iterable[Any]) -> dict[str, str]:
    return {str(record.id): digest_of(record.payload or {}, record.vector or {}) for record in records}


def _states_ledger(meta: Path) -> bool:
    """Return whether a store's metadata say that it has a ledger; not of a version without one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return bool(json.loads(meta.read_text(encoding="utf-8")).get(LEDGER, False))
    return False


def _remove(folder: Path, process: int) -> None:
    """Remove a temporary folder, unless a forked child ends: it is its parent's."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


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


def _close_all() -> None:
    """Seal the stores that a program left open."""
    for backend in list(_OPEN):
        with contextlib.suppress(BlemishError):
            backend.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
