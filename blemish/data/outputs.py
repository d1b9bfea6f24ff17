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
from blemish.types import Bool, UInt8

# A text chunk with the registered keyword Software: PNG specification, section 11.3.3.
_TEXT = b"Software\0Blemish"
_CHUNK = struct.pack(">I", len(_TEXT)) + b"tEXt" + _TEXT + struct.pack(">I", zlib.crc32(b"tEXt" + _TEXT))
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 33  # the signature, and the chunk IHDR
# A comment behind the first segment, which JFIF reserves. Source: ITU-T T.81, B.2.4.5; T.871.
_COMMENT = b"\xff\xfe" + struct.pack(">H", len(_TEXT) + 2) + _TEXT
_JFIF, _JFIF_BYTES = b"\xff\xd8\xff\xe0\0\x10JFIF", 20
JPEG_ENDINGS = (".jpg", ".jpeg")
OUTPUT_ENDINGS = (".png", *JPEG_ENDINGS)


def save_output(path: str | os.PathLike[str], image: UInt8 | Bool) -> Path:
    """Write a figure or a mask, atomically; return its path. `is_output` recognises it.

    Args:
        path: its ending chooses the format, PNG or JPEG.
        image: (H, W, 3) RGB uint8, or a (H, W) bool mask, written as 0 and 255.

    Raises:
        SaveError: if the ending is another, the file can't be written, or there is a file that is no such figure.
    """
    ending = Path(path).suffix.lower()
    if ending not in OUTPUT_ENDINGS:
        expected = "a name that ends in " + ", ".join(OUTPUT_ENDINGS)
        raise SaveError(message("image", expected, repr(ending), where=path))
    check_replaceable(Path(path))
    data = _marked_jpeg(image, where=path) if ending in JPEG_ENDINGS else output_png(image, where=path)
    return atomic_write(path, data, name="image")


def check_replaceable(path: Path) -> None:
    """Raise SaveError if a file is there that Blemish did not write: it may be the image of a part."""
    if os.path.lexists(path) and not is_output(path):
        got = "a file that Blemish did not write"
        todo = "It would be lost: choose another name or folder, or move it away."
        raise SaveError(message("image", "a new name, or that of an earlier figure", got, where=path, todo=todo))


def output_png(image: UInt8 | Bool, *, where: object = None) -> bytes:
    """Return the bytes of the PNG file that `save_output` writes.

    Args:
        image: as of `save_output`.
        where: named in an error.

    Raises:
        SaveError: if the image can't be encoded.
    """
    data = _encoded(image, ".png", where)
    return data[:_HEADER_BYTES] + _CHUNK + data[_HEADER_BYTES:]


def _marked_jpeg(image: UInt8 | Bool, *, where: object) -> bytes:
    data = _encoded(image, ".jpg", where)
    assert data.startswith(_JFIF)
    return data[:_JFIF_BYTES] + _COMMENT + data[_JFIF_BYTES:]


def _encoded(image: UInt8 | Bool, ending: str, where: object) -> bytes:
    pixels = image.astype(np.uint8) * np.uint8(255) if image.dtype == np.bool_ else image[..., ::-1]
    done, encoded = cv2.imencode(ending, np.ascontiguousarray(pixels))
    if not done:
        raise SaveError(message("image", f"to be written as {ending}", f"an array {image.shape}", where=where))
    return encoded.tobytes()


def is_output(path: Path) -> bool:
    """Return whether a file was written by `save_output`. False if it can't be read, or is a pipe or device."""
    if not path.is_file():  # opening a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES + len(_CHUNK))
    except OSError:
        return False
    return has_mark(start)


def has_mark(data: bytes) -> bool:
    """Return whether the bytes of a file are of one that `save_output` wrote."""
    is_png = data.startswith(_SIGNATURE) and data[_HEADER_BYTES:].startswith(_CHUNK)
    return is_png or (data.startswith(_JFIF) and data[_JFIF_BYTES:].startswith(_COMMENT))
