"""Seal of a closed store: the size and a digest of each of its files.

The engine trusts its files: of damaged ones it may lose points without a word, panic, or ask for gigabytes. A store
that was closed is compared with its seal before the engine opens it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from blemish._io.files import atomic_write, sync_folder
from blemish._io.json_file import read_json_object
from blemish.errors import BlemishError, StoreError, message

SEAL = "seal.json"
FORMAT_VERSION = 1
MAX_SEAL_BYTES = 64 << 20
BLOCK = 1 << 16
ZEROS = bytes(BLOCK)
DAMAGED = (
    "Put back a snapshot (`blemish store restore`), or save what can still be read "
    "(`blemish store snapshot --damaged`) and restore that."
)


def write_seal(folder: Path, names: list[str]) -> None:
    """Write the seal of a folder.

    Args:
        names: of its files and sub-folders that belong to the store.
    """
    files = {name: _digest(path) for name, path in _files(folder, names)}
    content = {"format_version": FORMAT_VERSION, "names": names, "files": files}
    atomic_write(folder / SEAL, (json.dumps(content, indent=1) + "\n").encode(), name="store")


def break_seal(folder: Path) -> None:
    """Remove the seal, on disk, before the store is changed."""
    with contextlib.suppress(FileNotFoundError):
        (folder / SEAL).unlink()
        sync_folder(folder)


def check_seal(folder: Path) -> bool:
    """Return whether a folder has a seal.

    Raises:
        StoreError: if it has one, and files are not as they were when the store was closed.
    """
    path = folder / SEAL
    if not path.exists():
        return False
    seal = _read(path)
    if seal.get("format_version") != FORMAT_VERSION:
        got = repr(seal.get("format_version"))[:20]
        raise StoreError(message(SEAL, f"format {FORMAT_VERSION}", got, where=folder, todo="Update blemish."))
    stored = seal["files"]
    present = dict(_files(folder, seal["names"]))
    wrong = sorted(stored.keys() ^ present.keys())
    with contextlib.suppress(OSError):  # what can't be read is wrong
        for name in sorted(stored.keys() & present.keys()):
            wrong.append(name)
            if _digest(present[name]) == stored[name]:
                wrong.pop()
    if wrong:
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        got = f"{wrong[0]}{more} lost, new or changed"
        raise StoreError(message("store", "its files as they were when it was closed", got, where=folder, todo=DAMAGED))
    return True


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a seal. StoreError if it is damaged."""
    try:
        if path.stat().st_size > MAX_SEAL_BYTES:
            raise ValueError("too many bytes")
        seal = read_json_object(path.read_bytes(), name=SEAL, where=path)
        names, files = seal["names"], seal["files"]
        if not isinstance(files, dict) or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise TypeError("names")
    except (BlemishError, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            message(SEAL, "the digests of the store's files", repr(error), where=path, todo=DAMAGED)
        ) from None
    return seal


def _files(folder: Path, names: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the files of these names, and those in sub-folders of these names, with their relative names."""
    for name in names:
        inside = (folder / name).rglob("*") if (folder / name).is_dir() else [folder / name]
        for path in inside:
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    """Return the size of a file and the BLAKE2b of its blocks that are not zero: a copy may have holes or zeros."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for offset, block in _blocks(file, size):
            digest.update(offset.to_bytes(8, "little"))
            digest.update(block)
    return f"{size} {digest.hexdigest()}"


def _blocks(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of a file that are not zero, with their offsets; holes are not read."""
    offset = 0
    while offset < size:
        if hasattr(os, "SEEK_DATA"):
            try:
                found = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to its end
                return
            offset = max(offset, found - found % BLOCK)
        file.seek(offset)
        block = file.read(BLOCK)
        if block != ZEROS[: len(block)]:
            yield offset, block
        offset += BLOCK
