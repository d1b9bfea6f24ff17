"""The parts that images of results are laid out with: rounded boxes, the verdict, a gauge and a colour bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.imaging.resize import resize
from blemish.ops.conformal import percent
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from blemish.types import Bool, Float32, Prediction, UInt8
    from blemish.visualization.text import Colour

Box = tuple[int, int, int, int]
PAPER: Colour = (255, 255, 255)
INK: Colour = (28, 31, 36)
QUIET: Colour = (101, 108, 118)
RULE: Colour = (218, 222, 228)
# Okabe & Ito 2008, "Color universal design": blue and vermilion are told apart with every common form of colour
# blindness, and differ in lightness on a grey printer.
GOOD: Colour = (0, 114, 178)
DEFECTIVE: Colour = (196, 77, 0)
GOOD_TINT: Colour = (190, 219, 237)
DEFECTIVE_TINT: Colour = (248, 208, 180)


def short_number(value: float) -> str:
    """Return a number with four significant digits, as captions and tables show scores.

    >>> short_number(20.12345), short_number(0.5), short_number(1234567.0)
    ('20.12', '0.5', '1.235e+06')
    """
    return f"{value:.4g}"


def gauge_position(score: float, threshold: float) -> float:
    """Return where a score stands on a gauge from 0 to 1 that has its threshold in the middle.

    The gauge runs from 0 to twice the threshold, so gauges of one detector can be compared; what lies outside is put at
    its ends. For a threshold that is not positive it is as wide as that around it, or 2 for a threshold of 0.

    >>> gauge_position(15.0, 20.0), gauge_position(90.0, 20.0), gauge_position(-1.0, 0.0)
    (0.375, 1.0, 0.0)
    """
    half = abs(threshold) or 1.0
    return float(np.clip(0.5 + (score - threshold) / (2 * half), 0.0, 1.0))


def rounded_box(page: UInt8, box: Box, radius: float, colour: Colour) -> None:
    """Fill a box (x, y, width, height) with rounded corners, antialiased, in place; what lies outside is cut off."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    part = page[top : max(y + height, 0), left : max(x + width, 0)]
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    # How far a pixel's centre is outside the box that remains when the corners' radius is taken off all round.
    outside_x = np.abs(columns + left + 0.5 - (x + width / 2)) - (width / 2 - radius)
    outside_y = np.abs(rows + top + 0.5 - (y + height / 2)) - (height / 2 - radius)
    distance = np.hypot(np.maximum(outside_x, 0), np.maximum(outside_y, 0))
    distance = distance + np.minimum(np.maximum(outside_x, outside_y), 0)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    part[:] = np.rint(part + cover * (np.array(colour) - part))


def paste(page: UInt8, image: UInt8, box: Box) -> None:
    """Copy an image into the middle of a box (x, y, width, height) that is large enough, with a thin rim, in place."""
    x, y, width, height = box
    top, left = y + (height - image.shape[0]) // 2, x + (width - image.shape[1]) // 2
    page[top - 1 : top + image.shape[0] + 1, left - 1 : left + image.shape[1] + 1] = RULE
    page[top : top + image.shape[0], left : left + image.shape[1]] = image


def draw_pill(page: UInt8, text: str, xy: tuple[int, int], colour: Colour) -> int:
    """Write white text on a filled capsule, 36 px high, whose top left corner is `xy`; return its width."""
    width = text_width(text, 18, bold=True) + 36
    rounded_box(page, (*xy, width, 36), 18, colour)
    draw_text(page, text, (xy[0] + 18, xy[1] + 25), 18, PAPER, bold=True)
    return width


def draw_gauge(page: UInt8, box: Box, score: float, threshold: float) -> None:
    """Draw where a score stands against its threshold: see `gauge_position`. The box should be 60 px high.

    The score is written above its marker, the threshold below its tick. A score beyond the end gets an arrow head.
    """
    x, y, width, _ = box
    middle = y + 30
    rounded_box(page, (x, middle - 5, width, 10), 5, GOOD_TINT)
    half = x + width // 2
    rounded_box(page[:, half:], (-20, middle - 5, x + width - half + 20, 10), 5, DEFECTIVE_TINT)
    rounded_box(page, (half - 1, middle - 11, 3, 22), 1, INK)
    _centred(page, f"threshold {short_number(threshold)}", (half, y + 58), box, QUIET, bold=False)
    position = gauge_position(score, threshold)
    at = x + round(position * width)
    colour = DEFECTIVE if score > threshold else GOOD
    if 0 < position < 1:
        for radius, fill in ((10, PAPER), (8, colour)):
            rounded_box(page, (at - radius, middle - radius, 2 * radius + 1, 2 * radius + 1), radius + 0.5, fill)
    else:
        away = 1 if position else -1
        for grown, fill in ((3, PAPER), (0, colour)):
            tip = [
                (at + away * (4 + grown), middle),
                (at - away * (11 + grown), middle - 9 - grown),
                (at - away * (11 + grown), middle + 9 + grown),
            ]
            cv2.fillPoly(page, [np.array(tip, np.int32)], fill, cv2.LINE_AA)
    _centred(page, f"score {short_number(score)}", (at, y + 13), box, colour, bold=True)


def draw_colour_bar(page: UInt8, box: Box, colours: UInt8, tick: float) -> None:
    """Draw a bar of (1, n, 3) colours into a box (x, y, width, height), with a tick for the threshold at `tick`."""
    x, y, width, height = box
    page[y : y + height, x : x + width] = cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
    at = x + round(tick * width)
    page[y - 3 : y + height + 3, at - 1 : at + 2] = PAPER
    page[y - 3 : y + height + 3, at] = INK


def draw_verdict(page: UInt8, prediction: Prediction, y: int, margin: int) -> None:
    """Write verdict and p-value at the left from row `y` on and draw the gauge at the right, in place: 68 px high."""
    page[y - 8, margin:-margin] = RULE
    colour = DEFECTIVE if prediction.label else GOOD
    x = margin + draw_pill(page, "DEFECTIVE" if prediction.label else "GOOD", (margin, y + 14), colour) + 18
    draw_text(page, f"p = {prediction.p_value:.2g}", (x, y + 28), 16, INK, bold=True)
    share = f"at most {percent(prediction.p_value)} of good parts score so high"
    draw_text(page, share, (x, y + 50), 15, QUIET)
    x += text_width(share, 15)
    gauge_w = min(420, page.shape[1] - margin - x - 24)
    box = (page.shape[1] - margin - gauge_w, y, gauge_w, 60)
    draw_gauge(page, box, prediction.score, prediction.threshold)


def fitted(height_width: tuple[int, ...], height: int, width: int) -> tuple[int, int]:
    """Return the largest (height, width) of the same shape inside a box; a side under 12 px is stretched."""
    scale = min(height / height_width[0], width / height_width[1])
    return (
        min(height, max(12, round(height_width[0] * scale))),
        min(width, max(12, round(height_width[1] * scale))),
    )


def panel_size(height_width: tuple[int, ...], size_px: int) -> tuple[int, int]:
    """Return (height, width) of a panel: in a square, or with more room for what is wide or high."""
    aspect = height_width[1] / height_width[0]
    if aspect > 1.6:
        return fitted(height_width, size_px, round(2.6 * size_px))
    if aspect < 1 / 1.6:
        return fitted(height_width, round(1.6 * size_px), size_px)
    return fitted(height_width, size_px, size_px)


def panel_columns(n_panels: int, relative_width: float) -> int:
    """Return how many panels stand side by side: all of narrow ones, up to four square ones, wide ones in a column."""
    if relative_width > 1.6:
        return 1
    most = 4 if relative_width > 0.6 else 6
    return n_panels if n_panels <= most else -(-n_panels // 2)


def cut_around(image: UInt8, xy: tuple[int, int], height_width: tuple[int, int]) -> tuple[UInt8, tuple[int, int]]:
    """Return a part of the image of at most this size around `xy`, moved inside, and (x, y) of its first pixel."""
    height, width = (max(1, min(wanted, got)) for wanted, got in zip(height_width, image.shape[:2], strict=True))
    top = min(max(xy[1] - height // 2, 0), image.shape[0] - height)
    left = min(max(xy[0] - width // 2, 0), image.shape[1] - width)
    return image[top : top + height, left : left + width], (left, top)


def in_the_middle(image: UInt8, height_width: tuple[int, int], ground: Colour) -> UInt8:
    """Return an image of this size with a smaller one in its middle."""
    around = np.full((*height_width, 3), ground, np.uint8)
    top, left = ((wanted - got) // 2 for wanted, got in zip(height_width, image.shape[:2], strict=True))
    around[top : top + image.shape[0], left : left + image.shape[1]] = image
    return around


def scaled(image: UInt8, height_width: tuple[int, int]) -> UInt8:
    """Return the image at this (height, width); single pixels stay seen as squares where it grows much."""
    if height_width[0] >= 8 * image.shape[0] and height_width[1] >= 8 * image.shape[1]:
        return np.asarray(cv2.resize(image, height_width[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    return resize(image, height_width)


def scaled_map(anomaly_map: Float32, height_width: tuple[int, int]) -> Float32:
    """Return the map at this (height, width): means where it shrinks, bilinear where it grows."""
    shrinks = height_width[0] < anomaly_map.shape[0]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(anomaly_map, height_width[::-1], interpolation=kind), np.float32)


def scaled_mask(mask: Bool, height_width: tuple[int, int]) -> Bool:
    """Return the mask at this size; a pixel that covers any part of a region counts: no small defect is lost."""
    kind = cv2.INTER_AREA if height_width[0] < mask.shape[0] else cv2.INTER_NEAREST
    share = cv2.resize(mask.astype(np.float32), height_width[::-1], interpolation=kind)
    return np.asarray(share > 1e-6, np.bool_)


def _centred(page: UInt8, text: str, xy: tuple[int, int], box: Box, colour: Colour, *, bold: bool) -> None:
    """Write text with the middle of its base line at `xy`, moved as far as needed to stay inside the box."""
    at, base_line = xy
    width = text_width(text, 15, bold=bold)
    left = min(max(at - width // 2, box[0]), max(box[0], box[0] + box[2] - width))
    draw_text(page, text, (left, base_line), 15, colour, bold=bold)
