"""Defects on a Qdrant server: for several stations at a time, and for millions of regions."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from blemish.errors import InputError, StoreError, message
from blemish.search.records import CANDIDATES, FULL_SCAN_KB, INDEXED, MAKE, Filter, Found, Point, Query

if TYPE_CHECKING:
    from blemish.types import Float32

BATCH = 512
# Queries in one call: a server gives a call up after a minute, and without its graph a million points take it half a
# second each.
QUERIES = 32
# What the store says of itself is a point without vectors: servers before 1.16 keep nothing else beside the points.
META_ID, META = "00000000-0000-0000-0000-000000000000", "store"
FIRST_WAIT_S = 0.2
# Answers that may be another one a moment later: overloaded, starting, behind a proxy that lost it.
PASSING = {408, 429, 500, 502, 503, 504}

Answer = TypeVar("Answer")


class ServerBackend:
    """A store that is one collection of a server.

    Args:
        url: such as http://localhost:6333.
        api_key: if the server wants one.
        collection: its name; made if absent.
        dims: name of each vector to its length; needed to make a collection.
        timeout_s: how long one call may take.
        retries: how often a call that failed on the way is tried again, after waiting twice as long each time. A call
            that was carried out although its answer was lost does no harm: ids come from content.

    Raises:
        InputError: if a setting is out of range.
        StoreError: if the client is not installed, or the server can't be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        collection: str,
        dims: Mapping[str, int],
        timeout_s: float = 10.0,
        retries: int = 4,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0) or retries < 0:
            raise InputError(message("timeout_s, retries", "above 0, and 0 or more", f"{timeout_s}, {retries}"))
        self._package = _package()
        self._models = import_module("qdrant_client.models")
        self._exceptions = import_module("qdrant_client.http.exceptions")
        self._url, self._collection, self._retries = url, collection, retries
        self._client: Any = self._connected(url, api_key, max(1, math.ceil(timeout_s)))
        try:
            if not self._ask(lambda: self._client.collection_exists(collection)):
                self._make(dims)
        except BaseException:
            self.close()
            raise

    def insert(self, points: Sequence[Point]) -> None:
        """Write points and wait until the server has them."""
        models = self._models
        made = [
            models.PointStruct(
                id=one.id,
                vector={name: vector.tolist() for name, vector in one.vectors.items()},
                payload=dict(one.payload),
            )
            for one in points
        ]
        for first in range(0, len(made), BATCH):
            part = made[first : first + BATCH]
            self._ask(partial(self._client.upsert, self._collection, points=part, wait=True))

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[Found]]:
        """Return each query's nearest points by cosine, nearest first."""
        models = self._models
        requests = [
            models.QueryRequest(
                query=one.vector.tolist(),
                using=using,
                limit=one.k,
                filter=self._filter(one.where),
                with_payload=True,
                params=models.SearchParams(exact=exact, hnsw_ef=CANDIDATES),
            )
            for one in queries
        ]
        answers: list[list[Found]] = []
        for first in range(0, len(requests), QUERIES):
            part = requests[first : first + QUERIES]
            if len(part) == 1:
                read = [self._ask(partial(self._query, part[0]))]
            else:
                read = self._ask(partial(self._client.query_batch_points, self._collection, requests=part))
            answers += [[Found(str(p.id), p.payload or {}, float(p.score)) for p in one.points] for one in read]
        return answers

    def get(self, ids: Sequence[str]) -> list[Found]:
        """Return those of the points that are there, with payload."""
        records: list[Any] = []
        for first in range(0, len(ids), BATCH):
            part = list(ids[first : first + BATCH])
            records += self._ask(partial(self._client.retrieve, self._collection, part, with_payload=True))
        return [Found(str(one.id), one.payload or {}) for one in records]

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[Found]:
        """Yield every point that counts in order of its id."""
        chosen, vectors, offset = self._filter(where), [using] if using else False, None
        while True:
            records, offset = self._ask(
                partial(
                    self._client.scroll,
                    self._collection,
                    scroll_filter=chosen,
                    limit=BATCH,
                    offset=offset,
                    with_payload=True,
                    with_vectors=vectors,
                )
            )
            for one in records:
                yield Found(str(one.id), one.payload or {}, vector=_vector(one.vector, using))
            if offset is None:
                return

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these fields of the points; None removes one."""
        kept = {name: value for name, value in payload.items() if value is not None}
        gone = [name for name, value in payload.items() if value is None]
        for first in range(0, len(ids), BATCH):
            part = list(ids[first : first + BATCH])
            if kept:
                self._ask(partial(self._client.set_payload, self._collection, kept, part, wait=True))
            if gone:
                self._ask(partial(self._client.delete_payload, self._collection, gone, part, wait=True))

    def delete(self, where: Filter) -> None:
        """Remove every point that counts."""
        chosen = self._models.FilterSelector(filter=self._filter(where))
        self._ask(lambda: self._client.delete(self._collection, points_selector=chosen, wait=True))

    def count(self, where: Filter) -> int:
        """Return how many points count, exactly."""
        chosen = self._filter(where)
        return int(self._ask(lambda: self._client.count(self._collection, count_filter=chosen, exact=True)).count)

    def read_meta(self) -> dict[str, Any] | None:
        """Return what was written last with `write_meta`; None in a new store."""
        found = self.get([META_ID])
        return dict(found[0].payload["meta"]) if found else None

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace what the store says of itself, in one step."""
        self.insert([Point(META_ID, {}, {"kind": META, "meta": dict(meta)})])

    def optimise(self) -> None:
        """Do nothing: a server does so by itself."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _connected(self, url: str, api_key: str | None, timeout_s: int) -> Any:
        _warn_of_open_key(url, api_key)
        try:
            with warnings.catch_warnings():
                # The client warns of every key over http, also on this machine, and asks the server for its version.
                warnings.simplefilter("ignore", UserWarning)
                return self._package.QdrantClient(
                    url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False
                )
        except ValueError as error:
            raise InputError(message("url", "such as http://localhost:6333", repr(url))) from error

    def _query(self, request: Any) -> Any:
        return self._client.query_points(
            self._collection,
            query=request.query,
            using=request.using,
            limit=request.limit,
            query_filter=request.filter,
            with_payload=True,
            search_params=request.params,
        )

    def _make(self, dims: Mapping[str, int]) -> None:
        if not dims:
            raise StoreError(message("store", "one that was made", "nothing there", where=self._url, todo=MAKE))
        models = self._models
        vectors = {
            name: models.VectorParams(size=size, distance=models.Distance.COSINE, on_disk=True)
            for name, size in dims.items()
        }
        try:
            graph = models.HnswConfigDiff(full_scan_threshold=FULL_SCAN_KB)
            make = partial(self._client.create_collection, self._collection, vectors_config=vectors, hnsw_config=graph)
            self._ask(make)
        except StoreError:
            # Another station may have made it in the same moment.
            if not self._ask(lambda: self._client.collection_exists(self._collection)):
                raise
        kinds = models.PayloadSchemaType
        schemas = {"keyword": kinds.KEYWORD, "datetime": kinds.DATETIME, "float": kinds.FLOAT}
        for field, kind in INDEXED.items():
            schema = schemas[kind]
            self._ask(
                partial(self._client.create_payload_index, self._collection, field, field_schema=schema, wait=True)
            )

    def _filter(self, where: Filter) -> Any:
        """Return the client's filter; what the store says of itself never counts."""
        models = self._models
        field = models.FieldCondition
        must = [field(key=key, match=models.MatchAny(any=list(values))) for key, values in where.equals.items()]
        if where.since is not None:
            must.append(field(key="time", range=models.DatetimeRange(gte=where.since)))
        must += [models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in where.empty]
        unwanted = [field(key=key, match=models.MatchValue(value=value)) for key, value in where.differs.items()]
        unwanted += [models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in where.filled]
        unwanted.append(field(key="kind", match=models.MatchValue(value=META)))
        return models.Filter(must=must or None, must_not=unwanted)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Call the server; what fails on the way is tried again, and then said."""
        wait_s = FIRST_WAIT_S
        for attempt in range(self._retries + 1):
            try:
                return call()
            except self._exceptions.ResponseHandlingException as error:
                problem, passing = f"no answer ({_one_line(error)})", True
                cause: Exception = error
            except self._exceptions.UnexpectedResponse as error:
                problem, passing = f"status {error.status_code} ({_one_line(error)})", error.status_code in PASSING
                cause = error
            if not passing:
                break
            if attempt < self._retries:
                time.sleep(wait_s)
                wait_s *= 2
        times = f" after {attempt + 1} tries" if attempt else ""
        todo = (
            "Nothing that was acknowledged is lost: start the server, or mend the address or key, and run this again."
            if passing
            else "Mend that and run this again; what was acknowledged is there."
        )
        where = f"{self._url}, collection {self._collection}"
        raise StoreError(message("server", "an answer", f"{problem}{times}", where=where, todo=todo)) from cause


def _warn_of_open_key(url: str, api_key: str | None) -> None:
    address = urlsplit(url)
    if api_key and address.scheme == "http" and address.hostname not in {"localhost", "127.0.0.1", "::1"}:
        text = f"api_key: it goes to {address.hostname} unencrypted; use https."
        warnings.warn(text, UserWarning, stacklevel=6)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _vector(read: Any, using: str | None) -> Float32 | None:
    if using is None or not read or using not in read:
        return None
    return np.asarray(read[using], np.float32)


def _package() -> Any:
    try:
        return import_module("qdrant_client")
    except ImportError as error:
        todo = "Run: pip install 'blemish[server]'"
        raise StoreError(message("store", "the package qdrant-client", "none", todo=todo)) from error
