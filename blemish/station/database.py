"""SQLite database of a station: one writer, readers beside it, and an audit in which each entry holds the hash of the
one before.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from blemish.errors import message
from blemish.station.errors import DamagedError, StationError
from blemish.station.schema import migrate

# Of an entry without one before it.
NO_HASH = "0" * 64
BUSY_S = 10.0


class AuditEntry(NamedTuple):
    """One entry of the audit.

    Attributes:
        number: 1, 2, 3, ... without gaps.
        time: seconds since 1970, UTC.
        who: the user, or the part of the program.
        action: such as "inspected", "reviewed", "put in service".
        subject: id of the inspection, or name of the model or user.
        detail: JSON.
        previous: hash of the entry before.
        hash: SHA-256 of all the other fields.
    """

    number: int
    time: float
    who: str
    action: str
    subject: str
    detail: str
    previous: str
    hash: str

    def computed_hash(self) -> str:
        """Return the hash that follows from the other fields."""
        return hashlib.sha256(json.dumps(self[:-1]).encode()).hexdigest()


class Database:
    """The database of a station. Threads may share it.

    Methods raise `StationError` if the disk is full or the file gone, and `DamagedError` if it is damaged.

    Attributes:
        is_damaged: whether damage was seen.

    Args:
        path: the file; made if there is none.
        durable: whether each transaction waits for the disk.

    Raises:
        StationError: if it is no database, damaged, or of a newer version.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path, self._durable = path, durable
        self._lock, self._readers, self.is_damaged = threading.RLock(), list[sqlite3.Connection](), False
        with self._explained(), ExitStack() as stack:
            self._writer = stack.enter_context(closing(self._connect()))
            (verdict,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            migrate(self._writer, path)
            stack.pop_all()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Let one thread change the database: all that it does is there at the end, or nothing after an error."""
        with self._lock, self._explained():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def rows(self, query: str, arguments: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query; it does not wait for a transaction that runs."""
        with self._explained():
            try:
                reader = self._readers.pop()
            except IndexError:
                reader = self._connect()
            try:
                found = reader.execute(query, arguments).fetchall()
            except BaseException:
                reader.close()
                raise
            self._readers.append(reader)
            return found

    def record(self, connection: sqlite3.Connection, who: str, action: str, subject: str, **detail: Any) -> None:
        """Append an entry to the audit, within a transaction."""
        last = connection.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
        number, previous = (last["number"] + 1, last["hash"]) if last is not None else (1, NO_HASH)
        text = json.dumps(detail, sort_keys=True)
        entry = AuditEntry(number, time.time(), who, action, subject, text, previous, "")
        entry = entry._replace(hash=entry.computed_hash())
        connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entry)

    def audit(self, *, after: int = 0, limit: int = -1) -> Iterator[AuditEntry]:
        """Yield the entries of the audit after a number, the oldest first; a limit of -1 is none."""
        with self._explained(), closing(self._connect()) as reader:
            query = "SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT ?"
            for row in reader.execute(query, (after, limit)):
                yield AuditEntry(*row)

    def first_broken_entry(self) -> int | None:
        """Return the number of the first entry of the audit that was changed, removed or inserted; None if none was.

        Entries that were cut off at the end are not seen: keep the hash of the last one elsewhere to see that.
        """
        previous = NO_HASH
        for number, entry in enumerate(self.audit(), start=1):
            if (entry.number, entry.previous) != (number, previous) or entry.hash != entry.computed_hash():
                return number
            previous = entry.hash
        return None

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        with self._lock:
            for connection in (*self._readers, self._writer):
                connection.close()
            self._readers.clear()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            explained = _explained(error, self.path)
            self.is_damaged |= isinstance(explained, DamagedError)
            raise explained from error


def _explained(error: sqlite3.Error, path: Path) -> StationError:
    """Return what an error of SQLite means, and what to do."""
    text = str(error)
    if "malformed" in text or "not a database" in text or type(error) is sqlite3.DatabaseError:
        kind: type[StationError] = DamagedError
        todo = "The file is damaged: start the station again, which builds it from the files beside it."
    elif "full" in text:
        kind, todo = StationError, "The disk is full: free some space; until then nothing is accepted."
    else:
        kind, todo = StationError, "Check the disk and the rights of the folder."
    return kind(message("records", "a database that can be read and written", repr(text), where=path, todo=todo))
