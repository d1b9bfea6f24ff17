"""Events of the station for browsers, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blemish.station.events import Events

WAITING = 200
# Proxies close a connection that is silent for a minute.
SILENCE_S = 15.0
LOOK_S = 0.5


class Stop:
    """Whether the station stops: streams end then, so that the server can."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Let all streams end."""
        self.is_set = True


async def event_stream(events: Events, stop: Stop) -> AsyncIterator[str]:
    """Yield the station's events in the format of server-sent events, until it stops.

    Whoever reads too slowly, such as a browser that sleeps, gets the event `missed` in place of those that did not fit:
    its page loads its list again.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Mapping[str, Any]]](WAITING)

    def put(kind: str, content: Mapping[str, Any]) -> None:
        if queue.full():
            while not queue.empty():
                queue.get_nowait()
            kind, content = "missed", {}
        queue.put_nowait((kind, content))

    def listener(kind: str, content: Mapping[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: the station stops
            loop.call_soon_threadsafe(put, kind, content)

    with events.listened(listener):
        yield "retry: 2000\n\n"
        silent_s = 0.0
        while not stop.is_set:
            try:
                kind, content = await asyncio.wait_for(queue.get(), LOOK_S)
            except asyncio.TimeoutError:
                silent_s += LOOK_S
                if silent_s >= SILENCE_S:
                    silent_s = 0.0
                    yield ": still here\n\n"
                continue
            yield f"event: {kind}\ndata: {json.dumps(content)}\n\n"
