"""A server that is down, slow, or refuses; what it answers is in test_search."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blemish import DefectStore, InputError, StoreError
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import DIMS, RegionEncoder
from blemish.search.records import REGION, Filter, Point
from tests.images import scratched
from tests.qdrant_server import VARIABLE, QdrantServer, binary


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("blemish.search.backends.server.time.sleep", waited.append)
    return waited


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server that the test may kill."""
    program = binary()
    if program is None:
        pytest.skip(f"{VARIABLE} is not set: this test needs a Qdrant server's program")
    server = QdrantServer(program, tmp_path / "qdrant", api_key="secret")
    yield server
    server.kill()


def made(url: str, **changes: Any) -> ServerBackend:
    settings: dict[str, Any] = {"api_key": None, "collection": "c", "dims": DIMS, "retries": 3, **changes}
    return ServerBackend(url, **settings)


def test_a_server_that_is_down_is_tried_again_and_then_said(no_waiting: list[float]):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StoreError, match=r"server: expected an answer, got no answer .* after 4 tries, in http"):
        made(url)
    assert no_waiting == [0.2, 0.4, 0.8]


def test_a_server_that_is_slow_is_given_up(no_waiting: list[float]):
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen()
        with pytest.raises(StoreError, match=r"no answer .*timed out.* after 2 tries"):
            made(f"http://127.0.0.1:{slow.getsockname()[1]}", timeout_s=0.5, retries=1)
    assert no_waiting == [0.2]


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (400, 1)])
def test_only_what_may_pass_is_tried_again(status: int, tries: int, no_waiting: list[float]):
    asked = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            for _ in range(tries):
                connection, _ = listening.accept()
                with connection:
                    asked.append(connection.recv(65536))
                    head = f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n"
                    connection.sendall(f"{head}content-type: application/json\r\n\r\n{{}}".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError, match=f"server: expected an answer, got status {status}"):
            made(f"http://127.0.0.1:{listening.getsockname()[1]}", retries=2)
        thread.join()
    assert len(asked) == tries
    assert len(no_waiting) == tries - 1


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="timeout_s, retries: expected above 0"):
        made("http://127.0.0.1:1", timeout_s=0.0)
    with pytest.raises(InputError, match="url: expected such as http"):
        made("http://127.0.0.1:port")


def test_a_key_that_anybody_could_read_on_the_way_is_warned_of():
    with pytest.warns(UserWarning, match="api_key: it goes to qdrant.invalid unencrypted"), pytest.raises(StoreError):
        made("http://qdrant.invalid:6333", api_key="secret", retries=0)


def test_a_wrong_key_is_said_and_the_right_one_works(own_server: QdrantServer, describer: RegionEncoder):
    own_server.start()
    with pytest.raises(StoreError, match="status 401"):
        DefectStore(url=own_server.url, api_key="wrong", model=describer)
    with DefectStore(url=own_server.url, api_key="secret", model=describer) as store:
        assert store.add(scratched(99)[0]).new
    assert "secret" not in repr(store)


def test_a_server_that_died_lost_nothing_that_was_acknowledged(own_server: QdrantServer, describer: RegionEncoder):
    own_server.start()
    with DefectStore(url=own_server.url, api_key="secret", model=describer, retries=1) as store:
        ids = store.add(scratched(99)[0], label="scratch").ids
        own_server.kill()
        with pytest.raises(StoreError, match="Nothing that was acknowledged is lost"):
            store.add(scratched(98)[0])
        own_server.start()
        assert [one.id for one in store.get(ids)] == list(ids)
        assert store.add(scratched(98)[0]).new


def test_every_field_that_is_filtered_has_an_index(qdrant_url: str):
    backend = made(qdrant_url, collection=f"t{uuid.uuid4().hex}")
    schema = backend._client.get_collection(backend._collection).payload_schema
    assert set(schema) == {"kind", "category", "label", "sha256", "model", "time", "score"}
    assert backend.count(Filter()) == 0
    backend.write_meta({"a": 1})
    assert backend.read_meta() == {"a": 1}
    assert backend.count(Filter()) == 0
    assert list(backend.scan(Filter(), using=REGION)) == []
    backend.close()


def test_points_may_be_more_than_one_call_takes(qdrant_url: str, rng: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.search.backends.server.BATCH", 7)
    backend = made(qdrant_url, collection=f"t{uuid.uuid4().hex}")
    points = [
        Point(str(uuid.UUID(int=i + 1)), {REGION: rng.standard_normal(DIMS[REGION], "f4")}, {"kind": REGION})
        for i in range(30)
    ]
    backend.insert(points)
    assert backend.count(Filter()) == 30
    assert [one.id for one in backend.scan(Filter())] == [one.id for one in points]
    assert len(backend.get([one.id for one in points])) == 30
    backend.set_payload([one.id for one in points], {"label": "x"})
    assert backend.count(Filter(equals={"label": ["x"]})) == 30
    backend.set_payload([points[0].id], {"label": None})
    assert backend.count(Filter(filled=("label",))) == 29
    backend.delete(Filter(empty=("label",)))
    assert backend.count(Filter()) == 29
    backend.close()
