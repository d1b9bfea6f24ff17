"""Exceptions of the inspection station."""

from __future__ import annotations

from blemish.errors import BlemishError, InputError


class StationError(BlemishError, OSError):
    """Records of a station are in use, damaged, of a newer version, or can't be read or written."""


class DamagedError(StationError):
    """The database is damaged; at the next start it is built again from the files beside it."""


class BusyError(StationError):
    """The queue is full, or the station stops: nothing was accepted.

    Attributes:
        retry_after_s: seconds after which there is probably room.
    """

    def __init__(self, text: str, retry_after_s: float) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class UnknownError(InputError):
    """There is no inspection, model or user of that name."""
