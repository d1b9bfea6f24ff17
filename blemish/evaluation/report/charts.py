"""Coordinates of a report's charts: score histogram, ROC curve, and gauge. `templates/charts.svg.j2` draws them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from blemish.types import outcome_of
from blemish.visualization.charts import nice_ticks
from blemish.visualization.primitives import gauge_position, short_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.types import Curve, Float64, Outcome

# Score chart: left and right end of the axis, its top, the height of one histogram, and that of one strip.
_LEFT, _RIGHT, _TOP, _HALF, _STRIP = 150, 664, 26, 74, 26
# ROC chart: side, and left and top of the axes.
_ROC_SIZE, _ROC_LEFT, _ROC_TOP = 300, 56, 16
# Class of each outcome in the style sheet.
CLASSES: dict[Outcome, str] = {"good": "good", "look again": "look", "defective": "bad"}


class Bar(NamedTuple):
    """A bin of a histogram: its box and the number of images."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    n_images: int


class Strip(NamedTuple):
    """The scores of one kind of image as strokes, with the number of correct labels at the calibrated threshold."""

    kind: str
    name: str
    y: float
    strokes: tuple[float, ...]
    n_correct: int
    n: int


class ScoreChart(NamedTuple):
    """Histograms of good scores (upwards) and defective scores (downwards), and a strip for each kind of image."""

    n_good: int
    n_defective: int
    bars: tuple[Bar, ...]
    strips: tuple[Strip, ...]
    ticks: tuple[tuple[str, float], ...]
    threshold: str
    threshold_x: float
    bottom: float
    upper: str = ""
    upper_x: float = 0.0
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP
    half: float = _HALF


class RocChart(NamedTuple):
    """An ROC curve with the operating point and the false positive rate that was asked for."""

    points: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[str, float, float], ...]
    operating_point: tuple[float, float]
    operating_xy: tuple[float, float]
    asked_x: float
    left: float = _ROC_LEFT
    top: float = _ROC_TOP
    right: float = _ROC_LEFT + _ROC_SIZE
    bottom: float = _ROC_TOP + _ROC_SIZE


class Gauge(NamedTuple):
    """A score on a scale with its threshold in the middle; `arrow` is a polygon where the score is off the scale."""

    kind: str
    score: str
    threshold: str
    x: float
    label_x: float
    upper: str
    upper_x: float
    arrow: tuple[tuple[float, float], ...] = ()


def score_chart(
    groups: Sequence[tuple[str, Sequence[float]]], threshold: float, upper_threshold: float | None = None
) -> ScoreChart | None:
    """Return the histogram and strips of image scores, or None if there are no finite scores.

    No bin spans the threshold: bars right of its line are images above it.

    Args:
        groups: name and scores of each kind of image; "good" or the name of a defect type.
        threshold: the image threshold.
        upper_threshold: the end of "look again"; marked where it lies among the scores.
    """
    finite = [(name, np.sort(np.asarray([s for s in scores if math.isfinite(s)]))) for name, scores in groups]
    finite = [(name, scores) for name, scores in finite if len(scores)]
    if not finite or not math.isfinite(threshold):
        return None
    everything = np.concatenate([scores for _, scores in finite])
    low, high = min(float(everything.min()), threshold), max(float(everything.max()), threshold)
    pad = 0.03 * (high - low) or max(abs(low), 1.0) * 0.1
    limits = low - pad, high + pad
    good = np.concatenate([scores for name, scores in finite if name == "good"] or [np.empty(0)])
    bad = np.concatenate([scores for name, scores in finite if name != "good"] or [np.empty(0)])
    first = _TOP + 2 * _HALF + 8
    shown = upper_threshold is not None and threshold < upper_threshold < limits[1]
    return ScoreChart(
        n_good=len(good),
        n_defective=len(bad),
        bars=_bars(good, bad, threshold, limits),
        strips=tuple(
            _strip(name, scores, threshold, limits, first + _STRIP * (i + 0.5))
            for i, (name, scores) in enumerate(finite)
        ),
        ticks=tuple((short_number(tick), _x(tick, limits)) for tick in nice_ticks(*limits)),
        threshold=short_number(threshold),
        threshold_x=_x(threshold, limits),
        bottom=first + _STRIP * len(finite),
        upper=short_number(upper_threshold) if upper_threshold is not None and shown else "",
        upper_x=_x(upper_threshold, limits) if upper_threshold is not None and shown else 0.0,
    )


def roc_chart(curve: Curve, operating_point: tuple[float, float], false_positive_rate_set: float) -> RocChart:
    """Return the ROC curve with its operating point.

    Args:
        curve: x the false positive rate, y the true positive rate.
        operating_point: (false positive rate, true positive rate) at the calibrated threshold.
        false_positive_rate_set: the rate that was asked for.
    """

    def xy(x: float, y: float) -> tuple[float, float]:
        return round(_ROC_LEFT + _ROC_SIZE * x, 1), round(_ROC_TOP + _ROC_SIZE * (1 - y), 1)

    return RocChart(
        points=_simplified([xy(*point) for point in zip(curve.x.tolist(), curve.y.tolist(), strict=True)]),
        ticks=tuple((f"{100 * share:g}", *xy(share, share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
        operating_point=operating_point,
        operating_xy=xy(*operating_point),
        asked_x=xy(min(max(false_positive_rate_set, 0.0), 1.0), 0.0)[0],
    )


def gauge(score: float, threshold: float, upper_threshold: float | None = None) -> Gauge | None:
    """Return the gauge of one image's score (`gauge_position`), or None if a number is not finite."""
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return None
    position = gauge_position(score, threshold, upper_threshold)
    x = 10 + 280 * position
    arrow: tuple[tuple[float, float], ...] = ()
    if not 0 < position < 1:
        away = 1 if position else -1
        arrow = ((x + 9 * away, 30), (x - 6 * away, 22), (x - 6 * away, 38))
    label = short_number(score)
    half = 4 * len(f"score {label}")
    kind = CLASSES[outcome_of(score > threshold, score, upper_threshold)]
    label_x = round(min(max(x, half), 300 - half), 1)
    upper, upper_x = "", 150.0
    if upper_threshold is not None and upper_threshold > threshold:
        upper = short_number(upper_threshold)
        upper_x = round(10 + 280 * gauge_position(upper_threshold, threshold, upper_threshold), 1)
    return Gauge(kind, label, short_number(threshold), round(x, 1), label_x, upper, upper_x, arrow)


def _x(value: float, limits: tuple[float, float]) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * (value - limits[0]) / (limits[1] - limits[0]), 1)


def _bars(good: Float64, bad: Float64, threshold: float, limits: tuple[float, float]) -> tuple[Bar, ...]:
    """Return the bars of both histograms; a bin holds its right edge, since the threshold itself is good."""
    n_bins = int(np.clip(2 * math.sqrt(len(good) + len(bad)), 12, 48))
    step = (limits[1] - limits[0]) / n_bins
    bins = [np.unique(np.ceil((scores - threshold) / step).astype(int), return_counts=True) for scores in (good, bad)]
    highest = max(int(counts.max()) if len(counts) else 0 for _, counts in bins)
    axis, bars = _TOP + _HALF, []
    for kind, (places, counts) in zip(("good", "bad"), bins, strict=True):
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            left = max(_x(threshold + (place - 1) * step, limits), _LEFT)
            right = min(_x(threshold + place * step, limits), _RIGHT)
            height = round(max(2.0, (_HALF - 6) * count / highest), 1)
            y = round(axis - height, 1) if kind == "good" else axis
            bars.append(Bar(kind, round(left + 0.75, 2), y, round(max(right - left - 1.5, 1), 1), height, count))
    return tuple(bars)


def _strip(name: str, scores: Float64, threshold: float, limits: tuple[float, float], y: float) -> Strip:
    kind = "good" if name == "good" else "bad"
    n_correct = int((scores <= threshold).sum() if kind == "good" else (scores > threshold).sum())
    shown = name if len(name) <= 17 else f"{name[:8]}…{name[-8:]}"  # the width of the margin
    # Strokes within a third of a pixel look like one.
    strokes = sorted({round(round(3 * _x(score, limits)) / 3, 1) for score in scores.tolist()})
    return Strip(kind, shown, y, tuple(strokes), n_correct, len(scores))


def _simplified(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the polyline without repeated points and without points on a horizontal or vertical run."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and any(kept[-2][axis] == kept[-1][axis] == point[axis] for axis in (0, 1)):
            kept.pop()
        kept.append(point)
    return tuple(kept)
