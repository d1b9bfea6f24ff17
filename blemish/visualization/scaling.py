"""Panel sizes, crops, and resizing of images, anomaly maps and masks for display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.imaging.resize import resize

if TYPE_CHECKING:
    from blemish.types import Bool, Float32, UInt8
    from blemish.visualization.text import Colour


def fit_size(height_width: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """Return the largest (height, width) of the same aspect ratio inside a box; a side under 12 px is stretched."""
    scale = min(height / height_width[0], width / height_width[1])
    return (
        min(height, max(12, round(height_width[0] * scale))),
        min(width, max(12, round(height_width[1] * scale))),
    )


def panel_size(height_width: tuple[int, ...], size_px: int) -> tuple[int, int]:
    """Return the (height, width) of a panel inside a square of `size_px`; wide and high images get more room."""
    aspect = height_width[1] / height_width[0]
    if aspect > 1.6:
        return fit_size(height_width, size_px, round(2.6 * size_px))
    if aspect < 1 / 1.6:
        return fit_size(height_width, round(1.6 * size_px), size_px)
    return fit_size(height_width, size_px, size_px)


def panel_columns(n_panels: int, relative_width: float) -> int:
    """Return the number of panels in a row: one wide panel, up to four square panels, up to six narrow panels."""
    if relative_width > 1.6:
        return 1
    most = 4 if relative_width > 0.6 else 6
    return n_panels if n_panels <= most else -(-n_panels // 2)


def crop_around(image: UInt8, xy: tuple[int, int], height_width: tuple[int, int]) -> tuple[UInt8, tuple[int, int]]:
    """Return a crop of at most this size around `xy`, shifted to lie inside the image, and its top left (x, y)."""
    height, width = (max(1, min(wanted, side)) for wanted, side in zip(height_width, image.shape[:2], strict=True))
    top = min(max(xy[1] - height // 2, 0), image.shape[0] - height)
    left = min(max(xy[0] - width // 2, 0), image.shape[1] - width)
    return image[top : top + height, left : left + width], (left, top)


def pad_to(image: UInt8, height_width: tuple[int, int], colour: Colour) -> UInt8:
    """Return the image centred on a background of one colour and of this (height, width)."""
    padded = np.full((*height_width, 3), colour, np.uint8)
    top, left = ((outer - inner) // 2 for outer, inner in zip(height_width, image.shape[:2], strict=True))
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    return padded


def resize_image(image: UInt8, height_width: tuple[int, int]) -> UInt8:
    """Return the image at this (height, width): antialiased, or by nearest neighbour from 8 times its size on."""
    if height_width[0] >= 8 * image.shape[0] and height_width[1] >= 8 * image.shape[1]:
        return np.asarray(cv2.resize(image, height_width[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    return resize(image, height_width)


def resize_map(anomaly_map: Float32, height_width: tuple[int, int]) -> Float32:
    """Return the map at this (height, width): area average when shrunk, bilinear when enlarged."""
    kind = cv2.INTER_AREA if height_width[0] < anomaly_map.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(anomaly_map, height_width[::-1], interpolation=kind), np.float32)


def resize_mask(mask: Bool, height_width: tuple[int, int]) -> Bool:
    """Return the mask at this (height, width); a pixel is set if it covers any set pixel, so no region is lost."""
    kind = cv2.INTER_AREA if height_width[0] < mask.shape[0] else cv2.INTER_NEAREST
    share = cv2.resize(mask.astype(np.float32), height_width[::-1], interpolation=kind)
    return np.asarray(share > 1e-6, np.bool_)
