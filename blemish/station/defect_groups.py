"""Groups of similar defects: each confirmed defect is in one, and the name of a group is the type of its members."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.errors import InputError, message
from blemish.search.clustering import cluster
from blemish.station.errors import UnknownError
from blemish.station.inspections import InspectionFilter, checked_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from blemish.station.database import Database
    from blemish.station.defects import Defects
    from blemish.station.events import Events
    from blemish.station.files import Files
    from blemish.station.records import Records
    from blemish.types import Bool, Float32

# Members of a group that a list shows.
N_SHOWN = 4
MAX_IDS = 5000
# Groups that are named as looking like one.
N_ALIKE = 3
# Of defects this share is further from its nearest neighbor than members of one group are, as in DefectStore.groups.
FAR_SHARE = 0.05
# Clusters merge at this cosine at the latest: few defects that look the same have no far neighbor. Of 40 defects of
# bottles and of magnetic tiles 93 and 88 % are in a group with most of their own type then, in 11 and 21 groups.
MOST_ALIKE = 0.5


class DefectGroup(NamedTuple):
    """A group of similar confirmed defects of one model.

    Attributes:
        number: 1, 2, 3, ... over all models.
        model: name of the model.
        name: the type of its defects; "" while nobody named it.
        n: its members.
        ids: of the inspections of its newest members, at most 4.
    """

    number: int
    model: str
    name: str
    n: int
    ids: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its name; "group 7" without one."""
        return self.name or f"group {self.number}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values."""
        return {**self._asdict(), "title": self.title}


class AlikeGroup(NamedTuple):
    """A group that looks like another one.

    Attributes:
        group: the other one.
        similarity: cosine of the mean vectors, at most 1.
    """

    group: DefectGroup
    similarity: float


class DefectGroups:
    """The groups of a station's confirmed defects. Threads may share it.

    A review that states a type puts the defect into the group of that name. Defects without a type are sorted by their
    looks into groups without a name: a type is only ever said by a person. Each change is in the audit.

    Methods raise `UnknownError` if there is no such group, and `StationError` if the records can't be read or written.
    """

    def __init__(self, database: Database, records: Records, files: Files, defects: Defects, events: Events) -> None:
        self._database, self._records, self._files = database, records, files
        self._defects, self._events = defects, events

    def all(self, model: str) -> list[DefectGroup]:
        """Return the groups of a model that have members, the largest first."""
        query = f"""SELECT g.number, g.model, g.name, COUNT(*) AS n {_MEMBERS}
            WHERE g.model = ? GROUP BY g.number ORDER BY n DESC, g.number"""
        return [self._with_ids(row) for row in self._database.rows(query, (model,))]

    def get(self, number: int) -> DefectGroup:
        """Return a group that has members."""
        query = f"SELECT g.number, g.model, g.name, COUNT(*) AS n {_MEMBERS} WHERE g.number = ? GROUP BY g.number"
        rows = self._database.rows(query, (number,))
        if not rows:
            todo = "Load the list again: it may have been merged, or its defects were called good."
            raise UnknownError(message("group", "one that has defects", str(number), todo=todo))
        return self._with_ids(rows[0])

    def _with_ids(self, row: sqlite3.Row) -> DefectGroup:
        query = f"SELECT i.id {_MEMBERS} WHERE g.number = ? ORDER BY i.number DESC LIMIT ?"
        ids = self._database.rows(query, (row["number"], N_SHOWN))
        return DefectGroup(row["number"], row["model"], row["name"], row["n"], tuple(one["id"] for one in ids))

    def n_unsorted(self, model: str) -> int:
        """Return the number of confirmed defects without a type that were not sorted by their looks yet."""
        return int(self._database.rows(f"SELECT COUNT(*) AS n {_UNSORTED}", (model,))[0]["n"])

    def sort(self, model: str, *, who: str) -> int:
        """Sort the confirmed defects without a type that are in no group by their looks; return their number.

        Each cluster of similar ones joins the group without a name that has most of its members, or is a new group.

        Raises:
            BlemishError: if the model is not in service, its training images are gone, or `blemish[search]` is not
                installed.

        Cost: the square of the number of defects without a type.
        """
        if not self.n_unsorted(model):
            return 0
        vectors = self._defects.vectors(model)
        with self._database.transaction() as connection:
            rows = connection.execute(_UNNAMED, (model,)).fetchall()
            rows = [row for row in rows if row["sha256"] in vectors]
            n_new = sum(row["defect_group"] is None for row in rows)
            if not n_new:
                return 0
            matrix = np.stack([vectors[row["sha256"]] for row in rows])
            clusters = cluster(matrix, _least_similarity(np.stack([*vectors.values()])))
            for number in range(int(clusters.max()) + 1):
                _join(connection, [rows[i] for i in np.flatnonzero(clusters == number)], model, who)
            self._database.record(connection, who, "defects sorted", model, n=n_new)
        self._events.publish("defects", {"model": model})
        return n_new

    def rename(self, number: int, name: str, *, who: str) -> DefectGroup:
        """Name a group: its members are of that type from now on.

        Raises:
            InputError: if the name is empty or too long, or another group has it.
        """
        group, given = self.get(number), checked_text("name", name)
        if not given:
            raise InputError(message("name", "the type of these defects", "none"))
        other = next((one for one in self.all(group.model) if one.name == given and one.number != number), None)
        if other is not None:
            todo = "Merge them if they are the same."
            raise InputError(message("name", "one that no other group has", f"that of {other.n} defects", todo=todo))
        with self._database.transaction() as connection:
            # A group of that name that has lost its members.
            connection.execute("DELETE FROM defect_groups WHERE model = ? AND name = ?", (group.model, given))
            connection.execute("UPDATE defect_groups SET name = ? WHERE number = ?", (given, number))
            ids = _ids_of(connection, number)
            _assign(connection, ids, number)
            self._database.record(connection, who, "defects renamed", f"group {number}", was=group.name, name=given)
        return self._followed(number, ids, who)

    def merge(self, number: int, into: int, *, who: str) -> DefectGroup:
        """Put all members of a group into another one of the same model, and return that.

        Raises:
            InputError: if both are the same, or of different models.
        """
        group, target = self.get(number), self.get(into)
        if number == into or group.model != target.model:
            raise InputError(message("into", f"another group of {group.model}", f"{target.title} of {target.model}"))
        with self._database.transaction() as connection:
            ids = _ids_of(connection, number)
            _assign(connection, ids, into)
            facts = {"name": group.name, "into": into, "into_name": target.name, "ids": ids}
            self._database.record(connection, who, "defects merged", f"group {number}", **facts)
        return self._followed(into, ids, who)

    def split(self, number: int, ids: Sequence[str], *, who: str, name: str = "") -> DefectGroup:
        """Put some members of a group into a new one, and return that.

        Args:
            number: of the group.
            ids: of the inspections; not all of the group.
            name: of the new group; if it is empty, and the group has a name, "NAME 2".

        Raises:
            InputError: if `ids` is empty, has all members, or one that is none; or another group has the name.
        """
        group, given = self.get(number), checked_text("name", name)
        chosen = self._checked(ids, group)
        if len(chosen) == group.n:
            raise InputError(message("ids", "some of the group", "all of it", todo="Rename it instead."))
        names = {one.name for one in self.all(group.model)}
        if given and given in names:
            raise InputError(message("name", "one that no other group has", repr(given), todo="Move them there."))
        if not given and group.name:
            given = next(text for i in range(2, len(names) + 3) if (text := f"{group.name} {i}") not in names)
        with self._database.transaction() as connection:
            new = _new_group(connection, group.model, given, who)
            _assign(connection, chosen, new)
            facts = {"name": group.name, "into": new, "into_name": given, "ids": chosen}
            self._database.record(connection, who, "defects split", f"group {number}", **facts)
        return self._followed(new, chosen, who)

    def move(self, ids: Sequence[str], into: int, *, who: str) -> DefectGroup:
        """Put some defects into another group of their model, and return that.

        Raises:
            InputError: if `ids` is empty, or one is no confirmed defect of that model.
        """
        target = self.get(into)
        chosen = self._checked(ids, None, model=target.model)
        with self._database.transaction() as connection:
            _assign(connection, chosen, into)
            self._database.record(connection, who, "defects moved", f"group {into}", name=target.name, ids=chosen)
        return self._followed(into, chosen, who)

    def proposed_split(self, number: int) -> list[str]:
        """Return the ids of the smaller part of a group, divided in two by looks; empty if it has fewer than two.

        Raises:
            BlemishError: as of `sort`.
        """
        group = self.get(number)
        vectors, members = self._defects.vectors(group.model), self._members(number)
        ids = [id_ for id_, sha256 in members if sha256 in vectors]
        if len(ids) < 2:
            return []
        is_far = _halves(np.stack([vectors[sha256] for _, sha256 in members if sha256 in vectors]))
        smaller = is_far if 2 * is_far.sum() <= len(is_far) else ~is_far
        return [ids[i] for i in np.flatnonzero(smaller)]

    def alike(self, number: int) -> list[AlikeGroup]:
        """Return the groups of the same model that look most like one, the nearest first, at most 3.

        Raises:
            BlemishError: as of `sort`.
        """
        group = self.get(number)
        vectors = self._defects.vectors(group.model)
        means: dict[int, Float32] = {}
        others = {one.number: one for one in self.all(group.model)}
        for key in others:
            found = [vectors[sha256] for _, sha256 in self._members(key) if sha256 in vectors]
            if found:
                mean = np.sum(found, axis=0)
                means[key] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        if number not in means:
            return []
        near = [AlikeGroup(others[key], float(means[number] @ means[key])) for key in means if key != number]
        return sorted(near, key=lambda one: -one.similarity)[:N_ALIKE]

    def _members(self, number: int) -> list[tuple[str, str]]:
        """Return id and SHA-256 of each member, the oldest first."""
        query = f"SELECT i.id, i.sha256 {_MEMBERS} WHERE g.number = ? ORDER BY i.number"
        return [(row["id"], row["sha256"]) for row in self._database.rows(query, (number,))]

    def _checked(self, ids: Sequence[str], group: DefectGroup | None, *, model: str = "") -> list[str]:
        chosen = list(dict.fromkeys(ids))
        if not 1 <= len(chosen) <= MAX_IDS:
            raise InputError(message("ids", f"1 to {MAX_IDS:,} inspections", str(len(chosen))))
        number = None if group is None else group.number
        asked = InspectionFilter(model=model or (group.model if group else ""), reviewed="defective", group=number)
        condition, arguments = asked.where()
        known = {
            row["id"] for row in self._database.rows(f"SELECT i.id FROM inspections i WHERE {condition}", arguments)
        }
        for id_ in chosen:
            if id_ not in known:
                where = "this group" if group else f"the confirmed ones of {model}"
                raise InputError(message("ids", f"defects of {where}", repr(id_)[:80], todo="Load the page again."))
        return chosen

    def _followed(self, number: int, ids: Sequence[str], who: str) -> DefectGroup:
        """Let the files and the store of defects follow a change of types; return the group."""
        group, labels = self.get(number), dict[str, str]()
        for id_ in ids:
            inspection = self._records.get(id_)
            if inspection.review is not None:
                self._files.keep_review(id_, inspection.review._asdict())
            labels[inspection.sha256] = group.name
        self._defects.relabel(group.model, labels, who)
        self._events.publish("defects", {"model": group.model})
        return group


_MEMBERS = """FROM defect_groups g JOIN defect_members m ON m.defect_group = g.number
    JOIN inspections i ON i.id = m.inspection AND i.verdict = 'defective'"""
_UNNAMED = """SELECT i.id, i.sha256, m.defect_group FROM inspections i
    LEFT JOIN defect_members m ON m.inspection = i.id
    WHERE i.model = ? AND i.verdict = 'defective' AND i.defect_type = '' ORDER BY i.number"""
_UNSORTED = """FROM inspections i LEFT JOIN defect_members m ON m.inspection = i.id
    WHERE i.model = ? AND i.verdict = 'defective' AND m.defect_group IS NULL"""


def follow_review(connection: sqlite3.Connection, id_: str, who: str) -> None:
    """Put an inspection whose review changed into the group of its type, or into none, within a transaction."""
    connection.execute("DELETE FROM defect_members WHERE inspection = ?", (id_,))
    query = "SELECT model, defect_type FROM inspections WHERE id = ? AND verdict = 'defective' AND defect_type <> ''"
    row = connection.execute(query, (id_,)).fetchone()
    if row is not None:
        query = "SELECT number FROM defect_groups WHERE model = ? AND name = ?"
        found = connection.execute(query, tuple(row)).fetchone()
        number = _new_group(connection, row["model"], row["defect_type"], who) if found is None else found["number"]
        connection.execute("INSERT INTO defect_members VALUES (?, ?)", (id_, number))


def _new_group(connection: sqlite3.Connection, model: str, name: str, who: str) -> int:
    connection.execute("DELETE FROM defect_groups WHERE model = ? AND name = ? AND name <> ''", (model, name))
    insert = "INSERT INTO defect_groups (model, name, time, who) VALUES (?, ?, ?, ?)"
    number = connection.execute(insert, (model, name, time.time(), who)).lastrowid
    assert number is not None
    return number


def _ids_of(connection: sqlite3.Connection, number: int) -> list[str]:
    query = f"SELECT i.id {_MEMBERS} WHERE g.number = ? ORDER BY i.number"
    return [row["id"] for row in connection.execute(query, (number,))]


def _assign(connection: sqlite3.Connection, ids: Sequence[str], number: int) -> None:
    """Put inspections into a group, and let their reviews state its name as the type."""
    (name,) = connection.execute("SELECT name FROM defect_groups WHERE number = ?", (number,)).fetchone()
    keys = [(id_,) for id_ in ids]
    connection.executemany(f"INSERT OR REPLACE INTO defect_members VALUES (?, {number:d})", keys)
    typed = [(name, id_) for id_ in ids]
    connection.executemany("UPDATE inspections SET defect_type = ? WHERE id = ?", typed)
    query = "UPDATE reviews SET defect_type = ? WHERE number = (SELECT review FROM inspections WHERE id = ?)"
    connection.executemany(query, typed)


def _join(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row], model: str, who: str) -> None:
    """Put the rows of one cluster that are in no group into the group of most of the others, or into a new one."""
    new = [row["id"] for row in rows if row["defect_group"] is None]
    if not new:
        return
    known = [row["defect_group"] for row in rows if row["defect_group"] is not None]
    number = max(known, key=known.count) if known else _new_group(connection, model, "", who)
    connection.executemany(f"INSERT INTO defect_members VALUES (?, {number:d})", [(id_,) for id_ in new])


def _least_similarity(vectors: Float32) -> float:
    """Return the mean cosine down to which clusters of defects merge: all but 1 in 20 have a neighbor as near."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1.0)
    return min(MOST_ALIKE, float(np.quantile(similarity.max(axis=1), FAR_SHARE)))


def _halves(vectors: Float32, *, n_steps: int = 20) -> Bool:
    """Return the second cluster of spherical 2-means, begun from the least similar pair."""
    similarity = vectors @ vectors.T
    first, second = np.unravel_index(similarity.argmin(), similarity.shape)
    centers = vectors[[first, second]]
    labels: Bool = vectors @ centers[1] > vectors @ centers[0]
    for _ in range(n_steps):
        if labels.all() or not labels.any():
            break
        sums = np.stack([vectors[~labels].sum(axis=0), vectors[labels].sum(axis=0)])
        centers = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        moved: Bool = vectors @ centers[1] > vectors @ centers[0]
        if (moved == labels).all():
            break
        labels = moved
    return labels
