"""A server that is down, slow, or refuses; queries are in test_store."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blemish import DefectStore, InputError, StoreError
from blemish.search.backends.interface import REGION, Filter, Point
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import DIMS, RegionEncoder
from tests.images import scratched
from tests.qdrant_server import VARIABLE, QdrantServer, binary


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server that the test may kill."""
    program = binary()
    if program is None:
        pytest.skip(f"{VARIABLE} is not set: this test needs a Qdrant server's program")
    server = QdrantServer(program, tmp_path / "qdrant", api_key="secret")
    yield server
    server.kill()


def backend_of(url: str, *, waits: list[float] | None = None, **changes: Any) -> ServerBackend:
    """A backend that appends to `waits` instead of waiting."""
    sleep = ([] if waits is None else waits).append
    settings: dict[str, Any] = {"api_key": None, "collection": "c", "dims": DIMS, "retries": 3, "sleep": sleep}
    return ServerBackend(url, **{**settings, **changes})


@pytest.mark.slow
def test_a_server_that_is_down_is_tried_again_and_then_an_error():
    waits: list[float] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StoreError, match=r"server: expected an answer, got no answer .* after 4 tries, in http"):
        backend_of(url, waits=waits)
    assert waits == [0.2, 0.4, 0.8]


@pytest.mark.slow
def test_a_server_that_is_slow_is_given_up():
    waits: list[float] = []
    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen()
        with pytest.raises(StoreError, match=r"no answer .*timed out.* after 2 tries"):
            backend_of(f"http://127.0.0.1:{slow.getsockname()[1]}", waits=waits, timeout_s=0.5, retries=1)
    assert waits == [0.2]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "tries"), [(503, 3), (400, 1)])
def test_only_passing_problems_are_tried_again(status: int, tries: int):
    requests, waits = [], []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            for _ in range(tries):
                connection, _ = listening.accept()
                with connection:
                    requests.append(connection.recv(65536))
                    head = f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n"
                    connection.sendall(f"{head}content-type: application/json\r\n\r\n{{}}".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError, match=f"server: expected an answer, got status {status}"):
            backend_of(f"http://127.0.0.1:{listening.getsockname()[1]}", waits=waits, retries=2)
        thread.join()
    assert len(requests) == tries
    assert len(waits) == tries - 1


@pytest.mark.slow
def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="timeout_s, retries: expected above 0"):
        backend_of("http://127.0.0.1:1", timeout_s=0.0)
    with pytest.raises(InputError, match="url: expected such as http"):
        backend_of("http://127.0.0.1:port")


def test_an_unencrypted_key_is_warned_of():
    with pytest.warns(UserWarning, match="api_key: it goes to qdrant.invalid unencrypted"), pytest.raises(StoreError):
        backend_of("http://qdrant.invalid:6333", api_key="secret", retries=0)


@pytest.mark.slow
def test_a_wrong_key_is_refused_and_the_right_one_works(own_server: QdrantServer, encoder: RegionEncoder):
    own_server.start()
    with pytest.raises(StoreError, match="status 401"):
        DefectStore(url=own_server.url, api_key="wrong", model=encoder)
    with DefectStore(url=own_server.url, api_key="secret", model=encoder) as store:
        assert store.add(scratched(99)[0]).new
    assert "secret" not in repr(store)


@pytest.mark.slow
def test_a_killed_server_loses_nothing_acknowledged(own_server: QdrantServer, encoder: RegionEncoder):
    own_server.start()
    with DefectStore(url=own_server.url, api_key="secret", model=encoder, retries=1) as store:
        ids = store.add(scratched(99)[0], label="scratch").ids
        own_server.kill()
        with pytest.raises(StoreError, match="Nothing that was acknowledged is lost"):
            store.add(scratched(98)[0])
        own_server.start()
        assert [one.id for one in store.get(ids)] == list(ids)
        assert store.add(scratched(98)[0]).new


@pytest.mark.slow
def test_every_filtered_field_has_an_index(qdrant_url: str):
    backend = backend_of(qdrant_url, collection=f"t{uuid.uuid4().hex}")
    schema = backend._client.get_collection(backend._collection).payload_schema
    assert set(schema) == {"kind", "category", "label", "sha256", "model", "time", "score"}
    assert backend.count(Filter()) == 0
    backend.write_meta({"a": 1})
    assert backend.read_meta() == {"a": 1}
    assert backend.count(Filter()) == 0
    assert list(backend.scan(Filter(), using=REGION)) == []
    backend.close()


@pytest.mark.slow
def test_points_are_read_and_written_in_batches(qdrant_url: str, rng: Any):
    backend = backend_of(qdrant_url, collection=f"t{uuid.uuid4().hex}", batch_size=7)
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
