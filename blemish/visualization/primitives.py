"""Drawing primitives: palette, rounded rectangle, gauge, colour bar and verdict line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish.ops.conformal import percent
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from blemish.types import Prediction, UInt8
    from blemish.visualization.text import Colour

Box = tuple[int, int, int, int]
PAPER: Colour = (255, 255, 255)
INK: Colour = (28, 31, 36)
QUIET: Colour = (101, 108, 118)
RULE: Colour = (218, 222, 228)
# Okabe & Ito 2008, "Color universal design": blue and vermilion stay distinct in every common colour vision deficiency,
# and differ in lightness on a grey printer.
GOOD: Colour = (0, 114, 178)
DEFECTIVE: Colour = (196, 77, 0)
GOOD_TINT: Colour = (190, 219, 237)


class Outcome(NamedTuple):
    """Outcome of an inspection as it is drawn: its word, its colour, and the tint of its range of scores."""

    word: str
    colour: Colour
    tint: Colour


# By `Prediction.label`.
OUTCOMES = {False: Outcome("good", GOOD, GOOD_TINT), True: Outcome("defective", DEFECTIVE, (248, 208, 180))}


def short_number(value: float) -> str:
    """Return a number with four significant digits, the format of scores in captions and tables.

    >>> short_number(20.12345), short_number(0.5), short_number(1234567.0)
    ('20.12', '0.5', '1.235e+06')
    """
    return f"{value:.4g}"


def gauge_position(score: float, threshold: float) -> float:
    """Return the position of a score on a gauge from 0 to 1 with the threshold at 0.5.

    The gauge spans `threshold` -/+ abs(threshold), so that gauges of one detector are comparable; -/+ 1 if the
    threshold is 0. Scores beyond are clipped.

    >>> gauge_position(15.0, 20.0), gauge_position(90.0, 20.0), gauge_position(-1.0, 0.0)
    (0.375, 1.0, 0.0)
    """
    half = abs(threshold) or 1.0
    return float(np.clip(0.5 + (score - threshold) / (2 * half), 0.0, 1.0))


def rounded_rectangle(page: UInt8, box: Box, radius: float, colour: Colour) -> None:
    """Fill a rectangle (x, y, width, height) with rounded corners in place, antialiased and clipped to the page."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    part = page[top : max(y + height, 0), left : max(x + width, 0)]
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    # Signed distance of pixel centres to the rectangle shrunk by the radius.
    outside_x = np.abs(columns + left + 0.5 - (x + width / 2)) - (width / 2 - radius)
    outside_y = np.abs(rows + top + 0.5 - (y + height / 2)) - (height / 2 - radius)
    distance = np.hypot(np.maximum(outside_x, 0), np.maximum(outside_y, 0))
    distance = distance + np.minimum(np.maximum(outside_x, outside_y), 0)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    part[:] = np.rint(part + cover * (np.array(colour) - part))


def paste(page: UInt8, image: UInt8, box: Box) -> None:
    """Copy an image into the centre of a box (x, y, width, height), with a rim of one pixel, in place."""
    x, y, width, height = box
    top, left = y + (height - image.shape[0]) // 2, x + (width - image.shape[1]) // 2
    page[top - 1 : top + image.shape[0] + 1, left - 1 : left + image.shape[1] + 1] = RULE
    page[top : top + image.shape[0], left : left + image.shape[1]] = image


def draw_pill(page: UInt8, text: str, xy: tuple[int, int], colour: Colour) -> int:
    """Draw white text on a capsule, 36 px high, with its top left corner at `xy`, and return the capsule's width."""
    width = text_width(text, 18, bold=True) + 36
    rounded_rectangle(page, (*xy, width, 36), 18, colour)
    draw_text(page, text, (xy[0] + 18, xy[1] + 25), 18, PAPER, bold=True)
    return width


def draw_gauge(page: UInt8, box: Box, score: float, threshold: float) -> None:
    """Draw a gauge of a score against its threshold (`gauge_position`) into a box 60 px high.

    The score stands above its marker, the threshold below its tick. A score beyond the gauge has an arrow head.
    """
    x, y, width, _ = box
    middle = y + 30
    rounded_rectangle(page, (x, middle - 5, width, 10), 5, OUTCOMES[False].tint)
    half = x + width // 2
    rounded_rectangle(page[:, half:], (-20, middle - 5, x + width - half + 20, 10), 5, OUTCOMES[True].tint)
    rounded_rectangle(page, (half - 1, middle - 11, 3, 22), 1, INK)
    _draw_threshold(page, threshold, (half, y + 58), box)
    position = gauge_position(score, threshold)
    at = x + round(position * width)
    colour = OUTCOMES[score > threshold].colour
    if 0 < position < 1:
        for radius, fill in ((10, PAPER), (8, colour)):
            rounded_rectangle(page, (at - radius, middle - radius, 2 * radius + 1, 2 * radius + 1), radius + 0.5, fill)
    else:
        away = 1 if position else -1
        for grown, fill in ((3, PAPER), (0, colour)):
            tip = [
                (at + away * (4 + grown), middle),
                (at - away * (11 + grown), middle - 9 - grown),
                (at - away * (11 + grown), middle + 9 + grown),
            ]
            cv2.fillPoly(page, [np.array(tip, np.int32)], fill, cv2.LINE_AA)
    _draw_centred(page, f"score {short_number(score)}", (at, y + 13), box, colour, bold=True)


def draw_colour_bar(page: UInt8, box: Box, colours: UInt8, threshold: float) -> None:
    """Draw (1, width, 3) colours as a bar into a box (x, y, width, height), the threshold marked in its middle."""
    x, y, width, height = box
    page[y : y + height, x : x + width] = colours
    half = x + width // 2
    page[y - 3 : y + height + 3, half - 1 : half + 2] = PAPER
    page[y - 3 : y + height + 3, half] = INK
    _draw_threshold(page, threshold, (half, y + 25), box)


def draw_verdict(page: UInt8, prediction: Prediction, y: int, margin: int) -> None:
    """Draw the verdict, the p-value and the gauge of a prediction from row `y` on, 68 px high."""
    page[y - 8, margin:-margin] = RULE
    outcome = OUTCOMES[prediction.label]
    x = margin + draw_pill(page, outcome.word.upper(), (margin, y + 14), outcome.colour) + 18
    draw_text(page, f"p = {prediction.p_value:.2g}", (x, y + 28), 16, INK, bold=True)
    share = f"at most {percent(prediction.p_value)} of good parts score so high"
    draw_text(page, share, (x, y + 50), 15, QUIET)
    x += text_width(share, 15)
    gauge_w = min(420, page.shape[1] - margin - x - 24)
    box = (page.shape[1] - margin - gauge_w, y, gauge_w, 60)
    draw_gauge(page, box, prediction.score, prediction.threshold)


def _draw_threshold(page: UInt8, threshold: float, xy: tuple[int, int], box: Box) -> None:
    _draw_centred(page, f"threshold {short_number(threshold)}", xy, box, QUIET, bold=False)


def _draw_centred(page: UInt8, text: str, xy: tuple[int, int], box: Box, colour: Colour, *, bold: bool) -> None:
    """Draw text centred at `xy` (on its base line), shifted to stay inside the box."""
    at, base_line = xy
    width = text_width(text, 15, bold=bold)
    left = min(max(at - width // 2, box[0]), max(box[0], box[0] + box[2] - width))
    draw_text(page, text, (left, base_line), 15, colour, bold=bold)
