"""Images and anomaly maps of a station on disk.

A file's name is the inspection's id, which the station makes: nothing that a client says is part of a path.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish._io.files import save_error
from blemish.errors import message
from blemish.imaging.resize import fit_inside
from blemish.station.errors import StationError

if TYPE_CHECKING:
    from blemish.types import Float32, UInt8

ID = re.compile(r"[0-9a-f]{32}")
ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WebP": ".webp"}
# Networks see about 320 px: a map of the image's size would hold no more, and take ten times the disk.
MAP_SIDE_PX = 320
THUMBNAIL_PX = 256
PART = ".part"


def new_id() -> str:
    """Return an id that no other inspection has: 12 hex digits of the time in ms, and 20 random ones."""
    return f"{max(0, time.time_ns() // 1_000_000) & 0xFFFFFFFFFFFF:012x}{secrets.token_hex(10)}"


class Files:
    """The folder of images, maps and thumbnails: `files/DAY/ID.png`, `.map`, `.thumb.jpg`.

    Methods raise `SaveError` if the disk is full or can't be written.

    Args:
        durable: whether each file waits for the disk.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root, self._durable = root, durable
        for path in root.glob(f"*/*{PART}"):  # of a process that was killed: never acknowledged
            path.unlink(missing_ok=True)

    def image(self, id_: str, kind: str) -> Path:
        """Return the path of an image of a format, such as "PNG"."""
        return self._path(id_, ENDINGS[kind])

    def map(self, id_: str) -> Path:
        """Return the path of an anomaly map."""
        return self._path(id_, ".map")

    def thumbnail(self, id_: str) -> Path:
        """Return the path of a thumbnail, which may not be there yet."""
        return self._path(id_, ".thumb.jpg")

    def _path(self, id_: str, ending: str) -> Path:
        assert ID.fullmatch(id_), "ids are made here"
        day = datetime.fromtimestamp(int(id_[:12], 16) / 1000, tz=timezone.utc)
        return self.root / f"{day:%Y-%m-%d}" / (id_ + ending)

    def write(self, path: Path, data: bytes) -> Path:
        """Write a file under a temporary name; `commit` gives it its own."""
        temporary = path.with_name(path.name + PART)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise save_error("image", path, error) from error
        return temporary

    def commit(self, *paths: Path) -> None:
        """Give files that were written their own names."""
        try:
            for path in paths:
                path.with_name(path.name + PART).replace(path)
        except OSError as error:
            raise save_error("image", path, error) from error

    def discard(self, *paths: Path) -> None:
        """Remove files, whether committed or not; one that is gone is no error."""
        for path in paths:
            for one in (path, path.with_name(path.name + PART)):
                with contextlib.suppress(OSError):
                    one.unlink()

    def remove(self, id_: str, kind: str) -> None:
        """Remove all files of an inspection, and its folder if that was the last one."""
        self.discard(self.image(id_, kind), self.map(id_), self.thumbnail(id_))
        with contextlib.suppress(OSError):
            self.map(id_).parent.rmdir()


def encoded_map(anomaly_map: Float32) -> bytes:
    """Return an anomaly map as an array of float16, at most 320 px a side, in NumPy's format."""
    height, width = fit_inside(anomaly_map.shape, MAP_SIDE_PX)
    small = anomaly_map
    if (height, width) != anomaly_map.shape:
        small = np.asarray(cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    largest = np.finfo(np.float16).max
    buffer = io.BytesIO()
    np.save(buffer, np.clip(small, -largest, largest).astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def read_map(path: Path) -> Float32:
    """Return a stored anomaly map, (h, w) float32.

    Raises:
        StationError: if the file is gone or damaged.
    """
    try:
        return np.asarray(np.load(io.BytesIO(path.read_bytes()), allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError) as error:
        got = repr(getattr(error, "strerror", None) or str(error))
        raise StationError(message("map", "a file that can be read", got, where=path)) from error


def thumbnail(image: UInt8) -> bytes:
    """Return an image as a JPEG file of at most 256 px a side."""
    height, width = fit_inside((image.shape[0], image.shape[1]), THUMBNAIL_PX)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done
    return bytes(encoded)
