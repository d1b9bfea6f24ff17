"""The web application of a station: API, access and pages over one service."""

from __future__ import annotations

from threading import Semaphore
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request

from blemish._version import __version__
from blemish.station.users import Users
from blemish.station.web import api, defects_api, defects_pages, health, login, pages, shadow_api, teach_api
from blemish.station.web.access import Access
from blemish.station.web.live import Stop
from blemish.station.web.metrics import Metrics
from blemish.station.web.options import WebOptions
from blemish.station.web.problems import add_handlers, of_http
from blemish.station.web.state import MAX_EXPORTS, Budget, State

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from blemish.station.service import InspectionService

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def make_app(service: InspectionService, options: WebOptions | None = None, *, stop: Stop | None = None) -> FastAPI:
    """Return the application of a service.

    Args:
        stop: set when the server stops, so that live streams end.
    """
    chosen = options or WebOptions()
    access = Access(Users(service.database), chosen)
    app = FastAPI(
        title="Blemish inspection station",
        version=__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    metrics, exports = Metrics(service), Semaphore(MAX_EXPORTS)
    state = State(service, service.teaching, chosen, access, metrics, stop or Stop(), Budget(), exports)
    app.state.station = state
    app.include_router(api.router)
    app.include_router(defects_api.router)
    app.include_router(shadow_api.router)
    app.include_router(teach_api.router)
    app.include_router(health.router)
    app.include_router(login.router)
    app.include_router(defects_pages.router)
    app.include_router(pages.router)
    add_handlers(app)
    app.add_middleware(Guard, state=state)
    return app


class Guard:
    """Refuses wrong host names, and adds the headers that keep pages from loading anything from elsewhere."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:
                    self._state.metrics.refused(message["status"])
            await send(message)

        try:
            self._state.access.check_host(Request(scope))
        except HTTPException as error:
            await of_http(error)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)
