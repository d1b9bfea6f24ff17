"""Decompression of the strips and tiles of a TIFF, each to exactly the bytes that its pixels take.

Deflate by zlib, which checks an Adler-32; LZMA by liblzma; PackBits here; LZW and Zstandard by libtiff (Pillow), which
gets the strips as an image of bytes, so that it decompresses and does nothing else. It returns an error where OpenCV,
which asks libtiff for an RGBA image, gets the pixels decoded so far. Source: TIFF 6.0, sections 8, 9 and 13.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from blemish.imaging.formats import DamagedError, UnsupportedError
from blemish.types import UInt8

if TYPE_CHECKING:
    from blemish.imaging.tiff_directory import Layout

LIBTIFF = {"lzw": 5, "zstd": 50000}
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
BATCH_BYTES = 2**25  # decompressed at once by libtiff
DICTIONARY_BYTES = 2**28  # that an LZMA stream may ask for; `xz -9` takes 2**26
ONE_ZERO = bytes.fromhex("28b52ffd200109000000")  # a Zstandard frame. Source: RFC 8878, section 3.1.1


def segment_rows(layout: Layout, index: int) -> int:
    """Return the number of rows that segment `index` holds: a tile all, the last strip of a plane the rest."""
    if layout.tiled:
        return layout.segment_height
    down = -(-layout.height // layout.segment_height)
    return min(layout.segment_height, layout.height - index % down * layout.segment_height)


def decompressed(layout: Layout, data: bytes) -> Iterator[UInt8]:
    """Yield (rows, row bytes) uint8 for each segment in turn, before the predictor is undone.

    Raises:
        DamagedError: if a segment does not decompress to the size that the layout says.
    """
    row_bytes = -(-layout.segment_width * layout.segment_samples * layout.bits // 8)
    parts = [data[start : start + length] for start, length in layout.segments]
    if layout.reverse_bits:
        parts = [part.translate(REVERSED) for part in parts]
    rows = [segment_rows(layout, index) for index in range(len(parts))]
    if layout.compression == "zstd" and not _has_zstandard():
        raise UnsupportedError("a TIFF with Zstandard compression, which this Pillow lacks", "Install a newer Pillow.")
    if layout.compression in LIBTIFF:
        yield from _by_libtiff(parts, rows, row_bytes, LIBTIFF[layout.compression])
        return
    for part, n_rows in zip(parts, rows, strict=True):
        content = _one(part, n_rows * row_bytes, layout.compression)
        if len(content) < n_rows * row_bytes:
            raise DamagedError("")
        yield np.frombuffer(content, np.uint8, n_rows * row_bytes).reshape(n_rows, row_bytes)


def _one(part: bytes, size: int, compression: str) -> bytes:
    """Return the decompressed segment; some writers fill the last strip up, so it may be longer."""
    if compression == "none":
        return part
    if compression == "packbits":
        return _packbits(part, size)
    return _lzma(part, size) if compression == "lzma" else _deflate(part, size)


def _deflate(part: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(part, size)
        if not stream.eof:  # the checksum, or what fills the last strip up
            stream.decompress(stream.unconsumed_tail, 2**26)
    except zlib.error:
        raise DamagedError("") from None
    if not stream.eof or len(content) < size:
        raise DamagedError("")
    return content


def _lzma(part: bytes, size: int) -> bytes:
    import lzma

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DICTIONARY_BYTES)
    try:
        content = stream.decompress(part, size)
        if not stream.eof:  # the checksum, or what fills the last strip up
            stream.decompress(b"", 2**26)
    except (lzma.LZMAError, EOFError):
        raise DamagedError("") from None
    if not stream.eof:
        raise DamagedError("")
    return content


@lru_cache
def _has_zstandard() -> bool:
    """Return whether Pillow's libtiff was built with Zstandard; 11.3 was not."""
    try:
        return not _libtiff_image([ONE_ZERO], 1, 1, 1, LIBTIFF["zstd"]).any()
    except DamagedError:
        return False


def _packbits(part: bytes, size: int) -> bytes:
    content, at = bytearray(), 0
    while len(content) < size and at < len(part):
        head = part[at]
        if head < 128:
            content += part[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            content += part[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    # Runs fill the rows exactly, and nothing but a byte of padding is left.
    if len(content) != size or not len(part) - 1 <= at <= len(part):
        raise DamagedError("")
    return bytes(content)


def _by_libtiff(parts: Sequence[bytes], rows: Sequence[int], row_bytes: int, compression: int) -> Iterator[UInt8]:
    start = 0
    while start < len(parts):
        end, total = start + 1, rows[start]
        # Only the last strip of an image may be shorter than the others.
        while end < len(parts) and rows[end - 1] == rows[start] and (total + rows[end]) * row_bytes <= BATCH_BYTES:
            total += rows[end]
            end += 1
        content = _libtiff_image(parts[start:end], rows[start], total, row_bytes, compression)
        at = 0
        for n_rows in rows[start:end]:
            yield content[at : at + n_rows]
            at += n_rows
        start = end


def _libtiff_image(parts: Sequence[bytes], rows_each: int, height: int, row_bytes: int, compression: int) -> UInt8:
    """Return (height, row_bytes) uint8 of strips, decoded as a grey image of that width."""
    from PIL.TiffImagePlugin import TiffImageFile

    n = len(parts)
    lengths = [len(part) for part in parts]
    offsets = np.cumsum([8, *lengths[:-1]]).tolist()
    arrays = sum(lengths) + 8
    tags = [(256, 4, 1, row_bytes), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
            (273, 4, n, offsets[0] if n == 1 else arrays), (277, 3, 1, 1), (278, 4, 1, rows_each),
            (279, 4, n, lengths[0] if n == 1 else arrays + 4 * n)]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    numbers = struct.pack(f"<{2 * n}I", *offsets, *lengths)
    file = struct.pack("<2sHI", b"II", 42, arrays + len(numbers)) + b"".join(parts) + numbers + directory
    try:
        with TiffImageFile(io.BytesIO(file)) as image:
            return np.asarray(image)
    except MemoryError:
        raise
    except Exception:  # whatever Pillow makes of damage: OSError, SyntaxError, ValueError, struct.error
        raise DamagedError("") from None
