"""Backend on a Qdrant server: for several stations at a time, and for millions of regions."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from blemish._validation.checks import blocks
from blemish.errors import InputError, StoreError, message
from blemish.search.backends.address import check_address, check_key, without_key
from blemish.search.backends.answers import limits
from blemish.search.backends.interface import IMAGE, REGION, Examination, Filter, Point, Query, StoredPoint
from blemish.search.backends.process import OpenedHere
from blemish.search.backends.qdrant import BATCH, CREATE_STORE, FULL_SCAN_KB, HNSW_EF, INDEXED_FIELDS, import_package

# Queries in one call: a server gives up a call after a minute, and a query of a million points without an index takes
# half a second.
QUERY_BATCH = 32
# The metadata are the payload of a point without vectors: servers before 1.16 store nothing else beside the points.
META_ID, META = "00000000-0000-0000-0000-000000000000", "store"
FIRST_WAIT_S = 0.2
# HTTP status codes of passing problems: overloaded, starting, or a proxy that lost the server.
RETRIED_STATUS = {408, 429, 500, 502, 503, 504}

Result = TypeVar("Result")


class ServerBackend:
    """A store as one collection of a server.

    Args:
        dims: name of each vector to its length, to make a new collection; empty to refuse that.
        retries: how often a failed call is repeated, after waiting twice as long each time. Repeating a call whose
            answer was lost does no harm: ids come from content.

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
        batch_size: int = BATCH,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0) or retries < 0:
            raise InputError(message("timeout_s, retries", "above 0, and 0 or more", f"{timeout_s}, {retries}"))
        check_address(url)
        self._package = import_package("qdrant_client", "qdrant-client", extra="server")
        self._models = import_module("qdrant_client.models")
        self._exceptions = import_module("qdrant_client.http.exceptions")
        self._url, self._collection, self._retries, self._key = url, collection, retries, api_key
        self._batch_size, self._sleep = batch_size, sleep
        self._process = OpenedHere(f"{url}, collection {collection}")
        self._client: Any = self._connect(url, api_key, max(1, math.ceil(timeout_s)))
        try:
            if not self._call(lambda: self._client.collection_exists(collection)):
                self._create(dims)
        except BaseException:
            self.close()
            raise

    def insert(self, points: Sequence[Point]) -> None:
        """Write points and wait until the server has them."""
        models = self._models
        converted = [
            models.PointStruct(
                id=point.id,
                vector={name: vector.tolist() for name, vector in point.vectors.items()},
                payload=dict(point.payload),
            )
            for point in points
        ]
        for block in blocks(len(converted), self._batch_size):
            self._call(partial(self._client.upsert, self._collection, points=converted[block], wait=True))

    def search(self, using: str, queries: Sequence[Query], *, exact: bool = False) -> list[list[StoredPoint]]:
        """Return the nearest points of each query by cosine, nearest first."""
        models = self._models
        requests = [
            models.QueryRequest(
                query=query.vector.tolist(),
                using=using,
                limit=query.k,
                filter=self._filter(query.where),
                with_payload=True,
                params=models.SearchParams(exact=exact, hnsw_ef=HNSW_EF),
            )
            for query in queries
        ]
        responses: list[Any] = []
        for block in blocks(len(requests), QUERY_BATCH):
            batch = requests[block]
            responses += self._call(partial(self._client.query_batch_points, self._collection, requests=batch))
        return [[*map(StoredPoint.of, response.points)] for response in responses]

    def get(self, ids: Sequence[str], *, using: str | None = None) -> list[StoredPoint]:
        """Return the stored points among these ids, with the vector `using` if one is named."""
        records: list[Any] = []
        vectors = [using] if using else False
        for block in blocks(len(ids), self._batch_size):
            retrieve = partial(self._client.retrieve, self._collection, list(ids[block]), with_vectors=vectors)
            records += self._call(partial(retrieve, with_payload=True))
        return [StoredPoint.of(record, using) for record in records]

    def scan(self, where: Filter, *, using: str | None = None) -> Iterator[StoredPoint]:
        """Yield the points that match in order of id."""
        chosen, vectors, offset = self._filter(where), [using] if using else False, None
        while True:
            records, offset = self._call(
                partial(
                    self._client.scroll,
                    self._collection,
                    scroll_filter=chosen,
                    limit=self._batch_size,
                    offset=offset,
                    with_payload=True,
                    with_vectors=vectors,
                )
            )
            for record in records:
                yield StoredPoint.of(record, using)
            if offset is None:
                return

    def set_payload(self, ids: Sequence[str], payload: Mapping[str, Any]) -> None:
        """Set these payload fields of the points."""
        for block in blocks(len(ids), self._batch_size):
            points = list(ids[block])
            self._call(partial(self._client.set_payload, self._collection, dict(payload), points, wait=True))

    def delete(self, where: Filter) -> None:
        """Remove the points that match."""
        chosen = self._models.FilterSelector(filter=self._filter(where))
        self._call(lambda: self._client.delete(self._collection, points_selector=chosen, wait=True))

    def count(self, where: Filter) -> int:
        """Return the exact number of points that match."""
        chosen = self._filter(where)
        return int(self._call(lambda: self._client.count(self._collection, count_filter=chosen, exact=True)).count)

    def read_meta(self) -> dict[str, Any] | None:
        """Return the metadata of the store; None in a new one."""
        points = self.get([META_ID])
        meta = points[0].payload.get("meta") if points else {}
        if not isinstance(meta, dict):
            where = f"{self._url}, collection {self._collection}"
            raise StoreError(message("store", "metadata", type(meta).__name__, where=where, todo=CREATE_STORE))
        return dict(meta) if points else None

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the metadata atomically."""
        self.insert([Point(META_ID, {}, {"kind": META, "meta": dict(meta)})])

    def check(self) -> Examination:
        """Read all points; what a server acknowledged is its own matter."""
        return Examination(sum(1 for using in (REGION, IMAGE) for _ in self.scan(_of_kind(using), using=using)))

    def optimise(self) -> None:
        """Do nothing: a server optimises by itself."""

    def close(self) -> None:
        """Close the connection; in a forked child, whose parent uses it, do nothing."""
        if self._process:
            self._client.close()

    def _connect(self, url: str, api_key: str | None, timeout_s: int) -> Any:
        check_key(api_key, url)
        try:
            with warnings.catch_warnings():
                # The client warns of every key over http, also on this machine, and asks the server for its version.
                warnings.simplefilter("ignore", UserWarning)
                return self._package.QdrantClient(
                    url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False, **limits(timeout_s)
                )
        except ValueError as error:
            raise InputError(message("url", "such as http://localhost:6333", repr(url))) from error

    def _create(self, dims: Mapping[str, int]) -> None:
        """Create the collection with its payload indexes."""
        if not dims:
            raise StoreError(message("store", "one that was made", "nothing there", where=self._url, todo=CREATE_STORE))
        models = self._models
        vectors = {
            name: models.VectorParams(size=size, distance=models.Distance.COSINE, on_disk=True)
            for name, size in dims.items()
        }
        try:
            hnsw = models.HnswConfigDiff(full_scan_threshold=FULL_SCAN_KB)
            self._call(
                partial(self._client.create_collection, self._collection, vectors_config=vectors, hnsw_config=hnsw)
            )
        except StoreError:
            # Another station may have created it at the same moment.
            if not self._call(lambda: self._client.collection_exists(self._collection)):
                raise
        kinds = models.PayloadSchemaType
        schemas = {"keyword": kinds.KEYWORD, "datetime": kinds.DATETIME, "float": kinds.FLOAT}
        for field, kind in INDEXED_FIELDS.items():
            index = partial(self._client.create_payload_index, self._collection, field, field_schema=schemas[kind])
            self._call(partial(index, wait=True))

    def _filter(self, where: Filter) -> Any:
        """Return the client's filter; the point of the metadata never matches."""
        models = self._models
        field = models.FieldCondition
        must = [field(key=key, match=models.MatchAny(any=list(values))) for key, values in where.equals.items()]
        if where.since is not None:
            must.append(field(key="time", range=models.DatetimeRange(gte=where.since)))
        must += [models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in where.empty]
        must_not = [field(key=key, match=models.MatchValue(value=value)) for key, value in where.differs.items()]
        must_not += [models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in where.filled]
        must_not.append(field(key="kind", match=models.MatchValue(value=META)))
        return models.Filter(must=must or None, must_not=must_not)

    def _call(self, call: Callable[[], Result]) -> Result:
        """Call the server, repeat the call after a passing problem, and raise what remains as `StoreError`."""
        self._process.check()
        wait_s = FIRST_WAIT_S
        for attempt in range(self._retries + 1):
            try:
                return call()
            except Exception as error:  # also of the client, for an answer of another program
                cause = error
                problem, passing = self._problem(error)
            if not passing:
                break
            if attempt < self._retries:
                self._sleep(wait_s)
                wait_s *= 2
        times = f" after {attempt + 1} tries" if attempt else ""
        todo = (
            "Nothing that was acknowledged is lost: start the server, or mend the address or key, and run this again."
            if passing
            else "Mend that and run this again; what was acknowledged is there."
        )
        where = f"{self._url}, collection {self._collection}"
        problem = without_key(f"{problem}{times}", self._key)
        raise StoreError(message("server", "an answer", problem, where=where, todo=todo)) from cause

    def _problem(self, error: Exception) -> tuple[str, bool]:
        """Return what was wrong with a call, and whether it may pass."""
        text = _one_line(error)
        if isinstance(error, self._exceptions.UnexpectedResponse):
            return f"status {error.status_code} ({text})", error.status_code in RETRIED_STATUS
        if isinstance(error, self._exceptions.ResponseHandlingException):
            is_answer = isinstance(error.source, ValueError)
            return (f"one of another program ({text})", False) if is_answer else (f"no answer ({text})", True)
        if type(error).__name__ == "ResourceExhaustedResponse":
            return f"status 429 ({text})", True
        return f"one of another program ({type(error).__name__}: {text})", False


def _of_kind(kind: str) -> Filter:
    return Filter().with_equals(kind=kind)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
