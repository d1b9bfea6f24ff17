"""Stores and processes: a store belongs to the process that opened it.

A forked child has the memory of its parent, but none of its threads, on which the engine and a client wait; and it
shares open files, whose locks would outlive the parent's store.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from blemish.errors import StoreError, message

SENT = "Open it in the process that uses it."


class OpenedHere:
    """The process in which a store was opened."""

    def __init__(self, name: object) -> None:
        self._pid, self._name = os.getpid(), name

    def __bool__(self) -> bool:
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise StoreError in any other process than the one that opened the store."""
        if not self:
            todo = (
                "Close it before the fork, and open it in the child; for several processes at a time use a server: "
                "DefectStore(url=...)."
            )
            expected, got = f"use in process {self._pid}, which opened it", f"use in its fork, process {os.getpid()}"
            raise StoreError(message("store", expected, got, where=self._name, todo=todo))


def close_inherited(folder: Path) -> None:
    """Let go of the open files and folders in a folder, and with them of their locks, in a forked child.

    Their numbers stay in use, for the object that knows them.
    """
    with contextlib.suppress(OSError):
        inside = {
            _identity(Path(root) / name) for root, folders, names in os.walk(folder) for name in (*folders, *names)
        }
        nowhere = os.open(os.devnull, os.O_RDWR)
        for handle in map(int, os.listdir("/dev/fd")):  # noqa: PTH208  # numbers, not paths
            with contextlib.suppress(OSError):
                info = os.fstat(handle)
                if (info.st_dev, info.st_ino) in inside:
                    os.dup2(nowhere, handle)
        os.close(nowhere)


def _identity(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino
