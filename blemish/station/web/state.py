"""What all requests of an app share."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from blemish.station.web.access import Access, Visitor
from blemish.station.web.live import Stop
from blemish.station.web.metrics import Metrics
from blemish.station.web.options import WebOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blemish.station.service import InspectionService
    from blemish.station.teaching import Teaching

# Bodies of requests in memory, all together.
MAX_BODIES_BYTES = 512 * 2**20
# Zip files that are made at once.
MAX_EXPORTS = 2


class Budget:
    """Memory for the bodies of requests: what does not fit is refused before it is read."""

    def __init__(self, n_bytes: int = MAX_BODIES_BYTES) -> None:
        self._lock, self._left = threading.Lock(), n_bytes

    @contextmanager
    def taken(self, n_bytes: int) -> Iterator[None]:
        """Hold memory for a body within a `with` block.

        Raises:
            HTTPException: 429 if there is not enough.
        """
        with self._lock:
            if n_bytes > self._left:
                text = "station: expected fewer bytes at once, got one request more than memory is set aside for."
                raise HTTPException(429, text, {"Retry-After": "1"})
            self._left -= n_bytes
        try:
            yield
        finally:
            with self._lock:
                self._left += n_bytes


@dataclass(frozen=True)
class State:
    """The service, and how it is reached."""

    service: InspectionService
    teaching: Teaching
    options: WebOptions
    access: Access
    metrics: Metrics
    stop: Stop
    budget: Budget
    exports: threading.Semaphore


def state_of(request: Request) -> State:
    """Return the state of the app that a request came to."""
    return cast("State", request.app.state.station)


# Dependencies are asynchronous: FastAPI sends others to a thread and back, which takes longer than what they do.


async def station_state(request: Request) -> State:
    """Return the state of the app that a request came to."""
    return state_of(request)


async def viewer(request: Request) -> Visitor:
    """Return who sends a request, if it may see."""
    return state_of(request).access.require(request, "viewer")


async def operator(request: Request) -> Visitor:
    """Return who sends a request, if it may inspect and review."""
    return state_of(request).access.require(request, "operator")


async def admin(request: Request) -> Visitor:
    """Return who sends a request, if it may change models and thresholds."""
    return state_of(request).access.require(request, "admin")


StationState = Annotated[State, Depends(station_state)]
Viewer = Annotated[Visitor, Depends(viewer)]
Operator = Annotated[Visitor, Depends(operator)]
Admin = Annotated[Visitor, Depends(admin)]
