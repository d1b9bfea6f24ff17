"""Contact sheet of a query: its region beside the most similar stored defects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.errors import ImageError
from blemish.imaging.decode import load, read_facts
from blemish.types import UInt8
from blemish.visualization import FOUND, MARKED, contact_sheet, contours
from blemish.visualization.scaling import crop_around
from blemish.visualization.text import draw_text, shorten

if TYPE_CHECKING:
    from blemish.search.records import Match, StoredDefect
    from blemish.visualization.text import Colour

SIZE_PX = 208
# Side of the close-up, as a multiple of the region, and its least share of the image.
CLOSE_UP, MIN_SHARE = 2.5, 0.2
MISSING_COLOR: Colour = (232, 233, 237)
TEXT_COLOR: Colour = (101, 108, 118)


def sheet(
    image: UInt8,
    box: tuple[int, int, int, int],
    contour: NDArray[np.int32],
    matches: Sequence[Match],
    *,
    title: str,
    bit_depth: int | None = None,
) -> UInt8:
    """Return a page with the query and its matches: whole images above, close-ups below, regions outlined.

    In place of an image that is gone or was changed since, a tile gives the reason: its outline would be wrong.

    Args:
        image: (H, W, 3) uint8 RGB, the query.
        box: (x, y, width, height) of its region.
        contour: (n, 2) int32 (x, y), outline of its region.
        bit_depth: significant bits of 16-bit images; None for all.
    """
    tiles = [_tiles(image, box, contour, MARKED)]
    captions = [("Query", " ")]
    for defect, similarity in matches:
        stored = _load_stored(defect, bit_depth)
        if isinstance(stored, str):
            tiles.append((_missing_tile(stored), _missing_tile("")))
        else:
            tiles.append(_tiles(stored, defect.box, defect.contour, FOUND))
        captions.append((defect.label or "no label yet", f"{similarity:.3f}  {Path(defect.path).name}"))
    images, close_ups = zip(*tiles, strict=True)
    above, below = zip(*captions, strict=True)
    return contact_sheet([*images, *close_ups], [*above, *below], columns=len(tiles), title=title, size_px=SIZE_PX)


def _tiles(
    image: UInt8, box: tuple[int, int, int, int], contour: NDArray[np.int32], colour: Colour
) -> tuple[UInt8, UInt8]:
    """Return the whole image and a close-up of the region, both with its outline."""
    mask = np.zeros(image.shape[:2], np.uint8)
    if len(contour):
        cv2.drawContours(mask, [contour], -1, 1, cv2.FILLED)
    x, y, width, height = box
    side = max(round(CLOSE_UP * max(width, height)), round(MIN_SHARE * max(image.shape[:2])), 16)
    center = x + width // 2, y + height // 2
    close_up, (left, top) = crop_around(image, center, (side, side))
    close_mask = mask[top : top + close_up.shape[0], left : left + close_up.shape[1]] > 0
    return _outlined(image, mask > 0, colour), _outlined(np.ascontiguousarray(close_up), close_mask, colour)


def _outlined(image: UInt8, mask: NDArray[np.bool_], colour: Colour) -> UInt8:
    """Return the image at the tile's size with outlines, which are drawn at that size to be of one width."""
    scale = SIZE_PX / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return contours(small, np.asarray(share > (1e-6 if scale < 1 else 0.5), np.bool_), colour, thickness=2)


def _load_stored(defect: StoredDefect, bit_depth: int | None) -> UInt8 | str:
    """Return a stored defect's image, (H, W, 3) uint8, or why it can't be shown."""
    path = Path(defect.path)
    try:
        if not defect.path or not path.exists():
            return "image is gone"
        if read_facts(path)[1] != defect.sha256:
            return "image was changed"
        return load(path, bit_depth=bit_depth)
    except (ImageError, OSError):
        return "image can't be read"


def _missing_tile(reason: str) -> UInt8:
    tile: UInt8 = np.full((SIZE_PX, SIZE_PX, 3), MISSING_COLOR, np.uint8)
    if reason:
        text = shorten(reason, SIZE_PX - 16, 15)
        draw_text(tile, text, (SIZE_PX // 2, SIZE_PX // 2), 15, TEXT_COLOR, align="center")
    return tile
