"""Heat maps on a fixed colour scale, overlays, contours and masks.

Images are (H, W, 3) uint8 RGB. No map is scaled by its own minimum and maximum, so that the map of a good image stays
dark and two images can be compared.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish._validation.checks import check_array, check_number
from blemish.errors import InputError, message

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from blemish.types import Bool, Float32, UInt8
    from blemish.visualization.text import Colour

# Okabe & Ito 2008, "Color universal design": distinct in every common colour vision deficiency. Yellow for predicted
# regions, sky blue for the ground truth.
FOUND: Colour = (240, 228, 66)
MARKED: Colour = (86, 180, 233)
EDGE: Colour = (16, 16, 20)
# Position of the pixel threshold on the colour scale.
THRESHOLD_POSITION = 1 / 3
# Positions on the colour scale where an overlay starts and ends to fade in.
_FADE = (0.08, 0.5)


def colour_scale(pixel_threshold: float) -> tuple[float, float]:
    """Return the (low, high) of `heat_map` and `overlay` that put the pixel threshold at a third of the colours.

    For a positive threshold these are half of it and twice it: values below the threshold are black to purple, values
    above it red to yellow, in every image of one detector.

    Raises:
        InputError: if the threshold is not finite.

    >>> colour_scale(20.0)
    (10.0, 40.0)
    """
    check_number("pixel_threshold", pixel_threshold, low=-1e30, high=1e30)
    step = abs(pixel_threshold) / 2 or 1.0
    return pixel_threshold - step, pixel_threshold + 2 * step


def heat_map(anomaly_map: Float32, low: float, high: float) -> UInt8:
    """Return the anomaly map in the colour map Inferno: black, purple, red, orange, light yellow.

    Inferno is perceptually uniform and its lightness is monotonic, so it survives a grey printer and every colour
    vision deficiency. Jet and Turbo are not: their yellow in the middle looks brighter than their red at the top.

    Args:
        anomaly_map: (H, W) float32.
        low: value of the first colour; smaller values are clipped. See `colour_scale`.
        high: value of the last colour, above `low`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: if the map is not finite float32 (H, W), or `low` is not below `high`.

    Source: Smith & van der Walt 2015, Matplotlib's Inferno, as in OpenCV.
    """
    coloured: UInt8 = inferno()[np.rint(_position(anomaly_map, low, high) * np.float32(255)).astype(np.uint8)]
    return coloured


def overlay(image: UInt8, anomaly_map: Float32, low: float, high: float, *, alpha: float = 0.85) -> UInt8:
    """Return the image blended with the heat map, whose opacity rises with its values from 0 to `alpha`.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) float32.
        low: value of the first colour, transparent; see `colour_scale`.
        high: value of the last colour.
        alpha: opacity of the highest values, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: if an array has another shape or dtype, or a number is out of range.
    """
    check_pair(image, anomaly_map, "anomaly_map", np.float32)
    check_number("alpha", alpha, low=0, high=1)
    fade = np.clip(
        (_position(anomaly_map, low, high) - np.float32(_FADE[0])) * np.float32(1 / (_FADE[1] - _FADE[0])), 0, 1
    )
    opacity = (fade * fade * (3 - 2 * fade) * np.float32(alpha))[..., None]  # smoothstep: no visible edge
    blended = image + opacity * (heat_map(anomaly_map, low, high) - image.astype(np.float32))
    return np.asarray(np.rint(blended), np.uint8)


def contours(image: UInt8, mask: Bool, colour: Colour = FOUND, *, thickness: int | None = None) -> UInt8:
    """Return the image with the outlines of the regions of `mask`: a light line with dark edges.

    The line runs just outside of a region, so that it does not cover a small defect.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        mask: (H, W) bool.
        colour: RGB of the line.
        thickness: of the line in pixels; None means 1/200 of the image's short side, at least 2.

    Raises:
        InputError: if an array has another shape or dtype, or a number is out of range.
    """
    check_pair(image, mask, "mask", np.bool_)
    drawn: UInt8 = np.ascontiguousarray(image).copy()
    line = max(2, round(min(mask.shape) / 200)) if thickness is None else thickness
    check_number("thickness", line, low=1, high=1000)
    if not mask.any():
        return drawn
    edges = line + 2 + line // 2
    side = 2 * (edges // 2 + 3) + 1  # half the width of the edges, and their antialiased rim
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    dilated = cv2.dilate(mask.astype(np.uint8), kernel)
    outlines, _ = cv2.findContours(dilated, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, EDGE, edges, cv2.LINE_AA)
    cv2.drawContours(drawn, outlines, -1, colour, line, cv2.LINE_AA)
    return drawn


def draw_mask(
    image: UInt8, mask: Bool, colour: Colour = MARKED, *, alpha: float = 0.45, thickness: int | None = None
) -> UInt8:
    """Return the image in light grey, with the regions of `mask` at full contrast, tinted and outlined.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        colour: RGB of tint and outline.
        alpha: opacity of the tint, 0 to 1.
        thickness: of the outline in pixels, as for `contours`.

    Raises:
        InputError: if an array has another shape or dtype, or a number is out of range.
    """
    check_pair(image, mask, "mask", np.bool_)
    check_number("alpha", alpha, low=0, high=1)
    grey = np.repeat(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    faded = (grey * 0.45 + 120).astype(np.uint8)
    tinted = (image * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
    return contours(np.where(mask[..., None], tinted, faded), mask, colour, thickness=thickness)


def to_jpeg(image: UInt8, *, quality: int = 90) -> bytes:
    """Return the image as a JPEG file without chroma subsampling, so that thin outlines keep their colour.

    Raises:
        InputError: if the image is not uint8 (H, W, 3), or larger than JPEG allows (65,500 px).
    """
    check_array("image", image, dtype=np.uint8, shape=("H", "W", 3))
    if max(image.shape) > 65_500:
        raise InputError(message("image", "at most 65500 px a side", f"{image.shape[1]} x {image.shape[0]} px"))
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, *sampling]
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), settings)
    assert done
    return bytes(encoded)


def check_pair(image: UInt8, array: NDArray[Any], name: str, dtype: DTypeLike) -> None:
    """Check that `image` is (H, W, 3) uint8 and that `array` is (H, W) of this dtype.

    Raises:
        InputError: if one of them is not.
    """
    height, width, _ = check_array("image", image, dtype=np.uint8, shape=("H", "W", 3)).shape
    todo = "It must have the size of the image."
    check_array(name, array, dtype=dtype, shape=(height, width), todo=todo)


@lru_cache(maxsize=1)
def inferno() -> UInt8:
    """Return the colour map Inferno, (256, 3) uint8 RGB, read-only."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1].copy()
    colours.setflags(write=False)
    return np.asarray(colours, np.uint8)


def _position(anomaly_map: Float32, low: float, high: float) -> Float32:
    """Return the map scaled linearly from [low, high] to [0, 1] and clipped."""
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    check_number("low", low, low=-1e30, high=1e30)
    check_number("high", high, low=-1e30, high=1e30)
    if not low < high:
        raise InputError(message("high", f"a number above low ({low})", repr(high)))
    clipped: Float32 = np.clip((anomaly_map.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    return clipped
