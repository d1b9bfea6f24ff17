"""Plain PNG files decoded fast: what cameras and `Patchcore.predict` meet most.

kornia-rs decodes by Rust's png and fdeflate, in a third to a half of the time that OpenCV's libpng takes. It takes each
kind of PNG by another function and few kinds at all, so only the plain ones go there. And it holds Python's lock
meanwhile, so only when nothing is done beside it: images decoded ahead in threads would keep the network waiting, and
`predict_many` took a tenth longer.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from kornia_rs import io

if TYPE_CHECKING:
    from blemish.imaging.headers import Header
    from blemish.types import UInt8

MODES = {0: "mono", 2: "rgb"}  # by the colour type of a PNG; the others are palettes and alpha


def decode_png(data: bytes, header: Header) -> UInt8 | None:
    """Return the pixels of a PNG of 8 bits, grey or RGB, without transparency and not interlaced.

    Args:
        data: the whole file.
        header: out of `read_header`.

    Returns:
        (H, W, 1) or (H, W, 3) RGB uint8 as stored, before any orientation; None for another file or a damaged one, and
        in any thread but the main one.
    """
    if header.format != "PNG" or threading.current_thread() is not threading.main_thread():
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
