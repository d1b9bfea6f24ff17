"""Questions to a store that must not be written to, or can't be: from a temporary copy.

Qdrant's engine opens its files to write, also where it only answers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from blemish._io.files import save_error
from blemish.errors import StoreError, message

ADVICE = (
    "The engine opens its files to write, also to answer. To ask only, have a temporary copy of the folder opened: "
    "DefectStore(..., read_only=True), or --read-only."
)


def not_writable(folder: Path, reason: str) -> StoreError:
    """Return the error of a store that can't be written."""
    return StoreError(message("store", "a folder that may be written", repr(reason), where=folder, todo=ADVICE))


def temporary_copy(folder: Path, *, lock: str, without: frozenset[str]) -> Path:
    """Return a copy of a store's folder in the folder for temporary files, made while no process has the store open.

    Args:
        lock: name of the lock file.
        without: names of files that are not copied.

    Raises:
        StoreError: if another process has it open, or a file in it can't be read.
        SaveError: if the copy can't be written.
    """
    with _unopened(folder, lock):
        try:
            target = Path(tempfile.mkdtemp(prefix="blemish-copy-"))
        except OSError as error:
            raise save_error("copy of the store", Path(tempfile.gettempdir()), error) from error
        try:
            _copy(folder, target, without)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return target


def _copy(folder: Path, target: Path, without: frozenset[str]) -> None:
    """Copy the content of files, and not their rights: the engine must be able to write the copy."""

    def stop(error: OSError) -> NoReturn:
        raise error

    try:
        for root, _, names in os.walk(folder, onerror=stop):
            to = target / Path(root).relative_to(folder)
            to.mkdir(exist_ok=True)
            for name in names:
                if name not in without:
                    shutil.copyfile(Path(root) / name, to / name)
    except OSError as error:
        raise save_error("copy of the store", target, error) from error


@contextlib.contextmanager
def _unopened(folder: Path, lock: str) -> Iterator[None]:
    """Hold a lock that others may hold too, but no process that has the store open.

    Windows locks no file that it may only read: there a store that is changed meanwhile may be refused as damaged.
    """
    if sys.platform == "win32" or not (folder / lock).exists():
        yield
        return
    import fcntl

    handle = os.open(folder / lock, os.O_RDONLY)
    try:
        _lock_shared(handle, folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _lock_shared(handle: int, folder: Path, operation: int) -> None:
    import fcntl

    try:
        fcntl.flock(handle, operation)
    except BlockingIOError as error:
        todo = "Close that one, or wait for it; several at a time need a server: DefectStore(url=...)."
        got = "it open in another process"
        raise StoreError(message("store", "none that writes to it", got, where=folder, todo=todo)) from error
    except OSError:  # a disk without locks
        return
