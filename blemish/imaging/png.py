"""PNG by libpng (OpenCV), which checks the CRC of the pixels' chunks and the Adler-32 of the whole pixel stream.

kornia-rs decodes in half of the time and ignores the Adler-32: of 200 files with a damaged stream and right CRCs it
read 156 wrongly, libpng 1. Checking the stream beside it takes more than the time saved.

Source: PNG specification, third edition.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.imaging.exif import exif_orientation
from blemish.imaging.formats import STRAIGHT, DamagedError, Header, Pixels, cut_short, decode_by_opencv, look_up

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
GREY, RGB, PALETTE = 0, 2, 3
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
IEND = bytes.fromhex("0000000049454e44ae426082")


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    length: int


def read_png_header(data: bytes) -> Header:
    """Return the header of a PNG whose chunks are all there."""
    if data[12:16] not in (b"IHDR", b""):
        raise DamagedError("a PNG without a header")
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    if depth not in DEPTHS.get(color, ()):
        raise DamagedError(f"a PNG of color type {color} with {depth} bits")
    if not width or not height:
        raise DamagedError(f"a size of {width} x {height} pixels")
    exif = [_content(chunk, data) for chunk in _chunks(data) if chunk.kind == b"eXIf"]
    orientation = exif_orientation(exif[0]) if exif else 1
    # OpenCV makes BGR with alpha of grey with alpha; a palette takes its indices and four channels.
    channels = 5 if color == PALETTE else 4 if color in (4, 6) else CHANNELS[color]
    return Header("PNG", height, width, orientation, pixel_bytes=channels * (2 if depth == 16 else 1))


def decode_png(data: bytes) -> Pixels:
    """Return the pixels of a PNG, of an animated one its still image, transparency as alpha."""
    depth, color = data[24:26]
    chunks = list(_chunks(data))
    transparency = _transparency(chunks, data)
    if color == PALETTE:
        return _from_palette(chunks, data, transparency)
    # Text, profiles and frames of an animation change no pixel; decoders differ in what they make of them.
    kept = [data[chunk.start - 8 : chunk.start + chunk.length + 4] for chunk in chunks if chunk.kind in CRITICAL]
    values = decode_by_opencv(data if len(kept) == len(chunks) else SIGNATURE + b"".join(kept))
    if transparency is None:
        return Pixels(values, STRAIGHT if values.ndim == 3 and values.shape[2] == 4 else "")
    if color not in (GREY, RGB) or len(transparency) != 2 * CHANNELS[color]:
        raise DamagedError("")
    return Pixels(_with_key(values, struct.unpack(f">{CHANNELS[color]}H", transparency), depth), STRAIGHT)


def _transparency(chunks: Sequence[_Chunk], data: bytes) -> bytes | None:
    """Return the content of tRNS; DamagedError if it is not alone, or not before the pixels. Source: PNG, table 7."""
    kinds = [chunk.kind for chunk in chunks]
    if b"tRNS" not in kinds:
        return None
    place = kinds.index(b"tRNS")
    if kinds.count(b"tRNS") > 1 or b"IDAT" in kinds[:place] or b"PLTE" in kinds[place:]:
        raise DamagedError("")
    return _content(chunks[place], data)


def _from_palette(chunks: Sequence[_Chunk], data: bytes, transparency: bytes | None) -> Pixels:
    """Return the colors of a palette's indices, which libpng decodes as grey."""
    before = itertools.takewhile(lambda chunk: chunk.kind != b"IDAT", chunks)
    depth, palettes = data[24], [_content(chunk, data) for chunk in before if chunk.kind == b"PLTE"]
    if len(palettes) != 1 or len(palettes[0]) % 3 or not 3 <= len(palettes[0]) <= 3 * 256:
        raise DamagedError("")
    head = b"IHDR" + data[16:25] + bytes([GREY]) + data[26:29]
    kept = [data[chunk.start - 8 : chunk.start + chunk.length + 4] for chunk in chunks if chunk.kind == b"IDAT"]
    grey = [struct.pack(">I", 13), head, struct.pack(">I", zlib.crc32(head)), *kept, IEND]
    levels = decode_by_opencv(SIGNATURE + b"".join(grey))
    colors = np.frombuffer(palettes[0], np.uint8).reshape(-1, 3)
    if transparency is not None:
        if len(transparency) > len(colors):
            raise DamagedError("")
        alpha = np.full((len(colors), 1), 255, np.uint8)
        alpha[: len(transparency), 0] = np.frombuffer(transparency, np.uint8)
        colors = np.hstack([colors, alpha])
    values = look_up(np.asarray(levels // (255 // (2**depth - 1)), np.uint8), colors)
    return Pixels(values, "" if transparency is None else STRAIGHT)


def _content(chunk: _Chunk, data: bytes) -> bytes:
    return data[chunk.start : chunk.start + chunk.length]


def _chunks(data: bytes) -> Iterator[_Chunk]:
    at = len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise cut_short("PNG", data)
        (length,) = struct.unpack_from(">I", data, at)
        chunk = _Chunk(data[at + 4 : at + 8], at + 8, length)
        if at + 12 + length > len(data):
            raise cut_short("PNG", data)
        if chunk.kind != b"IDAT":  # whose checksums libpng looks at
            (stated,) = struct.unpack_from(">I", data, at + 8 + length)
            if stated != zlib.crc32(memoryview(data)[at + 4 : at + 8 + length]):
                raise DamagedError(f"a PNG with damage in its part {chunk.kind!r}")
        if not chunk.kind[0] & 0x20 and chunk.kind not in CRITICAL:
            raise DamagedError(f"a PNG with an unknown part {chunk.kind!r} that changes its pixels")
        yield chunk
        if chunk.kind == b"IEND":
            return
        at += 12 + length


def _with_key(values: NDArray[Any], key: tuple[int, ...], depth: int) -> NDArray[Any]:
    """Return grey or RGB with alpha: 0 where a pixel has the color that tRNS names. Source: PNG, section 11.3.1.1."""
    full = np.iinfo(values.dtype).max
    layers = values if values.ndim == 3 else values[..., None]
    # Depths below 8 come back scaled to 0..255; the key is in the depth of the file, its higher bits unused.
    scale = full // (2**depth - 1)
    same = np.ones(values.shape[:2], bool)
    for k, level in enumerate(key):
        same &= layers[..., k] == (level & (2**depth - 1)) * scale
    alpha = np.where(same, 0, full).astype(values.dtype)
    return np.dstack([layers, alpha])
