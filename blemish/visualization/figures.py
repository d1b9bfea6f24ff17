"""Figure layout: the panels of one prediction, the figure made of them, and the contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish._validation.checks import check_array, check_number
from blemish.errors import InputError, message
from blemish.visualization.overlays import FOUND, check_pair, colour_bar, colour_scale, contours, draw_mask, overlay
from blemish.visualization.primitives import INK, PAPER, QUIET, draw_colour_bar, draw_verdict, paste
from blemish.visualization.scaling import (
    crop_around,
    fit_size,
    pad_to,
    panel_columns,
    panel_size,
    resize_image,
    resize_map,
    resize_mask,
)
from blemish.visualization.text import draw_text, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.types import Bool, Prediction, UInt8
    from blemish.visualization.text import Colour

HEAT_MAP = "Heat map"
_BACKGROUND: Colour = (240, 241, 244)
_MARGIN, _GAP, _HEADER, _CAPTION, _FOOTER = 28, 20, 44, 30, 84


class Panel(NamedTuple):
    """One image of a figure.

    Attributes:
        caption: its content in two or three words.
        image: (h, w, 3) uint8 RGB.
    """

    caption: str
    image: UInt8


def panels(
    image: UInt8,
    prediction: Prediction,
    *,
    mask: Bool | None = None,
    good_patch: UInt8 | None = None,
    good_image: UInt8 | None = None,
    size_px: int = 384,
) -> tuple[Panel, ...]:
    """Return panels of one size: image, ground truth, heat map (`colour_scale`), regions above the pixel threshold.

    With `good_patch` or `good_image` two more follow, at one scale: the surroundings of the most anomalous pixel, and
    the nearest good patch.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        prediction: of that image.
        mask: (H, W) bool, the ground truth; None leaves its panel out.
        good_patch: (h, w, 3) uint8 RGB, the nearest good patch.
        good_image: (h, w, 3) uint8 RGB, the training image of `prediction.nearest_good`, which shows the patch with its
            surroundings; preferred to `good_patch`, ignored if the prediction has no nearest good patch.
        size_px: side of the square that a panel fits into; beyond an aspect ratio of 1.6 panels are longer.

    Raises:
        InputError: if an array has another shape or dtype.
    """
    check_pair(image, prediction.anomaly_map, "anomaly_map", np.float32)
    check_pair(image, prediction.mask, "prediction.mask", np.bool_)
    check_number("size_px", size_px, low=32, high=8192)
    size, line = panel_size(image.shape[:2], size_px), max(2, round(size_px / 190))
    small = resize_image(image, size)
    result = [Panel("Image", small)]
    if mask is not None:
        check_pair(image, mask, "mask", np.bool_)
        caption = "Marked by people" if mask.any() else "Marked by people: none"
        result.append(Panel(caption, draw_mask(small, resize_mask(mask, size), thickness=line)))
    result.append(Panel(HEAT_MAP, overlay(small, resize_map(prediction.anomaly_map, size), *colour_scale(prediction))))
    no_region = ": none, anomalous as a whole" if prediction.label else ": none"
    caption = "Above threshold" + ("" if prediction.mask.any() else no_region)
    result.append(Panel(caption, contours(small, resize_mask(prediction.mask, size), thickness=line)))
    result += _comparison(image, prediction, good_patch, good_image, size)
    return tuple(result)


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
    """Return the `panels` as one image with captions, the verdict, and the score against its threshold.

    Args:
        image: (H, W, 3) uint8 RGB, any size.
        prediction: of that image.
        mask: (H, W) bool, the ground truth, if it is known.
        title: a line above, such as the file's name.
        good_patch, good_image: the nearest good patch, as for `panels`.
        size_px: side of the square that a panel fits into.

    Returns:
        uint8 RGB on white, at least 720 px wide.

    Raises:
        InputError: if an array has another shape or dtype.
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
        if panel.caption == HEAT_MAP:
            draw_colour_bar(page, (x + cell_w - 116, y, 116, 8), colour_bar(116), prediction.pixel_threshold)
    draw_verdict(page, prediction, page.shape[0] - _FOOTER + 4, _MARGIN)
    return page


def contact_sheet(
    images: Sequence[UInt8], captions: Sequence[str], *, columns: int = 5, title: str = "", size_px: int = 200
) -> UInt8:
    """Return a grid of small images, each in a square with its caption below.

    Args:
        images: (H, W, 3) uint8 RGB each, of any sizes.
        captions: one per image; the first two lines of each are shown.
        columns: images in a row, at least 1.
        title: a line above.
        size_px: side of a square.

    Raises:
        InputError: if there are no images, their number is not that of the captions, or an image has another shape.
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
        page[y : y + size_px, x : x + size_px] = _BACKGROUND
        paste(page, resize_image(image, fit_size(image.shape[:2], size_px, size_px)), (x, y, size_px, size_px))
        for j, line in enumerate(lines[i]):
            draw_text(page, shorten(line, size_px, 15), (x, y + size_px + 22 + 20 * j), 15, QUIET if j else INK)
    return page


def _comparison(
    image: UInt8, prediction: Prediction, good_patch: UInt8 | None, good_image: UInt8 | None, size: tuple[int, int]
) -> list[Panel]:
    """Return the panels of the most anomalous patch and the nearest good patch at this (height, width), if known."""
    captions, nearest = ("Most anomalous part", "Nearest good part"), prediction.nearest_good
    if good_image is not None and nearest is not None:
        check_array("good_image", good_image, dtype=np.uint8, shape=("h", "w", 3))
        x, y, width, height = nearest.box
        good_xy = x + width // 2, y + height // 2
        views = ((image, prediction.peak_xy, FOUND), (good_image, good_xy, PAPER))
        pair = [_zoomed(source, xy, (height, width), size, colour) for source, xy, colour in views]
    elif good_patch is not None:
        height, width, _ = check_array("good_patch", good_patch, dtype=np.uint8, shape=("h", "w", 3)).shape
        worst, _ = crop_around(image, prediction.peak_xy, (height, width))
        inner = fit_size((height, width), *size)
        pair = [pad_to(resize_image(part, inner), size, _BACKGROUND) for part in (worst, good_patch)]
    else:
        return []
    return [Panel(caption, part) for caption, part in zip(captions, pair, strict=True)]


def _zoomed(image: UInt8, xy: tuple[int, int], patch: tuple[int, int], size: tuple[int, int], colour: Colour) -> UInt8:
    """Return the surroundings of `xy` at (height, width) `size`, with a patch of (height, width) `patch` outlined."""
    zoom = min(size[0] / patch[0], size[1] / patch[1]) / 5  # two patches are visible on each side
    zoom = max(zoom, size[0] / image.shape[0], size[1] / image.shape[1])
    crop, (left, top) = crop_around(image, xy, (round(size[0] / zoom), round(size[1] / zoom)))
    mask = np.zeros(size, np.bool_)
    spans = []
    for centre, length, shown, cut in zip((xy[1] - top, xy[0] - left), patch, size, crop.shape[:2], strict=True):
        first = max(0, round((centre - length / 2) * shown / cut))
        spans.append(slice(first, max(first + 1, round((centre + length / 2) * shown / cut))))
    mask[spans[0], spans[1]] = True
    return contours(resize_image(crop, size), mask, colour, thickness=2)


def _page(title: str, width: int, body_h: int) -> UInt8:
    """Return a white page with its title, if any, and `body_h` empty rows below it."""
    page = np.full((2 * _MARGIN + (_HEADER if title else 0) + body_h, width, 3), PAPER, np.uint8)
    if title:
        line = shorten(title, width - 2 * _MARGIN, 24, bold=True)
        draw_text(page, line, (_MARGIN, _MARGIN + 22), 24, INK, bold=True)
    return page
