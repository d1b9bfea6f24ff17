"""Images of results: heat maps on a fixed scale, outlines, and one strip per image that a person can judge by.

All images are (H, W, 3) uint8 RGB. Nothing here scales a map by its own lowest and highest value: a good image
stays calm, and two images can be compared.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from blemish._validation.checks import check_array, check_number
from blemish.errors import InputError, message
from blemish.visualization.drawing import (
    INK,
    PAPER,
    QUIET,
    cut_around,
    draw_colour_bar,
    draw_verdict,
    fitted,
    in_the_middle,
    panel_columns,
    panel_size,
    paste,
    scaled,
    scaled_map,
    scaled_mask,
)
from blemish.visualization.text import draw_text, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from blemish.types import Bool, Float32, Prediction, UInt8
    from blemish.visualization.text import Colour

# Okabe & Ito 2008, "Color universal design": told apart with every common form of colour blindness. Yellow for what the
# detector found and sky blue for what people marked.
FOUND: Colour = (240, 228, 66)
MARKED: Colour = (86, 180, 233)
EDGE: Colour = (16, 16, 20)
HEAT_MAP = "Heat map"
_GROUND: Colour = (240, 241, 244)
# The part of the colour scale in which a heat map fades in: well begun at the threshold, which lies at 1/3.
_FADE = (0.08, 0.5)
# Where `colour_scale` puts the threshold.
_TICK = 1 / 3
_MARGIN, _GAP, _HEADER, _CAPTION, _FOOTER = 28, 20, 44, 30, 84


class Panel(NamedTuple):
    """One image of a strip.

    Attributes:
        caption: what it shows, in two or three words.
        image: (h, w, 3) uint8 RGB.
    """

    caption: str
    image: UInt8


def colour_scale(pixel_threshold: float) -> tuple[float, float]:
    """Return the (low, high) of `heat_map` and `overlay` that puts the pixel threshold at a third of the colours.

    For a positive threshold that is half of it and twice it. What is below the threshold is then black to purple, what
    is above is red to yellow, in every image of one detector.

    Raises:
        InputError: if the threshold is not finite.

    >>> colour_scale(20.0)
    (10.0, 40.0)
    """
    check_number("pixel_threshold", pixel_threshold, low=-1e30, high=1e30)
    step = abs(pixel_threshold) / 2 or 1.0
    return pixel_threshold - step, pixel_threshold + 2 * step


def heat_map(anomaly_map: Float32, low: float, high: float) -> UInt8:
    """Return the map in the colours of Inferno: black at `low` and below, over purple, red and orange to light yellow.

    Inferno because equal steps of the map look equal, its lightness only rises (so it survives a grey printer and every
    form of colour blindness), and nothing in it stands out that is not high. Rainbows such as Jet and Turbo do none of
    this: their yellow in the middle looks brighter than their red at the top.

    Args:
        anomaly_map: (H, W) float32.
        low: value that is black, such as from `colour_scale`.
        high: value that is brightest, above `low`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: if the map is not finite float32 (H, W), or `low` is not below `high`.

    Source: Smith & van der Walt 2015, Matplotlib's Inferno, as OpenCV has it.
    """
    coloured: UInt8 = _inferno()[np.rint(_position(anomaly_map, low, high) * np.float32(255)).astype(np.uint8)]
    return coloured


def overlay(image: UInt8, anomaly_map: Float32, low: float, high: float, *, alpha: float = 0.85) -> UInt8:
    """Return the image with the heat map over it, clear where the map is low and up to `alpha` where it is high.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) float32.
        low: value from which on colours appear; see `colour_scale`.
        high: value with the brightest colour.
        alpha: opacity of the highest values, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: if an array has another form, or a number is out of range.
    """
    _check_pair(image, anomaly_map, "anomaly_map", np.float32)
    check_number("alpha", alpha, low=0, high=1)
    position = _position(anomaly_map, low, high)
    fade = np.clip((position - np.float32(_FADE[0])) * np.float32(1 / (_FADE[1] - _FADE[0])), 0, 1)
    # Smooth at both ends, so that the map has no rim where it begins.
    opacity = (fade * fade * (3 - 2 * fade) * np.float32(alpha))[..., None]
    blended = image + opacity * (heat_map(anomaly_map, low, high) - image.astype(np.float32))
    return np.asarray(np.rint(blended), np.uint8)


def contours(image: UInt8, mask: Bool, colour: Colour = FOUND, *, thickness: int | None = None) -> UInt8:
    """Return the image with outlines around the regions of `mask`: a light line with dark edges, seen on any ground.

    The line runs just outside a region, so that a small defect is not hidden under it.

    Args:
        image: (H, W, 3) uint8 RGB; it is not changed.
        mask: (H, W) bool.
        colour: RGB of the line.
        thickness: of the line in pixels; None means 1/200 of the image's short side, at least 2.

    Raises:
        InputError: if an array has another form, or a number is out of range.
    """
    _check_pair(image, mask, "mask", np.bool_)
    drawn: UInt8 = np.ascontiguousarray(image).copy()
    line = max(2, round(min(mask.shape) / 200)) if thickness is None else thickness
    check_number("thickness", line, low=1, high=1000)
    if not mask.any():
        return drawn
    edges = line + 2 + line // 2
    side = 2 * (edges // 2 + 3) + 1  # half the width of the edges, and their soft rim
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    grown = cv2.dilate(mask.astype(np.uint8), kernel)
    outlines, _ = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, EDGE, edges, cv2.LINE_AA)
    cv2.drawContours(drawn, outlines, -1, colour, line, cv2.LINE_AA)
    return drawn


def draw_mask(
    image: UInt8, mask: Bool, colour: Colour = MARKED, *, alpha: float = 0.45, thickness: int | None = None
) -> UInt8:
    """Return the image faded to a light grey, with the regions of `mask` in their own light, tinted and outlined.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        colour: RGB of tint and outline.
        alpha: strength of the tint, 0 to 1.
        thickness: of the outline in pixels, as for `contours`.

    Raises:
        InputError: if an array has another form, or a number is out of range.
    """
    _check_pair(image, mask, "mask", np.bool_)
    check_number("alpha", alpha, low=0, high=1)
    grey = np.repeat(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    faded = (grey * 0.45 + 120).astype(np.uint8)
    tinted = (image * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
    return contours(np.where(mask[..., None], tinted, faded), mask, colour, thickness=thickness)


def panels(
    image: UInt8,
    prediction: Prediction,
    *,
    mask: Bool | None = None,
    good_patch: UInt8 | None = None,
    good_image: UInt8 | None = None,
    size_px: int = 384,
) -> tuple[Panel, ...]:
    """Return the panels of a strip, all of one size: image, marked defect, heat map, what is called defective.

    With `good_patch` or `good_image` two more follow, at one scale: the surroundings of the most anomalous pixel,
    and the good patch that it was compared with.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        prediction: what the detector said of it.
        mask: (H, W) bool, the defect as people marked it; its panel is left out if there is none.
        good_patch: (h, w, 3) uint8 RGB, the nearest good patch alone.
        good_image: (h, w, 3) uint8 RGB, the whole training image that `prediction.nearest_good` names: better than
            `good_patch`, since the surroundings are shown too. It does nothing if the prediction names none.
        size_px: about how large a panel is; images up to 1.6 times as wide as high (or high as wide) fit into a
            square of that size, others get more room.

    Raises:
        InputError: if an array has another form.
    """
    _check_pair(image, prediction.anomaly_map, "anomaly_map", np.float32)
    _check_pair(image, prediction.mask, "prediction.mask", np.bool_)
    check_number("size_px", size_px, low=32, high=8192)
    size, line = panel_size(image.shape[:2], size_px), max(2, round(size_px / 190))
    small = scaled(image, size)
    low, high = colour_scale(prediction.pixel_threshold)
    shown = [Panel("Image", small)]
    if mask is not None:
        _check_pair(image, mask, "mask", np.bool_)
        caption = "Marked by people" if mask.any() else "Marked by people: none"
        shown.append(Panel(caption, draw_mask(small, scaled_mask(mask, size), thickness=line)))
    shown.append(Panel(HEAT_MAP, overlay(small, scaled_map(prediction.anomaly_map, size), low, high)))
    nowhere = ": as a whole" if prediction.label else ": none"
    caption = "Called defective" + ("" if prediction.mask.any() else nowhere)
    shown.append(Panel(caption, contours(small, scaled_mask(prediction.mask, size), thickness=line)))
    shown += _comparison(image, prediction, good_patch, good_image, size)
    return tuple(shown)


def figure(
    image: UInt8,
    prediction: Prediction,
    *,
    mask: Bool | None = None,
    title: str = "",
    good_patch: UInt8 | None = None,
    good_image: UInt8 | None = None,
    size_px: int = 384,
) -> UInt8:
    """Return the strip of `panels` as one image, with captions, the verdict, and the score against its threshold.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        prediction: what the detector said of it.
        mask: (H, W) bool, the defect as people marked it, if it is known.
        title: a line above, such as the file's name.
        good_patch, good_image: what the part was compared with, as for `panels`.
        size_px: about how large a panel is.

    Returns:
        uint8 RGB on white, as wide as the panels need and at least 720 px.

    Raises:
        InputError: if an array has another form.
    """
    shown = panels(image, prediction, mask=mask, good_patch=good_patch, good_image=good_image, size_px=size_px)
    height, width = shown[0].image.shape[:2]
    cell_w = max(width, 190)
    n_columns = panel_columns(len(shown), cell_w / size_px)
    n_rows = -(-len(shown) // n_columns)
    panels_w, row_h = n_columns * (cell_w + _GAP) - _GAP, _CAPTION + height + _GAP
    page = _page(title, max(2 * _MARGIN + panels_w, 720), n_rows * row_h + _FOOTER - _MARGIN)
    top = page.shape[0] - _FOOTER - n_rows * row_h
    for i, panel in enumerate(shown):
        x = (page.shape[1] - panels_w) // 2 + i % n_columns * (cell_w + _GAP)
        y = top + i // n_columns * row_h
        paste(page, panel.image, (x, y + _CAPTION, width, height))
        draw_text(page, shorten(panel.caption, cell_w, 15), (x, y + 19), 15, QUIET)
        if panel.caption == HEAT_MAP and cell_w >= 240:
            draw_colour_bar(page, (x + cell_w - 110, y + 10, 110, 8), _inferno()[None], _TICK)
    draw_verdict(page, prediction, page.shape[0] - _FOOTER + 4, _MARGIN)
    return page


def contact_sheet(
    images: Sequence[UInt8], captions: Sequence[str], *, columns: int = 5, title: str = "", size_px: int = 200
) -> UInt8:
    """Return a page of small images in rows, each in its own square with its caption below.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        captions: one per image; of a caption with line ends the first two lines are shown.
        columns: images in a row, at least 1.
        title: a line above.
        size_px: side of a square.

    Raises:
        InputError: if there are no images, their number is not that of the captions, or an image has another form.
    """
    if not images or len(images) != len(captions):
        got = f"{len(images)} images and {len(captions)} captions"
        raise InputError(message("images", "at least one image and one caption for each", got))
    check_number("columns", columns, low=1, high=1000)
    check_number("size_px", size_px, low=32, high=8192)
    n_columns = min(columns, len(images))
    lines = [caption.split("\n")[:2] for caption in captions]
    row_h = size_px + 8 + 20 * max(map(len, lines)) + _GAP
    body_h = -(-len(images) // n_columns) * row_h - _GAP
    page = _page(title, 2 * _MARGIN + n_columns * (size_px + _GAP) - _GAP, body_h)
    top = page.shape[0] - _MARGIN - body_h
    for i, image in enumerate(images):
        check_array(f"images[{i}]", image, dtype=np.uint8, shape=("H", "W", 3))
        x, y = _MARGIN + i % n_columns * (size_px + _GAP), top + i // n_columns * row_h
        page[y : y + size_px, x : x + size_px] = _GROUND
        paste(page, scaled(image, fitted(image.shape[:2], size_px, size_px)), (x, y, size_px, size_px))
        for j, line in enumerate(lines[i]):
            draw_text(page, shorten(line, size_px, 15), (x, y + size_px + 22 + 20 * j), 15, QUIET if j else INK)
    return page


def to_jpeg(image: UInt8, *, quality: int = 90) -> bytes:
    """Return the image as a JPEG file with full colour resolution, so that thin outlines keep their colour.

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


def _check_pair(image: UInt8, array: NDArray[Any], name: str, dtype: DTypeLike) -> None:
    """Check that `image` is an image and that `array` has one value for each of its pixels."""
    height, width, _ = check_array("image", image, dtype=np.uint8, shape=("H", "W", 3)).shape
    todo = "It must have the size of the image."
    check_array(name, array, dtype=dtype, shape=(height, width), todo=todo)


@lru_cache(maxsize=1)
def _inferno() -> UInt8:
    """Return the 256 colours of Inferno, (256, 3) RGB, read-only."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[0, :, ::-1].copy()
    colours.setflags(write=False)
    return np.asarray(colours, np.uint8)


def _position(anomaly_map: Float32, low: float, high: float) -> Float32:
    """Return where each value stands from `low` (0) to `high` (1)."""
    check_array("anomaly_map", anomaly_map, dtype=np.float32, shape=("H", "W"))
    check_number("low", low, low=-1e30, high=1e30)
    check_number("high", high, low=-1e30, high=1e30)
    if not low < high:
        raise InputError(message("high", f"a number above low ({low})", repr(high)))
    clipped: Float32 = np.clip((anomaly_map.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)
    return clipped


def _comparison(
    image: UInt8, prediction: Prediction, good_patch: UInt8 | None, good_image: UInt8 | None, size: tuple[int, int]
) -> list[Panel]:
    """Return the panels of the most anomalous part and of the nearest good one, of this (height, width), if any."""
    captions, nearest = ("Most anomalous part", "Nearest good part"), prediction.nearest_good
    if good_image is not None and nearest is not None:
        check_array("good_image", good_image, dtype=np.uint8, shape=("h", "w", 3))
        x, y, width, height = nearest.box
        places = ((image, prediction.peak_xy, FOUND), (good_image, (x + width // 2, y + height // 2), PAPER))
        pair = [_zoomed(whole, xy, (height, width), size, colour) for whole, xy, colour in places]
    elif good_patch is not None:
        height, width, _ = check_array("good_patch", good_patch, dtype=np.uint8, shape=("h", "w", 3)).shape
        worst, _ = cut_around(image, prediction.peak_xy, (height, width))
        inner = fitted((height, width), *size)
        pair = [in_the_middle(scaled(part, inner), size, _GROUND) for part in (worst, good_patch)]
    else:
        return []
    return [Panel(caption, part) for caption, part in zip(captions, pair, strict=True)]


def _zoomed(image: UInt8, xy: tuple[int, int], patch: tuple[int, int], size: tuple[int, int], colour: Colour) -> UInt8:
    """Return the surroundings of `xy` at this (height, width), with the patch of that (height, width) outlined."""
    zoom = min(size[0] / patch[0], size[1] / patch[1]) / 5  # two patches' width to see on each side
    zoom = max(zoom, size[0] / image.shape[0], size[1] / image.shape[1])
    around, (left, top) = cut_around(image, xy, (round(size[0] / zoom), round(size[1] / zoom)))
    marked = np.zeros(size, np.bool_)
    spans = []
    for at, length, shown, cut in zip((xy[1] - top, xy[0] - left), patch, size, around.shape[:2], strict=True):
        first = max(0, round((at - length / 2) * shown / cut))
        spans.append(slice(first, max(first + 1, round((at + length / 2) * shown / cut))))
    marked[spans[0], spans[1]] = True
    return contours(scaled(around, size), marked, colour, thickness=2)


def _page(title: str, width: int, body_h: int) -> UInt8:
    """Return a white page with its title, if any, and `body_h` rows of room below it."""
    page = np.full((2 * _MARGIN + (_HEADER if title else 0) + body_h, width, 3), PAPER, np.uint8)
    if title:
        shown = shorten(title, width - 2 * _MARGIN, 24, bold=True)
        draw_text(page, shown, (_MARGIN, _MARGIN + 22), 24, INK, bold=True)
    return page
