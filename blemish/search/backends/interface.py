"""Interface of the vector backends: points, filters and queries, the same for a folder and for a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from blemish.types import Float32

# The two kinds of point, and the names of their vectors: an anomalous region, and a whole image.
REGION, IMAGE = "region", "image"


class Point(NamedTuple):
    """One region or image to write, with a payload of JSON values.

    Attributes:
        id: a UUID of the content, so that writing it twice changes nothing.
        vectors: `region` or `image` to (D,) float32; empty for a point that only carries a payload.
    """

    id: str
    vectors: Mapping[str, Float32]
    payload: Mapping[str, Any]


class StoredPoint(NamedTuple):
    """One region or image as it was read.

    Attributes:
        similarity: cosine to the query, -1 to 1; 0 where nothing was compared.
        vector: (D,) float32 of unit length, if it was asked for.
    """

    id: str
    payload: Mapping[str, Any]
    similarity: float = 0.0
    vector: Float32 | None = None

    @classmethod
    def of(cls, record: Any, using: str | None = None) -> StoredPoint:
        """Return a record of Qdrant's engine or client, which name their fields alike, with the vector `using`."""
        vector = record.vector.get(using) if using and record.vector else None
        vector = None if vector is None else np.asarray(vector, np.float32)
        return cls(str(record.id), record.payload or {}, float(getattr(record, "score", 0.0)), vector)


@dataclass(frozen=True)
class Filter:
    """Conjunction of conditions on the payload.

    Attributes:
        equals: field to its allowed values.
        differs: field to a value that is not allowed.
        empty: fields that must be absent.
        filled: fields that must be present.
        since: earliest `time`, ISO 8601.
    """

    equals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    differs: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    since: str | None = None

    def with_equals(self, **equals: str) -> Filter:
        """Return this filter with further fields that must equal one value."""
        return replace(self, equals={**self.equals, **{name: [value] for name, value in equals.items()}})


class Query(NamedTuple):
    """One nearest-neighbor query."""

    vector: Float32
    k: int
    where: Filter


class Examination(NamedTuple):
    """Comparison of a store with what was acknowledged.

    Attributes:
        n_points: number of points that could be read.
        lost: ids of acknowledged points that are not there.
        changed: ids of points with another content.
    """

    n_points: int
    lost: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class Backend(Protocol):
    """Vector database of a store. Once a method that writes has returned, its data is on disk and survives a kill."""

    def insert(self, points: Sequence[Point]) -> None:
        """Write points; one with a stored id replaces that."""

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[StoredPoint]]:
        """Return the nearest points of each query by cosine of the vector `using`, nearest first."""

    def get(self, ids: Sequence[str], *, using: str | None = None) -> list[StoredPoint]:
        """Return the stored points among these ids, with the vector `using` if one is named."""

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[StoredPoint]:
        """Yield the points that match in order of id, with the vector `using` if one is named."""

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these payload fields of the points; a field that is None counts as absent, other fields stay."""

    def delete(self, where: Filter) -> None:
        """Remove the points that match."""

    def count(self, where: Filter) -> int:
        """Return the exact number of points that match."""

    def read_meta(self) -> dict[str, Any] | None:
        """Return the metadata of the store; None in a new one."""

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the metadata of the store atomically."""

    def check(self) -> Examination:
        """Read all points, and return which of the acknowledged ones are lost or changed, where that is known."""

    def optimise(self) -> None:
        """Build the HNSW index, if the store is large enough to gain from it."""

    def close(self) -> None:
        """Release the store; a second call does nothing."""
