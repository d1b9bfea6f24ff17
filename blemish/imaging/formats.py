"""Records and errors that the readers of all image formats share."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.types import UInt8

__all__ = [
    "STRAIGHT",
    "DamagedError",
    "Header",
    "Pixels",
    "UnsupportedError",
    "cut_short",
    "decode_by_opencv",
    "look_up",
    "to_rgb",
]

STRAIGHT, MULTIPLIED = "straight", "multiplied"


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
        orientation: EXIF orientation, 1 to 8; 1 where none is stored.
        lossy: whether compression was lossy, so that 0 may have become 1.
        pixel_bytes: bytes a pixel that the decoder holds, before conversion to RGB of 8 bits.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    lossy: bool = False
    pixel_bytes: int = 3


class Pixels(NamedTuple):
    """Pixels as stored.

    Attributes:
        values: (H, W), (H, W, 2) with alpha, (H, W, 3) RGB or (H, W, 4) RGB with alpha.
        alpha: "" without alpha, STRAIGHT, or MULTIPLIED where colors are multiplied by alpha already.
    """

    values: NDArray[Any]
    alpha: str = ""


class DamagedError(Exception):
    """Damage of a file, in a few words."""


class UnsupportedError(Exception):
    """A kind of file that no decoder here reads exactly: the trait that says so, and the remedy."""

    def __init__(self, trait: str, remedy: str) -> None:
        super().__init__(trait)
        self.remedy = remedy


def cut_short(kind: str, data: bytes) -> DamagedError:
    """Return the error of a file that ends too early."""
    return DamagedError(f"a {kind} that ends too early, after {len(data)} bytes")


def decode_by_opencv(data: bytes) -> NDArray[Any]:
    """Return the pixels that OpenCV decodes, in the depth and channels stored, colors in RGB order.

    Raises:
        DamagedError: if OpenCV finds damage.
        MemoryError: if there is too little memory.
    """
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        stored = None
    if stored is None or stored.size == 0:
        raise DamagedError("")
    return to_rgb(np.asarray(stored))


def look_up(indices: UInt8, palette: UInt8) -> UInt8:
    """Return the colors of palette indices.

    Args:
        indices: (H, W) uint8.
        palette: (n, C) uint8, n <= 256.

    Returns:
        (H, W, C) uint8, or (H, W) where C is 1.

    Raises:
        DamagedError: if an index is beyond the palette; decoders show black there.
    """
    if int(indices.max()) >= len(palette):
        raise DamagedError("")
    tables = np.zeros((256, palette.shape[1]), np.uint8)
    tables[: len(palette)] = palette
    return np.asarray(cv2.merge([cv2.LUT(indices, np.ascontiguousarray(table)) for table in tables.T]), np.uint8)


def to_rgb(stored: NDArray[Any]) -> NDArray[Any]:
    """Return BGR or BGR with alpha as RGB, in place; grey as it is."""
    if stored.ndim == 2 or stored.shape[2] < 3:
        return stored
    code = cv2.COLOR_BGR2RGB if stored.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return np.asarray(cv2.cvtColor(stored, code, dst=stored))
