"""The receptive field of one network output, drawn on an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.errors import InputError, message
from blemish.visualization.primitives import DEFECTIVE, INK, PAPER, QUIET
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.ops.receptive_field import Field
    from blemish.types import UInt8

LONGEST_PX = 640
MARGIN = 24


def field_figure(image: UInt8, field: Field, hw: tuple[int, int], cell: tuple[int, int] | None = None) -> UInt8:
    """Return the image with the receptive field of one output framed and bright, and the centres of all outputs dotted.

    Args:
        image: (H, W, 3) uint8 RGB, at the size of the network's input.
        field: receptive field of the network's outputs.
        hw: rows and columns of outputs.
        cell: (row, column) of the output; the middle one by default.

    Returns:
        uint8 RGB: the enlarged image, with a caption below.

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
    centre_x, centre_y = (round((field.centre + index * field.stride + 0.5) * by) for index in (column, row))
    cv2.circle(page, (centre_x, centre_y), 4, DEFECTIVE, -1, cv2.LINE_AA)
    seen = f"sees {bottom - top} x {right - left} pixels: rows {top} to {bottom - 1}, columns {left} to {right - 1}"
    lines = (
        f"Output ({row}, {column}) of {hw[0]} x {hw[1]} {seen}.",
        f"Dots are the centres of the receptive fields, every {field.stride} pixels. The image is {height} x {width}.",
    )
    return _captioned(page, lines)


def _centres(field: Field, n: int, size: int) -> list[float]:
    every = max(1, n // 64)  # dots of a large image would merge
    centres = [field.centre + field.stride * i for i in range(0, n, every)]
    return [centre for centre in centres if 0 <= centre < size]


def _captioned(page: UInt8, lines: Sequence[str]) -> UInt8:
    width = max(page.shape[1], *(text_width(line, 16) for line in lines)) + 2 * MARGIN
    captioned = np.full((page.shape[0] + 2 * MARGIN + 26 * len(lines) + 6, width, 3), PAPER, np.uint8)
    captioned[MARGIN : MARGIN + page.shape[0], MARGIN : MARGIN + page.shape[1]] = page
    for i, line in enumerate(lines):
        draw_text(captioned, line, (MARGIN, MARGIN + page.shape[0] + 26 * (i + 1)), 16, INK if i == 0 else QUIET)
    return captioned
