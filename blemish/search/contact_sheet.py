"""A contact sheet of an answer: the defect that was asked about, and the stored ones that are most like it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.errors import ImageError
from blemish.imaging.decode import load, read_facts
from blemish.visualization import FOUND, MARKED, contact_sheet, contours
from blemish.visualization.scaling import crop_around
from blemish.visualization.text import draw_text, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from blemish.search.records import Match, StoredDefect
    from blemish.types import UInt8
    from blemish.visualization.text import Colour

SIZE_PX = 208
# How much the lower row shows, as a multiple of the region, and at least which share of the image.
AROUND, LEAST_SHARE = 2.5, 0.2
_ABSENT: Colour = (232, 233, 237)
_TEXT: Colour = (101, 108, 118)


def sheet(
    image: UInt8,
    box: tuple[int, int, int, int],
    contour: NDArray[np.int32],
    matches: Sequence[Match],
    *,
    title: str,
    bit_depth: int | None = None,
) -> UInt8:
    """Return a page with the query and its matches, each whole above and from near below, with its outline.

    An image that is no longer there, or was changed since, leaves a tile that says so: its outline would be wrong.

    Args:
        image: (H, W, 3) uint8 RGB, the query.
        box: (x, y, width, height) of its region.
        contour: (n, 2) int32 (x, y), outline of its region.
        matches: nearest first.
        title: a line above.
        bit_depth: how many bits 16-bit images really use; None for all.
    """
    tiles = [_both(image, box, contour, MARKED)]
    captions = [("Query", " ")]
    for one in matches:
        defect = one.defect
        loaded = _image_of(defect, bit_depth)
        if isinstance(loaded, str):
            tiles.append((_absent(loaded), _absent("")))
        else:
            tiles.append(_both(loaded, defect.box, defect.contour, FOUND))
        captions.append((f"{defect.label or 'no label yet'}", f"{one.similarity:.3f}  {Path(defect.path).name}"))
    whole, near = zip(*tiles, strict=True)
    above, below = zip(*captions, strict=True)
    return contact_sheet([*whole, *near], [*above, *below], columns=len(tiles), title=title, size_px=SIZE_PX)


def _both(
    image: UInt8, box: tuple[int, int, int, int], contour: NDArray[np.int32], colour: Colour
) -> tuple[UInt8, UInt8]:
    """Return the whole image and the surroundings of the region, both with its outline."""
    mask = np.zeros(image.shape[:2], np.uint8)
    if len(contour):
        cv2.drawContours(mask, [contour], -1, 1, cv2.FILLED)
    x, y, width, height = box
    side = max(round(AROUND * max(width, height)), round(LEAST_SHARE * max(image.shape[:2])), 16)
    centre = x + width // 2, y + height // 2
    near, (left, top) = crop_around(image, centre, (side, side))
    near_mask = mask[top : top + near.shape[0], left : left + near.shape[1]] > 0
    # Outlines are drawn at the size that is shown, so that they are of one width.
    return _outlined(image, mask > 0, colour), _outlined(np.ascontiguousarray(near), near_mask, colour)


def _outlined(image: UInt8, mask: NDArray[np.bool_], colour: Colour) -> UInt8:
    scale = SIZE_PX / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return contours(small, np.asarray(share > (1e-6 if scale < 1 else 0.5), np.bool_), colour, thickness=2)


def _image_of(defect: StoredDefect, bit_depth: int | None) -> UInt8 | str:
    """Return the pixels of a stored defect's image, or why they can't be shown."""
    path = Path(defect.path)
    try:
        if not defect.path or not path.exists():
            return "image is gone"
        if read_facts(path)[1] != defect.sha256:
            return "image was changed"
        return load(path, bit_depth=bit_depth)
    except (ImageError, OSError):
        return "image can't be read"


def _absent(why: str) -> UInt8:
    tile: UInt8 = np.full((SIZE_PX, SIZE_PX, 3), _ABSENT, np.uint8)
    if why:
        draw_text(tile, shorten(why, SIZE_PX - 16, 15), (SIZE_PX // 2, SIZE_PX // 2), 15, _TEXT, align="center")
    return tile
