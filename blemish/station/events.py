"""Events of a station, for those who listen: a new inspection, a review, a model put in service."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Listener = Callable[[str, Mapping[str, Any]], None]


class Events:
    """Calls each listener with the kind and the content of an event, in the thread where it happened.

    A listener must return at once and raise nothing.
    """

    def __init__(self) -> None:
        self._lock, self._listeners = threading.Lock(), list[Listener]()

    @contextlib.contextmanager
    def listened(self, listener: Listener) -> Iterator[None]:
        """Let a listener hear of events within a `with` block."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    @property
    def n_listeners(self) -> int:
        """The number of listeners."""
        return len(self._listeners)

    def publish(self, kind: str, content: Mapping[str, Any]) -> None:
        """Tell all listeners of an event."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(kind, content)
