"""Image headers: format, size and orientation of a file, parsed before anything is decoded.

A decoder allocates what the header claims, so the claim is checked first: a file of 50 kB can claim 30,000 x 30,000
pixels. The format is recognised by content and never by name, and no decoder but these five is ever reached. Kinds of
file that the decoder is not known to read exactly are refused here.
"""

from __future__ import annotations

import struct

from blemish.errors import ImageError, message
from blemish.imaging.bmp import read_bmp_header
from blemish.imaging.formats import DamagedError, Header, UnsupportedError
from blemish.imaging.jpeg import read_jpeg_header
from blemish.imaging.png import read_png_header
from blemish.imaging.tiff import read_tiff_header
from blemish.imaging.webp import read_webp_header

__all__ = ["FORMATS", "Header", "read_header"]

FORMATS = "PNG, JPEG, BMP, TIFF or WebP"
READABLE = "an image that is read exactly"
ZIP, LFS_POINTER = "a ZIP archive", "a Git LFS pointer (run `git lfs pull`)"
OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"PK\x03\x04", ZIP),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"II\xbc", "a JPEG XR"),
    (b"8BPS", "a Photoshop file"),
    (b"version https://git-lfs", LFS_POINTER),
)
NO_IMAGES = (ZIP, LFS_POINTER)
FAMILIES = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIF"}


def read_header(data: bytes, *, where: object = None, name: str = "image") -> Header:
    """Return format, size and orientation of an image from its bytes; pixels are not decoded.

    Args:
        data: the whole file: its end is checked too, since some decoders return a half grey image for a file that was
            cut short.

    Raises:
        ImageError: if the bytes are no image of the five formats, end too early, or store pixels in a way that no
            decoder here reads exactly.

    >>> read_header(b"hello")
    Traceback (most recent call last):
    ...
    blemish.errors.ImageError: image: expected PNG, JPEG, BMP, TIFF or WebP, got 5 bytes that are none of these.
    """
    if not data:
        raise ImageError(message(name, "an image", "0 bytes", where=where))
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is None or (reader is read_webp_header and data[8:12] != b"WEBP"):
        found = _format_of(data)
        todo = "Save it as PNG." if found and found not in NO_IMAGES else ""
        raise ImageError(message(name, FORMATS, found or _describe(data), where=where, todo=todo))
    try:
        header = reader(data)
        if header.height < 1 or header.width < 1:
            raise DamagedError(f"a size of {header.width} x {header.height} pixels")
    except DamagedError as damage:
        raise ImageError(message(name, "a complete image", str(damage), where=where)) from None
    except UnsupportedError as error:
        raise ImageError(message(name, READABLE, str(error), where=where, todo=error.remedy)) from None
    except (struct.error, IndexError, ArithmeticError):
        raise ImageError(message(name, "a complete image", "a header that is cut short", where=where)) from None
    return header


def _format_of(data: bytes) -> str:
    """Return the format of a file that is none of the five, in words; "" for one that is not known."""
    for magic, name in OTHER_FORMATS:
        if data.lstrip().startswith(magic):
            return name
    return FAMILIES.get(data[8:12], "") if data[4:8] == b"ftyp" else ""


def _describe(data: bytes) -> str:
    if not any(data[:4096]):
        return f"{len(data)} bytes that start with zeros"
    return f"{len(data)} bytes that are none of these"


_READERS = (
    (b"\x89PNG\r\n\x1a\n", read_png_header),
    (b"\xff\xd8\xff", read_jpeg_header),
    (b"BM", read_bmp_header),
    (b"RIFF", read_webp_header),
    (b"II*\0", read_tiff_header),
    (b"MM\0*", read_tiff_header),
    (b"II+\0", read_tiff_header),
    (b"MM\0+", read_tiff_header),
)
