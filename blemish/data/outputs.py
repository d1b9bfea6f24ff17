"""Figures and masks that Blemish writes, marked so that a later run does not judge them as images of parts."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from blemish._io.files import atomic_write
from blemish.errors import SaveError, message
from blemish.imaging.decode import save
from blemish.types import Bool, UInt8

# A text chunk with the registered keyword Software: PNG specification, section 11.3.3.
_TEXT = b"Software\0Blemish"
_CHUNK = struct.pack(">I", len(_TEXT)) + b"tEXt" + _TEXT + struct.pack(">I", zlib.crc32(b"tEXt" + _TEXT))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 33  # the signature, and the chunk IHDR


def save_output(path: str | os.PathLike[str], image: UInt8 | Bool) -> Path:
    """Write a figure or a mask, atomically; return its path. `is_output` recognises it if it is a PNG.

    Args:
        path: its ending chooses the format, as in `imaging.decode.save`.
        image: (H, W, 3) RGB uint8, or a (H, W) bool mask, written as 0 and 255.

    Raises:
        SaveError: if the ending is not known or the file can't be written.
    """
    if Path(path).suffix.lower() != ".png":
        return save(path, image)
    return atomic_write(path, output_png(image, where=path), name="image")


def output_png(image: UInt8 | Bool, *, where: object = None) -> bytes:
    """Return the bytes of the PNG file that `save_output` writes.

    Args:
        image: as of `save_output`.
        where: named in an error.

    Raises:
        SaveError: if the image can't be encoded.
    """
    pixels = image.astype(np.uint8) * np.uint8(255) if image.dtype == np.bool_ else image[..., ::-1]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))
    if not done:
        raise SaveError(message("image", "to be written as .png", f"an array {image.shape}", where=where))
    data = encoded.tobytes()
    return data[:_HEADER_BYTES] + _CHUNK + data[_HEADER_BYTES:]


def is_output(path: Path) -> bool:
    """Return whether a file was written by `save_output`. False if it can't be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES + len(_CHUNK))
    except OSError:
        return False
    return has_mark(start)


def has_mark(data: bytes) -> bool:
    """Return whether the bytes of a file are of one that `save_output` wrote."""
    return data.startswith(_SIGNATURE) and data[_HEADER_BYTES:].startswith(_CHUNK)
