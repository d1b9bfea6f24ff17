"""TIFF files of every layout, written from the specification and by no library that reads them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

NAMES = {5: "tiff_lzw", 32773: "packbits", 50000: "zstd", 34925: "lzma"}


def compress(content: bytes, compression: int) -> bytes:
    """Return one strip; libtiff (Pillow) compresses it as one row of a grey image."""
    if compression in (8, 32946):
        return zlib.compress(content)
    if compression not in NAMES:
        return content
    buffer = io.BytesIO()
    row = Image.frombytes("L", (len(content), 1), content)
    row.save(buffer, "TIFF", compression=NAMES[compression])
    with Image.open(io.BytesIO(buffer.getvalue())) as written:
        (start,), (length,) = written.tag_v2[273], written.tag_v2[279]
    return buffer.getvalue()[start : start + length]


def pack(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Return rows of (H, W, S) numbers of `bits`, each row padded to a byte."""
    if bits in (8, 16, 32, 64):
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    numbers = samples.reshape(len(samples), -1, 1).astype(np.uint32)
    return np.packbits((numbers >> np.arange(bits - 1, -1, -1) & 1).reshape(len(samples), -1), axis=1).tobytes()


def segments_of(samples: np.ndarray, rows: int, tile: tuple[int, int] | None):
    for top in range(0, len(samples), tile[0] if tile else rows):
        if tile is None:
            yield samples[top : top + rows]
            continue
        for left in range(0, samples.shape[1], tile[1]):
            part = samples[top : top + tile[0], left : left + tile[1]]
            pad = ((0, tile[0] - part.shape[0]), (0, tile[1] - part.shape[1]), (0, 0))
            yield np.pad(part, pad, mode="edge")


def page(
    samples, *, photometric=None, compression=1, planar=1, tile=None, rows=None, order="<", predictor=1, bits=None,
    reverse=False, tags=None,
):  # fmt: skip
    """Return tags and strips of one page of (H, W) or (H, W, S) samples."""
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width, n = samples.shape
    bits = bits or 8 * samples.dtype.itemsize
    photometric = (2 if n >= 3 else 1) if photometric is None else photometric
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    written = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * n), 259: (3, [compression]),
               262: (3, [photometric]), 277: (3, [n]), 284: (3, [planar]),
               317: (3, [predictor]), 339: (3, [kind] * n)}  # fmt: skip
    rows = rows or height
    strips = []
    for plane in [samples[..., k : k + 1] for k in range(n)] if planar == 2 else [samples]:
        for part in segments_of(plane, rows, tile):
            stored = part
            if predictor == 2:
                stored = part.copy()
                stored[:, 1:] -= part[:, :-1]
            strip = compress(pack(stored, bits, order), compression)
            strips.append(bytes(int(f"{b:08b}"[::-1], 2) for b in strip) if reverse else strip)
    if tile:
        written |= {322: (4, [tile[1]]), 323: (4, [tile[0]])}
    else:
        written[278] = (4, [rows])
    if reverse:
        written[266] = (3, [2])
    return written | (tags or {}), strips, (324, 325) if tile else (273, 279)


def assemble(pages, *, order="<", big=False) -> bytes:
    """Return a file of pages, each as `page` makes it."""
    word, codes = ("Q" if big else "I"), {1: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}
    body = (b"II" if order == "<" else b"MM") + struct.pack(
        order + ("HHHQ" if big else "HI"), *([43, 8, 0] if big else [42]), 0
    )
    link = len(body) - struct.calcsize(word)
    for tags, strips, (offset_tag, count_tag) in pages:
        offsets = np.cumsum([len(body), *map(len, strips)])[:-1].tolist()
        body += b"".join(strips)
        written = {**tags, offset_tag: (4, offsets), count_tag: (4, list(map(len, strips)))}
        entries = []
        for tag, (kind, values) in sorted(written.items()):
            content = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
            if len(content) > struct.calcsize(word):
                content, body = struct.pack(order + word, len(body)), body + content
            entries.append(
                struct.pack(order + "HH" + word, tag, kind, len(values)) + content.ljust(struct.calcsize(word), b"\0")
            )
        body = body[:link] + struct.pack(order + word, len(body)) + body[link + struct.calcsize(word) :]
        body += struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries)
        link = len(body)
        body += bytes(struct.calcsize(word))
    return body


def tiff(samples, *, order="<", big=False, **options) -> bytes:
    return assemble([page(samples, order=order, **options)], order=order, big=big)
