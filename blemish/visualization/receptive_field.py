"""Images for those who want to see it: the field of one output on a photograph, and how a loss fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.errors import InputError, message
from blemish.visualization.charts import nice_ticks
from blemish.visualization.drawing import DEFECTIVE, GOOD, INK, PAPER, QUIET, RULE, short_number
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from blemish.ops.receptive_field import Field
    from blemish.types import UInt8

LONGEST_PX = 640
MARGIN = 24


def field_figure(image: UInt8, field: Field, hw: tuple[int, int], cell: tuple[int, int] | None = None) -> UInt8:
    """Return an image with what one output sees of it: bright inside, framed, the places of the other outputs dotted.

    Args:
        image: (H, W, 3) uint8 RGB, at the size that the network sees.
        field: of the network's outputs.
        hw: rows and columns of outputs.
        cell: (row, column) of the output; the middle one by default.

    Returns:
        uint8 RGB, the image enlarged, with a caption below.

    Raises:
        InputError: if there is no such output.
    """
    row, column = cell if cell is not None else (hw[0] // 2, hw[1] // 2)
    if not (0 <= row < hw[0] and 0 <= column < hw[1]):
        got = f"row {row}, column {column}"
        raise InputError(message("cell", f"one of {hw[0]} rows and {hw[1]} columns, counted from 0", got))
    height, width = image.shape[:2]
    by = max(1, round(LONGEST_PX / max(height, width)))
    top, bottom = field.span(row, height)
    left, right = field.span(column, width)
    page = np.repeat(np.repeat((image * 0.45 + 255 * 0.12).astype(np.uint8), by, axis=0), by, axis=1)
    inside = np.repeat(np.repeat(image[top:bottom, left:right], by, axis=0), by, axis=1)
    page[top * by : bottom * by, left * by : right * by] = inside
    for y in _centres(field, hw[0], height):
        for x in _centres(field, hw[1], width):
            cv2.circle(page, (round((x + 0.5) * by), round((y + 0.5) * by)), 1, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.rectangle(page, (left * by, top * by), (right * by - 1, bottom * by - 1), DEFECTIVE, max(2, by))
    middle = (
        round((field.centre + column * field.stride + 0.5) * by),
        round((field.centre + row * field.stride + 0.5) * by),
    )
    cv2.circle(page, middle, 4, DEFECTIVE, -1, cv2.LINE_AA)
    seen = f"sees {bottom - top} x {right - left} pixels: rows {top} to {bottom - 1}, columns {left} to {right - 1}"
    lines = (
        f"Output ({row}, {column}) of {hw[0]} x {hw[1]} {seen}.",
        f"A dot is the middle of what an output sees: every {field.stride} pixels. The image is {height} x {width}.",
    )
    return _captioned(page, lines)


def _centres(field: Field, n: int, size: int) -> list[float]:
    every = max(1, n // 64)  # so that the dots of a large image do not become a grey veil
    places = [field.centre + field.stride * i for i in range(0, n, every)]
    return [place for place in places if 0 <= place < size]


def _captioned(page: UInt8, lines: Sequence[str]) -> UInt8:
    width = max(page.shape[1], *(text_width(line, 16) for line in lines)) + 2 * MARGIN
    whole = np.full((page.shape[0] + 2 * MARGIN + 26 * len(lines) + 6, width, 3), PAPER, np.uint8)
    whole[MARGIN : MARGIN + page.shape[0], MARGIN : MARGIN + page.shape[1]] = page
    for i, line in enumerate(lines):
        draw_text(whole, line, (MARGIN, MARGIN + page.shape[0] + 26 * (i + 1)), 16, INK if i == 0 else QUIET)
    return whole


def loss_figure(steps: Sequence[float], curves: Mapping[str, Sequence[float]], *, title: str) -> UInt8:
    """Return a chart of losses against steps, from 0 up.

    Args:
        steps: of the points, rising.
        curves: by name, at most two, each with a number per step.
        title: above the chart.

    Returns:
        (400, 720, 3) uint8 RGB.
    """
    page = np.full((400, 720, 3), PAPER, np.uint8)
    left, top, right, bottom = 72, 64, 696, 340
    draw_text(page, title, (MARGIN, 36), 20, INK, bold=True)
    highest = max((value for values in curves.values() for value in values if np.isfinite(value)), default=1.0) or 1.0
    last = max([*steps, 1.0])
    for tick in [0.0, *nice_ticks(0.0, highest, 5)]:
        y = round(bottom - (bottom - top) * tick / highest)
        cv2.line(page, (left, y), (right, y), RULE, 1)
        label = short_number(tick)
        draw_text(page, label, (left - 10 - text_width(label, 14), y + 5), 14, QUIET)
    for tick in [0.0, *nice_ticks(0.0, last, 6)]:
        label = short_number(tick)
        x = round(left + (right - left) * tick / last)
        draw_text(page, label, (x - text_width(label, 14) // 2, bottom + 22), 14, QUIET)
    draw_text(page, "step", (right - text_width("step", 14), bottom + 44), 14, QUIET)
    for i, (name, values) in enumerate(curves.items()):
        colour = (GOOD, DEFECTIVE)[i % 2]
        places = [
            (left + (right - left) * step / last, bottom - (bottom - top) * value / highest)
            for step, value in zip(steps, values, strict=True)
            if np.isfinite(value)
        ]
        line = np.rint(16 * np.array(places)).astype(np.int32).reshape(-1, 1, 2)
        if len(line):
            cv2.polylines(page, [line], False, colour, 2, cv2.LINE_AA, shift=4)
        draw_text(page, name, (left + 180 * i, bottom + 44), 14, colour, bold=True)
    return page
