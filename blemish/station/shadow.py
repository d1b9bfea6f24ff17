"""Shadow mode: a candidate runs on the same images as the model in service, whose answers stay as they are."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from blemish.errors import BlemishError, InputError, message
from blemish.imaging.decode import decode
from blemish.station.inspections import Inspection, iso_time
from blemish.station.pool import lower_priority
from blemish.station.records import SELECT

if TYPE_CHECKING:
    import sqlite3

    from blemish.station.database import Database
    from blemish.station.deployments import CopiedModel, Deployment, Deployments
    from blemish.station.pool import Pool
    from blemish.station.settings import StationSettings
    from blemish.types import Outcome

LOG = logging.getLogger("blemish.station")
# Results that are written at once.
AT_ONCE = 16


@dataclass(frozen=True)
class Candidate:
    """A model that runs, or ran, beside the one in service.

    Attributes:
        number: 1, 2, 3, ... over all models.
        model: name of the model beside which it runs.
        digest: hash of the model folder.
        folder: the station's copy.
        source: the folder that it was copied from.
        detector: such as "patchcore".
        false_positive_rate, threshold: its own, as it was fitted.
        time: when it was started: seconds since 1970, UTC.
        who: the person who started it.
        n_dropped: images that it did not see because the station was busy.
        n_failed: images for which it gave no result.
        is_running: whether it still runs.
        end: why it ended; "" while it runs.
    """

    number: int
    model: str
    digest: str
    folder: str
    source: str
    detector: str
    false_positive_rate: float
    threshold: float
    time: float
    who: str
    n_dropped: int = 0
    n_failed: int = 0
    is_running: bool = True
    end: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values, without places on this machine."""
        names = ("number", "model", "digest", "detector", "false_positive_rate", "threshold", "who")
        more = ("n_dropped", "n_failed", "is_running", "end")
        return {**{name: getattr(self, name) for name in (*names, *more)}, "time": iso_time(self.time)}


class Wrong(NamedTuple):
    """Wrong results on reviewed parts.

    Attributes:
        false_positives: good parts that are not called good.
        missed: defective parts that are called good.
    """

    false_positives: int
    missed: int


class ShadowSummary(NamedTuple):
    """Results of a candidate beside those of the model in service.

    Attributes:
        candidate: with the number of images that it did not see.
        n: images that both saw.
        n_different: of those, the ones with another outcome.
        outcomes: number of images by (outcome of the model in service, outcome of the candidate).
        n_good, n_defective: images that both saw, by what people said of them.
        now, new: wrong results on those, of the model in service and of the candidate.
    """

    candidate: Candidate
    n: int
    n_different: int
    outcomes: dict[tuple[str, str], int]
    n_good: int
    n_defective: int
    now: Wrong
    new: Wrong

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        outcomes = [{"now": now, "new": new, "n": n} for (now, new), n in self.outcomes.items()]
        sides = {"now": self.now._asdict(), "new": self.new._asdict()}
        return {**self._asdict(), "candidate": self.candidate.to_dict(), "outcomes": outcomes, **sides}


class Difference(NamedTuple):
    """An image with another outcome of the candidate.

    Attributes:
        inspection: by the model in service.
        score: of the candidate.
        outcome: of the candidate.
    """

    inspection: Inspection
    score: float
    outcome: Outcome


@dataclass(eq=False)
class _Running:
    """A candidate that is loaded, and its results that are not written yet."""

    number: int
    copied: CopiedModel
    results: list[tuple[int, str, float, str]] = field(default_factory=list)
    n_dropped: int = 0
    n_failed: int = 0


class Shadows:
    """The candidates of a station, at most one beside each model. Threads may share it.

    All candidates share one thread of low priority. An image that is answered while that thread is busy, or while
    others wait for a worker, is dropped and counted: nothing is queued. Methods raise `UnknownError` if there is no
    such model in service, and `StationError` if the records can't be read or written.
    """

    def __init__(self, database: Database, deployments: Deployments, pool: Pool, settings: StationSettings) -> None:
        self._database, self._deployments, self._pool, self._settings = database, deployments, pool, settings
        self._changing, self._lock, self._running = threading.RLock(), threading.Lock(), dict[str, _Running]()
        self._is_busy = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=lower_priority)
        self._restore()

    def start(self, name: str, folder: str | os.PathLike[str], *, who: str) -> Candidate:
        """Run the model in a folder beside the one in service under a name; another candidate of it ends, the same one
        goes on.

        Raises:
            InputError: if it is the one in service.
            ModelFileError: if the folder holds no model that can be loaded.
            SaveError: if it can't be copied.
        """
        present, copied = self._deployments[name].deployment, self._deployments.copy_of(folder)
        if copied.digest == present.digest:
            raise InputError(message("candidate", "another model than the one in service", "the same"))
        running = self._running.get(name)
        if running is not None and running.copied.digest == copied.digest:
            return self._candidate(running.number)
        detector = copied.detector
        limits = {"false_positive_rate": detector.false_positive_rate, "threshold": detector.threshold}
        values = {"model": name, **copied.facts(), **limits, "time": time.time(), "who": who}
        self._end(name, "another one was started", who)
        with self._changing, self._database.transaction() as connection:
            names, marks = ", ".join(values), ", ".join("?" * len(values))
            insert = f"INSERT INTO candidates ({names}) VALUES ({marks})"
            number = connection.execute(insert, [*values.values()]).lastrowid
            assert number is not None
            facts = {"candidate": number, "digest": copied.digest, "threshold": detector.threshold}
            self._database.record(connection, who, "shadow started", name, **facts)
            self._running[name] = _Running(number, copied)
        return self._candidate(number)

    def stop(self, name: str, *, who: str) -> Candidate:
        """End the candidate beside a model; its results stay.

        Raises:
            InputError: if there is none.
        """
        running = self._require(name)
        self._end(name, "stopped", who)
        return self._candidate(running.number)

    def put_in_service(self, name: str, *, who: str) -> Deployment:
        """Put the candidate beside a model in service in its place.

        Raises:
            InputError: if there is none.
        """
        with self._changing:
            copied = self._require(name).copied
            deployment = self._deployments.put(name, copied, who=who, reason="put in service after shadow mode")
            self._end(name, "put in service", who)
        return deployment

    @property
    def names(self) -> frozenset[str]:
        """The models beside which a candidate runs."""
        return frozenset(self._running)

    def follow(self, deployment: Deployment) -> None:
        """End the candidate beside a model that was put in service by another way."""
        running = self._running.get(deployment.model)
        if running is not None and running.copied.digest == deployment.digest:
            self._end(deployment.model, "put in service", deployment.who)

    def summary(self, name: str) -> ShadowSummary | None:
        """Return the results of the newest candidate beside a model, whether it still runs; None if there was none."""
        self._deployments[name]
        self._flush(name)
        found = self._database.rows("SELECT MAX(number) AS number FROM candidates WHERE model = ?", (name,))
        if found[0]["number"] is None:
            return None
        candidate = self._candidate(found[0]["number"])
        query = f"""SELECT i.outcome AS now, r.outcome AS new, i.verdict, COUNT(*) AS n {_RESULTS}
            GROUP BY i.outcome, r.outcome, i.verdict"""
        return _summary(candidate, self._database.rows(query, (candidate.number,)))

    def different(self, name: str, *, before: int | None = None, limit: int = 50) -> list[Difference]:
        """Return images with another outcome of the newest candidate, the newest first.

        Args:
            before: only those of a lower number, for the next page.
            limit: how many at most, up to 500.

        Raises:
            InputError: if `limit` is out of range.
        """
        if not 1 <= limit <= 500:
            raise InputError(message("limit", "1 to 500", str(limit)))
        summary = self.summary(name)
        if summary is None:
            return []
        query = f"""SELECT inspection, score, outcome FROM
            (SELECT i.number, r.inspection, r.score, r.outcome {_RESULTS} AND r.outcome <> i.outcome AND i.number < ?)
            ORDER BY number DESC LIMIT ?"""
        arguments = (summary.candidate.number, 2**62 if before is None else before, limit)
        rows = {row["inspection"]: row for row in self._database.rows(query, arguments)}
        marks = ", ".join("?" * len(rows))
        inspections = self._database.rows(f"{SELECT} WHERE i.id IN ({marks}) ORDER BY i.number DESC", [*rows])
        pairs = [(Inspection.from_row(row), rows[row["id"]]) for row in inspections]
        return [Difference(inspection, row["score"], row["outcome"]) for inspection, row in pairs]

    def offer(self, inspection: Inspection, data: bytes) -> None:
        """Let the candidate beside the model of an answered inspection see its image, if nothing waits for a worker."""
        with self._lock:
            running = self._running.get(inspection.model)
            if running is None:
                return
            if running.copied.digest == inspection.digest:
                return  # it was put in service
            if self._is_busy or self._pool.n_pending > self._pool.n_workers:
                running.n_dropped += 1
                return
            self._is_busy = True
        try:
            self._executor.submit(self._see, running, inspection, data)
        except RuntimeError:  # the station closes
            self._is_busy = False

    def _see(self, running: _Running, inspection: Inspection, data: bytes) -> None:
        detector = running.copied.detector
        try:
            prediction = detector.predict(
                decode(data, bit_depth=detector.bit_depth, max_pixels=self._settings.max_pixels)
            )
            result = (running.number, inspection.id, prediction.score, prediction.outcome)
        except (BlemishError, MemoryError) as error:
            LOG.warning("The candidate beside %s gave no result: %s", inspection.model, error)
            with self._lock:
                running.n_failed += 1
                self._is_busy = False
            return
        with self._lock:
            running.results.append(result)
            is_full = len(running.results) >= AT_ONCE
            self._is_busy = False
        if is_full:
            try:
                self._flush(inspection.model)
            except BlemishError as error:  # they are tried again
                LOG.warning("Results of the candidate beside %s could not be written: %s", inspection.model, error)

    def _flush(self, name: str) -> None:
        """Write the results of a candidate that are not written yet; workers do not wait for it."""
        with self._lock:
            running = self._running.get(name)
            if running is None or not (running.results or running.n_dropped or running.n_failed):
                return
            results, n_dropped, n_failed = running.results, running.n_dropped, running.n_failed
            running.results, running.n_dropped, running.n_failed = [], 0, 0
        try:
            with self._database.transaction() as connection:
                connection.executemany("INSERT OR IGNORE INTO candidate_results VALUES (?, ?, ?, ?)", results)
                update = "UPDATE candidates SET n_dropped = n_dropped + ?, n_failed = n_failed + ? WHERE number = ?"
                connection.execute(update, (n_dropped, n_failed, running.number))
        except BlemishError:
            with self._lock:
                running.results = results + running.results
                running.n_dropped += n_dropped
                running.n_failed += n_failed
            raise

    def _end(self, name: str, reason: str, who: str) -> None:
        with self._changing:
            running = self._running.get(name)
            if running is not None:
                self._flush(name)
                self._mark_ended(name, running.number, reason, who)
                del self._running[name]

    def _mark_ended(self, name: str, number: int, reason: str, who: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE candidates SET is_running = 0, end = ? WHERE number = ?", (reason, number))
            self._database.record(connection, who, "shadow ended", name, candidate=number, reason=reason)

    def _restore(self) -> None:
        """Load the candidates that ran when the station stopped; one that can't be loaded ends."""
        for row in self._database.rows("SELECT * FROM candidates WHERE is_running"):
            name, number = row["model"], row["number"]
            try:
                self._deployments[name]
                copied = self._deployments.load_copy(row["folder"], row["source"], row["digest"])
            except BlemishError as error:
                LOG.warning("The candidate beside %s can't run any more: %s", name, error)
                self._mark_ended(name, number, str(error)[:500], "station")
            else:
                self._running[name] = _Running(number, copied)

    def _require(self, name: str) -> _Running:
        self._deployments[name]
        running = self._running.get(name)
        if running is None:
            raise InputError(message("candidate", f"one that runs beside {name}", "none", todo="Start one first."))
        return running

    def _candidate(self, number: int) -> Candidate:
        (row,) = self._database.rows("SELECT * FROM candidates WHERE number = ?", (number,))
        return Candidate(**{**dict(row), "is_running": bool(row["is_running"])})

    def close(self) -> None:
        """Finish the image that a candidate sees, and write all results."""
        self._executor.shutdown(wait=True)
        for name in tuple(self._running):
            with contextlib.suppress(BlemishError):
                self._flush(name)


_RESULTS = "FROM candidate_results r JOIN inspections i ON i.id = r.inspection WHERE r.candidate = ?"


def _summary(candidate: Candidate, rows: list[sqlite3.Row]) -> ShadowSummary:
    outcomes: dict[tuple[str, str], int] = {}
    reviewed = {"good": 0, "defective": 0}
    wrong = {(side, verdict): 0 for side in ("now", "new") for verdict in reviewed}
    for row in rows:
        pair = row["now"], row["new"]
        outcomes[pair] = outcomes.get(pair, 0) + row["n"]
        if row["verdict"] is not None:
            reviewed[row["verdict"]] += row["n"]
            for side in ("now", "new"):
                wrong[side, row["verdict"]] += row["n"] * ((row[side] == "good") != (row["verdict"] == "good"))
    n_different = sum(n for (now, new), n in outcomes.items() if now != new)
    now, new = (Wrong(wrong[side, "good"], wrong[side, "defective"]) for side in ("now", "new"))
    n = sum(outcomes.values())
    return ShadowSummary(candidate, n, n_different, outcomes, reviewed["good"], reviewed["defective"], now, new)
