import errno
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from blemish import types as records
from blemish._io import files
from blemish.errors import SaveError
from blemish.evaluation.report import Figure, closest, kind_of, report_html, worst, write_report
from blemish.types import Problem, Report, Sample
from blemish.visualization import Panel

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps the tags, identifiers, links and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "srcset", "data", "action"}:
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data + " "


def result_of(name: str, score: float, defect: str = "good", *, mask: bool = False) -> records.Tested:
    sample = Sample(Path("data/part/test") / defect / name, "test", defect, Path("mask.png") if mask else None)
    return records.Tested(sample, score, score > 20, 0.25, 0.045)


def report_of(*results: records.Tested, category: str = "bottle", **changes: object) -> Report:
    metrics = {"image_AUROC": 0.98765, "image_AP": 1.0, "image_F1Max": 0.91, "pixel_AUROC": 0.97, "AUPRO": 0.94}
    by_defect = {"cut": {"image_AUROC": 0.75}, "good": {"false_positive_rate": 0.5}}
    made = Report(
        category, metrics, by_defect, {"image_AUROC": (0.9, 1.0)}, 20.0, 0.01, results,
        timings={"fit_s": 12.34, "predict_ms": 45.6},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def mixed_report() -> Report:
    return report_of(
        result_of("g0.png", 10.0), result_of("g1.png", 25.0), result_of("g2.png", 22.0),
        result_of("c0.png", 30.0, "cut"), result_of("c1.png", 12.0, "cut"), result_of("h0.png", 15.0, "hole"),
    )  # fmt: skip


def figure_of(result: records.Tested) -> Figure:
    image = np.full((40, 60, 3), 120, np.uint8)
    return Figure(kind_of(result), result.sample.path.name, (Panel("Image", image), Panel("Heat map", image)), result)


def test_the_page_loads_nothing_and_is_well_formed() -> None:
    report = mixed_report()
    page = Page(report_html([report], figures={"bottle": [figure_of(t) for t in report.tested]}))
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    source = report_html([report])
    assert """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;""" in source
    assert 'fill="url(#heat)"' in report_html([report], figures={"bottle": [figure_of(report.tested[0])]})
    assert "heat" in page.ids
    assert not re.search(r"url\((?!#)|@import|https?://", source)


def test_the_numbers_are_on_the_page() -> None:
    text = re.sub(r"\s+", " ", Page(report_html([mixed_report()])).text)
    assert "1 of 3 defective images was found; 2 of 3 good ones were called defective (66.7 %)." in text
    assert "more false positives than chance explains" in text
    for part in ("Image AUROC", "0.988", "0.900 to 1.000", "12.3 s", "45.6 ms", "Miss rate", "66.7 %", "0.940 AUPRO"):
        assert part in text, part
    assert re.search(r"AUPRO, strict[^\u2013]*\u2013 no masks", text)
    assert re.search(r"cut 1 of 2 12 21 30 0\.750", text)
    assert re.search(r"hole 0 of 1 15 15 15 \u2013", text)


def test_worst_has_the_largest_errors_first() -> None:
    misses, false_positives = worst(mixed_report(), 2)
    assert [t.sample.path.name for t in misses] == ["c1.png", "h0.png"]
    assert [t.sample.path.name for t in false_positives] == ["g1.png", "g2.png"]
    assert [len(group) for group in worst(mixed_report(), 1)] == [1, 1]


def test_closest_has_the_narrowest_correct_labels_first() -> None:
    report = report_of(
        result_of("g0.png", 10.0), result_of("g1.png", 15.0), result_of("g2.png", 21.0),
        result_of("c0.png", 30.0, "cut"), result_of("c1.png", 22.0, "cut"), result_of("c2.png", 2.0, "cut"),
    )  # fmt: skip
    found, good = closest(report)
    assert [t.sample.path.name for t in found] == ["c1.png", "c0.png"]
    assert [t.sample.path.name for t in good] == ["g1.png", "g0.png"]
    assert [len(group) for group in closest(report, 1)] == [1, 1]
    source = report_html([report], figures={"bottle": [figure_of(t) for t in (*found, *good)]})
    text = Page(source).text
    assert "Close calls" in text
    assert "Worst misses" not in text
    assert "Worst false positives" not in text
    figures = re.findall(r"<figure>.*?</figcaption>", source, re.DOTALL)
    assert [re.findall(r'"pill (\w+)">(.*?)<', figure) for figure in figures] == [
        [("bad", "DEFECTIVE")], [("bad", "DEFECTIVE")], [("good", "GOOD")], [("good", "GOOD")]
    ]  # fmt: skip
    assert worst(report_of()) == closest(report_of()) == ((), ())


def test_a_figure_may_be_one_image_without_a_result() -> None:
    image = np.full((40, 60, 3), 120, np.uint8)
    figures = [Figure(kind, f"the {kind}", image) for kind in ("example", "close call", "false positive", "miss")]
    page = Page(report_html([mixed_report()], figures={"bottle": figures}))
    assert sum(link.startswith("data:image/jpeg;base64,") for link in page.links) == 4
    titles = [page.text.index(title) for title in ("Worst misses", "Worst false positives", "Close calls", "Examples")]
    assert titles == sorted(titles)
    for text in ("the miss", "MISSED", "FALSE POSITIVE", "CLOSE CALL", "EXAMPLE"):
        assert text in page.text


def test_wrong_labels_are_named() -> None:
    report = mixed_report()
    misses, false_positives = worst(report)
    assert [kind_of(t) for t in (*misses, *false_positives)] == ["miss"] * 2 + ["false positive"] * 2
    source = report_html([report], figures={"bottle": [figure_of(t) for t in (*misses, *false_positives)]})
    assert source.count(">MISSED<") == 2
    assert source.count(">FALSE POSITIVE<") == 2
    assert source.count('class="scale"') == 4
    assert source.count('<line x1="42" x2="42"') == 4  # the threshold, in the middle of 84


def test_an_image_to_look_at_again_has_its_word_and_colour() -> None:
    report = report_of(result_of("g.png", 25.0), result_of("c.png", 26.0, "cut"), upper_threshold=25.5)
    source = report_html([report], figures={"bottle": [figure_of(t) for t in report.tested]})
    assert source.count('<span class="pill look">LOOK AGAIN</span>') == 2  # its figure, and its row
    assert source.count('<span class="error">FALSE POSITIVE</span>') == 1
    assert 'class="look rim"' in source
    assert "Position is used" not in source
    noted = report_html([replace(report, notes=("Position is used: <b>",))])
    assert '<p class="quiet">Position is used: &lt;b&gt;</p>' in noted
    assert "Up to 25.5 they are to\nbe looked at again" in source


HOSTILE = "<script>alert(1)</script>\"'&.png"


def test_every_text_from_outside_is_escaped() -> None:
    report = report_of(
        result_of(HOSTILE, 25.0),
        result_of(HOSTILE, 15.0, '"><b>x'),
        category=HOSTILE,
        metrics={HOSTILE: 0.5},
        by_defect={'"><b>x': {HOSTILE: 0.5}},
        problems=(Problem(Path(HOSTILE), HOSTILE, HOSTILE),),
        timings={HOSTILE: 1.0},
    )
    panels = (Panel(HOSTILE, np.zeros((4, 4, 3), np.uint8)),)
    figures = {HOSTILE: [Figure(kind_of(t), HOSTILE, panels, t) for t in report.tested]}
    source = report_html([report, mixed_report()], figures=figures, title=HOSTILE, provenance={HOSTILE: HOSTILE})
    page = Page(source)
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert '"><b>x' in page.text


def test_names_do_not_change_the_direction_of_the_text_around() -> None:
    report = report_of(result_of("a\u202egnp.png", 25.0), problems=(Problem(Path("b\u202e.png"), "unreadable", "x"),))
    source = report_html([report], figures={"bottle": [figure_of(report.tested[0])]})
    assert "\u202e" not in source
    assert source.count("\\u202e") == source.count("<bdi>") + 2  # the alternative texts of both panels
    for name in ("test/good/a\\u202egnp.png", "b\\u202e.png", "a\\u202egnp.png"):
        assert f"<bdi>{name}</bdi>" in source


def test_numbers_are_set_to_the_right() -> None:
    source = report_html([mixed_report()])
    assert '<th scope="col">Kind</th><th scope="col" class="number">Called defective</th>' in source
    assert re.search(r'<td class="name">cut</td>\s*<td class="number">1 <small>of 2</small>', source)
    assert re.search(r'<td class="number">\u2013<br><span class="why">no masks</span>', source)


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ([], "No image was tested."),
        ([result_of("g.png", 10.0)], "the one good image was called good."),
        ([result_of("c.png", 10.0, "cut")], "The one defective image was missed;"),
        ([result_of("g.png", 10.0), result_of("h.png", 10.0)], "no defective images"),
        ([result_of("c.png", 20.0, "cut"), result_of("d.png", 20.0, "cut")], "no good images"),
    ],
)
def test_few_images_make_a_page(results: list[records.Tested], text: str) -> None:
    bare = report_of(*results, metrics={}, by_defect={}, intervals={}, timings={})
    assert text in Page(report_html([bare])).text
    assert text in Page(report_html([bare, mixed_report()])).text
    assert ("The image with its score" in Page(report_html([bare])).text) == (len(results) == 1)


def test_no_category_makes_a_page() -> None:
    assert "No category was tested." in Page(report_html([])).text


def test_several_categories_have_an_overview_with_anchors_and_the_average() -> None:
    without_masks = report_of(
        result_of("g.png", 10.0), result_of("c.png", 25.0, "cut"), category="grid", metrics={"image_AUROC": 0.5}
    )
    page = Page(report_html([mixed_report(), without_masks]))
    assert page.links == ["#category-0", "#category-1"]
    assert {"category-0", "category-1"} <= set(page.ids)
    text = re.sub(r"\s+", " ", page.text)
    # Found 1 of 3 and 1 of 1; false positives 2 of 3 and 0 of 1; AUROC (0.98765 + 0.5) / 2.
    assert "All, average 2 of 4 2 of 4 0.744" in text
    assert "0.940 mean of 1" in text
    assert "no masks" in text


def test_problems_are_listed_and_more_than_ten_collapsed() -> None:
    problems = tuple(Problem(Path(f"a/b/{i}.png"), "unreadable", f"Reason {i}.") for i in range(11))
    few, many = (report_html([report_of(problems=problems[:n])]) for n in (10, 11))
    assert "Left out or doubtful (10)" in few
    assert "Reason 9." in few
    assert "Show all 11" in many
    assert "Show all" not in few


def test_all_images_are_listed_wrong_labels_first() -> None:
    source = report_html([mixed_report()])
    listed = re.findall(r"<bdi>part/test|<bdi>test/\w+/(\w+\.png)", source)
    assert listed == ["g1.png", "g2.png", "h0.png", "c1.png", "c0.png", "g0.png"]
    assert "2 more were left out here." in report_html([mixed_report()], max_images_listed=4)


def test_the_95th_percentile_of_times_needs_twenty_images() -> None:
    results = [result_of(f"{i}.png", 10.0) for i in range(20)]
    text = Page(report_html([report_of(*results, timings={})])).text
    assert "All 20 images with their scores" in text
    assert "45\xa0ms (median)" in text
    assert "19 of 20 within" in text
    assert "19 of 20 within" not in Page(report_html([mixed_report()])).text


def test_write_report_writes_the_page_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    report = report_of(result_of("a\udce9b.png", 10.0), result_of("检测.png", 25.0))
    path = write_report(tmp_path / "new" / "report.html", [report], title="Größe")
    page = path.read_text("utf-8")
    assert "a\\udce9b.png" in page
    assert "检测.png" in page
    assert page == report_html([report], title="Größe").encode("utf-8", "backslashreplace").decode()


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path / "report.html", [mixed_report()])
    before = path.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(SaveError, match=r"report: expected to be written, got 'No space left on device'.*disk is full"):
        write_report(path, [])
    assert path.read_bytes() == before


def test_the_same_reports_give_the_same_bytes() -> None:
    assert report_html([mixed_report()]) == report_html([mixed_report()])
