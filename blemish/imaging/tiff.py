"""TIFF: strips or tiles, planes, predictor and color model, read from the file's own layout.

OpenCV reads most files as an RGBA image of libtiff, which has no 16 bits, passes damage over, and comes back black from
compressions that libtiff lacks. Here only decompression is left to libraries: `tiff_segments`. Source: TIFF 6.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.imaging.formats import MULTIPLIED, STRAIGHT, DamagedError, Header, Pixels, UnsupportedError, look_up
from blemish.imaging.jpeg import check_scan, decode_by_turbo, read_frame
from blemish.imaging.tiff_directory import (
    AS_RGB,
    CMYK,
    PALETTE_COLOR,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    read_layout,
)  # fmt: skip
from blemish.imaging.tiff_segments import decompressed, segment_rows


def read_tiff_header(data: bytes) -> Header:
    """Return the header of a TIFF's image: its first page that is not a thumbnail."""
    layout = read_layout(data)
    if layout.compression == "jpeg":
        _check_jpeg(layout)
    lossy = layout.compression == "jpeg"
    channels = 3 if layout.color == PALETTE_COLOR else layout.samples
    pixel_bytes = channels * -(-layout.bits // 8)
    return Header("TIFF", layout.height, layout.width, layout.orientation, lossy, pixel_bytes)


def decode_tiff(data: bytes) -> Pixels:
    """Return the pixels of a TIFF's image: grey or RGB, with alpha if it has one; below 8 bits scaled to 8.

    12-bit samples and such come left-aligned in 16 bits; wider integers and floating point as stored.
    """
    layout = read_layout(data)
    samples = _samples(layout, data)
    if layout.alpha is None:
        return _unnamed_fourth(samples, layout)
    colors = _colors(samples, layout)
    if layout.alpha == 0:
        return Pixels(colors[..., 0] if colors.shape[2] == 1 else colors)
    return Pixels(colors, MULTIPLIED if layout.alpha == 1 else STRAIGHT)


def _samples(layout: Layout, data: bytes) -> NDArray[Any]:
    """Return (H, W, samples) of the numbers in the file."""
    wide = 8 if layout.bits <= 8 else 16 if layout.bits <= 16 else layout.bits
    values = np.empty((layout.height, layout.width, layout.samples), f"{layout.kind}{wide // 8}")
    across = -(-layout.width // layout.segment_width)
    down = -(-layout.height // layout.segment_height)
    for index, segment in enumerate(_segments(layout, data)):
        plane, place = divmod(index, across * down)
        top, left = place // across * layout.segment_height, place % across * layout.segment_width
        target = values[top : top + layout.segment_height, left : left + layout.segment_width]
        target = target[..., plane : plane + 1] if layout.planes > 1 else target
        target[...] = segment[: target.shape[0], : target.shape[1]]
    return values


def _segments(layout: Layout, data: bytes) -> Iterator[NDArray[Any]]:
    """Yield (rows, columns, samples) of each strip or tile."""
    if layout.compression == "jpeg":
        for index, (start, length) in enumerate(layout.segments):
            yield _jpeg_segment(layout, data[start : start + length], segment_rows(layout, index))
        return
    for rows in decompressed(layout, data):
        yield _unpacked(rows, layout)


def _unpacked(rows: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    shape = (len(rows), layout.segment_width, layout.segment_samples)
    if layout.bits in (8, 16, 32, 64):
        stored = f"{layout.order}{layout.kind}{layout.bits // 8}"
        segment = rows.reshape(-1).view(stored).astype(stored[1:], copy=layout.predictor == 2).reshape(shape)
        if layout.predictor == 2:
            np.add.accumulate(segment, axis=1, out=segment, dtype=segment.dtype)
        return segment
    bits = np.unpackbits(rows, axis=1)[:, : shape[1] * shape[2] * layout.bits].reshape(-1, layout.bits)
    levels = bits @ (1 << np.arange(layout.bits - 1, -1, -1)).astype(np.uint16)
    return levels.reshape(shape)


def _colors(samples: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Return grey or RGB, alpha after it, of the numbers in the file."""
    if layout.color == PALETTE_COLOR:
        table = np.array(layout.palette, np.uint32).reshape(3, -1).T
        # Old writers state 8 bits of each color. Source: libtiff, tif_getimage.c, checkcmap.
        colors = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return look_up(np.ascontiguousarray(samples[..., 0]), colors)
    if layout.bits < 8:
        samples *= np.uint8(255 // (2**layout.bits - 1))
    elif 8 < layout.bits < 16:
        samples <<= np.uint16(16 - layout.bits)
    if layout.color == WHITE_IS_ZERO:
        if layout.kind != "u":
            raise UnsupportedError("a TIFF of signed or floating point numbers with white as zero", AS_RGB)
        full = (2**layout.bits - 1) << (16 - layout.bits) if 8 < layout.bits < 16 else np.iinfo(samples.dtype).max
        np.subtract(samples.dtype.type(full), samples[..., :1], out=samples[..., :1])
    if layout.color == CMYK:
        return _from_cmyk(samples)
    return samples


def _from_cmyk(inks: NDArray[Any]) -> NDArray[Any]:
    """Return RGB, (full - ink) (full - black) / full. Source: libtiff, tif_getimage.c, CMYK without a profile."""
    if inks.dtype.kind != "u" or inks.dtype.itemsize > 2:
        raise UnsupportedError(f"a TIFF of CMYK in {inks.dtype}", AS_RGB)
    full = np.uint32(np.iinfo(inks.dtype).max)
    colors = np.empty((*inks.shape[:2], 3), inks.dtype)
    for row, line in enumerate(inks):
        light = full - line[:, 3:].astype(np.uint32)
        colors[row] = light * (full - line[:, :3]) // full
    return colors


def _unnamed_fourth(samples: NDArray[Any], layout: Layout) -> Pixels:
    """Return the colors, if the channel that the file does not name is opaque throughout, as writers fill it."""
    if samples.dtype.kind != "u" or samples[..., -1].min() < 2**layout.bits - 1:
        trait = f"a TIFF of {layout.samples} channels that does not say what the last one is"
        raise UnsupportedError(trait, "Save it as RGB, or as PNG if the last channel is alpha.")
    colors = _colors(np.ascontiguousarray(samples[..., :-1]), layout)
    return Pixels(colors[..., 0] if colors.shape[2] == 1 else colors)


def _check_jpeg(layout: Layout) -> None:
    if layout.bits != 8 or layout.color in (CMYK, PALETTE_COLOR):
        raise UnsupportedError("a TIFF with JPEG compression of other than 8-bit grey or RGB", AS_RGB)


def _jpeg_segment(layout: Layout, part: bytes, rows: int) -> NDArray[np.uint8]:
    """Return the pixels of an abbreviated JPEG stream. Source: TIFF Technical Note 2; Adobe APP14 (color transform)."""
    if not part.startswith(b"\xff\xd8") or b"\xff\xd9" not in part[-16:]:
        raise DamagedError("")
    tables = layout.tables[2:-2] if layout.tables else b""
    # Without this marker libjpeg guesses the color model; the page states it.
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, layout.color == YCBCR)
    grey = layout.segment_samples == 1
    stream = b"\xff\xd8" + (b"" if grey else adobe) + tables + part[2:]
    try:
        frame = read_frame(stream)
    except (struct.error, IndexError):
        raise DamagedError("") from None
    if frame.components != layout.segment_samples or frame.height < rows or frame.width < layout.segment_width:
        raise DamagedError("")
    check_scan(stream, frame)
    segment = decode_by_turbo(stream, (frame.height, frame.width), grey=grey)
    return segment[..., None] if grey else segment
