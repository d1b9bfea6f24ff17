"""Good images that are kept to compare versions, and never learnt from."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest

from blemish import Patchcore
from blemish.evaluation.thresholds import Count
from blemish.station.kept import _worse, compared, is_kept
from blemish.types import no_progress
from tests.images import good, scratched, write, write_goods
from tests.images import small_patchcore as small
from tests.station.web_client import called

if TYPE_CHECKING:
    from pathlib import Path

    from blemish.station import InspectionService
    from tests.station.conftest import Opener


def test_one_in_so_many_is_kept_whoever_reviews_it_when():
    kept = [number for number in range(1000) if is_kept(f"A-{number}", "", 5)]
    assert 160 < len(kept) < 240
    assert [is_kept("", f"{number:064x}", 5) for number in range(50)] != [False] * 50
    assert is_kept("A-1", "one image", 2) == is_kept("A-1", "another of the same part", 2)
    assert not any(is_kept(f"A-{number}", "", None) for number in range(100))


def reviewed(station: InspectionService, n: int) -> tuple[list[str], list[str]]:
    """Inspect and call parts good; return the SHA-256 of the images that may be learnt, and of the kept ones."""
    sides: tuple[list[str], list[str]] = [], []
    for seed in range(n):
        inspection = station.inspect(good(50 + seed), model="stripes", part_id=f"P-{seed}")
        station.review(inspection.id, "good", who="eva")
        sides[is_kept(inspection.part_id, inspection.sha256, 2)].append(inspection.sha256)
    return sides


@pytest.mark.slow
def test_kept_images_are_not_taken_from_the_line_and_left_out_of_uploads(
    opened_station: Opener, monkeypatch: pytest.MonkeyPatch
):
    station = opened_station(keep_every=2)
    free, kept = reviewed(station, 8)
    assert station.teaching.n_good("stripes") == (len(free), len(kept))
    assert min(len(free), len(kept)) >= 2
    assert sorted(one.sha256 for one in station.teaching.kept("stripes")) == sorted(kept)
    assert station.teaching.take_from_line("stripes", model="stripes", n=100) == len(free)
    assert station.teaching.images("stripes") == sorted(sha256[:24] for sha256 in free)
    for inspection in station.teaching.kept("stripes"):
        station.teaching.add("stripes", station.image(inspection))  # as someone who exported them would
    seen = []
    monkeypatch.setattr("blemish.station.teaching.partial", lambda _, samples: seen.extend(samples))
    monkeypatch.setattr("blemish.station.teaching.Teaching._begin", lambda *_, **facts: facts)
    facts = station.teaching.fit("stripes", who="eva")
    assert [sample.path.stem for sample in seen] == sorted(sha256[:24] for sha256 in free)
    assert facts == {"reason": "taught", "images": len(free), "kept_apart": len(kept)}
    with called(station) as client:
        text = client.get("/teach?name=stripes").text
        assert f"one in 2 is kept to compare versions, and never learnt from: {len(kept)} so far" in text
        assert f"Learn from reviews ({len(free)})" in text
        shown = [client.get(f"/inspections/{one.id}").text for one in station.teaching.kept("stripes")]
        assert all("This part is kept to compare versions" in page for page in shown)


@pytest.mark.slow
def test_what_is_worse_is_said_in_words(fitted: Patchcore, tmp_path: Path):
    loose, strict = copy.copy(fitted), copy.copy(fitted)
    loose.set_false_positive_rate(0.9)
    strict.set_false_positive_rate(0.001)
    kept = [write(tmp_path / f"{seed}.png", good(100 + seed)) for seed in range(6)]
    bad = [write(tmp_path / "bad.png", scratched(1)[0])]
    worse = compared(strict, loose, kept[:2], bad, kept, progress=no_progress)
    assert (worse["n_good"], worse["n_defective"], worse["n_kept"]) == (2, 1, 6)
    first, *_ = worse["worse"]
    now = worse["kept"]["now"]
    assert first.startswith(f"Worse than the version in service: {worse['kept']['new']} of 6 good parts kept apart")
    assert f"are called defective, not {now}. By chance that happens at 90 % too." in first
    assert compared(loose, strict, kept[:2], bad, kept, progress=no_progress)["worse"] == []
    (text,) = _worse("good parts kept apart are called defective", Count(1, 40), Count(20, 40), fitted)
    assert "20 of 40 good parts kept apart are called defective, not 1. That is more than the stated" in text
    (text,) = _worse("defective parts that people reviewed are missed", Count(0, 4), Count(1, 4), None)
    assert text == "Worse than the version in service: 1 of 4 defective parts that people reviewed are missed, not 0."


@pytest.mark.slow
def test_a_version_that_learns_is_compared_on_kept_images(opened_station: Opener, tmp_path: Path):
    station = opened_station(keep_every=2)
    model = small().fit(write_goods(tmp_path / "train", 8)).save(tmp_path / "model")
    station.put_in_service("stripes", model, who="eva")
    free, kept = reviewed(station, 8)
    station.teaching.learn("stripes", who="eva")
    assert station.teaching._thread is not None
    station.teaching._thread.join()
    fit = station.teaching.state("stripes")["fit"]
    assert fit["error"] == ""
    assert fit["result"]["comparison"]["n_kept"] == len(kept)
    learnt = Patchcore.load(station.folder / "teach" / "stripes" / "model").fitted.training
    assert set(free) <= set(learnt.sha256s)
    assert not set(kept) & set(learnt.sha256s)
    *_, entry = [one for one in station.database.audit() if one.action == "fitted"]
    assert json.loads(entry.detail)["images"] == len(free)
