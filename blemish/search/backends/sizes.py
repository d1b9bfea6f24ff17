"""Sizes that the engine's metadata state, checked before it opens its files: it would ask for that much memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blemish._io.json_file import read_json_object
from blemish.errors import ModelFileError, StoreError, message
from blemish.search.backends.seal import DAMAGED

# Pages and chunks of the engine have up to 32 MiB; counters of operations are smaller.
MAX_NUMBER = 1 << 31
MAX_JSON_BYTES = 1 << 20
STATUS = "status.dat"  # its first eight bytes are a number of flags or of vectors, which the files beside it hold


def check_sizes(shard: Path, folder: Path) -> None:
    """Raise StoreError if a number in the engine's metadata is larger than its files can be.

    Args:
        shard: the engine's folder.
        folder: of the store.
    """
    for path in sorted(shard.rglob("*.json")):
        if path.is_file():
            _check_json(path, folder)
    for path in sorted(shard.rglob(STATUS)):
        stated = int.from_bytes(_start(path, 8), "little")
        room = 8 * sum(other.stat().st_size for other in path.parent.iterdir() if other != path and other.is_file())
        if stated > room:
            raise _refused(path, folder, f"at most {room} flags or vectors", str(stated))


def _check_json(path: Path, folder: Path) -> None:
    try:
        content = read_json_object(_start(path, MAX_JSON_BYTES + 1), name=path.name)
    except ModelFileError as error:
        raise _refused(path, folder, "the engine's metadata", str(error)) from None
    for number in _numbers(content):
        if not 0 <= number <= MAX_NUMBER:
            raise _refused(path, folder, f"numbers of at most {MAX_NUMBER}", str(number)[:40])


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def _start(path: Path, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise _refused(path, path.parent, "a readable file", repr(error.strerror or str(error))) from error


def _refused(path: Path, folder: Path, expected: str, got: str) -> StoreError:
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    return StoreError(message(f"store, {name}", expected, got, where=folder, todo=DAMAGED))
