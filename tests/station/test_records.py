from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest

from blemish import InputError, MVTecAD, SaveError
from blemish.station import InspectionFilter, InspectionService, StationError, UnknownError
from blemish.station.inspections import iso_time
from tests.images import good, scratched, write

if TYPE_CHECKING:
    from tests.station.conftest import Opener

ALL = InspectionFilter()


def test_reviews_are_kept_and_taken_back(station: InspectionService):
    inspection = station.inspect(scratched(1)[0])
    assert inspection.review is None
    station.review(inspection.id, "good", who="eva")
    said = station.review(inspection.id, "defective", who="otto", defect_type="scratch", comment="deep")
    assert station.records.get(inspection.id).review == said
    assert (said.verdict, said.defect_type, said.comment, said.who) == ("defective", "scratch", "deep", "otto")
    back = station.undo_review(inspection.id, who="otto")
    assert back is not None
    assert (back.verdict, back.who) == ("good", "eva")
    assert station.undo_review(inspection.id, who="otto") is None
    with pytest.raises(InputError, match="review: expected an inspection that was reviewed, got one that was not"):
        station.undo_review(inspection.id, who="otto")


def test_reviews_are_refused_with_a_reason(station: InspectionService):
    inspection = station.inspect(good(1))
    with pytest.raises(InputError, match="verdict: expected good or defective, got 'bad'"):
        station.review(inspection.id, "bad", who="eva")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="defect_type: expected none for a good part, got 'scratch'"):
        station.review(inspection.id, "good", who="eva", defect_type="scratch")
    with pytest.raises(InputError, match="comment: expected at most 2000 characters"):
        station.review(inspection.id, "good", who="eva", comment="x" * 3000)
    with pytest.raises(UnknownError, match="inspection: expected an id that is in the records, got 'none'"):
        station.review("none", "good", who="eva")


def test_a_list_is_filtered_and_paged(station: InspectionService):
    for seed in range(5):
        station.inspect(good(seed), part_id=f"A{seed}")
    bad = station.inspect(scratched(9)[0], part_id="B1")
    station.review(bad.id, "defective", who="eva", defect_type="scratch")
    records = station.records
    assert [one.number for one in records.page(ALL)] == [6, 5, 4, 3, 2, 1]
    assert [one.number for one in records.page(ALL, before=4, limit=2)] == [3, 2]
    assert [one.number for one in records.page(ALL, after=4)] == [6, 5]
    for chosen, numbers in (
        (InspectionFilter(outcome="defective", part_id="B"), [6]),
        (InspectionFilter(part_id="A3"), [4]),
        (InspectionFilter(reviewed="yes"), [6]),
        (InspectionFilter(reviewed="defective", defect_type="scratch"), [6]),
        (InspectionFilter(reviewed="good"), []),
        (InspectionFilter(reviewed="no"), [5, 4, 3, 2, 1]),
        (InspectionFilter(model="none"), []),
        (InspectionFilter(since=bad.time), [6]),
        (InspectionFilter(until=bad.time), [5, 4, 3, 2, 1]),
    ):
        assert [one.number for one in records.page(chosen)] == numbers, chosen
    counts = records.counts(ALL)
    assert (counts["total"], counts["reviewed"]) == (6, 1)
    assert sum(counts[name] for name in ("good", "look again", "defective")) == 6
    assert records.defect_types("stripes") == ["scratch"]
    assert [row["number"] for row in records.recent_scores("stripes", 3)] == [4, 5, 6]
    middle = records.page(ALL, before=4, limit=1)[0]
    assert [records.get(id_ or "").number for id_ in records.neighbors_of(middle)] == [4, 2]
    assert records.neighbors_of(bad)[0] is None


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("outcome", "bad", "one of good, look again, defective"), ("reviewed", "maybe", "one of all, yes, no, good")],
)
def test_filters_are_refused_with_what_they_may_be(field: str, value: str, expected: str):
    with pytest.raises(InputError, match=f"{field}: expected {expected}"):
        InspectionFilter(**{field: value})


def test_a_page_has_a_limit(station: InspectionService):
    with pytest.raises(InputError, match="limit: expected 1 to 500, got 501"):
        station.records.page(ALL, limit=501)


def test_the_review_queue_starts_near_the_threshold_and_no_two_people_get_the_same(station: InspectionService):
    for seed in range(4):
        station.inspect(good(seed))
    station.inspect(scratched(9)[0])
    by_margin = sorted(station.records.page(ALL), key=lambda one: one.margin)
    first, second = station.records.next_to_review("eva"), station.records.next_to_review("otto")
    assert first is not None
    assert second is not None
    assert [first.number, second.number] == [one.number for one in by_margin[:2]]
    assert station.records.next_to_review("eva") == first
    station.review(first.id, "good", who="eva")
    third = station.records.next_to_review("eva", model="stripes")
    assert third is not None
    assert third.number == by_margin[2].number
    assert station.records.next_to_review("eva", model="none") is None


def test_a_claim_ends_also_if_the_clock_goes_back(station: InspectionService, monkeypatch: pytest.MonkeyPatch):
    inspection = station.inspect(good(1))
    assert station.records.next_to_review("eva") is not None
    assert station.records.next_to_review("otto") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 5000)
    assert station.records.next_to_review("otto") == station.records.get(inspection.id)
    assert station.inspect(good(2)).number == 2
    assert [one.number for one in station.records.page(ALL)] == [2, 1]


# --- audit ------------------------------------------------------------------------------------------------------------


def test_the_audit_holds_who_did_what_with_which_model(station: InspectionService):
    inspection = station.inspect(good(1), who="camera")
    station.review(inspection.id, "good", who="eva")
    station.move_threshold("stripes", 0.2, who="admin")
    entries = list(station.database.audit())
    assert [(entry.who, entry.action) for entry in entries] == [
        ("station", "put in service"), ("camera", "inspected"), ("eva", "reviewed"), ("admin", "put in service"),
    ]  # fmt: skip
    assert json.loads(entries[1].detail)["digest"] == inspection.digest
    assert [entry.number for entry in station.database.audit(after=2, limit=1)] == [3]
    assert station.database.first_broken_entry() is None


def test_the_audit_can_only_be_appended_to_and_a_change_is_seen(station: InspectionService):
    for seed in range(3):
        station.inspect(good(seed))
    for change in ("UPDATE audit SET who = 'x' WHERE number = 2", "DELETE FROM audit WHERE number = 2"):
        with pytest.raises(StationError, match="only appended to"), station.database.transaction() as connection:
            connection.execute(change)
    path = station.folder / "station.sqlite"
    station.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER audit_is_not_changed")
        connection.execute("UPDATE audit SET who = 'nobody' WHERE number = 3")
    connection.close()
    with InspectionService(station.folder) as again:
        assert again.database.first_broken_entry() == 3


# --- retention --------------------------------------------------------------------------------------------------------


def test_old_inspections_go_and_reviewed_ones_stay(opened_station: Opener, monkeypatch: pytest.MonkeyPatch):
    station = opened_station(max_age_days=10)
    old, reviewed = station.inspect(good(1)), station.inspect(good(2))
    station.review(reviewed.id, "good", who="eva")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11 * 86_400)
    new = station.inspect(good(3))
    removed = station.remove_old()
    assert (removed.n, removed.n_bytes, removed.warning) == (1, old.n_bytes, "")
    assert [one.id for one in station.records.page(ALL)] == [new.id, reviewed.id]
    assert not station.files.image(old.id, "PNG").exists()
    assert not station.files.map(old.id).exists()
    assert station.image(reviewed)
    (entry,) = [entry for entry in station.database.audit() if entry.action == "removed"]
    assert json.loads(entry.detail) == {"ids": [old.id], "reason": "age"}
    assert station.remove_old().n == 0


def test_the_size_is_kept_and_too_many_reviewed_ones_are_said(opened_station: Opener):
    station = opened_station(max_total_bytes=1)
    first, second = station.inspect(good(1)), station.inspect(good(2))
    station.review(first.id, "good", who="eva")
    removed = station.remove_old()
    assert (removed.n, removed.n_bytes, removed.n_bytes_left) == (1, second.n_bytes, first.n_bytes)
    assert "reviewed are never removed unasked" in removed.warning
    assert station.remove_old(reviewed_too=True).n == 1
    assert station.records.counts(ALL)["total"] == 0


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reviewed(station: InspectionService) -> InspectionService:
    """A station with a good part, a scratch, and an inspection that was not reviewed."""
    for image, verdict, kind in ((good(1), "good", ""), (scratched(2)[0], "defective", "scratch / deep")):
        station.review(station.inspect(image, part_id="=1+1").id, verdict, who="eva", defect_type=kind)  # type: ignore[arg-type]
    station.inspect(good(3))
    return station


def test_export_as_csv(reviewed: InspectionService):
    rows = list(csv.DictReader(io.StringIO(reviewed.export_csv(ALL))))
    assert [row["number"] for row in rows] == ["3", "2", "1"]
    inspection = reviewed.records.page(ALL)[1]
    assert (rows[1]["verdict"], rows[1]["defect_type"]) == ("defective", "scratch / deep")
    assert (rows[1]["time"], rows[1]["sha256"]) == (iso_time(inspection.time), inspection.sha256)
    assert float(rows[1]["score"]) == inspection.score
    assert rows[1]["part_id"] == "'=1+1"
    assert rows[0]["verdict"] == ""


def test_export_as_coco(reviewed: InspectionService, tmp_path: Path):
    assert reviewed.export_coco(tmp_path / "coco", ALL).n == 3
    document = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert {kind["name"] for kind in document["categories"]} == {"defect", "scratch / deep"}
    images = {image["id"]: image for image in document["images"]}
    assert len(images) == 3
    inspection = reviewed.records.page(ALL)[1]
    number = next(kind["id"] for kind in document["categories"] if kind["name"] == "scratch / deep")
    first = next(one for one in document["annotations"] if one["category_id"] == number)
    assert images[first["image_id"]]["inspection"] == inspection.id
    assert first["bbox"] == inspection.details["regions"][0]["box"]
    assert len(first["segmentation"][0]) == 2 * len(inspection.details["regions"][0]["contour"])
    for image in images.values():
        assert cv2.imread(str(tmp_path / "coco" / image["file_name"])).shape == (96, 96, 3)


def test_export_as_folders_that_a_data_set_reads(reviewed: InspectionService, tmp_path: Path):
    assert reviewed.export_folders(tmp_path / "folders", ALL).n == 2
    root = tmp_path / "folders" / "stripes"
    (mask,) = (root / "ground_truth" / "scratch_deep").iterdir()
    (image,) = (root / "test" / "scratch_deep").iterdir()
    assert mask.name == f"{image.stem}_mask.png"
    assert cv2.imread(str(mask), 0).any()
    (root / "train" / "good").mkdir(parents=True)
    (root / "train" / "good" / "0.png").write_bytes(image.read_bytes())
    samples = MVTecAD(tmp_path / "folders", "stripes").test
    assert {sample.defect for sample in samples} == {"good", "scratch_deep"}
    assert [sample.mask_path for sample in samples if sample.is_defective] == [mask]


def test_no_type_of_defect_means_another_role_where_it_is_read(station: InspectionService, tmp_path: Path):
    kinds = ("ok", "normal wear", "Good", "label", "images", "<5 mm", ">5 mm")
    for seed, kind in enumerate(kinds):
        station.review(station.inspect(scratched(seed)[0]).id, "defective", who="eva", defect_type=kind)
    assert station.export_folders(tmp_path / "folders", ALL).n == len(kinds)
    write(tmp_path / "folders" / "stripes" / "train" / "good" / "0.png", good(0))
    samples = MVTecAD(tmp_path / "folders", "stripes").test
    assert all(sample.is_defective and sample.mask_path is not None for sample in samples)
    types = json.loads((tmp_path / "folders" / "types.json").read_text())
    assert {types[sample.defect] for sample in samples} == set(kinds)


def test_an_export_overwrites_nothing_and_names_what_is_gone(reviewed: InspectionService, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(SaveError, match="export: expected a new or empty folder, got one that holds files"):
        reviewed.export_coco(tmp_path / "full", ALL)
    gone = reviewed.records.page(ALL)[0]
    reviewed.files.remove(gone.id, gone.format)
    done = reviewed.export_coco(tmp_path / "coco", ALL)
    assert (done.n, done.left_out) == (2, (f"{gone.id}: its image is gone.",))
