"""Overlays of anomaly maps on a fixed colour scale, contours and masks.

Images are (H, W, 3) uint8 RGB. No map is scaled by its own minimum and maximum, so that a good image stays grey and
two images can be compared.
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

    from blemish.types import Bool, Float32, Prediction, UInt8
    from blemish.visualization.text import Colour

# Okabe & Ito 2008, "Color universal design": distinct in every common colour vision deficiency. Yellow for predicted
# regions, sky blue for the ground truth.
FOUND: Colour = (240, 228, 66)
MARKED: Colour = (86, 180, 233)
EDGE: Colour = (16, 16, 20)
# Of Inferno's 256 colours the first in use, crimson: the black and purple below are invisible on a dark part.
_FIRST_COLOUR = 102
ALPHA = 0.85


def colour_scale(prediction: Prediction) -> tuple[float, float]:
    """Return the (low, high) of `overlay`, the same for all images of one detector, around the pixel threshold.

    The scale starts at `good_peak`, a level that good images hardly reach, or at half of the threshold if that is
    unknown. It covers at least a tenth of the threshold on each side: the maps of good images that are alike give no
    width.

    Raises:
        InputError: if the pixel threshold is not finite.
    """
    threshold, good_peak = prediction.pixel_threshold, prediction.good_peak
    check_number("pixel_threshold", threshold, low=-1e30, high=1e30)
    below = abs(threshold) / 2 if good_peak is None else max(threshold - good_peak, abs(threshold) / 10)
    return threshold - (below or 1.0), threshold + (below or 1.0)


def overlay(image: UInt8, anomaly_map: Float32, low: float, high: float, *, alpha: float = ALPHA) -> UInt8:
    """Return the image in grey, blended with the colours of the anomaly map: red, orange, yellow.

    The opacity rises from 0 at `low` to `alpha` in the middle of the scale. The colours are the upper part of Inferno,
    whose lightness rises, so that they survive a grey printer and every colour vision deficiency. The image is grey
    because a faint red is invisible on a brown part.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) float32.
        low: value from which on colours start; see `colour_scale`.
        high: value three quarters up the colours, above `low`. They rise evenly to their middle, half way to `high`,
            and ever more slowly above it: what lies far above keeps its shape.
        alpha: opacity of the highest values, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: if an array has another shape or dtype, a number is out of range, or `low` is not below `high`.

    Source: Smith & van der Walt 2015, Matplotlib's Inferno, as in OpenCV.
    """
    check_pair(image, anomaly_map, "anomaly_map", np.float32)
    check_number("alpha", alpha, low=0, high=1)
    check_number("low", low, low=-1e30, high=1e30)
    check_number("high", high, low=-1e30, high=1e30)
    if not low < high:
        raise InputError(message("high", f"a number above low ({low})", repr(high)))
    return _blended(image, _position(anomaly_map, low, high), alpha)


def _position(anomaly_map: Float32, low: float, high: float) -> Float32:
    """Return the place of each value on the colours, 0 to 1: its rise over the half scale x, x / 2 to the middle and
    1 - 1 / (2 x) above it.
    """
    rise = np.maximum((anomaly_map.astype(np.float64) - low) / ((high - low) / 2), 0)
    return np.where(rise <= 1, rise / 2, 1 - 0.5 / np.maximum(rise, 1)).astype(np.float32)


def _colours(position: Float32) -> UInt8:
    colours: UInt8 = _inferno()[np.rint(_FIRST_COLOUR + (255 - _FIRST_COLOUR) * position).astype(np.uint8)]
    return colours


def _blended(image: UInt8, position: Float32, alpha: float) -> UInt8:
    """Return the image in grey under the colours of some positions."""
    opacity = np.minimum(2 * position, 1)[..., None] * np.float32(alpha)
    grey = _grey(image).astype(np.float32)
    return np.asarray(np.rint(grey + opacity * (_colours(position) - grey)), np.uint8)


def heat_layer(anomaly_map: Float32, low: float, high: float) -> UInt8:
    """Return the colours of `overlay` alone, to be laid over an image: (H, W, 4) uint8 RGBA, transparent at `low`.

    Args:
        anomaly_map: (H, W) float32.
        low, high: as of `overlay`.

    Raises:
        InputError: if the map has another shape or dtype, or `low` is not below `high`.
    """
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    if not low < high:
        raise InputError(message("high", f"a number above low ({low})", repr(high)))
    position = _position(anomaly_map, low, high)
    opacity = np.rint(255 * np.minimum(2 * position, 1)).astype(np.uint8)
    return np.dstack([_colours(position), opacity])


def colour_bar(n_colours: int) -> UInt8:
    """Return the colours of `overlay` on medium grey from the first to the last, (1, n, 3) uint8 RGB."""
    rising = np.linspace(0, 1, n_colours, dtype=np.float32)[None]
    return _blended(np.full((1, n_colours, 3), 128, np.uint8), rising, ALPHA)


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
    faded = (_grey(image) * 0.45 + 120).astype(np.uint8)
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
def _inferno() -> UInt8:
    """Return the colour map Inferno, (256, 3) uint8 RGB, read-only."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1].copy()
    colours.setflags(write=False)
    return np.asarray(colours, np.uint8)


def _grey(image: UInt8) -> UInt8:
    """Return the image in grey, (H, W, 1) uint8."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], np.uint8)
