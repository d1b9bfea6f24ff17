"""Image files to uint8 RGB arrays and back: every caller decodes and encodes here."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish._io.files import atomic_write
from blemish._validation.checks import check_number, describe
from blemish.errors import ImageError, InputError, SaveError, message
from blemish.imaging.headers import Header, read_header
from blemish.imaging.png import decode_png
from blemish.imaging.resize import fit_inside, resize
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

# 16,384 x 16,384: about 0.8 GB as RGB. Pillow stops at 179 million, OpenCV at 1,074 million.
MAX_PIXELS = 2**28
SAVED_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MORE_PIXELS = "Raise max_pixels= if you trust this file and have the memory, or cut the image into tiles."


def load(
    path: str | os.PathLike[str],
    *,
    bit_depth: int | None = None,
    max_pixels: int = MAX_PIXELS,
    release_gil: bool = False,
) -> UInt8:
    """Return an image file as RGB, (H, W, 3) uint8, as an image viewer shows it.

    Formats: PNG, JPEG, BMP, TIFF and WebP, recognised by content and not by name. Grey is repeated to three channels,
    alpha is composed over white, EXIF orientation is applied, palettes and CMYK become RGB; of several pages the first
    is read. Colour profiles are not applied.

    Args:
        bit_depth: bits that a 16-bit file uses (12 for most industrial cameras); None means all 16. Files of 8 bits
            stay as they are.
        release_gil: True in threads that decode ahead of a loop: other threads run Python meanwhile, and a plain PNG
            takes about twice as long.

    Raises:
        ImageError: if it can't be read; the text says which file and why.
        InputError: if `bit_depth` is not from 9 to 16.
    """
    data = _read(path, max_pixels)
    return decode(data, where=path, bit_depth=bit_depth, max_pixels=max_pixels, release_gil=release_gil)


def decode(
    data: bytes,
    *,
    where: object = None,
    bit_depth: int | None = None,
    max_pixels: int = MAX_PIXELS,
    release_gil: bool = False,
) -> UInt8:
    """Return the bytes of an image file as (H, W, 3) uint8 RGB, decoded as `load` documents. ImageError if they can't
    be read; the text calls them `where`.
    """
    full = _full_range(bit_depth)
    header = _header(data, where, max_pixels)
    if not release_gil and (plain := decode_png(data, header)) is not None:
        return _to_rgb(_upright(plain, header.orientation), swap=False)
    stored = _decode_stored(data, header, where)
    if stored.dtype not in (np.uint8, np.uint16):
        todo = "Save it with 8 or 16 bits: which range of other numbers is black to white is not known."
        raise ImageError(message("image", "8 or 16 bits a channel", str(stored.dtype), where=where, todo=todo))
    alpha: UInt8 | None = None
    if stored.ndim == 3 and stored.shape[2] in (2, 4):
        alpha = _to_uint8(stored[..., -1], 65_535, where)
        stored = stored[..., :-1]
    image = _to_uint8(stored, full, where)
    image = _to_rgb(image)
    if alpha is not None and alpha.min() < 255:
        # OpenCV reads 8-bit TIFFs through libtiff's RGBA interface, which multiplies colours by alpha on the way.
        is_multiplied = header.format == "TIFF" and stored.dtype == np.uint8
        image = _over_white(image, alpha, is_multiplied=is_multiplied)
    return image


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
        The header, and (H, W), (H, W, 3) BGR or (H, W, 4) BGR and alpha, of uint8, uint16 or whatever a TIFF holds.
    """
    data = _read(path, max_pixels, name)
    header = _header(data, path, max_pixels, name)
    return header, _decode_stored(data, header, path, name)


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
    return _to_rgb(_to_uint8(array, _full_range(bit_depth), None, name), swap=False)


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


def read_image(item: ImageInput, bit_depth: int | None, *, release_gil: bool = False) -> UInt8:
    """Return the image of a sample, path or array as uint8 (H, W, 3) RGB; arguments as in `load`."""
    path = path_of(item)
    if path is None:
        return check_image(item, bit_depth=bit_depth)
    return load(path, bit_depth=bit_depth, release_gil=release_gil)


def _read(path: str | os.PathLike[str], max_pixels: int, name: str = "image") -> bytes:
    try:
        info = Path(path).stat()
        if stat.S_ISDIR(info.st_mode):
            raise ImageError(message(name, "an image", "a folder", where=path))
        if not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for ever
            raise ImageError(message(name, "an image", "a pipe or device", where=path))
        # 16-bit RGBA without compression takes 8 bytes a pixel; the rest is room for metadata.
        if info.st_size > 8 * max_pixels + 2**26:
            got = f"a file of {info.st_size / 1e9:.1f} GB"
            raise ImageError(message(name, f"at most {max_pixels:,} pixels", got, where=path, todo=MORE_PIXELS))
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError(message(name, "an image", "no such file", where=path)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        todo = "Change its rights so that you may read it." if isinstance(error, PermissionError) else ""
        raise ImageError(message(name, "a file that can be read", repr(reason), where=path, todo=todo)) from error


def _decode_stored(data: bytes, header: Header, where: object, name: str = "image") -> NDArray[Any]:
    try:
        with _QUIET:
            stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):
        stored = None
    if stored is None or stored.size == 0:
        raise ImageError(message(name, "an image", f"a damaged {header.format} of {len(data)} bytes", where=where))
    # OpenCV rotates a TIFF upright whatever the flags, and the others never with IMREAD_UNCHANGED.
    return _upright(stored, 1 if header.format == "TIFF" else header.orientation)


def _header(data: bytes, where: object, max_pixels: int, name: str = "image") -> Header:
    """Return the header of a file that is not too large to decode."""
    header = read_header(data, where=where, name=name)
    if header.height * header.width > max_pixels:
        got = f"{header.width:,} x {header.height:,}"
        raise ImageError(message(name, f"at most {max_pixels:,} pixels", got, where=where, todo=MORE_PIXELS))
    return header


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
    return np.asarray(_table(full)[stored])


@lru_cache(maxsize=8)
def _table(full: int) -> UInt8:
    return ((np.arange(full + 1, dtype=np.int64) * 255 + full // 2) // full).astype(np.uint8)


def _to_rgb(image: UInt8, *, swap: bool = True) -> UInt8:
    """Return grey or BGR (`swap`) or RGB as (H, W, 3) RGB."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB))
    if not swap:
        return image
    image = np.ascontiguousarray(image)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image))


def _over_white(image: UInt8, alpha: UInt8, *, is_multiplied: bool) -> UInt8:
    if is_multiplied:
        return np.asarray(cv2.add(image, np.repeat(255 - alpha[..., None], 3, axis=2)))
    shade = (255 - image).astype(np.uint16)  # at most 255 * 255, so uint16 holds the product
    shade *= alpha[..., None]
    shade += 127
    shade //= 255
    return 255 - shade.astype(np.uint8)


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
