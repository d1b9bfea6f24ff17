"""WebP by libwebp (OpenCV). Source: RFC 9649 (container, VP8L), RFC 6386 (VP8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blemish.imaging.exif import exif_orientation
from blemish.imaging.formats import (
    STRAIGHT,
    DamagedError,
    Header,
    Pixels,
    UnsupportedError,
    cut_short,
    decode_by_opencv,
)

# Zero bytes in a row. A WebP has no checksum, and libwebp gives no warning. A flat area codes as zeros: white, black
# and checked images of 2,000 x 2,000 had 389 bytes for 15,625 blocks of 16 x 16 pixels (lossless: 4), real images at
# most 11.
LEAST_ZERO_RUN = 32
BLOCKS_A_ZERO_BYTE = 8
ANIMATED = "Save the frame that you want as PNG."


def read_webp_header(data: bytes) -> Header:
    """Return the header of a still WebP that is complete."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) < length + 8:
        raise cut_short("WebP", data)
    width, height = _size(data[12:16], data)
    orientation, lossy = 1, False
    for kind, start, size in _parts(data):
        if kind in (b"ANIM", b"ANMF"):
            raise UnsupportedError("an animated WebP", ANIMATED)
        if kind == b"EXIF":
            orientation = exif_orientation(data[start : start + size].removeprefix(b"Exif\0\0"))
        lossy = lossy or kind == b"VP8 "
    has_alpha = data[12:16] == b"VP8X" and bool(data[20] & 0x10)
    return Header("WebP", height, width, orientation, lossy, pixel_bytes=4 if has_alpha else 3)


def decode_webp(data: bytes) -> Pixels:
    """Return the pixels of a still WebP: (H, W, 3), or (H, W, 4) with alpha."""
    width, height = _size(data[12:16], data)
    lossy_limit = max(LEAST_ZERO_RUN, -(-width // 16) * -(-height // 16) // BLOCKS_A_ZERO_BYTE)
    for kind, start, size in _parts(data):
        limit = {b"VP8 ": lossy_limit, b"VP8L": LEAST_ZERO_RUN}.get(kind)
        if limit is not None and data.find(bytes(limit), start, start + size) >= 0:
            raise DamagedError("")
    kinds = {kind for kind, _, _ in _parts(data)}
    if data[12:16] == b"VP8X" and data[20] & 0x10 and not kinds & {b"ALPH", b"VP8L"}:
        raise DamagedError("")  # it states alpha, which is not there
    values = decode_by_opencv(data)
    return Pixels(values, STRAIGHT if values.shape[2] == 4 else "")


def _size(kind: bytes, data: bytes) -> tuple[int, int]:
    """Return (width, height)."""
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind != b"VP8X":
        raise DamagedError(f"a WebP with an unknown part {kind!r}")
    return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")


def _parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and length of each chunk; parts are padded to an even length."""
    at = 12
    while at + 8 <= len(data):
        kind, (size,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        yield kind, at + 8, size
        at += 8 + size + size % 2
