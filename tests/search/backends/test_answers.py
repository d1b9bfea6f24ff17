"""Servers that are none of Qdrant's, and answers without end: an error in bounded time and memory, without a secret."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blemish import DefectStore, InputError, StoreError
from blemish.search.backends import answers
from blemish.search.backends.address import check_address
from blemish.search.backends.interface import Filter
from blemish.search.backends.server import ServerBackend
from blemish.search.encoder import DIMS

Answer = Callable[[socket.socket], None]
Serve = Callable[[Answer], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that answer each request with a function of the connection."""
    listening: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def started(answer: Answer) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.settimeout(20)
                        connection.recv(65536)
                        answer(connection)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield started
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join()


def whole(body: bytes, *, status: int = 200, head: str = "content-type: text/html") -> Answer:
    first = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{head}\r\nconnection: close\r\n\r\n"
    return lambda connection: connection.sendall(first.encode() + body)


def endless(block: bytes, *, pause_s: float = 0.0) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            connection.sendall(block)
            time.sleep(pause_s)

    return answer


def error_of(url: str, **changes: Any) -> str:
    settings = {"api_key": None, "collection": "c", "dims": DIMS, "retries": 1, "timeout_s": 60.0, **changes}
    with pytest.raises(StoreError, match="server: expected an answer, got ") as error:
        ServerBackend(url, sleep=lambda _: None, **settings).count(Filter())
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [b"<html>Welcome</html>", b"", b"null", b"[1, 2]", b'{"a": 1}', b'{"result": NaN}', b"[" * 100_000,
     b'{"result": {"exists": "no"}}', b'{"result": {"exists": true}}'],
)  # fmt: skip
def test_an_answer_of_another_program_is_an_error_and_not_tried_again(serve: Serve, body: bytes):
    text = error_of(serve(whole(body)))
    assert "got one of another program (" in text
    assert "tries" not in text


def test_an_answer_without_end_is_given_up(serve: Serve):
    assert "an answer of more than 3000000 values) after 2 tries" in error_of(serve(endless(b"[" * 100_000)))
    many_headers = serve(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 99_999))
    assert "Receive buffer too long" in error_of(many_headers)


def test_an_answer_of_many_bytes_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers, "MAX_BYTES", 1 << 20)
    text = error_of(serve(endless(b'"' + b"a" * 100_000)), retries=0, timeout_s=60.0)
    assert "an answer of more than 1048576 bytes" in text


@pytest.mark.slow
def test_an_answer_byte_by_byte_is_given_up(serve: Serve):
    assert "an answer that takes more than 1 s" in error_of(serve(endless(b" ", pause_s=0.1)), retries=0, timeout_s=1.0)


def test_a_compressed_answer_is_not_unpacked(serve: Serve):
    bomb = gzip.compress(b"[" * 10_000_000)
    assert "a compressed answer" in error_of(serve(whole(bomb, head="content-encoding: gzip")))


def test_a_key_that_is_repeated_is_not_printed(serve: Serve):
    text = error_of(serve(whole(b"your key is s3cret", status=403)), api_key="s3cret")
    assert ("s3cret" in text, "your key is ***" in text) == (False, True)


@pytest.mark.parametrize("api_key", ["s3c\nret", "s3crét", " s3cret", "s3cret\u2028"])
def test_a_key_that_cannot_be_sent_is_refused_unprinted(api_key: str):
    with pytest.raises(InputError, match="api_key: expected printable ASCII characters") as error:
        ServerBackend("http://127.0.0.1:1", api_key=api_key, collection="c", dims=DIMS)
    assert "3c" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["http://ann:s3cret@localhost:6333", "http://s3cret@localhost", "http://localhost/?api_key=s3cret",
     "http://localhost#s3cret", "HTTP://ann:s3cret@[::1", "ann:s3cret@localhost", "http://ann:s3cret@localhost:x"],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_unprinted(url: str):
    for use in (lambda: check_address(url), lambda: DefectStore(url=url)):
        with pytest.raises(InputError, match=r"url: expected scheme, host, port and path.*QDRANT_API_KEY") as error:
            use()
        assert "s3cret" not in str(error.value)
