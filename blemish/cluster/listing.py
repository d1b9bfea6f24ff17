"""Images in folders of any file system that fsspec reads: this machine's, S3 and compatible stores, archives."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.data.discovery import IMAGE_ENDINGS, START_BYTES, is_hidden, is_start_of_image, natural_key
from blemish.errors import InputError, message


class ImageFile(NamedTuple):
    """An image of a listing.

    Attributes:
        path: absolute, or a URL.
        size: in bytes; -1 where the file system does not say.
        version: its hash or time of change, as the file system states it: another one is another image.
    """

    path: str
    size: int
    version: str


def is_url(place: str) -> bool:
    """Return whether a path is of another file system than this machine's."""
    return "://" in place or "::" in place


def find_files(places: Sequence[str], storage: Mapping[str, Any]) -> Iterator[ImageFile]:
    """Yield the images in folders and below, in natural order, by ending or first bytes; hidden ones are left out.

    Args:
        places: folders and files: paths, or URLs. One that lies in another one is listed once.
        storage: options of the file systems, such as keys.

    Raises:
        InputError: if there is none of that name, or the file system can't be read.
    """
    given = [place if is_url(place) else str(Path(place).absolute()) for place in places]
    for place in outermost(given):
        yield from _files_of(place, storage)


def _files_of(place: str, storage: Mapping[str, Any]) -> Iterator[ImageFile]:
    import fsspec

    try:
        # A new one: those that fsspec keeps remember what they listed, for a second run of one process.
        options = {**storage, "skip_instance_cache": True} if is_url(place) else {}
        system, root = fsspec.core.url_to_fs(place, **options)
        info = system.info(root)
        yield from _below(system, place, info, set())
    except FileNotFoundError:
        raise InputError(message("images", "a folder or a file", "nothing of that name", where=place)) from None
    except (OSError, ValueError, ImportError) as error:
        got = " ".join(str(error).split())[:300]
        raise InputError(message("images", "a folder that can be read", got, where=place)) from error


def outermost(places: Sequence[str]) -> list[str]:
    """Return the places that lie in no other one, each once.

    >>> outermost(["/a/b", "/a", "/ab", "/a"])
    ['/a', '/ab']
    """
    unique = list(dict.fromkeys(place.rstrip("/") or "/" for place in places))
    return [place for place in unique if not any(place.startswith(f"{other}/") for other in unique if other != place)]


def _below(system: Any, place: str, info: Mapping[str, Any], open_folders: set[str]) -> Iterator[ImageFile]:
    """Yield a file, or the images in a folder; a folder that a link leads back to is not entered again."""
    if info["type"] != "directory":
        yield _image_file(system, place, info)
        return
    real = os.path.realpath(info["name"]) if not is_url(place) else info["name"]
    if real in open_folders:
        return
    inside = [entry for entry in system.ls(info["name"], detail=True) if entry["name"].rstrip("/") != info["name"]]
    names = {PurePosixPath(entry["name"].rstrip("/")).name: entry for entry in inside}
    for name in sorted(names, key=lambda name: natural_key(Path(name))):
        if is_hidden(name):
            continue
        entry = _followed(system, names[name])
        if entry["type"] == "directory":
            yield from _below(system, place, entry, open_folders | {real})
        elif name.lower().endswith(IMAGE_ENDINGS) or _has_image_bytes(system, entry):
            yield _image_file(system, place, entry)


def _followed(system: Any, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a link leads to, as a local folder has it; anything else, and a link to nothing, as it is."""
    if entry["type"] in {"file", "directory"}:
        return entry
    try:
        found: Mapping[str, Any] = {**system.info(entry["name"]), "name": entry["name"]}
    except OSError:
        return entry
    return found


def _has_image_bytes(system: Any, entry: Mapping[str, Any]) -> bool:
    """Return whether a file of another ending, or none, starts like an image. False if it can't be read."""
    if entry["type"] != "file":
        return False
    try:
        with system.open(entry["name"], "rb") as file:
            return is_start_of_image(file.read(START_BYTES), int(entry.get("size") or 0))
    except OSError:
        return False


def _image_file(system: Any, place: str, info: Mapping[str, Any]) -> ImageFile:
    name = str(info["name"])
    if "::" in place:  # an archive in another file system
        protocol, rest = place.split("://", 1)[0], place.split("::", 1)[1]
        name = f"{protocol}://{name}::{rest}"
    elif is_url(place):
        name = str(system.unstrip_protocol(name))
    version = next(
        (info[key] for key in ("ETag", "etag", "mtime", "LastModified", "CRC", "modified") if key in info), ""
    )
    size = info.get("size")
    return ImageFile(name, -1 if size is None else int(size), str(version).strip('"'))


def key_of(file: ImageFile) -> int:
    """Return 64 bits of the hash of an image's name, size and version.

    Two of 20 million images have the same with probability 1e-5.
    """
    digest = hashlib.blake2b("\0".join((file.path, str(file.size), file.version)).encode("utf-8", "surrogateescape"))
    return int.from_bytes(digest.digest()[:8], "little")


class Listing:
    """A list of images in a temporary file: 20 million of them do not fit into memory, their keys do.

    Attributes:
        keys: (n,) uint64, sorted.
    """

    def __init__(self, files: Iterator[ImageFile], spool: BinaryIO) -> None:
        self._spool = spool
        collected = array("Q")
        for file in files:
            spool.write(json.dumps(file).encode("ascii") + b"\n")
            collected.append(key_of(file))
        self.keys: NDArray[np.uint64] = np.sort(np.frombuffer(collected, np.uint64)) if collected else np.zeros(0, "u8")

    def __len__(self) -> int:
        return len(self.keys)

    def chunks(self, n: int, *, without: NDArray[np.uint64]) -> Iterator[list[ImageFile]]:
        """Yield the images in chunks of `n`, in the order of the listing.

        Args:
            without: (m,) uint64 sorted, keys of images that are left out.
        """
        self._spool.seek(0)
        rest = (file for file in (ImageFile(*json.loads(line)) for line in self._spool) if not has(without, file))
        while chunk := list(islice(rest, n)):
            yield chunk


def has(keys: NDArray[np.uint64], file: ImageFile) -> bool:
    """Return whether sorted keys hold that of an image."""
    key = np.uint64(key_of(file))
    i = int(np.searchsorted(keys, key))
    return i < len(keys) and bool(keys[i] == key)
