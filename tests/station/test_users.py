from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from blemish import InputError
from blemish.station import UnknownError
from blemish.station.users import Users
from tests.images import good
from tests.station.test_api import PREDICT, refused
from tests.station.test_service import png
from tests.station.web_client import called

if TYPE_CHECKING:
    import httpx

    from blemish.station import InspectionService
    from tests.station.conftest import Opener

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from argon2 import PasswordHasher

    monkeypatch.setattr("blemish.station.users._hasher", lambda: PasswordHasher(1, 8, 1))


@pytest.fixture
def users(station: InspectionService) -> Users:
    """A station's users: one of each role."""
    made = Users(station.database)
    for role in ("viewer", "operator", "admin"):
        made.add(role, PASSWORD, role, who="test")
    return made


@pytest.fixture
def client(station: InspectionService, users: Users) -> Iterator[httpx.Client]:
    """A client of a station with users."""
    with called(station, host="0.0.0.0") as made:
        yield made


def test_users_are_known_by_password_and_by_token(users: Users):
    assert users.by_password("operator", PASSWORD) == ("operator", "operator")
    assert users.by_password("operator", "wrong") is None
    assert users.by_password("nobody", PASSWORD) is None
    token = users.new_token("operator", who="test")
    assert users.by_token(token) == ("operator", "operator")
    again = users.new_token("operator", who="test")
    assert users.by_token(token) is None
    assert users.by_token("") is None
    users.remove("operator", who="test")
    assert users.by_token(again) is None
    assert [user.name for user in users.list()] == ["admin", "viewer"]


def test_passwords_and_tokens_are_not_in_the_records(users: Users, station: InspectionService):
    token = users.new_token("admin", who="test")
    key = users.start_session(users.list()[0])
    station.close()
    data = b"".join(path.read_bytes() for path in station.folder.glob("station.sqlite*"))
    assert b"$argon2id$" in data
    for secret in (PASSWORD, token, key):
        assert secret.encode() not in data


def test_users_are_refused_with_a_reason(users: Users):
    for name, password, role, text in (
        ("a b", PASSWORD, "admin", "user: expected letters, digits"),
        ("eva", "short", "admin", "password: expected at least 10 characters, got 5"),
        ("eva", PASSWORD, "king", "role: expected viewer, operator, admin, got 'king'"),
    ):
        with pytest.raises(InputError, match=text):
            users.add(name, password, role, who="test")
    with pytest.raises(UnknownError, match="user: expected one that was added"):
        users.remove("nobody", who="test")
    with pytest.raises(UnknownError):
        users.new_token("nobody", who="test")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "status"),
    [("viewer", [200, 403, 403, 403]), ("operator", [200, 200, 403, 403]), ("admin", [200, 200, 200, 200])],
)
def test_each_role_may_do_its_part(client: httpx.Client, users: Users, role: str, status: list[int]):
    headers = {"Authorization": f"Bearer {users.new_token(role, who='test')}"}
    answers = [
        client.get("/v1/models", headers=headers),
        client.post(PREDICT, content=png(good(1)), headers=headers),
        client.post("/v1/models/stripes/threshold", json={"false_positive_rate": 0.2}, headers=headers),
        client.get("/v1/audit", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == status


@pytest.mark.slow
def test_without_a_user_nothing_is_shown(client: httpx.Client):
    for path in ("/v1/models", "/v1/inspections", "/v1/events", "/metrics", "/v1/export.csv"):
        assert "expected a token or a session" in refused(client.get(path), 401)
    assert refused(client.post(PREDICT, content=png(good(1))), 401)
    assert refused(client.get("/v1/models", headers={"Authorization": "Bearer wrong"}), 401)
    assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_a_session_needs_its_csrf_token_for_changes(client: httpx.Client, users: Users, station: InspectionService):
    key = users.start_session(users.list()[1])
    session = users.session(key)
    assert session is not None
    inspection = station.inspect(good(1))
    client.cookies.set("blemish_session", key)
    place, body = f"/v1/inspections/{inspection.id}/review", {"verdict": "good"}
    assert client.get("/v1/models").status_code == 200
    assert "X-CSRF-Token" in refused(client.post(place, json=body), 403)
    assert "X-CSRF-Token" in refused(client.post(place, json=body, headers={"X-CSRF-Token": "x"}), 403)
    right = {"X-CSRF-Token": session.csrf}
    assert "another site" in refused(
        client.post(place, json=body, headers={**right, "Origin": "https://evil.example"}), 403
    )
    assert client.post(place, json=body, headers=right).json()["who"] == "operator"
    users.add("operator", PASSWORD, "operator", who="test")
    assert refused(client.get("/v1/models"), 401)


@pytest.mark.slow
def test_a_browser_logs_in_and_out(client: httpx.Client):
    body = {"name": "operator", "password": PASSWORD}
    assert "another site" in refused(
        client.post("/v1/login", json=body, headers={"Origin": "https://evil.example"}), 403
    )
    answer = client.post("/v1/login", json=body)
    assert (answer.status_code, answer.json()["role"]) == (200, "operator")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/v1/models").status_code == 200
    assert client.post("/v1/logout", headers={"X-CSRF-Token": answer.json()["csrf"]}).json() == {"name": "operator"}
    assert refused(client.get("/v1/models"), 401)


@pytest.mark.slow
def test_five_wrong_passwords_and_the_next_has_to_wait(client: httpx.Client):
    for _ in range(5):
        answer = client.post("/v1/login", json={"name": "admin", "password": "wrong"})
        assert "expected those of a user" in refused(answer, 401)
    answer = client.post("/v1/login", json={"name": "admin", "password": PASSWORD})
    assert "expected the right one within 5 tries" in refused(answer, 429)
    assert answer.headers["retry-after"] == "60"


def test_users_outlive_a_damaged_database(users: Users, opened_station: Opener, station: InspectionService):
    token = users.new_token("admin", who="test")
    for seed in range(30):
        users.add(f"user-{seed}", PASSWORD, "viewer", who="test")
    station.close()
    path = station.folder / "station.sqlite"
    data = bytearray(path.read_bytes())
    data[-4096:] = b"\xff" * 4096
    path.write_bytes(data)
    assert Users(opened_station().database).by_token(token) == ("admin", "admin")


def test_it_is_not_reached_from_elsewhere_by_everyone(station: InspectionService):
    from blemish.station.web.options import WebOptions
    from blemish.station.web.server import check_options

    check_options(station, WebOptions())
    check_options(station, WebOptions(host="0.0.0.0", insecure=True))
    with pytest.raises(InputError, match=r"host: expected this machine alone while there are no users, got 0\.0\.0\.0"):
        check_options(station, WebOptions(host="0.0.0.0"))
    Users(station.database).add("eva", PASSWORD, "admin", who="test")
    check_options(station, WebOptions(host="0.0.0.0"))
