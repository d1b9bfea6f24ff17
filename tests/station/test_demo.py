from __future__ import annotations

import time
from pathlib import Path

import pytest

from blemish.station import InspectionFilter, InspectionService
from blemish.station.demo import DemoLine, prepare
from tests.images import small_patchcore


@pytest.mark.slow
def test_the_demo_has_models_parts_and_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "SIZE_PX": 96,
        "N_TRAIN": 8,
        "N_TEST": 3,
        "N_DEFECTIVE": 2,
        "N_FIRST": 3,
        "PAUSE_S": 60.0,
    }.items():
        monkeypatch.setattr(f"blemish.station.demo.{name}", value)
    monkeypatch.setattr("blemish.station.demo.Patchcore", small_patchcore)
    models = prepare(tmp_path)
    assert set(models) == {"tile", "grid"}
    saved = [(place / "model.json").stat().st_mtime_ns for place in models.values()]
    assert prepare(tmp_path) == models
    assert [(place / "model.json").stat().st_mtime_ns for place in models.values()] == saved
    with InspectionService(tmp_path / "records", models) as station:
        line = DemoLine(station, tmp_path)
        end = time.monotonic() + 60
        while station.records.counts(InspectionFilter())["total"] < 8:
            assert time.monotonic() < end, "no parts came"
            time.sleep(0.05)
        line.close()
        parts = [one.part_id for one in station.records.page(InspectionFilter())]
        assert parts[:2] == ["G-0004", "T-0004"]
