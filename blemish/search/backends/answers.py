"""Answers of a server: of bounded size and time, and uncompressed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

# 40,000 points of an answer, of 2 kB and 25 values each.
MAX_BYTES, MAX_VALUES = 96 << 20, 3_000_000


def limits(timeout_s: float) -> dict[str, Any]:
    """Return the settings of an HTTP client (httpx) that end an answer which is too long, too slow as a whole, or
    compressed: the limit of a read begins again with each byte, and a small compressed answer may be a large one.

    Args:
        timeout_s: of an answer, from its first byte to its last.
    """
    httpx = import_module("httpx")

    class Bounded(httpx.SyncByteStream):  # type: ignore[misc, name-defined]
        """The stream of an answer that raises an error at its limits."""

        def __init__(self, stream: Any) -> None:
            self._stream, self._end = stream, time.monotonic() + timeout_s

        def __iter__(self) -> Iterator[bytes]:
            n_bytes = n_values = 0
            for block in self._stream:
                n_bytes += len(block)
                n_values += sum(block.count(mark) for mark in (b",", b"[", b"{"))
                if n_bytes > MAX_BYTES:
                    raise httpx.ReadError(f"an answer of more than {MAX_BYTES} bytes")
                if n_values > MAX_VALUES:  # of up to 200 bytes each, as objects of Python
                    raise httpx.ReadError(f"an answer of more than {MAX_VALUES} values")
                if time.monotonic() > self._end:
                    raise httpx.ReadTimeout(f"an answer that takes more than {timeout_s} s")
                yield block

        def close(self) -> None:
            self._stream.close()

    def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx.ReadError("a compressed answer")
        response.stream = Bounded(response.stream)

    hooks: dict[str, list[Callable[[Any], None]]] = {"response": [bound]}
    return {"event_hooks": hooks, "headers": {"accept-encoding": "identity"}}
