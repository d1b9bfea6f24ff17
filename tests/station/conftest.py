"""A station with one small model, in a folder of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish.station import InspectionService, StationError, StationSettings
from tests.images import small_patchcore

if TYPE_CHECKING:
    from blemish import Patchcore

Opener = Callable[..., InspectionService]


@pytest.fixture(autouse=True)
def _no_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the store of defects alone in quick tests: encoding takes a second."""
    if request.node.get_closest_marker("slow") is None:
        for name in ("_learn", "_relabel"):
            monkeypatch.setattr(f"blemish.station.defects.Defects.{name}", lambda *_: "")
        monkeypatch.setattr("blemish.station.defects.Defects.look", no_look)


def no_look(*_: object) -> None:
    """Stand in for the vector of an inspection where there is no store."""
    raise StationError("no store in quick tests")


@pytest.fixture
def opened_station(tmp_path: Path, saved: Path) -> Iterator[Opener]:
    """Opens one station again and again; each opening closes the one before."""
    stations: list[InspectionService] = []

    def make(**settings: Any) -> InspectionService:
        for station in stations:
            station.close()
        # Tests of learning name the parts that they keep apart.
        chosen = StationSettings(**{"n_workers": 2, "threads": 1, "durable": False, "keep_every": None, **settings})
        stations.append(InspectionService(tmp_path / "station", {"stripes": saved}, settings=chosen))
        return stations[-1]

    yield make
    for station in stations:
        station.close()


@pytest.fixture
def station(opened_station: Opener) -> InspectionService:
    """A new station."""
    return opened_station()


@pytest.fixture(scope="session")
def other_model(fitted: Patchcore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with another hash than `saved`."""
    other = copy.copy(fitted)
    other.set_false_positive_rate(0.3)
    return other.save(tmp_path_factory.mktemp("other") / "model")


@pytest.fixture(scope="session")
def two_lines(good_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an upper threshold."""
    model = small_patchcore(calibration="tail").fit(good_paths)
    return model.save(tmp_path_factory.mktemp("two-lines") / "model")
