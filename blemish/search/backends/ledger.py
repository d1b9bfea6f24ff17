"""Ledger of a store in a folder: which points were acknowledged, and a digest of each.

A file of lines that grows: "? ID", the point is being changed; "+ ID DIGEST", it was acknowledged with this content;
"- ID", its removal was. Each line has a checksum. A kill leaves a point in one of these states and no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blemish._io.files import atomic_write, save_error
from blemish.errors import StoreError, message
from blemish.search.backends.interface import Examination
from blemish.search.backends.seal import DAMAGED

LEDGER = "acknowledged"
CHANGING, STORED, REMOVED = b"?", b"+", b"-"
# Superseded lines are let stand up to so many bytes beside those of the points.
SPARE_BYTES, LINE_BYTES = 1 << 20, 81
IN_CHANGE = ""  # as a digest: any content is right, and none


def digest_of(payload: Mapping[str, Any], vectors: Mapping[str, Any]) -> str:
    """Return a digest of a point as the engine returns it.

    Args:
        vectors: name to numbers, which are float32.
    """
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(vectors):
        digest.update(name.encode())
        digest.update(np.asarray(vectors[name], np.float32).tobytes())
    return digest.hexdigest()


def compared(acknowledged: Mapping[str, str], digests: Mapping[str, str]) -> Examination:
    """Return which acknowledged points are lost or changed in a store with points of these digests."""
    lost = [id_ for id_, digest in acknowledged.items() if digest != IN_CHANGE and id_ not in digests]
    changed = [id_ for id_, digest in digests.items() if acknowledged.get(id_, IN_CHANGE) not in {IN_CHANGE, digest}]
    return Examination(len(digests), tuple(lost), tuple(changed))


class Ledger:
    """The file, written by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def changing(self, ids: Iterable[str]) -> None:
        """Write, before they are changed, that points may have their old content or the new one, or be gone."""
        self._append(_line(CHANGING, id_) for id_ in ids)

    def stored(self, digests: Mapping[str, str]) -> None:
        """Write that points were acknowledged with this content; on return it is on disk."""
        self._append(_line(STORED, id_, digest) for id_, digest in digests.items())

    def removed(self, ids: Iterable[str]) -> None:
        """Write that the removal of points was acknowledged."""
        self._append(_line(REMOVED, id_) for id_ in ids)

    def rewrite(self, digests: Mapping[str, str]) -> None:
        """Replace the file atomically by one of these points alone."""
        lines = b"".join(_line(STORED, id_, digest) for id_, digest in digests.items())
        atomic_write(self.path, lines, name="store")

    def compact(self, n_points: int) -> None:
        """Write the file anew if most of its lines are superseded.

        Args:
            n_points: number of points in the store.
        """
        if self.path.stat().st_size > SPARE_BYTES + 4 * LINE_BYTES * n_points:
            self.rewrite({id_: digest for id_, digest in self.read().items() if digest != IN_CHANGE})

    def read(self) -> dict[str, str]:
        """Return the digest of each acknowledged point; `IN_CHANGE` of one that was being changed.

        Raises:
            StoreError: if the file is damaged; a kill can cut off its last line only.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error
        digests: dict[str, str] = {}
        for number, line in enumerate(lines[:-1], start=1):
            kind, _, rest = line.partition(b" ")
            text, _, checksum = rest.rpartition(b" ")
            id_, _, digest = text.decode("latin-1").partition(" ")
            if _checksum(kind + b" " + text) != checksum or kind not in (CHANGING, STORED, REMOVED):
                raise self._damaged(f"line {number}: {ascii(line.decode('latin-1'))[:60]}")
            if kind == REMOVED:
                digests.pop(id_, None)
            else:
                digests[id_] = digest if kind == STORED else IN_CHANGE
        return digests

    def _append(self, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if not data:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    while data:
                        data = data[file.write(data) or 0 :]
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise save_error("store", self.path, error) from error

    def _damaged(self, got: str) -> StoreError:
        return StoreError(message(LEDGER, "what was acknowledged", got, where=self.path, todo=DAMAGED))


def _line(kind: bytes, id_: str, digest: str = "") -> bytes:
    text = kind + b" " + f"{id_} {digest}".encode()
    return text + b" " + _checksum(text) + b"\n"


def _checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
