"""Tables, CSV files and figures of test reports."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import Engine, Folder, Patchcore
from blemish import types as records
from blemish.evaluation.results import (
    COLUMNS,
    figures_of,
    load_nearest_good,
    numbers_csv,
    numbers_with_average,
    scores_csv,
    table,
    write_html,
)
from blemish.types import GoodPatch, Report, Sample
from tests.images import good, scratched, write, write_goods

if TYPE_CHECKING:
    from blemish.evaluation.report import Figure


@pytest.fixture(scope="module")
def report(fitted: Patchcore, tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("data")
    write_goods(root / "train", 3)
    for i in range(5):
        write(root / "fine" / f"{i}.png", good(100 + i))
        write(root / "scratch" / f"{i}.png", scratched(200 + i)[0])
        write(root / "masks" / f"{i}.png", scratched(200 + i)[1])
    data = Folder(
        name="stripes",
        normal_dir=root / "train",
        normal_test_dir=root / "fine",
        abnormal_dir=root / "scratch",
        mask_dir=root / "masks",
    )
    return Engine().evaluate(fitted, data)


def with_labels(report: Report, label: bool) -> Report:
    """The report of a detector with one label for all images."""
    import dataclasses

    tested = tuple(dataclasses.replace(result, label=label) for result in report.tested)
    return dataclasses.replace(report, tested=tested)


def test_the_table_has_a_row_for_each_category_and_the_average():
    lines = table({"grid": {"image_AUROC": 0.5}, "magnetic tile": {"image_AUROC": 1.0, "AUPRO": 0.25}})
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["grid", "0.500", *["-"] * 6]
    assert lines[2].split() == ["magnetic", "tile", "1.000", "-", "0.250", *["-"] * 4]
    assert len({len(line) for line in lines}) == 1


def test_one_category_has_no_average(report: Report):
    assert list(numbers_with_average([report])) == ["stripes"]
    assert list(numbers_with_average([report, report])) == ["stripes", "average"]


def test_csv_quotes_commas_and_quotes(tmp_path: Path):
    sample = Sample(path=tmp_path / 'a, "b".png', defect="scratch")
    tested = records.Tested(sample, 2.5, True, 0.01, 0.02)
    report = Report(
        category="x,y", metrics={}, by_defect={}, intervals={}, threshold=1.5, false_positive_rate_set=0.01,
        tested=(tested,), problems=(), timings={},
    )  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(scores_csv([report])))
    assert row["path"] == str(sample.path)
    assert (row["category"], row["defect"], row["label"]) == ("x,y", "scratch", "1")
    assert (float(row["score"]), float(row["threshold"]), float(row["predict_ms"])) == (2.5, 1.5, 20)


def test_absent_numbers_are_empty_in_csv():
    rows = list(csv.DictReader(io.StringIO(numbers_csv({"a": {"x": 1.0}, "b": {"y": 2.0}}))))
    assert rows == [{"category": "a", "x": "1.0", "y": ""}, {"category": "b", "x": "", "y": "2.0"}]


def kinds(figures: list[Figure]) -> list[str]:
    return [figure.kind for figure in figures]


@pytest.mark.slow
def test_close_calls_are_shown_only_without_errors(fitted: Patchcore, report: Report):
    all_called, none_called = with_labels(report, True), with_labels(report, False)
    assert kinds(figures_of(fitted, all_called)) == ["close call"] * 3 + ["false positive"] * 3
    assert kinds(figures_of(fitted, none_called)) == ["miss"] * 3 + ["close call"] * 3


@pytest.mark.slow
def test_figures_show_the_nearest_good_patch(fitted: Patchcore, report: Report):
    figure = figures_of(fitted, with_labels(report, False))[0]
    assert [panel.caption for panel in figure.image][-1].lower().startswith(("nearest", "good", "closest"))


def test_the_image_of_the_nearest_good_patch_is_loaded_if_it_exists(good_paths: list[Path], tmp_path: Path):
    sha256 = hashlib.sha256(good_paths[0].read_bytes()).hexdigest()
    image = load_nearest_good(GoodPatch(str(good_paths[0]), (0, 0, 8, 8), 1.0, sha256), None)
    assert load_nearest_good(GoodPatch(str(good_paths[0]), (0, 0, 8, 8), 1.0), None) is None
    assert load_nearest_good(GoodPatch(str(good_paths[1]), (0, 0, 8, 8), 1.0, sha256), None) is None
    assert image is not None
    np.testing.assert_array_equal(image, good(0))
    assert load_nearest_good(GoodPatch(str(tmp_path / "gone.png"), (0, 0, 8, 8), 1.0), None) is None
    assert load_nearest_good(GoodPatch("array 3", (0, 0, 8, 8), 1.0), None) is None
    assert load_nearest_good(None, None) is None


@pytest.mark.slow
def test_the_page_has_the_provenance(fitted: Patchcore, report: Report, tmp_path: Path):
    page = write_html(tmp_path / "r.html", [fitted], [report]).read_text()
    assert "stripes" in page
    assert str(fitted.fitted.provenance["backbone_sha256"]) in page
