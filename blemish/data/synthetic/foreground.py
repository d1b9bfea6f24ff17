"""Foreground of an image with a uniform background, from its border."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.types import Bool, UInt8

SIDE = 128  # px of the longer side on which the foreground is estimated
TOLERANCE = 16  # grey levels between a pixel of the background and the colour of the border
UNIFORM_SHARE = 0.4  # of the border that has its colour, at least
SHARES = 0.05, 0.95  # of the image that a foreground covers
SHARP_SHARE = 0.5  # of the outline of a foreground that is an edge, at least: uneven light has a soft outline
WHOLE_SHARE = 0.6  # of a foreground that is one component, at least: a rough texture has many


def estimate_foreground(image: UInt8) -> Bool:
    """Return the foreground, (H, W) bool: all but the uniform background that is connected with the border.

    A pixel of the background has about the median colour of the border and a small gradient. Holes of an object belong
    to the foreground. An image without an evident uniform background, such as a texture, is all foreground.

    Args:
        image: (H, W, 3) uint8.

    Cost: 0.3 ms for an image of 512 px.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    hw = max(8, round(height * shrink)), max(8, round(width * shrink))
    small = cv2.GaussianBlur(cv2.resize(image, hw[::-1], interpolation=cv2.INTER_AREA), (3, 3), 0)
    everything = np.ones((height, width), np.bool_)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]).astype(np.int16)
    colour = np.median(border, axis=0)
    if (np.abs(border - colour).max(axis=1) <= TOLERANCE).mean() < UNIFORM_SHARE:
        return everything
    empty = largest_channel(np.abs(small - colour.astype(np.float32))) <= TOLERANCE
    # An edge separates an object from a background of about its colour.
    gradient = largest_channel(cv2.morphologyEx(small, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
    empty &= gradient <= TOLERANCE
    _, components = cv2.connectedComponents(empty.astype(np.uint8), connectivity=4)
    edge = np.concatenate([components[0], components[-1], components[:, 0], components[:, -1]])
    is_background = np.zeros(components.max() + 1, np.bool_)
    is_background[edge] = True
    is_background[0] = False  # the label of all that is not empty
    connected = is_background[components]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    foreground = cv2.morphologyEx((~connected).astype(np.uint8), cv2.MORPH_OPEN, disc)
    if not SHARES[0] <= foreground.mean() <= SHARES[1] or not _is_object(foreground, gradient):
        return everything
    foreground = cv2.erode(foreground, np.ones((3, 3), np.uint8))  # the gradient reaches a pixel beyond the object
    return np.asarray(cv2.resize(foreground * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR) > 127)


def _is_object(foreground: UInt8, gradient: UInt8) -> bool:
    """Whether a foreground is mostly one component with a sharp outline."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(foreground)
    whole = stats[1:, cv2.CC_STAT_AREA].max() / foreground.sum()
    near = cv2.dilate(gradient, np.ones((5, 5), np.uint8))
    outline = cv2.morphologyEx(foreground, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    sharp = (near[outline] > 2 * TOLERANCE).mean() if outline.any() else 0.0
    return bool(whole >= WHOLE_SHARE and sharp >= SHARP_SHARE)


def largest_channel(image: NDArray[Any]) -> NDArray[Any]:
    """Return the maximum over the channels of an (H, W, 3) array, (H, W)."""
    # A reduction over an axis of 3 takes NumPy five times as long.
    return np.asarray(np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]))
