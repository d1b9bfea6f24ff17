"""Image files to uint8 RGB arrays and back: every caller decodes and encodes here."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish._io.files import atomic_write
from blemish._validation.checks import check_number, describe
from blemish.errors import ImageError, InputError, SaveError, message
from blemish.imaging.bmp import decode_bmp
from blemish.imaging.formats import MULTIPLIED, DamagedError, Header, Pixels, UnsupportedError
from blemish.imaging.headers import READABLE, read_header
from blemish.imaging.jpeg import decode_jpeg
from blemish.imaging.png import decode_png
from blemish.imaging.resize import fit_inside, resize
from blemish.imaging.tiff import decode_tiff
from blemish.imaging.webp import decode_webp
from blemish.types import Bool, ImageInput, Sample, UInt8

__all__ = [
    "MAX_PIXELS",
    "check_image",
    "decode",
    "fit_inside",
    "load",
    "load_mask",
    "read_facts",
    "read_stored",
    "resize",
    "save",
]

# Pillow's limit: 178,956,970 pixels, 13,377 x 13,377.
MAX_PIXELS = 2**30 // 6
BYTES_A_PIXEL = 6  # RGB of 8 bits as stored and as returned; 1 GiB for MAX_PIXELS
SAVED_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MORE_PIXELS = "Raise max_pixels= if you trust this file and have the memory, or cut the image into tiles."
SAVE_AGAIN = "Take it from its source again. If a viewer shows it whole, save it there as PNG."
BLOCK = 2**20  # values converted at once: NumPy's table look-up makes an index of 8 bytes of each


def load(path: str | os.PathLike[str], *, bit_depth: int | None = None, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Return an image file as RGB, (H, W, 3) uint8, as an image viewer shows it.

    Formats: PNG, JPEG, BMP, TIFF and WebP, recognised by content and not by name. Grey is repeated to three channels,
    alpha is composed over white, EXIF orientation is applied, palettes and CMYK become RGB; of several pages the first
    that is no thumbnail is read. Colour profiles are not applied.

    Args:
        bit_depth: bits that a 16-bit file uses (12 for most industrial cameras); None means all 16. Files of 8 bits
            stay as they are.
        max_pixels: limit of the size; memory for the pixels as stored and as returned is limited to six bytes for each
            of them, which RGB of 8 bits takes.

    Raises:
        ImageError: if it can't be read exactly; the text says which file and why.
        InputError: if `bit_depth` is not from 9 to 16.
    """
    return decode(_read(path, max_pixels), where=path, bit_depth=bit_depth, max_pixels=max_pixels)


def decode(data: bytes, *, where: object = None, bit_depth: int | None = None, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Return the bytes of an image file as (H, W, 3) uint8 RGB, decoded as `load` documents. ImageError if they can't
    be read; the text calls them `where`.
    """
    full = _full_range(bit_depth)
    header = _header(data, where, max_pixels)
    try:
        stored, kind_of_alpha = _decode_stored(data, header, where)
        if stored.dtype not in (np.uint8, np.uint16):
            todo = "Save it with 8 or 16 bits: which range of other numbers is black to white is not known."
            raise ImageError(message("image", "8 or 16 bits a channel", str(stored.dtype), where=where, todo=todo))
        if not kind_of_alpha:
            return _to_rgb(_to_uint8(stored, full, where))
        alpha = _to_uint8(stored[..., -1], 65_535, where)
        if not alpha.any():
            todo = "Save it without alpha if its colors are those of the part."
            raise ImageError(message("image", "opaque pixels", "transparent ones alone", where=where, todo=todo))
        image = _to_rgb(_to_uint8(stored[..., :-1], full, where))
        return _over_white(image, alpha, is_multiplied=kind_of_alpha == MULTIPLIED)
    except MemoryError:
        raise _no_memory(header, where) from None


def load_mask(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Bool:
    """Return a mask file's defect pixels, (H, W) bool: those that are not black.

    In a file stored with loss (JPEG), where black comes back as nearly black: those above half of the range. In a file
    with alpha: opaque pixels that are not black; if all pixels are black, the opaque ones, unless all are opaque.
    """
    header, stored = read_stored(path, max_pixels=max_pixels, name="mask")
    if stored.ndim == 2:
        stored = stored[..., None]
    alpha = stored[..., -1] if stored.shape[2] in (2, 4) else None
    colors = stored if alpha is None else stored[..., :-1]
    limit = np.iinfo(stored.dtype).max / 2 if header.lossy and stored.dtype.kind == "u" else 0
    marked: Bool = np.any(colors > limit, axis=2)
    if alpha is None:
        return marked
    opaque: Bool = alpha > 0
    if marked.any():
        return marked & opaque
    return np.zeros_like(opaque) if opaque.all() else opaque


def read_stored(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, name: str = "image"
) -> tuple[Header, NDArray[Any]]:
    """Return a file's header and its pixels in the depth and channels they are stored in, rotated upright.

    Returns:
        The header, and (H, W), (H, W, 2) with alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha, of uint8, uint16 or
        whatever a TIFF holds.
    """
    data = _read(path, max_pixels, name)
    header = _header(data, path, max_pixels, name)
    try:
        return header, _decode_stored(data, header, path, name).values
    except MemoryError:
        raise _no_memory(header, path, name) from None


def read_facts(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], str]:
    """Return an image file's upright (height, width), and the SHA-256 of its bytes; nothing is decoded. ImageError if
    the header shows a file that is no image, cut short or too large.
    """
    data = _read(path, max_pixels)
    header = _header(data, path, max_pixels)
    upright = (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)
    return upright, hashlib.sha256(data).hexdigest()


def check_image(array: object, name: str = "image", *, bit_depth: int | None = None) -> UInt8:
    """Return an array as (H, W, 3) uint8 RGB, or raise with the form that it should have.

    Args:
        array: uint8 or uint16, (H, W), (H, W, 1) or (H, W, 3) in RGB order.

    Raises:
        InputError: if it is anything else.
    """
    expected = "uint8 or uint16 (H, W) or (H, W, 3) RGB"
    todo = ""
    ok = isinstance(array, np.ndarray) and array.dtype in (np.uint8, np.uint16) and array.size > 0
    if isinstance(array, np.ndarray):
        if array.dtype.kind == "f":
            todo = "If it runs from 0 to 1: (image * 255).round().astype(np.uint8)."
        elif array.ndim == 4:
            todo = "Pass one image at a time, or use predict_many."
        elif array.ndim == 3 and array.shape[2] == 4:
            todo = "Leave alpha out: image[..., :3]."
        elif array.ndim == 3 and array.shape[0] in (1, 3):
            todo = "Channels come last: np.moveaxis(image, 0, 2)."
        ok = ok and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3)))
    if not ok:
        raise InputError(message(name, expected, describe(array), todo=todo))
    assert isinstance(array, np.ndarray)
    return _to_rgb(_to_uint8(array, _full_range(bit_depth), None, name))


def save(path: str | os.PathLike[str], image: UInt8 | Bool) -> Path:
    """Write an image atomically; return its path.

    Args:
        path: its ending chooses the format; PNG is lossless.
        image: (H, W, 3) RGB or (H, W) grey uint8, or a (H, W) bool mask, written as 0 and 255.

    Raises:
        InputError: if the array is none of these.
        SaveError: if the ending is not known or the file can't be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in SAVED_ENDINGS:
        raise SaveError(message("image", "a name that ends in " + ", ".join(SAVED_ENDINGS), repr(ending), where=path))
    if isinstance(image, np.ndarray) and image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    is_grey = isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.uint8
    pixels = image if is_grey else check_image(image)[..., ::-1]
    try:
        ok, encoded = cv2.imencode(ending, np.ascontiguousarray(pixels))
    except cv2.error as error:
        raise SaveError(message("image", f"to be written as {ending}", error.err, where=path)) from None
    if not ok:
        raise SaveError(message("image", f"to be written as {ending}", describe(image), where=path))
    return atomic_write(path, encoded.tobytes(), name="image")


def path_of(item: ImageInput) -> Path | None:
    """Return the file of an image, or None if it came as an array."""
    if isinstance(item, np.ndarray):
        return None
    return item.path if isinstance(item, Sample) else Path(item)


def read_image(item: ImageInput, bit_depth: int | None) -> UInt8:
    """Return the image of a sample, path or array as uint8 (H, W, 3) RGB; arguments as in `load`."""
    path = path_of(item)
    if path is None:
        return check_image(item, bit_depth=bit_depth)
    return load(path, bit_depth=bit_depth)


def _read(path: str | os.PathLike[str], max_pixels: int, name: str = "image") -> bytes:
    try:
        info = Path(path).stat()
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(message(name, "an image", "a folder", where=path))
        if not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for ever
            raise ImageError(message(name, "an image", "a pipe or device", where=path))
        # More than any image within the limit takes without compression; the rest is room for metadata.
        if info.st_size > BYTES_A_PIXEL * max_pixels + 2**26:
            got = f"a file of {info.st_size / 1e9:.1f} GB"
            raise ImageError(message(name, f"at most {max_pixels:,} pixels", got, where=path, todo=MORE_PIXELS))
        return Path(path).read_bytes()
    except MemoryError:
        got = f"a file of {info.st_size / 1e9:.1f} GB"
        raise ImageError(message(name, "a file that memory has room for", got, where=path)) from None
    except FileNotFoundError:
        raise ImageError(message(name, "an image", "no such file", where=path)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        todo = "Change its rights so that you may read it." if isinstance(error, PermissionError) else ""
        raise ImageError(message(name, "a file that can be read", repr(reason), where=path, todo=todo)) from error


def _decode_stored(data: bytes, header: Header, where: object, name: str = "image") -> Pixels:
    """Return the pixels as stored, rotated upright."""
    try:
        with _QUIET:
            values, alpha = _DECODERS[header.format](data)
    except UnsupportedError as error:
        raise ImageError(message(name, READABLE, str(error), where=where, todo=error.remedy)) from None
    except (DamagedError, struct.error, IndexError, ArithmeticError):
        got = f"a damaged {header.format} of {len(data)} bytes"
        raise ImageError(message(name, "an image", got, where=where, todo=SAVE_AGAIN)) from None
    if values.shape[:2] != (header.height, header.width):
        got = f"{values.shape[1]} x {values.shape[0]}"
        raise ImageError(message(name, f"{header.width} x {header.height} pixels", got, where=where, todo=SAVE_AGAIN))
    return Pixels(_upright(values, header.orientation), alpha)


def _header(data: bytes, where: object, max_pixels: int, name: str = "image") -> Header:
    """Return the header of a file that is not too large to decode."""
    header = read_header(data, where=where, name=name)
    size = f"{header.width:,} x {header.height:,}"
    n_pixels = header.height * header.width
    if n_pixels > max_pixels:
        raise ImageError(message(name, f"at most {max_pixels:,} pixels", size, where=where, todo=MORE_PIXELS))
    n_bytes = n_pixels * (3 + header.pixel_bytes)
    if n_bytes > BYTES_A_PIXEL * max_pixels:
        limit = f"at most {BYTES_A_PIXEL * max_pixels / 1e9:.3g} GB of pixels"
        got = f"{size} pixels that take {n_bytes / 1e9:.3g} GB"
        raise ImageError(message(name, limit, got, where=where, todo=MORE_PIXELS))
    return header


def _no_memory(header: Header, where: object, name: str = "image") -> ImageError:
    n_bytes = header.height * header.width * (3 + header.pixel_bytes)
    got = f"{header.width:,} x {header.height:,} pixels that take {n_bytes / 1e9:.3g} GB"
    todo = "Cut the image into tiles, or use a machine with more memory."
    return ImageError(message(name, "an image that memory has room for", got, where=where, todo=todo))


def _upright(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the pixels with EXIF orientation 1 to 8 applied. Source: EXIF 2.3, table 6 (Orientation)."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def _full_range(bit_depth: int | None) -> int:
    if bit_depth is None:
        return 65_535
    todo = "It is the number of bits that a 16-bit file uses."
    if isinstance(bit_depth, float):
        raise InputError(message("bit_depth", "a whole number from 9 to 16", repr(bit_depth), todo=todo))
    return int(2 ** check_number("bit_depth", bit_depth, low=9, high=16, todo=todo) - 1)


def _to_uint8(stored: NDArray[Any], full: int, where: object, name: str = "image") -> UInt8:
    """Return values scaled from [0, full] to [0, 255] and rounded; 8-bit values as they are."""
    if stored.dtype == np.uint8:
        return np.asarray(stored, np.uint8)
    if full < 65_535 and (largest := int(stored.max())) > full:
        bits = full.bit_length()
        todo = f"The file uses more than {bits} bits: state another bit_depth, or none."
        raise ImageError(message(name, f"values up to {full} (bit_depth={bits})", str(largest), where=where, todo=todo))
    table, image = _table(full), np.empty(stored.shape, np.uint8)
    for rows in _blocks(stored):
        image[rows] = table[stored[rows]]
    return image


@lru_cache(maxsize=8)
def _table(full: int) -> UInt8:
    return ((np.arange(full + 1, dtype=np.int64) * 255 + full // 2) // full).astype(np.uint8)


def _blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows that hold about BLOCK values each."""
    step = max(1, BLOCK * len(array) // max(1, array.size))
    for row in range(0, len(array), step):
        yield slice(row, row + step)


def _to_rgb(image: UInt8) -> UInt8:
    """Return grey or RGB as contiguous (H, W, 3) RGB."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB))
    return np.ascontiguousarray(image)


def _over_white(image: UInt8, alpha: UInt8, *, is_multiplied: bool) -> UInt8:
    for rows in _blocks(image):
        colors, opacity = image[rows], alpha[rows][..., None]
        if is_multiplied:
            image[rows] = np.minimum(colors.astype(np.uint16) + (255 - opacity), 255)
            continue
        shade = (255 - colors).astype(np.uint16)  # at most 255 * 255, so uint16 holds the product
        shade *= opacity
        shade += 127
        shade //= 255
        image[rows] = 255 - shade.astype(np.uint8)
    return image


class _Quiet:
    """Context in which OpenCV prints nothing to stderr: the ImageError holds the reason. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # OpenCV 5 has it in utils.logging, 4 at the top; both return the previous level.
        self._set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        self._depth = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._level = self._set_level(0)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._set_level(self._level)


_QUIET = _Quiet()
_DECODERS: Mapping[str, Callable[[bytes], Pixels]] = {
    "PNG": decode_png,
    "JPEG": decode_jpeg,
    "BMP": decode_bmp,
    "TIFF": decode_tiff,
    "WebP": decode_webp,
}
