"""Review queue: the inspection whose review would tell most comes first, to one person at a time, with the reason."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.errors import BlemishError
from blemish.station.informative import Priorities, priorities
from blemish.station.pool import lower_priority

if TYPE_CHECKING:
    import sqlite3

    from blemish.station.database import Database
    from blemish.station.defects import Defects
    from blemish.station.deployments import Deployments
    from blemish.station.informative import Reason
    from blemish.station.inspections import Inspection
    from blemish.station.pool import Pool
    from blemish.station.records import Records
    from blemish.types import Float32

LOG = logging.getLogger("blemish.station")
# Waiting inspections nearest to the threshold that are ordered, and newest reviewed ones that they are compared with.
N_WAITING, N_REVIEWED = 200, 300
# Of those, so many are encoded ahead.
N_AHEAD = 60
BUSY_S = 0.2
SENTENCES: dict[Reason, str] = {
    "near the threshold": "Its score is among the nearest to the threshold: the model is least sure here.",
    "novel": "It looks like no part that was reviewed so far.",
    "unlike its neighbors": "Of parts that look like it, people mostly said the opposite of the model.",
}


class ToReview(NamedTuple):
    """An inspection to be reviewed, and why this one.

    Attributes:
        inspection: without a review.
        reason: "near the threshold", "novel" or "unlike its neighbors".
    """

    inspection: Inspection
    reason: Reason

    @property
    def sentence(self) -> str:
        """The reason in an operator's words."""
        return SENTENCES[self.reason]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {"inspection": self.inspection.to_dict(), "reason": self.reason, "sentence": self.sentence}


class ReviewQueue:
    """Orders the inspections without a review. Threads may share it.

    Looks are the vectors of `DefectStore` (`blemish[search]`): they are computed in a thread of low priority, only
    while people review, and kept in the database. Where there are none, the distance to the threshold alone counts.
    """

    def __init__(
        self, database: Database, records: Records, deployments: Deployments, defects: Defects, pool: Pool
    ) -> None:
        self._database, self._records, self._deployments = database, records, deployments
        self._defects, self._pool = defects, pool
        self._is_stopping, self._lock, self._filling = False, threading.Lock(), set[str]()
        self._without_looks = set[str]()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="looks", initializer=lower_priority)

    def next(self, who: str, *, model: str = "") -> ToReview | None:
        """Return the most informative inspection without a review; no one else gets it for two minutes, and the same
        person gets it again. None if there is none left.

        Args:
            who: the person.
            model: name; "" for all.

        Raises:
            StationError: if the records can't be read or written.
        """
        for _ in range(3):  # another person may be faster
            waiting = self._records.waiting(who, model=model, limit=N_WAITING)
            if not waiting:
                return None
            ranked = self._ranked(waiting)
            order = sorted(range(len(waiting)), key=lambda i: (not waiting[i]["is_mine"], -ranked.total[i]))
            for index in order:
                if self._records.claim(waiting[index]["id"], who):
                    self._fill({row["model"] for row in waiting})
                    return ToReview(self._records.get(waiting[index]["id"]), ranked.reason(index))
        return None

    def _ranked(self, waiting: list[sqlite3.Row]) -> Priorities:
        """Return how much the review of each waiting inspection would tell."""
        n = len(waiting)
        ranked = Priorities(np.zeros(n), np.zeros(n), np.zeros(n))
        for name in {row["model"] for row in waiting}:
            rows = [i for i in range(n) if waiting[i]["model"] == name]
            margins = np.array([waiting[i]["margin"] for i in rows])
            labels = np.array([waiting[i]["outcome"] != "good" for i in rows], np.bool_)
            of_model = priorities(margins, labels, *self._looks(name, [waiting[i]["id"] for i in rows]))
            for whole, part in zip(ranked, of_model, strict=True):
                whole[rows] = part
        return ranked

    def _looks(self, name: str, ids: list[str]) -> tuple[Float32, Float32, Any]:
        """Return the looks of inspections, zeros where they are not known, and those of reviewed ones with verdicts."""
        marks = ", ".join("?" * len(ids))
        digest = self._digest(name)
        query = f"SELECT inspection, vector FROM looks WHERE digest = ? AND inspection IN ({marks})"
        known = {row["inspection"]: _vector(row["vector"]) for row in self._database.rows(query, (digest, *ids))}
        rows = self._database.rows(_REVIEWED_LOOKS, (name, digest, N_REVIEWED))
        reviewed = [_vector(row["vector"]) for row in rows]
        size = len(reviewed[0] if reviewed else next(iter(known.values()), np.zeros(1)))
        empty = np.zeros(size, np.float32)
        looks = np.stack([known.get(id_, empty) for id_ in ids])
        defective = np.array([row["verdict"] == "defective" for row in rows], np.bool_)
        return looks, np.stack(reviewed) if reviewed else np.zeros((0, size), np.float32), defective

    def _digest(self, name: str) -> str:
        """Return the hash of a model in service; "" if it is not there any more."""
        return next((one.deployment.digest for one in self._deployments if one.deployment.model == name), "")

    def _fill(self, names: set[str]) -> None:
        """Begin to compute looks that are missing."""
        with self._lock:
            for name in names - self._filling:
                digest = self._digest(name)
                if not digest or digest in self._without_looks or self._is_stopping:
                    continue
                self._filling.add(name)
                self._executor.submit(self._fill_one, name, digest)

    def _fill_one(self, name: str, digest: str) -> None:
        try:
            for query, limit in ((_REVIEWED, N_REVIEWED), (_WAITING, N_AHEAD)):
                for row in self._database.rows(query, (name, limit)):
                    if row["digest"] != digest:
                        self._look(row["id"], digest)
                    if self._is_stopping:
                        return
        except BlemishError as error:
            LOG.warning("The review queue of %s is ordered by the distance to the threshold alone: %s", name, error)
            self._without_looks.add(digest)
        finally:
            with self._lock:
                self._filling.discard(name)

    def _look(self, id_: str, digest: str) -> None:
        while self._pool.n_pending > self._pool.n_workers and not self._is_stopping:
            time.sleep(BUSY_S)
        inspection = self._records.get(id_)
        if self._digest(inspection.model) != digest or not self._defects.has_image(inspection):
            return
        vector = np.asarray(self._defects.look(inspection), np.float16)
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", (id_, digest, vector.tobytes()))

    def wait(self) -> None:
        """Wait until the looks that were begun are there."""
        self._executor.submit(lambda: None).result()

    def close(self) -> None:
        """Stop after the image whose looks are computed."""
        self._is_stopping = True
        self._executor.shutdown(wait=True)


_REVIEWED_LOOKS = """SELECT l.vector, i.verdict FROM inspections i JOIN looks l ON l.inspection = i.id
    WHERE i.verdict IS NOT NULL AND i.model = ? AND l.digest = ? ORDER BY i.number DESC LIMIT ?"""
_REVIEWED = """SELECT i.id, l.digest FROM inspections i LEFT JOIN looks l ON l.inspection = i.id
    WHERE i.verdict IS NOT NULL AND i.model = ? ORDER BY i.number DESC LIMIT ?"""
_WAITING = """SELECT i.id, l.digest FROM inspections i LEFT JOIN looks l ON l.inspection = i.id
    WHERE i.verdict IS NULL AND i.model = ? ORDER BY i.margin LIMIT ?"""


def _vector(data: bytes) -> Float32:
    return np.frombuffer(data, np.float16).astype(np.float32)
