from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish import InputError
from blemish.station import InspectionFilter, InspectionService, UnknownError
from blemish.station.schema import MIGRATIONS
from blemish.station.users import Users
from tests.images import good, scratched
from tests.station.test_api import refused
from tests.station.web_client import called

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.station.conftest import Opener

# Looks of two kinds: the first three defects are of one, the others of another.
ANGLES = (0.0, 0.1, 0.2, 1.4, 1.5, 1.6)


@pytest.fixture
def defects(station: InspectionService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Six confirmed defects without a type, of two looks."""
    return confirmed(station, monkeypatch)


def confirmed(station: InspectionService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = [station.inspect(scratched(seed)[0], part_id=f"B-{seed}") for seed in range(len(ANGLES))]
    for inspection in found:
        station.review(inspection.id, "defective", who="eva")
    pairs = zip(found, ANGLES, strict=True)
    looks = {one.sha256: np.array([np.cos(angle), np.sin(angle)], np.float32) for one, angle in pairs}
    monkeypatch.setattr("blemish.station.defects.Defects._vectors", lambda *_: looks)
    return [one.id for one in found]


@pytest.fixture
def client(station: InspectionService) -> Iterator[httpx.Client]:
    """A client of the station."""
    with called(station) as made:
        yield made


def members(station: InspectionService, number: int) -> list[str]:
    return [one.id for one in reversed(station.records.page(InspectionFilter(group=number)))]


def type_of(station: InspectionService, id_: str) -> str:
    review = station.records.get(id_).review
    assert review is not None
    return review.defect_type


def test_defects_without_a_type_are_sorted_by_their_looks_and_stay_nameless(
    station: InspectionService, defects: list[str]
):
    assert (station.groups.all("stripes"), station.groups.n_unsorted("stripes")) == ([], 6)
    assert station.groups.sort("stripes", who="eva") == 6
    first, second = station.groups.all("stripes")
    assert [members(station, one.number) for one in (first, second)] == [defects[:3], defects[3:]]
    assert (first.name, first.title, first.n, len(first.ids)) == ("", "group 1", 3, 3)
    assert {type_of(station, id_) for id_ in defects} == {""}
    assert (station.groups.sort("stripes", who="eva"), station.groups.n_unsorted("stripes")) == (0, 0)


def test_a_defect_that_comes_later_joins_the_group_that_it_looks_like(station: InspectionService, defects: list[str]):
    station.undo_review(defects[4], who="eva")
    assert station.groups.sort("stripes", who="eva") == 5
    station.review(defects[4], "defective", who="eva")
    assert station.groups.sort("stripes", who="eva") == 1
    assert [members(station, one.number) for one in station.groups.all("stripes")] == [defects[:3], defects[3:]]


def test_a_type_that_a_review_states_is_a_group(station: InspectionService, defects: list[str]):
    station.review(defects[0], "defective", who="eva", defect_type="scratch")
    station.review(defects[1], "defective", who="eva", defect_type="scratch")
    (scratch,) = station.groups.all("stripes")
    assert (scratch.name, members(station, scratch.number)) == ("scratch", defects[:2])
    station.review(defects[1], "good", who="eva")
    assert station.groups.get(scratch.number).n == 1
    station.undo_review(defects[1], who="eva")
    assert station.groups.get(scratch.number).n == 2
    assert station.groups.n_unsorted("stripes") == 4


@pytest.mark.slow
def test_a_name_is_the_type_of_all_members_and_survives(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station = opened_station()
    ids = confirmed(station, monkeypatch)
    station.groups.sort("stripes", who="eva")
    said = station.records.get(ids[0]).review
    group = station.groups.rename(1, " scratch ", who="otto")
    assert (group.name, group.n) == ("scratch", 3)
    assert [type_of(station, id_) for id_ in ids] == ["scratch"] * 3 + [""] * 3
    now = station.records.get(ids[0]).review
    assert said is not None
    assert now == said._replace(defect_type="scratch")  # who said that it is defective stays
    station = opened_station()
    assert station.groups.get(1) == group
    with pytest.raises(InputError, match="name: expected one that no other group has, got that of 3 defects"):
        station.groups.rename(2, "scratch", who="otto")
    with pytest.raises(InputError, match="name: expected the type of these defects, got none"):
        station.groups.rename(2, " ", who="otto")
    with pytest.raises(UnknownError, match="group: expected one that has defects, got 9"):
        station.groups.rename(9, "x", who="otto")
    for id_ in ids[:3]:
        station.review(id_, "good", who="eva")
    assert station.groups.rename(2, "scratch", who="otto").n == 3  # the other one has no members any more


def test_groups_are_merged_split_and_a_defect_is_moved(station: InspectionService, defects: list[str]):
    station.groups.sort("stripes", who="eva")
    station.groups.rename(1, "scratch", who="eva")
    assert station.groups.merge(2, 1, who="eva").n == 6
    assert {type_of(station, id_) for id_ in defects} == {"scratch"}
    assert sorted(station.groups.proposed_split(1)) in (defects[:3], defects[3:])
    new = station.groups.split(1, defects[3:], who="eva")
    assert (new.name, members(station, new.number)) == ("scratch 2", defects[3:])
    named = station.groups.split(new.number, defects[5:], name="dent", who="eva")
    assert named.name == type_of(station, defects[5]) == "dent"
    assert station.groups.move(defects[2:3], named.number, who="eva").n == 2
    assert type_of(station, defects[2]) == "dent"
    near = station.groups.alike(new.number)
    assert [one.group.name for one in near] == ["dent", "scratch"]
    assert near[0].similarity > near[1].similarity
    actions = [entry.action for entry in station.database.audit() if entry.action.startswith("defects")]
    assert actions == [f"defects {word}" for word in ("sorted", "renamed", "merged", "split", "split", "moved")]
    assert station.database.first_broken_entry() is None


def test_changes_of_groups_are_refused_with_a_reason(station: InspectionService, defects: list[str]):
    station.groups.sort("stripes", who="eva")
    other = station.inspect(good(1))
    for call, text in (
        (lambda: station.groups.merge(1, 1, who="eva"), "into: expected another group of stripes, got group 1"),
        (lambda: station.groups.split(1, defects[:3], who="eva"), "ids: expected some of the group, got all of it"),
        (lambda: station.groups.split(1, [], who="eva"), "ids: expected 1 to 5,000 inspections, got 0"),
        (lambda: station.groups.split(1, defects[3:4], who="eva"), "ids: expected defects of this group"),
        (lambda: station.groups.move([other.id], 1, who="eva"), "ids: expected defects of the confirmed ones of"),
    ):
        with pytest.raises(InputError, match=text):
            call()
    assert [one.n for one in station.groups.all("stripes")] == [3, 3]


@pytest.mark.slow
def test_a_damaged_database_keeps_groups(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station = opened_station()
    ids = confirmed(station, monkeypatch)
    station.groups.sort("stripes", who="eva")
    station.groups.rename(2, "dent", who="eva")
    before = station.groups.all("stripes")
    station.close()
    path = station.folder / "station.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        page, size = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'reviews'").fetchone()[0], 4096
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(data)
    station = opened_station()
    assert any(entry.action == "rebuilt" for entry in station.database.audit())
    assert station.groups.all("stripes") == before
    assert type_of(station, ids[5]) == "dent"


@pytest.mark.slow
def test_records_of_the_first_version_get_groups_of_their_types(opened_station: Opener):
    station = opened_station()
    bad = [station.inspect(scratched(seed)[0]) for seed in range(3)]
    for inspection, kind in zip(bad, ("scratch", "scratch", ""), strict=True):
        station.review(inspection.id, "defective", who="eva", defect_type=kind)
    station.close()
    query = "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'index') AND name NOT LIKE 'sqlite%'"
    with closing(sqlite3.connect(":memory:")) as first:
        first.executescript(MIGRATIONS[0])
        known = set(first.execute(query))
    with closing(sqlite3.connect(station.folder / "station.sqlite")) as connection:
        later = [one for one in connection.execute(query) if one not in known]
        drops = [f"DROP {kind} IF EXISTS {name};" for name, kind in later]  # indexes go with their tables
        connection.executescript("".join(drops) + "PRAGMA user_version = 1;")
    assert ("defect_groups", "table") in later
    station = opened_station()
    (group,) = station.groups.all("stripes")
    assert (group.name, group.n, station.groups.n_unsorted("stripes")) == ("scratch", 2, 1)


@pytest.mark.slow
def test_groups_over_http(client: httpx.Client, station: InspectionService, defects: list[str]):
    assert client.get("/v1/models/stripes/defects").json() == {"groups": [], "n_unsorted": 6}
    assert client.post("/v1/models/stripes/defects:sort").json() == {"n": 6}
    first, second = client.get("/v1/models/stripes/defects").json()["groups"]
    assert (first["title"], first["n"], second["n"]) == ("group 1", 3, 3)
    place = f"/v1/defects/{first['number']}"
    assert client.post(f"{place}:rename", json={"name": "scratch"}).json()["name"] == "scratch"
    assert client.get(f"{place}/alike").json()[0]["group"]["number"] == second["number"]
    merged = client.post(f"/v1/defects/{second['number']}:merge", json={"into": first["number"]}).json()
    assert merged["n"] == 6
    proposed = client.get(f"{place}/proposed-split").json()["ids"]
    new = client.post(f"{place}:split", json={"ids": proposed, "name": "dent"}).json()
    assert (new["n"], client.get(place).json()["n"]) == (3, 3)
    assert client.post(f"{place}:take", json={"ids": proposed[:1]}).json()["n"] == 4
    rows = csv.DictReader(io.StringIO(client.get(f"/v1/export.csv?group={new['number']}").text))
    assert [row["defect_type"] for row in rows] == ["dent", "dent"]
    listed = client.get(f"/v1/inspections?group={new['number']}&limit=1").json()
    assert f"group={new['number']}" in listed["next"]
    crop = client.get(listed["inspections"][0]["links"]["defect"])
    assert (crop.status_code, crop.headers["content-type"]) == (200, "image/jpeg")
    assert "expected one that has defects" in refused(client.get("/v1/defects/99"), 404)
    refused(client.post(f"{place}:split", json={"ids": []}), 422)
    page = client.get("/defects?model=stripes").text
    assert "scratch" in page
    assert "4 defects" in page
    assert "Its defects" in client.get(f"/defects/{first['number']}").text
    assert client.get("/defects/99").status_code == 404


@pytest.mark.slow
def test_a_viewer_sees_groups_and_changes_none(
    station: InspectionService, defects: list[str], monkeypatch: pytest.MonkeyPatch
):
    from argon2 import PasswordHasher

    monkeypatch.setattr("blemish.station.users._hasher", lambda: PasswordHasher(1, 8, 1))
    station.groups.sort("stripes", who="eva")
    users = Users(station.database)
    users.add("vera", "correct horse battery", "viewer", who="test")
    token = users.new_token("vera", who="test")
    with called(station, host="0.0.0.0") as client:
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get("/v1/models/stripes/defects", headers=headers).status_code == 200
        for place, body in (
            ("/v1/models/stripes/defects:sort", {}),
            ("/v1/defects/1:rename", {"name": "x"}),
            ("/v1/defects/1:merge", {"into": 2}),
            ("/v1/defects/1:split", {"ids": defects[:1]}),
            ("/v1/defects/1:take", {"ids": defects[5:]}),
        ):
            refused(client.post(place, json=body, headers=headers), 403)
        page = client.get("/defects/1", headers=headers).text
        assert "Merge" not in page
        assert "checkbox" not in page


def test_without_a_store_the_reason_is_said(
    client: httpx.Client, station: InspectionService, defects: list[str], monkeypatch: pytest.MonkeyPatch
):
    def none(*_: Any) -> None:
        raise InputError("search: expected blemish[search], got none.")

    monkeypatch.setattr("blemish.station.defects.Defects._vectors", none)
    assert "blemish[search]" in refused(client.post("/v1/models/stripes/defects:sort"), 409)
    assert "6 defects without a type are not sorted" in client.get("/defects").text


@pytest.mark.slow
def test_looks_and_types_are_those_of_the_store(station: InspectionService, tmp_path: Path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    known = [station.inspect(scratched(seed)[0]) for seed in range(4)]
    for inspection in known:
        station.review(inspection.id, "defective", who="eva")
    assert station.groups.sort("stripes", who="eva") == 4
    group = station.groups.all("stripes")[0]
    station.groups.rename(group.number, "scratch", who="eva")
    looks = station.defects.vectors("stripes")
    assert set(looks) == {one.sha256 for one in known}
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-4) for vector in looks.values())
    assert station.similar(station.inspect(scratched(7)[0])).suggested_type == "scratch"
