"""What is shown and written of test reports: the table, the CSV files, the figures and the HTML page."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING

from blemish._io.files import atomic_write
from blemish._version import __version__
from blemish.errors import ImageError
from blemish.evaluation.engine import average, mask_of
from blemish.evaluation.report.page import Figure, closest, kind_of, worst, write_report
from blemish.imaging.decode import load
from blemish.types import Problem
from blemish.visualization.figure import panels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from blemish.detectors.registry import Detector
    from blemish.types import GoodPatch, Report, Tested, UInt8

COLUMNS = ("image_AUROC", "pixel_AUROC", "AUPRO", "false_positive_rate", "miss_rate", "fit_s", "predict_ms")
# Panels of the report: wide enough for a phone and a third of the bytes of a full figure.
_PANEL_PX = 288


def numbers(report: Report) -> dict[str, float]:
    """Return a report's metrics and timings by name."""
    return {**report.metrics, **report.timings}


def with_average(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """Return the numbers of each category, and of the "average" if there are several."""
    rows = {report.category: numbers(report) for report in reports}
    return {**rows, "average": average(reports)} if len(reports) > 1 else rows


def table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of a table: one row per category, the figures that people compare."""
    width = max(len(name) for name in rows)
    cell = max(map(len, COLUMNS))
    lines = [" " * width + "  " + "  ".join(f"{column:>{cell}}" for column in COLUMNS)]
    for name, row in rows.items():
        cells = [f"{row[column]:{cell}.3f}" if column in row else f"{'-':>{cell}}" for column in COLUMNS]
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    return lines


def rows_csv(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return one line per category, every figure that any of them has as a column."""
    columns = sorted({name for row in rows.values() for name in row})
    return _csv(["category", *columns], ([name, *(row.get(c, "") for c in columns)] for name, row in rows.items()))


def scores_csv(reports: Iterable[Report]) -> str:
    """Return one line per test image: what it is, its score, and what it was called."""
    head = ["category", "path", "defect", "score", "threshold", "label", "p_value", "predict_ms"]
    lines = ((report.category, *_cells(one, report.threshold)) for report in reports for one in report.tested)
    return _csv(head, lines)


def learnt_note(model: Detector, report: Report) -> str | None:
    """Return what to tell a user who tests on good images that the model learnt, as far as paths tell; else None."""
    learnt = {os.path.realpath(one["path"]) for one in model.header().get("training", ())}
    n_known = sum(os.path.realpath(one.sample.path) in learnt for one in report.tested)
    if not n_known:
        return None
    return (
        f"{n_known} of the {len(report.tested)} test images were learnt by the model: good ones score lower than new "
        "ones would. Fit on the whole data set, which keeps its test images apart."
    )


def write_text(path: Path, text: str) -> None:
    """Write results; an interrupted write leaves the old file.

    Raises:
        SaveError: if it can't be written.
    """
    atomic_write(path, text.encode("utf-8", "surrogateescape"), name="results")


def compared_with(nearest: GoodPatch | None, bit_depth: int | None) -> UInt8 | None:
    """Return the training image that a prediction was compared with, or None where it is no longer there."""
    if nearest is None:
        return None
    try:
        return load(nearest.path, bit_depth=bit_depth)
    except ImageError:
        return None


def figures_of(model: Detector, report: Report) -> list[Figure]:
    """Return the worst misses and false positives as figures; the closest calls where there was none."""
    wrong, close = worst(report), closest(report)
    shown = (*(wrong.misses or close.found), *(wrong.false_positives or close.good))
    return [_figure(model, tested) for tested in shown]


def write_html(path: Path, models: Sequence[Detector], reports: Sequence[Report]) -> Path:
    """Write the report on models and what testing them said, with figures, and return its path.

    Raises:
        SaveError: if it can't be written.
        ImageError: if a test image is gone since.
    """
    figures = {report.category: figures_of(model, report) for model, report in zip(models, reports, strict=True)}
    provenance = {name: str(value) for name, value in models[0].header()["provenance"].items()}
    return write_report(path, reports, figures=figures, provenance={"Blemish": __version__, **provenance})


def _figure(model: Detector, tested: Tested) -> Figure:
    image = load(tested.sample.path, bit_depth=model.bit_depth)
    mask = mask_of(tested.sample, (image.shape[0], image.shape[1]))
    found = model.predict(image)
    strip = panels(
        image,
        found,
        mask=None if isinstance(mask, Problem) else mask,
        good_image=compared_with(found.nearest_good, model.bit_depth),
        size_px=_PANEL_PX,
    )
    return Figure(kind_of(tested), tested.sample.path.name, strip, tested)


def _cells(tested: Tested, threshold: float) -> tuple[object, ...]:
    sample = tested.sample
    found = tested.score, threshold, int(tested.label), tested.p_value
    return sample.path, sample.defect, *found, 1000 * tested.predict_s


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()
