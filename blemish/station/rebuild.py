"""A database that was found damaged is built again from the files beside it, and from what can be read of it."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from blemish._io.files import save_error
from blemish.station.database import Database
from blemish.station.errors import DamagedError
from blemish.station.files import ENDINGS, read_record
from blemish.station.inspections import STORED, Review
from blemish.station.records import insert_inspection, insert_review

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from blemish.station.files import Files

LOG = logging.getLogger("blemish.station")
WHO = "station"
# Tables of which every row that can be read is kept; the audit only up to the first gap.
SALVAGED = ("users", "deployments", "audit", "defect_groups", "candidates")


def open_or_rebuild(path: Path, files: Files, *, durable: bool) -> Database:
    """Return the database of a station. A damaged one is moved aside and built again.

    Inspections and reviews come from the files beside it. Users, and the audit up to the damage, are kept as far as
    they can be read; sessions end.

    Raises:
        SaveError: if the damaged one can't be moved aside.
        StationError: if it can't be opened for another reason.
    """
    try:
        return Database(path, durable=durable)
    except DamagedError as error:
        LOG.error("%s It is built again now.", error)
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        for end in ("-wal", "-shm", ""):
            place = path.with_name(path.name + end)
            if place.exists():
                place.rename(aside.with_name(aside.name + end))
    except OSError as error:
        raise save_error("records", path, error) from error
    database = Database(path, durable=durable)
    with database.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        for table in SALVAGED:
            _insert_all(connection, table, _readable(aside, table))
        n_inspections, n_reviews = _restore(connection, files)
        for table in ("defect_members", "candidate_results"):  # of inspections that are there again
            _insert_all(connection, table, _readable(aside, table))
        counts = {"inspections": n_inspections, "reviews": n_reviews}
        database.record(connection, WHO, "rebuilt", "records", damaged=aside.name, **counts)
    LOG.warning("The records were built again: %d inspections, %d reviews.", n_inspections, n_reviews)
    return database


def _readable(path: Path, table: str) -> list[sqlite3.Row]:
    """Return the rows of a damaged database, or of an earlier version, up to the first that can't be read."""
    rows = list[sqlite3.Row]()
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid"):
                if table == "audit" and row["number"] != len(rows) + 1:
                    break
                rows.append(row)
    except sqlite3.Error:
        pass
    return rows


def _insert_all(connection: sqlite3.Connection, table: str, rows: list[sqlite3.Row]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", tuple(row))


def _restore(connection: sqlite3.Connection, files: Files) -> tuple[int, int]:
    """Insert the inspections and reviews in files, the oldest first; return how many."""
    n_inspections, n_reviews = 0, 0
    for id_, record in _records(files):
        deployment = record["deployment"]
        names, marks = ", ".join(deployment), ", ".join("?" * len(deployment))
        # Of a deployment before it that can't be read nothing is known.
        insert = f"INSERT OR IGNORE INTO deployments ({names}) VALUES ({marks})"
        connection.execute(insert, [None if name == "previous" else value for name, value in deployment.items()])
        image = files.image(id_, record["format"])
        n_bytes = image.stat().st_size + files.map(id_).stat().st_size
        values = {name: record[name] for name in STORED}
        insert_inspection(connection, {**values, "deployment": deployment["number"], "n_bytes": n_bytes})
        n_inspections += 1
        review = _review(files.review(id_))
        if review is not None:
            insert_review(connection, id_, review)
            n_reviews += 1
    return n_inspections, n_reviews


def _records(files: Files) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the id and the record of each inspection whose image is there."""
    for id_ in files.ids():
        record = read_record(files.map(id_))
        if record is None or not {*STORED, "deployment"} <= set(record) or record["id"] != id_:
            continue
        if record["format"] in ENDINGS and files.image(id_, record["format"]).is_file():
            yield id_, record


def _review(path: Path) -> Review | None:
    try:
        return Review(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
