from __future__ import annotations

import copy
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from blemish import InputError, ModelFileError, Patchcore
from blemish.station import InspectionFilter, InspectionService, StationError, UnknownError
from tests.images import good, scratched
from tests.station.test_api import refused
from tests.station.web_client import called

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from blemish.station import ShadowSummary
    from tests.station.conftest import Opener


@pytest.fixture(scope="session")
def loose_model(fitted: Patchcore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that calls most good parts defective."""
    other = copy.copy(fitted)
    other.set_false_positive_rate(0.9)
    return other.save(tmp_path_factory.mktemp("loose") / "model")


def inspect_all(station: InspectionService, images: list[np.ndarray], wait_for: int | None = None) -> ShadowSummary:
    """Inspect images one after the other, each when the candidate has seen the one before."""
    for number, image in enumerate(images, start=1):
        station.inspect(image)
        summary = seen(station, number if wait_for is None else wait_for)
    return summary


def seen(station: InspectionService, n: int) -> ShadowSummary:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        summary = station.shadows.summary("stripes")
        assert summary is not None
        if summary.n + summary.candidate.n_dropped + summary.candidate.n_failed >= n:
            return summary
        time.sleep(0.005)
    raise AssertionError(summary)


@pytest.mark.slow
def test_a_candidate_sees_the_same_images_and_changes_no_answer(
    station: InspectionService, loose_model: Path, fitted: Patchcore
):
    candidate = station.shadows.start("stripes", loose_model, who="eva")
    images = [good(100 + seed) for seed in range(6)] + [scratched(1)[0]]
    summary = inspect_all(station, images)
    other = Patchcore.load(loose_model)
    assert (summary.n, summary.candidate.n_dropped) == (7, 0)
    answers = list(reversed(station.records.page(InspectionFilter())))
    assert [one.outcome for one in answers] == [fitted.predict(image).outcome for image in images]
    assert {one.digest for one in answers} == {station.model("stripes").deployment.digest} != {candidate.digest}
    pairs = [(fitted.predict(image).outcome, other.predict(image).outcome) for image in images]
    assert summary.outcomes == {pair: pairs.count(pair) for pair in pairs}
    assert summary.n_different == sum(now != new for now, new in pairs) > 0
    different = station.shadows.different("stripes")
    assert [one.outcome for one in reversed(different)] == [new for now, new in pairs if now != new]
    assert different[0].score == pytest.approx(different[0].inspection.score, rel=1e-5)
    assert station.shadows.different("stripes", before=different[0].inspection.number) == different[1:]


@pytest.mark.slow
def test_wrong_results_on_reviewed_parts_are_counted_on_both_sides(station: InspectionService, loose_model: Path):
    station.shadows.start("stripes", loose_model, who="eva")
    inspect_all(station, [good(100 + seed) for seed in range(5)] + [scratched(1)[0]])
    for inspection in station.records.page(InspectionFilter()):
        is_bad = inspection.number == 6
        station.review(inspection.id, "defective" if is_bad else "good", who="eva")
    summary = station.shadows.summary("stripes")
    assert summary is not None
    assert (summary.n_good, summary.n_defective) == (5, 1)
    alarms = {
        side: sum(n for pair, n in summary.outcomes.items() if pair[side] != "good") - 1 for side in (0, 1)
    }  # but for the scratched one
    assert (summary.now.false_positives, summary.new.false_positives) == (alarms[0], alarms[1])
    assert alarms[1] > alarms[0]
    assert (summary.now.missed, summary.new.missed) == (0, 0)


@pytest.mark.slow
def test_results_and_the_candidate_survive(opened_station: Opener, loose_model: Path, tmp_path: Path):
    folder = shutil.copytree(loose_model, tmp_path / "candidate")
    station = opened_station()
    first = station.shadows.start("stripes", folder, who="eva")
    inspect_all(station, [good(1), good(2)])
    shutil.rmtree(folder)  # the station has its own copy
    station = opened_station()
    assert station.shadows.names == {"stripes"}
    station.inspect(good(3))
    summary = seen(station, 3)
    assert (summary.n, summary.candidate.number, summary.candidate.is_running) == (3, first.number, True)
    copied = first.folder
    station.close()
    shutil.rmtree(copied)
    station = opened_station()
    summary = station.shadows.summary("stripes")
    assert summary is not None
    assert (summary.n, summary.candidate.is_running) == (3, False)
    assert "model" in summary.candidate.end


@pytest.mark.slow
def test_images_are_dropped_and_counted_while_the_station_is_busy(
    opened_station: Opener, loose_model: Path, monkeypatch: pytest.MonkeyPatch
):
    station, may_run, may_answer = opened_station(n_workers=1), threading.Event(), threading.Event()
    station.shadows.start("stripes", loose_model, who="eva")
    slow = station.shadows._running["stripes"].copied.detector
    predict = Patchcore.predict
    may_answer.set()

    def waits(self: Patchcore, image: np.ndarray) -> object:
        (may_run if self is slow else may_answer).wait(30)
        return predict(self, image)

    monkeypatch.setattr(Patchcore, "predict", waits)
    for seed in range(4):
        station.inspect(good(seed))  # answers come, whatever the candidate does
    while station.n_pending:  # it is offered after the answer
        time.sleep(0.005)
    may_run.set()
    summary = seen(station, 4)
    assert (summary.n, summary.candidate.n_dropped) == (1, 3)
    may_answer.clear()
    futures = [station.submit(good(seed), wait_s=20) for seed in range(10, 16)]
    may_answer.set()
    assert [future.result().number for future in futures] == [5, 6, 7, 8, 9, 10]
    summary = seen(station, 10)
    assert (summary.n, summary.candidate.n_dropped) == (2, 3 + 5)  # the five behind which others waited


def test_a_candidate_that_fails_changes_nothing(
    station: InspectionService, loose_model: Path, monkeypatch: pytest.MonkeyPatch
):
    station.shadows.start("stripes", loose_model, who="eva")
    slow = station.shadows._running["stripes"].copied.detector
    predict = Patchcore.predict

    def fails(self: Patchcore, image: np.ndarray) -> object:
        if self is slow:
            raise InputError("features: expected finite ones, got NaN.")
        return predict(self, image)

    monkeypatch.setattr(Patchcore, "predict", fails)
    station.inspect(good(1))
    assert seen(station, 1).candidate.n_failed == 1
    with monkeypatch.context() as broken:
        broken.setattr(station.database, "transaction", lambda: (_ for _ in ()).throw(StationError("full")))
        with pytest.raises(StationError, match="full"):
            station.shadows.stop("stripes", who="eva")
    assert station.shadows.stop("stripes", who="eva").n_failed == 1


@pytest.mark.slow
def test_a_candidate_is_put_in_service_or_stopped(station: InspectionService, loose_model: Path, saved: Path):
    present = station.model("stripes").deployment
    assert station.shadows.summary("stripes") is None
    for call in (station.shadows.stop, station.put_candidate_in_service):
        with pytest.raises(InputError, match="candidate: expected one that runs beside stripes, got none"):
            call("stripes", who="eva")
    with pytest.raises(InputError, match="candidate: expected another model than the one in service, got the same"):
        station.shadows.start("stripes", saved, who="eva")
    with pytest.raises(ModelFileError):
        station.shadows.start("stripes", saved / "none", who="eva")
    with pytest.raises(UnknownError):
        station.shadows.start("none", loose_model, who="eva")
    first = station.shadows.start("stripes", loose_model, who="eva")
    assert station.shadows.start("stripes", loose_model, who="eva") == first
    assert station.shadows.stop("stripes", who="eva").end == "stopped"
    second = station.shadows.start("stripes", loose_model, who="eva")
    deployment = station.put_candidate_in_service("stripes", who="otto")
    assert (deployment.digest, deployment.who, deployment.previous) == (second.digest, "otto", present.number)
    assert station.shadows.names == frozenset()
    assert station.inspect(good(1)).digest == second.digest
    assert station.roll_back("stripes", who="otto").digest == present.digest
    station.shadows.start("stripes", loose_model, who="eva")
    station.put_in_service("stripes", loose_model, who="otto")  # by another way
    summary = station.shadows.summary("stripes")
    assert summary is not None
    assert summary.candidate.end == "put in service"
    actions = [entry.action for entry in station.database.audit() if entry.action.startswith("shadow")]
    assert actions == ["shadow started", "shadow ended"] * 3


@pytest.mark.slow
def test_old_inspections_take_the_results_with_them(opened_station: Opener, loose_model: Path):
    station = opened_station(max_total_bytes=1)
    station.shadows.start("stripes", loose_model, who="eva")
    inspect_all(station, [good(1), good(2)])
    station.remove_old()
    summary = station.shadows.summary("stripes")
    assert summary is not None
    assert summary.n == 0
    with closing(sqlite3.connect(station.folder / "station.sqlite")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM candidate_results").fetchone() == (0,)


@pytest.mark.slow
def test_shadow_mode_over_http(station: InspectionService, loose_model: Path):
    with called(station) as client:
        place = "/v1/models/stripes/shadow"
        assert client.get(place).json() is None
        assert client.get(f"{place}/different").json() == []
        assert "No new version has run" in client.get("/models/stripes/shadow").text
        assert "expected one that was fitted, got none" in refused(client.post(f"{place}:start"), 422)
        shutil.copytree(loose_model, station.folder / "teach" / "stripes" / "model")
        assert client.post(f"{place}:start").json()["is_running"]
        assert "New version runs beside it" in client.get("/models").text
        inspect_all(station, [good(100 + seed) for seed in range(5)])
        document = client.get(place).json()
        assert sum(pair["n"] for pair in document["outcomes"]) == document["n"] == 5
        different = client.get(f"{place}/different?limit=1").json()
        assert different[0]["inspection"]["outcome"] != different[0]["outcome"]
        page = client.get("/models/stripes/shadow").text
        assert "Where they differ" in page
        assert client.post(f"{place}:stop").json()["end"] == "stopped"
        client.post(f"{place}:start")
        assert client.post(f"{place}:putInService").json()["reason"] == "put in service after shadow mode"
        assert "It does not run any more: put in service." in client.get("/models/stripes/shadow").text
        refused(client.get("/v1/models/none/shadow"), 404)
