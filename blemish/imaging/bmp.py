"""BMP: 24 bits by OpenCV; palettes, channel masks and run lengths here.

OpenCV takes unused bits for alpha, and an index beyond the palette for black.

A BMP has no checksum: damage inside of its pixels can't be seen. Source: Microsoft, "Bitmap storage"; BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.imaging.formats import (
    STRAIGHT,
    DamagedError,
    Header,
    Pixels,
    UnsupportedError,
    cut_short,
    decode_by_opencv,
    look_up,
)
from blemish.types import UInt8

RAW, RLE8, RLE4, MASKS, ALPHA_MASKS = 0, 1, 2, 3, 6
HEADERS = (12, 40, 52, 56, 64, 108, 124)
DEFAULT_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
REMEDY = "Save it as PNG."


class _Layout(NamedTuple):
    """Layout of the pixels; `top_down` where the first row is the image's."""

    start: int
    header_bytes: int
    height: int
    width: int
    top_down: bool
    bits: int
    compression: int

    @property
    def row_bytes(self) -> int:
        return (self.width * self.bits + 31) // 32 * 4


def read_bmp_header(data: bytes) -> Header:
    """Return the header of a BMP that is complete."""
    layout = _layout(data)
    pixel_bytes = {16: 2 + 4, 32: 4 + 4}.get(layout.bits, 3)
    return Header("BMP", layout.height, layout.width, pixel_bytes=pixel_bytes)


def decode_bmp(data: bytes) -> Pixels:
    """Return the pixels of a BMP: (H, W) where its palette is grey, (H, W, 3), or (H, W, 4) with an alpha mask."""
    layout = _layout(data)
    if layout.bits in (16, 32):
        return _decode_masked(data, layout)
    if layout.bits == 24:
        return Pixels(decode_by_opencv(data))
    indices = _decode_runs(data, layout) if layout.compression in (RLE8, RLE4) else _unpacked(data, layout)
    colors = _palette(data, layout)
    if (colors == colors[:, :1]).all():
        colors = colors[:, :1]
    return Pixels(look_up(indices if layout.top_down else np.ascontiguousarray(indices[::-1]), colors))


def _layout(data: bytes) -> _Layout:
    start, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes not in HEADERS:
        raise UnsupportedError(f"a BMP with a header of {header_bytes} bytes", REMEDY)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = RAW
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    layout = _Layout(start, header_bytes, abs(height), width, height < 0, bits, compression)
    allowed = {1: (RAW,), 4: (RAW, RLE4), 8: (RAW, RLE8), 24: (RAW,)} | dict.fromkeys(
        (16, 32), (RAW, MASKS, ALPHA_MASKS)
    )
    if compression not in allowed.get(bits, ()) or (header_bytes == 64 and compression != RAW):
        raise UnsupportedError(f"a BMP of {bits} bits with compression {compression}", REMEDY)
    if start < 14 + header_bytes:
        raise DamagedError(f"a BMP whose pixels start at byte {start}, inside of its header")
    if width < 1 or height == 0:
        raise DamagedError(f"a size of {width} x {abs(height)} pixels")
    if compression in (RAW, MASKS, ALPHA_MASKS) and len(data) < start + layout.row_bytes * layout.height:
        raise cut_short("BMP", data)
    return layout


def _decode_masked(data: bytes, layout: _Layout) -> Pixels:
    masks = DEFAULT_MASKS[layout.bits]
    if layout.compression != RAW:
        masks = struct.unpack_from("<IIII", data, 54)
        if layout.header_bytes == 40 and layout.compression == MASKS:  # three masks after the header
            masks = (*masks[:3], 0)
        if layout.header_bytes == 52:
            masks = (*masks[:3], 0)
    kind = np.dtype(f"<u{layout.bits // 8}")
    count = layout.row_bytes // kind.itemsize * layout.height
    words: NDArray[Any] = np.frombuffer(data, kind, count, layout.start).reshape(layout.height, -1)
    words = words[:, : layout.width]
    words = words if layout.top_down else words[::-1]
    channels = 4 if masks[3] else 3
    values = np.empty((layout.height, layout.width, channels), np.uint8)
    for k in range(channels):
        for row in range(0, layout.height, 256):
            values[row : row + 256, :, k] = _channel(words[row : row + 256], masks[k])
    return Pixels(values, STRAIGHT if channels == 4 else "")


def _channel(words: NDArray[Any], mask: int) -> UInt8:
    """Return one channel scaled to 0..255; the bits of a mask are adjacent."""
    shift = (mask & -mask).bit_length() - 1
    if mask == 0 or (mask >> shift) & (mask >> shift) + 1:
        raise UnsupportedError(f"a BMP with the channel mask {mask:#x}", REMEDY)
    full = mask >> shift
    levels = (words & np.uint32(mask)).astype(np.uint64) >> np.uint64(shift)
    return np.asarray((levels * np.uint64(255) + np.uint64(full // 2)) // np.uint64(full), np.uint8)


def _decode_runs(data: bytes, layout: _Layout) -> UInt8:
    """Return (H, W) palette indices of run lengths, in the order of the file; every row ends where its runs end."""
    indices = np.zeros((layout.height, layout.width), np.uint8)
    at, row, column = layout.start, 0, 0
    try:
        while True:
            count, value = data[at], data[at + 1]
            at += 2
            if count == 0 and value <= 1:  # the end of a row, or of the image
                if column != layout.width and (row, column) != (layout.height, 0):
                    raise DamagedError("")
                if value == 1:
                    break
                row, column = row + 1, 0
                continue
            if count == 0 and value == 2:
                raise UnsupportedError("a run-length coded BMP with gaps", REMEDY)
            run, used = _run(data, at, count, value, four_bits=layout.compression == RLE4)
            if row >= layout.height or column + len(run) > layout.width:
                raise DamagedError("")
            indices[row, column : column + len(run)] = run
            at, column = at + used, column + len(run)
    except IndexError:
        raise cut_short("BMP", data) from None
    if row + (column > 0) != layout.height:
        raise DamagedError("")
    return indices


def _unpacked(data: bytes, layout: _Layout) -> UInt8:
    """Return (H, W) palette indices of 1, 4 or 8 bits, in the order of the file."""
    n_bytes = layout.row_bytes * layout.height
    rows: UInt8 = np.frombuffer(data, np.uint8, n_bytes, layout.start).reshape(layout.height, -1)
    if layout.bits == 1:
        rows = np.unpackbits(rows, axis=1)
    elif layout.bits == 4:
        rows = np.stack([rows >> 4, rows & 15], axis=2).reshape(layout.height, -1)
    return np.ascontiguousarray(rows[:, : layout.width])


def _run(data: bytes, at: int, count: int, value: int, *, four_bits: bool) -> tuple[UInt8, int]:
    """Return the indices of one run, and the bytes that it takes after its first two."""
    if count:
        pair = [value >> 4, value & 15] if four_bits else [value, value]
        return np.resize(np.array(pair, np.uint8), count), 0
    n_bytes = (value + 1) // 2 if four_bits else value
    literal = np.frombuffer(data[at : at + n_bytes], np.uint8)
    if len(literal) < n_bytes:
        raise IndexError
    if four_bits:
        literal = np.stack([literal >> 4, literal & 15], axis=1).ravel()[:value]
    return literal, n_bytes + n_bytes % 2


def _palette(data: bytes, layout: _Layout) -> UInt8:
    """Return (n, 3) RGB, n <= 2**bits."""
    first, each = 14 + layout.header_bytes, 3 if layout.header_bytes == 12 else 4
    n_colors = 0 if layout.header_bytes == 12 else struct.unpack_from("<I", data, 46)[0]
    n_colors = min(n_colors or 2**layout.bits, 2**layout.bits, (layout.start - first) // each)
    return np.frombuffer(data, np.uint8, each * n_colors, first).reshape(-1, each)[:, 2::-1]
