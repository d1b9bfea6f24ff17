"""Line charts of a training loss, and round tick positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.visualization.primitives import DEFECTIVE, GOOD, INK, PAPER, QUIET, RULE, short_number
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.types import UInt8

# Left, top, right and bottom of the axes of `loss_figure`, in pixels.
_LEFT, _TOP, _RIGHT, _BOTTOM = 72, 64, 696, 340


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at most `most` + 1 round numbers inside [low, high], evenly spaced.

    >>> nice_ticks(3.0, 21.0)
    [5.0, 10.0, 15.0, 20.0]
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return []
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def loss_figure(steps: Sequence[float], curves: Mapping[str, Sequence[float]], *, title: str) -> UInt8:
    """Return a line chart of losses against training steps, from 0 up.

    Args:
        steps: of the points, rising.
        curves: at most two losses by name, with one value per step; values that are not finite are left out.
        title: above the chart.

    Returns:
        (400, 720, 3) uint8 RGB.
    """
    page = np.full((400, 720, 3), PAPER, np.uint8)
    draw_text(page, title, (24, 36), 20, INK, bold=True)
    highest = max((value for values in curves.values() for value in values if np.isfinite(value)), default=1.0) or 1.0
    last = max([*steps, 1.0])
    _draw_axes(page, last, highest)
    for i, (name, values) in enumerate(curves.items()):
        colour = (GOOD, DEFECTIVE)[i % 2]
        points = [
            (_LEFT + (_RIGHT - _LEFT) * step / last, _BOTTOM - (_BOTTOM - _TOP) * value / highest)
            for step, value in zip(steps, values, strict=True)
            if np.isfinite(value)
        ]
        if points:
            line = np.rint(16 * np.array(points)).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(page, [line], False, colour, 2, cv2.LINE_AA, shift=4)
        draw_text(page, name, (_LEFT + 180 * i, _BOTTOM + 44), 14, colour, bold=True)
    return page


def _draw_axes(page: UInt8, last: float, highest: float) -> None:
    for tick in [0.0, *nice_ticks(0.0, highest, 5)]:
        y = round(_BOTTOM - (_BOTTOM - _TOP) * tick / highest)
        cv2.line(page, (_LEFT, y), (_RIGHT, y), RULE, 1)
        draw_text(page, short_number(tick), (_LEFT - 10, y + 5), 14, QUIET, align="right")
    for tick in [0.0, *nice_ticks(0.0, last, 6)]:
        label = short_number(tick)
        x = round(_LEFT + (_RIGHT - _LEFT) * tick / last) - text_width(label, 14) // 2
        draw_text(page, label, (x, _BOTTOM + 22), 14, QUIET)
    draw_text(page, "step", (_RIGHT, _BOTTOM + 44), 14, QUIET, align="right")
