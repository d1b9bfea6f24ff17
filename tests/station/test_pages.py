"""The pages as documents, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from blemish import Patchcore
from blemish.station.users import Users
from tests.images import good, scratched, small_patchcore, write_goods
from tests.station.test_service import png
from tests.station.web_client import called

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from blemish.station import InspectionService

PASSWORD = "correct horse battery"


@pytest.fixture
def client(station: InspectionService) -> Iterator[httpx.Client]:
    """A client of a station with one defective part whose id tries to be code."""
    station.inspect(scratched(1)[0], part_id="<script>alert(1)</script>")
    with called(station) as made:
        yield made


@pytest.mark.slow
def test_pages_have_no_inline_script_or_style_and_escape_what_they_show(client: httpx.Client):
    id_ = client.get("/v1/inspections").json()["inspections"][0]["id"]
    for place in ("/", "/inspections", f"/inspections/{id_}", "/review", "/models", "/models/stripes", "/teach?name=x"):
        page = client.get(place)
        assert page.status_code == 200, place
        assert page.headers["content-type"].startswith("text/html")
        text = page.text
        assert "<script>" not in text
        assert not re.search(r"<script(?! type=\"(application/json|module)\")", text)
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text), place
        assert not re.search(r"(src|href)=\"(https?:)?//", text)
        for name in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", text):
            assert client.get(name).status_code == 200
    assert "&lt;script&gt;" in client.get("/").text


@pytest.mark.slow
def test_errors_are_pages_for_people(client: httpx.Client):
    for place, status, text in (
        ("/inspections/none", 404, "expected an id that is in the records"),
        ("/inspections?outcome=bad", 422, "outcome: expected one of good"),
        ("/models/none", 404, "expected one in service: stripes"),
        ("/?model=none", 404, "expected one in service"),
        ("/static/..%2fpages.py", 404, ""),
        ("/static/none.js", 404, "expected one of the pages"),
    ):
        page = client.get(place)
        assert page.status_code == status, place
        assert text in page.text


@pytest.mark.slow
def test_who_has_to_log_in_is_led_there_and_back(station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    from argon2 import PasswordHasher

    monkeypatch.setattr("blemish.station.users._hasher", lambda: PasswordHasher(1, 8, 1))
    Users(station.database).add("eva", PASSWORD, "viewer", who="test")
    with called(station, host="0.0.0.0") as client:
        answer = client.get("/inspections?part_id=A")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/inspections%3Fpart_id%3DA")
        assert 'data-next="/inspections"' in client.get("/login?next=/inspections").text
        for foreign in ("//evil.example", "https://evil.example", "/\\evil.example"):
            assert 'data-next="/"' in client.get("/login", params={"next": foreign}).text


@pytest.mark.slow
def test_a_station_without_a_model_says_so(tmp_path: Path):
    from blemish.station import InspectionService

    with InspectionService(tmp_path / "records") as station, called(station) as client:
        assert "No model is in service yet." in client.get("/").text
        assert client.get("/readyz").status_code == 503
        for place in ("/inspections", "/review", "/models", "/teach"):
            assert client.get(place).status_code == 200


# --- teaching, without a fit ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_are_added_checked_and_removed(client: httpx.Client, station: InspectionService, tmp_path: Path):
    paths = write_goods(tmp_path, 3)
    files = [("image", (path.name, path.read_bytes())) for path in [*paths, paths[0]]]
    files.append(("image", ("none.png", b"no image")))
    answer = client.post("/v1/teach/new/images", files=files).json()
    assert len(set(answer["added"])) == 3
    (problem,) = answer["problems"]
    assert problem["source"] == "none.png"
    assert "expected PNG, JPEG" in problem["detail"]
    state = client.get("/v1/teach/new").json()
    assert state == {"name": "new", "images": sorted(set(answer["added"])), "fit": None}
    first = state["images"][0]
    assert client.get(f"/v1/teach/new/images/{first}").headers["content-type"] == "image/jpeg"
    checked = client.post("/v1/teach/new:check").json()
    assert (checked["images"], checked["parts"], checked["sizes"]) == (3, 3, {"96 x 96": 3})
    assert [problem["kind"] for problem in checked["problems"]] == ["few-good"]
    assert client.delete(f"/v1/teach/new/images/{first}").json()["images"] == state["images"][1:]
    assert client.get("/v1/teach").json() == ["new"]


@pytest.mark.slow
def test_parts_that_were_called_good_are_taken_from_the_line(client: httpx.Client, station: InspectionService):
    for seed in range(3):
        station.review(station.inspect(good(seed)).id, "good", who="eva")
    answer = client.post("/v1/teach/new:takeFromLine", json={"model": "stripes", "n": 2}).json()
    assert (answer["taken"], len(answer["images"])) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "place", "status", "detail"),
    [
        ("POST", "/v1/teach/a%20b/images", 422, "model: expected a name of letters"),
        ("POST", "/v1/teach/new:fit", 422, "images: expected at least 2, got 0"),
        ("POST", "/v1/teach/new:putInService", 422, "model: expected one that was fitted, got none"),
        ("GET", "/v1/teach/new/images/none", 404, "image: expected one that was added"),
    ],
)
def test_teaching_says_what_it_expects(client: httpx.Client, method: str, place: str, status: int, detail: str):
    answer = client.request(method, place, content=png(good(1)))
    if "/images" in place and method == "POST":
        assert detail in answer.json()["problems"][0]["detail"]
        return
    assert answer.status_code == status
    assert detail in answer.text


@pytest.mark.slow
def test_a_model_is_fitted_compared_and_put_in_service(
    client: httpx.Client, station: InspectionService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from blemish.station import StationError

    class Small(Patchcore):
        def __new__(cls, **_: object) -> Patchcore:  # type: ignore[misc]
            return small_patchcore()

    monkeypatch.setattr("blemish.station.teaching.Patchcore", Small)
    for path in write_goods(tmp_path, 8):
        client.post("/v1/teach/stripes/images", content=path.read_bytes())
    id_ = client.get("/v1/inspections").json()["inspections"][0]["id"]
    station.review(id_, "defective", who="eva")
    before = station.model("stripes").deployment.digest
    assert client.post("/v1/teach/stripes:fit").status_code == 202
    with pytest.raises(StationError, match="fit: expected one at a time"):
        station.teaching.fit("stripes", who="eva")
    assert station.teaching._thread is not None
    station.teaching._thread.join()
    result = client.get("/v1/teach/stripes").json()["fit"]["result"]
    assert result["comparison"] == {
        "n_good": 0, "n_defective": 1, "n_kept": 0, "now": [0, 0], "new": [0, 0], "kept": {"now": 0, "new": 0},
        "worse": [],
    }  # fmt: skip
    assert "false positives" in result["sentence"]
    assert station.model("stripes").deployment.digest == before
    deployment = client.post("/v1/teach/stripes:putInService").json()
    assert deployment["reason"] == "taught"
    assert station.model("stripes").deployment.digest == deployment["digest"] != before
    assert [entry.action for entry in station.database.audit()][-2:] == ["fitted", "put in service"]


# --- learning from reviews --------------------------------------------------------------------------------------------


@pytest.fixture
def learning(station: InspectionService, tmp_path: Path) -> InspectionService:
    """A station whose model was fitted on files that are there, with four reviewed parts."""
    model = small_patchcore().fit(write_goods(tmp_path / "train", 8)).save(tmp_path / "model")
    station.put_in_service("stripes", model, who="eva")
    for seed in range(20, 23):
        found = station.inspect(good(seed), model="stripes", part_id=f"A-{seed // 2}")
        station.review(found.id, "good", who="eva")
    station.review(station.inspect(scratched(1)[0], model="stripes").id, "defective", who="eva")
    return station


def learnt(station: InspectionService, client: httpx.Client) -> dict[str, Any]:
    assert client.post("/v1/teach/stripes:learn").status_code == 202
    assert station.teaching._thread is not None
    station.teaching._thread.join()
    fit: dict[str, Any] = client.get("/v1/teach/stripes").json()["fit"]
    return fit


@pytest.mark.slow
def test_a_model_learns_the_parts_that_people_called_good(learning: InspectionService, client: httpx.Client):
    before = learning.model("stripes")
    fit = learnt(learning, client)
    assert fit["error"] == ""
    assert fit["result"]["comparison"]["n_good"] == 2  # two images show one part, which is judged once
    assert fit["result"]["comparison"]["n_defective"] == 1
    assert learning.model("stripes") is before
    deployment = client.post("/v1/teach/stripes:putInService").json()
    assert deployment["reason"] == "learnt from reviews"
    training = learning.model("stripes").detector.fitted.training
    assert len(training.paths) == 11
    assert training.reviews[8:] == ("confirmed",) * 3
    assert training.groups[8] != training.groups[9] or training.groups[9] != training.groups[10]
    again = learnt(learning, client)
    assert "images that the model has not learnt, got 3 that it has learnt" in again["error"]


@pytest.mark.slow
def test_a_model_without_its_images_says_so(learning: InspectionService, client: httpx.Client, tmp_path: Path):
    (tmp_path / "train" / "003.png").unlink()
    fit = learnt(learning, client)
    assert "1 of 8 that are absent or have changed, the first: " in fit["error"]
    assert fit["result"] is None


@pytest.mark.slow
def test_nothing_is_learnt_without_reviews(client: httpx.Client):
    answer = client.post("/v1/teach/stripes:learn")
    assert answer.status_code == 422
    assert "reviews: expected inspections that people called good, got none" in answer.json()["detail"]
    assert client.post("/v1/teach/none:learn").status_code == 404
