"""A client of a station's application on a server of its own, on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="blemish[station] is not installed")

from blemish.station.web.app import make_app
from blemish.station.web.live import Stop
from blemish.station.web.options import WebOptions
from blemish.station.web.server import Server

if TYPE_CHECKING:
    from blemish.station import InspectionService


@contextlib.contextmanager
def called(service: InspectionService, **options: Any) -> Iterator[httpx.Client]:
    """Yield a client; the server ends with the block."""
    stop = Stop()
    server = Server(make_app(service, WebOptions(**options), stop=stop), stop)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            yield client
        stop.set()
        server.should_exit = True
        thread.join()
