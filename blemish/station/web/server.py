"""The HTTP server of a station: starts, and stops only when all that was accepted is answered."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from blemish.errors import InputError, message
from blemish.station.errors import DamagedError, StationError
from blemish.station.users import Users
from blemish.station.web.app import make_app
from blemish.station.web.live import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

    from blemish.station.service import InspectionService
    from blemish.station.web.options import WebOptions

# After this the connections that are left are cut; what was accepted is inspected and stored all the same.
GRACE_S = 30
MAX_CONNECTIONS = 500


class Server(uvicorn.Server):
    """uvicorn, with live streams that end when it stops."""

    def __init__(self, app: FastAPI, stop: Stop, *, is_broken: Callable[[], bool] = lambda: False) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=15,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=64 * 1024,
            ws="none",
            lifespan="off",
        )
        super().__init__(config)
        self._stop, self._is_broken = stop, is_broken

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop, also because the records were found damaged: the next start mends them."""
        if self._is_broken():
            self._stop.set()
            return True
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals stop the server; uvicorn's own would end the process before the service is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, and let live streams end first."""
        self._stop.set()
        super().handle_exit(sig, frame)


def check_options(service: InspectionService, options: WebOptions) -> None:
    """Refuse to be reached from elsewhere by everyone.

    Raises:
        InputError: if there are no users, and the host is not this machine alone.
    """
    if options.is_loopback or options.insecure or len(Users(service.database)):
        return
    todo = "Add a user with --add-user NAME, or state --insecure where nobody else is in the network."
    raise InputError(message("host", "this machine alone while there are no users", options.host, todo=todo))


def serve(service: InspectionService, options: WebOptions, *, started: Callable[[str], object]) -> None:
    """Serve until the process is told to stop (SIGINT, SIGTERM), then finish what was accepted.

    Args:
        started: called with the address when it is reached there.

    Raises:
        InputError: if it would be reached from elsewhere by everyone.
        StationError: if the address can't be listened to, or the records were found damaged.
    """
    check_options(service, options)
    stop = Stop()
    server = Server(make_app(service, options, stop=stop), stop, is_broken=lambda: service.database.is_damaged)
    with listening(options) as server_socket:
        host, port = server_socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{port}")
        server.run([server_socket])
    if service.database.is_damaged:
        todo = "Start the station again, which builds them from the files beside them."
        raise DamagedError(message("records", "a database that is whole", "a damaged one", todo=todo))


def listening(options: WebOptions) -> socket.socket:
    """Return a socket that listens to the address.

    Raises:
        StationError: if that is not possible.
    """
    with ExitStack() as stack:
        try:
            family, kind, protocol, *_ = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
            server_socket = stack.enter_context(socket.socket(family, kind, protocol))
            # Connections inherit it. Without it the second part of an answer waits 40 ms for the client's word on the
            # first; asyncio sets it for sockets that state their protocol alone, and another loop need not.
            server_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server_socket.bind((options.host, options.port))
            server_socket.listen(128)
        except OSError as error:
            got = repr(error.strerror or str(error))
            todo = "Choose another --port, or stop the program that has it."
            where = f"{options.host} port {options.port}"
            raise StationError(
                message("address", "one that can be listened to", got, where=where, todo=todo)
            ) from error
        stack.pop_all()
    return server_socket
