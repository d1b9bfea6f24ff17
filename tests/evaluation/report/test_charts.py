from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from blemish.evaluation.report.charts import gauge, roc_chart, score_chart
from blemish.evaluation.report.page import environment
from blemish.metrics.classification import roc_curve
from blemish.types import Curve

GROUPS = [("good", [8.0, 9.0, 12.0]), ("cut", [15.0, 21.0, 30.0, 30.0])]


def drawn(macro: str, chart: object) -> str:
    """The chart as SVG, as the page shows it."""
    return str(getattr(environment().get_template("charts.svg.j2").module, macro)(chart))


def score_svg(groups: list[tuple[str, list[float]]], threshold: float) -> str:
    return drawn("score_chart", score_chart(groups, threshold))


def roc_svg(curve: Curve, operating_point: tuple[float, float], false_positive_rate_set: float) -> str:
    return drawn("roc_chart", roc_chart(curve, operating_point, false_positive_rate_set))


def gauge_svg(score: float, threshold: float) -> str:
    return drawn("gauge", gauge(score, threshold))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def of_class(svg: str, kind: str) -> list[dict[str, str]]:
    return [element.attrib for element in parsed(svg).iter() if element.attrib.get("class") == kind]


def test_no_bar_spans_the_threshold_and_all_images_are_counted() -> None:
    svg = score_svg(GROUPS, 18.0)
    line = float(of_class(svg, "threshold")[0]["x1"])
    bars = [e for e in parsed(svg).iter() if e.tag == "rect"]
    for bar in bars:
        left = float(bar.attrib["x"])
        assert left + float(bar.attrib["width"]) <= line + 1e-6 or left >= line - 1e-6
    totals = {kind: sum(int(b[0].text or 0) for b in bars if b.attrib["class"] == kind) for kind in ("good", "bad")}
    assert totals == {"good": 3, "bad": 4}
    right = sum(int(b[0].text or 0) for b in bars if float(b.attrib["x"]) >= line - 1e-6)
    assert right == 3


def test_a_score_equal_to_the_threshold_is_left_of_it() -> None:
    svg = score_svg([("good", [5.0, 10.0]), ("cut", [20.0])], 10.0)
    line = float(of_class(svg, "threshold")[0]["x1"])
    assert all(float(bar["x"]) < line for bar in of_class(svg, "good") if "width" in bar)


def test_the_end_of_look_again_is_marked_where_it_lies_among_the_scores() -> None:
    assert [line["x1"] for line in of_class(drawn("score_chart", score_chart(GROUPS, 18.0, 24.0)), "upper")] == [
        "517.2"
    ]
    for upper in (None, 18.0, 99.0):
        assert not of_class(drawn("score_chart", score_chart(GROUPS, 18.0, upper)), "upper")
    (zone,) = of_class(drawn("gauge", gauge(22.0, 20.0, 30.0)), "look track")
    assert (float(zone["x"]), float(zone["width"])) == (150, 70)
    assert of_class(drawn("gauge", gauge(22.0, 20.0, 30.0)), "look rim")


def test_each_kind_has_a_strip_and_a_count() -> None:
    svg = score_svg(GROUPS, 18.0)
    texts = [element.text for element in parsed(svg).iter() if element.tag == "text"]
    assert {"good", "cut", "3/3", "3/4", "threshold 18", "3 good", "4 defective"} <= set(texts)
    assert len(of_class(svg, "good stroke")) == 3
    assert len(of_class(svg, "bad stroke")) == 3  # two of four scores are equal


@pytest.mark.parametrize(
    "groups",
    [
        [("good", [5.0])],
        [("cut", [5.0, 5.0])],
        [("good", [0.0]), ("cut", [0.0])],
        [("good", [1e-9, 1e9]), ("cut", [float("nan"), 3.0])],
        [("good", list(range(5000))), ("cut", [1.0])],
    ],
)
def test_charts_of_any_scores_stay_in_their_frame(groups: list[tuple[str, list[float]]]) -> None:
    svg = score_svg(groups, 5.0)
    for element in parsed(svg).iter():
        for name in ("x", "x1", "x2"):
            if name in element.attrib:
                assert 0 <= float(element.attrib[name]) <= 720
    assert len(svg) < 300_000


@pytest.mark.parametrize("groups", [[], [("good", [])], [("good", [float("inf")])]])
def test_there_is_no_chart_without_finite_scores(groups: list[tuple[str, list[float]]]) -> None:
    assert score_chart(groups, 1.0) is None
    assert score_chart(GROUPS, float("inf")) is None


def test_names_are_escaped_and_long_names_shortened() -> None:
    svg = score_svg([("<script>alert(1)</script>", [1.0]), ("x" * 50, [1.0])], 0.5)
    assert "<script" not in svg
    assert "x" * 18 not in svg
    parsed(svg)


def test_the_operating_point_is_that_of_the_threshold() -> None:
    curve = roc_curve([1, 2, 3, 4], [0, 1, 0, 1])
    svg = roc_svg(curve, (0.5, 1.0), 0.01)
    point = of_class(svg, "point")[0]
    assert (float(point["cx"]), float(point["cy"])) == (56 + 150, 16)
    assert float(of_class(svg, "asked")[0]["x1"]) == 56 + 3
    points = of_class(svg, "curve")[0]["points"].split()
    assert points[0] == "56.0,316.0"
    assert points[-1] == "356.0,16.0"
    assert "100 % are found at 50 % false positives" in svg


@pytest.mark.slow
def test_a_long_curve_is_simplified() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.5
    curve = roc_curve(rng.normal(size=20_000) + labels, labels)
    svg = roc_svg(curve, (0.1, 0.5), 0.01)
    points = of_class(svg, "curve")[0]["points"].split()
    assert len(points) < 5000
    straight = roc_svg(Curve(np.linspace(0, 1, 99), np.ones(99), np.zeros(99)), (0, 1), 0.01)
    assert of_class(straight, "curve")[0]["points"] == "56.0,16.0 356.0,16.0"


@pytest.mark.parametrize(("score", "at"), [(20.0, 150.0), (10.0, 80.0), (30.0, 220.0)])
def test_a_gauge_shows_the_score_against_the_threshold(score: float, at: float) -> None:
    circle = next(element for element in parsed(gauge_svg(score, 20.0)).iter() if element.tag == "circle")
    assert float(circle.attrib["cx"]) == pytest.approx(at, abs=0.1)
    assert circle.attrib["class"].startswith("bad" if score > 20 else "good")


def test_a_score_beyond_the_gauge_has_an_arrow() -> None:
    assert '<polygon class="bad rim" points="299.0,30 ' in gauge_svg(1e6, 20.0)
    assert gauge(float("nan"), 20.0) is None
