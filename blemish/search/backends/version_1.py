"""Stores of format version 1 (0.1.0), in which kind and vector of a whole image are called "picture"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blemish.search.backends.interface import IMAGE, Filter, Point, Query, StoredPoint

if TYPE_CHECKING:
    from blemish.search.backends.interface import Backend

PICTURE = "picture"


def with_present_names(backend: Backend) -> Backend:
    """Return the backend; that of a store of format version 1 behind a translation of its names."""
    meta = backend.read_meta()
    return _Version1Backend(backend) if meta is not None and meta.get("format_version") == 1 else backend


class _Version1Backend:
    """Translates names when the store is read or written; nothing in it is rewritten."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.set_payload, self.optimise, self.close = backend.set_payload, backend.optimise, backend.close
        self.check = backend.check

    def insert(self, points: Sequence[Point]) -> None:
        self._backend.insert(
            [Point(p.id, _stored_keys(p.vectors), {**p.payload, "kind": _stored(p.payload["kind"])}) for p in points]
        )

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[StoredPoint]]:
        translated = [query._replace(where=_filter(query.where)) for query in queries]
        return [[*map(_read, points)] for points in self._backend.search(_stored(using), translated, exact=exact)]

    def get(self, ids: Sequence[str], *, using: str | None = None) -> list[StoredPoint]:
        return [*map(_read, self._backend.get(ids, using=using and _stored(using)))]

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[StoredPoint]:
        return map(_read, self._backend.scan(_filter(where), using=using and _stored(using)))

    def delete(self, where: Filter) -> None:
        self._backend.delete(_filter(where))

    def count(self, where: Filter) -> int:
        return self._backend.count(_filter(where))

    def read_meta(self) -> dict[str, Any] | None:
        meta = self._backend.read_meta() or {}
        return {**meta, "format_version": 2, "dims": {_present(name): n for name, n in meta.get("dims", {}).items()}}

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        self._backend.write_meta({**meta, "format_version": 1, "dims": _stored_keys(meta["dims"])})


def _stored(name: str) -> str:
    return PICTURE if name == IMAGE else name


def _present(name: str) -> str:
    return IMAGE if name == PICTURE else name


def _stored_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_stored(name): value for name, value in values.items()}


def _filter(where: Filter) -> Filter:
    kinds = [_stored(kind) for kind in where.equals.get("kind", ())]
    return replace(where, equals={**where.equals, "kind": kinds}) if kinds else where


def _read(point: StoredPoint) -> StoredPoint:
    kind = _present(str(point.payload.get("kind")))
    return point._replace(payload={**point.payload, "kind": kind})
