"""Inspections and reviews in the database of a station."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from blemish.errors import InputError, message
from blemish.station.defect_groups import follow_review
from blemish.station.errors import UnknownError
from blemish.station.inspections import (
    MAX_COMMENT,
    STORED,
    Inspection,
    InspectionFilter,
    Review,
    Verdict,
    checked_text,
    stored_fields,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from blemish.station.database import Database

SELECT = """
    SELECT i.*, d.digest, d.threshold, d.upper_threshold, d.pixel_threshold,
           r.comment, r.who, r.time AS review_time
    FROM inspections i JOIN deployments d ON d.number = i.deployment LEFT JOIN reviews r ON r.number = i.review
"""
INSERTED = (*STORED, "deployment", "n_bytes")
# An inspection is shown to one reviewer at a time for so long.
CLAIM_S = 120.0
MAX_PAGE = 500


class Scored(NamedTuple):
    """Score of an inspection, and the verdict of its review, if there is one."""

    score: float
    verdict: Verdict | None


class Records:
    """Inspections and reviews of a station; each change is in the audit. Threads may share it.

    Methods raise `StationError` if the database can't be read or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, inspection: Inspection, deployment: int, who: str) -> int:
        """Store an inspection, and return its number; on return it is on disk."""
        values = {**stored_fields(inspection), "deployment": deployment, "n_bytes": inspection.n_bytes}
        with self._database.transaction() as connection:
            number = insert_inspection(connection, values)
            facts = {"model": inspection.model, "digest": inspection.digest, "image": inspection.sha256}
            result = {"score": inspection.score, "outcome": inspection.outcome}
            self._database.record(connection, who, "inspected", inspection.id, **facts, **result)
        return number

    def get(self, id_: str) -> Inspection:
        """Return an inspection.

        Raises:
            UnknownError: if there is none of that id.
        """
        rows = self._database.rows(f"{SELECT} WHERE i.id = ?", (id_,))
        if not rows:
            todo = "It may have been removed because of its age."
            raise UnknownError(message("inspection", "an id that is in the records", repr(id_)[:80], todo=todo))
        return Inspection.from_row(rows[0])

    def page(
        self, chosen: InspectionFilter, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> list[Inspection]:
        """Return inspections, the newest first.

        Args:
            before: only those of a lower number, for the next page.
            after: only those of a higher number.
            limit: how many at most, up to 500.

        Raises:
            InputError: if `limit` is out of range.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InputError(message("limit", f"1 to {MAX_PAGE}", str(limit)))
        condition, arguments = chosen.where()
        for sign, number in (("<", before), (">", after)):
            if number is not None:
                condition += f" AND i.number {sign} ?"
                arguments.append(number)
        rows = self._database.rows(f"{SELECT} WHERE {condition} ORDER BY i.number DESC LIMIT ?", [*arguments, limit])
        return [Inspection.from_row(row) for row in rows]

    def neighbors_of(self, inspection: Inspection) -> tuple[str | None, str | None]:
        """Return the ids of the next newer and the next older inspection of the same model."""
        newer = "SELECT id FROM inspections WHERE model = ? AND number > ? ORDER BY number LIMIT 1"
        older = "SELECT id FROM inspections WHERE model = ? AND number < ? ORDER BY number DESC LIMIT 1"
        found = [self._database.rows(query, (inspection.model, inspection.number)) for query in (newer, older)]
        return tuple(rows[0]["id"] if rows else None for rows in found)  # type: ignore[return-value]

    def counts(self, chosen: InspectionFilter) -> dict[str, int]:
        """Return the number of inspections by outcome, of those that were reviewed, and of all ("total")."""
        condition, arguments = chosen.where()
        query = f"""SELECT i.outcome, COUNT(*) AS n, COUNT(i.verdict) AS reviewed
            FROM inspections i WHERE {condition} GROUP BY i.outcome"""
        rows = self._database.rows(query, arguments)
        found = {"good": 0, "look again": 0, "defective": 0, **{row["outcome"]: row["n"] for row in rows}}
        return {**found, "total": sum(found.values()), "reviewed": sum(row["reviewed"] for row in rows)}

    def scores(self, model: str, *, limit: int = 20_000) -> list[Scored]:
        """Return score and verdict of the newest inspections of a model in service under the same hash, and of all
        reviewed ones of that hash.
        """
        query = """SELECT i.score, i.verdict FROM inspections i JOIN deployments d ON d.number = i.deployment
            WHERE i.model = ?
            AND d.digest = (SELECT digest FROM deployments WHERE model = ? ORDER BY number DESC LIMIT 1)
            ORDER BY i.verdict IS NULL, i.number DESC LIMIT ?"""
        return [Scored(*row) for row in self._database.rows(query, (model, model, limit))]

    def recent_scores(self, model: str, n: int) -> list[dict[str, Any]]:
        """Return number, score, outcome and drift of the newest inspections of a model, the oldest first."""
        query = "SELECT number, id, score, outcome, drift FROM inspections WHERE model = ? ORDER BY number DESC LIMIT ?"
        return [dict(row) for row in reversed(self._database.rows(query, (model, n)))]

    def reviewed(self, chosen: InspectionFilter) -> Iterator[Inspection]:
        """Yield the reviewed inspections, the oldest first."""
        condition, arguments = chosen.where()
        number = 0
        while True:
            query = f"{SELECT} WHERE {condition} AND i.verdict IS NOT NULL AND i.number > ? ORDER BY i.number LIMIT 500"
            rows = self._database.rows(query, [*arguments, number])
            yield from map(Inspection.from_row, rows)
            if not rows:
                return
            number = rows[-1]["number"]

    def good_images(self, model: str) -> list[tuple[str, str]]:
        """Return part id and SHA-256 of the images of a model that people called good."""
        query = "SELECT part_id, sha256 FROM inspections WHERE model = ? AND verdict = 'good'"
        return [(row["part_id"], row["sha256"]) for row in self._database.rows(query, (model,))]

    def all(self, chosen: InspectionFilter) -> Iterator[Inspection]:
        """Yield all inspections, the newest first."""
        before: int | None = None
        while page := self.page(chosen, before=before, limit=MAX_PAGE):
            yield from page
            before = page[-1].number

    def review(self, id_: str, verdict: Verdict, *, who: str, defect_type: str = "", comment: str = "") -> Review:
        """Store what a person says of an inspection; an earlier review of it no longer counts.

        Raises:
            InputError: if `verdict` is none, a text is too long, or a good part has a type of defect.
            UnknownError: if there is no such inspection.
        """
        if verdict not in get_args(Verdict):
            raise InputError(message("verdict", " or ".join(get_args(Verdict)), repr(verdict)))
        kind = checked_text("defect_type", defect_type)
        if verdict == "good" and kind:
            raise InputError(message("defect_type", "none for a good part", repr(kind)))
        said = Review(verdict, kind, checked_text("comment", comment, longest=MAX_COMMENT), who, time.time())
        before = self.get(id_)
        with self._database.transaction() as connection:
            insert_review(connection, id_, said)
            facts = {"verdict": verdict, "defect_type": kind, "comment": said.comment}
            was = None if before.review is None else before.review.verdict
            self._database.record(connection, who, "reviewed", id_, **facts, was=was, digest=before.digest)
        return said

    def undo_review(self, id_: str, *, who: str) -> Review | None:
        """Take back the last review of an inspection; return the one before it, which counts again.

        Raises:
            InputError: if it has no review.
            UnknownError: if there is no such inspection.
        """
        if self.get(id_).review is None:
            raise InputError(message("review", "an inspection that was reviewed", "one that was not"))
        with self._database.transaction() as connection:
            query = (
                "SELECT number, verdict, defect_type FROM reviews WHERE inspection = ? AND active ORDER BY number DESC"
            )
            last, *rest = connection.execute(query, (id_,)).fetchall()
            connection.execute("UPDATE reviews SET active = 0 WHERE number = ?", (last["number"],))
            _set_review(connection, id_, tuple(rest[0]) if rest else (None, None, None), who)
            self._database.record(connection, who, "review taken back", id_, verdict=last["verdict"])
        return self.get(id_).review

    def next_to_review(self, who: str, *, model: str = "") -> Inspection | None:
        """Return the inspection without a review whose score is nearest to the threshold; no one else gets it for two
        minutes. None if there is none left.
        """
        while rows := self.waiting(who, model=model, limit=1):
            if self.claim(rows[0]["id"], who):
                return self.get(rows[0]["id"])
        return None

    def waiting(self, who: str, *, model: str = "", limit: int) -> list[sqlite3.Row]:
        """Return id, model, margin, outcome, and whether the person has it, of inspections without a review that nobody
        else has, the nearest to the threshold first.
        """
        now = time.time()
        # A time far ahead was set before the clock went back.
        query = f"""SELECT i.id, i.model, i.margin, i.outcome, c.who IS NOT NULL AS is_mine FROM inspections i
            LEFT JOIN claims c ON c.inspection = i.id AND c.until BETWEEN ? AND ?
            WHERE i.verdict IS NULL AND (c.who IS NULL OR c.who = ?) {"AND i.model = ?" if model else ""}
            ORDER BY i.margin LIMIT ?"""
        arguments = [now, now + 2 * CLAIM_S, who, *([model] if model else []), limit]
        return self._database.rows(query, arguments)

    def claim(self, id_: str, who: str) -> bool:
        """Give an inspection without a review to one person for two minutes; return whether nobody else has it."""
        now = time.time()
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM claims WHERE until < ? OR until > ?", (now, now + 2 * CLAIM_S))
            query = """SELECT 1 FROM inspections i LEFT JOIN claims c ON c.inspection = i.id
                WHERE i.id = ? AND i.verdict IS NULL AND (c.who IS NULL OR c.who = ?)"""
            if connection.execute(query, (id_, who)).fetchone() is None:
                return False
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (id_, who, now + CLAIM_S))
        return True

    def last_time_of(self, who: str) -> float | None:
        """Return the time of the newest inspection that someone asked for; None if there was none."""
        query = "SELECT time FROM audit WHERE who = ? AND action = 'inspected' ORDER BY number DESC LIMIT 1"
        rows = self._database.rows(query, (who,))
        return float(rows[0]["time"]) if rows else None

    def has_image(self, source: str, sha256: str) -> bool:
        """Return whether an image of this source and hash was inspected."""
        query = "SELECT 1 FROM inspections WHERE sha256 = ? AND source = ? LIMIT 1"
        return bool(self._database.rows(query, (sha256, source)))

    def defect_types(self, model: str = "") -> list[str]:
        """Return the types of defects that were said in reviews, the most frequent first."""
        query = """SELECT defect_type FROM inspections WHERE verdict = 'defective' AND defect_type <> ''
            AND (? = '' OR model = ?) GROUP BY defect_type ORDER BY COUNT(*) DESC, defect_type"""
        return [row["defect_type"] for row in self._database.rows(query, (model, model))]


def insert_inspection(connection: sqlite3.Connection, values: Mapping[str, Any]) -> int:
    """Insert an inspection, within a transaction; return its number."""
    row = [json.dumps(dict(values[name])) if name == "details" else values[name] for name in INSERTED]
    marks = ", ".join("?" * len(INSERTED))
    insert = f"INSERT INTO inspections ({', '.join(INSERTED)}) VALUES ({marks})"
    number = connection.execute(insert, row).lastrowid
    assert number is not None
    return number


def insert_review(connection: sqlite3.Connection, id_: str, review: Review) -> None:
    """Insert a review that counts from now on, within a transaction."""
    insert = """INSERT INTO reviews (verdict, defect_type, comment, who, time, inspection)
        VALUES (?, ?, ?, ?, ?, ?)"""
    number = connection.execute(insert, (*review, id_)).lastrowid
    _set_review(connection, id_, (number, review.verdict, review.defect_type), review.who)


def _set_review(connection: sqlite3.Connection, id_: str, values: Sequence[Any], who: str) -> None:
    connection.execute("UPDATE inspections SET review = ?, verdict = ?, defect_type = ? WHERE id = ?", (*values, id_))
    connection.execute("DELETE FROM claims WHERE inspection = ?", (id_,))
    follow_review(connection, id_, who)
