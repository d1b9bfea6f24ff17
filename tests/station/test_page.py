"""The pages in a real browser: each flow of an operator and an admin, the keyboard, and what a screen reader needs."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from blemish.station import InspectionFilter
from blemish.station.kept import is_kept
from blemish.station.users import Users
from tests.images import good, scratched, small_patchcore, write_goods
from tests.station.conftest import no_look
from tests.station.test_service import png
from tests.station.web_client import called

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from blemish import Patchcore
    from blemish.station import InspectionService

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# axe.min.js of npm's axe-core, which looks for what keeps people with a screen reader out.
AXE = os.environ.get("BLEMISH_AXE", "")
PASSWORD = "correct horse battery"
PAGES = (
    "/", "/inspections", "/inspections/{id}", "/review", "/defects", "/defects/1", "/models", "/models/stripes",
    "/models/stripes/shadow", "/teach", "/teach?name=new",
)  # fmt: skip
SIZES = ((390, 844), (1280, 800), (2560, 1440))
SERIOUS = {"serious", "critical"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; where there is none the tests are skipped, and say so."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no test of the pages")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: no test of the pages")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def filled(station: InspectionService, monkeypatch: pytest.MonkeyPatch) -> InspectionService:
    """A station with four good parts and two scratched ones, of which one was reviewed."""
    # The order of the queue has tests without a browser: encoding takes a second.
    monkeypatch.setattr("blemish.station.defects.Defects.look", no_look)
    for seed in range(4):
        station.inspect(good(seed), part_id=f"A-{seed}")
    for seed in range(2):
        bad = station.inspect(scratched(seed)[0], part_id=f"B-{seed}")
    station.review(bad.id, "defective", who="eva", defect_type="scratch")
    return station


class Opened:
    """A page, and what its console said."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address, self.said = page, address, list[str]()
        page.set_default_timeout(20_000)
        page.on("console", lambda line: self.said.append(line.text) if line.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def go(self, place: str) -> Page:
        """Open a page of the station."""
        self.page.goto(self.address + place)
        return self.page


@pytest.fixture
def opened(filled: InspectionService, browser: Browser) -> Iterator[Opened]:
    """A browser at a station without users; its console stays silent: no error, nothing that the policy blocks."""
    with called(filled) as client, browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        made = Opened(context.new_page(), str(client.base_url).rstrip("/"))
        yield made
        made.page.goto("about:blank")
        assert made.said == []


def review_of(station: InspectionService, part_id: str) -> Any:
    (found,) = station.records.page(InspectionFilter(part_id=part_id))
    return found.review


def serious(page: Page, place: str) -> None:
    """Look for what keeps people with a screen reader out, where axe-core is there."""
    if AXE:
        page.evaluate(Path(AXE).read_text(encoding="utf-8"))
        violations = page.evaluate("axe.run()")["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in violations if one["impact"] in SERIOUS] == [], place


def test_the_line_shows_parts_as_they_come(opened: Opened, filled: InspectionService):
    page = opened.go("/")
    page.wait_for_selector(".connection.live")
    assert page.locator("#shots .shot").count() == 6
    assert page.locator("#chart a").count() == 6
    assert page.locator('[data-count="total"]').inner_text() == "6"
    filled.inspect(scratched(5)[0], part_id="C-1")
    page.wait_for_selector("#shots .shot >> text=C-1")
    assert page.locator("#shots .shot").first.inner_text().startswith("DEFECTIVE")
    assert page.locator('[data-count="total"]').inner_text() == "7"
    page.locator("#shots a").first.click()
    page.wait_for_selector("h1 >> text=C-1")


def test_a_browser_that_slept_catches_up(opened: Opened, filled: InspectionService):
    page = opened.go("/")
    page.wait_for_selector(".connection.live")
    with filled.events.listened(lambda *_: None):
        filled.events._listeners, listeners = [], filled.events._listeners  # as if its connection had been silent
        for seed in range(3):
            filled.inspect(good(10 + seed), part_id=f"D-{seed}")
        while filled.n_pending:  # events follow the answers
            page.wait_for_timeout(10)
        filled.events._listeners = listeners
    assert page.locator("#shots .shot").count() < 9
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#shots .shot >> text=D-2")
    assert page.locator("#shots .shot").count() == 9


def test_one_key_reviews_a_part_and_takes_it_back(opened: Opened, filled: InspectionService):
    (found,) = filled.records.page(InspectionFilter(part_id="B-0"))
    page = opened.go(f"/inspections/{found.id}")
    assert "is above" in page.locator("text=The score").inner_text()
    assert page.locator("#outlines polygon").count() == len(found.details["regions"])
    page.keyboard.press("g")
    page.wait_for_selector(".said >> text=local: good")
    page.wait_for_load_state()
    assert review_of(filled, "B-0").verdict == "good"
    page.keyboard.press("u")
    page.wait_for_selector(".said", state="detached")
    page.wait_for_load_state()
    page.fill("#defect-type", "deep scratch")
    page.keyboard.press("Enter")
    page.wait_for_selector(".said >> text=local: defective, deep scratch")
    assert review_of(filled, "B-0").defect_type == "deep scratch"
    page.fill("#comment", "gd")  # keys in a field are text
    assert review_of(filled, "B-0").verdict == "defective"


def test_arrows_lead_to_neighbors_and_the_image_is_zoomed(opened: Opened, filled: InspectionService):
    (found,) = filled.records.page(InspectionFilter(part_id="A-2"))
    page = opened.go(f"/inspections/{found.id}")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("h1 >> text=A-1")
    page.wait_for_load_state()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("h1 >> text=A-2")
    page.wait_for_load_state()
    page.click("#zoom-in")
    assert "scale(1.5)" in page.locator("#sheet").evaluate("element => element.style.transform")
    page.click("#zoom-reset")
    assert "scale(1)" in page.locator("#sheet").evaluate("element => element.style.transform")
    page.locator("#opacity").fill("25")
    assert page.locator("#heat").evaluate("element => element.style.opacity") == "0.25"
    page.reload()
    assert page.locator("#heat").evaluate("element => element.style.opacity") == "0.25"


def test_similar_defects_suggest_a_type_that_one_key_takes(opened: Opened, filled: InspectionService):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    (found,) = filled.records.page(InspectionFilter(part_id="B-0"))
    page = opened.go(f"/inspections/{found.id}")
    page.wait_for_selector("#similar >> text=scratch")
    page.wait_for_selector("#say-suggested")
    page.keyboard.press("s")
    page.wait_for_selector(".said >> text=local: defective, scratch")


def test_the_review_queue_is_worked_off_by_keys(opened: Opened, filled: InspectionService):
    page = opened.go("/review")
    assert "5 parts wait for a review, 1 are done" in page.locator(".headline").inner_text()
    assert "the model is least sure here" in page.locator("#why-this").inner_text()
    for left in range(4, -1, -1):
        page.keyboard.press("g")
        page.wait_for_selector(f".headline >> text=/^({left} part|Every part)/")
        page.wait_for_load_state()
    page.wait_for_selector("text=Every part was reviewed.")
    assert filled.records.counts(InspectionFilter(reviewed="good"))["total"] == 5


def test_groups_of_defects_are_named_split_moved_and_merged(
    opened: Opened, filled: InspectionService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("blemish.station.defects.Defects._learn", lambda *_: "")
    monkeypatch.setattr("blemish.station.defects.Defects._relabel", lambda *_: "")
    bad = [filled.inspect(scratched(seed)[0], part_id=f"E-{seed}") for seed in range(10, 14)]
    for inspection in bad:
        filled.review(inspection.id, "defective", who="eva")
    looks = {one.sha256: np.array([i < 3, i == 3], np.float32) for i, one in enumerate(bad)}
    monkeypatch.setattr("blemish.station.defects.Defects._vectors", lambda *_: looks)
    page = opened.go("/defects")
    page.wait_for_selector(".group >> nth=2")  # the four were sorted into two groups, beside that of the type
    page.click(".group >> text=3 defects")
    page.wait_for_selector("h1 >> text=No name yet")
    page.fill("#name", "dent")
    page.click("text=Name them")
    page.wait_for_selector("h1 >> text=dent")
    assert review_of(filled, "E-10").defect_type == "dent"
    page.check(f'#members input[value="{bad[0].id}"]')
    page.fill("#new-name", "deep dent")
    page.click("#split")
    page.wait_for_selector("h1 >> text=deep dent")
    page.check(f'#members input[value="{bad[0].id}"]')
    page.select_option("#target", label="scratch")
    page.click("#move")
    page.wait_for_selector("h1 >> text=scratch")
    assert page.locator("#members .shot").count() == 2
    page.click("#propose")
    page.wait_for_selector("#toast.shown")
    page.select_option("#into", label="dent (2)")
    page.click("#merge button")
    page.wait_for_selector("h1 >> text=dent")
    assert review_of(filled, "E-10").defect_type == "dent"
    assert page.locator("#members .shot").count() == 4


def test_history_is_filtered_without_a_script(opened: Opened, filled: InspectionService, browser: Browser):
    page = opened.go("/inspections")
    assert page.locator(".shot").count() == 6
    page.select_option('[name="reviewed"]', "defective")
    page.click("text=Show")
    assert page.locator(".shot").count() == 1
    assert page.locator(".headline").inner_text().startswith("1 part:")
    with page.expect_download() as download:
        page.click("text=a table (CSV)")
    assert "scratch" in Path(download.value.path()).read_text()
    with browser.new_context(java_script_enabled=False) as context:
        plain = context.new_page()
        plain.goto(opened.address + "/inspections?part_id=A")
        assert plain.locator(".shot").count() == 4


def test_a_threshold_is_tried_applied_and_rolled_back(opened: Opened, filled: InspectionService):
    page = opened.go("/models/stripes")
    page.wait_for_selector("#n >> text=6")
    first = filled.model("stripes").deployment
    assert page.locator("#apply").is_disabled()
    page.locator("#slider").fill(page.locator("#slider").get_attribute("min") or "")
    page.locator("#slider").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("#apply:enabled")
    page.click("#apply")
    page.wait_for_selector("text=threshold moved")
    page.wait_for_load_state()
    assert filled.model("stripes").deployment.threshold < first.threshold
    page.click("#roll-back")
    page.wait_for_selector("text=rolled back to 1")
    assert filled.model("stripes").deployment.threshold == first.threshold


def test_both_lines_are_moved_with_the_mouse_and_with_keys(opened: Opened, filled: InspectionService, two_lines: Path):
    filled.put_in_service("stripes", two_lines, who="test")
    faint = (0.94 * good(1) + 0.06 * scratched(1)[0]).astype(np.uint8)  # a little above the upper line
    for image in (*map(good, range(5)), faint):
        filled.inspect(image)
    page = opened.go("/models/stripes")
    page.wait_for_selector("#words >> text=As it is now: of 6 parts")
    first = filled.model("stripes").deployment
    low, high = (float(page.locator("#slider").get_attribute(name) or "") for name in ("min", "max"))
    box = page.locator("#histogram").bounding_box()
    assert box is not None

    def x(score: float) -> float:
        return box["x"] + box["width"] * (10 + 980 * (score - low) / (high - low)) / 1000

    middle = box["y"] + box["height"] / 2
    page.mouse.move(x(first.upper_threshold or 0), middle)
    page.mouse.down()
    page.mouse.move(x(high), middle, steps=4)
    page.mouse.up()
    assert float(page.locator("#upper").input_value()) == pytest.approx(high, abs=(high - low) / 100)
    assert float(page.locator("#slider").input_value()) == pytest.approx(first.threshold, abs=(high - low) / 100)
    page.wait_for_selector("#words >> text=1 part would change between “look again” and “defective”")
    page.locator("#slider").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.locator("#upper").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    page.click("#apply")
    page.wait_for_selector("text=threshold moved")
    moved = filled.model("stripes").deployment
    assert moved.threshold < first.threshold
    assert moved.upper_threshold == pytest.approx(high - (high - low) / 400, abs=(high - low) / 200)
    assert filled.inspect(faint).outcome == "look again"


def test_a_model_is_taught_and_put_in_service(opened: Opened, filled: InspectionService, tmp_path: Path):
    paths = write_goods(tmp_path / "images", 6)
    (tmp_path / "images" / "none.png").write_bytes(b"no image")
    page = opened.go("/teach")
    page.fill('[name="name"]', "fresh")
    page.click("text=Go on")
    page.wait_for_selector("#n-images >> text=0 images")  # the script of the page listens by then
    page.set_input_files("#files", [*map(str, paths), str(tmp_path / "images" / "none.png")])
    page.wait_for_selector("#n-images >> text=6 images")
    assert "none.png" in page.locator("#refused").inner_text()
    page.click("#check")
    page.wait_for_selector("#checked >> text=6 images of 6 different parts")
    assert "the threshold is a guess" in page.locator("#problems").inner_text()
    page.click("#fit")
    page.wait_for_selector("#put:enabled", timeout=120_000)
    assert "false positives expected" in page.locator("#sentence").inner_text()
    page.click("#put")
    page.wait_for_selector(".tabs [aria-current] >> text=fresh")
    assert filled.inspect(good(1), model="fresh").model == "fresh"


def test_a_model_learns_from_reviews(opened: Opened, filled: InspectionService, tmp_path: Path):
    model = small_patchcore().fit(write_goods(tmp_path / "train", 8)).save(tmp_path / "model")
    filled.put_in_service("stripes", model, who="test")
    filled.settings = replace(filled.settings, keep_every=2)
    sides = [is_kept(part_id, "", 2) for part_id in map(str, range(20))]
    for part_id in (sides.index(True), *[number for number, kept in enumerate(sides) if not kept][:2]):
        found = filled.inspect(good(20 + part_id), model="stripes", part_id=str(part_id))
        filled.review(found.id, "good", who="eva")
    page = opened.go("/models")
    page.click("text=Teach or learn")
    page.wait_for_selector("#n-images >> text=0 images")  # the script of the page listens by then
    page.click("#learn >> text=Learn from reviews (2)")
    page.wait_for_selector("#put:enabled", timeout=120_000)
    assert page.locator("#new-alarms").inner_text().endswith(" of 2 good")
    assert page.locator("#new-kept").inner_text().endswith(" of 1 good")
    page.click("#put")
    page.wait_for_url("**/?model=stripes")
    assert filled.model("stripes").deployment.reason == "learnt from reviews"


def test_a_new_version_runs_beside_the_one_in_service(
    opened: Opened, filled: InspectionService, fitted: Patchcore, tmp_path: Path
):
    loose = copy.copy(fitted)
    loose.set_false_positive_rate(0.9)
    loose.save(filled.folder / "teach" / "stripes" / "model")
    assert "No new version has run" in opened.go("/models/stripes/shadow").locator(".card").inner_text()
    assert opened.page.request.post(f"{opened.address}/v1/models/stripes/shadow:start").ok
    page = opened.go("/models")
    page.click("text=New version runs beside it")
    page.wait_for_selector("#n >> text=0")
    for seed in range(100, 104):
        filled.inspect(good(seed), part_id=f"F-{seed}")
        while filled.shadows._is_busy or filled.n_pending:
            page.wait_for_timeout(5)
    summary = filled.shadows.summary("stripes")
    assert summary is not None
    assert summary.n_different
    page.wait_for_selector(f"#n-more >> text={summary.n_different}", state="attached")
    page.click("#reload")
    page.wait_for_selector(".shot")
    assert page.locator(".shot").count() == summary.n_different
    serious(page, "shadow mode")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.click("#put")
    page.wait_for_selector("text=put in service after shadow mode")
    assert filled.inspect(good(1)).digest == summary.candidate.digest


def test_people_log_in_and_see_what_their_role_may_do(filled: InspectionService, browser: Browser):
    users = Users(filled.database)
    users.add("vera", PASSWORD, "viewer", who="test")
    with called(filled, host="0.0.0.0") as client, browser.new_context() as context:
        opened = Opened(context.new_page(), str(client.base_url).rstrip("/"))
        page = opened.go("/inspections?part_id=A-1")
        page.wait_for_selector("h1 >> text=Log in")
        page.fill('[name="name"]', "vera")
        page.fill('[name="password"]', "wrong password")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Name or password is wrong.")
        page.fill('[name="password"]', PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("h1 >> text=History")
        assert page.locator(".shot").count() == 1
        page.locator(".shot a").click()
        page.wait_for_selector("text=Only an operator may review.")
        assert page.locator("nav >> text=Teach").count() == 0
        opened.go("/review")
        page.wait_for_selector("h1 >> text=Not allowed")
        page.click("#log-out")
        page.wait_for_selector("h1 >> text=Log in")


def test_each_page_fits_each_size(opened: Opened, filled: InspectionService):
    found = filled.records.page(InspectionFilter(part_id="B-1"))[0]
    for place in PAGES:
        page = opened.go(place.format(id=found.id))
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place


def test_on_a_phone_the_newest_part_is_seen(opened: Opened, filled: InspectionService):
    opened.page.set_viewport_size({"width": 390, "height": 844})
    page = opened.go("/")
    page.wait_for_selector(".connection.live")
    for n_parts in (6, 7):
        page.wait_for_function("n => document.querySelectorAll('#chart a').length === n", arg=n_parts)
        newest = page.locator("#chart a").last.bounding_box()
        assert newest is not None
        assert 0 < newest["x"] < 380  # the chart is wider than the page, and shows its end
        filled.inspect(good(7), part_id="C-1")
    tops = [box["y"] for link in page.locator(".top nav a").all() if (box := link.bounding_box())]
    assert len({round(top) for top in tops}) == 1  # one row of pages


def test_no_page_keeps_a_screen_reader_out(opened: Opened, filled: InspectionService):
    if not AXE:
        pytest.skip("BLEMISH_AXE is not set: this test needs axe.min.js of npm's axe-core")
    found = filled.records.page(InspectionFilter(part_id="B-1"))[0]
    for place in PAGES:
        page = opened.go(place.format(id=found.id))
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            serious(page, f"{place} {scheme}")


def test_raw_and_page_agree(opened: Opened):
    """The address of the API that the page of an empty line names is the one that works."""
    answer = opened.page.request.post(f"{opened.address}/v1/models/stripes:predict", data=png(good(1)))
    assert answer.status == 200
