"""The content of a report as data without markup: records, rows of numbers, sentences, and chart coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.evaluation.report.charts import CLASSES, RocChart, ScoreChart, roc_chart, score_chart
from blemish.evaluation.report.figures import Figure, grouped, kind_of
from blemish.evaluation.report.text import (
    METRICS,
    TIMINGS,
    caution,
    counts,
    headline,
    look_again,
    measure,
    missed_caution,
    observed,
    reason_absent,
    three_decimals,
    wilson_interval,
)
from blemish.imaging.drift import drift_of_most
from blemish.metrics.classification import roc_curve
from blemish.visualization.overlays import colour_bar
from blemish.visualization.primitives import short_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blemish.types import Report, Tested

# Names under which these may come with the metrics; the report counts them from the images.
_RATES = {"false_positive_rate", "miss_rate", "n", "n_images"}
# The columns by kind of defect and of the overview: as many as fit the width of the page.
_BY_DEFECT = ("image_AUROC", "pixel_AUROC", "AUPRO", "AUPRO_0.05")
_COMPARED = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max", "AUPRO", "AUPRO_0.05")


class Value(NamedTuple):
    """A number as shown: its text (None is a dash), the total that a count belongs to, and a remark below."""

    text: str | None = None
    of: int | None = None
    note: str = ""


class Row(NamedTuple):
    """A table row or a tile: name and values; `kind` is "good", "bad" or neutral.

    `bar` has the lengths of its parts in percent: defective, and look again.
    """

    name: str
    values: Sequence[Value]
    meaning: str = ""
    interval: str = ""
    kind: str = ""
    bar: tuple[int, int] = (0, 0)


class Table(NamedTuple):
    """Column titles and rows; the first column holds the names of the rows."""

    columns: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Category:
    """The content of one category's section."""

    report: Report
    headline: str
    caution: str
    tiles: Sequence[Row]
    scores: ScoreChart | None
    roc: RocChart | None
    metrics: Sequence[Row]
    defects: Table
    figures: Sequence[tuple[str, str, Sequence[Figure]]]
    timings: Sequence[tuple[str, str]]
    images: Sequence[Tested]


def report_context(
    reports: Sequence[Report], *, figures: Mapping[str, Sequence[Figure]], max_images_listed: int
) -> dict[str, Any]:
    """Return the variables of the template `report.html.j2` that depend on the reports.

    Args:
        reports: one per category.
        figures: images to show by category.
        max_images_listed: rows of a category's list of images.
    """
    return {
        "overview": _overview(reports) if len(reports) > 1 else None,
        "categories": [_category(report, figures.get(report.category, ()), max_images_listed) for report in reports],
        "heat_colours": colour_bar(13)[0].tolist(),
        "classes": CLASSES,
    }


def _overview(reports: Sequence[Report]) -> Table:
    """Return the table of all categories, the totals and averages last."""
    names = [name for name in _COMPARED if any(name in report.metrics for report in reports)]
    rows = []
    for report in reports:
        n_defective, n_found, n_good, n_alarms = counts(report)
        values = [_count(n_found, n_defective), _count(n_alarms, n_good), *(_metric(report, name) for name in names)]
        rows.append(Row(report.category, values))
    n_defective, n_found, n_good, n_alarms = np.sum([counts(report) for report in reports], axis=0).tolist()
    values = [_count(n_found, n_defective), _count(n_alarms, n_good)]
    for name in names:
        present = [report.metrics[name] for report in reports if name in report.metrics]
        note = f"mean of {len(present)}" if len(present) < len(reports) else ""
        values.append(_number(float(np.mean(present)), note))
    rows.append(Row("All, average", values))
    return Table(("Category", "Found", "False positives", *(METRICS[name][0] for name in names)), rows)


def _cautions(report: Report) -> str:
    drift = drift_of_most([result.drift for result in report.tested])
    return " ".join(filter(None, (caution(report), missed_caution(report), drift)))


def _category(report: Report, figures: Sequence[Figure], max_images_listed: int) -> Category:
    scores, roc = _charts(report)
    return Category(
        report=report,
        headline=headline(report),
        caution=_cautions(report),
        tiles=_tiles(report),
        scores=scores,
        roc=roc,
        metrics=[*_rates(report), *_metrics(report)],
        defects=_defects(report),
        figures=grouped(report, figures),
        timings=_timings(report),
        images=sorted(report.tested, key=lambda t: (kind_of(t) == "close call", -t.score))[:max_images_listed],
    )


def _count(n_hits: int, n: int, note: str = "") -> Value:
    return Value(str(n_hits), of=n, note=note) if n else Value()


def _number(value: float | None, note: str = "") -> Value:
    return Value(None if value is None or math.isnan(value) else three_decimals(value), note=note)


def _metric(report: Report, name: str) -> Value:
    value = _number(report.metrics.get(name))
    return value if value.text else Value(note=reason_absent(report, name))


def _interval(report: Report, name: str) -> str:
    return " to ".join(map(three_decimals, report.intervals.get(name, ())))


def _tiles(report: Report) -> list[Row]:
    n_defective, n_found, n_good, n_alarms = counts(report)
    notes = [f"{n} look again" if n else "" for n in look_again(report)]
    tiles = []
    if n_defective:
        kind = "bad" if n_found < n_defective else "good"
        tiles.append(Row("defects found", [_count(n_found, n_defective, notes[0])], kind=kind))
    if n_good:
        kind = "bad" if n_alarms > report.false_positive_rate_set * n_good else "good"
        tiles.append(Row("false positives", [_count(n_alarms, n_good, notes[1])], kind=kind))
    names = [name for name in ("image_AUROC", "AUPRO") if name in report.metrics]
    return tiles + [Row(METRICS[name][0], [_metric(report, name)], "", _interval(report, name)) for name in names]


def _charts(report: Report) -> tuple[ScoreChart | None, RocChart | None]:
    """Return the score chart, and the ROC curve if there are good and defective images."""
    groups: dict[str, list[float]] = {}
    for result in sorted(report.tested, key=lambda t: (t.sample.is_defective, t.sample.defect)):
        groups.setdefault(result.sample.defect, []).append(result.score)
    scores = score_chart(list(groups.items()), report.threshold, report.upper_threshold)
    n_defective, n_found, n_good, n_alarms = counts(report)
    if scores is None or not n_defective or not n_good:
        return scores, None
    curve = roc_curve([t.score for t in report.tested], [t.sample.is_defective for t in report.tested])
    return scores, roc_chart(curve, (n_alarms / n_good, n_found / n_defective), report.false_positive_rate_set)


def _rates(report: Report) -> list[Row]:
    """Return the rows of the miss rate and the false positive rate at the calibrated threshold."""
    n_defective, n_found, n_good, n_alarms = counts(report)
    rates = (
        ("Miss rate", n_defective - n_found, n_defective, "no defective images"),
        ("False positive rate", n_alarms, n_good, "no good images"),
    )
    rows = []
    for name, n_hits, n, reason in rates:
        low, high = wilson_interval(n_hits, n)
        value = Value(observed(n_hits / n)) if n else Value(note=reason)
        interval = f"{100 * low:.1f} to {observed(high)}" if n else ""
        rows.append(Row(name, [value], "at the calibrated threshold", interval))
    return rows


def _metrics(report: Report) -> list[Row]:
    """Return a row for each metric; absent metrics have the reason."""
    others = {name: (name, "") for name in sorted(set(report.metrics) - set(METRICS) - _RATES)}
    return [
        Row(title, [_metric(report, name)], meaning, _interval(report, name))
        for name, (title, meaning) in {**METRICS, **others}.items()
    ]


def _defects(report: Report) -> Table:
    """Return the table with a row for each kind of image, good images first."""
    kinds = sorted({t.sample.defect for t in report.tested}, key=lambda kind: (kind != "good", kind))
    used = {name for values in report.by_defect.values() for name in values} - _RATES
    names = [name for name in _BY_DEFECT if name in used] + sorted(used - set(METRICS))
    rows = []
    for kind in kinds:
        results = [t for t in report.tested if t.sample.defect == kind]
        outcomes, n = [report.outcome(t) for t in results], len(results)
        n_called, n_again = outcomes.count("defective"), outcomes.count("look again")
        scores = [t.score for t in results]
        limits = (min(scores), float(np.median(scores)), max(scores))
        again = [] if report.upper_threshold is None else [_count(n_again, n)]
        values = [_count(n_called, n), *again, *(Value(short_number(limit)) for limit in limits)]
        values += [_number(report.by_defect.get(kind, {}).get(name)) for name in names]
        rows.append(Row(kind, values, bar=(round(100 * n_called / n), round(100 * n_again / n))))
    titles = (METRICS.get(name, (name, ""))[0] for name in names)
    called = ("Called defective",) if report.upper_threshold is None else ("Called defective", "Look again")
    return Table(("Kind", *called, "Lowest score", "Median", "Highest", *titles), rows)


def _timings(report: Report) -> list[tuple[str, str]]:
    names = [name for name in TIMINGS if name in report.timings]
    names += [name for name in report.timings if name not in TIMINGS]
    rows = [(TIMINGS.get(name, name), measure(name, report.timings[name])) for name in names]
    predict_ms = [1000 * t.predict_s for t in report.tested]
    if predict_ms and "predict_ms" not in report.timings:
        rows.append((TIMINGS["predict_ms"], f"{measure('_ms', float(np.median(predict_ms)))} (median)"))
    if len(predict_ms) >= 20:
        rows.append(("19 of 20 within", measure("_ms", float(np.quantile(predict_ms, 0.95)))))
    return rows
