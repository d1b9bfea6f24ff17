"""The HTML report: one file that needs no network, for whoever decides whether the detector is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blemish._io.files import atomic_write
from blemish.evaluation.report.figures import (
    Closest,
    Figure,
    Kind,
    Worst,
    closest,
    figures_html,
    heat_gradient,
    kind_of,
    worst,
)
from blemish.evaluation.report.markup import (
    DASH,
    NO_BREAK,
    absent,
    cell,
    definitions,
    escaped,
    file_name,
    interval,
    metric,
    number,
    out_of,
    row,
    table,
)
from blemish.evaluation.report.style import STYLE
from blemish.evaluation.report.text import (
    METRICS,
    TIMINGS,
    caution,
    counts,
    headline,
    measure,
    observed,
    reason_absent,
    wilson_interval,
)
from blemish.metrics.classification import roc_curve
from blemish.visualization.charts import roc_chart, score_chart
from blemish.visualization.drawing import short_number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from blemish.types import Report

__all__ = ["Closest", "Figure", "Kind", "Worst", "closest", "kind_of", "report_html", "worst", "write_report"]

# Even text that slipped through the escaping could load nothing and run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_IMAGES_LISTED = 5000
# Names under which these may come with the metrics; they are counted from the images here.
_RATES = {"false_positive_rate", "miss_rate", "n", "n_images"}
_LIMITS = "number limits"
# The columns per kind of defect and of the overview: as many as a page is wide.
_BY_DEFECT = ("image_AUROC", "pixel_AUROC", "AUPRO", "AUPRO_0.05")
_COMPARED = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max", "AUPRO", "AUPRO_0.05")


def report_html(
    reports: Sequence[Report],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    title: str = "Test report",
    provenance: Mapping[str, str] | None = None,
) -> str:
    """Return the report on one or several categories as one HTML page that loads nothing from anywhere.

    Args:
        reports: one per category.
        figures: category to images that are worth a look, such as those that `worst` and `closest` name.
        title: the page's heading.
        provenance: what the figures were made with: version, seed, backbone, data set, ...
    """
    sections = [_overview(reports)] if len(reports) > 1 else []
    for i, report in enumerate(reports):
        sections.append(_category(report, f"category-{i}", (figures or {}).get(report.category, ())))
    if not reports:
        sections.append('<section class="card"><p class="headline">No category was tested.</p></section>')
    if provenance:
        sections.append(f'<section class="card"><h2>How this was made</h2>{definitions(provenance.items())}</section>')
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title><style>{STYLE}</style></head>
<body>{heat_gradient()}<main><header><h1>{escaped(title)}</h1>
<p class="quiet">Thresholds come from good training images alone; no test image had a part in them.
Metrics are computed on raw scores.</p></header>
{"".join(sections)}
</main></body></html>
"""


def write_report(
    path: str | os.PathLike[str],
    reports: Sequence[Report],
    *,
    figures: Mapping[str, Sequence[Figure]] | None = None,
    title: str = "Test report",
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Write `report_html` to a file, which is the old one or the new one at every moment, and return its path.

    Raises:
        SaveError: if it can't be written.
    """
    page = report_html(reports, figures=figures, title=title, provenance=provenance)
    # A file name that is not UTF-8 has half surrogates, which no encoding takes.
    return atomic_write(path, page.encode("utf-8", "backslashreplace"), name="report")


def _overview(reports: Sequence[Report]) -> str:
    """Return the table of all categories with their average."""
    names = [name for name in _COMPARED if any(name in report.metrics for report in reports)]
    rows = []
    for i, report in enumerate(reports):
        n_defective, n_found, n_good, n_alarms = counts(report)
        cells = [cell(f'<a href="#category-{i}">{escaped(report.category)}</a>', "name")]
        cells += [number(out_of(n_found, n_defective)), number(out_of(n_alarms, n_good))]
        cells += [number(metric(report.metrics.get(name), reason_absent(report, name))) for name in names]
        rows.append(row(cells))
    totals = np.sum([counts(report) for report in reports], axis=0).tolist()
    cells = [cell("All, average", "name"), number(out_of(totals[1], totals[0])), number(out_of(totals[3], totals[2]))]
    for name in names:
        values = [report.metrics[name] for report in reports if name in report.metrics]
        partly = f'<br><span class="why">mean of {len(values)}</span>' if len(values) < len(reports) else ""
        cells.append(number(metric(float(np.mean(values))) + partly))
    rows.append(row(cells, "sum"))
    heads = ["Category", "Found", "False positives", *(METRICS[name][0] for name in names)]
    return (
        f'<section class="card"><h2>{len(reports)} categories</h2>{table(heads, rows, range(1, len(heads)))}</section>'
    )


def _category(report: Report, anchor: str, figures: Sequence[Figure]) -> str:
    """Return the card of one category."""
    remark = caution(report)
    parts = [
        f'<section class="card" id="{anchor}"><h2>{escaped(report.category)}</h2>',
        f'<p class="headline">{escaped(headline(report))}</p>',
        f'<p class="quiet">{escaped(remark)}</p>' if remark else "",
        _tiles(report) if report.tested else "",
        _charts(report),
        _metrics(report) if report.tested else "",
        _defects(report) if report.tested else "",
        figures_html(report, figures),
        _problems(report),
        _times(report),
        _images(report) if report.tested else "",
        "</section>",
    ]
    return "".join(parts)


def _tiles(report: Report) -> str:
    n_defective, n_found, n_good, n_alarms = counts(report)
    tiles = []
    if n_defective:
        tiles.append(("bad" if n_found < n_defective else "good", out_of(n_found, n_defective), "defects found"))
    if n_good:
        too_many = n_alarms > report.false_positive_rate_set * n_good
        tiles.append(("bad" if too_many else "good", out_of(n_alarms, n_good), "false positives"))
    for name in ("image_AUROC", "AUPRO"):
        if name in report.metrics:
            low_high = report.intervals.get(name)
            limits = f"<br>95{NO_BREAK}%: {interval(*low_high)}" if low_high else ""
            tiles.append(("", metric(report.metrics[name]), METRICS[name][0] + limits))
    shown = (f'<div class="tile {kind}"><b>{value}</b><span>{name}</span></div>' for kind, value, name in tiles)
    return f'<div class="tiles">{"".join(shown)}</div>'


def _charts(report: Report) -> str:
    """Return the histogram, and the ROC curve where there are both kinds of images."""
    groups: dict[str, list[float]] = {}
    for result in sorted(report.tested, key=lambda t: (t.sample.is_defective, t.sample.defect)):
        groups.setdefault(result.sample.defect, []).append(result.score)
    histogram = score_chart(list(groups.items()), report.threshold)
    if not histogram:
        return ""
    n_defective, n_found, n_good, n_alarms = counts(report)
    roc = ""
    if n_defective and n_good:
        curve = roc_curve([t.score for t in report.tested], [t.sample.is_defective for t in report.tested])
        point = (n_alarms / n_good, n_found / n_defective)
        note = (
            '<p class="why">Each point is one threshold. The dot is the calibrated one, the dashed line the '
            "false positive rate that was asked for.</p>"
        )
        chart = roc_chart(curve, point, report.false_positive_rate_set)
        roc = f"<div><h3>ROC curve</h3>{chart}{note}</div>"
    note = '<p class="why">What stands right of the line is called defective.</p>'
    scores = f'<div><h3>Scores of all images</h3><div class="scroll">{histogram}</div>{note}</div>'
    return f'<div class="charts">{scores}{roc}</div>'


def _metrics(report: Report) -> str:
    """Return the table of rates at the threshold and of metrics, those that are absent with the reason why."""
    n_defective, n_found, n_good, n_alarms = counts(report)
    rows = []
    rates = [("Miss rate", n_defective - n_found, n_defective, "no defective images")]
    rates.append(("False positive rate", n_alarms, n_good, "no good images"))
    for name, n_hits, n, reason in rates:
        low, high = wilson_interval(n_hits, n)
        limits = f"{100 * low:.1f} to {observed(high)}" if n else DASH
        value = observed(n_hits / n) if n else absent(reason)
        rows.append(row([_explained(name, "at the calibrated threshold"), number(value), cell(limits, _LIMITS)]))
    others = sorted(set(report.metrics) - set(METRICS) - _RATES)
    for name in (*METRICS, *others):
        low_high = report.intervals.get(name)
        value = metric(report.metrics.get(name), reason_absent(report, name))
        limits = interval(*low_high) if low_high else DASH
        rows.append(row([_explained(*METRICS.get(name, (name, ""))), number(value), cell(limits, _LIMITS)]))
    heads = ["Metric", "Value", f"95{NO_BREAK}% interval"]
    note = (
        '<p class="why">Intervals: Wilson for rates, bootstrap over images for image metrics, none for pixel '
        "metrics. The bootstrap of a perfect score has no spread, which does not make it certain.</p>"
    )
    return f"<h3>Metrics</h3>{table(heads, rows, range(1, 3))}{note if report.intervals else ''}"


def _defects(report: Report) -> str:
    """Return the table with a row per kind of image, good ones first."""
    kinds = sorted({t.sample.defect for t in report.tested}, key=lambda kind: (kind != "good", kind))
    used = {name for values in report.by_defect.values() for name in values} - _RATES
    names = [name for name in _BY_DEFECT if name in used] + sorted(used - set(METRICS))
    rows = []
    for kind in kinds:
        results = [t for t in report.tested if t.sample.defect == kind]
        n_called = sum(t.label for t in results)
        scores = [t.score for t in results]
        values = report.by_defect.get(kind, {})
        bar = f'<span class="bar"><i style="width:{100 * n_called / len(results):.0f}%"></i></span>'
        cells = [cell(escaped(kind), "name"), number(out_of(n_called, len(results)) + bar)]
        cells += [number(short_number(value)) for value in (min(scores), float(np.median(scores)), max(scores))]
        cells += [number(metric(values.get(name), "")) for name in names]
        rows.append(row(cells))
    heads = ["Kind", "Called defective", "Lowest score", "Median", "Highest"]
    heads += [escaped(METRICS.get(name, (name,))[0]) for name in names]
    return f"<h3>By kind of defect</h3>{table(heads, rows, range(1, len(heads)))}"


def _problems(report: Report) -> str:
    if not report.problems:
        return ""
    lines = [
        f"<li><b>{file_name(problem.path)}</b> "
        f'<span class="why">{escaped(problem.kind)}</span><br>{escaped(problem.text)}</li>'
        for problem in report.problems
    ]
    body = f'<ul class="problems">{"".join(lines)}</ul>'
    if len(lines) > 10:
        body = f"<details><summary>Show all {len(lines)}</summary>{body}</details>"
    return f"<h3>Left out or doubtful ({len(lines)})</h3>{body}"


def _times(report: Report) -> str:
    names = [name for name in TIMINGS if name in report.timings]
    names += [name for name in report.timings if name not in TIMINGS]
    shown = [(TIMINGS.get(name, name), measure(name, report.timings[name])) for name in names]
    each = sorted(1000 * t.predict_s for t in report.tested)
    if each and "predict_ms" not in report.timings:
        shown.append((TIMINGS["predict_ms"], f"{measure('_ms', float(np.median(each)))} (median)"))
    if len(each) >= 20:
        shown.append(("19 of 20 within", measure("_ms", float(np.quantile(each, 0.95)))))
    return f"<h3>Counts and times</h3>{definitions(shown)}" if shown else ""


def _images(report: Report) -> str:
    """Return the list of all images, folded away: wrong ones first, then by score."""
    ordered = sorted(report.tested, key=lambda t: (t.label == t.sample.is_defective, -t.score))
    rows = []
    for result in ordered[:_IMAGES_LISTED]:
        wrong = result.label != result.sample.is_defective
        verdict = ("missed" if result.sample.is_defective else "false positive") if wrong else ""
        cells = [
            cell(f"{file_name(result.sample.path)}", "name"),
            cell(escaped(result.sample.defect)),
            number(short_number(result.score)),
            number(f"{result.p_value:.2g}"),
            cell("defective" if result.label else "good"),
            cell(f'<span class="pill bad">{verdict}</span>' if verdict else ""),
        ]
        rows.append(row(cells))
    body = table(["Image", "Kind", "Score", "p", "Called", ""], rows, range(2, 4))
    left_out = len(ordered) - len(rows)
    more = f'<p class="why">{left_out} more were left out here.</p>' if left_out else ""
    title = f"All {len(ordered)} images with their scores" if len(ordered) > 1 else "The image with its score"
    return f"<details><summary>{title}</summary>{body}{more}</details>"


def _explained(title: str, meaning: str) -> str:
    why = f' <span class="why">{escaped(meaning)}</span>' if meaning else ""
    return cell(f"<b>{escaped(title)}</b>{why}", "explained")
