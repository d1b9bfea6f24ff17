"""Chart of the false positive rate expected at each threshold, above the scores of good and defective images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from blemish.visualization.charts import nice_ticks
from blemish.visualization.primitives import DEFECTIVE, GOOD, INK, OUTCOMES, PAPER, QUIET, RULE, short_number
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from blemish.ops.conformal import Calibration
    from blemish.types import Float64, Outcome, UInt8

# Left, top, right and bottom of the axes, and the height of a strip, in pixels.
_LEFT, _TOP, _RIGHT, _BOTTOM, _STRIP = 160, 84, 716, 340, 30
# The axis of rates is logarithmic, between these.
_LOWEST, _HIGHEST = 0.0005, 1.0


class _Axis(NamedTuple):
    """The scores at both ends of the horizontal axis."""

    low: float
    high: float

    def x(self, score: float) -> float:
        """Return the position of a score in pixels."""
        return _LEFT + (_RIGHT - _LEFT) * (score - self.low) / (self.high - self.low)


def rate_figure(calibration: Calibration, strips: Mapping[str, Sequence[float]]) -> UInt8:
    """Return a chart of false positive rate against threshold, with its 90 % interval, and a strip for each name.

    Args:
        calibration: of the image scores, whose thresholds are marked.
        strips: scores by name, blue if the name begins with "good"; empty ones are left out. Scores beyond the right
            end are counted there.

    Returns:
        (H, 800, 3) uint8 RGB.
    """
    shown = {name: np.asarray(scores) for name, scores in strips.items() if len(scores)}
    upper = calibration.upper_threshold
    low = min(float(calibration.scores[0]), *(float(scores.min()) for scores in shown.values()), upper)
    highest = max(float(calibration.scores[-1]), *(float(scores.max()) for scores in shown.values()), upper)
    high = min(highest, upper + (upper - low))
    pad = 0.02 * (high - low) or 1.0
    axis = _Axis(low - pad, high + pad)
    page = np.full((_BOTTOM + 74 + _STRIP * len(shown), 800, 3), PAPER, np.uint8)
    draw_text(page, "Expected false positive rate by threshold", (24, 36), 20, INK, bold=True)
    _draw_curve(page, calibration, axis)
    _draw_axes(page, axis)
    bottom = _BOTTOM + 56 + _STRIP * len(shown)
    for i, (name, scores) in enumerate(shown.items()):
        _draw_strip(page, name, scores, _BOTTOM + 60 + _STRIP * i, axis)
    _draw_thresholds(page, calibration, bottom, axis)
    return page


def _y(rate: float) -> float:
    position = math.log(max(rate, _LOWEST) / _LOWEST) / math.log(_HIGHEST / _LOWEST)
    return _BOTTOM - (_BOTTOM - _TOP) * position


def _points(pairs: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
    """Return points for OpenCV at a 16th of a pixel."""
    return np.asarray(np.rint(16 * np.array(pairs)), np.int32).reshape(-1, 1, 2)


def _draw_curve(page: UInt8, calibration: Calibration, axis: _Axis) -> None:
    """Draw the expected rate at each score, with the interval above the median."""
    tail, scores = calibration.tail, np.linspace(*axis, 256)
    above = [float(score) for score in scores if score > tail.median]
    intervals = [(axis.x(score), *tail.probability_interval(score)) for score in above]
    band = [(at, _y(low)) for at, low, _ in intervals] + [(at, _y(high)) for at, _, high in reversed(intervals)]
    if band:
        cv2.fillPoly(page, [_points(band)], OUTCOMES["good"].tint, cv2.LINE_AA, shift=4)
    rates = [(float(score), calibration.p_value(float(score))) for score in scores]
    line = [(axis.x(score), _y(rate)) for score, rate in rates if rate > _LOWEST]
    cv2.polylines(page, [_points(line)], False, INK, 2, cv2.LINE_AA, shift=4)


def _draw_axes(page: UInt8, axis: _Axis) -> None:
    for rate, label in ((0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %")):
        y = round(_y(rate))
        cv2.line(page, (_LEFT, y), (_RIGHT, y), RULE, 1)
        draw_text(page, label, (_LEFT - 10, y + 5), 14, QUIET, align="right")
    cv2.line(page, (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM), QUIET, 1)
    for tick in nice_ticks(*axis):
        label = short_number(tick)
        cv2.line(page, (round(axis.x(tick)), _BOTTOM), (round(axis.x(tick)), _BOTTOM + 5), QUIET, 1)
        draw_text(page, label, (round(axis.x(tick)) - text_width(label, 14) // 2, _BOTTOM + 22), 14, QUIET)
    draw_text(page, "score", (_RIGHT, _BOTTOM + 40), 14, QUIET, align="right")


def _draw_strip(page: UInt8, name: str, scores: Float64, y: int, axis: _Axis) -> None:
    """Draw the scores as strokes on row `y`, and the number of those beyond the axis at its right end."""
    colour = GOOD if name.startswith("good") else DEFECTIVE
    draw_text(page, name, (_LEFT - 14, y + 5), 14, colour, bold=True, align="right")
    cv2.line(page, (_LEFT, y), (_RIGHT, y), RULE, 1)
    for score in scores[scores <= axis.high]:
        cv2.line(page, (round(axis.x(score)), y - 8), (round(axis.x(score)), y + 8), colour, 1)
    n_beyond = int((scores > axis.high).sum())
    if n_beyond:
        draw_text(page, f"+ {n_beyond}", (_RIGHT + 10, y + 5), 14, colour)


def _draw_thresholds(page: UInt8, calibration: Calibration, bottom: int, axis: _Axis) -> None:
    """Draw the lines of both thresholds, and the outcomes between them."""
    marks = [calibration.threshold]
    if calibration.rule == "tail" and calibration.upper_threshold > calibration.threshold:
        marks.append(calibration.upper_threshold)
    ends = [_LEFT, *(min(max(round(axis.x(mark)), _LEFT), _RIGHT) for mark in marks), _RIGHT]
    outcomes: tuple[Outcome, ...] = ("good", "look again", "defective") if len(marks) == 2 else ("good", "defective")
    for outcome, left, right in zip(outcomes, ends, ends[1:], strict=False):
        page[_TOP - 12 : _TOP - 6, left:right] = OUTCOMES[outcome].tint
        if right - left > text_width(outcome, 14) + 6:
            draw_text(page, outcome, ((left + right) // 2, _TOP - 18), 14, OUTCOMES[outcome].text, align="center")
    for mark, at in zip(marks, ends[1:], strict=False):
        cv2.line(page, (at, _TOP - 14), (at, bottom), INK, 1)
        draw_text(page, short_number(mark), (at + 5, _TOP + 12), 14, INK, bold=True)
