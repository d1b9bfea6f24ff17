"""JPEG by libjpeg-turbo (kornia-rs), which refuses a file at the first warning of the library.

Other readers of the same library pass its warnings over: with 2,000 zeroed bytes in the middle, OpenCV and Pillow
return half of the pixels wrong. The pixels are the same bit for bit.

Source: ITU-T T.81 (markers: table B.1; Huffman codes: annex C; the stream of an image: annex F).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from kornia_rs import io
from numpy.typing import NDArray

from blemish.imaging.exif import exif_orientation
from blemish.imaging.formats import DamagedError, Header, Pixels, UnsupportedError, cut_short, decode_by_opencv
from blemish.types import UInt8

# Bytes of the entropy-coded segment in a row that are zero. 6,173 real files have at most 4; zeros decode as
# coefficients of -1 with all usual code tables, so that 32 of them are more than a block of nothing else.
ZERO_RUN = 32
SEQUENTIAL = (0xC0, 0xC1)
PROGRESSIVE = (0xC2, 0xCA)
KINDS = {
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic coding",
    0xCA: "arithmetic coding",
    0xCB: "arithmetic coding",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
    0xF7: "JPEG-LS compression",
}
REMEDY = "Save it as PNG."
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Frame(NamedTuple):
    """Frame of a JPEG, and where its first scan starts.

    Attributes:
        marker: 0xC0 to 0xCF, the kind of coding.
        scan: index of the first byte of the first scan's entropy-coded segment.
        scan_components: number of components in the first scan.
        zeros_mean_flat: whether zero bits can be a flat area, by the first component's code table.
    """

    marker: int
    precision: int
    height: int
    width: int
    components: int
    orientation: int
    scan: int
    scan_components: int
    zeros_mean_flat: bool


def read_jpeg_header(data: bytes) -> Header:
    """Return the header of a JPEG that has its end."""
    frame = read_frame(data)
    # Progressive files are decoded from 16-bit coefficients of the whole image.
    coefficients = 2 * frame.components if frame.marker in PROGRESSIVE else 0
    lossy = frame.marker != 0xC3
    pixel_bytes = frame.components + coefficients
    return Header("JPEG", frame.height, frame.width, frame.orientation, lossy, pixel_bytes)


def read_frame(data: bytes) -> Frame:
    """Return the frame of a JPEG.

    Raises:
        UnsupportedError: if the decoder does not read its kind of coding, or not exactly.
    """
    frame: tuple[int, int, int, int, int] | None = None
    exif, first_codes, start, end = b"", {}, 0, 0
    for marker, start, end in _segments(data):
        if _is_frame(marker):
            frame = (marker, *struct.unpack_from(">BHHB", data, start))
        elif marker == 0xC4:
            first_codes.update(_first_codes(data[start:end]))
        elif marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            exif = exif or data[start + 6 : end]
    # A preview inside the EXIF block has an end marker too, so only what follows the pixels counts.
    if data.find(b"\xff\xd9", end) < 0:
        raise cut_short("JPEG", data)
    if frame is None:
        raise DamagedError("a JPEG that does not state its size")
    # A code of zeros alone is that of a table's first symbol: 0 ends a block ("all further coefficients are 0").
    zeros_mean_flat = first_codes.get(0x10 | data[start + 2] & 15, 0) == 0
    return _checked(Frame(*frame, exif_orientation(exif), end, data[start], zeros_mean_flat))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the head of the first scan."""
    at = 2
    while True:
        while data[at] != 0xFF or data[at + 1] == 0xFF:  # bytes that pad between segments
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            raise DamagedError("a JPEG without pixels")
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers that stand alone
            at += 2
            continue
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        yield marker, at + 4, end
        if marker == 0xDA:
            return
        at = end


def _is_frame(marker: int) -> bool:
    return marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC))


def decode_jpeg(data: bytes) -> Pixels:
    """Return the pixels of a JPEG: (H, W) or (H, W, 3)."""
    frame = read_frame(data)
    try:
        return Pixels(_decoded(data, frame))
    except DamagedError:
        # Cameras fill a file up to a whole number of words: zeros between the last code and the end change no pixel. If
        # they stand for lost pixels, the file without them ends too early.
        end = data.find(b"\xff\xd9", frame.scan)
        if data[end - 1]:
            raise
        return Pixels(_decoded(data[:end].rstrip(b"\0") + data[end:], frame))


def _decoded(data: bytes, frame: Frame) -> NDArray[Any]:
    check_scan(data, frame)
    if frame.components == 4:  # libjpeg-turbo's own interface makes no RGB of CMYK
        decode_by_turbo(*_three_components(data, frame), grey=True)
        return decode_by_opencv(data)
    return decode_by_turbo(data, (frame.height, frame.width), grey=frame.components == 1)


def _three_components(data: bytes, frame: Frame) -> tuple[bytes, tuple[int, int]]:
    """Return the stream of four components as one of three, and its (height, width): for the warnings, not the pixels.

    Two adjacent components of one sampling and the same codes are coded like one with twice as many blocks across.
    Source: ITU-T T.81, A.2.3 (order of blocks), B.2.2 (frame), B.2.3 (scan).

    Raises:
        DamagedError: if a sampling factor is none.
        UnsupportedError: if the file has several scans, or no such components.
    """
    segments = list(_segments(data))
    head = next(data[start:end] for marker, start, end in segments if _is_frame(marker))
    scan = data[segments[-1][1] : segments[-1][2]]
    parts = [head[at : at + 3] for at in range(6, 18, 3)]  # number, sampling, quantisation
    codes = [scan[at : at + 2] for at in range(1, 9, 2)]  # number, code tables
    across = [part[1] >> 4 for part in parts]
    if not all(1 <= factor <= 4 for part in parts for factor in (part[1] >> 4, part[1] & 15)):
        raise DamagedError("")
    pairs = [k for k in range(3) if parts[k][1] == parts[k + 1][1] and codes[k][1] == codes[k + 1][1] and across[k] < 3]
    if frame.marker not in SEQUENTIAL or frame.scan_components != 4 or not pairs:
        raise UnsupportedError("a JPEG of four channels in several scans", REMEDY)
    first, wide = pairs[0], max(across)
    across[first] *= 2
    parts[first] = bytes([parts[first][0], across[first] << 4 | parts[first][1] & 15, parts[first][2]])
    del parts[first + 1], codes[first + 1], across[first + 1]
    width = -(-frame.width // (8 * wide)) * 8 * max(across)
    changed = {
        0xDA: b"\x03" + b"".join(codes) + scan[9:],
        frame.marker: head[:3] + struct.pack(">HB", width, 3) + b"".join(parts),
    }
    stream = b"\xff\xd8"
    for marker, start, end in segments:
        if not 0xE0 <= marker <= 0xFE:  # what programs say of colors
            content = changed.get(marker, data[start:end])
            stream += struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    return stream + data[frame.scan :], (frame.height, width)


def decode_by_turbo(data: bytes, height_width: tuple[int, int], *, grey: bool) -> UInt8:
    """Return (H, W) or (H, W, 3) RGB uint8; DamagedError at any warning or error of libjpeg-turbo, or another size."""
    try:
        values = np.asarray(io.decode_image_jpegturbo(data, "mono" if grey else "rgb"), np.uint8)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # its own errors are plain Exception, and a panic in Rust is not even that
        raise DamagedError("") from None
    if values.shape[:2] != height_width:
        raise DamagedError("")
    return values[..., 0] if grey else values


def _checked(frame: Frame) -> Frame:
    if frame.marker in KINDS:
        raise UnsupportedError(f"a JPEG with {KINDS[frame.marker]}", REMEDY)
    if frame.precision != 8:
        trait = f"a JPEG of {frame.precision} bits a channel"
        raise UnsupportedError(trait, "Save it as PNG or TIFF of 16 bits.")
    if frame.components not in (1, 3, 4):
        raise UnsupportedError(f"a JPEG of {frame.components} channels", REMEDY)
    return frame


def _first_codes(tables: bytes) -> dict[int, int]:
    """Return the first symbol of each Huffman table in a DHT segment, by class (high four bits) and number."""
    symbols: dict[int, int] = {}
    at = 0
    while at + 17 < len(tables):
        symbols[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return symbols


def check_scan(data: bytes, frame: Frame) -> None:
    """Raise DamagedError for marks of damage that libjpeg-turbo does not warn of, in a file of one sequential scan."""
    if frame.marker not in SEQUENTIAL or frame.scan_components != frame.components:
        return
    end = MARKER.search(data, frame.scan)
    if end is None or data[end.start() + 1] not in (0xD9, 0xDC):  # the end, or the number of lines
        raise DamagedError("")
    if not frame.zeros_mean_flat and data.find(bytes(ZERO_RUN), frame.scan, end.start()) >= 0:
        raise DamagedError("")
