"""Decoding of plain PNG files by kornia-rs, in about half the time of OpenCV: benchmarks/decode.py.

kornia-rs has a function for each kind of PNG and none for most, so only the plain kinds go there. It is safe in threads
and holds Python's global interpreter lock for the whole image. Where threads decode ahead of a loop, that loop would
wait for the lock at each of its steps: there OpenCV decodes (`release_gil` in `decode`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from kornia_rs import io

from blemish.types import UInt8

if TYPE_CHECKING:
    from blemish.imaging.headers import Header

MODES = {0: "mono", 2: "rgb"}  # by PNG color type; the others are palettes and alpha


def decode_png(data: bytes, header: Header) -> UInt8 | None:
    """Return the pixels of a PNG of 8 bits, grey or RGB, without transparency and not interlaced, as stored.

    (H, W, 1) or (H, W, 3) RGB, before any orientation; None for another kind of file or a damaged one.
    """
    if header.format != "PNG":
        return None
    depth, color, _, _, interlaced = data[24:29]
    if depth != 8 or color not in MODES or interlaced or b"tRNS" in data[: data.find(b"IDAT")]:
        return None
    try:
        pixels = io.decode_image_png_u8(data, (header.height, header.width), MODES[color])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # its own errors are plain Exception, and a panic in Rust is not even that
        return None
    return np.asarray(pixels, np.uint8)
