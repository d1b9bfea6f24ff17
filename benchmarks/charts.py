"""Line charts on logarithmic axes, as SVG files of the documentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLORS = ("#0b6e99", "#c05621", "#3f7d20", "#7a4fa3")
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, LINE = 640, 360, 64, 16, 48, 18


def write_log_log(name, title, x_title, lines):
    """Write docs/NAME: lines over a common axis, with a grid line for each power of ten.

    Args:
        lines: title of each line to its (x, y) pairs in order of x, all above 0.
    """
    top = 16 + LINE * len(lines)  # their titles are above
    ticks = sorted({x for points in lines.values() for x, _ in points})
    values = [y for points in lines.values() for _, y in points]
    low, high = np.log10(ticks[0]) - 0.1, np.log10(ticks[-1]) + 0.1
    least, most = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)))

    def at(x, y):
        across = LEFT + (np.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (np.log10(y) - least) / (most - least) * (HEIGHT - BOTTOM - top)

    parts = []
    for exponent in range(int(least), int(most) + 1):
        y = at(ticks[0], 10.0**exponent)[1]
        parts.append(f'<path d="M{LEFT} {y:.0f}H{WIDTH - RIGHT}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{10.0**exponent:,.7g}</text>')
    below = f'y="{HEIGHT - BOTTOM + 18}" text-anchor="middle"'
    parts += [f'<text x="{at(x, 10.0**least)[0]:.0f}" {below}>{x:,}</text>' for x in ticks]
    for i, (line, points) in enumerate(lines.items()):
        color, places = COLORS[i], [at(x, y) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
        parts.append(f'<text x="{LEFT + 8}" y="{LINE * (i + 1)}" fill="{color}">{line}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_title}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#777"'
    text = "\n".join([f"{head} {style}>", f"<title>{title}</title>", *parts, "</svg>", ""])
    (DOCS / name).write_text(text, encoding="utf-8")
