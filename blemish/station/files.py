"""Images and anomaly maps of a station on disk.

A file's name is the inspection's id, which the station makes: nothing that a client says is part of a path.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import safetensors.numpy

from blemish._io.files import atomic_write, save_error
from blemish._io.safetensors_file import read_tensors
from blemish.errors import ModelFileError, SaveError, message
from blemish.imaging.resize import fit_inside
from blemish.station.errors import StationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blemish.types import Float32, UInt8

ID = re.compile(r"[0-9a-f]{32}")
ENDINGS = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WebP": ".webp"}
# Networks see about 320 px: a map of the image's size would hold no more, and take ten times the disk.
MAP_SIDE_PX = 320
THUMBNAIL_PX, THUMBNAIL_QUALITY = 256, 82
PART = ".part"
MAX_RECORD_BYTES = 64 * 2**20


def new_id() -> str:
    """Return an id that no other inspection has: 12 hex digits of the time in ms, and 20 random ones."""
    return f"{max(0, time.time_ns() // 1_000_000) & 0xFFFFFFFFFFFF:012x}{secrets.token_hex(10)}"


class Files:
    """The folder of images, maps, thumbnails and reviews: `files/DAY/ID.png`, `.map`, `.thumb.jpg`, `.review.json`.

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

    def review(self, id_: str) -> Path:
        """Return the path of a review, which is there where a person reviewed."""
        return self._path(id_, ".review.json")

    def keep_thumbnail(self, id_: str, data: bytes) -> None:
        """Write a thumbnail if that is possible: it can be made again."""
        path = self.thumbnail(id_)
        with contextlib.suppress(SaveError):
            self.write(path, data, durable=False)
            self.commit(path)

    def keep_review(self, id_: str, review: dict[str, Any] | None) -> None:
        """Write the review that counts beside the image, or remove it: the database can be built again from it."""
        path = self.review(id_)
        if review is None:
            self.discard(path)
        else:
            atomic_write(path, json.dumps(review).encode(), name="review")

    def ids(self) -> list[str]:
        """Return the ids of all inspections whose map is there, the oldest first."""
        return sorted(path.stem for path in self.root.glob("*/*.map") if ID.fullmatch(path.stem))

    def _path(self, id_: str, ending: str) -> Path:
        assert ID.fullmatch(id_), "ids are made here"
        day = datetime.fromtimestamp(int(id_[:12], 16) / 1000, tz=timezone.utc)
        return self.root / f"{day:%Y-%m-%d}" / (id_ + ending)

    def write(self, path: Path, data: bytes, *, durable: bool = True) -> Path:
        """Write a file under a temporary name; `commit` gives it its own.

        Args:
            durable: whether to wait for the disk, if the station does.
        """
        temporary = path.with_name(path.name + PART)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                if self._durable and durable:
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
        self.discard(self.image(id_, kind), self.map(id_), self.thumbnail(id_), self.review(id_))
        with contextlib.suppress(OSError):
            self.map(id_).parent.rmdir()


def encoded_map(anomaly_map: Float32, record: Mapping[str, Any]) -> bytes:
    """Return an anomaly map as a safetensors file: float16, at most 320 px a side, with the record as metadata."""
    height, width = fit_inside((anomaly_map.shape[0], anomaly_map.shape[1]), MAP_SIDE_PX)
    small = anomaly_map
    if (height, width) != anomaly_map.shape:
        # A map has no detail finer than this: it was upsampled and smoothed.
        small = np.asarray(cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    largest = float(np.finfo(np.float16).max)
    if cv2.norm(small, cv2.NORM_INF) > largest:
        small = np.clip(small, -largest, largest)
    tensor = small.astype(np.float16)
    return bytes(safetensors.numpy.save({"map": tensor}, {"record": json.dumps(dict(record))}))


def read_map(path: Path) -> Float32:
    """Return a stored anomaly map, (h, w) float32.

    Raises:
        StationError: if the file is gone or damaged.
    """
    try:
        tensors = read_tensors(path.read_bytes(), name="map", wanted={"map": ("F16", 2)}, where=path)
    except (OSError, ModelFileError) as error:
        got = repr(getattr(error, "strerror", None) or str(error))
        raise StationError(message("map", "a file that can be read", got, where=path)) from error
    return np.asarray(tensors["map"], np.float32)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record that a stored map has as metadata; None if the file is damaged."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, MAX_RECORD_BYTES)))
        record = json.loads(header["__metadata__"]["record"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def thumbnail(image: UInt8) -> bytes:
    """Return an image as a JPEG file of at most 256 px a side."""
    height, width = fit_inside((image.shape[0], image.shape[1]), THUMBNAIL_PX)
    small = image
    while small.shape[0] >= 2 * height and small.shape[1] >= 2 * width:
        # Half the size in each step, the mean of four pixels: a quarter of the time of one step to the end.
        small = cv2.resize(small, (small.shape[1] // 2, small.shape[0] // 2), interpolation=cv2.INTER_AREA)
    small = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY]
    )
    assert done
    return bytes(encoded)
