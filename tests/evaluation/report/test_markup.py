from pathlib import PurePosixPath

import pytest

from blemish.evaluation.report.markup import (
    absent,
    cell,
    definitions,
    escaped,
    file_name,
    interval,
    metric,
    out_of,
    row,
    table,
)

NASTY = """<img src=x onerror="alert('1')">&"""


def test_everything_that_could_end_a_text_is_escaped() -> None:
    assert escaped(NASTY) == "&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;&amp;"
    for made in (file_name(PurePosixPath(NASTY)), definitions([(NASTY, NASTY)]), absent(NASTY)):
        assert "<img" not in made
        assert "&lt;img" in made


def test_a_file_name_says_no_more_than_three_parts_of_its_path() -> None:
    assert file_name(PurePosixPath("/home/anna/line4/test/cut/000.png")) == "<bdi>test/cut/000.png</bdi>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1.000"), (0.99999, "0.9999"), (0.9996, "0.9996"), (0.9994, "0.999"), (0.0, "0.000"), (-0.25, "-0.250")],
)
def test_what_is_not_perfect_does_not_look_perfect(value: float, shown: str) -> None:
    assert metric(value) == shown


def test_an_absent_metric_is_a_dash_with_its_reason() -> None:
    for value in (None, float("nan")):
        assert metric(value, "no masks") == '\u2013<br><span class="why">no masks</span>'
    assert metric(None) == out_of(0, 0) == "\u2013"
    assert interval(0.5, 1.0) == "0.500 to 1.000"


def test_a_table_sets_numbers_to_the_right() -> None:
    made = table(["Kind", "Score"], [row([cell("a"), cell("1", "number")], "sum")], range(1, 2))
    assert '<th scope="col">Kind</th><th scope="col" class=number>Score</th>' in made
    assert '<tr class="sum"><td>a</td><td class="number">1</td></tr>' in made
