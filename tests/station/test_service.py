from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from blemish import ImageError, InputError, ModelFileError, Patchcore, SaveError
from blemish.station import BusyError, InspectionFilter, InspectionService, StationError, StationSettings, UnknownError
from tests.images import cut_off, good, scratched, write

if TYPE_CHECKING:
    from blemish.station.deployments import Deployment
    from tests.station.conftest import Opener

PNG = ".png"


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(PNG, image[..., ::-1])[1].tobytes()


def test_an_inspection_is_what_the_detector_predicts(station: InspectionService, fitted: Patchcore):
    image = scratched(300)[0]
    inspection = station.inspect(png(image), part_id="A-17")
    expected = fitted.predict(image)
    assert inspection.score == pytest.approx(expected.score, rel=1e-6)
    assert (inspection.outcome, inspection.label) == (expected.outcome, expected.label)
    assert inspection.threshold == expected.threshold
    assert [tuple(region["box"]) for region in inspection.details["regions"]] == [r.box for r in expected.regions]
    assert inspection.details["regions"][0]["contour"] == expected.regions[0].contour.tolist()
    np.testing.assert_allclose(station.anomaly_map(inspection), expected.anomaly_map, rtol=2e-3, atol=1e-3)


def test_what_was_answered_is_there_after_the_station_was_opened_again(opened_station: Opener):
    data = png(good(1))
    before = opened_station().inspect(data, part_id="A-17", source="camera 1")
    station = opened_station()
    assert station.records.get(before.id) == before
    assert station.image(before) == data
    assert before.sha256 == hashlib.sha256(data).hexdigest()
    assert station.anomaly_map(before).shape == (96, 96)
    assert cv2.imdecode(np.frombuffer(station.thumbnail(before), np.uint8), 1).shape == (96, 96, 3)


def test_arrays_and_paths_are_inspected_like_bytes(station: InspectionService, tmp_path: Path):
    image = good(3)
    path = write(tmp_path / "part.png", image)
    scores = {station.inspect(given).score for given in (image, png(image), path, str(path))}
    assert len(scores) == 1


def test_the_thumbnail_is_made_from_the_pixels_that_were_decoded(
    station: InspectionService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("blemish.station.service.load", None)
    inspection = station.inspect(good(1, 400, 500))
    station.close()
    shown = cv2.imdecode(np.frombuffer(station.thumbnail(inspection), np.uint8), 1)
    assert shown.shape == (205, 256, 3)


def test_a_large_map_is_stored_small(station: InspectionService):
    inspection = station.inspect(good(1, 500, 400))
    assert (inspection.height, inspection.width) == (500, 400)
    assert station.anomaly_map(inspection).shape == (320, 256)


def test_what_is_no_image_is_refused_and_not_stored(station: InspectionService, tmp_path: Path):
    with pytest.raises(ImageError, match="image: expected PNG, JPEG, BMP, TIFF or WebP, got 5 bytes"):
        station.inspect(b"hello")
    with pytest.raises(ImageError, match="damaged PNG"):
        station.inspect(cut_off(tmp_path / "cut.png", good(1)).read_bytes())
    with pytest.raises(ImageError, match="a file that can be read"):
        station.inspect(tmp_path / "none.png")
    with pytest.raises(InputError, match="part_id: expected at most 200 characters, got 300"):
        station.inspect(good(1), part_id="x" * 300)
    with pytest.raises(InputError, match="part_id: expected letters, digits and signs of one line"):
        station.inspect(good(1), part_id="a\nb")
    with pytest.raises(UnknownError, match="model: expected one in service: stripes, got 'other'"):
        station.inspect(good(1), model="other")
    assert station.records.counts(InspectionFilter())["total"] == 0
    assert not [path for path in (station.folder / "files").rglob("*") if path.is_file()]


def test_bytes_and_pixels_are_limited_before_anything_is_decoded(
    opened_station: Opener, monkeypatch: pytest.MonkeyPatch
):
    station = opened_station(max_bytes=1000, max_pixels=1000)
    monkeypatch.setattr("blemish.station.job.decode", None)
    with pytest.raises(ImageError, match=r"image: expected at most 1,000 bytes, got \d"):
        station.submit(good(1))
    with pytest.raises(ImageError, match="image: expected at most 1,000 pixels, got 96 x 96"):
        station.submit(png(np.zeros((96, 96, 3), np.uint8)))


def test_a_full_queue_refuses_and_what_was_accepted_is_answered(
    opened_station: Opener, monkeypatch: pytest.MonkeyPatch
):
    station, may_run, data = opened_station(n_workers=1, max_queue=2), threading.Event(), png(good(1))
    predict = Patchcore.predict
    monkeypatch.setattr(Patchcore, "predict", lambda self, image: may_run.wait(30) and predict(self, image))
    accepted = [station.submit(data) for _ in range(3)]
    with pytest.raises(BusyError, match="queue: expected at most 2 waiting images, got one more") as refused:
        station.submit(data)
    assert refused.value.retry_after_s >= 1
    assert station.n_pending == 3
    may_run.set()
    station.close()
    assert sorted(future.result().number for future in accepted) == [1, 2, 3]


def test_a_closed_station_accepts_nothing(station: InspectionService):
    station.close()
    with pytest.raises(BusyError, match="one that is stopping"):
        station.submit(good(1))
    station.close()


@pytest.mark.slow
def test_many_threads_get_each_their_own_answer(station: InspectionService, fitted: Patchcore):
    images = [good(seed) if seed % 2 else scratched(seed)[0] for seed in range(40, 60)]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda i: station.inspect(images[i], part_id=f"p{i}"), range(20)))
    assert [answer.part_id for answer in answers] == [f"p{i}" for i in range(20)]
    assert [answer.score for answer in answers] == pytest.approx([fitted.predict(x).score for x in images], rel=1e-5)
    assert sorted(answer.number for answer in answers) == list(range(1, 21))
    assert len({answer.id for answer in answers}) == 20
    assert station.database.first_broken_entry() is None


def test_two_stations_on_one_folder_are_refused(station: InspectionService):
    with pytest.raises(
        StationError, match="records: expected a folder of its own, got one that another station has open"
    ):
        InspectionService(station.folder)


def test_a_full_disk_is_named_and_nothing_is_stored(station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pathlib.Path.replace", full)
        with pytest.raises(SaveError, match="The disk is full"):
            station.inspect(good(1))
    assert station.records.counts(InspectionFilter())["total"] == 0
    assert not [path for path in (station.folder / "files").rglob("*") if path.is_file()]
    assert station.inspect(good(1)).number == 1


def test_a_folder_that_disappears_is_named(station: InspectionService):
    inspection = station.inspect(good(1))
    while station.n_pending:  # the thumbnail is made after the answer
        time.sleep(0.01)
    shutil.rmtree(station.folder / "files")
    with pytest.raises(StationError, match="image: expected a file that can be read"):
        station.image(inspection)
    with pytest.raises(StationError, match="map: expected a file that can be read"):
        station.anomaly_map(inspection)
    assert station.image(station.inspect(good(2)))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["pages in the middle", "no database at all"])
def test_a_damaged_database_is_built_again_from_the_files_beside_it(opened_station: Opener, damage: str):
    station = opened_station()
    answered = [station.inspect(good(seed), part_id=f"A-{seed}", who="x" * 300) for seed in range(6)]
    station.move_threshold("stripes", 0.3, who="eva")
    answered.append(station.inspect(scratched(1)[0], part_id="B-1"))
    station.review(answered[0].id, "good", who="eva", comment="fine")
    station.review(answered[1].id, "good", who="eva")
    station.undo_review(answered[1].id, who="eva")
    before = [station.records.get(one.id) for one in answered]
    threshold = station.model("stripes").deployment.threshold
    station.close()
    path = station.folder / "station.sqlite"
    data = bytearray(path.read_bytes())
    data[40_000:] = b"\xff" * (len(data) - 40_000)
    path.write_bytes(data if damage == "pages in the middle" else b"no database" * 100)
    station = opened_station()
    assert [station.records.get(one.id) for one in answered] == before
    assert station.model("stripes").deployment.threshold == threshold
    assert station.image(answered[0])
    assert station.inspect(good(9)).number == 8
    *_, rebuilt = [entry for entry in station.database.audit() if entry.action == "rebuilt"]
    detail = json.loads(rebuilt.detail)
    assert (detail["inspections"], detail["reviews"]) == (7, 1)
    assert (station.folder / detail["damaged"]).is_file()
    assert station.database.first_broken_entry() is None


def test_damage_that_is_seen_while_the_station_runs_is_named(station: InspectionService):
    assert not station.database.is_damaged
    for path in station.folder.glob("station.sqlite*"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(StationError, match="start the station again"):
        station.records.counts(InspectionFilter())
    assert station.database.is_damaged


def test_records_of_a_newer_version_are_refused(station: InspectionService):
    station.close()
    with sqlite3.connect(station.folder / "station.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StationError, match="records: expected records of version 4 or earlier, got version 99"):
        InspectionService(station.folder)


def test_settings_are_checked():
    with pytest.raises(InputError, match="max_queue: expected a number above 0, got 0"):
        StationSettings(max_queue=0)


KILLED = """
import os, sys
from blemish.station import InspectionService, StationSettings
from tests.images import good
settings = StationSettings(n_workers=2, threads=1, durable=False)
station = InspectionService(sys.argv[1], {"stripes": sys.argv[2]}, settings=settings)
pending = [station.submit(good(i), wait_s=60) for i in range(30)]
for i, future in enumerate(pending):
    print(future.result().id, flush=True)
    if i == 4:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_station_has_all_that_it_answered(saved: Path, tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "station"), str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    with InspectionService(tmp_path / "station") as station:
        for id_ in done.stdout.split():
            inspection = station.records.get(id_)
            assert hashlib.sha256(station.image(inspection)).hexdigest() == inspection.sha256
            assert station.anomaly_map(inspection).shape == (96, 96)
        assert len(done.stdout.split()) == 5
        assert not list(station.folder.rglob("*.part"))
        assert station.database.first_broken_entry() is None
        assert station.inspect(good(1)).model == "stripes"


def test_events_are_told(station: InspectionService):
    seen = []
    with station.events.listened(lambda kind, content: seen.append((kind, content))):
        inspection = station.inspect(good(1))
        station.review(inspection.id, "good", who="eva")
        station.move_threshold("stripes", 0.2, who="eva")
        station.close()
    assert [kind for kind, _ in seen] == ["inspection", "review", "model"]
    assert json.loads(json.dumps(seen[0][1])) == json.loads(json.dumps(inspection.to_dict()))
    assert station.events.n_listeners == 0


# --- models in service ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_moved_threshold_holds_and_survives_and_is_rolled_back(opened_station: Opener, saved: Path):
    station = opened_station()
    first = station.model(None).deployment
    before = station.inspect(good(1))
    moved = station.move_threshold("stripes", 0.4, who="eva")
    assert moved.threshold < first.threshold
    assert Patchcore.load(saved).threshold == first.threshold
    station = opened_station()
    again = station.inspect(good(1))
    assert (again.score, again.threshold) == (pytest.approx(before.score), moved.threshold)
    assert station.records.get(before.id).threshold == first.threshold
    back = station.roll_back("stripes", who="eva")
    assert (back.threshold, back.reason) == (first.threshold, "rolled back to 1")
    with pytest.raises(InputError, match="model: expected one that was changed in service, got the first stripes"):
        station.roll_back("stripes", who="eva")
    assert [entry.threshold for entry in station.deployments.history("stripes")] == [
        first.threshold, moved.threshold, first.threshold,
    ]  # fmt: skip


def test_another_model_takes_the_place_and_can_be_rolled_back(station: InspectionService, other_model: Path):
    first = station.model("stripes").deployment
    second = station.put_in_service("stripes", other_model, who="eva")
    assert second.digest != first.digest
    assert station.inspect(good(1)).digest == second.digest
    assert station.put_in_service("stripes", other_model, who="eva") == second
    assert station.roll_back("stripes", who="eva").digest == first.digest


def test_a_replaced_model_folder_does_not_change_what_is_in_service(
    station: InspectionService, saved: Path, other_model: Path, tmp_path: Path
):
    folder = shutil.copytree(saved, tmp_path / "model")
    station.put_in_service("copy", folder, who="eva")
    assert not station.model("copy").is_changed_on_disk
    score = station.inspect(good(1), model="copy").score
    shutil.rmtree(folder)
    assert station.model("copy").is_changed_on_disk
    shutil.copytree(other_model, folder)
    assert station.model("copy").is_changed_on_disk
    assert station.inspect(good(1), model="copy").score == score


def test_models_are_refused_with_a_reason(station: InspectionService, saved: Path, tmp_path: Path):
    with pytest.raises(InputError, match="model: expected a name of letters"):
        station.put_in_service("../x", saved, who="eva")
    with pytest.raises(ModelFileError):
        station.put_in_service("none", tmp_path / "none", who="eva")
    station.put_in_service("second", saved, who="eva")
    with pytest.raises(InputError, match="model: expected the name of one in service, got none, and there are 2"):
        station.inspect(good(1))
    with pytest.raises(UnknownError):
        station.move_threshold("none", 0.1, who="eva")
    with pytest.raises(InputError, match="false_positive_rate"):
        station.move_threshold("second", 1.5, who="eva")


@pytest.mark.slow
def test_a_threshold_is_tried_on_the_records_before_it_is_moved(station: InspectionService):
    for seed in range(8):
        station.inspect(good(100 + seed))
    bad = [station.inspect(scratched(seed)[0]) for seed in range(3)]
    station.review(bad[0].id, "defective", who="eva", defect_type="scratch")
    station.review(bad[1].id, "good", who="eva")
    present = station.model(None).detector.threshold
    shown = station.preview_threshold("stripes", threshold=present)
    assert shown.threshold == present
    assert (shown.n, shown.n_now_good, shown.n_now_defective) == (11, 0, 0)
    assert (shown.n_defective, shown.n_missed, shown.n_good, shown.n_false_positives) == (1, 0, 1, 1)
    loose = station.preview_threshold("stripes", false_positive_rate=0.9)
    scores = [inspection.score for inspection in station.records.page(InspectionFilter())]
    assert loose.n_now_defective == sum(loose.threshold < score <= present for score in scores)
    assert loose.n_above == sum(score > loose.threshold for score in scores)
    bins = station.histogram("stripes")
    assert sum(bins["calibration"]) == len(station.model(None).detector.calibration.scores)
    assert (sum(bins["good"]), sum(bins["defective"]), sum(bins["not reviewed"])) == (1, 1, 9)
    assert bins["is_cut"]  # at the scratched ones, whose scores are many times those of good parts
    assert bins["edges"][-1] < bad[0].score
    with pytest.raises(InputError, match="threshold: expected a threshold or a false positive rate"):
        station.preview_threshold("stripes")


@pytest.mark.slow
def test_the_upper_line_is_moved_and_holds(opened_station: Opener, two_lines: Path):
    station = opened_station()
    with pytest.raises(InputError, match="upper_threshold: expected none, as of this model's calibration, got 9"):
        station.move_threshold("stripes", 0.1, who="eva", upper_threshold=9.0)
    station.put_in_service("stripes", two_lines, who="eva")
    first, image = station.model(None).deployment, scratched(1)[0]
    before = station.inspect(image)
    assert first.upper_threshold is not None
    assert before.outcome == "defective"
    rate, high = first.false_positive_rate, before.score + 1
    shown = station.preview_threshold("stripes", threshold=first.threshold, upper_threshold=high)
    assert (shown.threshold, shown.upper_threshold) == (pytest.approx(first.threshold), high)
    assert (shown.n_changed, shown.n_above, shown.n_look_again) == (1, 1, 1)
    assert (shown.n_now_good, shown.n_now_defective) == (0, 0)
    station.review(before.id, "defective", who="eva")
    shown = station.preview_threshold("stripes", threshold=first.threshold, upper_threshold=high)
    assert (shown.n_defective, shown.n_missed, shown.n_defective_doubtful) == (1, 0, 1)
    moved = station.move_threshold("stripes", rate, who="eva", upper_threshold=high)
    assert (moved.threshold, moved.upper_threshold) == (pytest.approx(first.threshold), high)
    again = station.inspect(image)
    assert (again.outcome, again.upper_threshold) == ("look again", high)
    assert station.records.get(again.id) == again
    assert station.records.get(before.id).outcome == "defective"
    assert station.preview_threshold("stripes", threshold=first.threshold).n_changed == 2
    assert station.move_threshold("stripes", rate, who="eva").upper_threshold == first.upper_threshold
    assert station.roll_back("stripes", who="eva").upper_threshold == high
    station.close()
    with InspectionService(station.folder) as opened:  # without the model that the fixture puts in service
        assert opened.model(None).deployment.upper_threshold == high
        assert opened.inspect(image).outcome == "look again"
        check_wrong_upper(opened, first)


def check_wrong_upper(station: InspectionService, first: Deployment) -> None:
    rate = first.false_positive_rate
    for wrong in (first.threshold - 1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="upper_threshold: expected a number of at least the threshold"):
            station.move_threshold("stripes", rate, who="eva", upper_threshold=wrong)


# --- similar defects --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_past_defects_are_found_by_their_looks(station: InspectionService, other_model: Path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed: no store of defects")
    known = [station.inspect(scratched(seed)[0]) for seed in range(3)]
    for inspection in known[:2]:
        station.review(inspection.id, "defective", who="eva", defect_type="scratch")
    station.review(known[2].id, "defective", who="eva", defect_type="dent")
    station.undo_review(known[2].id, who="eva")
    assert station.defects.learn(station.records.get(known[0].id)).result() == ""
    shown = station.similar(station.inspect(scratched(7)[0]))
    assert {defect.id for defect in shown.defects} == {known[0].id, known[1].id}
    assert {defect.defect_type for defect in shown.defects} == {"scratch"}
    station.put_in_service("stripes", other_model, who="eva")
    assert len(station.similar(known[2]).defects) == 2


@pytest.mark.slow
def test_a_review_counts_also_where_no_defect_can_be_searched(
    station: InspectionService, monkeypatch: pytest.MonkeyPatch
):
    def no_store(*_: object, **__: object) -> None:
        raise StationError("no store")

    monkeypatch.setattr("blemish.station.defects.DefectStore", no_store)
    inspection = station.inspect(scratched(1)[0])
    station.review(inspection.id, "defective", who="eva")
    reviewed = station.records.get(inspection.id)
    assert station.defects.learn(reviewed).result() == "no store"
    assert reviewed.review is not None


@pytest.mark.slow
def test_old_inspections_are_looked_for_after_each_hundred(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.station.service.TIDIED_EVERY", 2)
    station = opened_station(n_workers=1, max_total_bytes=1)
    for seed in range(4):
        station.inspect(good(seed))
    station.close()
    with InspectionService(station.folder) as again:
        assert again.records.counts(InspectionFilter())["total"] == 0
