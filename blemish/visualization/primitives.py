"""Drawing primitives: palette, rounded rectangle, gauge, colour bar and verdict line."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish.ops.conformal import percent
from blemish.types import outcome_of
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from blemish.types import Outcome, Prediction, UInt8
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
LOOK_AGAIN: Colour = (230, 159, 0)


class Style(NamedTuple):
    """Colours of an outcome: its own, the tint of its range of scores, of text on it, and of text on white."""

    colour: Colour
    tint: Colour
    text_on: Colour
    text: Colour


OUTCOMES: dict[Outcome, Style] = {
    "good": Style(GOOD, GOOD_TINT, PAPER, GOOD),
    "look again": Style(LOOK_AGAIN, (250, 226, 150), INK, (134, 88, 0)),
    "defective": Style(DEFECTIVE, (246, 190, 158), PAPER, DEFECTIVE),
}


def short_number(value: float) -> str:
    """Return a number with four significant digits, the format of scores in captions and tables.

    >>> short_number(20.12345), short_number(0.5), short_number(1234567.0)
    ('20.12', '0.5', '1.235e+06')
    """
    return f"{value:.4g}"


def p_value_text(p_value: float) -> str:
    """Return a p-value with two digits; a smaller one than 0.001 is an extrapolation, and is not stated.

    >>> p_value_text(0.0123), p_value_text(2e-9)
    ('p = 0.012', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def share_text(prediction: Prediction) -> str:
    """Return the p-value in words; it is a bound if the thresholds are conformal, and an estimate if not."""
    if prediction.p_value < 0.001:
        return "fewer than 0.1 % of good parts score so high"
    kind = "at most" if prediction.upper_threshold is None else "about"
    return f"{kind} {percent(prediction.p_value)} of good parts score so high"


def gauge_position(score: float, threshold: float, upper_threshold: float | None = None) -> float:
    """Return the position of a score on a gauge from 0 to 1 with the threshold at 0.5.

    The gauge spans `threshold` -/+ abs(threshold), so that gauges of one detector are comparable; -/+ 1 if the
    threshold is 0, and more where the upper threshold takes it. Scores beyond are clipped.

    >>> gauge_position(15.0, 20.0), gauge_position(90.0, 20.0), gauge_position(-1.0, 0.0), gauge_position(60, 20, 60)
    (0.375, 1.0, 0.0, 0.9)
    """
    half = abs(threshold) or 1.0
    if upper_threshold is not None:
        half = max(half, 1.25 * (upper_threshold - threshold))
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


def draw_pill(page: UInt8, outcome: Outcome, xy: tuple[int, int]) -> int:
    """Draw an outcome on a capsule, 36 px high, with its top left corner at `xy`, and return the capsule's width."""
    text, style = outcome.upper(), OUTCOMES[outcome]
    width = text_width(text, 18, bold=True) + 36
    rounded_rectangle(page, (*xy, width, 36), 18, style.colour)
    draw_text(page, text, (xy[0] + 18, xy[1] + 25), 18, style.text_on, bold=True)
    return width


def draw_gauge(page: UInt8, box: Box, score: float, threshold: float, upper_threshold: float | None = None) -> None:
    """Draw a gauge of a score against its thresholds (`gauge_position`) into a box 60 px high.

    Its zones have the tints of the outcomes. The score stands above its marker, the thresholds below their ticks. A
    score beyond the gauge has an arrow head.
    """
    x, y, width, _ = box
    middle, half = y + 30, x + width // 2
    upper = half
    if upper_threshold is not None:
        upper = x + round(gauge_position(upper_threshold, threshold, upper_threshold) * width)
    rounded_rectangle(page, (x, middle - 5, width, 10), 5, OUTCOMES["good"].tint)
    rounded_rectangle(page[:, half:], (-20, middle - 5, x + width - half + 20, 10), 5, OUTCOMES["defective"].tint)
    page[middle - 5 : middle + 5, half:upper] = OUTCOMES["look again"].tint
    label = _draw_threshold(page, threshold, (half, y + 58), box)
    for tick in {half, upper}:
        rounded_rectangle(page, (tick - 1, middle - 11, 3, 22), 1, INK)
    if upper_threshold is not None and upper > half:
        text = short_number(upper_threshold)
        left = min(upper - text_width(text, 15) // 2, x + width - text_width(text, 15))
        if left > label + 6:
            draw_text(page, text, (left, y + 58), 15, QUIET)
    position = gauge_position(score, threshold, upper_threshold)
    style = OUTCOMES[outcome_of(score > threshold, score, upper_threshold)]
    at = x + round(position * width)
    if 0 < position < 1:
        for radius, fill in ((10, PAPER), (8, style.colour)):
            rounded_rectangle(page, (at - radius, middle - radius, 2 * radius + 1, 2 * radius + 1), radius + 0.5, fill)
    else:
        _draw_arrow(page, (at, middle), 1 if position else -1, style.colour)
    _draw_centred(page, f"score {short_number(score)}", (at, y + 13), box, style.text, bold=True)


def _draw_arrow(page: UInt8, xy: tuple[int, int], away: int, colour: Colour) -> None:
    """Draw an arrow head that points to the right (`away` 1) or left (-1), with a white rim."""
    at, middle = xy
    for grown, fill in ((3, PAPER), (0, colour)):
        back = at - away * (11 + grown)
        tip = [(at + away * (4 + grown), middle), (back, middle - 9 - grown), (back, middle + 9 + grown)]
        cv2.fillPoly(page, [np.array(tip, np.int32)], fill, cv2.LINE_AA)


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
    x = margin + draw_pill(page, prediction.outcome, (margin, y + 14)) + 18
    draw_text(page, p_value_text(prediction.p_value), (x, y + 28), 16, INK, bold=True)
    share = share_text(prediction)
    draw_text(page, share, (x, y + 50), 15, QUIET)
    x += text_width(share, 15)
    gauge_w = min(420, page.shape[1] - margin - x - 24)
    box = (page.shape[1] - margin - gauge_w, y, gauge_w, 60)
    draw_gauge(page, box, prediction.score, prediction.threshold, prediction.upper_threshold)


def _draw_threshold(page: UInt8, threshold: float, xy: tuple[int, int], box: Box) -> int:
    return _draw_centred(page, f"threshold {short_number(threshold)}", xy, box, QUIET, bold=False)


def _draw_centred(page: UInt8, text: str, xy: tuple[int, int], box: Box, colour: Colour, *, bold: bool) -> int:
    """Draw text centred at `xy` (on its base line), shifted to stay inside the box, and return its right end."""
    at, base_line = xy
    width = text_width(text, 15, bold=bold)
    left = min(max(at - width // 2, box[0]), max(box[0], box[0] + box[2] - width))
    draw_text(page, text, (left, base_line), 15, colour, bold=bold)
    return left + width
