"""Tables, CSV files and the HTML report of tested detectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blemish._io.files import atomic_write, known_file
from blemish._io.text import csv_text
from blemish._version import __version__
from blemish.errors import ImageError
from blemish.evaluation.engine import average, load_defect_mask
from blemish.evaluation.report import Figure, closest, kind_of, worst, write_report
from blemish.imaging.decode import load
from blemish.types import GoodPatch, Problem, Report, Tested, UInt8
from blemish.visualization import panels

if TYPE_CHECKING:
    from blemish.detectors.predictor import Predictor

COLUMNS = ("image_AUROC", "pixel_AUROC", "AUPRO", "false_positive_rate", "miss_rate", "fit_s", "predict_ms")
# Panels of the report: wide enough for a phone, and a third of the bytes of a figure's.
_PANEL_PX = 288


def numbers(report: Report) -> dict[str, float]:
    """Return a report's metrics and timings by name."""
    return {**report.metrics, **report.timings}


def numbers_with_average(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """Return the metrics and timings of each category, and of the "average" if there are several."""
    rows = {report.category: numbers(report) for report in reports}
    return {**rows, "average": average(reports)} if len(reports) > 1 else rows


def table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of a text table of `COLUMNS`, one row per category."""
    width = max(len(name) for name in rows)
    cell = max(map(len, COLUMNS))
    lines = [" " * width + "  " + "  ".join(f"{column:>{cell}}" for column in COLUMNS)]
    for name, row in rows.items():
        cells = [f"{row[column]:{cell}.3f}" if column in row else f"{'-':>{cell}}" for column in COLUMNS]
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    return lines


def numbers_csv(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a CSV table of all metrics and timings, one row per category; absent values are empty."""
    columns = sorted({name for row in rows.values() for name in row})
    return csv_text(["category", *columns], ([name, *(row.get(c, "") for c in columns)] for name, row in rows.items()))


def scores_csv(reports: Iterable[Report]) -> str:
    """Return a CSV table of scores, one row per test image; of one that was not read, path and outcome alone."""
    head = ["category", "path", "defect", "score", "threshold", "label", "outcome", "p_value", "predict_ms"]
    return csv_text(head, (cells for report in reports for cells in _rows(report)))


def problem_fields(problems: Iterable[Problem]) -> list[dict[str, str]]:
    """Return problems of images and masks that were left out as JSON values."""
    return [{"path": str(problem.path), "kind": problem.kind, "text": problem.text} for problem in problems]


def training_overlap(model: Predictor, report: Report) -> str | None:
    """Return a warning if test images were training images of the model, as far as their paths tell; else None."""
    training = {os.path.realpath(entry["path"]) for entry in model.header().get("training", ())}
    n_known = sum(os.path.realpath(tested.sample.path) in training for tested in report.tested)
    if not n_known:
        return None
    return (
        f"{n_known} of the {len(report.tested)} test images were learnt by the model: good ones score lower than new "
        "ones would. Fit on the whole data set, which keeps its test images apart."
    )


def write_text(path: Path, text: str) -> None:
    """Write results atomically."""
    atomic_write(path, text.encode("utf-8", "surrogateescape"), name="results")


def load_nearest_good(nearest: GoodPatch | None, bit_depth: int | None) -> UInt8 | None:
    """Return the training image of a prediction's nearest good patch.

    None if it can't be read any more, or is not the file that the model was fitted on: a stranger's model may name any
    file of this machine, and another folder has other images of the same name.
    """
    path = None if nearest is None else known_file(nearest.path, nearest.sha256, root=nearest.root)
    if path is None:
        return None
    try:
        return load(path, bit_depth=bit_depth)
    except ImageError:
        return None


def figures_of(model: Predictor, report: Report) -> list[Figure]:
    """Return figures of the worst misses and false positives, or of the closest calls where there are none. ImageError
    if a test image can't be read any more.
    """
    wrong, close = worst(report), closest(report)
    shown = (*(wrong.defective or close.defective), *(wrong.good or close.good))
    return [_figure(model, tested) for tested in shown]


def write_html(path: Path, models: Sequence[Predictor], reports: Sequence[Report]) -> Path:
    """Write the HTML report on tested models with figures, and return its path."""
    figures = {report.category: figures_of(model, report) for model, report in zip(models, reports, strict=True)}
    provenance = {name: str(value) for name, value in models[0].header()["provenance"].items()}
    return write_report(path, reports, figures=figures, provenance={"Blemish": __version__, **provenance})


def _figure(model: Predictor, tested: Tested) -> Figure:
    image = load(tested.sample.path, bit_depth=model.bit_depth)
    mask = load_defect_mask(tested.sample, (image.shape[0], image.shape[1]))
    prediction = model.predict(image)
    shown = panels(
        image,
        prediction,
        mask=None if isinstance(mask, Problem) else mask,
        good_image=load_nearest_good(prediction.nearest_good, model.bit_depth),
        size_px=_PANEL_PX,
    )
    return Figure(kind_of(tested), tested.sample.path.name, shown, tested)


def _rows(report: Report) -> Iterator[tuple[object, ...]]:
    for tested in report.tested:
        yield _score_cells(report, tested)
    for problem in report.problems:
        if problem.kind == "unreadable":
            yield report.category, problem.path, "", "", report.threshold, "", "not read", "", ""


def _score_cells(report: Report, tested: Tested) -> tuple[object, ...]:
    sample, outcome = tested.sample, report.outcome(tested)
    decision = (tested.score, report.threshold, int(tested.label), outcome, tested.p_value)
    return report.category, sample.path, sample.defect, *decision, 1000 * tested.predict_s
