"""Chart of a comparison: metrics as numbers, and each cost as a bar for each side, by category."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish.interop.anomalib.compare import COSTS, METRICS, NAMES, header, ratios_of
from blemish.interop.anomalib.side import ANOMALIB, DEFAULTS, SAME, SIDES
from blemish.types import UInt8
from blemish.visualization.primitives import DEFECTIVE, GOOD, GOOD_TINT, INK, PAPER, QUIET, RULE, rounded_rectangle
from blemish.visualization.text import draw_text, text_width

if TYPE_CHECKING:
    from blemish.interop.anomalib.compare import Comparison, Row

MARGIN, WIDTH, NAME_W, VALUE_W = 32, 960, 230, 190
BAR, ROW, BLOCK = 16, 20, 84
Numbers = dict[str, float | None]
COLOURS = {ANOMALIB: DEFECTIVE, SAME: GOOD, DEFAULTS: GOOD_TINT}


def draw(comparison: Comparison) -> UInt8:
    """Return the chart, (H, 960, 3) uint8 RGB: bars of one cost share a scale that starts at 0."""
    shown = [
        row for row in COSTS if not row.name.startswith(" ") or row.key in {"coreset_s", "fit_cpu_s", "predict_cpu_ms"}
    ]
    block_height = 44 + 26 * (1 + len(METRICS)) + BLOCK * len(shown) + 20
    page = np.full((2 * MARGIN + 84 + block_height * len(comparison.categories), WIDTH, 3), PAPER, np.uint8)
    draw_text(page, "anomalib and Blemish, side by side", (MARGIN, MARGIN + 18), 24, INK, bold=True)
    for i, line in enumerate(_two_lines(header(comparison))):
        draw_text(page, line, (MARGIN, MARGIN + 44 + 18 * i), 14, QUIET)
    y = MARGIN + 84
    for category in comparison.categories:
        page[y, MARGIN:-MARGIN] = RULE
        draw_text(page, category, (MARGIN, y + 30), 20, INK, bold=True)
        y = _metrics(page, comparison, category, y + 44)
        ratios = ratios_of(comparison, category)
        for row in shown:
            values = {side: comparison.numbers(category, side).get(row.key) for side in SIDES}
            _cost(page, row, values, {side: ratios.get(side, {}).get(row.key) for side in SIDES}, y)
            y += BLOCK
        y += 20
    return page


def _metrics(page: UInt8, comparison: Comparison, category: str, y: int) -> int:
    """Draw the table of metrics from row `y`, and return its end."""
    ends = {side: MARGIN + NAME_W + 220 * (i + 1) for i, side in enumerate(SIDES)}
    for side, x in ends.items():
        draw_text(page, NAMES[side], (x, y + 16), 14, QUIET, align="right")
    for row in METRICS:
        y += 26
        draw_text(page, row.name, (MARGIN, y + 16), 15, INK)
        for side, x in ends.items():
            value = comparison.numbers(category, side).get(row.key)
            text = "-" if value is None else f"{value:.{row.digits}f}"
            draw_text(page, text, (x, y + 16), 15, INK, bold=True, align="right")
    return y + 26


def _cost(page: UInt8, row: Row, values: Numbers, ratios: Numbers, y: int) -> None:
    """Draw one cost: its name, and for each side a bar, its number and its ratio."""
    largest = max((value for value in values.values() if value is not None), default=0.0) or 1.0
    draw_text(page, row.name, (MARGIN, y + 18 + ROW), 15, INK)
    room = WIDTH - 2 * MARGIN - NAME_W - VALUE_W
    for i, (side, value) in enumerate(values.items()):
        top = y + 6 + ROW * i
        if value is None:
            continue
        width = max(2, round(room * value / largest))
        rounded_rectangle(page, (MARGIN + NAME_W, top, width, BAR), min(3.0, width / 2), COLOURS[side])
        text, ratio = f"{value:.{row.digits}f}", ratios.get(side)
        x = MARGIN + NAME_W + width + 8
        draw_text(page, text, (x, top + 13), 14, INK, bold=True)
        if ratio is not None:
            text_of_ratio = f"{ratio:.1f} times less" if ratio >= 1 else f"{1 / ratio:.1f} times more"
            draw_text(page, text_of_ratio, (x + text_width(text, 14, bold=True) + 8, top + 13), 14, QUIET)


def _two_lines(text: str) -> list[str]:
    first, _, second = text.partition("; ")
    return [first, second]
