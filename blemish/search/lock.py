"""One process at a time in a folder: a lock that the system takes back when its holder dies."""

from __future__ import annotations

import os
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

from blemish._io.files import save_error
from blemish.errors import StoreError, message

LOCK = "lock"


class FolderLock:
    """Holds a folder until `release` or the end of the process, however it ends.

    Args:
        folder: an existing folder.

    Raises:
        StoreError: if another process, or this one, holds it; the text says who.
        SaveError: if no file can be written there.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise save_error("store", folder, error) from error
        try:
            _take(self._file)
        except OSError as error:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip() if hasattr(os, "pread") else ""
            os.close(self._file)
            self._file = None
            todo = "Close that one, or wait for it; several at a time need a server: DefectStore(url=...)."
            got = f"it open in {holder or 'another process'}"
            raise StoreError(message("store", "to be the only one in it", got, where=folder, todo=todo)) from error
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._file is not None

    def release(self) -> None:
        """Let the next one in; a second call does nothing. The file stays, since another may wait for it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _take(file: int) -> None:
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt

        # A byte far behind the text, so that the text can be read by the one that is kept out.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
