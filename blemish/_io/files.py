"""Reads of bounded size, and atomic writes.

After a kill or on a full disk, and for a concurrent reader, a file is the old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from blemish._io.text import cut
from blemish.errors import ModelFileError, SaveError, message

ADVICE = {
    errno.ENOSPC: "The disk is full: free some space or choose another place.",
    errno.EDQUOT: "Your quota is used up: free some space or choose another place.",
    errno.EROFS: "The disk is mounted read-only: choose another place.",
    errno.EACCES: "You may not write there: change the rights or choose another place.",
    errno.EPERM: "You may not write there: change the rights or choose another place.",
    errno.EBUSY: "It is a mount point or in use: choose a folder inside it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "A part of its path is a file: move that away or choose another name.",
    errno.EISDIR: "A folder of that name is in the way: move it away or choose another name.",
    errno.EEXIST: "A file of that name is in the way: move it away or choose another name.",
}
SYSTEM = ("/proc/", "/sys/", "/dev/", "\\\\")
N_ABOVE = 5
MAX_IMAGE_BYTES = 1 << 30
MAX_FILE_BYTES = 4 << 30  # the largest backbones in use have 2.5 GB


def read_file(path: str | os.PathLike[str], *, name: str = "weights", max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a file that holds a model or weights, or raise ModelFileError if it cannot be read, is no
    ordinary file, or is larger.
    """

    def refuse(expected: str, got: str, todo: str = "") -> ModelFileError:
        return ModelFileError(message(name, expected, got, where=path, todo=todo))

    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            raise refuse("an ordinary file", "a folder or device", "Check the path.")
        if info.st_size > max_bytes:
            raise refuse(f"at most {max_bytes} bytes", str(info.st_size))
        with Path(path).open("rb") as file:
            return file.read(info.st_size)  # no more, though the file may grow meanwhile
    except MemoryError:
        todo = "Close other programs, or use a larger machine."
        raise refuse("a file that fits into memory", f"{info.st_size} bytes", todo) from None
    except OSError as error:
        got = repr(error.strerror or str(error))
        raise refuse("a readable file", got, "Check the path and its rights.") from None


def known_file(name: str, sha256: str, *, root: str | os.PathLike[str] = "") -> Path | None:
    """Return the file of a name if its content has this SHA-256, else None.

    The name may be a stranger's, who can't state the hash of a file without knowing its content.

    Args:
        root: a folder; a relative name is looked for in the working directory, in this folder and in those above it.
    """
    if not sha256:
        return None
    folders = (Path(root), *Path(root).parents)[:N_ABOVE] if root else ()
    paths = dict.fromkeys((Path(name), *(folder / name for folder in folders)))
    return next((path for path in paths if file_sha256(str(path)) == sha256), None)


def file_sha256(name: str) -> str:
    """Return the SHA-256 of an ordinary file on this machine's disks; "" if there is none.

    The name may be a stranger's: the server of a network share would be sent the user's credentials, and a pipe, a
    device or a file of the kernel would be waited for.
    """
    path = Path(name)
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        is_local = not name.startswith(("\\\\", "//")) and not os.path.realpath(path).startswith(SYSTEM)
        if is_local and _is_image_sized(path):
            with path.open("rb") as file:
                return sha256_of(file)
    return ""


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _is_image_sized(path: Path) -> bool:
    info = path.stat()  # files of the kernel have no size
    return stat.S_ISREG(info.st_mode) and 0 < info.st_size <= MAX_IMAGE_BYTES


def save_error(name: str, path: Path, error: OSError) -> SaveError:
    """Return the `SaveError` of a failed write, with the reason and advice.

    >>> print(save_error("report", Path("out/r.json"), OSError(errno.ENOSPC, "No space left on device")))
    report: expected to be written, got 'No space left on device', in out/r.json. The disk is full: free some space or \
choose another place.
    """
    advice = ADVICE.get(error.errno or 0, "Choose another place or mend this one.")
    return SaveError(message(name, "to be written", repr(error.strerror or str(error)), where=path, todo=advice))


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder, on systems that support it."""
    # Windows cannot open a folder and some network disks refuse fsync on one.
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def atomic_write(path: str | os.PathLike[str], data: bytes, *, name: str = "file") -> Path:
    """Write `data` to `path` atomically (temporary file, fsync, rename); return the path.

    Parent folders are created. A link is followed and stays a link. A pipe or terminal (such as /dev/stdout) is written
    directly, since it cannot be replaced.

    Raises:
        SaveError: if it cannot be written; the old file is kept.
    """
    try:
        target = Path(path)
        if _is_stream(target):
            target.write_bytes(data)
            return target
        target = Path(os.path.realpath(target))  # Path.resolve raises RuntimeError on a loop of links
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_beside_and_rename(target, data)
    except OSError as error:
        raise save_error(name, Path(path), error) from error
    return Path(path)


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _write_beside_and_rename(target: Path, data: bytes) -> None:
    # The name is cut so that the temporary name of the longest allowed target is allowed too.
    temporary = target.with_name(f".{cut(target.name, 40)}.{secrets.token_hex(6)}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)
