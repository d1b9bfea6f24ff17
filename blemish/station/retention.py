"""Removal of old inspections; what a person reviewed stays until someone asks for its removal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from blemish.station.database import Database
    from blemish.station.files import Files
    from blemish.station.settings import StationSettings

DAY_S = 86_400.0
AT_ONCE = 500


class Removed(NamedTuple):
    """Result of a removal.

    Attributes:
        n: inspections that were removed.
        n_bytes: that their images and maps took.
        n_bytes_left: of all that stay.
        warning: a sentence for the user if more is kept than the settings allow, else "".
    """

    n: int
    n_bytes: int
    n_bytes_left: int
    warning: str


class Retention:
    """Removes inspections by the age and the size that the settings state."""

    def __init__(self, database: Database, files: Files, settings: StationSettings) -> None:
        self._database, self._files, self._settings = database, files, settings

    def apply(self, *, who: str, reviewed_too: bool = False) -> Removed:
        """Remove the inspections that are too old, then the oldest while all take too much disk.

        Args:
            reviewed_too: whether reviewed ones are removed like the others.

        Raises:
            StationError: if the database can't be read or written.
        """
        which = "1" if reviewed_too else "verdict IS NULL"
        n, n_bytes = 0, 0
        if self._settings.max_age_days is not None:
            limit = time.time() - DAY_S * self._settings.max_age_days
            n, n_bytes = self._remove(f"{which} AND time < ?", (limit,), who, "age", None)
        left, maximum = self._total(), self._settings.max_total_bytes
        if maximum is not None and left > maximum:
            more = self._remove(which, (), who, "size", left - maximum)
            n, n_bytes, left = n + more[0], n_bytes + more[1], left - more[1]
        warning = ""
        if maximum is not None and left > maximum:
            warning = (
                f"Inspections take {left / 1e9:.2f} GB, and {maximum / 1e9:.2f} GB are allowed: those that were "
                "reviewed are never removed unasked. Export and remove them, or allow more."
            )
        return Removed(n, n_bytes, left, warning)

    def _total(self) -> int:
        return int(self._database.rows("SELECT COALESCE(SUM(n_bytes), 0) AS n FROM inspections")[0]["n"])

    def _remove(
        self, which: str, arguments: tuple[float, ...], who: str, reason: str, n_bytes: int | None
    ) -> tuple[int, int]:
        """Remove the oldest inspections of a kind, until so many bytes are free; return count and bytes."""
        n, freed = 0, 0
        while n_bytes is None or freed < n_bytes:
            query = f"SELECT id, format, n_bytes FROM inspections WHERE {which} ORDER BY number LIMIT {AT_ONCE}"
            chosen = []
            for row in self._database.rows(query, arguments):
                if n_bytes is None or freed < n_bytes:
                    chosen.append(row)
                    freed += row["n_bytes"]
            if not chosen:
                break
            with self._database.transaction() as connection:
                ids = [(row["id"],) for row in chosen]
                for table in ("claims", "defect_members", "candidate_results", "looks"):
                    connection.executemany(f"DELETE FROM {table} WHERE inspection = ?", ids)
                connection.executemany("DELETE FROM inspections WHERE id = ?", ids)
                detail = {"reason": reason, "ids": [id_ for (id_,) in ids]}
                self._database.record(connection, who, "removed", f"{len(ids)} inspections", **detail)
            for row in chosen:  # after the database: a kill leaves files without a record, never the reverse
                self._files.remove(row["id"], row["format"])
            n += len(chosen)
        return n, freed
