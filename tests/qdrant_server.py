"""A real Qdrant server on loopback for tests and benchmarks, from the binary that BLEMISH_QDRANT names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

VARIABLE = "BLEMISH_QDRANT"
START_S = 60.0

CONFIG = """\
log_level: ERROR
telemetry_disabled: true
storage:
  storage_path: {folder}/storage
  snapshots_path: {folder}/snapshots
service:
  host: 127.0.0.1
  http_port: {port}
  grpc_port: {grpc}
cluster:
  enabled: false
"""


def binary() -> Path | None:
    """The server's program, or None if nobody named one."""
    named = os.environ.get(VARIABLE, "")
    if not named:
        return None
    path = Path(named)
    assert path.is_file(), f"{VARIABLE} is set to {named}, which is no file"
    return path.resolve()


class QdrantServer:
    """A server with its own folder; it can be killed and started again on the same data."""

    def __init__(self, program: Path, folder: Path, *, api_key: str | None = None) -> None:
        self.program, self.folder = program, folder
        self.port, grpc = _free_port(), _free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(folder=folder, port=self.port, grpc=grpc)
        if api_key:
            config = config.replace("service:\n", f"service:\n  api_key: {api_key}\n")
        (folder / "config.yaml").write_text(config, encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> QdrantServer:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.program), "--config-path", str(self.folder / "config.yaml")],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
            assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
        self.kill()
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """As by kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
