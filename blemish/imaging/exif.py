"""EXIF orientation. Source: EXIF 2.3, table 6 (Orientation); TIFF 6.0 for the block's layout."""

from __future__ import annotations

import struct

ORIENTATION = 0x0112
CODES = {1: "B", 3: "H", 4: "I"}  # SHORT by the standard; some cameras write the others


def exif_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, in an EXIF block (a small TIFF); a damaged block counts as none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, n_values = struct.unpack_from(order + "HHI", block, at)
            if tag == ORIENTATION and kind in CODES and n_values == 1:
                (value,) = struct.unpack_from(order + CODES[kind], block, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
