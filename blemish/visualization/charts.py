"""Charts as inline SVG text: scores against the threshold, the ROC curve, and a gauge for one image.

Colours are the variables of the page around (`--good`, `--bad`, `--ink`, `--quiet`, `--rule`), so that a chart follows
its light and dark mode. All text that comes from outside is escaped.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import numpy as np

from blemish.visualization.drawing import gauge_position, short_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.types import Curve, Float64

_WIDTH, _LABELS, _RIGHT, _HALF, _ROW = 720, 150, 56, 74, 26


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


def score_chart(groups: Sequence[tuple[str, Sequence[float]]], threshold: float) -> str:
    """Return the histogram of good scores (upwards) and defective ones (downwards), and below it a line per group.

    No bin spans the threshold, so what stands right of its line is what is called defective.

    Args:
        groups: name and scores of each kind of image; "good" is the good ones, every other a defect type.
        threshold: the image threshold.

    Returns:
        An <svg> element, or "" if there are no finite scores.
    """
    known = [(name, np.sort(np.asarray([s for s in scores if math.isfinite(s)]))) for name, scores in groups]
    known = [(name, scores) for name, scores in known if len(scores)]
    if not known or not math.isfinite(threshold):
        return ""
    everything = np.concatenate([scores for _, scores in known])
    low, high = min(float(everything[:].min()), threshold), max(float(everything.max()), threshold)
    pad = 0.03 * (high - low) or max(abs(low), 1.0) * 0.1
    low, high = low - pad, high + pad
    good = np.concatenate([scores for name, scores in known if name == "good"] or [np.empty(0)])
    bad = np.concatenate([scores for name, scores in known if name != "good"] or [np.empty(0)])
    top, bottom = 26, 26 + 2 * _HALF + 8 + _ROW * len(known)
    parts = [_bars(good, bad, threshold, (low, high), top + _HALF)]
    for i, (name, scores) in enumerate(known):
        parts.append(_strip(name, scores, threshold, (low, high), top + 2 * _HALF + 8 + _ROW * i + _ROW / 2))
    parts.append(_x_axis((low, high), bottom))
    at = _x(threshold, (low, high))
    parts.append(f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{bottom}"/>')
    parts.append(_text(at, 14, f"threshold {short_number(threshold)}", "middle", "strong"))
    label = f"Scores of {len(good)} good and {len(bad)} defective images against the threshold"
    return _svg(_WIDTH, bottom + 40, "".join(parts), label)


def roc_chart(curve: Curve, working_point: tuple[float, float], false_positive_rate_set: float) -> str:
    """Return the ROC curve with the point that the threshold works at and the false positive rate that was asked for.

    Args:
        curve: x the false positive rate, y the share of defective images found.
        working_point: (false positive rate, share found) at the threshold.
        false_positive_rate_set: the rate that was asked for, drawn as a dashed line.
    """
    size, left, top = 300, 56, 16
    xs, ys = left + size * np.asarray(curve.x, float), top + size * (1 - np.asarray(curve.y, float))
    path = " ".join(f"{x},{y}" for x, y in _thinned(xs, ys))
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + size * tick, top + size * (1 - tick)
        parts.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{top}" y2="{top + size}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{left + size}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(_text(x, top + size + 18, f"{100 * tick:g}", "middle"))
        parts.append(_text(left - 8, y + 4, f"{100 * tick:g}", "end"))
    asked = left + size * min(max(false_positive_rate_set, 0.0), 1.0)
    parts.append(f'<line class="asked" x1="{asked:.1f}" x2="{asked:.1f}" y1="{top}" y2="{top + size}"/>')
    parts.append(f'<polygon class="area" points="{path} {left + size},{top + size} {left},{top + size}"/>')
    parts.append(f'<polyline class="curve" points="{path}"/>')
    x, y = left + size * working_point[0], top + size * (1 - working_point[1])
    parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="6.5"/>')
    parts.append(_text(left + size / 2, top + size + 40, "false positives, % of good images", "middle"))
    parts.append(f'<g transform="translate(15 {top + size / 2}) rotate(-90)">')
    parts.append(_text(0, 0, "found, % of defective images", "middle") + "</g>")
    found = (
        f"at the threshold {100 * working_point[1]:.3g} % are found at {100 * working_point[0]:.3g} % false positives"
    )
    return _svg(left + size + 16, top + size + 52, "".join(parts), f"ROC curve; {found}")


def gauge_chart(score: float, threshold: float) -> str:
    """Return a gauge of one image's score with the threshold in its middle; see `gauge_position`."""
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return ""
    position = gauge_position(score, threshold)
    at, kind = 10 + 280 * position, "bad" if score > threshold else "good"
    if 0 < position < 1:
        marker = f'<circle class="{kind} rim" cx="{at:.1f}" cy="30" r="8"/>'
    else:
        away = 1 if position else -1
        tip = f"{at + 9 * away:.0f},30 {at - 6 * away:.0f},22 {at - 6 * away:.0f},38"
        marker = f'<polygon class="{kind} rim" points="{tip}"/>'
    label = f"score {short_number(score)}"
    half = 4 * len(label)
    parts = [
        '<rect class="good track" x="10" y="25" width="140" height="10" rx="5"/>',
        '<rect class="bad track" x="150" y="25" width="140" height="10" rx="5"/>',
        '<line class="threshold" x1="150" x2="150" y1="20" y2="40"/>',
        marker,
        _text(min(max(at, half), 300 - half), 14, label, "middle", f"{kind} strong"),
        _text(150, 55, f"threshold {short_number(threshold)}", "middle"),
    ]
    return _svg(300, 60, "".join(parts), f"{label}, threshold {short_number(threshold)}")


def _x(value: float, limits: tuple[float, float]) -> float:
    return _LABELS + (_WIDTH - _LABELS - _RIGHT) * (value - limits[0]) / (limits[1] - limits[0])


def _bars(good: Float64, bad: Float64, threshold: float, limits: tuple[float, float], middle: float) -> str:
    """Return the bars of both histograms; a bin holds its right edge, as the threshold belongs to what is good."""
    n_bins = int(np.clip(2 * math.sqrt(len(good) + len(bad)), 12, 48))
    step = (limits[1] - limits[0]) / n_bins
    bins = [np.unique(np.ceil((scores - threshold) / step).astype(int), return_counts=True) for scores in (good, bad)]
    tallest = max(int(counts.max()) if len(counts) else 0 for _, counts in bins)
    parts = [f'<line class="axis" x1="{_LABELS}" x2="{_WIDTH - _RIGHT}" y1="{middle}" y2="{middle}"/>']
    for kind, (places, counts) in zip(("good", "bad"), bins, strict=True):
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            left = max(_x(threshold + (place - 1) * step, limits), _LABELS)
            right = min(_x(threshold + place * step, limits), _WIDTH - _RIGHT)
            height = max(2.0, (_HALF - 6) * count / tallest)
            y = middle - height if kind == "good" else middle
            box = f'x="{left + 0.75:.1f}" y="{y:.1f}" width="{max(right - left - 1.5, 1):.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="{kind}" {box}><title>{count}</title></rect>')
    parts.append(_text(_LABELS - 12, middle - _HALF / 2 + 4, f"{len(good)} good", "end", "good strong"))
    parts.append(_text(_LABELS - 12, middle + _HALF / 2 + 4, f"{len(bad)} defective", "end", "bad strong"))
    return "".join(parts)


def _strip(name: str, scores: Float64, threshold: float, limits: tuple[float, float], y: float) -> str:
    """Return one line with a stroke per score, its name at the left, and how many are on the right side."""
    kind = "good" if name == "good" else "bad"
    right_side = int((scores <= threshold).sum() if kind == "good" else (scores > threshold).sum())
    shown = name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"
    parts = [
        f'<line class="grid" x1="{_LABELS}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>',
        _text(_LABELS - 12, y + 4, shown, "end"),
        _text(_WIDTH - _RIGHT + 10, y + 4, f"{right_side}/{len(scores)}", "start"),
    ]
    # Strokes that fall on the same third of a pixel look like one.
    places = sorted({round(3 * _x(score, limits)) / 3 for score in scores.tolist()})
    strokes = (f'<line class="{kind} stroke" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 7}" y2="{y + 7}"/>' for x in places)
    return "".join((*parts, *strokes))


def _x_axis(limits: tuple[float, float], y: float) -> str:
    parts = [f'<line class="axis" x1="{_LABELS}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>']
    for tick in nice_ticks(*limits):
        x = _x(tick, limits)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>')
        parts.append(_text(x, y + 19, short_number(tick), "middle"))
    parts.append(_text(_WIDTH - _RIGHT, y + 36, "score: higher is more anomalous", "end"))
    return "".join(parts)


def _thinned(xs: Float64, ys: Float64) -> list[tuple[float, float]]:
    """Return the points, to a tenth of a pixel, without those on a straight run and without repeats."""
    points: list[tuple[float, float]] = []
    for point in zip(np.round(xs, 1).tolist(), np.round(ys, 1).tolist(), strict=True):
        if points and point == points[-1]:
            continue
        if len(points) > 1 and any(points[-2][axis] == points[-1][axis] == point[axis] for axis in (0, 1)):
            points.pop()
        points.append(point)
    return points


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(width: float, height: float, content: str, label: str) -> str:
    head = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}"'
    return f'<svg class="chart" {head} style="max-width:{width:g}px">{content}</svg>'
