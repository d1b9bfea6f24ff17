from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish.station import Inspection, InspectionFilter, InspectionService
from blemish.station.informative import priorities
from tests.images import good, scratched
from tests.station.web_client import called

if TYPE_CHECKING:
    from tests.station.conftest import Opener

NEAR, NOVEL, UNLIKE = "near the threshold", "novel", "unlike its neighbors"


def unit(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_near_novel_and_unlike_their_neighbors_come_first():
    margins = np.array([0.1, 4.0, 4.0, 4.0, 4.0])
    looks = np.stack([unit(0.0), unit(0.0), unit(1.55), unit(0.05), np.zeros(2, np.float32)])
    labels = np.array([True, True, True, False, True])
    found = priorities(margins, labels, looks, np.stack([unit(0.0), unit(0.1)]), np.array([True, True]))
    np.testing.assert_allclose(found.near, 1 / (1 + margins))
    np.testing.assert_allclose(found.novelty, [0, 0, 1 - np.cos(1.45), 0.00125, 0], atol=1e-4)
    assert found.disagreement[:3] == pytest.approx([0, 0, 0])
    assert found.disagreement[3] > 0.95  # called good beside two that people called defective
    assert found.disagreement[4] == 0
    assert np.argsort(-found.total).tolist()[:3] == [3, 0, 2]
    assert [found.reason(i) for i in range(4)] == [NEAR, NEAR, NOVEL, UNLIKE]


def test_without_looks_or_reviews_the_distance_to_the_threshold_counts():
    margins, none = np.array([2.0, 0.5, 1.0]), np.zeros((3, 1), np.float32)
    found = priorities(margins, np.ones(3, np.bool_), none, np.zeros((0, 1), np.float32), np.zeros(0, np.bool_))
    assert np.argsort(-found.total).tolist() == [1, 2, 0]
    assert found.reason(0) == NEAR


def stocked(station: InspectionService, monkeypatch: pytest.MonkeyPatch) -> list[Inspection]:
    """Inspect six good parts and a scratched one, with looks by part id."""
    looks = {f"P-{i}": unit(0.3 * i) for i in range(6)} | {"P-6": unit(0.02)}
    monkeypatch.setattr("blemish.station.defects.Defects.look", lambda _, inspection: looks[inspection.part_id])
    images = [good(100 + i) for i in range(6)] + [scratched(1)[0]]
    return [station.inspect(image, part_id=f"P-{i}") for i, image in enumerate(images)]


@pytest.mark.slow
def test_a_part_that_people_would_call_otherwise_comes_first(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station = opened_station()
    parts = stocked(station, monkeypatch)
    assert parts[6].label
    first = station.queue.next("eva")
    assert first is not None
    by_margin = min(station.records.page(InspectionFilter()), key=lambda one: one.margin)
    assert (first.inspection.id, first.reason) == (by_margin.id, NEAR)
    station.queue.wait()
    assert station.queue.next("eva") == first  # a page that is loaded again
    other = station.queue.next("otto")
    assert other is not None
    assert other.inspection.id != first.inspection.id
    for one in station.records.page(InspectionFilter(reviewed="no")):
        if one.part_id != "P-6":
            station.review(one.id, "good", who="eva")
    last = station.queue.next("eva")
    assert last is not None
    assert (last.inspection.part_id, last.reason) == ("P-6", UNLIKE)  # looks like P-0, which is good
    assert "people mostly said the opposite of the model" in last.sentence
    station = opened_station()  # the looks are kept
    monkeypatch.setattr("blemish.station.defects.Defects.look", None)
    assert station.queue.next("eva") == last
    station.review(last.inspection.id, "good", who="eva")
    assert station.queue.next("eva") is None


def test_a_station_without_a_store_reviews_all_the_same(station: InspectionService):
    for seed in range(3):
        station.inspect(good(seed))
    found = [station.queue.next(who) for who in ("a", "b", "c", "d")]
    station.queue.wait()
    margins = [one.inspection.margin for one in found if one is not None]
    assert margins == sorted(margins)
    assert found[3] is None
    assert station.queue.next("a") is not None


@pytest.mark.slow
def test_the_reason_is_said_over_http(station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    stocked(station, monkeypatch)
    with called(station) as client:
        answer = client.post("/v1/review:next", params={"model": "stripes"}).json()
        assert answer["reason"] == NEAR
        assert answer["inspection"]["links"]["self"]
        assert f"Why this one: {answer['sentence']}" in client.get("/review").text
        assert client.post("/v1/review:next", params={"model": "none"}).json() == {"inspection": None}


@pytest.mark.slow
def test_looks_are_those_of_the_store(station: InspectionService):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    part = station.inspect(scratched(1)[0])
    station.queue.next("eva")
    station.queue.wait()
    (row,) = station.database.rows("SELECT inspection, vector FROM looks")
    assert row["inspection"] == part.id
    expected = station.defects.look(part)
    np.testing.assert_allclose(np.frombuffer(row["vector"], np.float16), expected, atol=1e-3)
