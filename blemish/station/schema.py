"""Tables of a station's records, and their migrations."""

from __future__ import annotations

import sqlite3

from blemish.errors import message
from blemish.station.errors import StationError

# Each entry brings a database of version i to version i + 1. An entry is never changed once it was released.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE deployments (
        number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, digest TEXT NOT NULL, folder TEXT NOT NULL,
        source TEXT NOT NULL, detector TEXT NOT NULL, false_positive_rate REAL NOT NULL, threshold REAL NOT NULL,
        upper_threshold REAL, pixel_threshold REAL NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
        reason TEXT NOT NULL, previous INTEGER REFERENCES deployments(number));
    CREATE INDEX deployments_model ON deployments(model, number);

    CREATE TABLE inspections (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, model TEXT NOT NULL,
        deployment INTEGER NOT NULL REFERENCES deployments(number), part_id TEXT NOT NULL, source TEXT NOT NULL,
        score REAL NOT NULL, outcome TEXT NOT NULL, p_value REAL NOT NULL, margin REAL NOT NULL, drift TEXT NOT NULL,
        height INTEGER NOT NULL, width INTEGER NOT NULL, format TEXT NOT NULL, sha256 TEXT NOT NULL,
        n_bytes INTEGER NOT NULL, details TEXT NOT NULL,
        review INTEGER REFERENCES reviews(number), verdict TEXT, defect_type TEXT);
    CREATE INDEX inspections_model ON inspections(model, number);
    CREATE INDEX inspections_counts ON inspections(model, time, outcome, verdict);
    CREATE INDEX inspections_scores ON inspections(model, deployment, verdict, number, score);
    CREATE INDEX inspections_part ON inspections(part_id);
    CREATE INDEX inspections_image ON inspections(sha256);
    CREATE INDEX inspections_outcome ON inspections(outcome, number);
    CREATE INDEX inspections_waiting ON inspections(margin) WHERE verdict IS NULL;
    CREATE INDEX inspections_reviewed ON inspections(verdict, number) WHERE verdict IS NOT NULL;

    CREATE TABLE reviews (
        number INTEGER PRIMARY KEY AUTOINCREMENT, inspection TEXT NOT NULL, time REAL NOT NULL, who TEXT NOT NULL,
        verdict TEXT NOT NULL CHECK (verdict IN ('good', 'defective')), defect_type TEXT NOT NULL,
        comment TEXT NOT NULL, active INTEGER NOT NULL DEFAULT 1);
    CREATE INDEX reviews_inspection ON reviews(inspection, number);

    CREATE TABLE claims (inspection TEXT PRIMARY KEY, who TEXT NOT NULL, until REAL NOT NULL);

    CREATE TABLE audit (
        number INTEGER PRIMARY KEY, time REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL);
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is only appended to'); END;
    CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is only appended to'); END;

    CREATE TABLE users (
        name TEXT PRIMARY KEY, role TEXT NOT NULL, password TEXT NOT NULL, token TEXT UNIQUE, time REAL NOT NULL);
    CREATE TABLE sessions (
        key TEXT PRIMARY KEY, user TEXT NOT NULL, csrf TEXT NOT NULL, until REAL NOT NULL);
    """,
    """
    CREATE TABLE defect_groups (
        number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, name TEXT NOT NULL, time REAL NOT NULL,
        who TEXT NOT NULL);
    CREATE UNIQUE INDEX defect_groups_name ON defect_groups(model, name) WHERE name <> '';
    CREATE TABLE defect_members (inspection TEXT PRIMARY KEY, defect_group INTEGER NOT NULL);
    CREATE INDEX defect_members_group ON defect_members(defect_group);
    INSERT INTO defect_groups (model, name, time, who)
        SELECT DISTINCT model, defect_type, 0.0, 'station' FROM inspections
        WHERE verdict = 'defective' AND defect_type <> '';
    INSERT INTO defect_members
        SELECT i.id, g.number FROM inspections i JOIN defect_groups g ON g.model = i.model AND g.name = i.defect_type
        WHERE i.verdict = 'defective';
    """,
    """
    CREATE TABLE candidates (
        number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, digest TEXT NOT NULL, folder TEXT NOT NULL,
        source TEXT NOT NULL, detector TEXT NOT NULL, false_positive_rate REAL NOT NULL, threshold REAL NOT NULL,
        time REAL NOT NULL, who TEXT NOT NULL, n_dropped INTEGER NOT NULL DEFAULT 0,
        n_failed INTEGER NOT NULL DEFAULT 0, is_running INTEGER NOT NULL DEFAULT 1, end TEXT NOT NULL DEFAULT '');
    CREATE UNIQUE INDEX candidates_running ON candidates(model) WHERE is_running;
    CREATE TABLE candidate_results (
        candidate INTEGER NOT NULL, inspection TEXT NOT NULL, score REAL NOT NULL, outcome TEXT NOT NULL,
        PRIMARY KEY (candidate, inspection));
    CREATE INDEX candidate_results_inspection ON candidate_results(inspection);
    """,
    """
    CREATE TABLE looks (inspection TEXT PRIMARY KEY, digest TEXT NOT NULL, vector BLOB NOT NULL);
    CREATE INDEX inspections_waiting_of_model ON inspections(model, margin) WHERE verdict IS NULL;
    """,
)


def migrate(connection: sqlite3.Connection, where: object) -> None:
    """Bring a database to the present version; each step is one transaction.

    Raises:
        StationError: if it is of a newer version.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        todo = "Use the newer version of Blemish that wrote it."
        expected, got = f"records of version {len(MIGRATIONS)} or earlier", f"version {version}"
        raise StationError(message("records", expected, got, where=where, todo=todo))
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
