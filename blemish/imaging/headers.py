"""Image headers: format, size and orientation of a file, parsed before anything is decoded.

A decoder allocates what the header claims, so the claim is checked first: a file of 50 kB can claim 30,000 x 30,000
pixels. The format is recognised by content and never by name, and no decoder but these five is ever reached.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from blemish.errors import ImageError, message

ORIENTATION = 0x0112  # the EXIF and TIFF tag
FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
)


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
        orientation: EXIF orientation, 1 to 8; 1 where none is stored.
        lossy: whether compression was lossy, so that 0 may have become 1.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    lossy: bool = False


class _DamagedError(Exception):
    """Damage of a file, in a few words."""


def read_header(data: bytes, *, where: object = None, name: str = "image") -> Header:
    """Return format, size and orientation of an image from its bytes; pixels are not decoded.

    Args:
        data: the whole file: its end is checked too, since some decoders return a half grey image for a file that was
            cut short.

    Raises:
        ImageError: if the bytes are no image of the five formats, or end too early.

    >>> read_header(b"hello")
    Traceback (most recent call last):
    ...
    blemish.errors.ImageError: image: expected PNG, JPEG, BMP, TIFF or WebP, got 5 bytes that are none of these.
    """
    if not data:
        raise ImageError(message(name, "an image", "0 bytes", where=where))
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is None or (reader is _webp and data[8:12] != b"WEBP"):
        raise ImageError(message(name, FORMATS, _describe(data), where=where))
    try:
        header = reader(data)
        if header.height < 1 or header.width < 1:
            raise _DamagedError(f"a size of {header.width} x {header.height} pixels")
    except _DamagedError as damage:
        raise ImageError(message(name, "a complete image", str(damage), where=where)) from None
    except (struct.error, IndexError):
        raise ImageError(message(name, "a complete image", "a header that is cut short", where=where)) from None
    return header


def _describe(data: bytes) -> str:
    for magic, name in OTHER_FORMATS:
        if data.lstrip().startswith(magic):
            return name
    if not any(data[:4096]):
        return f"{len(data)} bytes that start with zeros"
    return f"{len(data)} bytes that are none of these"


def _cut(kind: str, data: bytes) -> _DamagedError:
    return _DamagedError(f"a {kind} that ends too early, after {len(data)} bytes")


def _png(data: bytes) -> Header:
    if data[12:16] not in (b"IHDR", b""):
        raise _DamagedError("a PNG without a header")
    width, height = struct.unpack_from(">II", data, 16)
    orientation, at = 1, 8
    while True:
        if at + 12 > len(data):
            raise _cut("PNG", data)
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
        if kind == b"IEND":
            return Header("PNG", height, width, orientation)
        at += 12 + length


def _jpeg(data: bytes) -> Header:
    size, orientation, at = None, 1, 2
    while True:
        while data[at] != 0xFF or data[at + 1] == 0xFF:  # bytes that pad between segments
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            raise _DamagedError("a JPEG without pixels")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers that stand alone
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xDA:  # the pixels start: what follows is compressed and is not walked
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header (SOF0 to SOF15)
            size = struct.unpack_from(">HH", data, at + 5)
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + length
    # A preview inside the EXIF block has an end marker too, so only what follows the pixels counts.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise _cut("JPEG", data)
    if size is None:
        raise _DamagedError("a JPEG that does not state its size")
    return Header("JPEG", size[0], size[1], orientation, lossy=True)


def _bmp(data: bytes) -> Header:
    offset, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: rows from top to bottom
    row_bytes = (width * bits + 31) // 32 * 4
    if compression == 0 and len(data) < offset + row_bytes * height:
        raise _cut("BMP", data)
    return Header("BMP", height, width)


def _webp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise _cut("WebP", data)
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
        return Header("WebP", height, width, lossy=True)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise _DamagedError(f"a WebP with an unknown part {kind!r}")
    width = 1 + int.from_bytes(data[24:27], "little")
    height = 1 + int.from_bytes(data[27:30], "little")
    orientation, lossy, at = 1, False, 30
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if kind == b"EXIF":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        lossy = lossy or kind == b"VP8 "
        at += 8 + length + length % 2
    return Header("WebP", height, width, orientation, lossy)


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        raise _DamagedError("a TIFF that does not state its size")
    lossy = tags.get(259) in (6, 7)  # JPEG inside
    return Header("TIFF", tags[257], tags[256], tags.get(ORIENTATION, 1), lossy)


def _exif_orientation(block: bytes) -> int:
    """Return the orientation in an EXIF block (a small TIFF); a damaged block counts as none."""
    try:
        value = _tiff_tags(block).get(ORIENTATION, 1)
    except (struct.error, _DamagedError):
        return 1
    return value if 1 <= value <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first directory's tags that hold one short or long number."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise _DamagedError("an unknown byte order")
    big = struct.unpack_from(order + "H", data, 2)[0] == 43  # BigTIFF: 64-bit offsets
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    if start >= len(data):
        raise _cut("TIFF", data)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, step, value_at = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    if first + count * step > len(data):
        raise _cut("TIFF", data)
    tags: dict[int, int] = {}
    for at in range(first, first + count * step, step):
        tag, kind, n_values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is not None and n_values == 1 and (code != "Q" or big):
            tags[tag] = struct.unpack_from(order + code, data, at + value_at)[0]
    return tags


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
)
