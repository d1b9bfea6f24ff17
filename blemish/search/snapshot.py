"""Snapshots of a store: all regions and images with their vectors and labels in one file, for a folder or a server."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from blemish._io.files import atomic_write, read_file, save_error
from blemish._io.json_file import read_json_object
from blemish._io.safetensors_file import is_finite, read_tensors
from blemish._validation.checks import blocks
from blemish.errors import InputError, ModelFileError, StoreError, message
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import IMAGE, REGION, Examination, Filter, Point
from blemish.search.backends.qdrant import BATCH
from blemish.search.backends.server import ServerBackend
from blemish.search.backends.version_1 import with_present_names
from blemish.search.encoder import DIMS
from blemish.search.metadata import Metadata
from blemish.search.payload import check_id
from blemish.search.records import StoredDefect
from blemish.types import Float32

if TYPE_CHECKING:
    from blemish.search.backends.interface import Backend, StoredPoint

FORMAT_VERSION = 1
META, PAYLOADS, SHA256 = "meta", "payloads", "sha256"
WANTED = {META: ("U8", 1), PAYLOADS: ("U8", 1), SHA256: ("U8", 1), REGION: ("F32", 2), IMAGE: ("F32", 2)}


class Snapshot(NamedTuple):
    """Content of a snapshot: the metadata of the store, and its points."""

    meta: dict[str, Any]
    points: list[Point]


def save_snapshot(backend: Backend, path: str | os.PathLike[str]) -> int:
    """Write all points of a store and its metadata into one file, atomically; return the number of points.

    Raises:
        StoreError: if a point can't be read.
        SaveError: if the file can't be written.
    """
    points = [point for kind in DIMS for point in backend.scan(_of_kind(kind), using=kind)]
    return write_points(backend.read_meta() or {}, points, path)


def salvage(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Examination:
    """Write what can still be read of a damaged store's folder into a snapshot; return what is lost or changed.

    The folder is not changed: a temporary copy is read. The engine may end the process where files are damaged badly.

    Raises:
        StoreError: if nothing can be read.
        SaveError: if the file can't be written.
    """
    edge = EdgeBackend(Path(folder), {}, read_only=True, damaged=True)
    try:
        backend = with_present_names(edge)
        ids, found = edge.sound_ids()
        points = [
            point
            for block in blocks(len(ids), BATCH)
            for kind in DIMS
            for point in backend.get(ids[block], using=kind)
            if point.payload.get("kind") == kind
        ]
        write_points(backend.read_meta() or {}, points, path)
    finally:
        edge.close()
    return found


def restore(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    collection: str = "blemish",
) -> int:
    """Make a new store of a snapshot, in a folder or on a server; return the number of its regions and images.

    Args:
        path: of the snapshot.
        folder: of the new store. Not with `url`.
        url, api_key, collection: of the new store on a server.

    Raises:
        InputError: if there is a store already, or neither or both of `folder` and `url` are given.
        StoreError: if the snapshot is damaged, or the store can't be written.
    """
    if (folder is None) == (url is None):
        raise InputError(message("store", "a folder, or url=", "neither" if url is None else "both"))
    snapshot = read_snapshot(path)
    if folder is None:
        assert url is not None
        server = ServerBackend(url, api_key=api_key, collection=collection, dims=DIMS)
        try:
            if server.read_meta() is not None:
                raise _there_already(f"{url}, collection {collection}")
            _fill(server, snapshot)
        finally:
            server.close()
    else:
        _restore_folder(Path(folder), snapshot)
    return len(snapshot.points)


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Return the content of a snapshot. StoreError if it is damaged or of a newer version."""
    try:
        tensors = read_tensors(read_file(path, name="snapshot"), name="snapshot", wanted=WANTED, where=path)
        if tensors[SHA256].tobytes() != digest_of_tensors(tensors):
            raise ModelFileError(message("snapshot", "the bytes that were written", "others", where=path))
        stored = read_json_object(tensors[META].tobytes(), name="snapshot", where=path)
        if stored.get("format_version") != FORMAT_VERSION:
            todo = "Update blemish."
            got = repr(stored.get("format_version"))[:20]
            raise ModelFileError(message("snapshot", f"format {FORMAT_VERSION}", got, where=path, todo=todo))
        meta = dict(stored["store"])
        Metadata.of(meta, os.fspath(path))
        return Snapshot(meta, list(_points(tensors, path)))
    except ModelFileError as error:
        raise StoreError(str(error)) from None
    except (KeyError, TypeError, ValueError, InputError) as error:
        todo = "Use another snapshot."
        raise StoreError(message("snapshot", "a store", repr(error)[:200], where=path, todo=todo)) from None


def _points(tensors: dict[str, NDArray[Any]], path: object) -> Iterator[Point]:
    lines = tensors[PAYLOADS].tobytes().split(b"\n")[:-1]
    vectors = [(kind, row) for kind in DIMS for row in tensors[kind]]
    if len(lines) != len(vectors) or any(tensors[kind].shape[1] != n for kind, n in DIMS.items()):
        raise ValueError(f"{len(lines)} payloads and {len(vectors)} vectors")
    if not all(is_finite(tensors[kind]) for kind in DIMS):
        raise ValueError("vectors that are not finite")
    for line, (kind, vector) in zip(lines, vectors, strict=True):
        entry = read_json_object(line, name="snapshot", where=path)
        point = Point(check_id(entry["id"]), {kind: vector}, dict(entry["payload"]))
        if StoredDefect.of(point.id, point.payload).kind != kind:
            raise ValueError(f"{point.id}: another kind")
        yield point


def write_points(meta: dict[str, Any], points: Sequence[StoredPoint], path: str | os.PathLike[str]) -> int:
    """Write a snapshot of points with their vectors; return their number."""
    content = {"format_version": FORMAT_VERSION, "store": meta}
    lines: list[bytes] = []
    vectors: dict[str, list[Float32]] = {kind: [] for kind in DIMS}
    for kind in DIMS:
        for point in points:
            if point.payload.get("kind") == kind and point.vector is not None:
                lines.append(json.dumps({"id": point.id, "payload": point.payload}).encode() + b"\n")
                vectors[kind].append(point.vector)
    tensors: dict[str, NDArray[Any]] = {
        META: np.frombuffer(json.dumps(content).encode(), np.uint8),
        PAYLOADS: np.frombuffer(b"".join(lines), np.uint8),
        **{kind: np.array(rows, np.float32).reshape(-1, DIMS[kind]) for kind, rows in vectors.items()},
    }
    tensors[SHA256] = np.frombuffer(digest_of_tensors(tensors), np.uint8)
    atomic_write(path, safetensors.numpy.save(tensors), name="snapshot")
    return len(lines)


def digest_of_tensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    """Return the SHA-256 of a snapshot's tensors."""
    digest = hashlib.sha256()
    for name in sorted(WANTED.keys() - {SHA256}):
        digest.update(str(tensors[name].shape).encode())
        digest.update(tensors[name].tobytes())
    return digest.digest()


def _restore_folder(folder: Path, snapshot: Snapshot) -> None:
    """Fill a folder beside it and rename that: a kill leaves no half of a store."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise _there_already(folder)
    made = folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(6)}.restoring")
    try:
        backend = EdgeBackend(made, DIMS)
        try:
            _fill(backend, snapshot)
        finally:
            backend.close()
        made.replace(folder)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise save_error("store", folder, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _fill(backend: Backend, snapshot: Snapshot) -> None:
    """Insert the points, and the metadata last."""
    for block in blocks(len(snapshot.points), BATCH):
        backend.insert(snapshot.points[block])
    backend.optimise()
    backend.write_meta(snapshot.meta)


def _there_already(place: object) -> InputError:
    return InputError(message("store", "a new one", "one that is there", where=place, todo="Choose another place."))


def _of_kind(kind: str) -> Filter:
    return Filter().with_equals(kind=kind)
