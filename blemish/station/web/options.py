"""Settings of the station's HTTP server."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """How the station is reached, and its limits.

    Attributes:
        host, port: to listen on.
        insecure: whether everyone who reaches it may do everything where there are no users.
        answer_s: longest wait for the answer to an image; it is inspected all the same.
        body_s: longest time that a client may take to send its request.
        max_batch: images in one batch.
        max_listeners: browsers that follow the line live.
    """

    host: str = "127.0.0.1"
    port: int = 8470
    insecure: bool = False
    answer_s: float = 60.0
    body_s: float = 30.0
    max_batch: int = 64
    max_listeners: int = 100

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in LOOPBACK
