"""The content of a report: plain numbers and texts, without markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blemish import types as records
from blemish.evaluation.report import Figure
from blemish.evaluation.report.context import Category, Value, report_context
from blemish.types import Problem, Report, Sample
from blemish.visualization import Panel
from tests.visualization.predictions import image_of

HOSTILE = """<img src=x onerror="alert('1')">&"""


def result_of(score: float, defect: str = "good") -> records.Tested:
    return records.Tested(Sample(Path("test") / defect / "0.png", defect=defect), score, score > 20, 0.25, 0.045)


def report_of(*results: records.Tested, **changes: object) -> Report:
    report = Report("bottle", {"image_AUROC": 0.98765}, {}, {"image_AUROC": (0.5, 1.0)}, 20.0, 0.01, results)
    return replace(report, **changes)  # type: ignore[arg-type]


def category_of(report: Report, *figures: Figure) -> Category:
    (category,) = report_context([report], figures={report.category: figures}, max_images_listed=5)["categories"]
    assert isinstance(category, Category)
    return category


def test_rates_and_metrics_have_a_value_or_a_reason() -> None:
    rows = {row.name: row for row in category_of(report_of(result_of(10), result_of(30))).metrics}
    assert rows["False positive rate"].values == [Value("50.0\u00a0%")]
    assert rows["Miss rate"].values == [Value(note="no defective images")]
    assert (rows["Image AUROC"].values, rows["Image AUROC"].interval) == ([Value("0.988")], "0.500 to 1.000")
    assert (rows["AUPRO"].values, rows["AUPRO"].interval) == ([Value(note="no defective images")], "")
    nan = {
        row.name: row for row in category_of(report_of(result_of(30, "cut"), metrics={"AUPRO": float("nan")})).metrics
    }
    assert nan["AUPRO"].values == [Value(note="no masks")]


def test_a_report_says_if_most_images_drift() -> None:
    darker = [replace(result_of(10), drift="darker than the good images") for _ in range(2)]
    assert "2 of 3 images are darker than the good images" in category_of(report_of(*darker, result_of(10))).caution
    assert "darker" not in category_of(report_of(*darker, result_of(10), result_of(10))).caution


def test_counts_have_their_total() -> None:
    category = category_of(report_of(result_of(10), result_of(30), result_of(30, "cut")))
    assert [(tile.kind, *tile.values) for tile in category.tiles] == [
        ("good", Value("1", 1)), ("bad", Value("1", 2)), ("", Value("0.988"))
    ]  # fmt: skip
    assert [(row.name, row.bar) for row in category.defects.rows] == [("good", (50, 0)), ("cut", (100, 0))]


def test_images_to_look_at_again_are_counted() -> None:
    results = (result_of(20), result_of(21), result_of(30, "cut"), result_of(31, "cut"), result_of(9, "cut"))
    category = category_of(report_of(*results, upper_threshold=30.0))
    assert [tile.values[0] for tile in category.tiles[:2]] == [
        Value("2", 3, "1 look again"), Value("1", 2, "1 look again")
    ]  # fmt: skip
    assert category.defects.columns[:3] == ("Kind", "Called defective", "Look again")
    assert [row.values[:2] for row in category.defects.rows] == [
        [Value("0", 2), Value("1", 2)], [Value("1", 3), Value("1", 3)]
    ]  # fmt: skip
    assert [row.bar for row in category.defects.rows] == [(0, 50), (33, 33)]
    assert (
        "1 of 2 good ones was above the threshold (50.0\u00a0%). Look again: 1 defective and 1 good."
        in category.headline
    )


def test_the_overview_sums_counts_and_averages_metrics() -> None:
    reports = [report_of(result_of(10), result_of(30, "cut")), report_of(result_of(30), metrics={})]
    overview = report_context(reports, figures={}, max_images_listed=5)["overview"]
    assert overview.columns == ("Category", "Found", "False positives", "Image AUROC")
    assert overview.rows[-1].values == [Value("1", 1), Value("1", 2), Value("0.988", note="mean of 1")]
    assert overview.rows[1].values == [Value(), Value("1", 1), Value(note="no defective images")]


def test_texts_are_not_escaped_before_the_template() -> None:
    problem = Problem(Path(HOSTILE), HOSTILE, HOSTILE)
    figure = Figure("miss", HOSTILE, (Panel(HOSTILE, image_of(4, 4)),), result_of(10, HOSTILE))
    category = category_of(report_of(result_of(10, HOSTILE), category=HOSTILE, problems=(problem,)), figure)
    assert category.defects.rows[0].name == category.images[0].sample.defect == HOSTILE
    assert category.figures[0][2] == [figure]


def test_the_order_of_images_is_wrong_labels_first() -> None:
    scores = [result_of(25), result_of(10), result_of(30), result_of(5, "cut"), result_of(40, "cut"), result_of(12)]
    assert [t.score for t in category_of(report_of(*scores)).images] == [30, 25, 5, 40, 12]  # five are listed


def test_panels_are_arranged_by_their_shape() -> None:
    for size, layout in (((40, 60), "square"), ((20, 60), "wide"), ((60, 20), "narrow")):
        panels = tuple(Panel(str(i), image_of(*size)) for i in range(6))
        assert Figure("example", "x", panels).layout == f"{layout} two-rows"
        assert Figure("example", "x", panels[:4]).layout == layout
    assert Figure("example", "x", ()).layout == "square"
    assert Figure("example", "x", image_of(9, 9)).layout == ""
