"""A lock between processes and threads on one folder, which leaves no file behind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from blemish.errors import SaveError, message

PATIENCE_S = 120.0
PAUSE_S = 0.02
BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextlib.contextmanager
def exclusive(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of an existing folder; a process that dies releases it.

    The folder itself is locked (flock). Where a system or a network disk can't, it is a file of its own in the folder
    for temporary files: then processes of other machines do not see the lock.

    Raises:
        SaveError: if others hold it for longer than `patience_s`.
    """
    handle = _open(folder)
    try:
        end = time.monotonic() + patience_s
        while not _try(handle):
            if time.monotonic() > end:
                todo = "Wait for it to end, or end that process."
                raise SaveError(message("lock", "no other save", "one that does not end", where=folder, todo=todo))
            time.sleep(PAUSE_S)
        yield
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    """Return a handle that can be locked: of the folder, or of a file that stands for it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            _try(handle, release=True)
        except OSError:
            os.close(handle)
        else:
            return handle
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
    return os.open(Path(tempfile.gettempdir()) / f"blemish-{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)


if sys.platform == "win32":
    import msvcrt

    def _try(handle: int, *, release: bool = False) -> bool:
        """Return whether the lock was taken; OSError if it can't be."""
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            if release:
                msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        except OSError as error:
            if error.errno in BUSY:
                return False
            raise
        return True

else:
    import fcntl

    def _try(handle: int, *, release: bool = False) -> bool:
        """Return whether the lock was taken; OSError if it can't be."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if release:
                fcntl.flock(handle, fcntl.LOCK_UN)
        except OSError as error:
            if error.errno in BUSY:
                return False
            raise
        return True
